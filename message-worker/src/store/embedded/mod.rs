//! The embedded store: a journal in front of a redb table, in one directory that one process uses.
//!
//! A write is durable once the journal is synced ([`writer`]; one sync serves all writes that wait for it). Readers
//! then see its rows from memory ([`overlay`]). Every few seconds the rows are moved into the table, in bulk and in key
//! order ([`flusher`]): a table commit costs hundreds of microseconds of CPU, and a journal record costs tens. After
//! kill -9 the journal is read again. Of two rows with one key the higher timestamp wins, so reading a row twice is
//! harmless.
//!
//! Single rows are read on the calling thread, in microseconds. Pages are read on tokio's blocking threads: they may
//! come from disk, and a service with two cores cannot block one of them for that.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::position::Position;
use tokio::sync::{Semaphore, oneshot};

use super::{
    Author, Checkpoint, EventRow, LoadedConversation, PartitionState, Projection, Seal, SentRow, Store,
    StoreError, Suspension, Tenure,
};
use journal::{Files, Journal, JournalError, Scan};
use overlay::Generation;
use ranges::{present, starting_with};
use row::Rows;
use shared::{Job, Shared, closed};
use sweep::Sweep;
use table::Table;
use writer::Writer;

mod error;
mod flusher;
mod gather;
mod journal;
mod key;
mod mark;
mod overlay;
mod ranges;
mod repair;
mod row;
mod seals;
mod shared;
mod suspensions;
mod sweep;
mod table;
#[cfg(test)]
mod tests;
mod writer;

pub use error::OpenError;
pub use repair::{Lost, Repair, repair};

/// Bytes of rows that may wait for the writer. Above this, appends wait before they queue.
const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A read of at most this many rows runs on the calling thread. It takes about 20 microseconds if they are in memory.
const PAGE_HERE_MAX: usize = 16;

/// The store of conversations in a directory. Dropping it makes all writes durable and closes the files.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// A permit for each byte of rows that may wait for the writer.
    queue_space: Arc<Semaphore>,
    /// Held while a seal is decided, so that only one is decided at a time.
    sealing: Arc<tokio::sync::Mutex<()>>,
    threads: Option<Threads>,
}

struct Threads {
    writer: JoinHandle<Journal>,
    flusher: JoinHandle<()>,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, creates the directory if it does not exist, and recovers the rows that a killed
    /// process left in the journal.
    ///
    /// # Errors
    /// When another process uses the directory, or when its files cannot be read or written, are damaged, or have an
    /// unknown format.
    pub fn open(dir: &Path) -> Result<Arc<EmbeddedStore>, OpenError> {
        let refused = |source| OpenError::Directory { dir: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(refused)?;
        let (files, table, scan) = open_files(dir)?;
        if let Some(damage) = scan.damages.first() {
            return Err(OpenError::Damaged { dir: dir.to_owned(), what: damage.to_string() });
        }
        if let Some(torn) = &scan.torn {
            tracing::warn!(%torn, "the journal ends with a write that was cut off; it was never acknowledged and is ignored");
        }
        let mut sweep = Sweep::new();
        recover(&table, &scan, &mut sweep)?;
        let store = table.mark().map_err(|error| table_refused(&table, error))?.store;
        let journal = Journal::begin(files, store, scan.newest + 1).map_err(refused)?;
        table.journal_in_use(true).map_err(|error| table_refused(&table, error))?;
        let shared = Arc::new(Shared::new(table));
        let writer = Writer::new(Arc::clone(&shared), journal);
        let for_flusher = Arc::clone(&shared);
        let threads = Threads {
            writer: spawn("store-writer", move || writer.run()).map_err(refused)?,
            flusher: spawn("store-flusher", move || flusher::run(&for_flusher, sweep)).map_err(refused)?,
        };
        let queue_space = Arc::new(Semaphore::new(QUEUE_BYTES_MAX));
        Ok(Arc::new(EmbeddedStore { shared, queue_space, sealing: Arc::default(), threads: Some(threads) }))
    }

    /// Makes rows durable before it returns.
    async fn write(&self, rows: Bytes) -> Result<(), StoreError> {
        write(&self.shared, &self.queue_space, rows).await
    }

    /// Shows rows to readers at once and makes them durable soon. If too many rows wait already, it makes them durable
    /// before it returns.
    async fn put(&self, rows: Rows) -> Result<(), StoreError> {
        let rows = rows.into_bytes();
        if self.shared.put_lazily(&rows)? {
            return Ok(());
        }
        self.write(rows).await
    }

    /// Runs a read of up to `rows` rows: on the calling thread if they are few, otherwise on a blocking thread.
    async fn read<T: Send + 'static>(
        &self,
        rows: usize,
        read: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if rows <= PAGE_HERE_MAX {
            return read(&self.shared);
        }
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || read(&shared)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(StoreError(format!("the read was cut off: {error}"))),
        }
    }
}

/// Makes rows durable. Waits first until the queue has space for them.
async fn write(shared: &Shared, queue_space: &Arc<Semaphore>, rows: Bytes) -> Result<(), StoreError> {
    let share = rows.len().clamp(1, QUEUE_BYTES_MAX) as u32;
    let space = Arc::clone(queue_space).acquire_many_owned(share).await.map_err(|_| closed())?;
    let (done, outcome) = oneshot::channel();
    shared.submit(Job::Write { rows, done, _space: space });
    outcome.await.unwrap_or_else(|_| Err(closed()))
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}

/// Opens the files of an existing directory and reads the journal. Writes nothing except a format number where there
/// was none.
fn open_files(dir: &Path) -> Result<(Files, Table, Scan), OpenError> {
    let files = Files::open(dir).map_err(|error| match error {
        JournalError::InUse => OpenError::InUse { dir: dir.to_owned() },
        JournalError::Io(source) => OpenError::Directory { dir: dir.to_owned(), source },
    })?;
    let table = Table::open(dir)?;
    let mark = table.mark().map_err(|error| table_refused(&table, error))?;
    let scan = journal::scan(&files.contents, &mark).map_err(|unknown| OpenError::Version {
        path: dir.join(unknown.file),
        version: unknown.version.into(),
        known: journal::VERSION.into(),
    })?;
    Ok((files, table, scan))
}

fn table_refused(table: &Table, error: StoreError) -> OpenError {
    OpenError::Table { path: table.path().to_owned(), reason: error.0 }
}

/// Moves the rows of the journal into the table.
fn recover(table: &Table, scan: &Scan, sweep: &mut Sweep) -> Result<(), OpenError> {
    let mut generation = Generation::last(scan.newest);
    scan.payloads.iter().for_each(|payload| generation.put_all(payload));
    if !generation.is_empty() {
        tracing::info!(bytes = generation.bytes(), "recovering rows from the journal");
    }
    table.take_in(&generation, sweep).map_err(|error| table_refused(table, error))
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.for_writer.notify_one();
        let Some(Threads { writer, flusher }) = self.threads.take() else { return };
        let journal = writer.join();
        let flushed = flusher.join().is_ok() && self.shared.state.lock().overlay.is_empty();
        // If the journal cannot be emptied, the next start reads it again, which is harmless.
        let unused = flushed && self.shared.table.journal_in_use(false).is_ok();
        self.shared.table.close();
        if let (Ok(journal), true) = (journal, unused) {
            drop(journal.clear());
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn append(&self, rows: Vec<EventRow>) -> Result<(), StoreError> {
        let mut encoded = Rows::default();
        rows.iter().for_each(|row| encoded.put_event(row));
        if rows.is_empty() {
            return Ok(());
        }
        self.write(encoded.into_bytes()).await
    }

    async fn events_after(
        &self,
        conversation: &ConversationId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        let conversation = conversation.clone();
        self.read(limit, move |shared| {
            let mut expected = after_seq.saturating_add(1);
            let range = key::event(&conversation, expected)..key::events_end(&conversation);
            let mut rows = Vec::new();
            shared.scan(range, false, limit, |key, value| {
                let row = row::read_event(&conversation, key, value).filter(|row| row.seq == expected);
                expected += 1;
                let contiguous = row.is_some();
                rows.extend(row);
                contiguous
            })?;
            Ok(rows)
        })
        .await
    }

    async fn events_before(
        &self,
        conversation: &ConversationId,
        before_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        let conversation = conversation.clone();
        self.read(limit, move |shared| seals::newest_events(shared, &conversation, before_seq, limit)).await
    }

    async fn event(&self, conversation: &ConversationId, seq: u64) -> Result<Option<EventRow>, StoreError> {
        let key = key::event(conversation, seq);
        let value = self.shared.get(&key)?;
        Ok(value.and_then(|value| row::read_event(conversation, &key, &value)))
    }

    async fn seal(
        &self,
        conversation: &ConversationId,
        previous: Option<Seal>,
        next: Seal,
        timestamp_us: i64,
    ) -> Result<Seal, StoreError> {
        self.seal_rows(conversation.clone(), previous, next, timestamp_us).await
    }

    async fn known_seal(&self, conversation: &ConversationId) -> Result<Option<Seal>, StoreError> {
        let seal = self.shared.get(&key::seal(conversation))?;
        Ok(seal.as_deref().and_then(row::read_seal))
    }

    async fn project(&self, projections: Vec<Projection>) -> Result<(), StoreError> {
        let mut rows = Rows::default();
        projections.iter().for_each(|projection| rows.put_projection(projection));
        self.put(rows).await
    }

    async fn load(&self, conversation: &ConversationId) -> Result<LoadedConversation, StoreError> {
        let conversation = conversation.clone();
        self.read(usize::MAX, move |shared| {
            // The head is read first. Participants that are newer than the head are corrected by the rows above it; a
            // head newer than the participants could not be corrected.
            let head = shared.get(&key::head(&conversation))?;
            let prefix = key::participants(&conversation);
            let participants = present(shared, prefix, None, usize::MAX, |id| UserId::parse(id).ok())?;
            Ok(LoadedConversation { head: head.as_deref().and_then(row::read_head), participants })
        })
        .await
    }

    async fn sent(
        &self,
        conversation: &ConversationId,
        sender: &Author,
        limit: usize,
    ) -> Result<Vec<SentRow>, StoreError> {
        let range = starting_with(key::sent(conversation, sender));
        self.read(limit, move |shared| {
            let mut rows = Vec::new();
            shared.scan(range, false, limit, |_, value| {
                rows.extend(row::read_sent(value));
                true
            })?;
            Ok(rows)
        })
        .await
    }

    async fn conversations_of(
        &self,
        user: &UserId,
        cursor: Option<&ConversationId>,
        limit: usize,
    ) -> Result<Vec<ConversationId>, StoreError> {
        let (prefix, cursor) = (key::conversations(user), cursor.cloned());
        self.read(usize::MAX, move |shared| {
            let cursor = cursor.as_ref().map(ConversationId::as_str);
            present(shared, prefix, cursor, limit, |id| ConversationId::parse(id).ok())
        })
        .await
    }

    async fn partition(&self, partition: u32) -> Result<PartitionState, StoreError> {
        let tenure = self.tenure(partition).await?;
        let checkpoint = self.shared.get(&key::checkpoint(partition))?;
        Ok(PartitionState { tenure, checkpoint: checkpoint.as_deref().and_then(row::read_checkpoint) })
    }

    async fn tenure(&self, partition: u32) -> Result<Option<Tenure>, StoreError> {
        let tenure = self.shared.get(&key::incarnation(partition))?;
        Ok(tenure.as_deref().and_then(row::read_tenure))
    }

    async fn change_tenure(
        &self,
        partition: u32,
        previous: Option<Tenure>,
        next: Tenure,
    ) -> Result<Tenure, StoreError> {
        let (done, outcome) = oneshot::channel();
        self.shared.submit(Job::Change { partition, previous, next, done });
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn checkpoint(&self, partition: u32, checkpoint: Checkpoint) -> Result<(), StoreError> {
        let mut rows = Rows::default();
        rows.put_checkpoint(partition, &checkpoint);
        self.put(rows).await
    }

    async fn record_skip(&self, partition: u32, position: Position, reason: &str) -> Result<(), StoreError> {
        let mut rows = Rows::default();
        rows.put_skip(partition, position, reason);
        self.write(rows.into_bytes()).await
    }

    async fn skips(&self, partition: u32, incarnation: u32) -> Result<Vec<Position>, StoreError> {
        let range = starting_with(key::skips(partition, incarnation));
        self.read(usize::MAX, move |shared| {
            let mut positions = Vec::new();
            shared.scan(range, false, usize::MAX, |key, _| {
                positions.extend(row::read_skip(incarnation, key));
                true
            })?;
            Ok(positions)
        })
        .await
    }

    async fn record_suspension(
        &self,
        partition: u32,
        suspension: &Suspension,
        timestamp_us: i64,
    ) -> Result<(), StoreError> {
        self.write_suspension(partition, suspension, timestamp_us).await
    }

    async fn suspensions(&self, partition: u32) -> Result<Vec<Suspension>, StoreError> {
        self.read_suspensions(partition).await
    }

    async fn healthy(&self) -> bool {
        let state = self.shared.state.lock();
        !state.closing && state.journal_error.is_none() && state.table_error.is_none()
    }
}
