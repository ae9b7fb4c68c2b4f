//! What clients hear, whatever vocabulary they hear it in: events of conversations, presence, and the
//! direct replies to their commands.
//!
//! Durable and ephemeral events of conversations are [`wire::Event`] and [`wire::Ephemeral`]; they
//! travel over the bus and are encoded once per vocabulary. A [`Reply`] is for one connection.

use crate::code::Failure;
use crate::id::{ConversationId, MessageId, UserId};
use crate::wire;

/// What one connection is told, and nobody else.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The first frame: visible users who are online.
    OnlineUsers {
        /// Their ids.
        users: Vec<String>,
    },
    /// The identity holds.
    Authenticated {
        /// Who the connection is.
        user: UserId,
        /// When the token's time is over, milliseconds since 1970.
        expires_ms: u64,
    },
    /// The conversation is heard from now on.
    Joined {
        /// The conversation.
        conversation: ConversationId,
        /// Seq of its newest durable event; 0 when there is none.
        head_seq: u64,
        /// Distinct users joined now.
        participant_count: u32,
    },
    /// The conversation is no longer heard.
    Left {
        /// The conversation.
        conversation: ConversationId,
    },
    /// A message is stored durably.
    MessageAck {
        /// The client's own name for the send, if it gave one.
        client_id: Option<String>,
        /// The conversation.
        conversation: ConversationId,
        /// The message's id.
        id: MessageId,
        /// The message's seq.
        seq: u64,
    },
    /// Done.
    Ack,
    /// The presence asked for.
    OnlineStatus {
        /// Every user asked for, once.
        users: Vec<wire::UserPresence>,
    },
    /// A page of events, ascending by seq.
    History {
        /// The conversation.
        conversation: ConversationId,
        /// The events.
        events: Vec<wire::Event>,
        /// Whether there are more in the direction asked for.
        has_more: bool,
    },
    /// The answer to a ping.
    Pong,
    /// It was not done, and why.
    Error(Failure),
    /// Come back, to another gateway, after this time.
    Reconnect {
        /// Milliseconds.
        after_ms: u64,
    },
    /// The token's time is nearly over.
    TokenExpiring {
        /// When, milliseconds since 1970.
        expires_ms: u64,
    },
}

/// The status as clients write it.
pub fn status_name(status: wire::Status) -> &'static str {
    match status {
        wire::Status::Active => "active",
        wire::Status::Away => "away",
        wire::Status::Dnd => "dnd",
        wire::Status::Invisible => "invisible",
    }
}

/// The status that a client wrote.
pub fn parse_status(name: &str) -> Option<wire::Status> {
    use wire::Status::{Active, Away, Dnd, Invisible};
    [Active, Away, Dnd, Invisible].into_iter().find(|status| status_name(*status) == name)
}

/// A user nobody knows anything of: offline, never seen.
pub fn unknown_presence(user: &str) -> wire::UserPresence {
    wire::UserPresence { user: user.into(), ..wire::UserPresence::default() }
}
