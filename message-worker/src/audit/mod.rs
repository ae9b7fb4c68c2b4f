//! The auditor: compares logs, rows and heads of a live system from outside, and writes to none of them.
//!
//! A checkpoint says what was worked, and is read before everything else: whatever lies at or below it has its rows,
//! and heads that are read later are no lower. So a system that is written to meanwhile gives no false alarm; what
//! looks wrong all the same is looked at again after two seconds, and counts if it is still the same.

use crate::store::Store;
use carillon_proto::id::ConversationId;
use carillon_proto::partition::of_conversation;
use carillon_runtime::bus::Bus;
use carillon_runtime::time::wall_ms;
use std::sync::Arc;
use std::time::Duration;

mod conversation;
mod partition;
mod report;

pub use crate::core::audit::{Finding, Kind};
pub use report::{Counts, PartitionReport, Report};

/// Rows of a conversation that are read when nobody says otherwise: more than most have, a few megabytes.
pub const ROWS_DEFAULT: usize = 10_000;
/// Rows of a conversation that can be asked for, and that are read where the log has so many commands of it: some
/// 50 MB for one conversation.
pub const ROWS_MAX: usize = 100_000;
/// Conversations that can be named.
pub const NAMED_MAX: usize = 1_000;
/// Before what looks wrong is looked at again: longer than a checkpoint, a head or a purge is under way.
const BEFORE_ANOTHER_LOOK: Duration = Duration::from_secs(2);

/// What is to be audited.
#[derive(Debug, Clone)]
pub struct Options {
    /// Partitions of the command log; must be as many as the workers have.
    pub partitions: u32,
    /// The newest rows of each conversation that are read, up to [`ROWS_MAX`]; more where the log has commands below.
    pub rows: usize,
    /// Conversations that are looked at whether the log has commands of them or not, up to [`NAMED_MAX`].
    pub conversations: Vec<ConversationId>,
}

/// An auditor: what it reads from, and what it is to look at.
#[derive(Clone)]
pub struct Auditor {
    bus: Arc<dyn Bus>,
    store: Arc<dyn Store>,
    options: Options,
    before_another_look: Duration,
}

impl Auditor {
    /// An auditor of the system behind this bus and this store.
    pub fn new(bus: Arc<dyn Bus>, store: Arc<dyn Store>, options: Options) -> Auditor {
        Auditor { bus, store, options, before_another_look: BEFORE_ANOTHER_LOOK }
    }

    /// One that does not wait so long before it looks again.
    #[cfg(test)]
    pub(crate) fn looking_again_after(self, pause: Duration) -> Auditor {
        Auditor { before_another_look: pause, ..self }
    }

    /// Looks at all partitions, one after the other. What cannot be read is in the report.
    #[expect(clippy::disallowed_methods, reason = "the report is shown")]
    pub async fn run(&self) -> Report {
        let mut report = Report::default();
        for partition in 0..self.options.partitions {
            report.add(self.partition(partition).await);
        }
        report.finished_ms = wall_ms();
        report
    }

    fn named(&self, partition: u32) -> Vec<ConversationId> {
        let ours = |id: &&ConversationId| of_conversation(id, self.options.partitions) == partition;
        self.options.conversations.iter().filter(ours).cloned().collect()
    }
}
