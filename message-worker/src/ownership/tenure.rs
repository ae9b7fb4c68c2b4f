//! The tenure of a partition: a row in the store that names its owner, the one worker that may write and acknowledge
//! in the present incarnation. A worker takes the tenure when it begins, and gives it back once everything that it
//! began to write is stored (`docs/decisions/0013-who-takes-over-begins-a-life.md`).
//!
//! Leases decide which worker *should* work a partition. The tenure decides which worker *does*, and it does not depend
//! on the bus or on its clocks.

use crate::context::Context;
use crate::limits::{CONFIRM_MS, GIVE_BACK_MS_MAX, HAND_OVER_MS_MAX, HAND_OVER_POLL_MS, TENURE_MS};
use crate::run::KIND;
use crate::store::{Owner, Store, StoreError, Tenure};
use carillon_proto::position::Incarnation;
use carillon_runtime::suspended::suspended;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const TENURE: Duration = Duration::from_millis(TENURE_MS);
/// Time between two reads of this owner's own tenure.
pub(crate) const CONFIRM: Duration = Duration::from_millis(CONFIRM_MS);
/// How long a successor waits for a displaced owner: an eighth longer than that owner may acknowledge after a read of
/// its tenure, because the clocks of two machines do not run at the same rate.
const AFTER_DISPLACING: Duration = Duration::from_millis(TENURE_MS + TENURE_MS / 8);
/// Polls of the store between two reads of the leases, which cost more.
const POLLS_PER_LOOK: u32 = 3;

/// This worker's ownership of a partition: the tenure that it took, and the last time that the store confirmed it.
pub(crate) struct Ownership {
    partition: u32,
    store: Arc<dyn Store>,
    tenure: Tenure,
    confirmed: Mutex<TenureRead>,
}

/// A read of the tenure: when it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TenureRead {
    began: Instant,
    /// How long the machine had been suspended by then. `began` is a monotonic time, which does not count suspension.
    suspended: Duration,
}

impl TenureRead {
    /// A read that begins now.
    pub(crate) fn now() -> TenureRead {
        TenureRead { began: Instant::now(), suspended: suspended() }
    }

    /// Whether no successor can have taken the tenure since this read and finished waiting for this owner.
    fn holds_at(&self, now: TenureRead) -> bool {
        now.began < self.began + TENURE && now.suspended == self.suspended
    }
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ownership").field(&self.tenure).finish()
    }
}

impl Ownership {
    /// A tenure that was taken, or read as this worker's own, by a call that began at `read`.
    pub(crate) fn new(context: &Context, tenure: Tenure, read: TenureRead) -> Arc<Ownership> {
        let (partition, store) = (context.partition, context.store.clone());
        Arc::new(Ownership { partition, store, tenure, confirmed: Mutex::new(read) })
    }

    /// The incarnation that this owner works in.
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.tenure.incarnation
    }

    /// The number by which gateways recognise the owner of the partition. The highest epoch counts.
    pub(crate) fn epoch(&self) -> u64 {
        self.tenure.epoch
    }

    /// Whether other workers could take the partition. They cannot when the log belongs to this process alone.
    pub(crate) fn is_contested(&self) -> bool {
        self.tenure.owner.is_some()
    }

    /// Whether no other worker can have begun to work the partition.
    pub(crate) fn is_valid(&self) -> bool {
        !self.is_contested() || self.confirmed.lock().holds_at(TenureRead::now())
    }

    /// Reads whether this worker still holds the tenure.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn confirm(&self) -> Result<bool, StoreError> {
        if !self.is_contested() {
            return Ok(true);
        }
        let read = TenureRead::now();
        let is_ours = self.store.tenure(self.partition).await?.as_ref() == Some(&self.tenure);
        if is_ours {
            let confirmed = &mut *self.confirmed.lock();
            if read.began > confirmed.began {
                *confirmed = read;
            }
        }
        Ok(is_ours)
    }

    /// Gives the tenure back: no write of this owner is under way any more. If that fails, the next owner starts
    /// another incarnation.
    pub(crate) async fn give_back(&self) {
        let Ownership { partition, tenure, .. } = self;
        if !self.is_contested() {
            return;
        }
        let free = Tenure { owner: None, ..tenure.clone() };
        let change = self.store.change_tenure(*partition, Some(tenure.clone()), free);
        match timeout(Duration::from_millis(GIVE_BACK_MS_MAX), change).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(partition, %error, "the partition was not given back"),
            Err(_) => tracing::warn!(partition, "the partition was not given back in time"),
        }
    }
}

/// Waits until a former owner that is alive has given the tenure back, at most `HAND_OVER_MS_MAX`.
pub(crate) async fn wait_for_hand_over(context: &Context, held: Option<&Tenure>) {
    let Some(owner) = held.and_then(|held| held.owner.as_ref()) else { return };
    let deadline = Instant::now() + Duration::from_millis(HAND_OVER_MS_MAX);
    while is_other(context, owner) && Instant::now() < deadline && may_be_live(context, owner).await {
        for _ in 0..POLLS_PER_LOOK {
            sleep(Duration::from_millis(HAND_OVER_POLL_MS)).await;
            let tenure = context.store.tenure(context.partition).await;
            if tenure.is_ok_and(|tenure| tenure.as_ref() != held) {
                return;
            }
        }
    }
}

/// Waits until a displaced owner certainly acknowledges nothing any more. Whatever it has not acknowledged by then need
/// not count.
pub(crate) async fn wait_for_last_acknowledgements() {
    sleep(AFTER_DISPLACING).await;
}

/// Whether the owner is another worker. An earlier task of this worker has ended and will not give the tenure back, so
/// waiting for it is useless.
fn is_other(context: &Context, owner: &Owner) -> bool {
    owner.worker() != context.worker.as_str()
}

async fn may_be_live(context: &Context, owner: &Owner) -> bool {
    let live = context.bus.live_leases(KIND).await;
    live.map_or(true, |live| live.iter().any(|worker| worker.as_str() == owner.worker()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before the fix, an owner whose machine had been suspended for minutes still acknowledged for the rest of its
    /// half second, although another worker had displaced it and loaded the rows meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_reading_does_not_outlast_a_suspension() {
        let read = TenureRead::now();
        let almost = TenureRead { began: read.began + TENURE - Duration::from_millis(1), ..read };
        assert!(read.holds_at(read) && read.holds_at(almost));
        assert!(!read.holds_at(TenureRead { began: read.began + TENURE, ..read }));
        let suspended = TenureRead { suspended: read.suspended + Duration::from_millis(600), ..almost };
        assert!(!read.holds_at(suspended), "a reading expires when the host was suspended for too long");
        assert!(suspended.holds_at(suspended), "a reading made after the suspension is valid");
    }
}
