//! What every part of a partition's worker is given.

use crate::clocks::Clocks;
use crate::core::cache::Room;
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

/// One partition, and what it is worked with.
#[derive(Clone)]
pub(crate) struct Context {
    /// The partition.
    pub(crate) partition: u32,
    /// Of how many.
    pub(crate) partitions: u32,
    /// Who works it.
    pub(crate) worker: WorkerId,
    /// The log belongs to this process alone.
    pub(crate) exclusive: bool,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) store: Arc<dyn Store>,
    /// Whether the partition is still ours, by the monotonic clock.
    pub(crate) is_ours: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Partitions that this process works, which share its memory.
    pub(crate) sharing: Arc<AtomicUsize>,
    /// Turns at the store, for reading on behalf of the log and of registrations.
    pub(crate) reads: Arc<Semaphore>,
    /// Whether lives may be begun by this worker's clock.
    pub(crate) clocks: Clocks,
    /// When the process is about to stop.
    pub(crate) leaving: Leaving,
    /// The newest version of the state machine that this build knows.
    pub(crate) version: u32,
    /// Who is live, as the lease read it last.
    pub(crate) live: watch::Receiver<Arc<Vec<WorkerId>>>,
    pub(crate) outdated: Outdated,
}

/// Stops a worker whose build does not know the version of the state machine that a partition is worked by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outdated {
    met: Arc<OnceLock<u32>>,
    stop: CancellationToken,
}

impl Outdated {
    /// A partition is worked by this version.
    pub(crate) fn meet(&self, version: u32) {
        self.met.get_or_init(|| version);
        self.stop.cancel();
    }

    /// Waits until a partition turns out to be worked by a version that this build, which knows those up to `known`,
    /// does not have.
    pub(crate) async fn refused(&self, known: u32) -> Refused {
        self.stop.cancelled().await;
        newer(self.met.get().copied().unwrap_or_default(), known)
    }
}

/// Why a partition's work ends when its version turns out to be unknown here.
pub(crate) const NEWER_VERSION: &str = "a newer version of the state machine has begun";

/// Why this build cannot work partitions of a newer version.
pub(crate) fn newer(version: u32, known: u32) -> Refused {
    Refused(vec![format!(
        "conversations are kept by version {version} of the state machine, and this carillon knows versions up to {known}: \
         run the newer carillon"
    )])
}

/// How a process that is told to stop gets everything written that has gathered, while all its partitions are still
/// worked: successors then find little to do again, and no partition waits for another one's writes.
#[derive(Clone)]
pub(crate) struct Leaving {
    begun: CancellationToken,
    gathered: Arc<Semaphore>,
    /// This partition has said so.
    told: Arc<AtomicBool>,
}

impl Leaving {
    pub(crate) fn new() -> Leaving {
        Leaving {
            begun: CancellationToken::new(),
            gathered: Arc::new(Semaphore::new(0)),
            told: Arc::default(),
        }
    }

    /// For one partition more.
    pub(crate) fn of_partition(&self) -> Leaving {
        Leaving { told: Arc::default(), ..self.clone() }
    }

    /// Waits until the process is about to stop.
    pub(crate) async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// What a partition had gathered until then is written. It says so once, however often it begins.
    pub(crate) fn gathered(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            self.gathered.add_permits(1);
        }
    }

    /// Waits for something while nothing has gathered: nobody is to wait for that.
    pub(crate) async fn idle<T>(&self, wait: impl Future<Output = T>) -> T {
        tokio::pin!(wait);
        tokio::select! {
            biased;
            done = &mut wait => return done,
            () = self.begun() => self.gathered(),
        }
        wait.await
    }

    /// Asks so many partitions to write, and waits until they have, or for a second: whether they have.
    pub(crate) async fn begin(&self, partitions: usize) -> bool {
        self.begun.cancel();
        let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
        let all = self.gathered.acquire_many(partitions);
        tokio::time::timeout(Duration::from_millis(LEAVE_MS_MAX), all).await.is_ok()
    }
}

impl Context {
    /// This partition's share of the process's memory.
    pub(crate) fn room(&self) -> Room {
        let sharing = self.sharing.load(Ordering::Relaxed).max(1);
        Room {
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

/// A partition's work cannot go on from what is in memory: begin again from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct StartOver {
    /// For people.
    pub(crate) reason: &'static str,
    /// This life of the log is known to be over: only another one will do.
    pub(crate) forgotten: Option<u32>,
}

impl StartOver {
    /// Begin again; the checkpoint says how.
    pub(crate) fn because(reason: &'static str) -> StartOver {
        StartOver { reason, forgotten: None }
    }
}
