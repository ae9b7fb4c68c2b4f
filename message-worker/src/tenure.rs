//! Who may have writes under way in the present life of a log, and who acknowledges in it: an owner takes the life when it
//! begins, and gives it back once everything that it began to write is there
//! (`docs/decisions/0013-who-takes-over-begins-a-life.md`).
//!
//! Leases say who should work a partition, and this says who does: it holds whatever the bus and its clocks say.

use crate::context::Context;
use crate::limits::{CONFIRM_MS, GIVE_BACK_MS_MAX, HAND_OVER_MS_MAX, HAND_OVER_POLL_MS, TENURE_MS};
use crate::run::KIND;
use crate::store::{Holder, Store, StoreError, Tenure};
use carillon_proto::position::Incarnation;
use carillon_runtime::suspended::suspended;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const TENURE: Duration = Duration::from_millis(TENURE_MS);
/// Between two readings of one's own tenure.
pub(crate) const CONFIRM: Duration = Duration::from_millis(CONFIRM_MS);
/// An eighth more than an owner acknowledges: clocks do not run at one pace.
const AFTER_DISPLACING: Duration = Duration::from_millis(TENURE_MS + TENURE_MS / 8);
/// Polls of the store between two looks at the leases, which cost more.
const POLLS_PER_LOOK: u32 = 3;

/// A life that an owner took, and how long it may acknowledge in it.
pub(crate) struct Tenancy {
    partition: u32,
    store: Arc<dyn Store>,
    tenure: Tenure,
    confirmed: Mutex<Reading>,
}

/// When a reading of a tenure began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    began: Instant,
    /// How long the machine had been suspended by then. The clock above does not count that.
    suspended: Duration,
}

impl Reading {
    /// One that begins now.
    pub(crate) fn now() -> Reading {
        Reading { began: Instant::now(), suspended: suspended() }
    }

    /// Whether nobody can have taken since and loaded, what was read to be ours then.
    fn holds_at(&self, now: Reading) -> bool {
        now.began < self.began + TENURE && now.suspended == self.suspended
    }
}

impl fmt::Debug for Tenancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tenancy").field(&self.tenure).finish()
    }
}

impl Tenancy {
    /// What was taken, or read to be ours, by a call that began then.
    pub(crate) fn new(context: &Context, tenure: Tenure, read: Reading) -> Arc<Tenancy> {
        let (partition, store) = (context.partition, context.store.clone());
        Arc::new(Tenancy { partition, store, tenure, confirmed: Mutex::new(read) })
    }

    /// The life.
    pub(crate) fn life(&self) -> Incarnation {
        self.tenure.incarnation
    }

    /// The number by which gateways know who works the partition.
    pub(crate) fn epoch(&self) -> u64 {
        self.tenure.epoch
    }

    /// Whether others could take the partition: it does not belong to this process alone.
    pub(crate) fn is_contested(&self) -> bool {
        self.tenure.holder.is_some()
    }

    /// Whether nobody else can have begun to work the partition.
    pub(crate) fn is_valid(&self) -> bool {
        !self.is_contested() || self.confirmed.lock().holds_at(Reading::now())
    }

    /// Reads whether the partition still is ours.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn confirm(&self) -> Result<bool, StoreError> {
        if !self.is_contested() {
            return Ok(true);
        }
        let read = Reading::now();
        let is_ours = self.store.tenure(self.partition).await?.as_ref() == Some(&self.tenure);
        if is_ours {
            let confirmed = &mut *self.confirmed.lock();
            if read.began > confirmed.began {
                *confirmed = read;
            }
        }
        Ok(is_ours)
    }

    /// Says that nothing is under way any more. If that fails, the next owner begins another life.
    pub(crate) async fn give_back(&self) {
        let Tenancy { partition, tenure, .. } = self;
        if !self.is_contested() {
            return;
        }
        let free = Tenure { holder: None, ..tenure.clone() };
        let change = self.store.change_tenure(*partition, Some(tenure.clone()), free);
        match timeout(Duration::from_millis(GIVE_BACK_MS_MAX), change).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(partition, %error, "the partition was not given back"),
            Err(_) => tracing::warn!(partition, "the partition was not given back in time"),
        }
    }
}

/// Waits until a former owner that is alive has given its life back, or for as long as that may take.
pub(crate) async fn wait_for_hand_over(context: &Context, held: Option<&Tenure>) {
    let Some(holder) = held.and_then(|held| held.holder.as_ref()) else { return };
    let deadline = Instant::now() + Duration::from_millis(HAND_OVER_MS_MAX);
    while is_other(context, holder) && Instant::now() < deadline && may_be_live(context, holder).await {
        for _ in 0..POLLS_PER_LOOK {
            sleep(Duration::from_millis(HAND_OVER_POLL_MS)).await;
            let tenure = context.store.tenure(context.partition).await;
            if tenure.is_ok_and(|tenure| tenure.as_ref() != held) {
                return;
            }
        }
    }
}

/// Waits until whoever was displaced certainly acknowledges nothing any more: what it has not acknowledged then need
/// not count.
pub(crate) async fn wait_for_silence() {
    sleep(AFTER_DISPLACING).await;
}

/// Whether a holder is another worker. This one's task before this one has ended, and gives nothing back any more.
fn is_other(context: &Context, holder: &Holder) -> bool {
    holder.worker() != context.worker.as_str()
}

async fn may_be_live(context: &Context, holder: &Holder) -> bool {
    let live = context.bus.live_leases(KIND).await;
    live.map_or(true, |live| live.iter().any(|worker| worker.as_str() == holder.worker()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before, an owner acknowledged for what had been left of its half second when its machine had been suspended for
    /// minutes, and another one had displaced it and loaded.
    #[tokio::test(start_paused = true)]
    async fn a_reading_does_not_outlast_a_suspension() {
        let read = Reading::now();
        let almost = Reading { began: read.began + TENURE - Duration::from_millis(1), ..read };
        assert!(read.holds_at(read) && read.holds_at(almost));
        assert!(!read.holds_at(Reading { began: read.began + TENURE, ..read }));
        let suspended = Reading { suspended: read.suspended + Duration::from_millis(600), ..almost };
        assert!(!read.holds_at(suspended), "the monotonic clock stood still");
        assert!(suspended.holds_at(suspended), "it was read again since");
    }
}
