//! The task of one owned shard: receives requests, runs the ticks, and carries out the core's effects.

use crate::core::Moment;
use crate::core::shard::Shard;
use crate::core::user::Record;
use crate::fanout::Fanout;
use crate::limits::{LAST_SAVE_MS, LOAD_USERS_MAX, REQUESTS_WAITING_MAX, RETRY_MS, SAVE_USERS_MAX, TICK_MS};
use crate::metrics;
use crate::query::Rows;
use carillon_proto::id::UserId;
use carillon_proto::{subject, wire};
use carillon_runtime::bus::{Bus, Incoming, Message, ReplyHandle, Subscription};
use carillon_runtime::time::wall_ms;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use prost::Message as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// The inputs of a shard's task.
#[derive(Clone)]
pub struct Assignment {
    pub shard: u32,
    /// The epoch of this ownership: the number of the lease.
    pub epoch: u64,
    /// Time between the end of a user's last session and the user being offline.
    pub grace: Duration,
    pub bus: Arc<dyn Bus>,
    pub rows: Arc<Rows>,
    /// Whether the worker's lease is still valid.
    pub is_owner: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Cancelled when this worker stops owning the shard.
    pub stop: CancellationToken,
}

impl Assignment {
    /// Serves the shard until `stop`.
    pub async fn run(self) {
        let Some(subscription) = self.subscribe().await else { return };
        let fanout = Fanout::new(self.shard, self.epoch);
        let is_owner = self.is_owner.clone();
        let pushing = fanout.run(self.bus.clone(), move || is_owner(), self.stop.clone());
        let working = async {
            let mut worker = Worker::new(&self, fanout.clone());
            worker.work(subscription).await;
            worker.save_what_is_left().await;
        };
        tokio::join!(pushing, working);
        metrics::hide(self.shard);
    }

    /// Subscribes to the shard's subject; `None` if stopped first.
    async fn subscribe(&self) -> Option<Subscription> {
        let attempt = async {
            loop {
                match self.bus.subscribe(&subject::presence(self.shard), None).await {
                    Ok(subscription) => return subscription,
                    Err(error) => tracing::warn!(shard = self.shard, %error, "shard subscription failed"),
                }
                sleep(Duration::from_millis(RETRY_MS)).await;
            }
        };
        self.stop.run_until_cancelled(attempt).await
    }
}

/// A request without a reply so far, and its reply handle.
struct PendingRequest {
    request: wire::PresenceRequest,
    reply: Option<ReplyHandle>,
    arrived: Instant,
}

/// The result of a finished call to the store.
enum Done {
    Loaded(Vec<UserId>, Option<Vec<Record>>),
    Saved(Vec<UserId>, bool),
}

#[expect(clippy::disallowed_methods, reason = "the time at which a user was last seen is shown to people")]
fn moment(started: Instant) -> Moment {
    Moment { steady_ms: started.elapsed().as_millis() as u64, wall_ms: wall_ms() }
}

struct Worker<'a> {
    assignment: &'a Assignment,
    shard: Shard,
    fanout: Arc<Fanout>,
    started: Instant,
    next_tick: Instant,
    /// Requests in order of arrival. Some wait for rows, and the others wait behind them.
    waiting: FuturesOrdered<BoxFuture<'static, (PendingRequest, Vec<Record>)>>,
    /// Calls to the store: at most one read and one write.
    background: FuturesUnordered<BoxFuture<'static, Done>>,
    loading: bool,
    saving: bool,
}

impl<'a> Worker<'a> {
    fn new(assignment: &'a Assignment, fanout: Arc<Fanout>) -> Worker<'a> {
        let started = Instant::now();
        let now = moment(started);
        Worker {
            assignment,
            shard: Shard::new(now, assignment.epoch, assignment.grace.as_millis() as u64),
            fanout,
            started,
            next_tick: started + Duration::from_millis(TICK_MS),
            waiting: FuturesOrdered::new(),
            background: FuturesUnordered::new(),
            loading: false,
            saving: false,
        }
    }

    fn now(&self) -> Moment {
        moment(self.started)
    }

    /// The next regular tick, or an earlier time at which something is due.
    fn wake_at(&self) -> Instant {
        let due = self.shard.next_due_ms().map(|due_ms| self.started + Duration::from_millis(due_ms));
        due.map_or(self.next_tick, |due| due.min(self.next_tick))
    }

    async fn work(&mut self, subscription: Subscription) {
        self.serve(subscription).await;
        let retry = Duration::from_millis(RETRY_MS);
        while self.assignment.stop.run_until_cancelled(sleep(retry)).await.is_some() {
            let Some(subscription) = self.assignment.subscribe().await else { return };
            self.distrust();
            self.serve(subscription).await;
        }
    }

    /// Requests may have been lost, so gateways must announce everything again.
    fn distrust(&mut self) {
        tracing::warn!(shard = self.assignment.shard, "requests may have been missed: requesting snapshots");
        self.shard.distrust(self.now());
        self.tick();
    }

    /// Serves until the subscription ends or `stop`.
    async fn serve(&mut self, mut subscription: Subscription) {
        let assignment = self.assignment;
        loop {
            let wake_at = if (assignment.is_owner)() { self.wake_at() } else { self.next_tick };
            tokio::select! {
                () = assignment.stop.cancelled() => return,
                incoming = subscription.next(), if self.waiting.len() < REQUESTS_WAITING_MAX => match incoming {
                    Some(Incoming::Message(message)) => self.receive(message),
                    Some(Incoming::Lost) => self.distrust(),
                    None => return,
                },
                Some((pending, records)) = self.waiting.next() => self.answer(pending, records),
                Some(done) = self.background.next() => self.finish(done),
                () = sleep_until(wake_at) => self.tick(),
            }
        }
    }

    fn receive(&mut self, message: Message) {
        let request = match wire::PresenceRequest::decode(message.payload) {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(shard = self.assignment.shard, %error, "a presence request could not be read");
                return;
            }
        };
        let missing = self.shard.missing(&request, LOAD_USERS_MAX);
        let pending = PendingRequest { request, reply: message.reply, arrived: Instant::now() };
        if missing.is_empty() && self.waiting.is_empty() {
            return self.answer(pending, Vec::new());
        }
        let rows = self.assignment.rows.clone();
        self.waiting.push_back(Box::pin(async move {
            let records = if missing.is_empty() { None } else { rows.load(&missing).await };
            (pending, records.unwrap_or_default())
        }));
    }

    fn answer(&mut self, pending: PendingRequest, records: Vec<Record>) {
        // Only the owner replies. If this worker still owns the shard, the next request of the gateway shows the gap.
        if !(self.assignment.is_owner)() {
            return;
        }
        let Some((reply, pushes)) = self.shard.request(self.now(), pending.request, records) else {
            tracing::warn!(
                shard = self.assignment.shard,
                "presence request refused: invalid gateway name, or too many gateways"
            );
            return;
        };
        self.fanout.stage(pushes);
        metrics::REQUESTS.inc();
        metrics::SNAPSHOTS_WANTED.inc_by(u64::from(reply.snapshot_wanted));
        if let Some(handle) = pending.reply {
            handle.send(reply.encode_to_vec().into());
        }
        metrics::REQUEST_SECONDS.observe(pending.arrived.elapsed().as_secs_f64());
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.next_tick {
            self.next_tick = now + Duration::from_millis(TICK_MS);
            metrics::show(self.assignment.shard, self.shard.census());
            self.start_background();
        }
        if !(self.assignment.is_owner)() {
            return;
        }
        for gateway in self.fanout.take_lost() {
            self.shard.lost_pushes(&gateway);
        }
        let pushes = self.shard.tick(self.now());
        self.fanout.stage(pushes);
    }

    fn start_background(&mut self) {
        if !self.loading {
            self.load();
        }
        if !self.saving {
            self.save();
        }
        let given_up = self.shard.take_given_up();
        if given_up > 0 {
            metrics::ROWS_GIVEN_UP.inc_by(given_up);
            tracing::error!(
                shard = self.assignment.shard,
                given_up,
                "rows of users given up: the store was away for too long"
            );
        }
    }

    fn load(&mut self) {
        let users = self.shard.next_to_load(LOAD_USERS_MAX);
        self.loading = !users.is_empty();
        if self.loading {
            let rows = self.assignment.rows.clone();
            self.background.push(Box::pin(async move {
                let records = rows.load(&users).await;
                Done::Loaded(users, records)
            }));
        }
    }

    fn save(&mut self) {
        let records = self.shard.next_to_save(SAVE_USERS_MAX);
        self.saving = !records.is_empty();
        if self.saving {
            let rows = self.assignment.rows.clone();
            let ids = records.iter().map(|record| record.user.clone()).collect();
            self.background.push(Box::pin(async move { Done::Saved(ids, rows.save(records).await) }));
        }
    }

    /// Applies the result of a call to the store. After a full batch the next starts at once, after a failure with the
    /// next tick.
    fn finish(&mut self, done: Done) {
        let now = self.now();
        let pushes = match done {
            Done::Loaded(users, records) => {
                let more = records.is_some() && users.len() == LOAD_USERS_MAX;
                let pushes = self.shard.loaded(now, &users, records);
                self.loading = false;
                if more {
                    self.load();
                }
                pushes
            }
            Done::Saved(ids, done) => {
                let pushes = self.shard.saved(now, &ids, done);
                self.saving = false;
                if done && ids.len() == SAVE_USERS_MAX {
                    self.save();
                }
                pushes
            }
        };
        self.fanout.stage(pushes);
    }

    /// Writes the remaining rows, for at most [`LAST_SAVE_MS`].
    async fn save_what_is_left(&mut self) {
        let saving = async {
            while let Some(done) = self.background.next().await {
                self.finish(done);
            }
            loop {
                self.save();
                match self.background.next().await {
                    Some(Done::Saved(ids, true)) => drop(self.shard.saved(self.now(), &ids, true)),
                    _ => return,
                }
            }
        };
        if timeout(Duration::from_millis(LAST_SAVE_MS), saving).await.is_err() {
            tracing::warn!(
                shard = self.assignment.shard,
                "not all users were written before the shard ended"
            );
        }
    }
}
