//! The worker on a bus: requests, pushes, a take-over, and a slow store.

use crate::dsl::*;
use carillon_presence_worker::store::{StoreError, UserRow, UserStore};
use carillon_presence_worker::{Config, run};
use carillon_proto::id::{GatewayId, UserId, WorkerId};
use carillon_proto::partition::presence_shard;
use carillon_proto::{subject, wire};
use carillon_runtime::bus::embedded::EmbeddedBus;
use carillon_runtime::bus::{Bus, Incoming, Subscription};
use parking_lot::Mutex;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use wire::presence_change::Body as Change;

const PATIENCE: Duration = Duration::from_secs(10);

/// Rows in memory. While `away` is set, reads hang and writes fail.
#[derive(Default)]
struct MemoryStore {
    rows: Mutex<HashMap<UserId, UserRow>>,
    away: AtomicBool,
}

impl MemoryStore {
    fn row(&self, name: &str) -> Option<UserRow> {
        self.rows.lock().get(name).cloned()
    }
}

#[async_trait::async_trait]
impl UserStore for MemoryStore {
    async fn put(&self, rows: Vec<UserRow>) -> Result<(), StoreError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError("away".into()));
        }
        self.rows.lock().extend(rows.into_iter().map(|row| (row.user.clone(), row)));
        Ok(())
    }

    async fn get(&self, users: &[UserId]) -> Result<Vec<UserRow>, StoreError> {
        if self.away.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let rows = self.rows.lock();
        Ok(users.iter().filter_map(|user| rows.get(user).cloned()).collect())
    }
    async fn healthy(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }
}

struct Worker {
    task: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Worker {
    fn start(name: &str, bus: &Arc<EmbeddedBus>, store: &Arc<MemoryStore>) -> Worker {
        let config =
            Config { worker: WorkerId::parse(name).expect("valid"), grace: Duration::from_millis(100) };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(config, bus.clone(), store.clone(), shutdown.clone()));
        Worker { task, shutdown }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.expect("ends in time").expect("no panic").expect("no error");
    }
}

/// A gateway that talks to one shard.
struct Gateway {
    name: &'static str,
    bus: Arc<EmbeddedBus>,
    pushes: Subscription,
    shard: u32,
    number: u64,
}

impl Gateway {
    async fn start(name: &'static str, bus: &Arc<EmbeddedBus>, shard: u32) -> Gateway {
        let id = GatewayId::parse(name).expect("valid");
        let pushes = bus.subscribe(&subject::gateway(&id), None).await.expect("a bus");
        Gateway { name, bus: bus.clone(), pushes, shard, number: 0 }
    }

    /// Sends one request; `None` if no reply comes within the time that gateways wait.
    async fn try_request(&self, request: &wire::PresenceRequest) -> Option<wire::PresenceReply> {
        let payload = request.encode_to_vec().into();
        let subject = subject::presence(self.shard);
        let reply = self.bus.request(&subject, payload, Duration::from_millis(500)).await.ok()?;
        Some(wire::PresenceReply::decode(reply).expect("a reply"))
    }

    /// Sends a request, again and again until an owner replies.
    async fn request(&self, request: wire::PresenceRequest) -> wire::PresenceReply {
        let until_answered = async {
            loop {
                match self.try_request(&request).await {
                    Some(reply) => return reply,
                    None => sleep(Duration::from_millis(50)).await,
                }
            }
        };
        timeout(PATIENCE, until_answered).await.expect("an owner")
    }

    async fn send(&mut self, changes: Vec<Change>) -> wire::PresenceReply {
        self.number += 1;
        self.request(request(self.name, self.number, self.number - 1, changes)).await
    }

    async fn heartbeat(&self) -> wire::PresenceReply {
        self.request(request(self.name, 0, self.number, Vec::new())).await
    }

    /// The next push, if it comes within a second.
    async fn next_push(&mut self) -> Option<wire::PresenceChanges> {
        let incoming = timeout(Duration::from_secs(1), self.pushes.next()).await.ok()?;
        let Some(Incoming::Message(message)) = incoming else { panic!("the subscription lost messages") };
        match wire::ToGateway::decode(message.payload).expect("a message").body {
            Some(wire::to_gateway::Body::Presence(changes)) => Some(changes),
            other => panic!("not presence: {other:?}"),
        }
    }

    /// Sends heartbeats until a push contains the user's presence, which must be `online`.
    async fn receives(&mut self, other: &Gateway, user: &str, online: bool) -> wire::UserPresence {
        let receive = async {
            loop {
                self.heartbeat().await;
                other.heartbeat().await;
                let Some(push) = self.next_push().await else { continue };
                if let Some(presence) = push.users.into_iter().find(|presence| presence.user == user) {
                    return presence;
                }
            }
        };
        let presence = timeout(PATIENCE, receive).await.expect("a push");
        assert_eq!(presence.online, online, "{user}");
        presence
    }
}

/// Names of users that belong to one shard.
fn names(shard: u32) -> impl Iterator<Item = String> {
    (0..).map(|number| format!("user-{number}")).filter(move |name| presence_shard(name) == shard)
}

async fn world() -> (Arc<EmbeddedBus>, Arc<MemoryStore>, Worker, Gateway, Gateway) {
    let (bus, store) = (EmbeddedBus::new(1), Arc::new(MemoryStore::default()));
    let worker = Worker::start("first", &bus, &store);
    let one = Gateway::start("one", &bus, presence_shard("ann")).await;
    let two = Gateway::start("two", &bus, presence_shard("ann")).await;
    (bus, store, worker, one, two)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_reaches_other_gateways_and_the_store() {
    let (_bus, store, worker, mut one, mut two) = world().await;
    let reply = two.send(vec![watch("ann")]).await;
    assert!(!presence_of(reply.results[0].body.as_ref()).online);
    one.send(vec![start("ann", 1)]).await;
    let push = two.next_push().await.expect("a push arrives at once");
    assert!(push.users[0].online);
    assert_eq!((push.shard, push.epoch), (two.shard, reply.epoch));

    one.send(vec![end("ann", 1)]).await;
    let offline = two.receives(&one, "ann", false).await;
    let stored = async {
        while store.row("ann").is_none_or(|row| row.last_seen_ms != offline.last_seen_ms) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, stored).await.expect("written");
    assert_eq!(store.row("ann").map(|row| row.name), Some("ann".into()));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_changes_are_pushed_in_batches() {
    let (_bus, _store, worker, mut one, mut two) = world().await;
    let users: Vec<_> = names(one.shard).take(300).collect();
    two.send(users.iter().map(|user| watch(user)).collect()).await;
    let begin = Instant::now();
    for (session, user) in users.iter().enumerate() {
        one.send(vec![start(user, session as u64)]).await;
    }
    let (mut pushed, mut pushes) = (0, 0);
    while pushed < users.len() {
        let push = two.next_push().await.expect("a push for every user");
        assert!(push.users.iter().all(|presence| presence.online));
        pushed += push.users.len();
        pushes += 1;
    }
    let intervals = begin.elapsed().as_millis() / 20 + 2;
    assert!(pushes <= intervals, "{pushes} pushes in {intervals} intervals");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_stays_online_while_another_worker_takes_over() {
    let (bus, store, first, mut one, mut two) = world().await;
    one.send(vec![start("ann", 1)]).await;
    let old = two.send(vec![watch("ann")]).await;
    assert!(presence_of(old.results[0].body.as_ref()).online);

    let second = Worker::start("second", &bus, &store);
    first.stop().await;
    let taken_over = async {
        loop {
            let reply = two.heartbeat().await;
            if reply.epoch > old.epoch {
                return reply;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let reply = timeout(PATIENCE, taken_over).await.expect("a new owner answers");
    assert!(reply.snapshot_wanted && reply.unsettled);
    for (gateway, changes) in [(&mut two, vec![watch("ann")]), (&mut one, vec![start("ann", 1)])] {
        gateway.number += 1;
        let reply = gateway.request(snapshot(gateway.name, gateway.number, changes)).await;
        assert!(!reply.snapshot_wanted);
    }
    two.receives(&one, "ann", true).await;
    for _ in 0..4 {
        two.heartbeat().await;
        one.heartbeat().await;
        let pushed = two.next_push().await.map(|push| push.users).unwrap_or_default();
        assert!(pushed.iter().all(|presence| presence.online), "ann was online all the time");
    }
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_works_while_the_store_is_away_and_rows_are_written_later() {
    let (_bus, store, worker, mut one, mut two) = world().await;
    one.heartbeat().await;
    let row = UserRow {
        user: user("ann"),
        name: "ann".into(),
        email: String::new(),
        role: String::new(),
        picture: String::new(),
        last_seen_ms: 77,
        updated_ms: 1,
    };
    store.put(vec![row]).await.expect("the store is not away yet");
    store.away.store(true, Ordering::Relaxed);
    let watching = request("two", 1, 0, vec![watch("ann")]);
    let reply = two.try_request(&watching).await.expect("an answer arrives before the gateway's timeout");
    two.number = 1;
    assert_eq!(presence_of(reply.results[0].body.as_ref()).last_seen_ms, 0);
    let other = names(one.shard).next().expect("endless");
    one.send(vec![start(&other, 1)]).await;

    store.away.store(false, Ordering::Relaxed);
    let receive = async { while two.receives(&one, "ann", false).await.last_seen_ms != 77 {} };
    timeout(PATIENCE, receive).await.expect("a push arrives when the store is back");
    worker.stop().await;
    assert!(store.row(&other).is_some(), "the profile must be written when the store is back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_replies_no_more_and_has_written_everything() {
    let (_bus, store, worker, mut one, _two) = world().await;
    one.send(vec![watch("ann"), start("ann", 1), end("ann", 1)]).await;
    worker.stop().await;
    assert!(one.try_request(&request("one", 0, 1, Vec::new())).await.is_none());
    assert!(
        store.row("ann").is_some_and(|row| row.last_seen_ms > 0),
        "the row must be written without waiting for the next tick"
    );
}
