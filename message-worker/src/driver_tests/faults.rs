//! The ways in which a store in memory fails.

/// A call that can fail or wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Call {
    Append,
    Project,
    Checkpoint,
    Skip,
    Seal,
    Load,
    Read,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing was done.
    Lost,
    /// All was done.
    Lied,
    /// The first half was done.
    Half,
    /// A bug: the call panics.
    Panic,
}
