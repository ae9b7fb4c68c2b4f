//! Ids as validated newtypes: what is not one of these never reaches a bus subject or a query.

use crate::limits;
use crate::position::Position;
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {length_max} characters of {alphabet}")]
pub struct InvalidId {
    what: &'static str,
    length_max: usize,
    alphabet: &'static str,
}

impl InvalidId {
    /// Says what `what` has to be.
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
            /// The id that `text` is.
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
    /// A conversation (a room in ChordMe's words). The part before the first `:` is its namespace (protocol §7).
    ConversationId, "a conversation id", limits::ID_LENGTH_MAX, "A-Z a-z 0-9 _ . : @ -", b"_.:@-"
}
text_id! {
    /// A user: the `sub` of their token.
    UserId, "a user id", limits::ID_LENGTH_MAX, "A-Z a-z 0-9 _ . : @ - | +", b"_.:@-|+"
}
text_id! {
    /// What a client names its own send by, so that sending again is harmless (protocol §2).
    ClientId, "a client id", limits::CLIENT_ID_LENGTH_MAX, "A-Z a-z 0-9 _ . : -", b"_.:-"
}
text_id! {
    /// A gateway's life: new at every start, part of a bus subject.
    GatewayId, "a gateway id", limits::SERVICE_ID_LENGTH_MAX, "A-Z a-z 0-9 _ -", b"_-"
}
text_id! {
    /// A worker's life: new at every start, part of a bus subject.
    WorkerId, "a worker id", limits::SERVICE_ID_LENGTH_MAX, "A-Z a-z 0-9 _ -", b"_-"
}

impl ConversationId {
    /// The namespace that access rules are chosen by: the part before the first `:`, or nothing.
    pub fn namespace(&self) -> &str {
        self.0.split_once(':').map_or("", |(namespace, _)| namespace)
    }
}

/// Starts an idempotence key that a gateway made because the client gave none. No [`ClientId`] has it.
pub const MADE_CLIENT_ID_PREFIX: char = '~';

/// The client id that a client gave, if `key` is one and not made by a gateway.
pub fn given_client_id(key: &str) -> Option<&str> {
    (!key.is_empty() && !key.starts_with(MADE_CLIENT_ID_PREFIX)).then_some(key)
}

/// A message's id: a UUID (version 7 in form) made from log time, seq and a hash of conversation and
/// position, so that the id alone leads to the event's row, and replay makes the same one.
///
/// 48 bits of milliseconds, 40 bits of seq, 34 bits of hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(uuid::Uuid);

impl MessageId {
    /// The id of the event with this seq, made by the command at `position` at `time_ms`.
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

    /// The id in its text form.
    ///
    /// # Errors
    /// When `text` is not a UUID.
    pub fn parse(text: &str) -> Result<MessageId, InvalidId> {
        let invalid = InvalidId { what: "a message id", length_max: 36, alphabet: "a UUID" };
        uuid::Uuid::try_parse(text).map(MessageId).map_err(|_| invalid)
    }

    /// The id from its 16 bytes, or the nil id where there are not 16.
    pub fn from_slice(bytes: &[u8]) -> MessageId {
        MessageId(uuid::Uuid::from_slice(bytes).unwrap_or_default())
    }

    /// The id's 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The seq of the event that the id belongs to, if it is one of ours.
    pub fn seq(&self) -> u64 {
        let (high, low) = self.0.as_u64_pair();
        ((high & 0xfff) << 28) | ((low >> 34) & ((1 << 28) - 1))
    }

    /// The time of the event that the id belongs to, if it is one of ours: milliseconds since 1970.
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

/// A random mark on a log entry, by which a position is believed only if the log still holds it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub [u8; 16]);

impl Tag {
    /// The tag in the text form that bus headers carry.
    pub fn to_text(self) -> String {
        uuid::Uuid::from_bytes(self.0).simple().to_string()
    }

    /// The tag of its text form.
    pub fn parse(text: &str) -> Option<Tag> {
        uuid::Uuid::try_parse(text).ok().map(|uuid| Tag(uuid.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_what_the_protocol_allows_and_nothing_else() {
        for good in ["a", "room-1", "ns:room.1@host_x-Y", &"x".repeat(128)] {
            assert_eq!(ConversationId::parse(good).expect("valid").as_str(), good);
        }
        for bad in ["", "a b", "a*", ">", "a\n", "a/b", "ä", "a|b", "\0", &"x".repeat(129)] {
            assert!(ConversationId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(UserId::parse("auth0|abc").is_ok());
        assert!(UserId::parse("a+b@x.org").is_ok());
        assert!(ClientId::parse("~made").is_err());
        assert!(GatewayId::parse("gw.1").is_err(), "a dot would split a subject");
    }

    #[test]
    fn the_namespace_ends_at_the_first_colon() {
        let namespace = |text| ConversationId::parse(text).expect("valid").namespace().to_owned();
        assert_eq!(namespace("team:a:b"), "team");
        assert_eq!(namespace("lobby"), "");
    }

    #[test]
    fn a_message_id_leads_to_its_seq_and_differs_by_position() {
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
