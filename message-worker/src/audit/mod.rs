//! The auditor: compares the logs, rows and heads of a live system from outside. It writes nothing.
//!
//! The checkpoint is read first. Everything at or below it has its rows, and heads that are read later are no lower. So
//! writes during the audit cause no false alarm. Whatever looks wrong nevertheless is read again after two seconds, and
//! is reported if it is still the same.

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

/// Rows of a conversation that are read by default: more than most conversations have, and a few megabytes.
pub const ROWS_DEFAULT: usize = 10_000;
/// The most rows of a conversation that can be requested. They are also read where the log has so many commands of it.
/// They take some 50 MB.
pub const ROWS_MAX: usize = 100_000;
/// The most conversations that can be named.
pub const NAMED_MAX: usize = 1_000;
/// The pause before a second look at what looks wrong: longer than a write of a checkpoint or a head, or a purge,
/// takes.
const BEFORE_ANOTHER_LOOK: Duration = Duration::from_secs(2);

/// What an audit looks at.
#[derive(Debug, Clone)]
pub struct Options {
    /// The number of partitions of the command log. It must be the workers' number.
    pub partitions: u32,
    /// How many of the newest rows of each conversation are read, up to [`ROWS_MAX`]. More are read where the log has
    /// commands below them.
    pub rows: usize,
    /// Conversations that are audited even if the log has no commands of them, up to [`NAMED_MAX`].
    pub conversations: Vec<ConversationId>,
}

/// An auditor: what it reads from, and what it looks at.
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

    /// The same auditor with another pause before a second look.
    #[cfg(test)]
    pub(crate) fn looking_again_after(self, pause: Duration) -> Auditor {
        Auditor { before_another_look: pause, ..self }
    }

    /// Audits all partitions, one after the other. The report lists what could not be read.
    #[expect(clippy::disallowed_methods, reason = "the report shows when the audit ended")]
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
