//! The test harness: a partition with its log and store, workers that start and stop, and gateways that record what
//! they receive.

use super::bus::TestBus;
use super::memory::MemoryStore;
use crate::clocks::Clocks;
use crate::context::{Context, Leaving, Outdated};
use crate::core::versions::VERSION;
use crate::partition;
use crate::store::{PartitionState, Tenure};
use bytes::Bytes;
use carillon_proto::id::{ConversationId, GatewayId, Tag, WorkerId};
use carillon_proto::position::Incarnation;
use carillon_proto::subject;
use carillon_proto::wire::{
    self, Authority, command::Body, outcome, partition_reply, partition_request, to_gateway,
};
use carillon_runtime::bus::{Bus as _, Incoming, Subscription};
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longer than anything in these tests takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough to notice an event that must not happen.
pub(super) const A_WHILE: Duration = Duration::from_millis(150);

/// The incarnation in which tests begin. It is fixed, so that runs can be compared.
pub(super) const INCARNATION: Incarnation = Incarnation::new(1, 1, 1_000_000_000);

/// The state of a partition in this incarnation without an owner.
pub(super) fn free(incarnation: Incarnation) -> PartitionState {
    PartitionState { tenure: Some(Tenure { incarnation, epoch: 0, owner: None }), checkpoint: None }
}

/// One partition, with the log and store that its workers share.
pub(super) struct World {
    pub(super) bus: Arc<TestBus>,
    pub(super) store: Arc<MemoryStore>,
    pub(super) partition: u32,
    pub(super) partitions: u32,
    pub(super) exclusive: bool,
    pub(super) sharing: usize,
    /// The newest version of the state machine that its workers know.
    pub(super) version: u32,
}

/// A worker of the partition.
pub(super) struct Working {
    pub(super) ours: Arc<AtomicBool>,
    leaving: Leaving,
    pub(super) outdated: Outdated,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl World {
    /// Partition 0 of 1, in its first incarnation.
    pub(super) fn new() -> World {
        let world = World::of(TestBus::new(1), MemoryStore::new());
        world.store.change(|tables| {
            let state = free(INCARNATION);
            tables.partitions.insert(0, state);
        });
        world
    }

    pub(super) fn of(bus: Arc<TestBus>, store: Arc<MemoryStore>) -> World {
        World { bus, store, partition: 0, partitions: 1, exclusive: false, sharing: 1, version: VERSION }
    }

    pub(super) fn work(&self, epoch: u64) -> Working {
        self.begin(epoch, false)
    }

    /// Starts a worker that starts again after a panic.
    pub(super) fn work_supervised(&self, epoch: u64) -> Working {
        self.begin(epoch, true)
    }

    fn begin(&self, epoch: u64, supervised: bool) -> Working {
        let ours = Arc::new(AtomicBool::new(true));
        let valid = ours.clone();
        let (leaving, outdated) = (Leaving::new(), Outdated::default());
        let context = Context {
            partition: self.partition,
            partitions: self.partitions,
            worker: WorkerId::parse(&format!("worker-{epoch}")).expect("valid"),
            exclusive: self.exclusive,
            bus: self.bus.clone(),
            store: self.store.clone(),
            is_ours: Arc::new(move || valid.load(Ordering::SeqCst)),
            sharing: Arc::new(AtomicUsize::new(self.sharing)),
            reads: Arc::new(tokio::sync::Semaphore::new(64)),
            clocks: Clocks::new(self.bus.clone(), self.store.clone(), self.exclusive),
            leaving: leaving.clone(),
            version: self.version,
            live: tokio::sync::watch::channel(Arc::default()).1,
            outdated: outdated.clone(),
        };
        let stop = CancellationToken::new();
        let made_anew = self.exclusive;
        let task = match supervised {
            true => tokio::spawn(partition::work(context, epoch, made_anew, stop.clone())),
            // Without supervision, a panic becomes the task's result, and `stop` reports it.
            false => {
                let starts = Arc::default();
                tokio::spawn(partition::until_shutdown(context, epoch, made_anew, starts, stop.clone()))
            }
        };
        Working { ours, leaving, outdated, stop, task }
    }

    /// Appends an entry with these commands to the log.
    pub(super) async fn publish(&self, commands: Vec<wire::Command>) -> u64 {
        self.publish_bytes(wire::Entry { commands, version: 0 }.encode_to_vec().into()).await
    }

    pub(super) async fn publish_bytes(&self, payload: Bytes) -> u64 {
        static TAGS: AtomicU64 = AtomicU64::new(1);
        self.publish_tagged(TAGS.fetch_add(1, Ordering::SeqCst), payload).await
    }

    pub(super) async fn publish_tagged(&self, tag: u64, payload: Bytes) -> u64 {
        let tag = Tag((u128::from(self.partition) << 64 | u128::from(tag)).to_be_bytes());
        self.bus.append(self.partition, tag, payload).await.expect("the log accepts the entry")
    }

    pub(super) async fn gateway(&self, name: &str) -> Gateway {
        let id = GatewayId::parse(name).expect("valid");
        let subscription = self.bus.subscribe(&subject::gateway(&id), None).await.expect("subscribed");
        Gateway {
            name: name.into(),
            bus: self.bus.clone(),
            partition: self.partition,
            subscription,
            counter: 0,
            batches: Vec::new(),
            beats: Vec::new(),
            ephemeral: Vec::new(),
            outcomes: BTreeMap::new(),
        }
    }

    /// Waits until the store's checkpoint reaches an entry.
    pub(super) async fn checkpointed(&self, sequence: u64) {
        let store = &self.store;
        until(|| store.checkpoint().is_some_and(|checkpoint| checkpoint.position.sequence >= sequence)).await;
    }

    /// Waits until a worker answers requests.
    pub(super) async fn worked(&self, gateway: &mut Gateway) {
        gateway.register(&[]).await;
    }

    /// The contents of a conversation's rows, by seq.
    pub(super) fn contents(&self, conversation: &str) -> Vec<(u64, String)> {
        let events = self.store.tables().events;
        let rows = events.iter().filter(|((id, _), _)| id == conversation);
        rows.map(|((_, seq), row)| (*seq, content(&wire::Event::decode(row.blob.clone()).expect("an event"))))
            .collect()
    }
}

impl Working {
    /// Announces that the process is about to stop. Returns whether the worker wrote its pending results in time.
    pub(super) async fn leaves(&self) -> bool {
        self.leaving.begin(1).await
    }

    /// Signals the worker to stop, without waiting.
    pub(super) fn end(&self) {
        self.stop.cancel();
    }

    /// Stops the worker in good order.
    pub(super) async fn stop(self) {
        self.leaving.begin(1).await;
        self.stop.cancel();
        timeout(PATIENCE, self.task)
            .await
            .expect("the worker ends in time")
            .expect("the worker does not panic");
    }

    /// Waits until the store's checkpoint reaches an entry, then stops the worker in good order.
    pub(super) async fn stop_when(self, world: &World, sequence: u64) {
        world.checkpointed(sequence).await;
        self.stop().await;
    }

    /// Kills the worker at its current await.
    pub(super) async fn kill(self) {
        self.task.abort();
        assert!(
            self.task.await.expect_err("killed").is_cancelled(),
            "the task panicked before it was killed"
        );
    }
}

/// Waits until `met` returns true.
pub(super) async fn until(mut met: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !met() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("the condition is met in time");
}

/// A gateway that records everything that it receives.
pub(super) struct Gateway {
    pub(super) name: String,
    bus: Arc<TestBus>,
    partition: u32,
    subscription: Subscription,
    counter: u64,
    pub(super) batches: Vec<wire::Batch>,
    pub(super) beats: Vec<wire::Beat>,
    pub(super) ephemeral: Vec<wire::EphemeralBatch>,
    pub(super) outcomes: BTreeMap<u64, Vec<outcome::Body>>,
}

impl Gateway {
    fn record(&mut self, incoming: Incoming) {
        let Incoming::Message(message) = incoming else { panic!("the subscription lost messages") };
        match wire::ToGateway::decode(message.payload).expect("decodes").body.expect("not empty") {
            to_gateway::Body::Batch(batch) => {
                for outcome in &batch.outcomes {
                    let body = outcome.body.clone().expect("not empty");
                    self.outcomes.entry(outcome.request).or_default().push(body);
                }
                self.batches.push(batch);
            }
            to_gateway::Body::Beat(beat) => self.beats.push(beat),
            to_gateway::Body::Ephemeral(batch) => self.ephemeral.push(batch),
            to_gateway::Body::Presence(_) => panic!("a message-worker sends no presence"),
            to_gateway::Body::Acquaintances(_) => panic!("acquaintances are not sent to a single gateway"),
        }
    }

    /// Receives messages until `met` returns true.
    pub(super) async fn receive_until(&mut self, met: impl Fn(&Gateway) -> bool) {
        let received = timeout(PATIENCE, async {
            while !met(self) {
                let incoming = self.subscription.next().await.expect("the subscription is open");
                self.record(incoming);
            }
        });
        received
            .await
            .unwrap_or_else(|_| panic!("{}: not met in time; outcomes {:?}", self.name, self.outcomes));
    }

    /// Receives messages for this time.
    pub(super) async fn receive_for(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
        while let Some(incoming) = self.subscription.try_next() {
            self.record(incoming);
        }
    }

    /// Waits for the first outcome of a command, as [`described`] formats it.
    pub(super) async fn outcome(&mut self, request: u64) -> String {
        self.receive_until(|gateway| gateway.outcomes.contains_key(&request)).await;
        described(&self.outcomes[&request][0])
    }

    /// The contents of all received events, with their seqs, in order.
    pub(super) fn contents(&self) -> Vec<(u64, String)> {
        let events = self.batches.iter().flat_map(|batch| &batch.events);
        events.map(|event| (event.seq, content(event))).collect()
    }

    /// A command of this gateway that sends a message.
    pub(super) fn send(&self, request: u64, conversation: &str, content: &str) -> wire::Command {
        let message = wire::SendMessage { content: content.into(), ..wire::SendMessage::default() };
        self.command(request, conversation, "ann", Body::SendMessage(message))
    }

    pub(super) fn command(&self, request: u64, conversation: &str, actor: &str, body: Body) -> wire::Command {
        wire::Command {
            conversation: conversation.into(),
            actor: actor.into(),
            client_id: format!("~{}-{request}", self.name),
            authority: Authority::Granted.into(),
            gateway: self.name.clone(),
            request,
            body: Some(body),
            ..wire::Command::default()
        }
    }

    pub(super) async fn request(&mut self, body: partition_request::Body) -> wire::PartitionReply {
        self.counter += 1;
        self.request_with(self.counter, body).await
    }

    pub(super) async fn request_with(
        &mut self,
        counter: u64,
        body: partition_request::Body,
    ) -> wire::PartitionReply {
        let request = wire::PartitionRequest { gateway: self.name.clone(), counter, body: Some(body) };
        let payload = Bytes::from(request.encode_to_vec());
        let subject = subject::partition(self.partition);
        let answered = timeout(PATIENCE, async {
            loop {
                match self.bus.request(&subject, payload.clone(), PATIENCE).await {
                    Ok(reply) => return reply,
                    // No worker owns the partition yet.
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
        wire::PartitionReply::decode(answered.await.expect("answered")).expect("decodes")
    }

    /// Registers conversations, and returns their heads.
    pub(super) async fn register(&mut self, conversations: &[&str]) -> Vec<(String, u64)> {
        let add = conversations.iter().map(|id| interest(id, 0, &[])).collect();
        let listened = self.register_with(wire::Register { replace: false, add, remove: Vec::new() }).await;
        listened.into_iter().map(|listened| (listened.conversation, listened.head)).collect()
    }

    pub(super) async fn register_with(&mut self, register: wire::Register) -> Vec<wire::Listened> {
        match self.request(partition_request::Body::Register(register)).await.body {
            Some(partition_reply::Body::Registered(registered)) => registered.conversations,
            other => panic!("not a registered reply: {other:?}"),
        }
    }
}

pub(super) fn interest(conversation: &str, known_head: u64, check: &[&str]) -> wire::Interest {
    let check = check.iter().map(|user| (*user).into()).collect();
    wire::Interest { conversation: conversation.into(), known_head, check }
}

/// Formats an outcome as `seq N`, `repeated N`, or the error's code.
pub(super) fn described(body: &outcome::Body) -> String {
    match body {
        outcome::Body::Accepted(accepted) if accepted.repeated => format!("repeated {}", accepted.seq),
        outcome::Body::Accepted(accepted) => format!("seq {}", accepted.seq),
        outcome::Body::Failure(failure) => failure.code.clone(),
    }
}

pub(super) fn content(event: &wire::Event) -> String {
    match &event.kind {
        Some(wire::event::Kind::Message(message)) => message.content.clone(),
        other => format!("{other:?}"),
    }
}

/// Ids of conversations that belong to a partition.
pub(super) fn conversations_of(partition: u32, partitions: u32, count: usize) -> Vec<String> {
    let ids = (0..).map(|n| format!("room-{n}"));
    let ours = |id: &String| {
        let id = ConversationId::parse(id).expect("valid");
        carillon_proto::partition::of_conversation(&id, partitions) == partition
    };
    ids.filter(ours).take(count).collect()
}
