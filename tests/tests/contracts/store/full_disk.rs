//! The embedded store on a full disk: writes fail with an error, reads still work, and with free space the store
//! accepts writes again without a restart.

use super::{conversation, open_embedded, rows};
use bytes::Bytes;
use carillon_message_worker::store::{EventRow, Projection, Store};
use carillon_presence_worker::store::UserStore;
use carillon_presence_worker::store::embedded::EmbeddedUserStore;
use carillon_proto::id::ConversationId;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Time within which the store detects free space again, even without writes, and within which it closes.
const SOON: Duration = Duration::from_secs(20);

/// A file system of 8 MiB in memory.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, and a line on standard error, if mounting is not allowed.
    fn mount() -> Option<SmallDisk> {
        let directory = TempDir::with_prefix("carillon-small-").expect("a directory");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(directory.path())
            .output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(directory));
        }
        let thread = std::thread::current();
        eprintln!(
            "SKIPPED {}: no small disk (mounting a tmpfs needs root)",
            thread.name().unwrap_or("a test")
        );
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills the disk with a file and returns its path.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).expect("a file");
        for bytes in [1 << 20, 1 << 12, 1] {
            let block = vec![0; bytes];
            while file.write_all(&block).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because after a failed test a store may still have files open there.
        drop(Command::new("umount").arg("--lazy").arg(self.path()).status());
    }
}

fn large_row(conversation: &ConversationId, seq: u64) -> EventRow {
    let blob = vec![seq as u8; 20_000].into();
    EventRow { blob, ..rows(conversation, [seq]).remove(0) }
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < SOON, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// redb refuses everything after an I/O error, so the store opens its table again to serve reads, and retries writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_survive_a_full_disk() {
    let Some(disk) = SmallDisk::mount() else { return };
    let room = conversation("room");
    let store = open_embedded(disk.path());
    // When the disk fills up, some rows are in the table and some in the journal.
    store.append(rows(&room, 1..=50)).await.expect("appended");
    drop(store);
    let store = open_embedded(disk.path());
    store.append(rows(&room, 51..=100)).await.expect("appended");
    let filler = disk.fill();
    let mut last = 100;
    let error = loop {
        match store.append(vec![large_row(&room, last + 1)]).await {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
        assert!(last < 1_000, "the disk did not become full");
    };
    assert!(error.to_string().contains("No space left"), "{error}");
    assert!(!store.healthy().await);
    // Meanwhile the store tries to write its table, fails, and opens it again.
    sleep(Duration::from_secs(8)).await;
    assert_eq!(store.events_after(&room, 0, 100).await.expect("readable"), rows(&room, 1..=100));
    assert!(
        store.append(vec![large_row(&room, last + 1)]).await.is_err(),
        "an append to a full disk must fail"
    );

    std::fs::remove_file(filler).expect("removed");
    eventually("an append", || async { store.append(vec![large_row(&room, last + 1)]).await.is_ok() }).await;
    eventually("health", || store.healthy()).await;
    store.append(vec![large_row(&room, last + 2)]).await.expect("appended");
    drop(store);
    let store = open_embedded(disk.path());
    let found = store.events_after(&room, 0, 2_000).await.expect("read");
    assert_eq!(found.len() as u64, last + 2);
    assert_eq!(found[..100], rows(&room, 1..=100));
    assert!(
        found[100..].iter().all(|row| *row == large_row(&room, row.seq)),
        "a row differs from what was written"
    );
}

/// Closing tries to write the table. If that fails, the rows stay in the journal, and the next start reads them there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_on_a_full_disk_ends_in_time_and_keeps_acknowledged_rows() {
    let Some(disk) = SmallDisk::mount() else { return };
    let room = conversation("room");
    let store = open_embedded(disk.path());
    store.append(rows(&room, 1..=50)).await.expect("appended");
    let filler = disk.fill();
    let mut last = 50;
    while store.append(vec![large_row(&room, last + 1)]).await.is_ok() {
        last += 1;
    }
    let head =
        Projection::Head { conversation: room.clone(), timestamp_us: 1, blob: Bytes::from_static(b"head") };
    store.project(vec![head]).await.expect("projected");
    let closing = tokio::task::spawn_blocking(move || drop(store));
    tokio::time::timeout(SOON, closing).await.expect("the store closes in time").expect("no panic");

    std::fs::remove_file(filler).expect("removed");
    let found = open_embedded(disk.path()).events_after(&room, 0, 2_000).await.expect("read");
    // The row whose append failed may be stored too, because its outcome was unknown.
    assert!((last..=last + 1).contains(&(found.len() as u64)), "{} of {last}", found.len());
    assert_eq!(found[..50], rows(&room, 1..=50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_survive_a_full_disk() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = EmbeddedUserStore::open(disk.path()).expect("opened");
    let row = |number: u32| super::users::row(&format!("user-{number}"), 1);
    store.put(vec![row(1)]).await.expect("written");
    let filler = disk.fill();
    let mut many = (2..).step_by(500).map(|first| (first..first + 500).map(row).collect::<Vec<_>>());
    let rows = loop {
        let rows = many.next().expect("endless");
        if store.put(rows.clone()).await.is_err() {
            break rows;
        }
        assert!(rows[0].name.len() < 100, "the disk did not become full");
    };
    assert_eq!(store.get(&[row(1).user]).await.expect("readable"), [row(1)]);
    std::fs::remove_file(filler).expect("removed");
    eventually("a put", || async { store.put(rows.clone()).await.is_ok() }).await;
    assert_eq!(store.get(&[rows[0].user.clone()]).await.expect("readable"), rows[..1]);
    assert!(store.healthy().await);
}
