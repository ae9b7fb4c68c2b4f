//! The worker: runs a task for each shard that its lease assigns to it.

use crate::consume::Assignment;
use crate::query::Rows;
use crate::store::UserStore;
use anyhow::Context;
use carillon_proto::id::WorkerId;
use carillon_proto::limits::PRESENCE_SHARDS;
use carillon_runtime::bus::Bus;
use carillon_runtime::lease::Lease;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The kind of lease that presence-workers hold.
const LEASE_KIND: &str = "presence";

/// The settings of a presence-worker.
#[derive(Debug, Clone)]
pub struct Config {
    /// The id of this worker's process. Each start has a new one.
    pub worker: WorkerId,
    /// Time between the end of a user's last session and the user being offline.
    pub grace: Duration,
}

/// Runs the worker until `shutdown`, then hands its shards over.
///
/// # Errors
/// When a shard's task failed, which is a bug.
pub async fn run(
    config: Config,
    bus: Arc<dyn Bus>,
    store: Arc<dyn UserStore>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    // The lease must be valid until the shards were stopped, so it ends by its release below and not by `shutdown`.
    let lease =
        Lease::start(bus.clone(), LEASE_KIND, config.worker, PRESENCE_SHARDS, CancellationToken::new());
    let lease = Arc::new(lease);
    let keeper = lease.clone();
    let mut shards = Shards {
        grace: config.grace,
        bus,
        rows: Rows::new(store),
        is_owner: Arc::new(move || keeper.valid()),
        running: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    let worked = shards.follow(&lease, &shutdown).await;
    // The lease is released before the last rows are written, so that other workers take over at once.
    shards.stop_all();
    lease.release().await;
    while shards.tasks.join_next().await.is_some() {}
    worked
}

/// The shards that this worker serves now.
struct Shards {
    grace: Duration,
    bus: Arc<dyn Bus>,
    rows: Arc<Rows>,
    is_owner: Arc<dyn Fn() -> bool + Send + Sync>,
    /// The epoch of each shard, and the token that stops its task.
    running: BTreeMap<u32, (u64, CancellationToken)>,
    tasks: JoinSet<()>,
}

impl Shards {
    async fn follow(&mut self, lease: &Lease, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let mut owned = lease.owned();
        loop {
            let now_owned = owned.borrow_and_update().clone();
            self.start_and_stop(&now_owned);
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                changed = owned.changed() => changed.context("the lease's task ended")?,
                Some(ended) = self.tasks.join_next() => ended.context("a presence shard's task failed")?,
            }
        }
    }

    fn start_and_stop(&mut self, owned: &BTreeMap<u32, u64>) {
        self.running.retain(|shard, (epoch, stop)| {
            let stays = owned.get(shard) == Some(epoch);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (shard, epoch) in owned {
            if !self.running.contains_key(shard) {
                let stop = CancellationToken::new();
                self.running.insert(*shard, (*epoch, stop.clone()));
                let assignment = Assignment {
                    shard: *shard,
                    epoch: *epoch,
                    grace: self.grace,
                    bus: self.bus.clone(),
                    rows: self.rows.clone(),
                    is_owner: self.is_owner.clone(),
                    stop,
                };
                self.tasks.spawn(assignment.run());
            }
        }
    }

    fn stop_all(&mut self) {
        for (_, stop) in std::mem::take(&mut self.running).into_values() {
            stop.cancel();
        }
    }
}
