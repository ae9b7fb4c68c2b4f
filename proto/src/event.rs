//! Events and replies for clients, the same for every vocabulary: events of conversations, presence, and the direct
//! replies to commands.
//!
//! Durable and ephemeral events of conversations are [`wire::Event`] and [`wire::Ephemeral`]. They travel over the bus
//! and are encoded once for each vocabulary. A [`Reply`] is for one connection.

use crate::code::Failure;
use crate::id::{ConversationId, MessageId, UserId};
use crate::wire;
use std::sync::Arc;

/// A message for one connection only.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The first frame: the users who are online among those that the user sees.
    OnlineUsers {
        /// Their ids.
        users: Vec<String>,
    },
    /// The identity is accepted.
    Authenticated {
        /// The user of the connection.
        user: UserId,
        /// When the token expires, in milliseconds since 1970.
        expires_ms: u64,
    },
    /// The client has joined the conversation.
    Joined {
        /// The conversation.
        conversation: ConversationId,
        /// The seq of its newest durable event; 0 if there is none.
        head_seq: u64,
        /// How many distinct users are joined now.
        participant_count: u32,
    },
    /// The subscription has ended: the client left the conversation, or may not read it any more.
    Left {
        /// The conversation.
        conversation: ConversationId,
    },
    /// A message is stored durably.
    MessageAck {
        /// The client id of the send, if the client gave one.
        client_id: Option<Arc<str>>,
        /// The conversation.
        conversation: ConversationId,
        /// The message's id.
        id: MessageId,
        /// The message's seq.
        seq: u64,
    },
    /// The command is done.
    Ack,
    /// The requested presence.
    OnlineStatus {
        /// Each requested user, once.
        users: Vec<wire::UserPresence>,
    },
    /// A page of events, ascending by seq.
    History {
        /// The conversation.
        conversation: ConversationId,
        /// The events.
        events: Vec<wire::Event>,
        /// Whether there are more events in the requested direction.
        has_more: bool,
    },
    /// The answer to a ping.
    Pong,
    /// The command failed, with the reason.
    Error(Failure),
    /// The client must reconnect, to another gateway, after this time.
    Reconnect {
        /// Milliseconds.
        after_ms: u64,
    },
    /// The token expires soon.
    TokenExpiring {
        /// When it expires, in milliseconds since 1970.
        expires_ms: u64,
    },
}

/// The name of a status, as clients write it.
pub fn status_name(status: wire::Status) -> &'static str {
    match status {
        wire::Status::Active => "active",
        wire::Status::Away => "away",
        wire::Status::Dnd => "dnd",
        wire::Status::Invisible => "invisible",
    }
}

/// The status that other users see; `offline` for a user who is offline.
pub fn shown_status(user: &wire::UserPresence) -> &'static str {
    if user.online { status_name(user.status()) } else { "offline" }
}

/// The status with this name; `None` if there is none.
pub fn parse_status(name: &str) -> Option<wire::Status> {
    use wire::Status::{Active, Away, Dnd, Invisible};
    [Active, Away, Dnd, Invisible].into_iter().find(|status| status_name(*status) == name)
}

/// The presence of an unknown user: offline, never seen.
pub fn unknown_presence(user: &str) -> wire::UserPresence {
    wire::UserPresence { user: user.into(), ..wire::UserPresence::default() }
}
