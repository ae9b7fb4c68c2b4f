//! Encodes rows as keys and values of one sorted table, and decodes them. No I/O.
//!
//! All rows of a conversation lie together, so that a message, its idempotence key and the head touch neighbouring
//! pages. An id is length-prefixed if something follows it, and bare if it ends a key, so that lists come out in
//! ascending order of id. A value starts with its write timestamp; of two values for one key the higher timestamp wins.

use crate::store::{
    Author, Checkpoint, EventRow, FIRST_VERSION, Owner, Projection, Seal, SentRow, Suspension, Tenure,
};
use bytes::{BufMut, Bytes};
use carillon_proto::id::{ConversationId, Tag, UserId};
use carillon_proto::position::{Incarnation, LogGeneration, Position};
use carillon_runtime::cluster::{ClusterId, Mark};

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

const TIMESTAMP_BYTES: usize = 8;

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

/// The kinds of rows that repair distinguishes, by whether a row can be believed without the rows before it.
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

/// Whether an event's value holds an event. A seq that a seal made void has only a timestamp.
pub(super) fn is_there(value: &[u8]) -> bool {
    value.len() > TIMESTAMP_BYTES
}

pub(super) fn timestamp_us(value: &[u8]) -> i64 {
    value.first_chunk().map_or(i64::MIN, |bytes| i64::from_be_bytes(*bytes))
}

/// Rows to write, in one buffer: `key length u16, value length u32, key, value`, repeated.
#[derive(Default)]
pub(super) struct Rows {
    buffer: Vec<u8>,
    rows: usize,
}

impl Rows {
    pub(super) fn put(&mut self, key: &[u8], timestamp_us: i64, body: &[&[u8]]) {
        let body_bytes: usize = body.iter().map(|part| part.len()).sum();
        self.buffer.reserve(6 + key.len() + TIMESTAMP_BYTES + body_bytes);
        self.buffer.put_u16(key.len() as u16);
        self.buffer.put_u32((TIMESTAMP_BYTES + body_bytes) as u32);
        self.buffer.extend_from_slice(key);
        self.buffer.put_i64(timestamp_us);
        body.iter().for_each(|part| self.buffer.extend_from_slice(part));
        self.rows += 1;
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.buffer.into()
    }

    pub(super) fn put_event(&mut self, row: &EventRow) {
        let mark = position_bytes(row.position);
        let key = event(&row.conversation, row.seq);
        self.put(&key, row.timestamp_us, &[&mark, &row.tag.0, &row.blob]);
    }

    /// Marks a seq as absent, unless an event is written with a higher timestamp. The value holds only the timestamp.
    pub(super) fn put_no_event(&mut self, conversation: &ConversationId, seq: u64, timestamp_us: i64) {
        self.put(&event(conversation, seq), timestamp_us, &[]);
    }

    pub(super) fn put_seal(&mut self, conversation: &ConversationId, mark: &Seal) {
        let body = [&mark.incarnation.to_be_bytes()[..], &[u8::from(mark.created)], &mark.seq.to_be_bytes()];
        // The timestamp is the incarnation's number: a conversation has one seal per incarnation, and the numbers rise.
        self.put(&seal(conversation), i64::from(mark.incarnation), &body);
    }

    pub(super) fn put_projection(&mut self, projection: &Projection) {
        match projection {
            Projection::Head { conversation, timestamp_us, blob } => {
                self.put(&head(conversation), *timestamp_us, &[blob]);
            }
            Projection::Participant { conversation, user, timestamp_us, present } => {
                let mut by_conversation = participants(conversation);
                by_conversation.extend_from_slice(user.as_str().as_bytes());
                let mut by_user = conversations(user);
                by_user.extend_from_slice(conversation.as_str().as_bytes());
                self.put(&by_conversation, *timestamp_us, &[&[u8::from(*present)]]);
                self.put(&by_user, *timestamp_us, &[&[u8::from(*present)]]);
            }
            Projection::Sent { conversation, sender, timestamp_us, time_ms, client_id, seq } => {
                let mut key = sent(conversation, sender);
                key.put_u64(!(*timestamp_us as u64 ^ (1 << 63)));
                let numbers = [time_ms.to_be_bytes(), seq.to_be_bytes()];
                self.put(&key, *timestamp_us, &[&numbers[0], &numbers[1], client_id.as_bytes()]);
            }
        }
    }

    pub(super) fn put_checkpoint(&mut self, number: u32, mark: &Checkpoint) {
        let version = mark.version.to_be_bytes();
        self.put(
            &checkpoint(number),
            mark.timestamp_us,
            &[&position_bytes(mark.position), &mark.tag.0, &version],
        );
    }

    pub(super) fn put_tenure(&mut self, number: u32, tenure: &Tenure) {
        let Tenure { incarnation: begun, epoch, owner } = tenure;
        let body = [
            &begun.number.to_be_bytes()[..],
            &begun.first_sequence.to_be_bytes(),
            &begun.base_us.to_be_bytes(),
            &begun.generation.incarnation.to_be_bytes(),
            &begun.generation.first_sequence.to_be_bytes(),
            &epoch.to_be_bytes(),
            owner.as_ref().map_or("", Owner::as_str).as_bytes(),
        ];
        // The timestamp is the incarnation's number, which rises whatever the clock shows. Of two changes in one
        // incarnation the later write wins.
        self.put(&incarnation(number), i64::from(begun.number), &body);
    }

    pub(super) fn put_mark(&mut self, mark: &Mark) {
        // The timestamp can be 0, because the mark is written once.
        self.put(MARK, 0, &[mark.id.as_bytes(), &mark.partitions.to_be_bytes()]);
    }

    pub(super) fn put_suspension(&mut self, number: u32, suspension: &Suspension, timestamp_us: i64) {
        let Suspension { conversation, from, until, reason } = suspension;
        let mut key = suspensions(number);
        key.extend_from_slice(conversation.as_str().as_bytes());
        let until = until.map(position_bytes);
        let until = until.as_ref().map_or(&[][..], |until| &until[..]);
        let body = [&position_bytes(*from)[..], &[u8::from(!until.is_empty())], until, reason.as_bytes()];
        self.put(&key, timestamp_us, &body);
    }

    pub(super) fn put_skip(&mut self, number: u32, position: Position, reason: &str) {
        self.put(&skip(number, position), 0, &[reason.as_bytes()]);
    }
}

/// Reads the rows of a buffer that [`Rows`] made. Ends at the first row that is cut off.
pub(super) fn rows_of(mut buffer: Bytes) -> impl Iterator<Item = (Bytes, Bytes)> {
    std::iter::from_fn(move || {
        let lengths: [u8; 6] = *buffer.first_chunk()?;
        let key_bytes = usize::from(u16::from_be_bytes([lengths[0], lengths[1]]));
        let value_bytes = u32::from_be_bytes([lengths[2], lengths[3], lengths[4], lengths[5]]) as usize;
        if buffer.len() - lengths.len() < key_bytes + value_bytes {
            return None;
        }
        let mut row = buffer.split_to(lengths.len() + key_bytes + value_bytes).split_off(lengths.len());
        let key = row.split_to(key_bytes);
        Some((key, row))
    })
}

const POSITION_BYTES: usize = 16;

fn position_bytes(position: Position) -> [u8; POSITION_BYTES] {
    let mut bytes = [0; POSITION_BYTES];
    bytes[..4].copy_from_slice(&position.incarnation.to_be_bytes());
    bytes[4..12].copy_from_slice(&position.sequence.to_be_bytes());
    bytes[12..].copy_from_slice(&position.index.to_be_bytes());
    bytes
}

/// Reads numbers from the front of a value or key. Returns `None` if too few bytes are left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next_bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.next_bytes().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.next_bytes().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.next_bytes().map(i64::from_be_bytes)
    }

    fn position(&mut self) -> Option<Position> {
        Some(Position { incarnation: self.u32()?, sequence: self.u64()?, index: self.u32()? })
    }
}

/// The seq at the end of an event's key.
pub(super) fn read_seq(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Decodes an event. Returns `None` if the value marks the seq as absent.
pub(super) fn read_event(conversation: &ConversationId, key: &[u8], value: &[u8]) -> Option<EventRow> {
    let mut reader = Reader(value);
    Some(EventRow {
        conversation: conversation.clone(),
        seq: read_seq(key)?,
        timestamp_us: reader.i64()?,
        position: reader.position()?,
        tag: Tag(reader.next_bytes()?),
        blob: Bytes::copy_from_slice(reader.0),
    })
}

pub(super) fn read_head(value: &[u8]) -> Option<Bytes> {
    value.get(TIMESTAMP_BYTES..).map(Bytes::copy_from_slice)
}

/// Whether the value marks a participant as present.
pub(super) fn read_present(value: &[u8]) -> bool {
    value.get(TIMESTAMP_BYTES) == Some(&1)
}

pub(super) fn read_sent(value: &[u8]) -> Option<SentRow> {
    let mut reader = Reader(value.get(TIMESTAMP_BYTES..)?);
    let (time_ms, seq) = (reader.u64()?, reader.u64()?);
    Some(SentRow { client_id: String::from_utf8_lossy(reader.0).into_owned(), seq, time_ms })
}

pub(super) fn read_checkpoint(value: &[u8]) -> Option<Checkpoint> {
    let mut reader = Reader(value);
    let timestamp_us = reader.i64()?;
    let (position, tag) = (reader.position()?, Tag(reader.next_bytes()?));
    // Checkpoints from before versions were recorded have no version.
    let version = reader.u32().unwrap_or(FIRST_VERSION);
    Some(Checkpoint { position, tag, timestamp_us, version })
}

pub(super) fn read_tenure(value: &[u8]) -> Option<Tenure> {
    let mut reader = Reader(value.get(TIMESTAMP_BYTES..)?);
    let bare = Incarnation::new(reader.u32()?, reader.u64()?, reader.i64()?);
    // Tenures from before log generations were recorded have none. In them every incarnation is a log generation of its
    // own.
    let generation = reader
        .u32()
        .and_then(|incarnation| Some(LogGeneration { incarnation, first_sequence: reader.u64()? }));
    let incarnation = Incarnation { generation: generation.unwrap_or(bare.generation), ..bare };
    let epoch = reader.u64().unwrap_or(0);
    let owner = String::from_utf8_lossy(reader.0).into_owned();
    Some(Tenure { incarnation, epoch, owner: (!owner.is_empty()).then(|| Owner::stored(owner)) })
}

pub(super) fn read_seal(value: &[u8]) -> Option<Seal> {
    let mut reader = Reader(value.get(TIMESTAMP_BYTES..)?);
    let (incarnation, [created]) = (reader.u32()?, reader.next_bytes()?);
    Some(Seal { incarnation, created: created != 0, seq: reader.u64()? })
}

pub(super) fn read_mark(value: &[u8]) -> Option<Mark> {
    let mut reader = Reader(value.get(TIMESTAMP_BYTES..)?);
    Some(Mark { id: ClusterId::of_bytes(reader.next_bytes()?), partitions: reader.u32()? })
}

pub(super) fn read_suspension(number: u32, key: &[u8], value: &[u8]) -> Option<Suspension> {
    let conversation = std::str::from_utf8(key.get(suspensions(number).len()..)?).ok()?;
    let mut reader = Reader(value.get(TIMESTAMP_BYTES..)?);
    let (from, [ended]) = (reader.position()?, reader.next_bytes()?);
    let until = if ended == 0 { None } else { Some(reader.position()?) };
    let reason = String::from_utf8_lossy(reader.0).into_owned();
    Some(Suspension { conversation: ConversationId::parse(conversation).ok()?, from, until, reason })
}

pub(super) fn read_skip(incarnation: u32, key: &[u8]) -> Option<Position> {
    let mut reader = Reader(key.get(key.len().checked_sub(12)?..)?);
    Some(Position { incarnation, sequence: reader.u64()?, index: reader.u32()? })
}
