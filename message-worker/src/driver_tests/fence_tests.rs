//! Reads and joins return only committed rows, and they write nothing unless their answer depends on it.

use super::bus::TestBus;
use super::harness::{INCARNATION, World, content, interest, until};
use super::memory::{Call, MemoryStore};
use super::query_tests::source;
use super::seal_tests::{LATER, kind, later, room, row};
use crate::query;
use crate::store::{Projection, Store as _};
use carillon_proto::subject;
use carillon_proto::wire::{self, read_reply, read_request};
use carillon_runtime::bus::Bus as _;
use prost::Message as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Another worker. It answers reads from the same store.
struct Reader {
    bus: Arc<TestBus>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Reader {
    fn start(world: &World, store: &Arc<MemoryStore>) -> Reader {
        let stop = CancellationToken::new();
        let serving = query::serve(world.bus.clone(), source(store.clone()), stop.clone());
        Reader { bus: world.bus.clone(), stop, task: tokio::spawn(serving) }
    }

    async fn read(&self, read: wire::ReadEvents) -> Vec<(u64, String)> {
        let read = wire::ReadEvents { conversation: "room".into(), limit: 200, ..read };
        let request = wire::ReadRequest { body: Some(read_request::Body::Events(read)) }.encode_to_vec();
        let reply = loop {
            match self.bus.request(subject::READ, request.clone().into(), Duration::from_secs(5)).await {
                Ok(reply) => break reply,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        match wire::ReadReply::decode(reply).expect("decodes").body {
            Some(read_reply::Body::Events(page)) => {
                page.events.iter().map(|event| (event.seq, content(event))).collect()
            }
            other => panic!("not events: {other:?}"),
        }
    }

    async fn after(&self, after_seq: u64, up_to_seq: Option<u64>) -> Vec<(u64, String)> {
        self.read(wire::ReadEvents { after_seq: Some(after_seq), up_to_seq, ..Default::default() }).await
    }

    async fn newest(&self) -> Vec<(u64, String)> {
        self.read(wire::ReadEvents { before_seq: Some(0), ..Default::default() }).await
    }

    async fn before(&self, before_seq: u64) -> Vec<(u64, String)> {
        self.read(wire::ReadEvents { before_seq: Some(before_seq), ..Default::default() }).await
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("it ends");
    }
}

/// A second incarnation. Its owner has loaded the room with `m1` and pauses before sealing it, and a late write of the
/// first incarnation arrives at seq 2.
async fn stray_before_the_seal(
    store: &Arc<MemoryStore>,
) -> (World, super::harness::Gateway, super::harness::Working) {
    store.append(vec![row(INCARNATION, 1, 1, kind("m1"))]).await.expect("written");
    let world = later(store);
    let gateway = world.gateway("gw-1").await;
    world.store.hold(Call::Seal);
    let working = world.work(1);
    world.publish(vec![gateway.send(2, "room", "m2")]).await;
    until(|| store.count(Call::Seal) > 0).await;
    store.append(vec![row(INCARNATION, 2, 2, kind("stray"))]).await.expect("written");
    (world, gateway, working)
}

/// Before the fix, a gateway that read at this moment received the stray at seq 2, delivered it, and never received
/// `m2`.
#[tokio::test]
async fn rows_above_the_known_head_are_not_returned() {
    let store = MemoryStore::new();
    let (world, mut gateway, working) = stray_before_the_seal(&store).await;
    let reader = Reader::start(&world, &store);
    assert_eq!(reader.after(0, Some(1)).await, [(1, "m1".into())]);
    assert_eq!(reader.after(1, Some(1)).await, []);
    world.store.release(Call::Seal);
    assert_eq!(gateway.outcome(2).await, "seq 2");
    assert_eq!(reader.after(1, Some(2)).await, [(2, "m2".into())]);
    working.stop().await;
    reader.end().await;
}

/// Before the fix, history returned the stray first, and another event at its seq later.
#[tokio::test]
async fn history_that_was_returned_does_not_change() {
    type Read = fn(&Reader) -> std::pin::Pin<Box<dyn Future<Output = Vec<(u64, String)>> + '_>>;
    let reads: [Read; 3] = [
        |reader| Box::pin(reader.after(1, None)),
        |reader| Box::pin(async { reader.newest().await.split_off(1) }),
        |reader| Box::pin(async { reader.before(3).await.split_off(1) }),
    ];
    for read in reads {
        let store = MemoryStore::new();
        let (world, mut gateway, working) = stray_before_the_seal(&store).await;
        let reader = Reader::start(&world, &store);
        let shown = read(&reader).await;
        world.store.release(Call::Seal);
        gateway.outcome(2).await;
        let there = reader.after(1, None).await;
        assert!(there.starts_with(&shown), "the reader got {shown:?}, but the store has {there:?}");
        assert_eq!(there.last().map(|(_, content)| content.as_str()), Some("m2"));
        working.stop().await;
        reader.end().await;
    }
}

/// Before the fix, each join of a nonexistent conversation wrote a seal and deletions, and pushed existing
/// conversations out of memory.
#[tokio::test]
async fn joining_a_nonexistent_conversation_writes_nothing() {
    let store = MemoryStore::new();
    store.append(vec![row(INCARNATION, 1, 1, kind("m1"))]).await.expect("written");
    // The room's head covers all its rows, so the answer does not depend on which rows above it count.
    let position = Some(INCARNATION.position(1, 0).into());
    let head = wire::Head { seq: 1, position, messages: 1, ..wire::Head::default() };
    let (blob, timestamp_us) = (head.encode_to_vec().into(), INCARNATION.timestamp_us(1, 0));
    let head = Projection::Head { conversation: room(), timestamp_us, blob };
    store.project(vec![head]).await.expect("written");
    let world = World { sharing: carillon_proto::limits::CONVERSATIONS_IN_MEMORY_MAX / 2, ..later(&store) };
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    assert_eq!(gateway.register(&["room"]).await, [("room".into(), 1)]);
    let before = world.store.tables();
    for n in 0..100 {
        let interest = interest(&format!("made-up-{n}"), 0, &["mallory"]);
        let register = wire::Register { replace: false, add: vec![interest], remove: Vec::new() };
        let listened = gateway.register_with(register).await;
        assert_eq!((listened[0].head, &listened[0].refused[..]), (0, &["mallory".to_owned()][..]));
    }
    assert_eq!(world.store.count(Call::Seal), 0);
    assert_eq!(world.store.tables().seals, before.seals);
    // A command in another conversation makes the worker evict conversations that are too many.
    world.publish(vec![gateway.send(1, "other", "x")]).await;
    assert_eq!(gateway.outcome(1).await, "seq 1");
    let loaded = world.store.count(Call::Load);
    assert_eq!(gateway.register(&["room"]).await, [("room".into(), 1)]);
    assert_eq!(
        world.store.count(Call::Load),
        loaded,
        "the conversation is still in memory and is not loaded again"
    );
    // A conversation is still sealed when a command is applied to it.
    world.publish(vec![gateway.send(2, "room", "m2")]).await;
    assert_eq!(gateway.outcome(2).await, "seq 2");
    assert_eq!(world.store.tables().seals["room"].incarnation, LATER.number);
    working.stop().await;
}
