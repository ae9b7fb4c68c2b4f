//! The records of a run of clients against Carillon: a line of JSON for each thing that a client did or received, and
//! at the end one for each stored event. [`check`](crate::check::check) judges them.

use serde::{Deserialize, Serialize};

/// One line of a history.
///
/// A client's records stand in the order in which things happened to it. Records of different clients may stand in any
/// order and are compared by their times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it happened, in microseconds of one monotonic clock for the whole history. A frame to the server is
    /// recorded before it leaves, a frame from the server after it arrived.
    pub at_us: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened. `client` names one logical client, with one user and at most one connection at a time, over all its
/// reconnects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The client has a connection: its first frame arrived.
    Connected {
        /// The client that connected.
        client: String,
        /// The client's user, the same every time.
        user: String,
    },
    /// The connection is gone, whichever side ended it.
    Disconnected {
        /// The client that lost its connection.
        client: String,
    },
    /// The client sends a message, or sends it again with the same `client_id`. `content` is unique to (`client`,
    /// `client_id`).
    Send {
        /// The client that sends.
        client: String,
        /// The conversation it sends to.
        conversation: String,
        /// Makes sending again harmless: a (user, conversation, `client_id`) is one message.
        client_id: String,
        /// The text, the same every time.
        content: String,
    },
    /// `message_ack`.
    Ack {
        /// The client that received it.
        client: String,
        /// The message's conversation.
        conversation: String,
        /// The client id of the message.
        client_id: String,
        /// The message's seq in the conversation, from 1.
        seq: u64,
        /// The message's id, given by the server.
        id: String,
    },
    /// A coded error for a message. `timeout` and `unavailable` leave the outcome open; all other codes mean that this
    /// attempt was refused.
    Refused {
        /// The client that received it.
        client: String,
        /// The conversation that the message was sent to.
        conversation: String,
        /// The client id of the message.
        client_id: String,
        /// The protocol's error code.
        code: String,
    },
    /// `conversation_joined`. The client must receive everything above `after_seq`, or above `head` if it gave none.
    Joined {
        /// The client that joined.
        client: String,
        /// The conversation that it joined.
        conversation: String,
        /// The last seq that the client had received, if it requested what it missed.
        after_seq: Option<u64>,
        /// The last seq of the conversation, as in the reply.
        head: u64,
    },
    /// The client left the conversation for good, or ended for good. It need not receive anything more.
    Left {
        /// The client that left.
        client: String,
        /// The conversation that it left.
        conversation: String,
    },
    /// `new_message`, live or while catching up.
    Received {
        /// The client that received it.
        client: String,
        /// The event's conversation.
        conversation: String,
        /// The event's seq in the conversation, from 1.
        seq: u64,
        /// The message's id.
        id: String,
        /// The user who sent it.
        sender: String,
        /// The client id with which it was sent, if the event carried it.
        client_id: Option<String>,
        /// The text.
        content: String,
    },
    /// How `observer` last saw `user`, after everything has come to rest.
    Seen {
        /// The client that requested the presence.
        observer: String,
        /// The user whose presence it requested.
        user: String,
        /// Whether the user was shown as online.
        online: bool,
    },
    /// From the final dump: an event of a conversation's log. `sender` is the user.
    Stored {
        /// The log's conversation.
        conversation: String,
        /// The event's seq in the log, from 1.
        seq: u64,
        /// The message's id.
        id: String,
        /// The user who sent it.
        sender: String,
        /// The client id with which it was sent.
        client_id: String,
        /// The text.
        content: String,
    },
    /// From the final dump: the head that the server reports for a conversation.
    Head {
        /// The conversation.
        conversation: String,
        /// The last seq, 0 if there is none.
        head: u64,
    },
}

impl What {
    /// The client that did or received this, if a client is concerned.
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        match self {
            What::Connected { client, .. }
            | What::Disconnected { client }
            | What::Send { client, .. }
            | What::Ack { client, .. }
            | What::Refused { client, .. }
            | What::Joined { client, .. }
            | What::Left { client, .. }
            | What::Received { client, .. } => Some(client),
            What::Seen { .. } | What::Stored { .. } | What::Head { .. } => None,
        }
    }

    /// The conversation in which it happened, if there was one.
    #[must_use]
    pub fn conversation(&self) -> Option<&str> {
        match self {
            What::Send { conversation, .. }
            | What::Ack { conversation, .. }
            | What::Refused { conversation, .. }
            | What::Joined { conversation, .. }
            | What::Left { conversation, .. }
            | What::Received { conversation, .. }
            | What::Stored { conversation, .. }
            | What::Head { conversation, .. } => Some(conversation),
            What::Connected { .. } | What::Disconnected { .. } | What::Seen { .. } => None,
        }
    }
}
