//! The values of one sorted table: encodes rows, and decodes them. No I/O.
//!
//! A value starts with its write timestamp. Of two values for one key the higher timestamp wins.

use super::key;
use crate::store::{
    Checkpoint, EventRow, FIRST_VERSION, Owner, Projection, Seal, SentRow, Suspension, Tenure,
};
use bytes::{BufMut, Bytes};
use carillon_proto::id::{ConversationId, Tag};
use carillon_proto::position::{Incarnation, LogGeneration, Position};
use carillon_runtime::cluster::{ClusterId, Mark};

/// The bytes of a value's write timestamp.
pub(super) const TIMESTAMP_BYTES: usize = 8;

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
        let key = key::event(&row.conversation, row.seq);
        self.put(&key, row.timestamp_us, &[&mark, &row.tag.0, &row.blob]);
    }

    /// Marks a seq as absent, unless an event is written with a higher timestamp. The value holds only the timestamp.
    pub(super) fn put_no_event(&mut self, conversation: &ConversationId, seq: u64, timestamp_us: i64) {
        self.put(&key::event(conversation, seq), timestamp_us, &[]);
    }

    pub(super) fn put_seal(&mut self, conversation: &ConversationId, mark: &Seal) {
        let body = [&mark.incarnation.to_be_bytes()[..], &[u8::from(mark.created)], &mark.seq.to_be_bytes()];
        // The timestamp is the incarnation's number: a conversation has one seal per incarnation, and the numbers rise.
        self.put(&key::seal(conversation), i64::from(mark.incarnation), &body);
    }

    pub(super) fn put_projection(&mut self, projection: &Projection) {
        match projection {
            Projection::Head { conversation, timestamp_us, blob } => {
                self.put(&key::head(conversation), *timestamp_us, &[blob]);
            }
            Projection::Participant { conversation, user, timestamp_us, present } => {
                let mut by_conversation = key::participants(conversation);
                by_conversation.extend_from_slice(user.as_str().as_bytes());
                let mut by_user = key::conversations(user);
                by_user.extend_from_slice(conversation.as_str().as_bytes());
                self.put(&by_conversation, *timestamp_us, &[&[u8::from(*present)]]);
                self.put(&by_user, *timestamp_us, &[&[u8::from(*present)]]);
            }
            Projection::Sent { conversation, sender, timestamp_us, time_ms, client_id, seq } => {
                let mut key = key::sent(conversation, sender);
                key.put_u64(!(*timestamp_us as u64 ^ (1 << 63)));
                let numbers = [time_ms.to_be_bytes(), seq.to_be_bytes()];
                self.put(&key, *timestamp_us, &[&numbers[0], &numbers[1], client_id.as_bytes()]);
            }
        }
    }

    pub(super) fn put_checkpoint(&mut self, number: u32, mark: &Checkpoint) {
        let version = mark.version.to_be_bytes();
        self.put(
            &key::checkpoint(number),
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
        self.put(&key::incarnation(number), i64::from(begun.number), &body);
    }

    pub(super) fn put_mark(&mut self, mark: &Mark) {
        // The timestamp can be 0, because the mark is written once.
        self.put(key::MARK, 0, &[mark.id.as_bytes(), &mark.partitions.to_be_bytes()]);
    }

    pub(super) fn put_suspension(&mut self, number: u32, suspension: &Suspension, timestamp_us: i64) {
        let Suspension { conversation, from, until, reason } = suspension;
        let mut key = key::suspensions(number);
        key.extend_from_slice(conversation.as_str().as_bytes());
        let until = until.map(position_bytes);
        let until = until.as_ref().map_or(&[][..], |until| &until[..]);
        let body = [&position_bytes(*from)[..], &[u8::from(!until.is_empty())], until, reason.as_bytes()];
        self.put(&key, timestamp_us, &body);
    }

    pub(super) fn put_skip(&mut self, number: u32, position: Position, reason: &str) {
        self.put(&key::skip(number, position), 0, &[reason.as_bytes()]);
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

/// Decodes an event. Returns `None` if the value marks the seq as absent.
pub(super) fn read_event(conversation: &ConversationId, key: &[u8], value: &[u8]) -> Option<EventRow> {
    let mut reader = Reader(value);
    Some(EventRow {
        conversation: conversation.clone(),
        seq: key::read_seq(key)?,
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
    let conversation = std::str::from_utf8(key.get(key::suspensions(number).len()..)?).ok()?;
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
