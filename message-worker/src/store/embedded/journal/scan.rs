//! Reads the two files of a journal and distinguishes a write that was cut off (a torn tail) from damage. No I/O.
//!
//! A torn tail is one record that is not whole, at the end of the newest generation, with no record of that generation
//! after it. Such a write was never acknowledged. Everything else that does not fit is damage. Records after damage are
//! used only by a repair that an operator starts.

use std::fmt;

use bytes::Bytes;

use super::FILES;
use super::format::{self, BLOCK_BYTES, FirstBlock, Header, RecordHeader};
use super::legacy::{self, Legacy};

/// What the table has recorded about the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store::embedded) struct Mark {
    /// The number of the store that table and journal belong to.
    pub(in crate::store::embedded) store: u64,
    /// All generations up to this one are in the table.
    pub(in crate::store::embedded) carried: u64,
    /// The generation after `carried` has begun, so one of the files must hold it.
    pub(in crate::store::embedded) in_use: bool,
}

/// A place where a file does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store::embedded) struct Damage {
    pub(in crate::store::embedded) file: &'static str,
    pub(in crate::store::embedded) offset: u64,
    pub(in crate::store::embedded) what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.what)
    }
}

/// The result of reading both files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::store::embedded) struct Scan {
    /// The payloads to move into the table, oldest first.
    pub(in crate::store::embedded) payloads: Vec<Bytes>,
    /// The highest generation number of this store that was found.
    pub(in crate::store::embedded) newest: u64,
    /// A write that was cut off.
    pub(in crate::store::embedded) torn: Option<Damage>,
    /// The damages that were found.
    pub(in crate::store::embedded) damages: Vec<Damage>,
    /// The readable payloads after the first damage, oldest first.
    pub(in crate::store::embedded) behind: Vec<Bytes>,
    /// The bytes of records that are not whole.
    pub(in crate::store::embedded) unreadable: Vec<Bytes>,
}

/// A file has a format that this build does not know.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store::embedded) struct UnknownVersion {
    pub(in crate::store::embedded) file: &'static str,
    pub(in crate::store::embedded) version: u32,
}

/// The kind of a file.
enum Kind {
    Empty,
    Generation(Header),
    Legacy(Legacy),
    Unknown,
}

/// A generation that is not in the table yet, and its file.
struct HeldGeneration<'a> {
    file: &'static str,
    content: &'a Bytes,
    header: Header,
}

/// The result of walking through one generation's records.
#[derive(Default)]
struct Walk {
    payloads: Vec<Bytes>,
    /// Where the last whole record in sequence ends.
    end: u64,
    /// The minimum length of the file, by its header and records.
    allocated: u64,
    /// The record at `end`, if one begins there that is not whole.
    bad: Option<RecordHeader>,
    behind: Vec<Bytes>,
    /// How many records lie after `end`, whole or not.
    records_behind: usize,
    unreadable: Vec<Bytes>,
}

/// Reads both files.
pub(in crate::store::embedded) fn scan(files: &[Bytes; 2], mark: &Mark) -> Result<Scan, UnknownVersion> {
    let mut scan = Scan { newest: mark.carried, ..Scan::default() };
    let mut held = Vec::new();
    let mut older = Vec::new();
    for (file, content) in FILES.into_iter().zip(files) {
        match kind(file, content)? {
            Kind::Empty => {}
            Kind::Generation(header) if header.store != mark.store => {
                let what =
                    "the journal of another store, or the table beside it is not the one that it belongs to";
                scan.damages.push(Damage { file, offset: 0, what: what.into() });
            }
            Kind::Generation(header) => held.push(HeldGeneration { file, content, header }),
            Kind::Legacy(found) => older.push((file, found)),
            Kind::Unknown => scan.add_unknown(file, content, mark),
        }
    }
    if !mark.in_use {
        scan.add_legacy(older);
    }
    held.retain(|held| held.header.generation > mark.carried);
    held.sort_by_key(|held| held.header.generation);
    scan.compare(&held, mark);
    for (index, generation) in held.iter().enumerate() {
        scan.add_generation(generation, held.get(index + 1).map(|next| next.header.previous_records));
    }
    Ok(scan)
}

fn kind(file: &'static str, content: &Bytes) -> Result<Kind, UnknownVersion> {
    // A new file is grown before its first header is written. If the process dies between the two, the file has only
    // zeros.
    if content.iter().all(|byte| *byte == 0) {
        return Ok(Kind::Empty);
    }
    match format::first_block(content) {
        FirstBlock::Header(header) => Ok(Kind::Generation(header)),
        FirstBlock::Version(version) => Err(UnknownVersion { file, version }),
        FirstBlock::Unknown => Ok(legacy::read(content).map_or(Kind::Unknown, Kind::Legacy)),
    }
}

impl Scan {
    /// Notes a file whose first block is unknown as damage, and collects the records of this store in it.
    fn add_unknown(&mut self, file: &'static str, content: &Bytes, mark: &Mark) {
        let records: Vec<_> = blocks(content, BLOCK_BYTES as u64)
            .filter_map(|offset| Some((offset, format::record_header(content, offset)?)))
            .filter(|(_, record)| record.store == mark.store && record.generation > mark.carried)
            .collect();
        let generation = records.iter().map(|(_, record)| record.generation).max().unwrap_or(0);
        self.newest = self.newest.max(generation);
        let mut found = 0;
        for (offset, record) in records.into_iter().filter(|(_, record)| record.generation == generation) {
            found += 1;
            match record.payload(content, offset) {
                Some(payload) => self.behind.push(payload),
                None => self.unreadable.push(record.payload_as_it_is(content, offset)),
            }
        }
        let what = format!(
            "neither the header of a journal nor an empty file, and {found} records of this store are behind it"
        );
        self.damages.push(Damage { file, offset: 0, what });
    }

    /// Adds the payloads of files in the first format. The table has no record of their generations.
    fn add_legacy(&mut self, mut older: Vec<(&'static str, Legacy)>) {
        older.sort_by_key(|(_, found)| found.generation);
        for (file, found) in older {
            self.newest = self.newest.max(found.generation);
            let sound = self.damages.is_empty();
            if sound { &mut self.payloads } else { &mut self.behind }.extend(found.payloads);
            if let Some(offset) = found.bad_at {
                let what = bad_record(found.behind.len());
                self.damages.push(Damage { file, offset, what });
                self.behind.extend(found.behind);
            }
        }
    }

    /// Compares the generations in the files with those that the table expects.
    fn compare(&mut self, held: &[HeldGeneration<'_>], mark: &Mark) {
        let numbers: Vec<u64> = held.iter().map(|held| held.header.generation).collect();
        let fits = if mark.in_use {
            numbers.first() == Some(&(mark.carried + 1))
                && numbers.iter().all(|number| *number <= mark.carried + 2)
        } else {
            // A generation begins before the table records that the journal is in use.
            numbers.iter().all(|number| *number == mark.carried + 1)
                && held.iter().all(|held| walk(held).payloads.iter().all(Bytes::is_empty))
        };
        if fits || !self.damages.is_empty() {
            return;
        }
        let (file, what) = match held.first() {
            None => {
                let [first, second] = FILES;
                let expected = mark.carried + 1;
                (
                    first,
                    format!(
                        "generation {expected}, which the table waits for, is neither here nor in {second}"
                    ),
                )
            }
            Some(found) => {
                let (number, carried) = (found.header.generation, mark.carried);
                (
                    found.file,
                    format!(
                        "generation {number}, while the table beside it ends with {carried}: it is an older one"
                    ),
                )
            }
        };
        self.damages.push(Damage { file, offset: 0, what });
    }

    /// Adds the records of a generation. `certain` is the minimum number of its records, from the next generation's
    /// header; it is `None` for the newest generation.
    fn add_generation(&mut self, held: &HeldGeneration<'_>, certain: Option<u64>) {
        let walk = walk(held);
        self.newest = self.newest.max(held.header.generation);
        let sound = self.damages.is_empty();
        let records = walk.payloads.len() as u64;
        let bad = |what| Damage { file: held.file, offset: walk.end, what };
        if walk.records_behind > 0 {
            self.damages.push(bad(bad_record(walk.records_behind)));
        } else if certain.is_some_and(|certain| records < certain) {
            self.damages.push(bad(bad_record(certain.unwrap_or(0).saturating_sub(records) as usize - 1)));
        } else if (held.content.len() as u64) < walk.allocated {
            let (length, allocated) = (held.content.len(), walk.allocated);
            let what = format!("the file ends at byte {length}, and once had {allocated} bytes");
            self.damages.push(bad(what));
        } else if let Some(record) = walk.bad {
            let bytes = record.payload_bytes;
            self.torn = Some(bad(format!("a write of {bytes} bytes was cut off")));
        }
        if sound { &mut self.payloads } else { &mut self.behind }.extend(walk.payloads);
        if !self.damages.is_empty() {
            self.behind.extend(walk.behind);
            self.unreadable.extend(walk.unreadable);
        }
    }
}

fn bad_record(behind: usize) -> String {
    format!("the record there cannot be read, and {behind} more of its generation are behind it")
}

/// The offsets, from `first` on, at which a record may begin.
fn blocks(content: &Bytes, first: u64) -> impl Iterator<Item = u64> + use<> {
    (first..content.len() as u64).step_by(BLOCK_BYTES)
}

fn walk(held: &HeldGeneration<'_>) -> Walk {
    let HeldGeneration { content, header, .. } = held;
    let own = |offset| {
        format::record_header(content, offset).filter(|record| {
            (record.store, record.generation, record.salt) == (header.store, header.generation, header.salt)
        })
    };
    let mut walk = Walk { end: BLOCK_BYTES as u64, allocated: header.allocated, ..Walk::default() };
    while let Some(record) = own(walk.end) {
        walk.allocated = walk.allocated.max(record.allocated);
        let whole = record.payload(content, walk.end).filter(|_| record.number == walk.payloads.len() as u64);
        let Some(payload) = whole else {
            walk.bad = Some(record);
            walk.unreadable.push(record.payload_as_it_is(content, walk.end));
            break;
        };
        walk.payloads.push(payload);
        walk.end = record.end(walk.end);
    }
    for offset in blocks(content, walk.end + BLOCK_BYTES as u64) {
        let Some(record) = own(offset) else { continue };
        walk.records_behind += 1;
        walk.allocated = walk.allocated.max(record.allocated);
        match record.payload(content, offset) {
            Some(payload) => walk.behind.push(payload),
            None => walk.unreadable.push(record.payload_as_it_is(content, offset)),
        }
    }
    if walk.records_behind > 0 && walk.bad.is_none() {
        let next = blocks(content, walk.end + BLOCK_BYTES as u64).find(|offset| own(*offset).is_some());
        let gap = walk.end as usize..next.map_or(content.len(), |offset| offset as usize);
        walk.unreadable
            .insert(0, content.slice((gap.start + format::RECORD_HEADER_BYTES).min(gap.end)..gap.end));
    }
    walk
}
