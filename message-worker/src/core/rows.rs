//! The rows of a conversation that the store keeps: its events, which are the commit, what is derived from them, and
//! the seal that decides which of them count.

use super::author::Author;
use bytes::Bytes;
use carillon_proto::id::{ConversationId, Tag, UserId};
use carillon_proto::position::Position;
use carillon_proto::wire;

/// A committed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// The conversation.
    pub conversation: ConversationId,
    /// Contiguous from 1. Seq 0 is the conversation's creation.
    pub seq: u64,
    /// The command's position in the log.
    pub position: Position,
    /// The log entry's tag.
    pub tag: Tag,
    /// The write timestamp. It follows from the position.
    pub timestamp_us: i64,
    /// An encoded `carillon.v1.Event`.
    pub blob: Bytes,
}

/// A row derived from committed events. It is written after them, and never proves that an event exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// A summary of the conversation up to one seq. Loading reads only the rows above it.
    Head {
        /// The conversation.
        conversation: ConversationId,
        /// Write timestamp.
        timestamp_us: i64,
        /// An encoded `carillon.v1.Head`.
        blob: Bytes,
    },
    /// A stored participant. It can be looked up by conversation and by user.
    Participant {
        /// The conversation.
        conversation: ConversationId,
        /// The participant.
        user: UserId,
        /// Write timestamp.
        timestamp_us: i64,
        /// True if the user participates, false if they were removed.
        present: bool,
    },
    /// A client id that was accepted.
    Sent {
        /// The conversation.
        conversation: ConversationId,
        /// The author of the command.
        sender: Author,
        /// Write timestamp. The rows of a sender are ordered by it.
        timestamp_us: i64,
        /// Log time, milliseconds since 1970.
        time_ms: u64,
        /// The client's idempotence key.
        client_id: String,
        /// The seq of the event that the command became.
        seq: u64,
    },
}

/// An accepted client id as the store remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentRow {
    /// The client's idempotence key.
    pub client_id: String,
    /// The seq of the event that the command became. It is only a hint: a repetition is recognised only if that event
    /// has this client id.
    pub seq: u64,
    /// Log time, milliseconds since 1970.
    pub time_ms: u64,
}

/// Which rows of earlier incarnations count in a conversation. It is decided once per incarnation, before any command
/// is applied in it. So all workers that load the conversation in that incarnation fold the same rows, whichever late
/// writes arrive (`docs/decisions/0010-a-life-seals-what-came-before.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// The incarnation in which it was decided.
    pub incarnation: u32,
    /// Whether the creation, the row at seq 0, counts.
    pub created: bool,
    /// The highest seq that counts; 0 if no row above the creation counts.
    pub seq: u64,
}

impl Seal {
    /// Whether the row at `seq` counts if it was written in `incarnation`.
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
