//! Validated ids. Bus subjects and database queries are built from these types only, never from unchecked text.

use crate::limits;
use crate::position::Position;
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// The error for text that is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {length_max} characters of {alphabet}")]
pub struct InvalidId {
    what: &'static str,
    length_max: usize,
    alphabet: &'static str,
}

impl InvalidId {
    /// The error for an invalid `what`, with the rule that it breaks.
    pub(crate) fn new(what: &'static str, length_max: usize, alphabet: &'static str) -> InvalidId {
        InvalidId { what, length_max, alphabet }
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $length_max:expr, $alphabet:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses an id.
            ///
            /// # Errors
            /// When `text` is empty, too long, or has a character that is not allowed.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || $extra.contains(&byte);
                if (1..=$length_max).contains(&text.len()) && text.bytes().all(allowed) {
                    return Ok(Self(text.into()));
                }
                Err(InvalidId { what: $what, length_max: $length_max, alphabet: $alphabet })
            }

            /// The id's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for Arc<str> {
            fn from(id: $name) -> Arc<str> {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id! {
    /// A conversation (in ChordMe: a room). The part before the first `:` is its namespace, which selects the access
    /// rule (`docs/configuration.md#who-may-do-what`).
    ConversationId, "a conversation id", limits::ID_LENGTH_MAX, "A-Z a-z 0-9 _ . : @ -", b"_.:@-"
}
text_id! {
    /// A user: the `sub` claim of the token.
    UserId, "a user id", limits::ID_LENGTH_MAX, "A-Z a-z 0-9 _ . : @ - | +", b"_.:@-|+"
}
text_id! {
    /// The id that a client gives to a send, so that it can repeat the send without storing the message twice.
    ClientId, "a client id", limits::CLIENT_ID_LENGTH_MAX, "A-Z a-z 0-9 _ . : -", b"_.:-"
}
text_id! {
    /// A gateway process: a new id at every start, part of a bus subject.
    GatewayId, "a gateway id", limits::SERVICE_ID_LENGTH_MAX, "A-Z a-z 0-9 _ -", b"_-"
}
text_id! {
    /// A worker process: a new id at every start, part of its lease key.
    WorkerId, "a worker id", limits::SERVICE_ID_LENGTH_MAX, "A-Z a-z 0-9 _ -", b"_-"
}

impl ConversationId {
    /// The namespace, which selects the access rule: the part before the first `:`, or empty.
    pub fn namespace(&self) -> &str {
        self.0.split_once(':').map_or("", |(namespace, _)| namespace)
    }
}

/// The first character of an idempotence key that a gateway made because the client gave none. No valid [`ClientId`]
/// contains it.
pub const MADE_CLIENT_ID_PREFIX: char = '~';

/// `key` if a client gave it, `None` if a gateway made it or there is none.
pub fn given_client_id(key: &str) -> Option<&str> {
    (!key.is_empty() && !key.starts_with(MADE_CLIENT_ID_PREFIX)).then_some(key)
}

/// A message's id: a UUID in the form of version 7, made from log time, seq and a hash of conversation and position.
/// The id alone leads to the event's row, and a replay makes the same id.
///
/// It has 48 bits of milliseconds, 40 bits of seq and 34 bits of hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(uuid::Uuid);

impl MessageId {
    /// The id of the event with this seq, made by the command at `position`. `time_ms` is the event's time.
    pub fn new(time_ms: u64, seq: u64, conversation: &str, position: Position) -> MessageId {
        let mut hashed = Vec::with_capacity(conversation.len() + 14);
        hashed.extend_from_slice(conversation.as_bytes());
        hashed.extend_from_slice(&position.incarnation.to_be_bytes());
        hashed.extend_from_slice(&position.sequence.to_be_bytes());
        hashed.extend_from_slice(&position.index.to_be_bytes());
        let hash = xxh3_64(&hashed) & ((1 << 34) - 1);
        let seq = seq & ((1 << 40) - 1);
        let high = (time_ms << 16) | 0x7000 | (seq >> 28);
        let low = (0b10 << 62) | ((seq & ((1 << 28) - 1)) << 34) | hash;
        MessageId(uuid::Uuid::from_u64_pair(high, low))
    }

    /// Parses the text form of an id.
    ///
    /// # Errors
    /// When `text` is not a UUID.
    pub fn parse(text: &str) -> Result<MessageId, InvalidId> {
        let invalid = InvalidId { what: "a message id", length_max: 36, alphabet: "a UUID" };
        uuid::Uuid::try_parse(text).map(MessageId).map_err(|_| invalid)
    }

    /// The id with these 16 bytes; the nil id if `bytes` has another length.
    pub fn from_slice(bytes: &[u8]) -> MessageId {
        MessageId(uuid::Uuid::from_slice(bytes).unwrap_or_default())
    }

    /// The id's 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The seq of the event with this id. Meaningless for a UUID that Carillon did not make.
    pub fn seq(&self) -> u64 {
        let (high, low) = self.0.as_u64_pair();
        ((high & 0xfff) << 28) | ((low >> 34) & ((1 << 28) - 1))
    }

    /// The time of the event with this id, in milliseconds since 1970. Meaningless for a UUID that Carillon did not
    /// make.
    pub fn time_ms(&self) -> u64 {
        self.0.as_u64_pair().0 >> 16
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A random tag on a log entry. A worker trusts a position only if the log still has the entry with this tag at that
/// sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub [u8; 16]);

impl Tag {
    /// The text form of the tag, as bus headers carry it.
    pub fn to_text(self) -> String {
        uuid::Uuid::from_bytes(self.0).simple().to_string()
    }

    /// Parses the text form of a tag.
    pub fn parse(text: &str) -> Option<Tag> {
        uuid::Uuid::try_parse(text).ok().map(|uuid| Tag(uuid.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_accept_exactly_the_allowed_characters_and_lengths() {
        for good in ["a", "room-1", "ns:room.1@host_x-Y", &"x".repeat(128)] {
            assert_eq!(ConversationId::parse(good).expect("valid").as_str(), good);
        }
        for bad in ["", "a b", "a*", ">", "a\n", "a/b", "ä", "a|b", "\0", &"x".repeat(129)] {
            assert!(ConversationId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(UserId::parse("auth0|abc").is_ok());
        assert!(UserId::parse("a+b@x.org").is_ok());
        assert!(ClientId::parse("~made").is_err());
        assert!(
            GatewayId::parse("gw.1").is_err(),
            "a gateway id with a dot must be refused, because it would split a subject"
        );
    }

    #[test]
    fn the_namespace_ends_at_the_first_colon() {
        let namespace = |text| ConversationId::parse(text).expect("valid").namespace().to_owned();
        assert_eq!(namespace("team:a:b"), "team");
        assert_eq!(namespace("lobby"), "");
    }

    #[test]
    fn a_message_id_contains_seq_and_time_and_differs_by_position() {
        let at = |index| Position { incarnation: 3, sequence: 99, index };
        for seq in [0, 1, 4_095, 1 << 28, (1 << 40) - 1] {
            let id = MessageId::new(1_700_000_000_123, seq, "room", at(1));
            assert_eq!((id.seq(), id.time_ms()), (seq, 1_700_000_000_123));
            assert_eq!(MessageId::parse(&id.to_string()).expect("a uuid"), id);
            assert_eq!(id.0.get_version_num(), 7);
            assert_ne!(id, MessageId::new(1_700_000_000_123, seq, "room", at(2)));
            assert_ne!(id, MessageId::new(1_700_000_000_123, seq, "moor", at(1)));
        }
    }
}
