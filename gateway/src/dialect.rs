//! In which vocabulary a client is spoken to: what it joined by decides how it hears a conversation, and what it
//! asked decides how it is answered.

use crate::frame;
use crate::wall;
use bytes::Bytes;
use carillon_proto::dialect::native;
use carillon_proto::dialect::socketio::packet;
use carillon_proto::dialect::socketio::vocabulary::{self, Verb, Vocabulary};
use carillon_proto::event::Reply;
use carillon_proto::id::ConversationId;
use carillon_proto::wire;

/// The namespaces that are served: the main one, and its alias (protocol §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// `/`
    Main,
    /// `/api/socket`, where `io("http://host/api/socket")` lands.
    Alias,
}

impl Namespace {
    /// The namespace of this name.
    pub fn parse(name: &str) -> Option<Namespace> {
        [Self::Main, Self::Alias].into_iter().find(|namespace| namespace.name() == name)
    }

    /// Its name in packets.
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "/",
            Self::Alias => "/api/socket",
        }
    }
}

/// What a subscription hears its conversation in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The native vocabulary.
    Native,
    /// One of Socket.IO's.
    SocketIo(Vocabulary, Namespace),
}

/// How many Socket.IO dialects there are: each vocabulary in each namespace.
pub const SOCKETIO_DIALECTS: usize = 6;

impl Dialect {
    /// The place of a Socket.IO dialect among all of them; `None` for the native one.
    pub fn socketio_index(self) -> Option<usize> {
        let Self::SocketIo(vocabulary, namespace) = self else { return None };
        Some(2 * vocabulary as usize + namespace as usize)
    }

    /// The frames of a durable event; none where the vocabulary has no name for it.
    pub fn event(self, event: &wire::Event) -> Bytes {
        match self {
            Self::Native => frame::texts(&native::event(event)),
            Self::SocketIo(vocabulary, namespace) => {
                packets(namespace, &vocabulary::event(vocabulary, event))
            }
        }
    }

    /// The frame of an event that is not stored; empty where the vocabulary has no name for it.
    pub fn ephemeral(self, event: &wire::Ephemeral) -> Bytes {
        match self {
            Self::Native => native::ephemeral(event).map(|text| frame::text(&text)),
            Self::SocketIo(vocabulary, namespace) => {
                vocabulary::ephemeral(vocabulary, event).map(|data| packets(namespace, &[data]))
            }
        }
        .unwrap_or_default()
    }

    /// The frame of a subscription that has ended without being asked to.
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

    /// The frame of a user's first connection to a room, or the end of their last one; empty where the vocabulary
    /// has no name for it.
    pub fn arrival(self, user: &str, conversation: &str, participants: u32, joined: bool) -> Bytes {
        match self {
            Self::SocketIo(Vocabulary::ChordMe, namespace) => {
                packets(namespace, &[vocabulary::room_presence(user, conversation, participants, joined)])
            }
            _ => Bytes::new(),
        }
    }

    /// Whether the vocabulary has a name for other users' presence (protocol §5a).
    pub fn names_presence(self) -> bool {
        matches!(self, Self::Native | Self::SocketIo(Vocabulary::Ring | Vocabulary::Guide, _))
    }
}

/// Frames of events, each given as its data array.
pub fn packets(namespace: Namespace, events: &[String]) -> Bytes {
    let texts: Vec<String> = events.iter().map(|data| packet::event(namespace.name(), None, data)).collect();
    frame::texts(&texts)
}

/// How a command was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// By a native frame, whose `ref` the answer echoes.
    Native {
        /// The `ref`.
        reference: Option<Box<str>>,
    },
    /// By nobody: a session that goes on here joins again what it had joined elsewhere.
    Silently(Dialect),
    /// By an event of a Socket.IO vocabulary.
    Event {
        /// Whose event it was.
        vocabulary: Vocabulary,
        /// Where it came from.
        namespace: Namespace,
        /// Which event it was.
        verb: Verb,
        /// The callback's number, if the client gave one.
        ack: Option<u64>,
    },
}

impl Asked {
    /// A native command without `ref`, or what a native client is told unasked.
    pub const NATIVE: Asked = Asked::Native { reference: None };

    /// What the asker hears a conversation in that it joins so.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Native { .. } => Dialect::Native,
            Self::Silently(dialect) => *dialect,
            Self::Event { vocabulary, namespace, .. } => Dialect::SocketIo(*vocabulary, *namespace),
        }
    }

    /// Whether a message that was stored is acknowledged, given whether it came with a client id.
    pub fn wants_ack(&self, client_id: bool) -> bool {
        match self {
            Self::Native { reference } => client_id || reference.is_some(),
            Self::Silently(_) => false,
            Self::Event { ack, .. } => ack.is_some(),
        }
    }

    /// The frames of the answer; none where there is nothing to say.
    pub fn answer(&self, reply: &Reply) -> Bytes {
        match self {
            Self::Native { reference } => {
                frame::text(&native::reply(reply, reference.as_deref(), wall::shown_ms()))
            }
            Self::Silently(_) => Bytes::new(),
            Self::Event { vocabulary, namespace, verb, ack } => {
                let mut answer = vocabulary::answer(*vocabulary, *verb, reply, wall::shown_ms());
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

/// The frame of a change of somebody's presence, for a native client or one of this namespace.
pub fn presence(namespace: Option<Namespace>, user: &wire::UserPresence) -> Bytes {
    match namespace {
        None => frame::text(&native::presence(user, wall::shown_ms())),
        Some(namespace) => packets(namespace, &[vocabulary::presence(user, wall::shown_ms())]),
    }
}
