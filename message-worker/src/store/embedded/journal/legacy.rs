//! Reads the journal's first format, which had no version. Its rows are moved into the table, and the format is never
//! written again. No I/O.
//!
//! A record does not name its generation; its checksum is seeded with the generation's salt instead. The first record
//! begins directly after the header.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::format::BLOCK_BYTES;

const MAGIC: [u8; 8] = *b"CARILLN1";
const HEADER_BYTES: usize = 32;
const RECORD_HEADER_BYTES: usize = 12;

/// The content of a file in the first format.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Legacy {
    pub(super) generation: u64,
    /// The payloads of the records before the first one that is not whole.
    pub(super) payloads: Vec<Bytes>,
    /// Where the first record begins that is not whole, if readable records lie after it.
    pub(super) bad_at: Option<u64>,
    /// The readable payloads after it.
    pub(super) behind: Vec<Bytes>,
}

/// Reads a file. Returns `None` if it is not of this format.
pub(super) fn read(content: &Bytes) -> Option<Legacy> {
    let header = content.get(..HEADER_BYTES)?;
    let number = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let (generation, salt, checksum) = (number(8)?, number(16)?, number(24)?);
    if header[..8] != MAGIC || checksum != xxh3_64_with_seed(&header[..24], 0) {
        return None;
    }
    let mut legacy = Legacy { generation, payloads: Vec::new(), bad_at: None, behind: Vec::new() };
    let mut at = HEADER_BYTES;
    while let Some(payload) = record(content, at, salt) {
        at = end(at, &payload);
        legacy.payloads.push(payload);
    }
    let mut beyond = (at + 1).next_multiple_of(BLOCK_BYTES);
    while beyond < content.len() {
        match record(content, beyond, salt) {
            Some(payload) => {
                beyond = end(beyond, &payload);
                legacy.behind.push(payload);
            }
            None => beyond += BLOCK_BYTES,
        }
    }
    legacy.bad_at = (!legacy.behind.is_empty()).then_some(at as u64);
    Some(legacy)
}

fn end(at: usize, payload: &Bytes) -> usize {
    (at + RECORD_HEADER_BYTES + payload.len()).next_multiple_of(BLOCK_BYTES)
}

fn record(content: &Bytes, at: usize, salt: u64) -> Option<Bytes> {
    let rest = content.get(at..)?;
    let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
    let checksum = u64::from_le_bytes(*rest.get(4..)?.first_chunk()?);
    let end = RECORD_HEADER_BYTES.checked_add(length).filter(|end| *end <= rest.len())?;
    let payload = &rest[RECORD_HEADER_BYTES..end];
    (xxh3_64_with_seed(payload, salt) == checksum).then(|| content.slice_ref(payload))
}

/// Makes a file in the first format.
#[cfg(test)]
pub(super) fn write(generation: u64, payloads: &[&str]) -> Vec<u8> {
    let salt = 7u64;
    let mut file = Vec::from(MAGIC);
    file.extend_from_slice(&generation.to_le_bytes());
    file.extend_from_slice(&salt.to_le_bytes());
    let checksum = xxh3_64_with_seed(&file, 0);
    file.extend_from_slice(&checksum.to_le_bytes());
    for payload in payloads {
        file.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        file.extend_from_slice(&xxh3_64_with_seed(payload.as_bytes(), salt).to_le_bytes());
        file.extend_from_slice(payload.as_bytes());
        file.resize(file.len().next_multiple_of(BLOCK_BYTES), 0);
    }
    file.resize(file.len().next_multiple_of(64 * BLOCK_BYTES), 0);
    file
}
