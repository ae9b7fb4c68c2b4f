//! What all parts of a partition's task share: the partition, the bus, the store, and how the process stops.

use crate::clocks::Clocks;
use crate::core::cache::CacheLimits;
use crate::limits::{CONVERSATIONS_BYTES_MAX, LEAVE_MS_MAX};
use carillon_proto::id::WorkerId;
use carillon_proto::limits::{CONVERSATION_IDLE_MS, CONVERSATIONS_IN_MEMORY_MAX};
use carillon_runtime::bus::Bus;
use carillon_runtime::settings::Refused;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// One partition, and everything that its task needs to work it.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) partition: u32,
    /// The number of partitions of the cluster.
    pub(crate) partitions: u32,
    /// This worker.
    pub(crate) worker: WorkerId,
    /// The log belongs to this process alone (a standalone server), so there are no other owners.
    pub(crate) exclusive: bool,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) store: Arc<dyn Store>,
    /// Whether this worker still holds the lease of the partition, by the monotonic clock.
    pub(crate) is_ours: Arc<dyn Fn() -> bool + Send + Sync>,
    /// The number of partitions that this process works. They share its memory.
    pub(crate) sharing: Arc<AtomicUsize>,
    /// Permits for reads of the store on behalf of the log and of registrations. They bound the reads that run at once.
    pub(crate) reads: Arc<Semaphore>,
    /// Whether this worker's wall clock is good enough to start an incarnation.
    pub(crate) clocks: Clocks,
    /// How the process stops.
    pub(crate) leaving: Leaving,
    /// The newest version of the state machine that this build knows.
    pub(crate) version: u32,
    /// The live workers, as the lease read them last.
    pub(crate) live: watch::Receiver<Arc<Vec<WorkerId>>>,
    pub(crate) outdated: Outdated,
}

/// Stops a worker whose build does not know the version of the state machine that a partition has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outdated {
    version: Arc<OnceLock<u32>>,
    stop: CancellationToken,
}

impl Outdated {
    /// Reports that a partition has this version.
    pub(crate) fn report(&self, version: u32) {
        self.version.get_or_init(|| version);
        self.stop.cancel();
    }

    /// Waits until a partition has a version that this build, which knows the versions up to `known`, does not know.
    pub(crate) async fn refused(&self, known: u32) -> Refused {
        self.stop.cancelled().await;
        newer(self.version.get().copied().unwrap_or_default(), known)
    }
}

/// Why the work on a partition ends when this build does not know the partition's version.
pub(crate) const NEWER_VERSION: &str = "a newer version of the state machine has begun";

/// Why this build cannot work partitions of a newer version.
pub(crate) fn newer(version: u32, known: u32) -> Refused {
    Refused(vec![format!(
        "conversations are kept by version {version} of the state machine, and this carillon knows versions up to {known}: \
         run the newer carillon"
    )])
}

/// How a stopping process writes its pending heads, projections and checkpoints. All its partitions go on working
/// meanwhile, so successors have little to replay, and no partition waits for the writes of another.
#[derive(Clone)]
pub(crate) struct Leaving {
    begun: CancellationToken,
    gathered: Arc<Semaphore>,
    /// Whether this partition has already reported that its pending writes are done.
    reported: Arc<AtomicBool>,
}

impl Leaving {
    pub(crate) fn new() -> Leaving {
        Leaving {
            begun: CancellationToken::new(),
            gathered: Arc::new(Semaphore::new(0)),
            reported: Arc::default(),
        }
    }

    /// The same for one more partition.
    pub(crate) fn of_partition(&self) -> Leaving {
        Leaving { reported: Arc::default(), ..self.clone() }
    }

    /// Waits until the process is about to stop.
    pub(crate) async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Reports that everything that was pending in this partition when the process began to stop is written. Only the
    /// first report of a partition counts, however often it starts over.
    pub(crate) fn gathered(&self) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            self.gathered.add_permits(1);
        }
    }

    /// Awaits `wait` while this partition has no pending writes. If the process begins to stop meanwhile, this reports
    /// the partition as done at once, so that the process does not wait for it.
    pub(crate) async fn idle<T>(&self, wait: impl Future<Output = T>) -> T {
        tokio::pin!(wait);
        tokio::select! {
            biased;
            done = &mut wait => return done,
            () = self.begun() => self.gathered(),
        }
        wait.await
    }

    /// Requests that all `partitions` partitions write what is pending. Waits until they have, or for a second; returns
    /// whether all of them have.
    pub(crate) async fn begin(&self, partitions: usize) -> bool {
        self.begun.cancel();
        let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
        let all = self.gathered.acquire_many(partitions);
        tokio::time::timeout(Duration::from_millis(LEAVE_MS_MAX), all).await.is_ok()
    }
}

impl Context {
    /// This partition's share of the process's memory.
    pub(crate) fn cache_limits(&self) -> CacheLimits {
        let sharing = self.sharing.load(Ordering::Relaxed).max(1);
        CacheLimits {
            conversations: CONVERSATIONS_IN_MEMORY_MAX / sharing,
            bytes: CONVERSATIONS_BYTES_MAX / sharing,
            idle_ms: CONVERSATION_IDLE_MS,
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("partition", &self.partition).finish_non_exhaustive()
    }
}

/// The work on a partition cannot go on from what is in memory. Start over from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct StartOver {
    /// The reason, as the log shows it.
    pub(crate) reason: &'static str,
    /// The incarnation that is known to be over, if any: work can only go on in another one.
    pub(crate) forgotten: Option<u32>,
}

impl StartOver {
    /// Start over; the checkpoint decides in which incarnation.
    pub(crate) fn because(reason: &'static str) -> StartOver {
        StartOver { reason, forgotten: None }
    }
}
