//! The journal: rows are durable once they are in it, and it is emptied into the table now and then.
//!
//! Two files take turns, a generation each: while one generation is carried over into the table, the next
//! is written to the other file. A file is a header and records, one for each group of writes, each written
//! and synced at once. A record counts only if its checksum holds, which is seeded with the generation's
//! random salt: neither a torn tail nor what an earlier generation left further on in the file is read.
//!
//! Records start at whole blocks and are written past the page cache where the file system allows it, which
//! takes a third less CPU than to write and then sync. A file grows by many blocks at a time: to overwrite what is
//! there takes a fifth less than to append, which changes the file's own data with every record.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What the files are called, and in whose turn they are the second is the first's other.
const FILES: [&str; 2] = ["messages.journal.0", "messages.journal.1"];
const MAGIC: [u8; 8] = *b"CARILLN1";
const HEADER_BYTES: usize = 32;
const RECORD_HEADER_BYTES: usize = 12;
/// Records start at multiples of this: no disk has larger sectors, and memory pages are no smaller.
const BLOCK_BYTES: usize = 4096;

/// A file grows by so many bytes at a time: one record in 64 pays for the others, with the time of a larger write.
const GROWTH_BYTES: usize = 64 * BLOCK_BYTES;

/// Writes go past the page cache.
#[cfg(target_os = "linux")]
const DIRECT: i32 = libc::O_DIRECT;
/// Other systems have no flag for it.
#[cfg(not(target_os = "linux"))]
const DIRECT: i32 = 0;

/// Why the journal could not be opened.
#[derive(Debug)]
pub(super) enum JournalError {
    /// Another process has it.
    InUse,
    /// Its file system refused.
    Io(io::Error),
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The journal, held by one process at a time.
pub(super) struct Journal {
    files: [File; 2],
    /// Bytes that each file has on disk.
    lengths: [u64; 2],
    /// Which file is written.
    turn: usize,
    generation: u64,
    salt: u64,
    /// Where the next record goes; 0: the header is to be written with it.
    end: u64,
    /// Kept between writes so that none allocates.
    scratch: Vec<u8>,
}

impl Journal {
    /// Opens or makes the journal in `dir` and returns it with the payloads it holds, oldest first. They stay
    /// in it until the second next generation begins.
    pub(super) fn open(dir: &Path) -> Result<(Journal, Vec<Bytes>), JournalError> {
        let flags = if takes_direct_writes(dir) { libc::O_DSYNC | DIRECT } else { libc::O_DSYNC };
        let open = |name| options(flags).open(dir.join(name));
        let files = [open(FILES[0])?, open(FILES[1])?];
        files[0].try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::InUse,
            TryLockError::Error(error) => JournalError::Io(error),
        })?;
        File::open(dir)?.sync_all()?;
        let mut held = Vec::new();
        for (turn, name) in FILES.iter().enumerate() {
            let content = std::fs::read(dir.join(name))?;
            held.extend(
                read_generation(content.into()).map(|(generation, payloads)| (generation, turn, payloads)),
            );
        }
        held.sort_by_key(|(generation, ..)| *generation);
        let (generation, turn) = held.last().map_or((0, 1), |(generation, turn, _)| (*generation, *turn));
        let lengths = [files[0].metadata()?.len(), files[1].metadata()?.len()];
        let mut journal = Journal { files, lengths, turn, generation, salt: 0, end: 0, scratch: Vec::new() };
        journal.begin_generation();
        Ok((journal, held.into_iter().flat_map(|(.., payloads)| payloads).collect()))
    }

    /// Turns to the other file. What that one held must be in the table by now.
    pub(super) fn begin_generation(&mut self) {
        self.turn = 1 - self.turn;
        self.generation += 1;
        self.salt = uuid::Uuid::new_v4().as_u64_pair().0;
        self.end = 0;
    }

    /// Empties both files, when everything is in the table and nothing more will be written.
    pub(super) fn clear(self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.set_len(0))
    }

    /// Bytes of the file that this generation takes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// Writes one record and syncs it. After an error the outcome is unknown, and the next record takes its
    /// place.
    pub(super) fn write<'a>(&mut self, parts: impl Iterator<Item = &'a Bytes> + Clone) -> io::Result<()> {
        let payload_bytes: usize = parts.clone().map(Bytes::len).sum();
        let header_bytes = if self.end == 0 { HEADER_BYTES } else { 0 };
        let block_bytes = (header_bytes + RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(BLOCK_BYTES);
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        // Direct writes are taken from aligned memory only; with this reserved, it does not move any more.
        scratch.reserve(block_bytes + BLOCK_BYTES);
        let start = scratch.as_ptr().align_offset(BLOCK_BYTES);
        scratch.resize(start, 0);
        if header_bytes > 0 {
            scratch.extend_from_slice(&self.header());
        }
        let record = scratch.len();
        scratch.resize(record + RECORD_HEADER_BYTES, 0);
        parts.for_each(|part| scratch.extend_from_slice(part));
        let (header, payload) = scratch[record..].split_at_mut(RECORD_HEADER_BYTES);
        header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[4..].copy_from_slice(&xxh3_64_with_seed(payload, self.salt).to_le_bytes());
        scratch.resize(start + block_bytes, 0);
        let outcome = self.write_blocks(&scratch[start..]);
        if outcome.is_ok() {
            self.end += block_bytes as u64;
        }
        // A rare large record must not keep its memory for good.
        if scratch.capacity() <= SCRATCH_BYTES_MAX {
            self.scratch = scratch;
        }
        outcome
    }

    /// Writes blocks, and zeros behind them where the file ends. The files are open for synchronous writes: when this
    /// returns, the blocks are on disk.
    fn write_blocks(&mut self, blocks: &[u8]) -> io::Result<()> {
        let (file, length) = (&self.files[self.turn], &mut self.lengths[self.turn]);
        if self.end + blocks.len() as u64 <= *length {
            return file.write_all_at(blocks, self.end);
        }
        let grown = blocks.len().next_multiple_of(GROWTH_BYTES);
        let mut aligned = vec![0; grown + BLOCK_BYTES];
        let first = aligned.as_ptr().align_offset(BLOCK_BYTES);
        aligned[first..first + blocks.len()].copy_from_slice(blocks);
        // A disk that is nearly full may still have room for the record.
        if file.write_all_at(&aligned[first..first + grown], self.end).is_ok() {
            *length = self.end + grown as u64;
            return Ok(());
        }
        file.write_all_at(blocks, self.end)
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&self.generation.to_le_bytes());
        header[16..24].copy_from_slice(&self.salt.to_le_bytes());
        let checksum = xxh3_64_with_seed(&header[..24], 0);
        header[24..].copy_from_slice(&checksum.to_le_bytes());
        header
    }
}

fn options(flags: i32) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).custom_flags(flags);
    options
}

/// Whether the file system takes writes past its page cache, in blocks of our size.
fn takes_direct_writes(dir: &Path) -> bool {
    let path = dir.join("messages.journal.probe");
    let memory = vec![0; 2 * BLOCK_BYTES];
    let start = memory.as_ptr().align_offset(BLOCK_BYTES);
    let block = &memory[start..start + BLOCK_BYTES];
    let outcome = options(DIRECT).open(&path).and_then(|file| file.write_all_at(block, 0));
    // If it stays, it is found again by the next start.
    drop(std::fs::remove_file(&path));
    outcome.is_ok()
}

/// Larger records than this are a burst, not the usual group.
const SCRATCH_BYTES_MAX: usize = 256 * 1024;

/// The number of the generation in a file, and its payloads; `None` when the file has none.
fn read_generation(content: Bytes) -> Option<(u64, Vec<Bytes>)> {
    let header = content.get(..HEADER_BYTES)?;
    let number = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let (generation, salt, checksum) = (number(8)?, number(16)?, number(24)?);
    if header[..8] != MAGIC || checksum != xxh3_64_with_seed(&header[..24], 0) {
        return None;
    }
    let (mut payloads, mut at) = (Vec::new(), HEADER_BYTES);
    while let Some(payload) = content.get(at..).and_then(|rest| read_record(content.slice_ref(rest), salt)) {
        at = (at + RECORD_HEADER_BYTES + payload.len()).next_multiple_of(BLOCK_BYTES);
        payloads.push(payload);
    }
    Some((generation, payloads))
}

fn read_record(rest: Bytes, salt: u64) -> Option<Bytes> {
    let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
    let checksum = u64::from_le_bytes(*rest.get(4..)?.first_chunk()?);
    let end = RECORD_HEADER_BYTES.checked_add(length)?;
    let payload = (end <= rest.len()).then(|| rest.slice(RECORD_HEADER_BYTES..end))?;
    (xxh3_64_with_seed(&payload, salt) == checksum).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(journal: &mut Journal, payload: &'static str) {
        journal.write([Bytes::from_static(payload.as_bytes())].iter()).expect("a disk");
    }

    fn reopen(dir: &Path, journal: Journal) -> (Journal, Vec<Bytes>) {
        drop(journal);
        Journal::open(dir).expect("opens")
    }

    #[test]
    fn holds_the_last_two_generations_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut journal, held) = Journal::open(dir.path()).expect("opens");
        assert_eq!(held, Vec::<Bytes>::new());
        for (first, second) in [("a1", "a2"), ("b1, longer than what follows", "b2"), ("c1", "c2")] {
            write(&mut journal, first);
            write(&mut journal, second);
            journal.begin_generation();
        }
        write(&mut journal, "d1");
        let (journal, held) = reopen(dir.path(), journal);
        assert_eq!(held, ["c1", "c2", "d1"], "and nothing of b, which d overwrote");
        let (mut journal, held) = reopen(dir.path(), journal);
        assert_eq!(held, ["c1", "c2", "d1"], "opening alone changes nothing");
        write(&mut journal, "e1");
        assert_eq!(reopen(dir.path(), journal).1, ["d1", "e1"]);
    }

    #[test]
    fn a_torn_tail_is_not_read_at_any_length() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut journal, _) = Journal::open(dir.path()).expect("opens");
        write(&mut journal, "whole");
        write(&mut journal, "torn apart");
        drop(journal);
        let path = dir.path().join(FILES[0]);
        let full = std::fs::read(&path).expect("readable");
        let record = |payload: &str| RECORD_HEADER_BYTES + payload.len();
        let whole_bytes = HEADER_BYTES + record("whole");
        let torn = BLOCK_BYTES..BLOCK_BYTES + record("torn apart");
        assert_eq!(full.len(), GROWTH_BYTES);
        for length in (0..whole_bytes + 5).chain(torn.start - 5..torn.end) {
            std::fs::write(&path, &full[..length]).expect("writable");
            let (_, held) = Journal::open(dir.path()).expect("opens");
            assert_eq!(held.len(), usize::from(length >= whole_bytes), "cut at {length}");
        }
        for at in torn {
            let mut flipped = full.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).expect("writable");
            assert_eq!(Journal::open(dir.path()).expect("opens").1, ["whole"], "flipped at {at}");
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = Journal::open(dir.path()).expect("opens");
        assert!(matches!(Journal::open(dir.path()), Err(JournalError::InUse)));
        drop(held);
        assert!(Journal::open(dir.path()).is_ok());
    }
}
