//! The contract of leases.

use super::{SOON, eventually};
use carillon_proto::id::WorkerId;
use carillon_runtime::bus::{Bus, LEASE_MS};
use carillon_runtime::lease::Lease;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const LEASE: Duration = Duration::from_millis(LEASE_MS);

fn worker(name: &str) -> WorkerId {
    WorkerId::parse(name).expect("a worker id")
}

async fn live(bus: &dyn Bus, kind: &str) -> BTreeSet<WorkerId> {
    bus.live_leases(kind).await.expect("an answer").into_iter().collect()
}

/// A presence shard's epoch is the number of its owner's lease, so a later lease must have a higher number.
pub async fn each_renewal_returns_a_higher_number_and_makes_the_lease_live(bus: Arc<dyn Bus>) {
    let (a, b) = (worker("a"), worker("b-2_X"));
    assert!(live(&*bus, "message").await.is_empty());
    let mut last = 0;
    for renewing in [&a, &b, &a, &a, &b] {
        let number = bus.renew_lease("message", renewing).await.expect("renewed");
        assert!(number > last, "lease number {number} came after {last}");
        last = number;
    }
    assert_eq!(live(&*bus, "message").await, BTreeSet::from([a.clone(), b]));
    assert!(live(&*bus, "presence").await.is_empty(), "leases of one kind must not appear in another");
    bus.renew_lease("presence", &a).await.expect("renewed");
    assert_eq!(live(&*bus, "presence").await, BTreeSet::from([a]));
}

/// A killed worker stops renewing; its partitions move to other workers when its lease has expired.
pub async fn leases_expire_unless_renewed(bus: Arc<dyn Bus>) {
    let (kept, left) = (worker("kept"), worker("left"));
    let began = Instant::now();
    bus.renew_lease("message", &left).await.expect("renewed");
    let renewed = Instant::now();
    let gone = loop {
        bus.renew_lease("message", &kept).await.expect("renewed");
        let live = live(&*bus, "message").await;
        assert!(live.contains(&kept));
        if !live.contains(&left) {
            break Instant::now();
        }
        assert!(began.elapsed() < LEASE + Duration::from_secs(5), "the lease did not expire");
        sleep(LEASE / 20).await;
    };
    assert!(gone - began >= LEASE, "the lease expired too early: {:?}", gone - began);
    // The NATS server removes expired leases four times a second.
    assert!(
        gone - renewed <= LEASE + Duration::from_secs(2),
        "the lease expired too late: {:?}",
        gone - renewed
    );
    let number = bus.renew_lease("message", &kept).await.expect("renewed");
    assert!(
        bus.renew_lease("message", &left).await.expect("renewed") > number,
        "a worker must be able to take an expired lease again"
    );
    assert_eq!(live(&*bus, "message").await.len(), 2);
}

/// A worker that stops releases its lease, so that others take over without waiting for the lease to expire.
pub async fn a_released_lease_ends_at_once(bus: Arc<dyn Bus>) {
    let (a, b) = (worker("a"), worker("b"));
    assert_eq!(
        bus.release_lease("message", &a).await,
        Ok(()),
        "releasing a lease that was never taken must succeed"
    );
    bus.renew_lease("message", &a).await.expect("renewed");
    let number = bus.renew_lease("message", &b).await.expect("renewed");
    bus.release_lease("message", &a).await.expect("released");
    assert_eq!(live(&*bus, "message").await, BTreeSet::from([b]));
    assert_eq!(bus.release_lease("message", &a).await, Ok(()));
    assert!(bus.renew_lease("message", &a).await.expect("renewed") > number);
    assert_eq!(live(&*bus, "message").await.len(), 2);
}

/// Every unit (a partition or a presence shard) has exactly one worker. A unit's epoch rises when another worker takes
/// it, and stays the same while its worker keeps it.
pub async fn workers_with_leases_share_all_units(bus: Arc<dyn Bus>) {
    const UNITS: u32 = 16;
    let start = |name| Lease::start(bus.clone(), "message", worker(name), UNITS, CancellationToken::new());
    let first = start("a");
    let mut owned = first.owned();
    let all = async |owned: &mut tokio::sync::watch::Receiver<carillon_runtime::lease::Owned>| {
        let waiting = owned.wait_for(|owned| owned.len() == UNITS as usize);
        timeout(SOON, waiting).await.expect("in time").expect("the lease task is running").clone()
    };
    all(&mut owned).await;
    assert!(first.valid());

    let second = start("b");
    let shared = eventually("both have a share", || async {
        let (first, second) = (first.owned().borrow().clone(), second.owned().borrow().clone());
        let units = first.len() + second.len();
        (units == UNITS as usize && !second.is_empty()).then_some((first, second))
    });
    let (ours, theirs) = shared.await;
    assert!(ours.keys().all(|unit| !theirs.contains_key(unit)));
    assert!(second.valid());

    let began = Instant::now();
    second.release().await;
    assert!(!second.valid() && second.owned().borrow().is_empty());
    let taken = all(&mut owned).await;
    assert!(
        began.elapsed() < LEASE,
        "a release must be noticed before the lease expires: {:?}",
        began.elapsed()
    );
    assert!(
        theirs.iter().all(|(unit, epoch)| taken[unit] > *epoch),
        "the epoch of a unit must rise with each owner"
    );
    assert!(
        ours.iter().all(|(unit, epoch)| taken[unit] == *epoch),
        "the epoch of a unit must stay while its owner does"
    );
    first.release().await;
    assert!(live(&*bus, "message").await.is_empty());
}

pub async fn a_healthy_bus_reports_it(bus: Arc<dyn Bus>) {
    assert!(bus.healthy().await);
}
