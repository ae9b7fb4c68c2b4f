//! A worker's lease, and the units (partitions or shards) that the worker owns while the lease lasts.
//!
//! Every worker renews its lease and reads the live workers four times in the time of a lease. A worker that comes or
//! stops in good order announces it, so the others notice it at once. Between the renewals, every worker also checks a
//! few times whether the live workers have changed, so that it notices a lost announcement, and a killed worker soon
//! after its lease has run out. Two workers may believe that they own the same unit until then; their epochs
//! distinguish them.

use crate::bus::{Bus, BusError, LEASE_MS, Subscription};
use crate::suspended::suspended;
use bytes::Bytes;
use carillon_proto::id::WorkerId;
use carillon_proto::subject;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

mod core;

/// How long a lease lasts.
const LEASE: Duration = Duration::from_millis(LEASE_MS);
/// Time between two rounds: a round renews the lease and reads the live workers.
const ROUND: Duration = Duration::from_millis(LEASE_MS / 4);
/// Time between two reads of the live workers: a dead worker is noticed this soon after its lease has run out.
const LOOK: Duration = Duration::from_millis(LEASE_MS / 16);
/// Time for one call to the bus. After two failures in a row, there still is time for a third try.
const CALL_TIMEOUT: Duration = Duration::from_millis(LEASE_MS / 4);
/// Time for giving the lease up at the end. After that, it runs out by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// The units that a worker owns, each with the epoch in which the worker took it over.
pub type Owned = Arc<BTreeMap<u32, u64>>;

/// A worker's lease. A task renews it until it is released.
pub struct Lease {
    owned: watch::Receiver<Owned>,
    live: watch::Receiver<Arc<Vec<WorkerId>>>,
    clock: Arc<Clock>,
    stop: CancellationToken,
    stopped: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// The time until which the lease is valid. Tasks that acknowledge read it without a lock.
struct Clock {
    start: Instant,
    /// How long the machine has been suspended. The clocks of the other machines went on meanwhile, so the lease runs
    /// out.
    suspended: fn() -> Duration,
    suspended_before: Duration,
    valid_until_us: AtomicU64,
}

impl Clock {
    fn start(suspended: fn() -> Duration) -> Arc<Clock> {
        let (start, suspended_before) = (Instant::now(), suspended());
        Arc::new(Clock { start, suspended, suspended_before, valid_until_us: AtomicU64::new(0) })
    }

    fn now(&self) -> Duration {
        self.start.elapsed() + (self.suspended)().saturating_sub(self.suspended_before)
    }

    fn set_valid_until(&self, valid_until: Duration) {
        self.valid_until_us.store(valid_until.as_micros() as u64, Ordering::Release);
    }

    fn valid(&self) -> bool {
        (self.now().as_micros() as u64) < self.valid_until_us.load(Ordering::Acquire)
    }
}

impl Lease {
    /// Acquires a lease of this kind and keeps it until `shutdown`, [`Lease::release`] or the drop of this handle.
    pub fn start(
        bus: Arc<dyn Bus>,
        kind: &'static str,
        worker: WorkerId,
        units: u32,
        shutdown: CancellationToken,
    ) -> Lease {
        let clock = Clock::start(suspended);
        let (publisher, owned) = watch::channel(Owned::default());
        let (listed, live) = watch::channel(Arc::default());
        let stop = shutdown.child_token();
        let stopped = CancellationToken::new();
        let keeper = Keeper {
            core: core::Core::new(worker.clone(), units, LEASE),
            bus,
            kind,
            worker,
            live: listed,
            overdue: false,
            clock: clock.clone(),
            owned: publisher,
        };
        tokio::spawn(keep(keeper, stop.clone(), stopped.clone().drop_guard()));
        Lease { owned, live, clock, _stop_on_drop: stop.clone().drop_guard(), stop, stopped }
    }

    /// The units that are owned now, and their changes. If a unit's epoch changes, the unit was lost and acquired
    /// again, so its work starts over.
    pub fn owned(&self) -> watch::Receiver<Owned> {
        self.owned.clone()
    }

    /// The workers that were live at the last round, in order.
    pub fn live(&self) -> watch::Receiver<Arc<Vec<WorkerId>>> {
        self.live.clone()
    }

    /// Whether the lease is still valid. Measured with the monotonic clock from before the last renewal began, and
    /// including the time that the machine was suspended.
    pub fn valid(&self) -> bool {
        self.clock.valid()
    }

    /// Gives up all owned units, then the lease, so that other workers take over at once. Returns when that is done, or
    /// has been tried for a second.
    pub async fn release(&self) {
        self.stop.cancel();
        self.stopped.cancelled().await;
    }
}

/// The task behind a lease.
struct Keeper {
    core: core::Core,
    bus: Arc<dyn Bus>,
    kind: &'static str,
    worker: WorkerId,
    /// The workers that were live at the last round.
    live: watch::Sender<Arc<Vec<WorkerId>>>,
    /// The last round did not renew the lease. The next check does a whole round, because little of the lease's time
    /// may be left.
    overdue: bool,
    clock: Arc<Clock>,
    owned: watch::Sender<Owned>,
}

async fn keep(mut keeper: Keeper, stop: CancellationToken, _stopped: DropGuard) {
    let ticks = |period| {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let (mut rounds, mut looks) = (ticks(ROUND), ticks(LOOK));
    let mut changes = None;
    loop {
        // A renewal that is cancelled here may still arrive, but it arrives before the release, because both use the
        // same connection.
        let worked = stop.run_until_cancelled(async {
            if changes.is_none() {
                changes = keeper.changes().await;
            }
            let due = tokio::select! {
                biased;
                _ = rounds.tick() => true,
                announced = changed(&mut changes) => announced,
                _ = looks.tick() => keeper.overdue || keeper.others_changed().await,
            };
            if due {
                keeper.round().await;
            }
        });
        if worked.await.is_none() {
            break;
        }
    }
    keeper.end().await;
}

/// Waits until another worker announces that it has come or gone. `false` when the subscription has ended.
async fn changed(changes: &mut Option<Subscription>) -> bool {
    let Some(subscription) = changes else { return std::future::pending().await };
    if subscription.next().await.is_some() {
        // One round answers all announcements that are queued.
        while subscription.try_next().is_some() {}
        return true;
    }
    *changes = None;
    false
}

impl Keeper {
    /// Subscribes to the announcements of workers that come or go. `None` while the bus is down; the rounds find the
    /// changes as well.
    async fn changes(&self) -> Option<Subscription> {
        let subject = subject::lease_changed(self.kind);
        timeout(CALL_TIMEOUT, self.bus.subscribe(&subject, None)).await.ok()?.ok()
    }

    /// Whether the live workers have changed since the last round. A change is then handled by a whole round, which
    /// also renews the lease. If this takes longer than the time between two checks, it is given up, so that no renewal
    /// has to wait for it.
    async fn others_changed(&self) -> bool {
        timeout(LOOK, self.live())
            .await
            .is_ok_and(|listed| listed.is_ok_and(|live| live != **self.live.borrow()))
    }

    /// Announces that this worker has come or gone. It only makes the others notice sooner, so a failure does no harm.
    async fn announce(&self) {
        let subject = subject::lease_changed(self.kind);
        let announcement = self.bus.publish(&subject, Bytes::new());
        if !matches!(timeout(CALL_TIMEOUT, announcement).await, Ok(Ok(()))) {
            tracing::debug!(kind = self.kind, "a change of this worker's lease was not announced");
        }
    }

    /// Renews the lease, then reads the live workers. In this order, the epoch of a unit that is taken over on this
    /// reading is above that of any former owner.
    async fn round(&mut self) {
        let began = self.clock.now();
        let renewed = self.call(self.bus.renew_lease(self.kind, &self.worker)).await;
        let again = std::mem::replace(&mut self.overdue, renewed.is_err());
        match renewed {
            Ok(number) => self.core.renewed(began, self.clock.now(), number),
            Err(error) if again => tracing::debug!(%error, kind = self.kind, "lease not renewed"),
            Err(error) => tracing::warn!(%error, kind = self.kind, "lease not renewed"),
        }
        self.publish();
        match self.live().await {
            Ok(live) => {
                self.core.listed(began, self.clock.now(), &live);
                let came = live.contains(&self.worker) && !self.live.borrow().contains(&self.worker);
                self.live.send_replace(Arc::new(live));
                if came {
                    self.announce().await;
                }
            }
            Err(error) if again => tracing::debug!(%error, kind = self.kind, "live workers unknown"),
            Err(error) => tracing::warn!(%error, kind = self.kind, "live workers unknown"),
        }
        self.publish();
    }

    /// The live workers, in order.
    async fn live(&self) -> Result<Vec<WorkerId>, BusError> {
        let mut live = self.call(self.bus.live_leases(self.kind)).await?;
        live.sort();
        Ok(live)
    }

    /// Limits the time of a call. If the lease runs out during the call, everything is given up at once, without
    /// waiting for the call.
    async fn call<T>(&self, call: impl Future<Output = Result<T, BusError>>) -> Result<T, BusError> {
        let run_out = async {
            match self.core.runs_out_in(self.clock.now()) {
                Some(left) => sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = timeout(CALL_TIMEOUT, call) => {
                done.unwrap_or_else(|_| Err(BusError::Timeout(format!("no answer within {CALL_TIMEOUT:?}"))))
            }
            () = run_out => Err(BusError::Timeout("the lease ran out meanwhile".into())),
        }
    }

    fn publish(&mut self) {
        let now = self.clock.now();
        self.core.look(now);
        self.clock.set_valid_until(self.core.valid_until());
        self.owned.send_if_modified(|owned| {
            if **owned == *self.core.owned() {
                return false;
            }
            tracing::info!(kind = self.kind, units = self.core.owned().len(), "owned units changed");
            *owned = Arc::new(self.core.owned().clone());
            true
        });
    }

    /// Ends ownership before the lease, so that no other worker owns a unit while this one still does.
    async fn end(&mut self) {
        self.core.give_up();
        self.publish();
        match timeout(RELEASE_TIMEOUT, self.bus.release_lease(self.kind, &self.worker)).await {
            Ok(Ok(())) => {
                tracing::info!(kind = self.kind, "lease released");
                self.announce().await;
            }
            Ok(Err(error)) => tracing::warn!(%error, kind = self.kind, "lease not released: it runs out"),
            Err(_) => tracing::warn!(kind = self.kind, "lease not released in time: it runs out"),
        }
    }
}

#[cfg(test)]
mod tests;
