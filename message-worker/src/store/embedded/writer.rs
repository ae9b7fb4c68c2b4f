//! The writer: one thread that makes rows durable, a group at a time, and answers the callers that wait for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::gather::{self, Gather};
use super::journal::Journal;
use super::key;
use super::row::{self, Rows};
use super::shared::{Job, Lazy, Shared, State, closed};
use crate::store::{StoreError, Tenure};

/// Maximum bytes of a group, unless its only job is larger. One sync makes a group durable, and its bytes are copied
/// once for that.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Maximum time that projections wait before they are made durable.
const LAZY_AGE_MAX: Duration = Duration::from_secs(1);

/// When a journal file has this many bytes, the writer switches to the other file. Each group takes at least one block.
const JOURNAL_BYTES: u64 = 16 * 1024 * 1024;
/// Maximum bytes of a journal file while the rows of the other file are still being moved into the table.
const JOURNAL_BYTES_MAX: u64 = 2 * JOURNAL_BYTES;

pub(super) struct Writer {
    shared: Arc<Shared>,
    journal: Journal,
    gather: Gather,
    sync_began: Instant,
    /// Why the last attempt to begin the next journal generation failed.
    turn_error: Option<StoreError>,
}

/// The writes that one sync makes durable.
struct Group {
    lazy: Lazy,
    jobs: Vec<Job>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, journal: Journal) -> Writer {
        let (gather, sync_began) = (Gather::default(), Instant::now());
        Writer { shared, journal, gather, sync_began, turn_error: None }
    }

    /// Runs until the store closes, and returns the journal.
    pub(super) fn run(mut self) -> Journal {
        let shared = Arc::clone(&self.shared);
        let _fail_jobs = FailJobsOnDrop(&shared);
        while let Some(group) = self.next_group() {
            self.commit(group);
        }
        self.hand_over_the_rest();
        self.journal
    }

    /// Waits for something to write. Returns `None` when the store closes and nothing is left.
    fn next_group(&mut self) -> Option<Group> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        self.pause(&mut state);
        let mut waited_out = false;
        loop {
            let journal_is_long = self.journal.bytes() >= JOURNAL_BYTES && state.overlay.frozen.is_none();
            if state.freeze_is_due() || journal_is_long {
                self.turn_over(&mut state);
            }
            if state.closing {
                // Projections that cannot be written to the journal are left to the flusher, which has them in the
                // overlay too.
                let lazy_left = !state.lazy.rows.is_empty() && state.journal_error.is_none();
                return (lazy_left || !state.jobs.is_empty()).then(|| take_group(&mut state));
            }
            if !state.is_full() && self.journal.bytes() < JOURNAL_BYTES_MAX {
                if !state.jobs.is_empty() || (waited_out && !state.lazy.rows.is_empty()) {
                    return Some(take_group(&mut state));
                }
            } else if let (Some(error), false) = (self.obstacle(&state), state.jobs.is_empty()) {
                let jobs = std::mem::take(&mut state.jobs);
                MutexGuard::unlocked(&mut state, || jobs.into_iter().for_each(|job| job.fail(&error)));
                continue;
            }
            waited_out = if state.active_since.is_some() {
                shared.for_writer.wait_for(&mut state, LAZY_AGE_MAX).timed_out()
            } else {
                shared.for_writer.wait(&mut state);
                false
            };
        }
    }

    /// Begins the journal's next generation and gives the active one to the flusher. The flusher may mark a generation
    /// as moved only when the header of the next one is on disk.
    fn turn_over(&mut self, state: &mut MutexGuard<'_, State>) {
        let number = self.journal.generation();
        match MutexGuard::unlocked(state, || self.journal.begin_generation()) {
            Ok(()) => {
                self.turn_error = None;
                state.freeze(number);
                self.shared.for_flusher.notify_one();
            }
            Err(error) => {
                let error = StoreError(format!("the journal's next generation cannot begin: {error}"));
                if self.turn_error.replace(error.clone()).is_none() {
                    tracing::error!(%error, "trying again; appends fail once the current journal file is full");
                }
            }
        }
    }

    /// Why there is no room for writes and will not be soon, if an error is the reason.
    fn obstacle(&self, state: &State) -> Option<StoreError> {
        state.table_error.clone().or_else(|| self.turn_error.clone())
    }

    /// Waits a few milliseconds for more jobs before the next group is taken, if that pays.
    fn pause(&mut self, state: &mut MutexGuard<'_, State>) {
        let (before, until) = (state.jobs.len(), self.sync_began + gather::INTERVAL);
        // After a slow sync enough time has passed already, and more jobs have arrived.
        if Instant::now() >= until || !self.gather.pays(before) {
            return;
        }
        state.gathering = true;
        while state.jobs.len() < gather::ENOUGH_JOBS && !state.closing {
            if self.shared.for_writer.wait_until(state, until).timed_out() {
                break;
            }
        }
        state.gathering = false;
        self.gather.learn(before, state.jobs.len());
    }

    /// Writes a group, shows its rows to readers and answers the callers.
    fn commit(&mut self, group: Group) {
        if let Some(Job::Change { .. }) = group.jobs.first() {
            return self.change(group);
        }
        let Group { lazy, jobs } = group;
        self.sync_began = Instant::now();
        let outcome = self.journal.write(lazy.rows.iter().chain(rows_of(&jobs)));
        let mut state = self.shared.state.lock();
        let outcome = settle(&mut state, outcome, lazy);
        if outcome.is_ok() {
            rows_of(&jobs).for_each(|rows| state.show(rows));
        }
        drop(state);
        for job in jobs {
            match (&outcome, job) {
                (Ok(()), Job::Write { done, .. }) => drop(done.send(Ok(()))),
                (Err(error), job) => job.fail(error),
                (Ok(()), Job::Change { .. }) => {}
            }
        }
    }

    /// Changes a partition's tenure if the one in force is the job's `previous`. The job is alone in its group.
    fn change(&mut self, mut group: Group) {
        let Some(Job::Change { partition, previous, next, done }) = group.jobs.pop() else { return };
        let outcome = self.try_change(group.lazy, partition, previous, next);
        // The caller may have stopped waiting.
        drop(done.send(outcome));
    }

    fn try_change(
        &mut self,
        lazy: Lazy,
        partition: u32,
        previous: Option<Tenure>,
        next: Tenure,
    ) -> Result<Tenure, StoreError> {
        let stored = self.shared.get(&key::incarnation(partition));
        let mut rows = Rows::default();
        let changes =
            matches!(&stored, Ok(stored) if stored.as_deref().and_then(row::read_tenure) == previous);
        if changes {
            rows.put_tenure(partition, &next);
        }
        let rows = rows.into_bytes();
        let written = self.journal.write(lazy.rows.iter().chain([&rows]));
        let mut state = self.shared.state.lock();
        settle(&mut state, written, lazy)?;
        if changes {
            state.show(&rows);
        }
        drop(state);
        let in_force = stored?.as_deref().and_then(row::read_tenure);
        Ok(if changes { next } else { in_force.unwrap_or(next) })
    }

    /// Gives the flusher the remaining rows, before both threads end.
    fn hand_over_the_rest(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        while state.overlay.frozen.is_some() && state.table_error.is_none() {
            shared.for_writer.wait(&mut state);
        }
        if state.overlay.frozen.is_none() && !state.overlay.active.is_empty() {
            self.turn_over(&mut state);
        }
    }
}

/// The rows of all write jobs.
fn rows_of(jobs: &[Job]) -> impl Iterator<Item = &Bytes> + Clone {
    jobs.iter().filter_map(|job| match job {
        Job::Write { rows, .. } => Some(rows),
        Job::Change { .. } => None,
    })
}

/// Takes jobs in order, up to the bounds of a group. A tenure change is alone in its group, because it must see the
/// rows of the jobs before it.
fn take_group(state: &mut State) -> Group {
    let lazy = std::mem::take(&mut state.lazy);
    let mut bytes = lazy.bytes;
    let mut jobs = Vec::new();
    while let Some(job) = state.jobs.front() {
        match job {
            Job::Change { .. } if !jobs.is_empty() => break,
            Job::Change { .. } => {
                jobs.extend(state.jobs.pop_front());
                break;
            }
            Job::Write { rows, .. } => {
                bytes += rows.len();
                if bytes > GROUP_BYTES_MAX && !jobs.is_empty() {
                    break;
                }
                jobs.extend(state.jobs.pop_front());
            }
        }
    }
    Group { lazy, jobs }
}

/// Records the outcome of a journal write. Projections that could not be written go back to the front of the queue.
fn settle(state: &mut State, outcome: std::io::Result<()>, lazy: Lazy) -> Result<(), StoreError> {
    match outcome {
        Ok(()) => {
            if state.journal_error.take().is_some() {
                tracing::info!("the journal can be written again");
            }
            Ok(())
        }
        Err(error) => {
            let error = StoreError(format!("the journal cannot be written: {error}"));
            let later = std::mem::replace(&mut state.lazy, lazy);
            state.lazy.append(later);
            if state.journal_error.replace(error.clone()).is_none() {
                tracing::error!(%error, "appends fail until the journal can be written again");
            }
            Err(error)
        }
    }
}

/// Fails all waiting jobs when the writer ends, also by a panic, so that no caller waits forever.
struct FailJobsOnDrop<'a>(&'a Shared);

impl Drop for FailJobsOnDrop<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closing = true;
        state.writer_ended = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.0.for_flusher.notify_one();
        jobs.into_iter().for_each(|job| job.fail(&closed()));
    }
}
