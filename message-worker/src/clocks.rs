//! Compares this worker's wall clock with those of the log's servers and of the database. While it is wrong the worker
//! holds no lease, so that others work its partitions, and begins no life of a log.

use crate::core::clocks::{Disagreement, Other, Reading};
use crate::metrics;
use crate::store::Store;
use carillon_runtime::bus::Bus;
use carillon_runtime::time::wall_ms;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Between two comparisons: whoever begins a life compares by itself, so this is about how soon partitions move.
const EVERY: Duration = Duration::from_secs(10);

/// Whether the last comparison in this process went well.
static AGREE: AtomicBool = AtomicBool::new(true);

/// Whether this process's clock agrees with those of log and database, for readiness probes: while it does not, its
/// message-worker works nothing.
pub fn clocks_agree() -> bool {
    AGREE.load(Ordering::Relaxed)
}

/// What all partitions of a worker know of its clock.
#[derive(Clone)]
pub(crate) struct Clocks {
    bus: Arc<dyn Bus>,
    store: Arc<dyn Store>,
    /// A partition found it wrong.
    suspected: Arc<Notify>,
    /// The log belongs to this process, and has its clock.
    exclusive: bool,
}

impl Clocks {
    pub(crate) fn new(bus: Arc<dyn Bus>, store: Arc<dyn Store>, exclusive: bool) -> Clocks {
        Clocks { bus, store, suspected: Arc::default(), exclusive }
    }

    /// What is wrong with this worker's clock, as far as the others can be asked: one that cannot be stops whoever wants
    /// to work by itself.
    pub(crate) async fn compare(&self) -> Option<Disagreement> {
        if self.exclusive {
            return None;
        }
        let log = reading(Other::Log, async { self.bus.clock_ms().await.ok().flatten() });
        let database = reading(Other::Database, async { self.store.clock_ms().await.ok().flatten() });
        let (log, database) = tokio::join!(log, database);
        let mut found = None;
        for reading in [log, database].into_iter().flatten() {
            let other = reading.other.as_str();
            metrics::CLOCK_AHEAD_MS.with_label_values(&[other]).set(reading.ahead_ms());
            found = found.or(reading.disagreement());
        }
        found
    }

    /// A partition that was to begin a life found the clock wrong: the worker is to give up its lease.
    pub(crate) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Waits until the clock is right; `false` when `shutdown` came first.
    pub(crate) async fn until_right(&self, shutdown: &CancellationToken) -> bool {
        let mut told = None;
        loop {
            let Some(found) = self.compare().await else {
                if told.is_some() {
                    tracing::info!("this worker's clock is right again");
                }
                AGREE.store(true, Ordering::Relaxed);
                return !shutdown.is_cancelled();
            };
            AGREE.store(false, Ordering::Relaxed);
            if told != Some(found.other) {
                tracing::error!(
                    "{found}: set the clocks by NTP; this worker works no partition until they agree"
                );
                told = Some(found.other);
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = shutdown.cancelled() => return false,
            }
        }
    }

    /// Waits until the clock is wrong.
    pub(crate) async fn until_wrong(&self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = self.suspected.notified() => {}
            }
            if self.compare().await.is_some() {
                return;
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "it is the wall clock that is compared")]
async fn reading(other: Other, ask: impl Future<Output = Option<u64>>) -> Option<Reading> {
    let asked_ms = wall_ms();
    let other_ms = ask.await?;
    Some(Reading { other, other_ms, asked_ms, answered_ms: wall_ms() })
}
