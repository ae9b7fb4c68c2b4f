//! What a run of clients against Carillon leaves behind: a line of JSON for each thing that a client did or was told,
//! and at the end one for each stored event. [`check`](crate::check::check) judges it.

use serde::{Deserialize, Serialize};

/// One line of a history.
///
/// A client's records stand in the order in which things happened to it; those of different clients may stand in any
/// order, and are compared by their times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it happened, microseconds of one monotonic clock for the whole history. What a client sends is recorded
    /// before it leaves, what it is told after it arrived.
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
    /// The client has a connection (its first frame came).
    Connected {
        /// Whose connection it is.
        client: String,
        /// The user that the client speaks for, the same every time.
        user: String,
    },
    /// The connection is gone, whoever ended it.
    Disconnected {
        /// Whose connection it was.
        client: String,
    },
    /// A message leaves the client; again with the same `client_id` when it is sent again. `content` is unique to
    /// (`client`, `client_id`).
    Send {
        /// Who sends.
        client: String,
        /// Where to.
        conversation: String,
        /// What makes sending it again harmless: a (user, conversation, `client_id`) is one message.
        client_id: String,
        /// The text, the same every time.
        content: String,
    },
    /// `message_ack`.
    Ack {
        /// Who was told.
        client: String,
        /// Where the message is.
        conversation: String,
        /// Which of its messages.
        client_id: String,
        /// The message's place in the conversation, from 1.
        seq: u64,
        /// The message's id, given by the server.
        id: String,
    },
    /// A coded error for a message: `timeout` and `unavailable` leave the outcome open, all others say that this
    /// attempt was refused.
    Refused {
        /// Who was told.
        client: String,
        /// Where the message was sent to.
        conversation: String,
        /// Which of its messages.
        client_id: String,
        /// The protocol's error code.
        code: String,
    },
    /// `conversation_joined`: with `after_seq` the client is owed everything above it, without everything above
    /// `head`.
    Joined {
        /// Who joined.
        client: String,
        /// What it joined.
        conversation: String,
        /// What the client asked for: the last seq that it had heard, if it wants what it missed.
        after_seq: Option<u64>,
        /// The last seq of the conversation, as the reply told it.
        head: u64,
    },
    /// The client has left the conversation for good, or ended for good: it is owed nothing more.
    Left {
        /// Who left.
        client: String,
        /// What it left.
        conversation: String,
    },
    /// `new_message`, live or caught up.
    Heard {
        /// Who heard it.
        client: String,
        /// Where.
        conversation: String,
        /// The event's place in the conversation, from 1.
        seq: u64,
        /// The message's id.
        id: String,
        /// The user who sent it.
        sender: String,
        /// The client id with which it was sent, if the event told it.
        client_id: Option<String>,
        /// The text.
        content: String,
    },
    /// After everything has come to rest: how `observer` last saw `user`.
    Seen {
        /// Who looked.
        observer: String,
        /// At whom.
        user: String,
        /// Whether the user was shown as online.
        online: bool,
    },
    /// From the final dump: an event of a conversation's log. `sender` is the user.
    Stored {
        /// Whose log.
        conversation: String,
        /// The event's place in the log, from 1.
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
    /// From the final dump: the head that the server tells for a conversation.
    Head {
        /// Whose head.
        conversation: String,
        /// The last seq, 0 if there is none.
        head: u64,
    },
}

impl What {
    /// The client that did it or was told, if it concerns one.
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
            | What::Heard { client, .. } => Some(client),
            What::Seen { .. } | What::Stored { .. } | What::Head { .. } => None,
        }
    }

    /// The conversation in which it happened, if it was in one.
    #[must_use]
    pub fn conversation(&self) -> Option<&str> {
        match self {
            What::Send { conversation, .. }
            | What::Ack { conversation, .. }
            | What::Refused { conversation, .. }
            | What::Joined { conversation, .. }
            | What::Left { conversation, .. }
            | What::Heard { conversation, .. }
            | What::Stored { conversation, .. }
            | What::Head { conversation, .. } => Some(conversation),
            What::Connected { .. } | What::Disconnected { .. } | What::Seen { .. } => None,
        }
    }
}
