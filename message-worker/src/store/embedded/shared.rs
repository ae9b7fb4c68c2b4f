//! The state that callers, the writer and the flusher share: the overlay, the waiting writes, and the table.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::overlay::Overlay;
use super::table::Table;
use super::{gather, row};
use crate::store::{StoreError, Tenure};

/// Bytes at which a generation is moved into the table. This is about 7,000 messages, enough for one table page to take
/// several rows at once.
pub(super) const GENERATION_BYTES: usize = 4 * 1024 * 1024;
/// Maximum bytes of a generation while the previous one is still being moved into the table. Above this, writes wait;
/// if the table cannot be written, they fail.
pub(super) const GENERATION_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Maximum bytes of projections that wait for the next durable write. Above this, a projection is made durable before
/// its call returns.
const LAZY_BYTES_MAX: usize = 1024 * 1024;
/// Age at which a generation is moved into the table. A longer time writes fewer table pages twice.
pub(super) const GENERATION_AGE_MAX: Duration = Duration::from_secs(5);

/// A request to the writer. It is answered when it is durable.
pub(super) enum Job {
    /// Rows to write.
    Write { rows: Bytes, done: oneshot::Sender<Result<(), StoreError>>, _space: OwnedSemaphorePermit },
    /// A partition's tenure to change.
    Change {
        partition: u32,
        previous: Option<Tenure>,
        next: Tenure,
        done: oneshot::Sender<Result<Tenure, StoreError>>,
    },
}

impl Job {
    /// Answers with an error: the outcome is unknown.
    pub(super) fn fail(self, error: &StoreError) {
        // The caller may have stopped waiting.
        match self {
            Job::Write { done, .. } => drop(done.send(Err(error.clone()))),
            Job::Change { done, .. } => drop(done.send(Err(error.clone()))),
        }
    }
}

/// Rows of the overlay that are not in the journal yet, oldest first.
#[derive(Default)]
pub(super) struct Lazy {
    pub(super) rows: Vec<Bytes>,
    pub(super) bytes: usize,
}

impl Lazy {
    fn push(&mut self, rows: Bytes) {
        self.bytes += rows.len();
        self.rows.push(rows);
    }

    /// Adds rows that came later.
    pub(super) fn append(&mut self, mut later: Lazy) {
        self.bytes += later.bytes;
        self.rows.append(&mut later.rows);
    }
}

/// Protected by one lock, which is held for microseconds and never during I/O.
#[derive(Default)]
pub(super) struct State {
    pub(super) overlay: Overlay,
    /// When the active generation got its first row. `None` while it is empty.
    pub(super) active_since: Option<Instant>,
    /// Requests that wait for the writer.
    pub(super) jobs: VecDeque<Job>,
    /// Projections that go into the journal before any later write.
    pub(super) lazy: Lazy,
    /// The writer is pausing for more jobs, so submitting a job need not wake it.
    pub(super) gathering: bool,
    /// No more jobs are accepted. The writer ends when the accepted jobs are done.
    pub(super) closing: bool,
    /// The writer has ended, so no further generation will follow.
    pub(super) writer_ended: bool,
    /// The error of the last journal write, if it failed.
    pub(super) journal_error: Option<StoreError>,
    /// The error of the last table write, if it failed.
    pub(super) table_error: Option<StoreError>,
}

impl State {
    /// Puts rows into the active generation, where all readers see them.
    pub(super) fn show(&mut self, rows: &Bytes) {
        self.overlay.active.put_all(rows);
        self.active_since.get_or_insert_with(Instant::now);
    }

    /// Gives the active generation to the flusher. `number` is its number in the journal.
    pub(super) fn freeze(&mut self, number: u64) {
        let mut active = std::mem::take(&mut self.overlay.active);
        active.number = number;
        self.overlay.frozen = Some(Arc::new(active));
        self.active_since = None;
    }

    /// Whether the active generation is large or old enough to be frozen, and the flusher is free.
    pub(super) fn freeze_is_due(&self) -> bool {
        let old = self.active_since.is_some_and(|since| since.elapsed() >= GENERATION_AGE_MAX);
        self.overlay.frozen.is_none() && (old || self.overlay.active.bytes() >= GENERATION_BYTES)
    }

    /// Whether the active generation must not grow until the flusher has made room.
    pub(super) fn is_full(&self) -> bool {
        self.overlay.active.bytes() >= GENERATION_BYTES_MAX
    }
}

/// The shared state, with the condition variables that wake the two threads.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// The writer waits here.
    pub(super) for_writer: Condvar,
    /// The flusher waits here.
    pub(super) for_flusher: Condvar,
    pub(super) table: Table,
}

impl Shared {
    pub(super) fn new(table: Table) -> Shared {
        Shared { state: Mutex::default(), for_writer: Condvar::new(), for_flusher: Condvar::new(), table }
    }

    /// Gives a job to the writer.
    pub(super) fn submit(&self, job: Job) {
        let mut state = self.state.lock();
        if state.closing {
            drop(state);
            return job.fail(&closed());
        }
        state.jobs.push_back(job);
        let wanted = !state.gathering || state.jobs.len() >= gather::ENOUGH_JOBS;
        drop(state);
        if wanted {
            self.for_writer.notify_one();
        }
    }

    /// Shows rows to readers at once. They become durable with the next durable write, or within a second. Returns
    /// false, and shows nothing, if too many rows wait already.
    pub(super) fn put_lazily(&self, rows: &Bytes) -> Result<bool, StoreError> {
        let mut state = self.state.lock();
        if state.closing {
            return Err(closed());
        }
        if state.lazy.bytes + rows.len() > LAZY_BYTES_MAX || state.is_full() {
            return Ok(false);
        }
        // While the overlay has rows, the writer wakes once a second without being notified.
        let writer_sleeps = state.active_since.is_none();
        state.show(rows);
        state.lazy.push(rows.clone());
        drop(state);
        if writer_sleeps {
            self.for_writer.notify_one();
        }
        Ok(true)
    }

    /// Reads the newest value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        // The overlay is read before the table. A row that is moved between the two reads is then found in the table.
        let newer = self.state.lock().overlay.get(key);
        let stored = self.table.get(key)?;
        Ok([stored, newer].into_iter().flatten().max_by_key(|value| row::timestamp_us(value)))
    }

    /// Calls `visit` with the newest value of each key in `range`, in ascending order (`backward`: descending), until
    /// `visit` returns false or `at_most` rows were visited.
    pub(super) fn scan(
        &self,
        range: Range<Vec<u8>>,
        backward: bool,
        at_most: usize,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        if at_most == 0 || range.is_empty() {
            return Ok(());
        }
        let newer = self.state.lock().overlay.rows(&range, backward, at_most);
        let mut shown = 0;
        self.table.merge(&range, backward, newer, &mut |key, value| {
            shown += 1;
            visit(key, value) && shown < at_most
        })
    }
}

pub(super) fn closed() -> StoreError {
    StoreError("closed".into())
}
