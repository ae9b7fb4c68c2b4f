//! What callers, the writer and the flusher share: the overlay, what waits to be written, and the table.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::overlay::Overlay;
use super::table::Table;
use super::{gather, key};
use crate::store::{StoreError, Tenure};

/// Bytes of a generation at which it is carried over into the table: about 7,000 messages, enough for a page
/// to take several rows at once.
pub(super) const GENERATION_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that a generation may reach while the one before is still on its way; then writes wait, or fail if
/// the table cannot be written.
pub(super) const GENERATION_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of projections that may wait for the next durable write; further ones are written at once.
const LAZY_BYTES_MAX: usize = 1024 * 1024;
/// Age at which a generation is carried over into the table: the longer, the fewer pages are written twice.
pub(super) const GENERATION_AGE_MAX: Duration = Duration::from_secs(5);

/// Something that is answered once it is durable.
pub(super) enum Job {
    /// Rows to write.
    Write { rows: Bytes, done: oneshot::Sender<Result<(), StoreError>>, _room: OwnedSemaphorePermit },
    /// A life of the log to begin, to take or to give back.
    Change {
        partition: u32,
        previous: Option<Tenure>,
        next: Tenure,
        done: oneshot::Sender<Result<Tenure, StoreError>>,
    },
}

impl Job {
    /// Answers that it may not have been done.
    pub(super) fn fail(self, error: &StoreError) {
        // Whoever asked may have stopped waiting.
        match self {
            Job::Write { done, .. } => drop(done.send(Err(error.clone()))),
            Job::Change { done, .. } => drop(done.send(Err(error.clone()))),
        }
    }
}

/// Rows of the overlay that are not in the journal yet, in the order in which they came.
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

    /// Adds what came later.
    pub(super) fn append(&mut self, mut later: Lazy) {
        self.bytes += later.bytes;
        self.rows.append(&mut later.rows);
    }
}

/// Changes under one lock, held for microseconds and never over I/O.
#[derive(Default)]
pub(super) struct State {
    pub(super) overlay: Overlay,
    /// When the active generation got its first row.
    pub(super) active_since: Option<Instant>,
    /// What waits for the writer.
    pub(super) jobs: VecDeque<Job>,
    /// What goes into the journal before anything later.
    pub(super) lazy: Lazy,
    /// The writer waits for a few more jobs and need not be woken for each.
    pub(super) gathering: bool,
    /// No more jobs are taken; the writer ends when it has done those it has.
    pub(super) closing: bool,
    /// The writer has ended: no generation will follow.
    pub(super) writer_ended: bool,
    /// Why the journal could not be written last time.
    pub(super) journal_error: Option<StoreError>,
    /// Why the table could not be written last time.
    pub(super) table_error: Option<StoreError>,
}

impl State {
    /// Puts rows into the active generation, for all readers to see.
    pub(super) fn show(&mut self, rows: &Bytes) {
        self.overlay.active.put_all(rows);
        self.active_since.get_or_insert_with(Instant::now);
    }

    /// Turns the active generation, which has this number in the journal, over to the flusher.
    pub(super) fn freeze(&mut self, number: u64) {
        let mut active = std::mem::take(&mut self.overlay.active);
        active.number = number;
        self.overlay.frozen = Some(Arc::new(active));
        self.active_since = None;
    }

    /// Whether the active generation is large or old enough to be turned over, and the flusher is free.
    pub(super) fn freeze_is_due(&self) -> bool {
        let old = self.active_since.is_some_and(|since| since.elapsed() >= GENERATION_AGE_MAX);
        self.overlay.frozen.is_none() && (old || self.overlay.active.bytes() >= GENERATION_BYTES)
    }

    /// Whether the active generation may not grow before the flusher has made room.
    pub(super) fn is_full(&self) -> bool {
        self.overlay.active.bytes() >= GENERATION_BYTES_MAX
    }
}

/// See the module.
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

    /// Hands a job to the writer.
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

    /// Shows rows at once and has them made durable with the next durable write, or within a second. Returns
    /// false when too much waits already.
    pub(super) fn put_lazily(&self, rows: &Bytes) -> Result<bool, StoreError> {
        let mut state = self.state.lock();
        if state.closing {
            return Err(closed());
        }
        if state.lazy.bytes + rows.len() > LAZY_BYTES_MAX || state.is_full() {
            return Ok(false);
        }
        // While there is anything in the overlay the writer looks by itself, once a second.
        let writer_sleeps = state.active_since.is_none();
        state.show(rows);
        state.lazy.push(rows.clone());
        drop(state);
        if writer_sleeps {
            self.for_writer.notify_one();
        }
        Ok(true)
    }

    /// The newest value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        // The overlay before the table: what leaves the one in between is found in the other.
        let newer = self.state.lock().overlay.get(key);
        let stored = self.table.get(key)?;
        Ok([stored, newer].into_iter().flatten().max_by_key(|value| key::timestamp_us(value)))
    }

    /// Shows the newest values of the keys in `range`, ascending (`backward`: descending), to `visit`, until it
    /// says that this was enough. It may be shown no more than `at_most`.
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
