//! Compares this worker's wall clock with those of the log's servers and of the database. While it is wrong, the worker
//! holds no lease, so that others work its partitions, and it starts no incarnation.

use crate::core::clocks::{ClockReading, Disagreement, Other};
use crate::metrics;
use crate::store::Store;
use carillon_runtime::bus::Bus;
use carillon_runtime::time::wall_ms;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Time between two comparisons. Starting an incarnation compares the clocks by itself, so this only decides how soon
/// partitions move to other workers.
const EVERY: Duration = Duration::from_secs(10);

/// Whether the clocks agreed in the last comparison in this process.
static AGREE: AtomicBool = AtomicBool::new(true);

/// Whether this process's clock agrees with those of the log and the database, for readiness probes. While it does not,
/// its message-worker works no partition.
pub fn clocks_agree() -> bool {
    AGREE.load(Ordering::Relaxed)
}

/// Access to the clocks, shared by all partitions of a worker.
#[derive(Clone)]
pub(crate) struct Clocks {
    bus: Arc<dyn Bus>,
    store: Arc<dyn Store>,
    /// Notified when a partition found the clock wrong.
    suspected: Arc<Notify>,
    /// The log belongs to this process, and has its clock.
    exclusive: bool,
}

impl Clocks {
    pub(crate) fn new(bus: Arc<dyn Bus>, store: Arc<dyn Store>, exclusive: bool) -> Clocks {
        Clocks { bus, store, suspected: Arc::default(), exclusive }
    }

    /// Compares this worker's clock with the others. A clock that cannot be read counts as right: a log or a database
    /// that is away stops the work by itself.
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

    /// Notes that a partition found the clock wrong when it was about to start an incarnation. The worker then gives up
    /// its lease.
    pub(crate) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Waits until the clock is right. Returns `false` if `shutdown` came first.
    pub(crate) async fn until_right(&self, shutdown: &CancellationToken) -> bool {
        let mut reported = None;
        loop {
            let Some(found) = self.compare().await else {
                if reported.is_some() {
                    tracing::info!("this worker's clock is right again");
                }
                AGREE.store(true, Ordering::Relaxed);
                return !shutdown.is_cancelled();
            };
            AGREE.store(false, Ordering::Relaxed);
            if reported != Some(found.other) {
                tracing::error!(
                    "{found}: set the clocks by NTP; this worker works no partition until they agree"
                );
                reported = Some(found.other);
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

#[expect(clippy::disallowed_methods, reason = "the wall clock is compared with other clocks")]
async fn reading(other: Other, read: impl Future<Output = Option<u64>>) -> Option<ClockReading> {
    let before_ms = wall_ms();
    let other_ms = read.await?;
    Some(ClockReading { other, other_ms, before_ms, after_ms: wall_ms() })
}
