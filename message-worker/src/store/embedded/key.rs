//! The keys of one sorted table. No I/O.
//!
//! All rows of a conversation lie together, so that a message, its idempotence key and the head touch neighbouring
//! pages. An id is length-prefixed if something follows it, and bare if it ends a key, so that lists come out in
//! ascending order of id.

use super::row::TIMESTAMP_BYTES;
use crate::store::Author;
use bytes::BufMut;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::position::Position;

const CONVERSATION: u8 = 1;
const USER: u8 = 2;
const PARTITION: u8 = 3;
const CLUSTER: u8 = 4;

// Events come last in a conversation, so that a walk over all other rows can skip them.
const HEAD: u8 = b'h';
const SEAL: u8 = b'l';
const PARTICIPANT: u8 = b'p';
const SENT: u8 = b's';
const EVENT: u8 = b't';

const CHECKPOINT: u8 = b'c';
const INCARNATION: u8 = b'i';
const SKIP: u8 = b's';
const SUSPENSION: u8 = b'u';

/// The lower bound of all keys of conversations.
pub(super) const CONVERSATIONS_START: &[u8] = &[CONVERSATION];
/// The upper bound, exclusive, of all keys of conversations.
pub(super) const CONVERSATIONS_END: &[u8] = &[CONVERSATION + 1];

fn with_id(table: u8, id: &str, kind: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(id.len() + 32);
    key.extend_from_slice(&[table, id.len() as u8]);
    key.extend_from_slice(id.as_bytes());
    key.push(kind);
    key
}

/// The smallest key above every key that starts with `prefix`.
pub(super) fn above(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    while let Some(last) = key.pop() {
        if last < u8::MAX {
            key.push(last + 1);
            break;
        }
    }
    key
}

pub(super) fn event(conversation: &ConversationId, seq: u64) -> Vec<u8> {
    let mut key = with_id(CONVERSATION, conversation.as_str(), EVENT);
    key.put_u64(seq);
    key
}

/// The upper bound, exclusive, of the keys of a conversation's events.
pub(super) fn events_end(conversation: &ConversationId) -> Vec<u8> {
    with_id(CONVERSATION, conversation.as_str(), EVENT + 1)
}

pub(super) fn head(conversation: &ConversationId) -> Vec<u8> {
    with_id(CONVERSATION, conversation.as_str(), HEAD)
}

/// The key of a conversation's seal.
pub(super) fn seal(conversation: &ConversationId) -> Vec<u8> {
    with_id(CONVERSATION, conversation.as_str(), SEAL)
}

/// The prefix of the keys of a conversation's participants. The user's id follows it.
pub(super) fn participants(conversation: &ConversationId) -> Vec<u8> {
    with_id(CONVERSATION, conversation.as_str(), PARTICIPANT)
}

/// The prefix of the keys of a user's conversations. The conversation's id follows it.
pub(super) fn conversations(user: &UserId) -> Vec<u8> {
    with_id(USER, user.as_str(), PARTICIPANT)
}

/// The prefix of the keys of a sender's accepted client ids. The inverted timestamp follows it, so that the newest
/// comes first.
pub(super) fn sent(conversation: &ConversationId, sender: &Author) -> Vec<u8> {
    let mut key = with_id(CONVERSATION, conversation.as_str(), SENT);
    key.push(sender.as_str().len() as u8);
    key.extend_from_slice(sender.as_str().as_bytes());
    key
}

fn partition(partition: u32, kind: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(24);
    key.push(PARTITION);
    key.put_u32(partition);
    key.push(kind);
    key
}

pub(super) fn checkpoint(number: u32) -> Vec<u8> {
    partition(number, CHECKPOINT)
}

pub(super) fn incarnation(number: u32) -> Vec<u8> {
    partition(number, INCARNATION)
}

/// The prefix of the keys of skips in a partition's incarnation. Sequence and index follow it.
pub(super) fn skips(number: u32, incarnation: u32) -> Vec<u8> {
    let mut key = partition(number, SKIP);
    key.put_u32(incarnation);
    key
}

pub(super) fn skip(number: u32, position: Position) -> Vec<u8> {
    let mut key = skips(number, position.incarnation);
    key.put_u64(position.sequence);
    key.put_u32(position.index);
    key
}

/// The key of the mark of the cluster that owns the data.
pub(super) const MARK: &[u8] = &[CLUSTER];

/// The prefix of the keys of all partitions.
pub(super) const PARTITIONS: &[u8] = &[PARTITION];

/// Returns the partition if the key is that of a tenure.
pub(super) fn read_incarnation_key(key: &[u8]) -> Option<u32> {
    let (number, kind) = key.strip_prefix(PARTITIONS)?.split_first_chunk()?;
    (kind == [INCARNATION]).then(|| u32::from_be_bytes(*number))
}

/// The prefix of the keys of suspensions in a partition. The conversation's id follows it.
pub(super) fn suspensions(number: u32) -> Vec<u8> {
    partition(number, SUSPENSION)
}

/// The kinds of keys that the walk over all conversations distinguishes.
pub(super) enum Walked<'a> {
    /// An accepted client id, with the prefix of all keys of its sender.
    Sent(&'a [u8]),
    /// An event, with the key below which all following keys are events of the same conversation.
    Events(Vec<u8>),
    /// Any other row of a conversation.
    Other,
}

/// Returns the kind of a key of a conversation's row.
pub(super) fn walked(key: &[u8]) -> Walked<'_> {
    let id_end = 2 + usize::from(key.get(1).copied().unwrap_or(0));
    match key.get(id_end) {
        Some(&SENT) => Walked::Sent(&key[..key.len() - TIMESTAMP_BYTES]),
        Some(&EVENT) => Walked::Events(above(&key[..=id_end])),
        _ => Walked::Other,
    }
}

/// The kinds of rows that repair distinguishes, by whether a row counts without the rows before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RepairKind {
    /// An event, with its seq.
    Event(ConversationId, u64),
    /// A conversation's seal.
    Seal(ConversationId),
    /// A tenure, a skip, or the cluster's mark. Such a row depends on no other.
    OfPartition,
    /// A row that is made again from other rows.
    Derived,
}

/// Returns the kind of the row with this key. `None` for suspensions, which concern only the log of the process that
/// wrote them, and for keys that this store does not write.
pub(super) fn repair_kind(key: &[u8]) -> Option<RepairKind> {
    match *key.first()? {
        CONVERSATION => {
            let id_end = 2 + usize::from(*key.get(1)?);
            let id = ConversationId::parse(std::str::from_utf8(key.get(2..id_end)?).ok()?).ok()?;
            match *key.get(id_end)? {
                EVENT if key.len() == id_end + 9 => Some(RepairKind::Event(id, read_seq(key)?)),
                SEAL => Some(RepairKind::Seal(id)),
                HEAD | PARTICIPANT | SENT => Some(RepairKind::Derived),
                _ => None,
            }
        }
        USER => Some(RepairKind::Derived),
        CLUSTER => Some(RepairKind::OfPartition),
        PARTITION => match *key.get(5)? {
            INCARNATION | SKIP => Some(RepairKind::OfPartition),
            CHECKPOINT => Some(RepairKind::Derived),
            _ => None,
        },
        _ => None,
    }
}

/// The seq at the end of an event's key.
pub(super) fn read_seq(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}
