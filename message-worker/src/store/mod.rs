//! The store of conversations: event rows, which are the commit, and projections derived from them.
//!
//! Two implementations keep the promises in these docs: [`embedded`] on redb and [`scylla`] on CQL.
//! `tests/tests/contracts/store` runs one suite against both. Every write carries a timestamp that follows from its
//! log position, and repeating a write changes nothing. Of two writes to one cell the higher timestamp wins, in
//! whichever order they arrive.

use async_trait::async_trait;
use bytes::Bytes;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::position::{Incarnation, Position};

use crate::limits::GROUP_COMMANDS_MAX;

pub mod embedded;
pub mod scylla;

pub use crate::core::author::Author;
pub use crate::core::partition_state::{Checkpoint, Owner, PartitionState, Tenure};
pub use crate::core::rows::{EventRow, Projection, Seal, SentRow};
pub use crate::core::suspended::Suspension;
pub use crate::core::versions::FIRST_VERSION;

/// How many rows above its last counted row a seal makes void. Workers of earlier incarnations cannot have written more
/// there: a worker writes a group only after all rows of the previous group are in the store, and a group has at most
/// this many commands.
pub const SEALED_ROWS_MAX: u64 = GROUP_COMMANDS_MAX as u64;

/// A call to the store failed. For a write, the outcome is unknown: repeat the same write with the same timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("store: {0}")]
pub struct StoreError(pub String);

/// The stored state from which loading a conversation starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadedConversation {
    /// The head's blob, if a head was ever written. It is read before the participants. Participants are written before
    /// the head, so the list has every change that the head covers. If it also has later changes, the rows above the
    /// head repeat them.
    pub head: Option<Bytes>,
    /// Stored participants, in ascending order.
    pub participants: Vec<UserId>,
}

/// The store of conversations. The docs of its methods are the contract that every implementation keeps.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Writes event rows durably (CQL: at QUORUM; embedded: synced to disk). When it returns `Ok`, every row is
    /// committed. The rows of one conversation must be in ascending order of seq.
    ///
    /// # Errors
    /// The outcome is unknown for each row: write the same rows again.
    async fn append(&self, rows: Vec<EventRow>) -> Result<(), StoreError>;

    /// Reads rows of a conversation with `seq > after_seq`, in ascending order, at most `limit`. The rows start at
    /// `after_seq + 1` and have no gap: reading ends before the first missing seq. Seq 0 is never returned.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn events_after(
        &self,
        conversation: &ConversationId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError>;

    /// Reads the newest `limit` rows of a conversation with `1 <= seq < before_seq`, in ascending order.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn events_before(
        &self,
        conversation: &ConversationId,
        before_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError>;

    /// Reads the row at one seq. Seq 0 is allowed.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn event(&self, conversation: &ConversationId, seq: u64) -> Result<Option<EventRow>, StoreError>;

    /// Seals a conversation by a lightweight transaction. `next` comes into force if the seal in force is `previous`,
    /// or if there is none. Returns the seal that is in force afterwards; it is another worker's if that one came
    /// first.
    ///
    /// If the returned seal was decided in `next`'s incarnation, the rows that it does not count are void from then on:
    /// the creation, and seqs up to [`SEALED_ROWS_MAX`] above the seal. This holds for rows with write timestamps below
    /// `timestamp_us`, whether they are in the store already or arrive later. `timestamp_us` lies above all timestamps
    /// of earlier incarnations and below all of `next`'s incarnation. The result is durable when the call returns.
    ///
    /// # Errors
    /// The outcome is unknown: load and seal again.
    async fn seal(
        &self,
        conversation: &ConversationId,
        previous: Option<Seal>,
        next: Seal,
        timestamp_us: i64,
    ) -> Result<Seal, StoreError>;

    /// Reads the seal of a conversation. It is at least as new as every seal that [`Store::seal`] returned before this
    /// call began. The read does not conflict with lightweight transactions.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn known_seal(&self, conversation: &ConversationId) -> Result<Option<Seal>, StoreError>;

    /// Writes projections, in order. Deletions carry timestamps too. In the embedded store the projections are not yet
    /// durable when the call returns, but they become durable no later than any checkpoint or row that is written after
    /// them.
    ///
    /// # Errors
    /// The outcome is unknown: write the same projections again.
    async fn project(&self, projections: Vec<Projection>) -> Result<(), StoreError>;

    /// Reads the state from which loading a conversation starts: first the head, then the participants.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn load(&self, conversation: &ConversationId) -> Result<LoadedConversation, StoreError>;

    /// Reads the newest `limit` accepted client ids of an author in a conversation, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn sent(
        &self,
        conversation: &ConversationId,
        sender: &Author,
        limit: usize,
    ) -> Result<Vec<SentRow>, StoreError>;

    /// Reads the ids of conversations in which a user is a stored participant, in ascending order, above `cursor`, at
    /// most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn conversations_of(
        &self,
        user: &UserId,
        cursor: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>, StoreError>;

    /// Reads a partition's tenure and checkpoint.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn partition(&self, partition: u32) -> Result<PartitionState, StoreError>;

    /// Reads a partition's tenure: the result of the last change, whichever worker made it.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn tenure(&self, partition: u32) -> Result<Option<Tenure>, StoreError>;

    /// Reads the current incarnation of a partition's log. It is at least as new as every tenure that
    /// [`Store::change_tenure`] returned before this call began. Unlike [`Store::tenure`], the read does not conflict
    /// with lightweight transactions, so every worker that answers reads may call it.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn incarnation(&self, partition: u32) -> Result<Option<Incarnation>, StoreError> {
        Ok(self.tenure(partition).await?.map(|tenure| tenure.incarnation))
    }

    /// Changes a partition's tenure by a lightweight transaction, if the tenure in force is still `previous`. The
    /// change starts a new incarnation, takes the current one, or gives it back. Returns the tenure that is in force
    /// afterwards; it is another worker's if that one came first.
    ///
    /// # Errors
    /// The outcome is unknown: read the tenure again.
    async fn change_tenure(
        &self,
        partition: u32,
        previous: Option<Tenure>,
        next: Tenure,
    ) -> Result<Tenure, StoreError>;

    /// Records how far a partition's log is worked. The checkpoint never moves back within an incarnation.
    ///
    /// # Errors
    /// The outcome is unknown. It need not be repeated, because a later checkpoint replaces it.
    async fn checkpoint(&self, partition: u32, checkpoint: Checkpoint) -> Result<(), StoreError>;

    /// Records durably that a poison command is skipped. No worker may skip the command before this has returned.
    ///
    /// # Errors
    /// The outcome is unknown: write again, and do not skip the command until it succeeds.
    async fn record_skip(&self, partition: u32, position: Position, reason: &str) -> Result<(), StoreError>;

    /// Reads the positions of this incarnation that are skipped.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn skips(&self, partition: u32, incarnation: u32) -> Result<Vec<Position>, StoreError>;

    /// Records durably where a conversation's suspension begins or ends. No worker may pass that position before this
    /// has returned. The record replaces an earlier record of the conversation that has a lower write timestamp. The
    /// store may forget an ended suspension after 30 days.
    ///
    /// # Errors
    /// The outcome is unknown: write again, and do not pass the position until it succeeds.
    async fn record_suspension(
        &self,
        partition: u32,
        suspension: &Suspension,
        timestamp_us: i64,
    ) -> Result<(), StoreError>;

    /// Reads the suspensions of a partition's conversations, in no particular order.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn suspensions(&self, partition: u32) -> Result<Vec<Suspension>, StoreError>;

    /// Reads the database's clock, in milliseconds since 1970. `None` if the database uses this process's own clock.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn clock_ms(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    /// Whether the store is usable now. For readiness probes.
    async fn healthy(&self) -> bool;
}
