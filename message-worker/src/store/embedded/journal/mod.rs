//! The journal: rows are durable once they are in it. From time to time its rows are moved into the table.
//!
//! Two files alternate, with one generation each: while one generation is moved into the table, the next one is written
//! to the other file. A file has a header and records ([`format`]). Each group of writes is one record, written and
//! synced at once. [`scan`] decides which records count and what is damage; it compares the files with what the table
//! has recorded. A generation's header is on disk before its predecessor may be recorded as moved. So one of the two
//! files always holds the generation that the table expects next.
//!
//! Records start at whole blocks and bypass the page cache where the file system allows it. This takes a third less CPU
//! than to write and then sync. A file grows by many blocks at a time: overwriting takes a fifth less CPU than
//! appending, which changes the file's metadata with every record. A file grows before a record would reach its end,
//! and every record holds the file's length. So if a file is cut off, a remaining record shows that it was longer.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;

use format::{BLOCK_BYTES, Header, RECORD_HEADER_BYTES, RecordHeader};
pub(super) use scan::{Mark, Scan, scan};

mod format;
mod legacy;
mod scan;
#[cfg(test)]
mod tests;

/// The newest format of these files.
pub(super) const VERSION: u32 = format::VERSION;

/// The names of the files. Generations alternate between them.
pub(super) const FILES: [&str; 2] = ["messages.journal.0", "messages.journal.1"];

/// A file grows by this many bytes at a time, so one record in 64 pays for the others.
const GROWTH_BYTES: usize = 64 * BLOCK_BYTES;

/// Larger buffers are not kept between writes: such a record is a burst, not a usual group.
const SCRATCH_BYTES_MAX: usize = 256 * 1024;

/// Writes bypass the page cache.
#[cfg(target_os = "linux")]
const DIRECT: i32 = libc::O_DIRECT;
/// Other systems have no such flag.
#[cfg(not(target_os = "linux"))]
const DIRECT: i32 = 0;

/// Why the journal could not be opened.
#[derive(Debug)]
pub(super) enum JournalError {
    /// Another process has the journal open.
    InUse,
    /// The file system returned an error.
    Io(io::Error),
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The two files. Only one process holds them at a time.
pub(super) struct Files {
    files: [File; 2],
    /// The contents of the files when they were opened.
    pub(super) contents: [Bytes; 2],
}

impl Files {
    /// Opens or creates the files in `dir`, and reads them.
    pub(super) fn open(dir: &Path) -> Result<Files, JournalError> {
        let flags = if takes_direct_writes(dir) { libc::O_DSYNC | DIRECT } else { libc::O_DSYNC };
        let open = |name| options(flags).open(dir.join(name));
        let files = [open(FILES[0])?, open(FILES[1])?];
        files[0].try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::InUse,
            TryLockError::Error(error) => JournalError::Io(error),
        })?;
        File::open(dir)?.sync_all()?;
        let read = |name| std::fs::read(dir.join(name)).map(Bytes::from);
        let contents = [read(FILES[0])?, read(FILES[1])?];
        Ok(Files { files, contents })
    }

    /// Empties both files. All rows must be in the table.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| {
            file.set_len(0)?;
            file.sync_all()
        })
    }
}

/// The journal while it is written.
pub(super) struct Journal {
    files: [File; 2],
    /// The length of each file on disk, in bytes.
    lengths: [u64; 2],
    store: u64,
    generation: u64,
    salt: u64,
    /// Records written in this generation.
    records: u64,
    /// Where the next record begins.
    end: u64,
    /// A buffer that is kept between writes, so that a write does not allocate.
    scratch: Vec<u8>,
}

impl Journal {
    /// Begins this generation in one of the files. All rows of both files must be in the table.
    pub(super) fn begin(files: Files, store: u64, generation: u64) -> io::Result<Journal> {
        let Files { files, .. } = files;
        let lengths = [files[0].metadata()?.len(), files[1].metadata()?.len()];
        let generation = generation.saturating_sub(1);
        let mut journal =
            Journal { files, lengths, store, generation, salt: 0, records: 0, end: 0, scratch: Vec::new() };
        journal.begin_generation()?;
        Ok(journal)
    }

    /// The number of the current generation.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Begins the next generation in the other file. All rows of that file must be in the table. After an error the
    /// current generation goes on.
    pub(super) fn begin_generation(&mut self) -> io::Result<()> {
        let (generation, salt) = (self.generation + 1, uuid::Uuid::new_v4().as_u64_pair().0);
        // Grow the file first: the header records its length, and a file shorter than that counts as damaged.
        self.grow(turn(generation), 0)?;
        let header = Header {
            store: self.store,
            generation,
            salt,
            allocated: self.lengths[turn(generation)],
            previous_records: self.records,
        };
        let mut scratch = Vec::new();
        let block = aligned(&mut scratch, BLOCK_BYTES, |bytes| bytes.extend_from_slice(&header.encode()));
        self.files[turn(generation)].write_all_at(block, 0)?;
        (self.generation, self.salt, self.records, self.end) = (generation, salt, 0, BLOCK_BYTES as u64);
        Ok(())
    }

    /// Empties both files. All rows must be in the table, and nothing more is written afterwards.
    pub(super) fn clear(self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.set_len(0))
    }

    /// Bytes of the file that this generation uses so far.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// Writes one record and syncs it. After an error the outcome is unknown, and the next record overwrites this one.
    pub(super) fn write<'a>(&mut self, parts: impl Iterator<Item = &'a Bytes> + Clone) -> io::Result<()> {
        let payload_bytes: usize = parts.clone().map(Bytes::len).sum();
        let block_bytes = (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(BLOCK_BYTES);
        self.grow(turn(self.generation), self.end + block_bytes as u64)?;
        let mut record = RecordHeader {
            store: self.store,
            generation: self.generation,
            salt: self.salt,
            number: self.records,
            allocated: self.lengths[turn(self.generation)],
            payload_bytes: payload_bytes as u32,
            checksum: 0,
        };
        let (mut scratch, offset) = (std::mem::take(&mut self.scratch), self.end);
        let blocks = aligned(&mut scratch, block_bytes, |bytes| {
            let start = bytes.len();
            bytes.resize(start + RECORD_HEADER_BYTES, 0);
            parts.for_each(|part| bytes.extend_from_slice(part));
            record.checksum = format::checksum(&bytes[start + RECORD_HEADER_BYTES..], record.salt);
            bytes[start..start + RECORD_HEADER_BYTES].copy_from_slice(&record.encode(offset));
        });
        // The files are opened for synchronous writes, so the blocks are on disk when this returns.
        let outcome = self.files[turn(self.generation)].write_all_at(blocks, self.end);
        if outcome.is_ok() {
            self.end += block_bytes as u64;
            self.records += 1;
        }
        // Do not keep the memory of a rare large record.
        if scratch.capacity() <= SCRATCH_BYTES_MAX {
            self.scratch = scratch;
        }
        outcome
    }

    /// Extends a file with zeros until it reaches beyond `end`.
    fn grow(&mut self, turn: usize, end: u64) -> io::Result<()> {
        let length = self.lengths[turn];
        if end < length {
            return Ok(());
        }
        // If the disk is too full for the usual growth, it may still have room for the record.
        let least = end + BLOCK_BYTES as u64;
        let usual = (end + 1).next_multiple_of(GROWTH_BYTES as u64);
        self.lengths[turn] = self.fill(turn, length, usual).or_else(|_| self.fill(turn, length, least))?;
        Ok(())
    }

    /// Writes zeros, and returns where they end.
    fn fill(&self, turn: usize, from: u64, to: u64) -> io::Result<u64> {
        // Direct writes need whole blocks, so start at a block even if the file ended within one.
        let from = from.next_multiple_of(BLOCK_BYTES as u64);
        let mut scratch = Vec::new();
        let zeros = aligned(&mut scratch, to.saturating_sub(from) as usize, |_| {});
        self.files[turn].write_all_at(zeros, from)?;
        Ok(to)
    }
}

/// The index of the file that holds a generation.
fn turn(generation: u64) -> usize {
    (generation % 2) as usize
}

/// Makes blocks in aligned memory, as direct writes require. The blocks hold what `fill` appends, then zeros up to
/// `bytes`.
fn aligned(scratch: &mut Vec<u8>, bytes: usize, fill: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
    scratch.clear();
    // Reserve enough here, so that the buffer does not move later and stays aligned.
    scratch.reserve(bytes + BLOCK_BYTES);
    let start = scratch.as_ptr().align_offset(BLOCK_BYTES);
    scratch.resize(start, 0);
    fill(scratch);
    scratch.resize(start + bytes, 0);
    &scratch[start..]
}

fn options(flags: i32) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).custom_flags(flags);
    options
}

/// Whether the file system accepts writes that bypass the page cache, in blocks of [`BLOCK_BYTES`].
fn takes_direct_writes(dir: &Path) -> bool {
    let path = dir.join("messages.journal.probe");
    let mut scratch = Vec::new();
    let block = aligned(&mut scratch, BLOCK_BYTES, |_| {});
    let outcome = options(DIRECT).open(&path).and_then(|file| file.write_all_at(block, 0));
    // If the file cannot be removed, the next start reuses it.
    drop(std::fs::remove_file(&path));
    outcome.is_ok()
}
