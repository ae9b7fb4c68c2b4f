//! Late writes of an earlier incarnation arrive after a new incarnation has started.

use super::bus::TestBus;
use super::harness::{INCARNATION, World, free, until};
use super::memory::{Call, MemoryStore};
use crate::metrics;
use crate::store::{EventRow, Projection, Seal, Store as _};
use carillon_proto::id::{ConversationId, Tag};
use carillon_proto::position::{Incarnation, Position};
use carillon_proto::wire::{self, event::Kind};
use prost::Message as _;
use std::sync::atomic::Ordering;

/// The incarnation after [`INCARNATION`]. Its log was recreated.
pub(super) const LATER: Incarnation = Incarnation::new(2, 1, INCARNATION.base_us + 1_000_000_000);

/// A partition in its second incarnation, with an empty log.
pub(super) fn later(store: &MemoryStore) -> World {
    let world = World::of(TestBus::new(1), store.twin());
    world.store.change(|tables| {
        let state = free(LATER);
        tables.partitions.insert(0, state);
    });
    world
}

/// Another process with the same log and store.
fn beside(world: &World) -> World {
    World::of(world.bus.clone(), world.store.twin())
}

pub(super) fn room() -> ConversationId {
    ConversationId::parse("room").expect("valid")
}

pub(super) fn kind(content: &str) -> Kind {
    Kind::Message(wire::SendMessage { content: content.into(), ..wire::SendMessage::default() })
}

/// The row that an incarnation writes for its log entry at `sequence`.
pub(super) fn row(incarnation: Incarnation, sequence: u64, seq: u64, kind: Kind) -> EventRow {
    let position = incarnation.position(sequence, 0);
    let event = wire::Event {
        conversation: "room".into(),
        seq,
        position: Some(position.into()),
        actor: "ann".into(),
        client_id: format!("~early-{sequence}"),
        kind: Some(kind),
        ..wire::Event::default()
    };
    EventRow {
        conversation: room(),
        seq,
        position,
        tag: Tag([9; 16]),
        timestamp_us: incarnation.timestamp_us(sequence, 0),
        blob: event.encode_to_vec().into(),
    }
}

fn rows(world: &World) -> Vec<(u64, u32, String)> {
    let incarnation = |seq: u64| world.store.tables().events[&("room".to_owned(), seq)].position.incarnation;
    world.contents("room").into_iter().map(|(seq, content)| (seq, incarnation(seq), content)).collect()
}

/// Guards the seal. Without it, the second worker finds the late row at seq 2, and so writes at seq 3 the entry that
/// the first worker writes at seq 2. The second worker has an incarnation of its own, in which the first worker's seal
/// holds too.
#[tokio::test]
async fn a_late_row_of_an_earlier_incarnation_does_not_make_two_workers_disagree() {
    let store = MemoryStore::new();
    store.append(vec![row(INCARNATION, 1, 1, kind("m1"))]).await.expect("written");
    let first = later(&store);
    let mut gateway = first.gateway("gw-1").await;
    first.store.hold(Call::Append);
    let slow = first.work(1);
    let appended = store.count(Call::Append);
    first.publish(vec![gateway.send(2, "room", "m2")]).await;
    until(|| store.count(Call::Append) > appended).await;
    store.append(vec![row(INCARNATION, 2, 2, kind("late"))]).await.expect("written");

    slow.ours.store(false, Ordering::SeqCst);
    let second = beside(&first);
    let working = second.work(2);
    assert_eq!(gateway.outcome(2).await, "seq 2");
    first.store.release(Call::Append);
    second.publish(vec![gateway.send(3, "room", "m3")]).await;
    assert_eq!(gateway.outcome(3).await, "seq 3");
    working.stop().await;
    slow.stop().await;
    assert_eq!(rows(&first), [(1, 1, "m1".into()), (2, 3, "m2".into()), (3, 3, "m3".into())]);
    assert_eq!(store.torn(), []);
}

/// Guards later workers of an incarnation against sealing at the rows that they loaded: the rows that the first worker
/// found count for all.
#[tokio::test]
async fn rows_from_before_the_seal_count() {
    let store = MemoryStore::new();
    store
        .append(vec![row(INCARNATION, 1, 1, kind("m1")), row(INCARNATION, 2, 2, kind("in time"))])
        .await
        .expect("written");
    let world = later(&store);
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    assert_eq!(gateway.register(&["room"]).await, [("room".into(), 2)]);
    store.append(vec![row(INCARNATION, 3, 3, kind("late"))]).await.expect("written");
    working.stop().await;
    let other = beside(&world);
    let working = other.work(2);
    assert_eq!(
        gateway.register(&["room"]).await,
        [("room".into(), 2)],
        "the head at the join must be the one that was applied"
    );
    other.publish(vec![gateway.send(3, "room", "m3")]).await;
    assert_eq!(gateway.outcome(3).await, "seq 3");
    working.stop().await;
    assert_eq!(rows(&world)[2], (3, 2, "m3".into()));
}

/// Guards seq 0: a conversation that began with a message does not get a creation that arrives late.
#[tokio::test]
async fn a_late_creation_does_not_count() {
    let store = MemoryStore::new();
    let world = later(&store);
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    // The conversation was sealed for a command that was refused, when it had no rows at all.
    let forbidden =
        wire::Command { authority: wire::Authority::Participant.into(), ..gateway.send(9, "room", "no") };
    world.publish(vec![forbidden]).await;
    assert_eq!(gateway.outcome(9).await, "forbidden");
    working.stop().await;
    let created = Kind::Created(wire::CreateConversation::default());
    store.append(vec![row(INCARNATION, 1, 0, created)]).await.expect("written");
    let other = beside(&world);
    let working = other.work(2);
    other.publish(vec![gateway.send(1, "room", "m1")]).await;
    assert_eq!(gateway.outcome(1).await, "seq 1", "ann sends without being a participant");
    working.stop().await;
    assert_eq!(rows(&world), [(1, 2, "m1".into())]);
}

/// Guards the head. After the seal, a worker of the earlier incarnation saw the late row and wrote a head that covers
/// it. The head is ignored, and the rows are folded from the first one.
#[tokio::test]
async fn a_late_head_of_an_earlier_incarnation_is_not_used() {
    let store = MemoryStore::new();
    store.append(vec![row(INCARNATION, 1, 1, kind("m1"))]).await.expect("written");
    let sealed = Seal { incarnation: LATER.number, created: false, seq: 1 };
    assert_eq!(store.seal(&room(), None, sealed, LATER.base_us - 1).await.expect("sealed"), sealed);
    let position = Some(INCARNATION.position(2, 0).into());
    let head = wire::Head { seq: 2, position, messages: 2, ..wire::Head::default() };
    let (blob, timestamp_us) = (head.encode_to_vec().into(), INCARNATION.timestamp_us(2, 0));
    store
        .project(vec![Projection::Head { conversation: room(), timestamp_us, blob }])
        .await
        .expect("written");
    let world = later(&store);
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    assert_eq!(gateway.register(&["room"]).await, [("room".into(), 1)]);
    world.publish(vec![gateway.send(2, "room", "m2")]).await;
    assert_eq!(gateway.outcome(2).await, "seq 2");
    working.stop_when(&world, 1).await;
    let (_, head) = store.tables().heads["room"].clone();
    let head = wire::Head::decode(head).expect("decodes");
    assert_eq!((head.seq, head.messages, head.seal), (2, 2, Some(sealed.into())));
}

/// Guards each seal in the next incarnation: rows that an earlier seal excluded do not count later, even if no worker
/// has deleted them yet.
#[tokio::test]
async fn an_earlier_seal_holds_in_the_next_incarnation() {
    let store = MemoryStore::new();
    store
        .append(vec![row(INCARNATION, 1, 1, kind("m1")), row(INCARNATION, 2, 2, kind("late"))])
        .await
        .expect("written");
    let before = Seal { incarnation: 2, created: false, seq: 1 };
    store.change(|tables| tables.seals.extend([("room".into(), before)]));
    let last = Incarnation::new(3, 1, LATER.base_us + 1_000_000_000);
    let world = later(&store);
    store.change(|tables| drop(tables.partitions.insert(0, free(last))));
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    world.publish(vec![gateway.send(2, "room", "m2")]).await;
    assert_eq!(gateway.outcome(2).await, "seq 2");
    working.stop().await;
    assert_eq!(store.tables().seals["room"], Seal { incarnation: 3, ..before });
}

/// Guards the cost: one seal per incarnation, however often a conversation is loaded. No seals in the first incarnation
/// or in standalone.
#[tokio::test]
async fn a_conversation_is_sealed_once_per_incarnation() {
    let store = MemoryStore::new();
    store.append(vec![row(INCARNATION, 1, 1, kind("m1"))]).await.expect("written");
    let mut world = later(&store);
    for n in 2..=4 {
        let mut gateway = world.gateway(&format!("gw-{n}")).await;
        let working = world.work(n);
        assert_eq!(gateway.register(&["room"]).await, [("room".into(), 1)]);
        until(|| store.tables().heads.contains_key("room")).await;
        working.stop().await;
        assert_eq!(store.count(Call::Seal), 1);
        world = beside(&world);
    }
    let exclusive = World { exclusive: true, ..later(&MemoryStore::new()) };
    let first = World::new();
    for world in [exclusive, first] {
        let mut gateway = world.gateway("gw-1").await;
        let working = world.work(1);
        world.publish(vec![gateway.send(1, "room", "m1")]).await;
        assert_eq!(gateway.outcome(1).await, "seq 1");
        working.stop().await;
        assert_eq!(world.store.count(Call::Seal), 0);
    }
}

/// Guards the metric for rows that are out of order. Without it, operators cannot see why a conversation ends there.
#[tokio::test]
async fn a_row_out_of_order_is_reported() {
    let world = World::new();
    let damaged = EventRow { position: Position::default(), ..row(INCARNATION, 1, 2, kind("again")) };
    world.store.append(vec![row(INCARNATION, 1, 1, kind("m1")), damaged]).await.expect("written");
    let reported = metrics::ROWS_OUT_OF_ORDER.get();
    let mut gateway = world.gateway("gw-1").await;
    world.publish(vec![gateway.send(1, "other", "x")]).await;
    let working = world.work(1);
    assert_eq!(gateway.register(&["room"]).await, [("room".into(), 1)]);
    assert!(metrics::ROWS_OUT_OF_ORDER.get() > reported);
    working.stop().await;
}

/// Guards the landmark of an incarnation that has applied nothing yet. Without the checkpoint that is written when it
/// starts, the log is not checked before its first entry arrives.
#[tokio::test]
async fn an_incarnation_is_checked_against_its_log_from_the_beginning() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    world.publish(vec![gateway.send(1, "room", "never acknowledged")]).await;
    let lost = crate::store::Checkpoint {
        position: INCARNATION.position(5, 0),
        tag: Tag([5; 16]),
        timestamp_us: 1,
        version: 1,
    };
    world.store.change(|tables| tables.partitions.get_mut(&0).expect("a row").checkpoint = Some(lost));
    let incarnation = |world: &World| {
        world.store.tables().partitions[&0].incarnation().map_or(0, |incarnation| incarnation.number)
    };
    let working = world.work(1);
    world.worked(&mut gateway).await;
    assert_eq!(incarnation(&world), 2);
    world.bus.forgetful.store(true, Ordering::SeqCst);
    until(|| incarnation(&world) == 3).await;
    world.bus.forgetful.store(false, Ordering::SeqCst);
    working.stop().await;
}
