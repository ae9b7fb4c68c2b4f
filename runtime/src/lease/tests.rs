//! Leases on the embedded bus, with paused time, so that no test waits in real time.

use super::*;
use crate::bus::embedded::EmbeddedBus;

fn worker(name: &str) -> WorkerId {
    WorkerId::parse(name).expect("a worker id")
}

fn start(bus: &Arc<EmbeddedBus>, name: &str) -> Lease {
    Lease::start(bus.clone(), "test", worker(name), 16, CancellationToken::new())
}

async fn settled() {
    sleep(ROUND * 2 + Duration::from_millis(1)).await;
}

fn units(lease: &Lease) -> BTreeMap<u32, u64> {
    (**lease.owned().borrow()).clone()
}

#[tokio::test(start_paused = true)]
async fn two_workers_share_the_units_and_the_last_one_owns_all() {
    let bus = EmbeddedBus::new(1);
    let first = start(&bus, "a");
    settled().await;
    assert_eq!(units(&first).len(), 16);
    let second = start(&bus, "b");
    settled().await;
    let (ours, theirs) = (units(&first), units(&second));
    assert_eq!(ours.len() + theirs.len(), 16);
    assert!(ours.keys().all(|unit| !theirs.contains_key(unit)));
    assert!(theirs.values().all(|epoch| ours.values().all(|other| epoch > other)));

    second.release().await;
    assert!(units(&second).is_empty() && !second.valid());
    settled().await;
    let all = units(&first);
    assert_eq!(all.len(), 16);
    assert!(
        theirs.iter().all(|(unit, epoch)| all[unit] > *epoch),
        "the epoch of a unit must rise with each owner"
    );
    assert!(first.valid());
}

/// Breaking it: without the announcement of a release, the other worker notices it up to 125 ms later.
#[tokio::test(start_paused = true)]
async fn a_release_is_noticed_at_once() {
    let bus = EmbeddedBus::new(1);
    let (first, second) = (start(&bus, "a"), start(&bus, "b"));
    settled().await;
    assert!(units(&first).len() < 16);
    let began = Instant::now();
    second.release().await;
    first.owned().wait_for(|owned| owned.len() == 16).await.expect("the lease task is running");
    assert!(began.elapsed() <= Duration::from_millis(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_new_worker_gets_its_share_at_once() {
    let bus = EmbeddedBus::new(1);
    let first = start(&bus, "a");
    settled().await;
    let began = Instant::now();
    let second = start(&bus, "b");
    first.owned().wait_for(|owned| owned.len() < 16).await.expect("the lease task is running");
    assert!(began.elapsed() <= Duration::from_millis(2), "{:?}", began.elapsed());
    assert_eq!(units(&first).len() + units(&second).len(), 16);
}

/// Breaking it: without the reads of the live workers between rounds, this takes up to a quarter of a lease longer.
#[tokio::test(start_paused = true)]
async fn a_dead_worker_is_noticed_as_soon_as_its_lease_has_run_out() {
    let bus = EmbeddedBus::new(1);
    let first = start(&bus, "a");
    for phase in 0..10 {
        sleep(Duration::from_millis(37 * phase)).await;
        let died = Instant::now();
        bus.renew_lease("test", &worker("b")).await.expect("acquired");
        let mut owned = first.owned();
        owned.wait_for(|owned| owned.len() < 16).await.expect("the lease task is running");
        owned.wait_for(|owned| owned.len() == 16).await.expect("the lease task is running");
        let elapsed = died.elapsed();
        assert!(elapsed >= LEASE && elapsed <= LEASE + LOOK + Duration::from_millis(2), "{elapsed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_and_dropping_the_handle_release() {
    let bus = EmbeddedBus::new(1);
    let shutdown = CancellationToken::new();
    let first = Lease::start(bus.clone(), "test", worker("a"), 16, shutdown.clone());
    let second = start(&bus, "b");
    settled().await;
    shutdown.cancel();
    first.release().await;
    drop(second);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(bus.live_leases("test").await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_renewed_runs_out() {
    let bus = Unreliable::new();
    let lease = Lease::start(bus.clone(), "test", worker("a"), 4, CancellationToken::new());
    settled().await;
    assert_eq!(units(&lease).len(), 4);
    let epochs = units(&lease);
    for mode in [Mode::Fails, Mode::Hangs] {
        *bus.mode.lock() = mode;
        let began = Instant::now();
        let mut owned = lease.owned();
        owned.wait_for(|owned| owned.is_empty()).await.expect("the lease task is running");
        let elapsed = began.elapsed();
        assert!(elapsed <= LEASE && elapsed >= LEASE - ROUND * 2, "{mode:?} {elapsed:?}");
        assert!(!lease.valid());
        *bus.mode.lock() = Mode::Works;
        owned.wait_for(|owned| owned.len() == 4).await.expect("the lease task is running");
        assert!(units(&lease).values().all(|epoch| epochs.values().all(|earlier| epoch > earlier)));
    }
}

/// Before the fix, if a bus came back just after a round had failed, the renewal was tried again only a quarter of a
/// lease later.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_failed_is_tried_again_at_the_next_check() {
    let bus = Unreliable::new();
    let lease = Lease::start(bus.clone(), "test", worker("a"), 4, CancellationToken::new());
    settled().await;
    *bus.mode.lock() = Mode::Fails;
    bus.failed.notified().await;
    *bus.mode.lock() = Mode::Works;
    let renewed = lease.clock.valid_until_us.load(Ordering::Acquire);
    let began = Instant::now();
    while lease.clock.valid_until_us.load(Ordering::Acquire) == renewed {
        sleep(Duration::from_millis(1)).await;
        assert!(began.elapsed() <= LOOK + Duration::from_millis(2), "{:?}", began.elapsed());
    }
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    Works,
    Fails,
    Hangs,
}

/// A bus whose leases can be made to fail or to hang.
struct Unreliable {
    bus: Arc<EmbeddedBus>,
    mode: parking_lot::Mutex<Mode>,
    /// Notified when a renewal has failed.
    failed: tokio::sync::Notify,
}

impl Unreliable {
    fn new() -> Arc<Unreliable> {
        let (bus, mode) = (EmbeddedBus::new(1), parking_lot::Mutex::new(Mode::Works));
        Arc::new(Unreliable { bus, mode, failed: tokio::sync::Notify::new() })
    }

    async fn answer(&self) -> Result<(), BusError> {
        let mode = *self.mode.lock();
        match mode {
            Mode::Works => Ok(()),
            Mode::Fails => Err(BusError::Unavailable("test".into())),
            Mode::Hangs => std::future::pending().await,
        }
    }
}

#[async_trait::async_trait]
impl Bus for Unreliable {
    async fn renew_lease(&self, kind: &str, worker: &WorkerId) -> Result<u64, BusError> {
        if let Err(error) = self.answer().await {
            self.failed.notify_one();
            return Err(error);
        }
        self.bus.renew_lease(kind, worker).await
    }

    async fn live_leases(&self, kind: &str) -> Result<Vec<WorkerId>, BusError> {
        self.answer().await?;
        self.bus.live_leases(kind).await
    }

    async fn release_lease(&self, kind: &str, worker: &WorkerId) -> Result<(), BusError> {
        self.bus.release_lease(kind, worker).await
    }

    async fn append(
        &self,
        partition: u32,
        tag: carillon_proto::id::Tag,
        payload: bytes::Bytes,
    ) -> Result<u64, BusError> {
        self.bus.append(partition, tag, payload).await
    }

    async fn log_bounds(&self, partition: u32) -> Result<crate::bus::LogBounds, BusError> {
        self.bus.log_bounds(partition).await
    }

    async fn log_entry(
        &self,
        partition: u32,
        sequence: u64,
    ) -> Result<Option<crate::bus::LogEntry>, BusError> {
        self.bus.log_entry(partition, sequence).await
    }

    async fn read_log(&self, partition: u32, from: u64) -> Result<Box<dyn crate::bus::LogReader>, BusError> {
        self.bus.read_log(partition, from).await
    }

    async fn purge_log(&self, partition: u32, below: u64) -> Result<(), BusError> {
        self.bus.purge_log(partition, below).await
    }

    async fn publish(&self, subject: &str, payload: bytes::Bytes) -> Result<(), BusError> {
        self.bus.publish(subject, payload).await
    }

    async fn subscribe(
        &self,
        subject: &str,
        group: Option<&str>,
    ) -> Result<crate::bus::Subscription, BusError> {
        self.bus.subscribe(subject, group).await
    }

    async fn request(
        &self,
        subject: &str,
        payload: bytes::Bytes,
        timeout: Duration,
    ) -> Result<bytes::Bytes, BusError> {
        self.bus.request(subject, payload, timeout).await
    }

    async fn healthy(&self) -> bool {
        self.bus.healthy().await
    }
}

/// Before the fix, a worker on a machine that had been suspended believed in the rest of its lease, although others had
/// taken over meanwhile.
#[tokio::test(start_paused = true)]
async fn a_lease_runs_out_while_the_machine_is_suspended() {
    static SUSPENDED_MS: AtomicU64 = AtomicU64::new(7_000);
    let clock = Clock::start(|| Duration::from_millis(SUSPENDED_MS.load(Ordering::SeqCst)));
    clock.set_valid_until(clock.now() + LEASE);
    assert!(clock.valid());
    SUSPENDED_MS.fetch_add(LEASE_MS - 1, Ordering::SeqCst);
    assert!(clock.valid());
    SUSPENDED_MS.fetch_add(1, Ordering::SeqCst);
    assert!(!clock.valid());
}
