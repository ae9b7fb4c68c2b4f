//! One partition's task. A single loop handles its log, its requests, its ephemeral messages and its timers, so replies
//! and fan-out leave in the order in which they were made. Everything that waits runs as a job beside the loop.

use super::fanout;
use super::flush::Flush;
use super::group::{Group, GroupNeed, Queue, Results};
use super::jobs::Done;
use super::raise::Raising;
use super::reading::Reading;
use super::register::Registrations;
use super::suspend::Probes;
use crate::context::{Context, StartOver};
use crate::core::cache::Cache;
use crate::core::interest::Interest;
use crate::core::ledger::Ledger;
use crate::core::log_clock::LogClock;
use crate::limits::{STOP_MS_MAX, TICK_MS};
use crate::ownership::log_generation::{self, Landmark};
use crate::ownership::take::StartingPoint;
use crate::ownership::tenure::{self, Ownership};
use carillon_proto::id::{ConversationId, GatewayId};
use carillon_proto::wire;
use carillon_runtime::bus::{BusError, Incoming, LogEntry, Subscription};
use carillon_runtime::metrics::{Stage as Latency, observe};
use carillon_runtime::time::steady_ms;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use prost::Message as _;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// The stage of the current group.
#[derive(Debug)]
pub(crate) enum Stage {
    Idle,
    Preparing(Group),
    Committing(Results),
}

/// How the work on a partition ended.
pub(crate) struct Ended {
    pub(crate) result: Result<(), StartOver>,
    /// No write of a row is under way any more.
    pub(crate) all_written: bool,
}

/// Works a partition's log, from a starting point on.
pub(crate) struct Consumer<'a> {
    pub(crate) context: &'a Context,
    pub(crate) interest: &'a mut Interest,
    pub(crate) registrations: Registrations,
    pub(crate) cache: Cache,
    pub(crate) flush: Flush,
    /// Conversations that are being loaded.
    pub(crate) loading: HashSet<ConversationId>,
    /// What is being read because a gateway requested outcomes.
    pub(crate) outcome_reads: HashSet<GroupNeed>,
    pub(crate) probes: Probes,
    pub(crate) ending: bool,
    /// This worker knows that another one has taken the partition.
    pub(super) displaced: bool,
    /// The process is about to stop, and waits until this partition has written what is pending.
    leaving: bool,
    pub(crate) ledger: Ledger,
    pub(crate) ownership: Arc<Ownership>,
    pub(crate) confirming: bool,
    pub(super) reader: Reading,
    pub(crate) queue: Queue,
    pub(crate) stage: Stage,
    pub(crate) log_clock: LogClock,
    pub(super) jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    /// The last entry that was read.
    pub(crate) landmark: Option<Landmark>,
    /// The entry to read next.
    next: u64,
    /// The last entry whose group is committed and fanned out.
    pub(crate) applied: u64,
    pub(crate) checking: bool,
    pub(crate) purging: bool,
    pub(crate) raising: Raising,
}

impl<'a> Consumer<'a> {
    pub(crate) fn new(
        context: &'a Context,
        interest: &'a mut Interest,
        starting_point: StartingPoint,
    ) -> Consumer<'a> {
        let StartingPoint { ledger, ownership, from, landmark } = starting_point;
        let mut consumer = Consumer {
            context,
            interest,
            registrations: Registrations::default(),
            cache: Cache::default(),
            flush: Flush::new(from - 1, ledger.version, context.exclusive),
            loading: HashSet::new(),
            outcome_reads: HashSet::new(),
            probes: Probes::default(),
            ending: false,
            displaced: false,
            leaving: false,
            ledger,
            ownership,
            confirming: false,
            reader: Reading::Closed,
            queue: Queue::default(),
            stage: Stage::Idle,
            log_clock: LogClock::default(),
            jobs: FuturesUnordered::new(),
            landmark,
            next: from,
            applied: from - 1,
            checking: false,
            purging: false,
            raising: Raising::new(steady_ms()),
        };
        consumer.look_ahead();
        consumer.open_reader();
        consumer
    }

    /// Works until `shutdown`, then finishes the current group. Ends early with an error when the work must start over.
    pub(crate) async fn run(
        mut self,
        requests: Subscription,
        ephemerals: Subscription,
        shutdown: &CancellationToken,
    ) -> Ended {
        let result = self.turn(requests, ephemerals, shutdown).await;
        if self.may_answer() {
            self.refuse_all();
        }
        Ended { result, all_written: !matches!(self.stage, Stage::Committing(_)) }
    }

    async fn turn(
        &mut self,
        requests: Subscription,
        mut ephemerals: Subscription,
        shutdown: &CancellationToken,
    ) -> Result<(), StartOver> {
        let mut requests = Some(requests);
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut confirm = tokio::time::interval(tenure::CONFIRM);
        confirm.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (deadline, context) = (tokio::time::sleep(Duration::MAX), self.context);
        let (stopped, leaving) = (shutdown.cancelled(), context.leaving.begun());
        tokio::pin!(deadline, stopped, leaving);
        loop {
            self.advance()?;
            if self.has_ended() {
                return Ok(());
            }
            if !self.reader.is_closed() && self.queue.is_empty() && matches!(self.stage, Stage::Idle) {
                self.log_clock.idle(steady_ms());
            }
            let entries_max = self.queue.free_entries();
            // First what is rare or timed, then the steps of a message. Requests come after entries: once the queue is
            // full, the loop waits for the store, and handles requests meanwhile.
            tokio::select! {
                biased;
                () = &mut stopped, if !self.ending => {
                    self.end();
                    // Later requests are answered by the successor, as soon as there is one.
                    let waiting = requests.take();
                    waiting.into_iter().try_for_each(|requests| self.refuse_waiting(requests))?;
                    deadline.as_mut().reset(tokio::time::Instant::now() + Duration::from_millis(STOP_MS_MAX));
                }
                () = &mut deadline, if self.ending => return Ok(()),
                () = &mut leaving, if !self.leaving => self.leave(),
                _ = tick.tick() => self.tick().await,
                _ = confirm.tick(), if self.ownership.is_contested() && !self.confirming => self.confirm(),
                Some(done) = self.jobs.next() => self.done(done).await?,
                entries = self.reader.next(entries_max) => self.entries(entries),
                incoming = next_request(&mut requests) => self.receive_request(incoming)?,
                incoming = ephemerals.next() => self.ephemeral(incoming).await?,
            }
        }
    }

    /// Does everything that needs no waiting.
    fn advance(&mut self) -> Result<(), StartOver> {
        if !matches!(self.stage, Stage::Committing(_))
            && let Some(write) = self.flush.begin(self.context, &mut self.cache)
        {
            self.job(async {
                write.await;
                Done::Flushed
            });
        }
        if matches!(self.stage, Stage::Idle)
            && !self.ending
            && !self.flush.is_full()
            && self.probes.resuming == 0
            // A version is used only after a checkpoint names it, so that a build that does not know it stops at that
            // checkpoint.
            && self.flush.version() == self.ledger.version
        {
            self.begin_group()?;
        }
        self.stage = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Preparing(group) => self.prepare(group),
            other => other,
        };
        self.load_for_registrations();
        Ok(())
    }

    fn begin_group(&mut self) -> Result<(), StartOver> {
        let Some(group) = Group::next_group(&mut self.queue, &self.ledger) else { return Ok(()) };
        self.raised(group.end.version)?;
        let now_ms = steady_ms();
        group.gateways.iter().for_each(|gateway| self.interest.received_from(gateway, now_ms));
        self.stage = Stage::Preparing(group);
        Ok(())
    }

    fn entries(&mut self, entries: Result<Vec<LogEntry>, BusError>) {
        let now_ms = steady_ms();
        match entries {
            Ok(entries) => {
                for entry in entries {
                    if entry.sequence != self.next {
                        return self.open_reader();
                    }
                    self.next += 1;
                    self.landmark = Some(Landmark { sequence: entry.sequence, tag: entry.tag });
                    self.log_clock.read(entry.time_ms, now_ms);
                    let waited_ms = self.log_clock.age_ms(entry.time_ms, now_ms);
                    observe(Latency::LogWait, Duration::from_millis(waited_ms));
                    self.queue.push(entry);
                }
            }
            Err(error) => {
                tracing::warn!(partition = self.context.partition, %error, "the log reader failed");
                self.open_reader();
            }
        }
    }

    /// Reads the time of the newest entry. The oldest entries alone do not show how far the work lags behind.
    fn look_ahead(&mut self) {
        let (context, from) = (self.context.clone(), self.next);
        self.job(async move { Done::Newest(log_generation::newest_ms(&context, from).await) });
    }

    fn open_reader(&mut self) {
        self.reader = Reading::Closed;
        let (context, landmark, next) = (self.context.clone(), self.landmark, self.next);
        let incarnation = self.ledger.incarnation.number;
        self.job(
            async move { Done::Reader(log_generation::reader(&context, incarnation, landmark, next).await) },
        );
    }

    async fn ephemeral(&mut self, incoming: Option<Incoming>) -> Result<(), StartOver> {
        let message = match incoming {
            Some(Incoming::Message(message)) => message,
            Some(Incoming::Lost) => return Ok(()),
            None => return Err(StartOver::because("the bus has ended")),
        };
        let Ok(batch) = wire::EphemeralBatch::decode(message.payload) else { return Ok(()) };
        if let Ok(gateway) = GatewayId::parse(&batch.gateway) {
            self.interest.received_from(&gateway, steady_ms());
        }
        if (self.context.is_ours)() {
            fanout::publish(&*self.context.bus, self.interest.ephemeral(&batch)).await;
        }
        Ok(())
    }

    /// Writes what is pending, and goes on working meanwhile.
    fn leave(&mut self) {
        self.leaving = true;
        if self.flush.is_done() {
            self.gathered();
        }
        self.flush.demand();
    }

    pub(super) fn gathered(&mut self) {
        if self.leaving {
            self.context.leaving.gathered();
        }
    }

    /// Whether the work has ended. It does not wait for the flush: a successor replays the entries above the checkpoint
    /// to the same rows. A log that belongs to this process alone has no successor, so there the flush must be done.
    fn has_ended(&self) -> bool {
        let written = !self.context.exclusive || self.flush.is_done();
        self.ending && matches!(self.stage, Stage::Idle) && written
    }

    /// Whether this worker may answer for the partition. If not, another owner answers, and a refusal from here
    /// would reach the gateway before that answer.
    pub(crate) fn may_answer(&self) -> bool {
        !self.displaced && (self.context.is_ours)()
    }

    /// Begins nothing more. Entries that were read and not applied stay in the log.
    fn end(&mut self) {
        self.ending = true;
        self.reader = Reading::Closed;
        self.queue = Queue::default();
        if matches!(self.stage, Stage::Preparing(_)) {
            self.stage = Stage::Idle;
        }
        self.refuse_all();
        self.flush.demand();
    }
}

async fn next_request(requests: &mut Option<Subscription>) -> Option<Incoming> {
    match requests {
        Some(requests) => requests.next().await,
        None => std::future::pending().await,
    }
}
