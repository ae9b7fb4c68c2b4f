//! The three Socket.IO vocabularies (`docs/protocol.md#ring`, `#guide` and `#chordme`): they decode event names and
//! arguments to commands, and encode events and replies as the data arrays of EVENT and ACK packets. The packets
//! themselves are in [`super::packet`].
//!
//! A vocabulary belongs to the subscription, not to the connection: the event that a client joins with selects the
//! vocabulary in which it receives the conversation (`docs/decisions/0007-a-subscription-has-a-vocabulary.md`).
//!
//! Every event is a data array that ends in an object, `["name",{…}]`. A recovery offset is appended after the object,
//! so it cannot be mistaken for an argument of the event.

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

/// The set of names for events and fields that a subscription uses. Services send each other its index in
/// [`Vocabulary::ALL`], so a new one comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vocabulary {
    /// Ring's: `join_conversation`, `message_received`; fields in camelCase (`docs/protocol.md#ring`).
    Ring,
    /// The integration guide's: `subscribe`, `message` (`docs/protocol.md#guide`).
    Guide,
    /// ChordMe's: `join_room`, `room_message`; fields in snake_case, times in milliseconds
    /// (`docs/protocol.md#chordme`).
    ChordMe,
}

impl Vocabulary {
    /// How many there are.
    pub const COUNT: usize = {
        let (mut count, mut last) = (1, Self::Ring);
        while let Some(next) = last.next() {
            (count, last) = (count + 1, next);
        }
        count
    };

    /// Every vocabulary, each at its own index.
    pub const ALL: [Vocabulary; Self::COUNT] = {
        let (mut all, mut last) = ([Self::Ring; Self::COUNT], Self::Ring);
        while let Some(next) = last.next() {
            all[next as usize] = next;
            last = next;
        }
        all
    };

    /// The next one. The compiler requires a place for a new vocabulary here.
    const fn next(self) -> Option<Vocabulary> {
        match self {
            Self::Ring => Some(Self::Guide),
            Self::Guide => Some(Self::ChordMe),
            Self::ChordMe => None,
        }
    }
}

/// Which event a client sent, whatever its name in the vocabulary is.
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
    /// Begins or stops typing.
    Typing,
    /// Marks messages as read.
    MarkRead,
    /// Sets the user's status.
    Presence,
    /// Sends data to the members who are connected now.
    Broadcast,
    /// Changes a shared document.
    Operation,
    /// Moves the cursor.
    Cursor,
    /// Marks notifications as read.
    Notifications,
    /// Proves or renews the identity.
    Authenticate,
    /// Requests a pong.
    Ping,
    /// An event that no vocabulary has.
    Unknown,
}

/// A client's event, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The vocabulary of its answers, and after a join also of the conversation's events.
    pub vocabulary: Vocabulary,
    /// Which event it was.
    pub verb: Verb,
    /// The command.
    pub command: Command,
}

/// A client's event that is not a valid command.
#[derive(Debug, Clone, PartialEq)]
pub struct InvalidEvent {
    /// The vocabulary of the error; Ring's for an unknown event.
    pub vocabulary: Vocabulary,
    /// Which event it was.
    pub verb: Verb,
    /// The failure to report.
    pub failure: Failure,
}

/// Encodes a durable event in `vocabulary`: no event if the vocabulary has no name for it
/// (`docs/protocol.md#one-event-four-vocabularies`), and one for each user if several were added at once.
pub fn event(vocabulary: Vocabulary, event: &wire::Event) -> Vec<String> {
    match vocabulary {
        Vocabulary::Ring => ring::event(event),
        Vocabulary::Guide => guide::event(event),
        Vocabulary::ChordMe => chordme::event(event),
    }
}

/// Encodes an ephemeral event in `vocabulary`; `None` if the vocabulary has no name for it.
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
