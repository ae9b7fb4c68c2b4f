//! The journal on disk: what is read back after files were cut off or changed, and that damage is distinguished from a
//! torn tail.

use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;

use super::format::{BLOCK_BYTES, RECORD_HEADER_BYTES};
use super::scan::Damage;
use super::*;

const STORE: u64 = 77;

fn mark(carried: u64) -> Mark {
    Mark { store: STORE, carried, in_use: true }
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn begin(dir: &Path, generation: u64) -> Journal {
    Journal::begin(Files::open(dir).expect("opens"), STORE, generation).expect("begins")
}

fn write(journal: &mut Journal, payload: &'static str) {
    journal.write([Bytes::from_static(payload.as_bytes())].iter()).expect("a disk");
}

fn read(dir: &Path, mark: Mark) -> Scan {
    scan(&Files::open(dir).expect("opens").contents, &mark).expect("a known version")
}

/// Writes a journal with one generation of these records, and returns the content of its file.
fn written(payloads: &[&'static str]) -> Bytes {
    let dir = directory();
    let mut journal = begin(dir.path(), 1);
    payloads.iter().for_each(|payload| write(&mut journal, payload));
    drop(journal);
    Files::open(dir.path()).expect("opens").contents[1].clone()
}

fn scan_one(content: impl Into<Bytes>) -> Scan {
    scan(&[Bytes::new(), content.into()], &mark(0)).expect("a known version")
}

fn flipped(content: &Bytes, at: usize) -> Vec<u8> {
    let mut content = content.to_vec();
    content[at] ^= 1;
    content
}

#[test]
fn returns_the_records_that_are_not_in_the_table_in_order() {
    let dir = directory();
    let mut journal = begin(dir.path(), 1);
    for (first, second) in [("a1", "a2"), ("b1", "b2"), ("c1", "c2")] {
        write(&mut journal, first);
        write(&mut journal, second);
        journal.begin_generation().expect("a disk");
    }
    write(&mut journal, "d1");
    drop(journal);
    for _ in 0..2 {
        let found = read(dir.path(), mark(2));
        assert_eq!((found.payloads, found.damages), (vec!["c1".into(), "c2".into(), "d1".into()], vec![]));
    }
    assert_eq!(
        read(dir.path(), mark(3)).payloads,
        ["d1"],
        "records that are in the table must not be read again"
    );
    let journal = begin(dir.path(), 5);
    assert_eq!(journal.generation(), 5);
    drop(journal);
    assert_eq!(read(dir.path(), mark(4)).payloads, Vec::<Bytes>::new());
}

/// Before the fix, everything after a flipped byte was ignored without a message.
#[test]
fn a_flipped_byte_is_harmless_or_reported_unless_it_is_in_the_last_record() {
    let payloads = ["first", "second, the longest of them", "third"];
    let content = written(&payloads);
    let end = |number: usize| BLOCK_BYTES * (number + 2);
    // After the records the file has only zeros, so a sample of the bytes there is enough.
    for at in (0..end(3)).chain((end(3)..content.len()).step_by(509)) {
        let found = scan_one(flipped(&content, at));
        if found.damages.is_empty() && found.payloads != payloads {
            assert_eq!(found.payloads, payloads[..2], "flipped at {at}");
            let last = end(1)..end(1) + RECORD_HEADER_BYTES + payloads[2].len();
            assert!(last.contains(&at), "a byte flipped at {at} is not reported as damage");
        }
    }
    let [first, last] = [end(0) + 70, end(1) + 66].map(|at| scan_one(flipped(&content, at)));
    let what = "the record there cannot be read, and 1 more of its generation are behind it";
    assert_eq!(first.damages, [Damage { file: FILES[1], offset: 8192, what: what.into() }]);
    assert_eq!((first.payloads.len(), first.behind), (1, vec![Bytes::from("third")]));
    assert!(last.damages.is_empty() && last.torn.is_some_and(|torn| torn.offset == 12_288));
}

/// Before the fix, a file that was cut off was read up to the cut without a message.
#[test]
fn every_shortened_file_is_reported_as_damaged() {
    // The second and third record cross the places at which the file grew.
    let [long, longer] = [vec![b'x'; GROWTH_BYTES], vec![b'y'; GROWTH_BYTES]];
    let dir = directory();
    let mut journal = begin(dir.path(), 1);
    write(&mut journal, "first");
    journal.write([Bytes::from(long)].iter()).expect("a disk");
    journal.write([Bytes::from(longer)].iter()).expect("a disk");
    write(&mut journal, "fourth");
    let end = journal.bytes() as usize;
    drop(journal);
    let content = Files::open(dir.path()).expect("opens").contents[1].clone();
    assert!(content.len() > end, "the file is longer than its last record");
    let lengths = (0..content.len()).step_by(509).chain((0..content.len()).step_by(BLOCK_BYTES));
    for length in lengths.chain(0..200).chain(content.len() - 200..content.len()) {
        let found = scan_one(content.slice(..length));
        assert!(!found.damages.is_empty(), "a file cut at {length} is not reported as damage");
    }
    assert!(scan_one(content).damages.is_empty());
}

#[test]
fn a_torn_write_is_one_bad_record_whichever_blocks_reached_the_disk() {
    let whole = written(&["whole"]);
    let torn = {
        let dir = directory();
        let mut journal = begin(dir.path(), 1);
        write(&mut journal, "whole");
        let group = ["one", "two", "three"].map(|row| Bytes::from(row.repeat(BLOCK_BYTES)));
        journal.write(group.iter()).expect("a disk");
        drop(journal);
        Files::open(dir.path()).expect("opens").contents[1].clone()
    };
    let (start, blocks) = (2 * BLOCK_BYTES, 12);
    for written in 0..1u32 << blocks {
        let mut content = torn.to_vec();
        for block in (0..blocks).filter(|block| written & (1 << block) == 0) {
            content[start + block * BLOCK_BYTES..][..BLOCK_BYTES].fill(0xA5);
        }
        let found = scan_one(content);
        assert!(found.damages.is_empty(), "{written:b}: {:?}", found.damages);
        assert_eq!(found.payloads.len(), if written == (1 << blocks) - 1 { 2 } else { 1 });
    }
    assert_eq!(scan_one(whole).payloads, ["whole"]);
}

#[test]
fn a_bad_last_record_is_damage_if_another_generation_follows() {
    let dir = directory();
    let mut journal = begin(dir.path(), 1);
    write(&mut journal, "a1");
    write(&mut journal, "a2");
    journal.begin_generation().expect("a disk");
    write(&mut journal, "b1");
    drop(journal);
    let contents = Files::open(dir.path()).expect("opens").contents;
    let damaged = flipped(&contents[1], 2 * BLOCK_BYTES + 65);
    let found = scan(&[contents[0].clone(), damaged.into()], &mark(0)).expect("a known version");
    assert_eq!(found.damages[0].offset, 8192);
    assert_eq!((found.payloads, found.behind), (vec![Bytes::from("a1")], vec![Bytes::from("b1")]));
    // A whole file that is missing is noticed as well.
    let found = scan(&[contents[0].clone(), Bytes::new()], &mark(0)).expect("a known version");
    assert_eq!(found.damages.len(), 1);
    let found = scan(&[Bytes::new(), contents[1].clone()], &mark(1)).expect("a known version");
    assert!(found.damages[0].what.starts_with("generation 2, which the table waits for"), "{found:?}");
}

/// Before the fix, a file that was no journal, or another store's journal, was overwritten.
#[test]
fn a_file_of_another_store_or_format_is_rejected() {
    let content = written(&["a"]);
    let other = Mark { store: STORE + 1, ..mark(0) };
    let found = scan(&[Bytes::new(), content.clone()], &other).expect("a known version");
    assert!(found.damages[0].what.starts_with("the journal of another store"), "{found:?}");
    let found = scan(&[Bytes::from("PK, an archive"), content.clone()], &mark(0)).expect("a known version");
    assert_eq!((found.damages[0].file, found.damages[0].offset), (FILES[0], 0));
    let table_is_old = scan(&[Bytes::new(), content], &Mark { in_use: false, ..mark(0) });
    assert_eq!(table_is_old.expect("a known version").damages.len(), 1);
    let mut newer = written(&["a"]).to_vec();
    newer[8] = 3;
    let checksum = format::checksum(&newer[..56], 0).to_le_bytes();
    newer[56..64].copy_from_slice(&checksum);
    let unknown = scan(&[Bytes::new(), newer.into()], &mark(0)).expect_err("unknown");
    assert_eq!((unknown.file, unknown.version), (FILES[1], 3));
}

#[test]
fn records_are_found_although_the_header_is_lost() {
    let mut content = written(&["a", "b"]).to_vec();
    content[..BLOCK_BYTES].fill(0xFF);
    let found = scan_one(content);
    assert_eq!((found.damages.len(), found.behind), (1, vec!["a".into(), "b".into()]));
    assert_eq!(found.newest, 1);
}

#[test]
fn the_first_format_is_read_by_the_same_rules() {
    let unmarked = Mark { in_use: false, ..mark(0) };
    let files = [legacy::write(4, &["c", "d"]), legacy::write(3, &["a", "b"])].map(Bytes::from);
    let found = scan(&files, &unmarked).expect("a known version");
    assert_eq!((found.payloads.join(&b""[..]), found.newest), (b"abcd".to_vec(), 4));
    assert!(found.damages.is_empty());
    for (at, sound) in [(44, false), (4096 + 12, true)] {
        let file = flipped(&files[0], at);
        let found = scan(&[file.into(), files[1].clone()], &unmarked).expect("a known version");
        assert_eq!(found.damages.is_empty(), sound, "flipped at {at}");
    }
    assert!(scan(&files, &Mark { carried: 4, ..mark(0) }).expect("a known version").payloads.is_empty());
}

#[test]
fn only_one_process_can_open_the_files() {
    let dir = directory();
    let held = Files::open(dir.path()).expect("opens");
    assert!(matches!(Files::open(dir.path()), Err(JournalError::InUse)));
    drop(held);
    assert!(Files::open(dir.path()).is_ok());
}
