//! Workers die anywhere and double up; what is stored in the end is as if nothing had happened.

use super::bus::TestBus;
use super::harness::{A_WHILE, Gateway, LIFE, World, free, told, until};
use super::memory::{Call, Fault, MemoryStore};
use super::tables::Tables;
use crate::limits::TENURE_MS;
use crate::store::Holder;
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

/// A world with a log of several commands an entry for two conversations, with repetitions and refusals: the same
/// log every time.
async fn filled(seed: u64) -> (World, Gateway) {
    let (bus, store) = (TestBus::new(1), MemoryStore::new());
    bus.sipping.store(true, Ordering::SeqCst);
    let state = free(LIFE);
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

/// Longer than a reading of its tenure is good for an owner.
const LATE: Duration = Duration::from_millis(TENURE_MS + TENURE_MS / 5);

const ENTRIES: u64 = 6;
const COMMANDS: usize = ENTRIES as usize * 8;

type Told = BTreeMap<u64, Vec<String>>;

fn outcomes(gateway: &Gateway) -> Told {
    gateway.outcomes.iter().map(|(request, bodies)| (*request, bodies.iter().map(told).collect())).collect()
}

/// What an undisturbed worker makes of the log.
async fn undisturbed() -> (Tables, Told) {
    let (world, mut gateway) = filled(0).await;
    let working = world.work(1);
    gateway.hear(|gateway| gateway.outcomes.len() == COMMANDS).await;
    working.stop().await;
    assert_eq!(world.store.checkpoint().map(|checkpoint| checkpoint.position.sequence), Some(ENTRIES));
    let acks = outcomes(&gateway);
    for kind in ["seq", "repeated", "forbidden"] {
        assert!(acks.values().flatten().any(|told| told.starts_with(kind)), "no {kind} in {acks:?}");
    }
    (in_one_life(world.store.tables()), acks)
}

/// Keys whose values differ.
fn differing<K: Ord + Debug, V: PartialEq>(one: &BTreeMap<K, V>, other: &BTreeMap<K, V>) -> String {
    let keys: BTreeSet<&K> = one.keys().chain(other.keys()).collect();
    let differing = keys.into_iter().filter(|key| one.get(key) != other.get(key));
    differing.map(|key| format!("{key:?} ")).collect()
}

/// The tables without what tells one life of the log from another: who takes over from one that died begins a life.
fn in_one_life(mut tables: Tables) -> Tables {
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

fn assert_same(what: &str, world: &World, gateway: &Gateway, golden: &(Tables, Told)) {
    let tables = in_one_life(world.store.tables());
    assert_eq!(differing(&tables.events, &golden.0.events), "", "rows differ {what}");
    assert_eq!(differing(&tables.heads, &golden.0.heads), "", "heads differ {what}");
    assert_eq!(differing(&tables.participants, &golden.0.participants), "", "participants differ {what}");
    assert_eq!(differing(&tables.sent, &golden.0.sent), "", "client ids differ {what}");
    assert_eq!(world.store.torn(), [], "{what}");
    for (request, told) in outcomes(gateway) {
        assert!(told.iter().all(|told| *told == golden.1[&request][0]), "request {request} {what}: {told:?}");
    }
    for (request, told) in golden.1.iter().filter(|(_, told)| told[0].starts_with("seq")) {
        assert!(gateway.outcomes.contains_key(request), "nobody told request {request} its {told:?} {what}");
    }
}

async fn crash_and_take_over(cells: usize, golden: &(Tables, Told)) {
    let (world, mut gateway) = filled(cells as u64).await;
    world.store.crash_after(cells);
    let first = world.work(1);
    let store = world.store.clone();
    until(|| store.has_crashed() || store.checkpoint().is_some_and(|at| at.position.sequence == ENTRIES))
        .await;
    first.kill().await;
    world.store.repair();
    world.work(2).stop_when(&world, ENTRIES).await;
    gateway.hear_for(Duration::ZERO).await;
    assert_same(&format!("after a crash at cell {cells}"), &world, &gateway, golden);
}

/// Guards rows before acks before projections before heads before checkpoint, and replay from each: the worker is
/// killed after each single cell that it writes.
#[tokio::test]
async fn whoever_takes_over_after_a_crash_anywhere_makes_the_same() {
    let golden = undisturbed().await;
    let sent = golden.0.sent.values().map(BTreeMap::len).sum::<usize>();
    let cells = golden.0.events.len() + golden.0.participants.len() + sent;
    join_all((0..cells + 12).map(|cells| crash_and_take_over(cells, &golden))).await;
}

async fn displace(round: u64, golden: &(Tables, Told)) {
    let (world, mut gateway) = filled(round).await;
    let one = world.work(1);
    // The other finds some of the first's rows, and more land while it works.
    let store = world.store.clone();
    until(|| store.count(Call::Append) as u64 >= round % 3).await;
    one.ours.store(false, Ordering::SeqCst);
    let other = world.work(2);
    other.stop_when(&world, ENTRIES).await;
    one.stop().await;
    gateway.hear_for(Duration::ZERO).await;
    assert_same(&format!("in round {round}"), &world, &gateway, golden);
}

async fn stand_still(round: u64, golden: &(Tables, Told)) {
    let (world, mut gateway) = filled(round).await;
    let twin = World::of(world.bus.clone(), world.store.twin());
    // Of the first's groups, which create, add and remove participants, rows are there; nothing that follows from them.
    world.store.hold(Call::Project);
    let one = world.work(1);
    until(|| world.store.count(Call::Project) > 0).await;
    one.ours.store(false, Ordering::SeqCst);
    twin.work(2).stop_when(&twin, ENTRIES).await;
    world.store.release(Call::Project);
    one.stop().await;
    gateway.hear_for(Duration::ZERO).await;
    assert_same(&format!("in round {round}, after standing still"), &world, &gateway, golden);
}

/// Guards heads and participants from an owner that stood still between rows and what follows from them, while another
/// one changed who participates: what it writes when it goes on lies below.
#[tokio::test]
async fn who_stood_still_between_row_and_head_changes_nothing() {
    let golden = undisturbed().await;
    join_all((1..30).map(|round| stand_still(round, &golden))).await;
}

/// Guards the taking over from an owner that still writes, however their steps interleave.
#[tokio::test]
async fn who_displaces_another_makes_the_same() {
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

/// Guards acks from a store whose readings take longer than one is good for: they are late, and the owner stays. Where it
/// is asked once more when the acks leave, it starts over, and so does every owner after it.
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
    assert!(gateway.outcomes.is_empty(), "nobody knows whose the partition is");
    world.store.release(Call::Read);
    assert_eq!(gateway.outcome(1).await, "seq 1");
    gateway.hear_for(A_WHILE).await;
    assert_eq!(gateway.batches.iter().map(|batch| batch.epoch).collect::<Vec<_>>(), [1]);
    assert_eq!(gateway.outcomes[&1].len(), 1);
    working.stop().await;
}

/// Guards the tenure as the fence: an owner that believes in its lease while another one works acknowledges nothing,
/// and its late row is not there. Where a tenancy does not run out the first one acknowledges seq 1 as well.
#[tokio::test]
async fn who_was_displaced_acknowledges_nothing() {
    let world = World::new();
    let twin = World::of(world.bus.clone(), world.store.twin());
    let mut gateway = world.gateway("gw-1").await;
    let one = world.work(1);
    world.worked(&mut gateway).await;
    hold_the_first_row(&world, &gateway).await;
    // It does not hear that it was displaced either.
    world.store.hold(Call::Read);
    let other = twin.work(2);
    assert_eq!(gateway.outcome(1).await, "seq 1");
    world.store.release(Call::Append);
    gateway.hear_for(A_WHILE).await;
    let telling = gateway.batches.iter().filter(|batch| !batch.outcomes.is_empty());
    assert_eq!(telling.map(|batch| batch.epoch).collect::<Vec<_>>(), [2]);
    let row = &world.store.tables().events[&("room".to_owned(), 1)];
    assert_eq!(row.position.incarnation, 2, "the first one's lies below");
    assert_eq!(world.store.torn(), []);
    one.kill().await;
    other.kill().await;
}

/// Guards the giving back of what was taken and not worked yet: without it the next owner waits for a hand-over that
/// does not come, and begins another life. Nor does the process wait for such a partition when it stops.
#[tokio::test]
async fn who_is_stopped_while_it_begins_gives_the_partition_back() {
    let world = World::new();
    let first = world.publish(Vec::new()).await;
    let life = Incarnation::new(1, first + 1, 1_000_000_000);
    world.store.change(|tables| {
        tables.partitions.insert(0, free(life));
    });
    world.store.hold(Call::Checkpoint);
    let begins = world.work(1);
    until(|| world.store.count(Call::Checkpoint) > 0).await;
    assert!(holder(&world).is_some());
    assert!(begins.leaves().await, "it has gathered nothing");
    begins.stop().await;
    assert_eq!(holder(&world), None);
    world.store.release(Call::Checkpoint);

    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(2);
    world.publish(vec![gateway.send(1, "room", "m1")]).await;
    assert_eq!(gateway.outcome(1).await, "seq 1");
    assert_eq!(world.store.tables().events[&("room".to_owned(), 1)].position.incarnation, 1, "the same life");
    working.stop().await;
}

/// Guards the silence after displacing a holder, which may still acknowledge: who is stopped in it keeps what it took,
/// or the next owner would find nobody whose silence to wait for.
#[tokio::test]
async fn who_is_stopped_in_the_silence_gives_nothing_back() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let displaced = world.work(1);
    world.worked(&mut gateway).await;
    let before = holder(&world);
    let begins = world.work(2);
    until(|| holder(&world) != before).await;
    begins.stop().await;
    let kept = holder(&world).expect("kept");
    assert_eq!(kept.worker(), "worker-2");
    displaced.kill().await;
}

fn holder(world: &World) -> Option<Holder> {
    world.store.tables().partitions[&0].tenure.clone().and_then(|tenure| tenure.holder)
}

/// Before, the panic of one partition's task ended its process, and then that of whoever took the partition over: all
/// partitions of all workers stood still in turn.
#[tokio::test]
async fn a_partition_whose_task_panics_is_begun_again() {
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
    let life = world.store.tables().partitions[&0].incarnation().expect("there is one");
    assert_eq!(life.number, LIFE.number + 1, "writes of the one that panicked may be under way");
}
