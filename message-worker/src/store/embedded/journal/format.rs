//! The bytes of a journal file: a header in its first block, then records. No I/O.
//!
//! Each record names its generation. So records that earlier generations left after the end of this one can be
//! distinguished from records that lie after damage. Every write is one record with one checksum. So acknowledged rows
//! lie in whole records, and a write that was cut off is exactly one bad record, in whichever order its sectors reached
//! the disk.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Records start at multiples of this. Disk sectors are at most this large, and memory pages are at least this large.
pub(in crate::store::embedded) const BLOCK_BYTES: usize = 4096;
/// The first bytes of every format that carries its version.
const MAGIC: [u8; 8] = *b"CARILLON";
/// The format that is written. Version 1 starts with other bytes and is read by [`super::legacy`].
pub(super) const VERSION: u32 = 2;
const HEADER_BYTES: usize = 64;
/// Bytes of a record before its payload.
pub(super) const RECORD_HEADER_BYTES: usize = 64;

/// The header of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The number of the store that the journal belongs to.
    pub(super) store: u64,
    /// The generation's number. It rises by one each time the writer switches files.
    pub(super) generation: u64,
    /// A random number of this generation.
    pub(super) salt: u64,
    /// Bytes that the file had when the header was written. The file never gets shorter afterwards.
    pub(super) allocated: u64,
    /// How many records of the previous generation are certainly on disk.
    pub(super) previous_records: u64,
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) store: u64,
    pub(super) generation: u64,
    pub(super) salt: u64,
    /// The record's number in its generation, from 0.
    pub(super) number: u64,
    /// Bytes that the file had when this record was written. The file never gets shorter afterwards.
    pub(super) allocated: u64,
    pub(super) payload_bytes: u32,
    pub(super) checksum: u64,
}

/// The content of a file's first block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FirstBlock {
    /// A generation's header.
    Header(Header),
    /// A header of a version that this build does not know.
    Version(u32),
    /// No header of a format with a version.
    Unknown,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |number| u64::from_le_bytes(*number))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |number| u32::from_le_bytes(*number))
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let numbers = [self.store, self.generation, self.salt, self.allocated, self.previous_records];
        for (field, number) in bytes[16..].chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        let checksum = xxh3_64_with_seed(&bytes[..56], 0);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// Reads the first block of a file.
pub(super) fn first_block(content: &[u8]) -> FirstBlock {
    let Some(bytes) = content.get(..HEADER_BYTES).filter(|bytes| bytes.starts_with(&MAGIC)) else {
        return FirstBlock::Unknown;
    };
    // The checksum is at this place in every version, so that an unknown version can be distinguished from damage.
    if u64_at(bytes, 56) != xxh3_64_with_seed(&bytes[..56], 0) {
        return FirstBlock::Unknown;
    }
    match u32_at(bytes, 8) {
        VERSION => FirstBlock::Header(Header {
            store: u64_at(bytes, 16),
            generation: u64_at(bytes, 24),
            salt: u64_at(bytes, 32),
            allocated: u64_at(bytes, 40),
            previous_records: u64_at(bytes, 48),
        }),
        version => FirstBlock::Version(version),
    }
}

impl RecordHeader {
    /// Encodes the header of a record that begins at `offset`.
    pub(super) fn encode(&self, offset: u64) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        let numbers = [self.store, self.generation, self.salt, self.number, self.allocated];
        for (field, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        bytes[40..44].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.checksum.to_le_bytes());
        let checksum = xxh3_64_with_seed(&bytes[..56], self.salt ^ offset);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Where the next record begins.
    pub(super) fn end(&self, offset: u64) -> u64 {
        offset + (RECORD_HEADER_BYTES + self.payload_bytes as usize).next_multiple_of(BLOCK_BYTES) as u64
    }

    /// Returns the payload of the record at `offset` if it is whole.
    pub(super) fn payload(&self, content: &Bytes, offset: u64) -> Option<Bytes> {
        let payload = self.payload_as_it_is(content, offset);
        let whole = payload.len() == self.payload_bytes as usize;
        (whole && xxh3_64_with_seed(&payload, self.salt) == self.checksum).then_some(payload)
    }

    /// Returns the bytes in the place of the payload of the record at `offset`, whole or not.
    pub(super) fn payload_as_it_is(&self, content: &Bytes, offset: u64) -> Bytes {
        let start = (offset as usize + RECORD_HEADER_BYTES).min(content.len());
        content.slice(start..(start + self.payload_bytes as usize).min(content.len()))
    }
}

/// Reads the header of the record at `offset`, of any generation. Returns `None` if its checksum is wrong.
pub(super) fn record_header(content: &[u8], offset: u64) -> Option<RecordHeader> {
    let bytes = content.get(offset as usize..)?.get(..RECORD_HEADER_BYTES)?;
    let salt = u64_at(bytes, 16);
    (u64_at(bytes, 56) == xxh3_64_with_seed(&bytes[..56], salt ^ offset)).then(|| RecordHeader {
        store: u64_at(bytes, 0),
        generation: u64_at(bytes, 8),
        salt,
        number: u64_at(bytes, 24),
        allocated: u64_at(bytes, 32),
        payload_bytes: u32_at(bytes, 40),
        checksum: u64_at(bytes, 48),
    })
}

/// The checksum of a payload in a generation with this salt.
pub(super) fn checksum(payload: &[u8], salt: u64) -> u64 {
    xxh3_64_with_seed(payload, salt)
}
