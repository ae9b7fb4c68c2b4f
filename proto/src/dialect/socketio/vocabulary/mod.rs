//! The three Socket.IO vocabularies (protocol §3, §4, §5, §5a): event names and arguments to commands,
//! events and replies to the data arrays of EVENT and ACK packets. Packets themselves are not known here.
//!
//! A vocabulary belongs to the subscription, not to the connection: the event that a client joined by says
//! what it hears from that conversation.
//!
//! Every event is a data array that ends in an object, `["name",{…}]`: what is appended behind it, as a
//! recovery offset is, cannot be taken for an argument of it.

mod answer;
mod chordme;
mod decode;
mod guide;
mod ring;

pub use answer::{
    Answer, answer, connect_error, connected, connection_error, ended, recovery_pending, refusal_event,
};
pub use chordme::room_presence;
pub use decode::{HandshakeRecovery, decode, handshake_recovery, handshake_token};
pub use ring::presence;

use crate::code::Failure;
use crate::command::Command;
use crate::wire;

/// Whose names for events and fields a subscription speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vocabulary {
    /// Ring's: `join_conversation`, `message_received`; camelCase (protocol §3).
    Ring,
    /// The integration guide's: `subscribe`, `message` (protocol §4).
    Guide,
    /// ChordMe's: `join_room`, `room_message`; snake_case, times in milliseconds (protocol §5).
    ChordMe,
}

impl Vocabulary {
    /// Every vocabulary.
    pub const ALL: [Vocabulary; 3] = [Self::Ring, Self::Guide, Self::ChordMe];
}

/// Which event a client sent, whatever its name in the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Joins a conversation.
    Join,
    /// Leaves a conversation.
    Leave,
    /// Sends a message.
    Send,
    /// Edits a message.
    Edit,
    /// Deletes a message.
    Delete,
    /// Types, or has stopped.
    Typing,
    /// Has read messages.
    MarkRead,
    /// Sets the own status.
    Presence,
    /// Passes data on to those who are there.
    Broadcast,
    /// Changes a shared document.
    Operation,
    /// Moves the cursor.
    Cursor,
    /// Subscribes to notifications, or has read them.
    Notifications,
    /// Proves or renews the identity.
    Authenticate,
    /// Asks for a pong.
    Ping,
    /// An event of no vocabulary.
    Unknown,
}

/// What a client's event asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// In which vocabulary its answers go, and for a join also what is heard.
    pub vocabulary: Vocabulary,
    /// Which event it was.
    pub verb: Verb,
    /// What to do.
    pub command: Command,
}

/// An event that asks for nothing that can be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// In which vocabulary it is told; of an unknown event, Ring's.
    pub vocabulary: Vocabulary,
    /// Which event it was.
    pub verb: Verb,
    /// What is wrong.
    pub failure: Failure,
}

/// The events that a durable event is in `vocabulary`: none where it has no name (protocol §5a), one for
/// each user where several were added at once.
pub fn event(vocabulary: Vocabulary, event: &wire::Event) -> Vec<String> {
    match vocabulary {
        Vocabulary::Ring => ring::event(event),
        Vocabulary::Guide => guide::event(event),
        Vocabulary::ChordMe => chordme::event(event),
    }
}

/// The event that something passing, which is not stored, is in `vocabulary`; none where it has no name.
pub fn ephemeral(vocabulary: Vocabulary, event: &wire::Ephemeral) -> Option<String> {
    match vocabulary {
        Vocabulary::Ring => ring::ephemeral(event),
        Vocabulary::Guide => guide::ephemeral(event),
        Vocabulary::ChordMe => chordme::ephemeral(event),
    }
}

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod samples;
