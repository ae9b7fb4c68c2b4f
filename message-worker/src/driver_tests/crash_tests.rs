//! Workers crash at any point and overlap. In the end the store holds the same rows as after an undisturbed run.

use super::bus::TestBus;
use super::harness::{A_WHILE, Gateway, INCARNATION, World, described, free, until};
use super::memory::{Call, Fault, MemoryStore};
use super::tables::Tables;
use crate::limits::TENURE_MS;
use crate::store::Owner;
use carillon_proto::position::Incarnation;
use carillon_proto::wire::{self, Authority, command::Body};
use futures_util::future::join_all;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn body_of(n: u64) -> (&'static str, Body) {
    let users = |users: &[&str]| users.iter().map(|user| (*user).to_owned()).collect();
    match n % 12 {
        1 => (
            "ann",
            Body::CreateConversation(wire::CreateConversation {
                participants: users(&["bob"]),
                ..Default::default()
            }),
        ),
        4 => ("ann", Body::AddParticipants(wire::AddParticipants { users: users(&["eve", "bob"]) })),
        7 => ("eve", Body::RemoveParticipant(wire::RemoveParticipant { user: "eve".into() })),
        8 => {
            ("eve", Body::SendMessage(wire::SendMessage { content: "refused".into(), ..Default::default() }))
        }
        9 => (
            "ann",
            Body::UpdateConversation(wire::UpdateConversation {
                title: Some(format!("t{n}")),
                ..Default::default()
            }),
        ),
        _ => ("bob", Body::SendMessage(wire::SendMessage { content: format!("m{n}"), ..Default::default() })),
    }
}

/// A world with a log of entries that have several commands each, for two conversations, with repetitions and refusals.
/// The log is the same every time.
async fn filled(seed: u64) -> (World, Gateway) {
    let (bus, store) = (TestBus::new(1), MemoryStore::new());
    bus.sipping.store(true, Ordering::SeqCst);
    let state = free(INCARNATION);
    store.change(|tables| tables.partitions.extend([(0, state)]));
    store.unevenly(seed);
    let world = World::of(bus, store);
    let gateway = world.gateway("gw-1").await;
    let mut request = 0;
    for entry in 0..ENTRIES {
        let mut commands = Vec::new();
        for n in 0..4 {
            for conversation in ["room", "hall"] {
                request += 1;
                let (actor, body) = body_of(entry * 4 + n + 1);
                let command = gateway.command(request, conversation, actor, body);
                let client_id = format!("c{}", (request / 2) % 11);
                commands.push(wire::Command {
                    authority: Authority::Participant.into(),
                    client_id,
                    ..command
                });
            }
        }
        world.publish_tagged(100 + entry, wire::Entry { commands, version: 0 }.encode_to_vec().into()).await;
    }
    (world, gateway)
}

/// Longer than a tenure read stays valid for the owner.
const LATE: Duration = Duration::from_millis(TENURE_MS + TENURE_MS / 5);

const ENTRIES: u64 = 6;
const COMMANDS: usize = ENTRIES as usize * 8;

type Outcomes = BTreeMap<u64, Vec<String>>;

fn outcomes(gateway: &Gateway) -> Outcomes {
    gateway
        .outcomes
        .iter()
        .map(|(request, bodies)| (*request, bodies.iter().map(described).collect()))
        .collect()
}

/// The tables and outcomes that an undisturbed worker produces from the log.
async fn undisturbed() -> (Tables, Outcomes) {
    let (world, mut gateway) = filled(0).await;
    let working = world.work(1);
    gateway.receive_until(|gateway| gateway.outcomes.len() == COMMANDS).await;
    working.stop().await;
    assert_eq!(world.store.checkpoint().map(|checkpoint| checkpoint.position.sequence), Some(ENTRIES));
    let acks = outcomes(&gateway);
    for kind in ["seq", "repeated", "forbidden"] {
        assert!(acks.values().flatten().any(|outcome| outcome.starts_with(kind)), "no {kind} in {acks:?}");
    }
    (in_one_incarnation(world.store.tables()), acks)
}

/// The keys whose values differ.
fn differing<K: Ord + Debug, V: PartialEq>(one: &BTreeMap<K, V>, other: &BTreeMap<K, V>) -> String {
    let keys: BTreeSet<&K> = one.keys().chain(other.keys()).collect();
    let differing = keys.into_iter().filter(|key| one.get(key) != other.get(key));
    differing.map(|key| format!("{key:?} ")).collect()
}

/// The tables without the values that differ between incarnations: a worker that takes over after a crash starts a new
/// incarnation.
fn in_one_incarnation(mut tables: Tables) -> Tables {
    let bare = |event: &mut wire::Event| {
        event.position.iter_mut().for_each(|position| position.incarnation = 1);
        event.id = Default::default();
    };
    for row in tables.events.values_mut() {
        row.position.incarnation = 1;
        row.timestamp_us = 0;
        let mut event = wire::Event::decode(row.blob.clone()).expect("an event");
        bare(&mut event);
        row.blob = event.encode_to_vec().into();
    }
    for (timestamp_us, blob) in tables.heads.values_mut() {
        *timestamp_us = 0;
        let mut head = wire::Head::decode(blob.clone()).expect("a head");
        head.position.iter_mut().for_each(|position| position.incarnation = 1);
        head.last_message.iter_mut().for_each(bare);
        head.seal = None;
        *blob = head.encode_to_vec().into();
    }
    tables.participants.values_mut().for_each(|(timestamp_us, _)| *timestamp_us = 0);
    for rows in tables.sent.values_mut() {
        *rows = (0..).zip(std::mem::take(rows).into_values()).collect();
    }
    tables
}

fn assert_same(what: &str, world: &World, gateway: &Gateway, golden: &(Tables, Outcomes)) {
    let tables = in_one_incarnation(world.store.tables());
    assert_eq!(differing(&tables.events, &golden.0.events), "", "rows differ {what}");
    assert_eq!(differing(&tables.heads, &golden.0.heads), "", "heads differ {what}");
    assert_eq!(differing(&tables.participants, &golden.0.participants), "", "participants differ {what}");
    assert_eq!(differing(&tables.sent, &golden.0.sent), "", "client ids differ {what}");
    assert_eq!(world.store.torn(), [], "{what}");
    for (request, outcomes) in outcomes(gateway) {
        assert!(
            outcomes.iter().all(|outcome| *outcome == golden.1[&request][0]),
            "request {request} {what}: {outcomes:?}"
        );
    }
    for (request, outcomes) in golden.1.iter().filter(|(_, outcomes)| outcomes[0].starts_with("seq")) {
        assert!(
            gateway.outcomes.contains_key(request),
            "request {request} never got its outcome {outcomes:?} {what}"
        );
    }
}

async fn crash_and_take_over(cells: usize, golden: &(Tables, Outcomes)) {
    let (world, mut gateway) = filled(cells as u64).await;
    world.store.crash_after(cells);
    let first = world.work(1);
    let store = world.store.clone();
    until(|| store.has_crashed() || store.checkpoint().is_some_and(|at| at.position.sequence == ENTRIES))
        .await;
    first.kill().await;
    world.store.repair();
    world.work(2).stop_when(&world, ENTRIES).await;
    gateway.receive_for(Duration::ZERO).await;
    assert_same(&format!("after a crash at cell {cells}"), &world, &gateway, golden);
}

/// Guards the order rows, acks, projections, heads, checkpoint, and the replay after a crash between any two of them:
/// the worker is killed after each single cell that it writes.
#[tokio::test]
async fn a_successor_stores_the_same_after_a_crash_at_any_write() {
    let golden = undisturbed().await;
    let sent = golden.0.sent.values().map(BTreeMap::len).sum::<usize>();
    let cells = golden.0.events.len() + golden.0.participants.len() + sent;
    join_all((0..cells + 12).map(|cells| crash_and_take_over(cells, &golden))).await;
}

async fn displace(round: u64, golden: &(Tables, Outcomes)) {
    let (world, mut gateway) = filled(round).await;
    let one = world.work(1);
    // The second worker finds some rows of the first one, and more rows arrive while it works.
    let store = world.store.clone();
    until(|| store.count(Call::Append) as u64 >= round % 3).await;
    one.ours.store(false, Ordering::SeqCst);
    let other = world.work(2);
    other.stop_when(&world, ENTRIES).await;
    one.stop().await;
    gateway.receive_for(Duration::ZERO).await;
    assert_same(&format!("in round {round}"), &world, &gateway, golden);
}

async fn stand_still(round: u64, golden: &(Tables, Outcomes)) {
    let (world, mut gateway) = filled(round).await;
    let twin = World::of(world.bus.clone(), world.store.twin());
    // The first worker's groups create, add and remove participants. Their rows are written; the projections that
    // follow from them are held back.
    world.store.hold(Call::Project);
    let one = world.work(1);
    until(|| world.store.count(Call::Project) > 0).await;
    one.ours.store(false, Ordering::SeqCst);
    twin.work(2).stop_when(&twin, ENTRIES).await;
    world.store.release(Call::Project);
    one.stop().await;
    gateway.receive_for(Duration::ZERO).await;
    assert_same(&format!("in round {round}, after standing still"), &world, &gateway, golden);
}

/// Guards heads and participants against an owner that paused between rows and projections while another owner changed
/// the participants: its late writes have lower timestamps.
#[tokio::test]
async fn an_owner_that_paused_between_rows_and_projections_changes_nothing() {
    let golden = undisturbed().await;
    join_all((1..30).map(|round| stand_still(round, &golden))).await;
}

/// Guards taking over from an owner that still writes, however their steps interleave.
#[tokio::test]
async fn a_worker_that_displaces_another_stores_the_same() {
    let golden = undisturbed().await;
    join_all((1..60).map(|round| displace(round, &golden))).await;
}

/// Publishes request 1, and returns while its row is being written.
async fn hold_the_first_row(world: &World, gateway: &Gateway) {
    world.store.hold(Call::Append);
    let appended = world.store.count(Call::Append);
    world.publish(vec![gateway.send(1, "room", "m1")]).await;
    until(|| world.store.count(Call::Append) > appended).await;
}

/// Guards acks against a store in which a tenure read takes longer than it stays valid: the acks are late, and the
/// owner stays. If the tenure were checked again when the acks leave, the owner would start over, and so would every
/// owner after it.
#[tokio::test]
async fn a_slow_store_makes_acks_late_and_nothing_else() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    world.worked(&mut gateway).await;
    hold_the_first_row(&world, &gateway).await;
    world.store.hold(Call::Read);
    tokio::time::sleep(2 * LATE).await;
    world.store.release(Call::Append);
    tokio::time::sleep(LATE).await;
    assert!(
        gateway.outcomes.is_empty(),
        "no outcome may be sent while the owner of the partition is unknown"
    );
    world.store.release(Call::Read);
    assert_eq!(gateway.outcome(1).await, "seq 1");
    gateway.receive_for(A_WHILE).await;
    assert_eq!(gateway.batches.iter().map(|batch| batch.epoch).collect::<Vec<_>>(), [1]);
    assert_eq!(gateway.outcomes[&1].len(), 1);
    working.stop().await;
}

/// Guards the tenure as the fence. An owner that relies on its lease while another one works acknowledges nothing,
/// and its late row does not count. If a tenure read stayed valid for ever, the first owner would acknowledge seq 1 as
/// well.
#[tokio::test]
async fn a_displaced_owner_acknowledges_nothing() {
    let world = World::new();
    let twin = World::of(world.bus.clone(), world.store.twin());
    let mut gateway = world.gateway("gw-1").await;
    let one = world.work(1);
    world.worked(&mut gateway).await;
    hold_the_first_row(&world, &gateway).await;
    // With reads held, the first owner does not notice that it was displaced.
    world.store.hold(Call::Read);
    let other = twin.work(2);
    assert_eq!(gateway.outcome(1).await, "seq 1");
    world.store.release(Call::Append);
    gateway.receive_for(A_WHILE).await;
    let with_outcomes = gateway.batches.iter().filter(|batch| !batch.outcomes.is_empty());
    assert_eq!(with_outcomes.map(|batch| batch.epoch).collect::<Vec<_>>(), [2]);
    let row = &world.store.tables().events[&("room".to_owned(), 1)];
    assert_eq!(row.position.incarnation, 2, "the row must be of the second incarnation");
    assert_eq!(world.store.torn(), []);
    one.kill().await;
    other.kill().await;
}

/// Guards giving back a tenure that was taken but not used yet. Without it, the next owner waits for a hand-over that
/// never comes, and starts a new incarnation. The process also stops without waiting for such a partition.
#[tokio::test]
async fn a_worker_stopped_while_it_starts_gives_the_partition_back() {
    let world = World::new();
    let first = world.publish(Vec::new()).await;
    let incarnation = Incarnation::new(1, first + 1, 1_000_000_000);
    world.store.change(|tables| {
        tables.partitions.insert(0, free(incarnation));
    });
    world.store.hold(Call::Checkpoint);
    let begins = world.work(1);
    until(|| world.store.count(Call::Checkpoint) > 0).await;
    assert!(owner(&world).is_some());
    assert!(begins.leaves().await, "the worker has no commands to write when it leaves");
    begins.stop().await;
    assert_eq!(owner(&world), None);
    world.store.release(Call::Checkpoint);

    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(2);
    world.publish(vec![gateway.send(1, "room", "m1")]).await;
    assert_eq!(gateway.outcome(1).await, "seq 1");
    assert_eq!(
        world.store.tables().events[&("room".to_owned(), 1)].position.incarnation,
        1,
        "the next owner must continue the incarnation"
    );
    working.stop().await;
}

/// Guards the wait after displacing an owner, which may still acknowledge. A worker that is stopped during this wait
/// keeps the tenure. Otherwise the next owner would find no owner and would not wait.
#[tokio::test]
async fn a_worker_stopped_while_it_waits_for_a_displaced_owner_keeps_the_tenure() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let displaced = world.work(1);
    world.worked(&mut gateway).await;
    let before = owner(&world);
    let begins = world.work(2);
    until(|| owner(&world) != before).await;
    begins.stop().await;
    let kept = owner(&world).expect("kept");
    assert_eq!(kept.worker(), "worker-2");
    displaced.kill().await;
}

fn owner(world: &World) -> Option<Owner> {
    world.store.tables().partitions[&0].tenure.clone().and_then(|tenure| tenure.owner)
}

/// Before the fix, a panic of one partition's task ended its process, and then the process of each successor, until all
/// partitions of all workers stood still.
#[tokio::test]
async fn a_partition_whose_task_panics_is_restarted() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let panics = crate::metrics::PANICS.get();
    world.store.fail(Call::Append, &[Fault::Panic]);
    let working = world.work_supervised(1);
    world.publish(vec![gateway.send(1, "room", "m1")]).await;
    assert_eq!(gateway.outcome(1).await, "seq 1");
    assert!(crate::metrics::PANICS.get() > panics);
    working.stop().await;
    assert_eq!(world.contents("room"), [(1, "m1".into())]);
    let incarnation =
        world.store.tables().partitions[&0].incarnation().expect("the partition has an incarnation");
    assert_eq!(
        incarnation.number,
        INCARNATION.number + 1,
        "the panicked worker may still be writing, so a new incarnation starts"
    );
}
