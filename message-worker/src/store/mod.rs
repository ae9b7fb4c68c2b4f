//! The store of conversations: event rows, which are the commit, and projections derived from them.
//!
//! Two implementations keep the promises written here, [`embedded`] on redb and [`scylla`] on CQL;
//! `tests/tests/store_contract.rs` holds both to them. All writes carry a timestamp from the log position
//! and are idempotent; of two writes to one cell the higher timestamp wins, whatever the order.

use async_trait::async_trait;
use bytes::Bytes;
use carillon_proto::id::{ConversationId, Tag, UserId, WorkerId};
use carillon_proto::position::{Incarnation, Position};
use carillon_proto::wire;

use crate::limits::GROUP_COMMANDS_MAX;

pub mod embedded;
pub mod scylla;

/// Rows above those that a seal counts that it keeps from being there. An earlier life's workers can have written no
/// more: each writes a group after the one before is there for all, and a group has no more commands.
pub const SEALED_ROWS_MAX: u64 = GROUP_COMMANDS_MAX as u64;

/// The version of the state machine that works a partition whose checkpoint names none.
pub const FIRST_VERSION: u32 = 1;

/// Something went wrong. Of a write, the outcome is unknown: the same write, with the same timestamp, again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("store: {0}")]
pub struct StoreError(pub String);

/// A committed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// The conversation.
    pub conversation: ConversationId,
    /// Contiguous from 1; 0 is the conversation's creation.
    pub seq: u64,
    /// Where in the log the command stood.
    pub position: Position,
    /// The log entry's tag.
    pub tag: Tag,
    /// The write timestamp that follows from the position.
    pub timestamp_us: i64,
    /// A `carillon.v1.Event`.
    pub blob: Bytes,
}

/// A row derived from committed events. Written after them, never proof of anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// How far the conversation is known to reach: loading goes on reading rows from here.
    Head {
        /// The conversation.
        conversation: ConversationId,
        /// Write timestamp.
        timestamp_us: i64,
        /// A `carillon.v1.Head`.
        blob: Bytes,
    },
    /// A stored participant, found both by conversation and by user.
    Participant {
        /// The conversation.
        conversation: ConversationId,
        /// The participant.
        user: UserId,
        /// Write timestamp.
        timestamp_us: i64,
        /// Participates, or no longer.
        present: bool,
    },
    /// A client id that was accepted.
    Sent {
        /// The conversation.
        conversation: ConversationId,
        /// Whose it was.
        sender: UserId,
        /// Write timestamp, and the order of the rows.
        timestamp_us: i64,
        /// Log time, milliseconds since 1970.
        time_ms: u64,
        /// The idempotence key.
        client_id: String,
        /// The event it became.
        seq: u64,
    },
}

/// An accepted client id as the store remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentRow {
    /// The idempotence key.
    pub client_id: String,
    /// The event it became. Believed only if that event has this client id.
    pub seq: u64,
    /// Log time, milliseconds since 1970.
    pub time_ms: u64,
}

/// What loading a conversation starts from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadedConversation {
    /// The head's blob, if it was ever written. Read before the participants: these are written before the head, so
    /// that they know at least what it knows. What they know beyond it, the rows above it say again.
    pub head: Option<Bytes>,
    /// Stored participants, ascending.
    pub participants: Vec<UserId>,
}

/// Where a partition's worker stands, and in which life of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// The log's current life, and who works in it.
    pub tenure: Option<Tenure>,
    /// The last checkpoint.
    pub checkpoint: Option<Checkpoint>,
}

impl PartitionState {
    /// The log's current life.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.tenure.as_ref().map(|tenure| tenure.incarnation)
    }
}

/// A life of a partition's log, and who may have writes under way in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    /// The life.
    pub incarnation: Incarnation,
    /// Rises whenever somebody takes the partition; gateways listen to the highest.
    pub epoch: u64,
    /// Whoever took it, and has not said that everything it began to write is there. Nobody, where a log belongs to one
    /// process and dies with it.
    pub holder: Option<Holder>,
}

/// A worker's one time of working a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder(String);

impl Holder {
    /// The `beginning`th time that a worker begins with this lease.
    pub fn new(worker: &WorkerId, lease: u64, beginning: u64) -> Holder {
        Holder(format!("{worker}/{lease}/{beginning}"))
    }

    /// As it was stored.
    pub fn stored(stored: String) -> Holder {
        Holder(stored)
    }

    /// As it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The worker's id.
    pub fn worker(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

/// Everything up to this position has its rows, projections and fan-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last entry worked (index is that of its last command).
    pub position: Position,
    /// That entry's tag.
    pub tag: Tag,
    /// Write timestamp.
    pub timestamp_us: i64,
    /// The version of the state machine that works what follows it.
    pub version: u32,
}

/// From where to where the commands of a conversation that cannot be read are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// The conversation.
    pub conversation: ConversationId,
    /// The first command that is refused.
    pub from: Position,
    /// The first place from which on commands are applied again; `None` while it lasts.
    pub until: Option<Position>,
    /// Why it cannot be read, for people.
    pub reason: String,
}

/// Which rows of earlier lives of the log count in a conversation. Decided once in a life, before anything is applied
/// in it, so that all who load the conversation in that life fold the same rows, whatever lands later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// The life that decided it.
    pub incarnation: u32,
    /// Whether the creation, the row at seq 0, is one of them.
    pub created: bool,
    /// The last of them; 0 where there is none above the creation.
    pub seq: u64,
}

impl Seal {
    /// Whether a row counts that a life wrote at a seq.
    pub fn counts(&self, incarnation: u32, seq: u64) -> bool {
        incarnation >= self.incarnation || if seq == 0 { self.created } else { seq <= self.seq }
    }
}

impl From<Seal> for wire::Seal {
    fn from(Seal { incarnation, created, seq }: Seal) -> Self {
        wire::Seal { incarnation, created, seq }
    }
}

impl From<wire::Seal> for Seal {
    fn from(wire::Seal { incarnation, created, seq }: wire::Seal) -> Self {
        Seal { incarnation, created, seq }
    }
}

/// The store of conversations.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Writes event rows durably (QUORUM; embedded: synced to disk). When it returns `Ok`, every row is
    /// committed. Rows of one conversation are given in ascending order.
    ///
    /// # Errors
    /// Outcome unknown, for each row: write the same rows again.
    async fn append(&self, rows: Vec<EventRow>) -> Result<(), StoreError>;

    /// Rows of a conversation with `after_seq < seq`, ascending, at most `limit`, from `after_seq + 1` on
    /// without a gap: reading ends before the first missing one. Seq 0 is never among them.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn events_after(
        &self,
        conversation: &ConversationId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError>;

    /// The newest `limit` rows of a conversation with `1 <= seq < before_seq`, ascending.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn events_before(
        &self,
        conversation: &ConversationId,
        before_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError>;

    /// One row, seq 0 included.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn event(&self, conversation: &ConversationId, seq: u64) -> Result<Option<EventRow>, StoreError>;

    /// Seals a conversation, if the seal in force still is `previous`, or if there is none; returns the one in force,
    /// which is another worker's if that came first (lightweight transaction).
    ///
    /// When that is of `next`'s life, rows that it does not count, with write timestamps below `timestamp_us`, are not
    /// there from now on, whether they were written before or will be: the creation, and those up to
    /// [`SEALED_ROWS_MAX`] above it. `timestamp_us` lies above all earlier lives' and below all of `next`'s own. Durable
    /// when it returns.
    ///
    /// # Errors
    /// Outcome unknown: load and seal again.
    async fn seal(
        &self,
        conversation: &ConversationId,
        previous: Option<Seal>,
        next: Seal,
        timestamp_us: i64,
    ) -> Result<Seal, StoreError>;

    /// The seal of a conversation, no older than any that [`Store::seal`] has returned before this began. It is in the
    /// way of no transaction.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn known_seal(&self, conversation: &ConversationId) -> Result<Option<Seal>, StoreError>;

    /// Writes projections, in order; deletions carry timestamps too. Not yet durable when it returns in the
    /// embedded store, but never durable later than a checkpoint or rows that are written after it.
    ///
    /// # Errors
    /// Outcome unknown: write the same again.
    async fn project(&self, projections: Vec<Projection>) -> Result<(), StoreError>;

    /// What a conversation's loading starts from: the head first, then participants.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn load(&self, conversation: &ConversationId) -> Result<LoadedConversation, StoreError>;

    /// A sender's accepted client ids, the newest `limit`, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn sent(
        &self,
        conversation: &ConversationId,
        sender: &UserId,
        limit: usize,
    ) -> Result<Vec<SentRow>, StoreError>;

    /// Conversations in which a user is a stored participant, ascending by id, above `cursor`, at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn conversations_of(
        &self,
        user: &UserId,
        cursor: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>, StoreError>;

    /// Where a partition stands.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn partition(&self, partition: u32) -> Result<PartitionState, StoreError>;

    /// In which life a partition's log is, and who works in it: what the last change came to, whoever made it.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn tenure(&self, partition: u32) -> Result<Option<Tenure>, StoreError>;

    /// In which life a partition's log is: none older than any that [`Store::change_tenure`] has returned before this
    /// began. Unlike [`Store::tenure`] it is in the way of no transaction, so everybody who reads may ask.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn life(&self, partition: u32) -> Result<Option<Incarnation>, StoreError> {
        Ok(self.tenure(partition).await?.map(|tenure| tenure.incarnation))
    }

    /// Begins a life of the log, takes the present one, or gives it back, if what is in force is still `previous`;
    /// returns what is in force then, which is another worker's if that came first (lightweight transaction).
    ///
    /// # Errors
    /// Outcome unknown: read again.
    async fn change_tenure(
        &self,
        partition: u32,
        previous: Option<Tenure>,
        next: Tenure,
    ) -> Result<Tenure, StoreError>;

    /// Records how far a partition's worker has come. Never moves back within an incarnation.
    ///
    /// # Errors
    /// Outcome unknown: a later one makes up for it.
    async fn checkpoint(&self, partition: u32, checkpoint: Checkpoint) -> Result<(), StoreError>;

    /// Records durably that a poison command is passed over, before anyone passes it.
    ///
    /// # Errors
    /// Outcome unknown: write again, and do not pass it before.
    async fn record_skip(&self, partition: u32, position: Position, reason: &str) -> Result<(), StoreError>;

    /// Positions of this incarnation that are passed over.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn skips(&self, partition: u32, incarnation: u32) -> Result<Vec<Position>, StoreError>;

    /// Records durably where a conversation's suspension begins, or ends, before anybody passes that place; in the place of
    /// what was recorded of the conversation before with a lower write timestamp. One that has ended may be forgotten after
    /// 30 days.
    ///
    /// # Errors
    /// Outcome unknown: write again, and do not pass that place before.
    async fn record_suspension(
        &self,
        partition: u32,
        suspension: &Suspension,
        timestamp_us: i64,
    ) -> Result<(), StoreError>;

    /// Suspensions of a partition's conversations, in no order.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn suspensions(&self, partition: u32) -> Result<Vec<Suspension>, StoreError>;

    /// What time the database has, milliseconds since 1970; `None` where it has this process's own clock.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn clock_ms(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    /// Whether the store can be used now, for readiness probes.
    async fn healthy(&self) -> bool;
}
