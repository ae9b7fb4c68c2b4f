//! The stored state of a partition: which worker owns it, in which incarnation, and how far its log is worked.

use carillon_proto::id::{Tag, WorkerId};
use carillon_proto::position::{Incarnation, Position};

/// A partition's tenure and its last checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// The log's current incarnation and its owner. `None` if the partition never had an owner.
    pub tenure: Option<Tenure>,
    /// The last checkpoint. `None` before the first one.
    pub checkpoint: Option<Checkpoint>,
}

impl PartitionState {
    /// The log's current incarnation.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.tenure.as_ref().map(|tenure| tenure.incarnation)
    }
}

/// The ownership record of a partition: the log's current incarnation, and the worker that may have writes under way in
/// it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    /// The log's current incarnation.
    pub incarnation: Incarnation,
    /// Rises each time a worker takes the partition. Gateways listen to the owner with the highest epoch.
    pub epoch: u64,
    /// The worker that took the partition and has not yet recorded that all its writes are in the store. `None` after
    /// the tenure was given back, and always for a log that belongs to one process and dies with it.
    pub owner: Option<Owner>,
}

/// Identifies an owner: the worker's id, its lease, and a counter. Each time that a worker takes a partition, it is
/// another owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner(String);

impl Owner {
    /// The owner that a worker becomes by taking a partition under this lease. `start` is another number each time.
    pub fn new(worker: &WorkerId, lease: u64, start: u64) -> Owner {
        Owner(format!("{worker}/{lease}/{start}"))
    }

    /// An owner from its stored form.
    pub fn stored(stored: String) -> Owner {
        Owner(stored)
    }

    /// The form in which it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The worker's id.
    pub fn worker(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

/// How far a partition's log is worked. Everything up to this position has its rows and projections and was fanned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The position of the last command of the last entry that was applied.
    pub position: Position,
    /// The tag of that entry.
    pub tag: Tag,
    /// Write timestamp.
    pub timestamp_us: i64,
    /// The version of the state machine that applies the entries after it.
    pub version: u32,
}
