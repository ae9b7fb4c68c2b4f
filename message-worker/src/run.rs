//! The message-worker: works the partitions that its lease assigns to it, and answers reads.

use crate::backoff::until_done;
use crate::clocks::Clocks;
use crate::context::{Context, Leaving, Outdated, newer};
use crate::core::versions;
use crate::limits::{PARTITIONS_READ_MAX, STORE_READS_MAX};
use crate::store::{FIRST_VERSION, PartitionState, Store};
use crate::{partition, query};
use anyhow::Context as _;
use carillon_proto::id::WorkerId;
use carillon_runtime::bus::Bus;
use carillon_runtime::lease::Lease;
use futures_util::stream::{self, StreamExt as _};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// The kind of service under which message-workers hold leases.
pub const KIND: &str = "message-worker";

/// The configuration of a message-worker.
#[derive(Debug, Clone)]
pub struct Config {
    /// The worker's id, new at every start.
    pub worker: WorkerId,
    /// The number of partitions of the command log.
    pub partitions: u32,
    /// The bus belongs to this process and was made with it (a standalone server), so no other worker can work its
    /// logs.
    pub exclusive: bool,
    /// The newest version of the state machine that this worker knows: [`VERSION`](crate::VERSION).
    pub version: u32,
}

/// Runs a message-worker until `shutdown`, then finishes what was begun and gives its lease up.
///
/// # Errors
/// When one of its tasks panicked, or the lease cannot be followed. A [`carillon_runtime::settings::Refused`] when a
/// partition has a version of the state machine that this build does not know.
pub async fn run(
    mut config: Config,
    bus: Arc<dyn Bus>,
    store: Arc<dyn Store>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    config.worker = versions::mark(&config.worker, config.version).context("the worker's id")?;
    if shutdown.run_until_cancelled(check_versions(&config, &*store)).await.transpose()?.is_none() {
        return Ok(());
    }
    let clocks = Clocks::new(bus.clone(), store.clone(), config.exclusive);
    let reads = CancellationToken::new();
    let (partitions, exclusive) = (config.partitions, config.exclusive);
    let source = query::Reads { store: store.clone(), partitions, exclusive, version: config.version };
    let mut queries = AbortOnDropHandle::new(tokio::spawn(query::serve(bus.clone(), source, reads.clone())));
    let stop = shutdown.child_token();
    let work = while_clocks_agree(&config, &bus, &store, &clocks, &stop);
    tokio::pin!(work);
    let (worked, answered) = tokio::select! {
        worked = &mut work => {
            reads.cancel();
            (worked, queries.await)
        }
        ended = &mut queries => {
            stop.cancel();
            (work.await, ended)
        }
    };
    worked.and(answered.context("the task that answers reads panicked"))
}

/// Refuses to start if a partition has a newer version than this build knows. This is checked before the lease, so that
/// no partition is taken from a worker that knows the version.
async fn check_versions(config: &Config, store: &dyn Store) -> anyhow::Result<()> {
    let states = stream::iter(0..config.partitions)
        .map(|partition| until_done("partition", move || store.partition(partition)))
        .buffer_unordered(PARTITIONS_READ_MAX);
    let states: Vec<PartitionState> = states.collect().await;
    let versions = states.iter().filter_map(|state| state.checkpoint).map(|checkpoint| checkpoint.version);
    let newest = versions.max().unwrap_or(FIRST_VERSION);
    anyhow::ensure!(newest <= config.version, newer(newest, config.version));
    Ok(())
}

/// Works until `stop`. While its clock is wrong, a worker holds no lease, so that others work its partitions.
async fn while_clocks_agree(
    config: &Config,
    bus: &Arc<dyn Bus>,
    store: &Arc<dyn Store>,
    clocks: &Clocks,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut begun = BTreeSet::new();
    while clocks.until_right(stop).await {
        let stop = stop.child_token();
        let stop_when_wrong = async {
            clocks.until_wrong().await;
            stop.cancel();
            std::future::pending().await
        };
        // Both run in one task: an aborted task would hold the store for a moment after this worker has stopped.
        tokio::select! {
            worked = with_lease(config, bus, store, clocks, &mut begun, &stop) => worked?,
            never = stop_when_wrong => never,
        }
    }
    Ok(())
}

/// Works under one lease until `stop`.
async fn with_lease(
    config: &Config,
    bus: &Arc<dyn Bus>,
    store: &Arc<dyn Store>,
    clocks: &Clocks,
    begun: &mut BTreeSet<u32>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    // The lease outlives `stop`, so that what was begun can still be acknowledged.
    let ending = CancellationToken::new();
    let units = config.partitions;
    let lease = Arc::new(Lease::start(bus.clone(), KIND, config.worker.clone(), units, ending.clone()));
    let mut worker = Worker {
        config: config.clone(),
        bus: bus.clone(),
        store: store.clone(),
        lease: lease.clone(),
        owned: lease.owned(),
        tasks: JoinSet::new(),
        running: HashMap::new(),
        begun: std::mem::take(begun),
        sharing: Arc::new(AtomicUsize::new(0)),
        reads: Arc::new(Semaphore::new(STORE_READS_MAX)),
        clocks: clocks.clone(),
        leaving: Leaving::new(),
        outdated: Outdated::default(),
    };
    let worked = worker.work(stop).await;
    worker.stop().await;
    lease.release().await;
    ending.cancel();
    *begun = worker.begun;
    worked
}

/// A partition's task.
#[derive(Debug)]
struct PartitionTask {
    epoch: u64,
    stop: CancellationToken,
}

struct Worker {
    config: Config,
    bus: Arc<dyn Bus>,
    store: Arc<dyn Store>,
    lease: Arc<Lease>,
    owned: watch::Receiver<Arc<BTreeMap<u32, u64>>>,
    tasks: JoinSet<u32>,
    running: HashMap<u32, PartitionTask>,
    /// Partitions that this process has worked before.
    begun: BTreeSet<u32>,
    sharing: Arc<AtomicUsize>,
    reads: Arc<Semaphore>,
    clocks: Clocks,
    leaving: Leaving,
    outdated: Outdated,
}

impl Worker {
    /// Follows the lease until `shutdown`.
    async fn work(&mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        loop {
            self.reconcile();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                refused = self.outdated.refused(self.config.version) => return Err(refused.into()),
                changed = self.owned.changed() => changed.context("the lease ended by itself")?,
                Some(ended) = self.tasks.join_next() => {
                    let partition = ended.context("a partition's task panicked")?;
                    self.running.remove(&partition);
                }
            }
        }
    }

    /// Stops the tasks of partitions that are no longer assigned, and starts tasks for new ones. A partition that comes
    /// back with another epoch starts when its former task has ended.
    fn reconcile(&mut self) {
        let owned = self.owned.borrow_and_update().clone();
        self.sharing.store(owned.len(), Ordering::Relaxed);
        for (partition, running) in &self.running {
            if owned.get(partition) != Some(&running.epoch) {
                running.stop.cancel();
            }
        }
        for (partition, epoch) in owned.iter() {
            if !self.running.contains_key(partition) {
                self.start(*partition, *epoch);
            }
        }
    }

    fn start(&mut self, partition: u32, epoch: u64) {
        let (lease, owned) = (self.lease.clone(), self.owned.clone());
        let is_ours = move || lease.valid() && owned.borrow().get(&partition) == Some(&epoch);
        let context = Context {
            partition,
            partitions: self.config.partitions,
            worker: self.config.worker.clone(),
            exclusive: self.config.exclusive,
            bus: self.bus.clone(),
            store: self.store.clone(),
            is_ours: Arc::new(is_ours),
            sharing: self.sharing.clone(),
            reads: self.reads.clone(),
            clocks: self.clocks.clone(),
            leaving: self.leaving.of_partition(),
            version: self.config.version,
            live: self.lease.live(),
            outdated: self.outdated.clone(),
        };
        let made_anew = self.config.exclusive && self.begun.insert(partition);
        let stop = CancellationToken::new();
        let work = partition::work(context, epoch, made_anew, stop.clone());
        self.running.insert(partition, PartitionTask { epoch, stop });
        self.tasks.spawn(async move {
            work.await;
            partition
        });
    }

    /// Stops all partitions after they have finished what was begun.
    async fn stop(&mut self) {
        if !self.leaving.begin(self.running.len()).await {
            tracing::warn!("the store is slow: successors replay what was not written");
        }
        self.running.values().for_each(|running| running.stop.cancel());
        while self.tasks.join_next().await.is_some() {}
    }
}
