//! The ways in which the in-memory store can fail.

/// A kind of call that can fail or wait.
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
    /// An error although nothing was written.
    Lost,
    /// An error although everything was written.
    Lied,
    /// An error after the first half was written.
    Half,
    /// The call panics, as with a bug.
    Panic,
}
