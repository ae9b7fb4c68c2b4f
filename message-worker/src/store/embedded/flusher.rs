//! The flusher: one thread that moves a journal generation into the table while the writer writes the next one.

use std::sync::Arc;
use std::time::Duration;

use super::overlay::Generation;
use super::shared::Shared;
use super::sweep::Sweep;
use crate::store::StoreError;

/// Time between two attempts while the table cannot be written.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Runs until the writer has ended and all rows are in the table, or until they cannot be written and the store closes.
pub(super) fn run(shared: &Shared, mut sweep: Sweep) {
    while let Some(generation) = next_generation(shared) {
        match shared.table.take_in(&generation, &mut sweep) {
            Ok(()) => finish(shared, generation),
            Err(error) => {
                if !fail(shared, error) {
                    return;
                }
            }
        }
    }
}

fn next_generation(shared: &Shared) -> Option<Arc<Generation>> {
    let mut state = shared.state.lock();
    loop {
        if let Some(generation) = &state.overlay.frozen {
            return Some(Arc::clone(generation));
        }
        if state.writer_ended {
            return None;
        }
        shared.for_flusher.wait(&mut state);
    }
}

fn finish(shared: &Shared, generation: Arc<Generation>) {
    let mut state = shared.state.lock();
    // Drop the thousands of rows after the lock is released.
    let frozen = state.overlay.frozen.take();
    if state.table_error.take().is_some() {
        tracing::info!("the table can be written again");
    }
    drop(state);
    shared.for_writer.notify_one();
    drop((frozen, generation));
}

/// Records the error and waits for the next attempt. Returns false if the store is closing, when no further attempt is
/// made.
fn fail(shared: &Shared, error: StoreError) -> bool {
    // Reopen the table so that reads work while writes fail. If it cannot be opened, the next attempt tries again.
    let reopened = shared.table.reopen_if_closed();
    let mut state = shared.state.lock();
    if state.table_error.is_none() {
        tracing::error!(%error, readable = reopened.is_ok(), "the table cannot be written; trying again every second");
    }
    state.table_error =
        Some(StoreError(format!("{} cannot be written: {}", shared.table.path().display(), error.0)));
    shared.for_writer.notify_one();
    if !state.closing {
        shared.for_flusher.wait_for(&mut state, RETRY_AFTER);
    }
    !state.closing
}
