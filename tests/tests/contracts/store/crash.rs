//! `kill -9`, crashes and damaged files of the embedded store: no acknowledged row is lost, and damage is reported.

use super::{conversation, open_embedded, row, rows, seqs, user};
use bytes::Bytes;
use carillon_message_worker::store::embedded::{EmbeddedStore, Lost, OpenError, repair};
use carillon_message_worker::store::{Checkpoint, Projection, Store};
use carillon_proto::id::{ConversationId, Tag};
use carillon_proto::position::Position;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The environment variable with the child process's data directory.
const CHILD_DIRECTORY: &str = "CARILLON_TEST_STORE_DIRECTORY";
const ROOMS: u32 = 12;
const ROUNDS: u64 = 6;

fn room(number: u32) -> ConversationId {
    conversation(&format!("room-{number}"))
}

fn head(number: u32, seq: u64) -> Projection {
    Projection::Head {
        conversation: room(number),
        timestamp_us: seq as i64,
        blob: Bytes::copy_from_slice(&seq.to_be_bytes()),
    }
}

fn checkpoint(seq: u64) -> Checkpoint {
    let position = Position { incarnation: 1, sequence: seq, index: 0 };
    Checkpoint { position, tag: Tag([1; 16]), timestamp_us: seq as i64, version: 1 }
}

/// Appends rows to one room without a pause, prints each acknowledged one on standard output, and writes the room's
/// head and a checkpoint after each.
async fn append_for_ever(store: Arc<EmbeddedStore>, number: u32) {
    let newest = store.events_before(&room(number), u64::MAX, 1).await.expect("read");
    for seq in newest.first().map_or(1, |row| row.seq + 1).. {
        store.append(vec![row(&room(number), seq)]).await.expect("appended");
        let line = format!("acknowledged {number} {seq}\n");
        std::io::stdout().write_all(line.as_bytes()).expect("a reader");
        store.project(vec![head(number, seq)]).await.expect("projected");
        store.checkpoint(number, checkpoint(seq)).await.expect("written");
    }
}

/// Not a test of its own, but the process that another test starts and kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that kill_nine_loses_nothing_acknowledged starts and kills"]
async fn appends_until_it_is_killed() {
    let Ok(directory) = std::env::var(CHILD_DIRECTORY) else { return };
    let store = open_embedded(Path::new(&directory));
    let rooms: Vec<_> =
        (0..ROOMS).map(|number| tokio::spawn(append_for_ever(Arc::clone(&store), number))).collect();
    for room in rooms {
        room.await.expect("never ends");
    }
}

fn start_child(directory: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "store::crash::appends_until_it_is_killed", "--ignored", "--nocapture"])
        .env(CHILD_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started")
}

/// Starts a child process that appends, kills it `wait` after this many acknowledgements, and returns the last
/// acknowledged seq of each room.
fn append_and_kill(directory: &Path, acknowledgements: usize, wait: Duration) -> BTreeMap<u32, u64> {
    let mut child = start_child(directory);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut told = BTreeMap::new();
    let mut hear = |line: &str| {
        let mut words = line.strip_prefix("acknowledged ")?.split(' ');
        let (number, seq) = (words.next()?.parse::<u32>().ok()?, words.next()?.parse::<u64>().ok()?);
        assert!(
            told.insert(number, seq).is_none_or(|before| before + 1 == seq),
            "the child acknowledged a seq out of order"
        );
        Some(())
    };
    let mut heard = 0;
    while heard < acknowledgements {
        let line = lines.next().expect("the child is running").expect("text");
        heard += hear(&line).map_or(0, |()| 1);
        if heard == acknowledgements {
            let busy = EmbeddedStore::open(directory).err().expect("the child has the directory open");
            assert!(matches!(busy, OpenError::InUse { .. }), "{busy}");
        }
    }
    // The pipe buffers the child's output meanwhile. If the pipe is full, the child blocks, which does not harm the
    // test.
    std::thread::park_timeout(wait);
    child.kill().expect("killed");
    child.wait().expect("gone");
    // The kill may have cut off the last line, which then does not parse and is ignored.
    lines.map_while(Result::ok).for_each(|line| {
        hear(&line);
    });
    told
}

/// Guards that a row is in the journal before it is acknowledged, and that a checkpoint becomes durable after the rows
/// and the head before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_loses_nothing_acknowledged() {
    let directory = TempDir::with_prefix("carillon-kill-").expect("a directory");
    for round in 0..ROUNDS {
        let (path, wait) = (directory.path().to_owned(), Duration::from_millis(round * 37 % 100));
        let acknowledgements = 50 + 150 * round as usize;
        let told = tokio::task::spawn_blocking(move || append_and_kill(&path, acknowledgements, wait));
        let told = told.await.expect("no panic");
        assert!(!told.is_empty());
        let store = open_embedded(directory.path());
        for (number, acknowledged) in told {
            let found = store.events_after(&room(number), 0, usize::MAX).await.expect("read");
            assert!(
                found.len() as u64 >= acknowledged,
                "round {round}: only {} of {acknowledged} acknowledged rows are left",
                found.len()
            );
            assert!(
                found == rows(&room(number), 1..=found.len() as u64),
                "round {round}: a row differs from what was written"
            );
            // A checkpoint is never ahead of the head and the rows that were written before it.
            let state = store.partition(number).await.expect("read");
            let worked = state.checkpoint.map_or(0, |checkpoint| checkpoint.position.sequence);
            let head = store.load(&room(number)).await.expect("loaded").head;
            let head =
                head.and_then(|blob| blob.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))).unwrap_or(0);
            assert!(worked <= head && head <= found.len() as u64, "{worked} <= {head} <= {}", found.len());
        }
    }
}

/// Copies the store's files as a crash would leave them. The table is copied first: a journal generation that the store
/// carries into the table during the copy is then still in the copied journal. A table that is copied last could wait
/// for a generation that the copied journal does not have.
fn copy_files(from: &Path, to: &Path) {
    let entries = std::fs::read_dir(from).expect("a directory");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort_by_key(|path| !path.ends_with("messages.redb"));
    for path in paths {
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

/// Opening the store reads the journal again, any number of times with the same result.
#[tokio::test]
async fn rows_that_are_only_in_the_journal_survive_a_crash() {
    let directory = TempDir::with_prefix("carillon-journal-").expect("a directory");
    let store = open_embedded(directory.path());
    let (room, ann) = (room(1), user("ann"));
    let present = Projection::Participant {
        conversation: room.clone(),
        user: ann.clone(),
        timestamp_us: 1,
        present: true,
    };
    store.project(vec![present]).await.expect("projected");
    // A durable row makes the projections before it durable too.
    store.append(rows(&room, 1..=100)).await.expect("appended");
    let crashed = TempDir::with_prefix("carillon-crashed-").expect("a directory");
    copy_files(directory.path(), crashed.path());
    for _ in 0..3 {
        let store = open_embedded(crashed.path());
        assert_eq!(store.events_after(&room, 0, 1_000).await.expect("read"), rows(&room, 1..=100));
        assert_eq!(store.load(&room).await.expect("loaded").participants, std::slice::from_ref(&ann));
    }
}

/// The files after a crash, with 30 rows in each of two rooms, one journal record for each row, and none moved to the
/// table yet.
async fn crashed_with_two_rooms() -> TempDir {
    loop {
        let directory = TempDir::with_prefix("carillon-damaged-").expect("a directory");
        let (store, began) = (open_embedded(directory.path()), std::time::Instant::now());
        for seq in 1..=30 {
            for number in 1..=2 {
                store.append(vec![row(&room(number), seq)]).await.expect("appended");
                store.project(vec![head(number, seq)]).await.expect("projected");
            }
        }
        let crashed = TempDir::with_prefix("carillon-crashed-").expect("a directory");
        copy_files(directory.path(), crashed.path());
        // After 4 s rows may be in the table already, where damage to the journal does not affect them: tries again.
        if began.elapsed() < Duration::from_secs(4) {
            return crashed;
        }
    }
}

/// The path of the journal that has the rows.
fn journal_of(directory: &Path) -> std::path::PathBuf {
    let paths = ["messages.journal.0", "messages.journal.1"].map(|name| directory.join(name));
    paths.into_iter().find(|path| path.metadata().is_ok_and(|file| file.len() > 0)).expect("a journal")
}

/// A store with a damaged journal does not open, and `carillon repair` keeps every row below the damage, and all rows
/// of other conversations. Before the fix, the store opened without an error, and the rows behind the flipped byte were
/// lost.
#[tokio::test]
async fn a_damaged_journal_is_refused_and_repair_drops_only_lost_rows_and_rows_above_them() {
    let crashed = crashed_with_two_rooms().await;
    let path = journal_of(crashed.path());
    let mut content = std::fs::read(&path).expect("readable");
    // The record of the first room's tenth row.
    let key = [&b"room-1t"[..], &10u64.to_be_bytes()].concat();
    let found = content.windows(key.len()).position(|bytes| bytes == key).expect("the row");
    let at = found - found % 4_096;
    content[found + key.len() + 30] ^= 1;
    std::fs::write(&path, &content).expect("writable");
    let error = EmbeddedStore::open(crashed.path()).err().expect("damaged").to_string();
    let said = format!("at byte {at}: the record there cannot be read, and 4");
    assert!(error.contains(&said) && error.contains("carillon repair --data-dir"), "{error}");

    for accept_loss in [false, true] {
        let repaired = repair(crashed.path(), accept_loss).expect("the files can be read");
        assert_eq!(
            repaired.lost.iter().collect::<Vec<_>>(),
            [(&room(1), &Lost { from_seq: 10, to_seq: 30 })]
        );
        assert_eq!((repaired.kept_events, repaired.copies.len()), (21, if accept_loss { 2 } else { 0 }));
    }
    assert!(repair(crashed.path(), false).expect("the files can be read").damages.is_empty());
    let store = open_embedded(crashed.path());
    assert_eq!(store.events_after(&room(1), 0, 100).await.expect("read"), rows(&room(1), 1..=9));
    assert_eq!(store.events_after(&room(2), 0, 100).await.expect("read"), rows(&room(2), 1..=30));
    let head = store.load(&room(1)).await.expect("loaded").head.expect("a head");
    assert!(head[..] <= 9u64.to_be_bytes()[..], "the head must not be above the rows that are left");
}

/// Before the fix, a missing, truncated or foreign file was opened as an empty journal.
#[tokio::test]
async fn a_missing_truncated_or_foreign_journal_is_refused() {
    let crashed = crashed_with_two_rooms().await;
    let (path, other) = (journal_of(crashed.path()), crashed_with_two_rooms().await);
    let content = std::fs::read(&path).expect("readable");
    let cases: [(&str, Vec<u8>, &str); 4] = [
        ("gone", Vec::new(), "which the table waits for"),
        ("cut off", content[..4_096 * 20].to_vec(), "the file ends at byte"),
        ("of another store", std::fs::read(journal_of(other.path())).expect("readable"), "another store"),
        ("something else", b"PK, an archive".to_vec(), "neither the header"),
    ];
    for (what, content, said) in cases {
        std::fs::write(&path, content).expect("writable");
        let error = EmbeddedStore::open(crashed.path()).err().expect(what).to_string();
        assert!(error.contains(said), "{what}: {error}");
    }
    std::fs::write(&path, &content).expect("writable");
    let store = open_embedded(crashed.path());
    assert_eq!(store.events_after(&room(1), 0, 100).await.expect("read"), rows(&room(1), 1..=30));
}

/// Projections alone wake no sync of the journal. The writer writes them after at most a second.
#[tokio::test]
async fn projections_without_a_later_row_are_durable_within_seconds() {
    let directory = TempDir::with_prefix("carillon-lazy-").expect("a directory");
    let store = open_embedded(directory.path());
    store.project(vec![head(1, 5)]).await.expect("projected");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let crashed = TempDir::with_prefix("carillon-crashed-").expect("a directory");
    copy_files(directory.path(), crashed.path());
    let head = open_embedded(crashed.path()).load(&room(1)).await.expect("loaded").head;
    assert_eq!(head, Some(Bytes::copy_from_slice(&5u64.to_be_bytes())));
}

#[tokio::test]
async fn closing_a_store_leaves_an_empty_journal() {
    let directory = TempDir::with_prefix("carillon-clean-").expect("a directory");
    let store = open_embedded(directory.path());
    store.append(rows(&room(1), 1..=10)).await.expect("appended");
    drop(store);
    for entry in std::fs::read_dir(directory.path()).expect("a directory") {
        let path = entry.expect("an entry").path();
        let journal = path.to_string_lossy().contains("journal");
        assert!(!journal || path.metadata().expect("a file").len() == 0, "{}", path.display());
    }
    let found = open_embedded(directory.path()).events_after(&room(1), 0, 100).await.expect("read");
    assert_eq!(seqs(&found), (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn opening_a_directory_in_use_fails_with_one_clear_line() {
    let directory = TempDir::with_prefix("carillon-in-use-").expect("a directory");
    let store = open_embedded(directory.path());
    let error = EmbeddedStore::open(directory.path()).err().expect("in use");
    assert_eq!(
        error.to_string(),
        format!(
            "data directory {} is in use by another carillon (stop it, or give another with --data-dir)",
            directory.path().display()
        )
    );
    store.append(rows(&room(1), [1])).await.expect("the open store still accepts rows");
    drop(store);
    open_embedded(directory.path());
}
