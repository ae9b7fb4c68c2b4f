//! The dialect of each frame to a client. The command that joined decides how events of that conversation are encoded,
//! and each command decides how its own reply is encoded (`docs/decisions/0007-a-subscription-has-a-vocabulary.md`).

use crate::connection::frame;
use crate::wall;
use bytes::Bytes;
use carillon_proto::dialect::native;
use carillon_proto::dialect::socketio::packet;
use carillon_proto::dialect::socketio::vocabulary::{self, Verb, Vocabulary};
use carillon_proto::event::Reply;
use carillon_proto::id::ConversationId;
use carillon_proto::wire;

/// The served namespaces: the main one and its alias (`docs/protocol.md#socketio`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// `/`
    Main,
    /// `/api/socket`, where `io("http://host/api/socket")` lands.
    Alias,
}

impl Namespace {
    pub const COUNT: usize = Self::ALL.len();
    const ALL: [Namespace; 2] = [Self::Main, Self::Alias];

    pub fn parse(name: &str) -> Option<Namespace> {
        Self::ALL.into_iter().find(|namespace| namespace.name() == name)
    }

    /// The namespace's name in packets.
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "/",
            Self::Alias => "/api/socket",
        }
    }
}

/// The vocabulary, and for Socket.IO the namespace, in which a subscription receives events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    Native,
    SocketIo(Vocabulary, Namespace),
}

/// The number of Socket.IO dialects: every vocabulary in every namespace.
pub const SOCKETIO_DIALECTS: usize = Vocabulary::COUNT * Namespace::COUNT;

impl Dialect {
    /// The index of a Socket.IO dialect, below [`SOCKETIO_DIALECTS`]; `None` for the native dialect.
    pub fn socketio_index(self) -> Option<usize> {
        let Self::SocketIo(vocabulary, namespace) = self else { return None };
        Some(Namespace::COUNT * vocabulary as usize + namespace as usize)
    }

    /// The frames of a durable event; empty if the vocabulary has no name for it.
    pub fn event(self, event: &wire::Event) -> Bytes {
        match self {
            Self::Native => frame::texts(&native::event(event)),
            Self::SocketIo(vocabulary, namespace) => {
                packets(namespace, &vocabulary::event(vocabulary, event))
            }
        }
    }

    /// The frame of an event that is not stored; empty if the vocabulary has no name for it.
    pub fn ephemeral(self, event: &wire::Ephemeral) -> Bytes {
        match self {
            Self::Native => native::ephemeral(event).map(|text| frame::text(&text)),
            Self::SocketIo(vocabulary, namespace) => {
                vocabulary::ephemeral(vocabulary, event).map(|data| packets(namespace, &[data]))
            }
        }
        .unwrap_or_default()
    }

    /// The notice that a subscription ended without a command of the client.
    pub fn ended(self, conversation: &ConversationId) -> Bytes {
        match self {
            Self::Native => {
                let left = Reply::Left { conversation: conversation.clone() };
                frame::text(&native::reply(&left, None, wall::shown_ms()))
            }
            Self::SocketIo(vocabulary, namespace) => {
                packets(namespace, &[vocabulary::ended(vocabulary, conversation.as_str())])
            }
        }
    }

    /// The frame that reports a user's first connection to a room, or the end of the last one; empty if the vocabulary
    /// has no name for it.
    pub fn arrival(self, user: &str, conversation: &str, participants: u32, joined: bool) -> Bytes {
        match self {
            Self::SocketIo(Vocabulary::ChordMe, namespace) => {
                packets(namespace, &[vocabulary::room_presence(user, conversation, participants, joined)])
            }
            _ => Bytes::new(),
        }
    }

    /// Whether the vocabulary has a name for other users' presence (`docs/protocol.md#one-event-four-vocabularies`).
    pub fn names_presence(self) -> bool {
        matches!(self, Self::Native | Self::SocketIo(Vocabulary::Ring | Vocabulary::Guide, _))
    }
}

/// The frames of Socket.IO events, each given as its data array.
pub fn packets(namespace: Namespace, events: &[String]) -> Bytes {
    let texts: Vec<String> = events.iter().map(|data| packet::event(namespace.name(), None, data)).collect();
    frame::texts(&texts)
}

/// Where a command came from, which decides the form of its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandOrigin {
    /// A native frame. The reply echoes its `ref`.
    Native {
        /// The frame's `ref`.
        reference: Option<Box<str>>,
    },
    /// Not the client: this gateway joins again what a moved or recovered session had joined. There is no reply.
    Restored(Dialect),
    /// An event of a Socket.IO vocabulary.
    Event {
        vocabulary: Vocabulary,
        namespace: Namespace,
        verb: Verb,
        /// The callback's number, if the client passed one.
        ack: Option<u64>,
    },
}

impl CommandOrigin {
    /// A native command without `ref`. Also used for frames to native clients that are not replies.
    pub const NATIVE: CommandOrigin = CommandOrigin::Native { reference: None };

    /// The dialect of a subscription that this command starts.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Native { .. } => Dialect::Native,
            Self::Restored(dialect) => *dialect,
            Self::Event { vocabulary, namespace, .. } => Dialect::SocketIo(*vocabulary, *namespace),
        }
    }

    /// Whether a stored message is acknowledged. `client_id`: whether the client gave one.
    pub fn wants_ack(&self, client_id: bool) -> bool {
        match self {
            Self::Native { reference } => client_id || reference.is_some(),
            Self::Restored(_) => false,
            Self::Event { ack, .. } => ack.is_some(),
        }
    }

    /// The frames of the reply; empty if there is none.
    pub fn encode_reply(&self, reply: &Reply) -> Bytes {
        match self {
            Self::Native { reference } => {
                frame::text(&native::reply(reply, reference.as_deref(), wall::shown_ms()))
            }
            Self::Restored(_) => Bytes::new(),
            Self::Event { vocabulary, namespace, verb, ack } => {
                let mut answer = vocabulary::answer(*vocabulary, reply, wall::shown_ms());
                if let (Reply::Error(failure), None) = (reply, ack) {
                    answer.events.push(vocabulary::refusal_event(*vocabulary, *verb, failure));
                }
                let events = answer.events.iter().map(|data| packet::event(namespace.name(), None, data));
                let mut texts: Vec<String> = events.collect();
                if let (Some(data), Some(id)) = (&answer.ack, ack) {
                    texts.push(packet::ack(namespace.name(), *id, data));
                }
                frame::texts(&texts)
            }
        }
    }
}

/// The frame of a change of a user's presence, for native clients or for Socket.IO clients of this namespace.
pub fn presence(namespace: Option<Namespace>, user: &wire::UserPresence) -> Bytes {
    match namespace {
        None => frame::text(&native::presence(user, wall::shown_ms())),
        Some(namespace) => packets(namespace, &[vocabulary::presence(user, wall::shown_ms())]),
    }
}
