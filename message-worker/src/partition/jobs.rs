//! Jobs: what a partition's task reads and writes beside its loop, and what the loop does with their results.

use super::consume::Consumer;
use super::reading::Reading;
use crate::context::StartOver;
use crate::core::conversation;
use crate::ownership::load::{LoadError, Loaded, Purpose};
use crate::ownership::log_generation::{self, Landmark};
use crate::store::{Author, SentRow, StoreError};
use carillon_proto::id::ConversationId;
use carillon_proto::position::Position;
use carillon_proto::wire;
use carillon_runtime::bus::{BusError, LogReader};
use carillon_runtime::time::steady_ms;

/// What a job returns.
pub(crate) enum Done {
    Loaded(ConversationId, Purpose, Box<Result<Loaded, LoadError>>),
    Sender {
        id: ConversationId,
        /// The instance of the conversation for which the rows were read. A conversation that is loaded again is
        /// another instance.
        instance: u64,
        sender: Author,
        rows: Vec<SentRow>,
    },
    First(ConversationId, conversation::Need, Option<Box<wire::Event>>),
    Skipped(Position),
    /// From this position on, the commands of the conversation are refused, and that is recorded. `None`: nothing was
    /// recorded, because the store cannot be read at all, or because the conversation can be read again.
    Suspended(ConversationId, Option<Position>),
    /// Whether a suspended conversation can be read again.
    Probed(ConversationId, Result<(), LoadError>),
    /// The end of the conversation's suspension is recorded, at this position.
    Resumed(ConversationId, Position),
    /// The rows are written. `participants`: so are the changes of participants, or there were none.
    Committed {
        participants: bool,
    },
    /// The lease or the tenure was lost, so the group is not acknowledged.
    Lost,
    Flushed,
    Purged,
    /// The entry that raises the partition's version was appended, or could not be appended.
    Raised,
    /// A gateway has got its reply about outcomes.
    Replied,
    Checked(Landmark, Result<bool, BusError>),
    /// Whether this worker still holds the tenure.
    Confirmed(Result<bool, StoreError>),
    Reader(Result<Box<dyn LogReader>, StartOver>),
    /// The time at which the log took its newest entry, if there are entries to work.
    Newest(Option<u64>),
}

impl Consumer<'_> {
    /// Runs a job beside the loop.
    pub(crate) fn job(&mut self, job: impl Future<Output = Done> + Send + 'static) {
        self.jobs.push(Box::pin(job));
    }

    /// Handles the result of a job.
    pub(super) async fn done(&mut self, done: Done) -> Result<(), StartOver> {
        match done {
            Done::Loaded(id, purpose, loaded) => return self.loaded(id, purpose, *loaded),
            Done::Sender { id, instance, sender, rows } => self.sender(id, instance, sender, rows),
            Done::First(id, need, event) => self.first(id, need, event.as_deref()),
            Done::Skipped(position) => self.skipped(position),
            Done::Suspended(id, from) => self.suspended(id, from),
            Done::Probed(id, outcome) => return self.probed(id, outcome),
            Done::Resumed(id, until) => self.resumed(&id, until),
            Done::Committed { participants } => return self.committed(participants).await,
            Done::Lost => {
                self.displaced = true;
                return Err(StartOver::because("the lease or the tenure was lost before the acks"));
            }
            Done::Flushed => {
                self.flush.done(steady_ms());
                let checkpointed = self.ledger.incarnation.position(self.flush.checkpointed(), u32::MAX);
                self.ledger.suspended.worked(checkpointed);
                self.purge();
                self.gathered();
            }
            Done::Purged => self.purging = false,
            Done::Raised | Done::Replied => {}
            Done::Checked(landmark, held) => {
                self.checking = false;
                if held == Ok(false) {
                    tracing::error!(
                        partition = self.context.partition,
                        sequence = landmark.sequence,
                        "the log no longer holds an entry that was read from it"
                    );
                    return Err(log_generation::forgotten(self.ledger.incarnation.number));
                }
            }
            Done::Confirmed(confirmed) => {
                self.confirming = false;
                if confirmed == Ok(false) {
                    self.displaced = true;
                    return Err(StartOver::because("another worker has taken the partition"));
                }
            }
            Done::Reader(reader) => self.reader = Reading::Open(reader?),
            Done::Newest(time_ms) => {
                time_ms.into_iter().for_each(|time_ms| self.log_clock.read(time_ms, steady_ms()));
            }
        }
        Ok(())
    }
}
