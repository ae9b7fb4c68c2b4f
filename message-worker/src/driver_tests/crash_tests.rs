//! Workers die anywhere and double up; what is stored in the end is as if nothing had happened.

use super::bus::TestBus;
use super::harness::{A_WHILE, Gateway, LIFE, World, told, until};
use super::memory::{Call, MemoryStore};
use super::tables::Tables;
use crate::store::PartitionState;
use carillon_proto::limits::DEDUP_CLIENT_IDS_MAX;
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
    let state = PartitionState { incarnation: Some(LIFE), checkpoint: None };
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
        world.publish_tagged(100 + entry, wire::Entry { commands }.encode_to_vec().into()).await;
    }
    (world, gateway)
}

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
    (world.store.tables(), acks)
}

/// Keys whose values differ.
fn differing<K: Ord + Debug, V: PartialEq>(one: &BTreeMap<K, V>, other: &BTreeMap<K, V>) -> String {
    let keys: BTreeSet<&K> = one.keys().chain(other.keys()).collect();
    let differing = keys.into_iter().filter(|key| one.get(key) != other.get(key));
    differing.map(|key| format!("{key:?} ")).collect()
}

fn assert_same(what: &str, world: &World, gateway: &Gateway, golden: &(Tables, Told)) {
    let tables = world.store.tables();
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

async fn double(round: u64, golden: &(Tables, Told)) {
    let (world, mut gateway) = filled(round).await;
    let one = world.work(1);
    // The other finds some of the first's rows, and more while it works.
    let store = world.store.clone();
    until(|| store.count(Call::Append) as u64 >= round % 3).await;
    let other = world.work(2);
    gateway.hear(|gateway| gateway.outcomes.len() == COMMANDS).await;
    other.stop_when(&world, ENTRIES).await;
    one.stop_when(&world, ENTRIES).await;
    gateway.hear_for(Duration::ZERO).await;
    assert_same(&format!("in round {round}"), &world, &gateway, golden);
}

/// Guards determinism as the only fence: two owners at once, each in the belief to be the only one, write the same
/// bytes, however their steps interleave.
#[tokio::test]
async fn two_workers_on_one_partition_write_identical_rows() {
    let golden = undisturbed().await;
    join_all((1..60).map(|round| double(round, &golden))).await;
}

/// Guards the loading anew of a conversation whose newest client ids in the store all lie above its own head: those
/// that hide behind them would count as never sent.
#[tokio::test]
async fn a_worker_far_behind_reads_the_rows_of_the_one_ahead() {
    let world = World::new();
    let twin = World::of(world.bus.clone(), world.store.twin());
    let mut gateway = world.gateway("gw-1").await;
    let named =
        |request: u64, id: &str| wire::Command { client_id: id.into(), ..gateway.send(request, "room", id) };
    let (first, again, last) = (named(1, "first"), named(2, "first"), named(9_999, "last"));
    let many: Vec<_> = (0..DEDUP_CLIENT_IDS_MAX as u64).map(|n| named(10 + n, &format!("c{n}"))).collect();
    let hall = gateway.send(3, "hall", "x");
    let ahead = world.work(1);
    world.publish(vec![first]).await;
    gateway.outcome(1).await;
    world.checkpointed(1).await;
    // The other has the conversation in memory, with its one message, and stands still over something else.
    let loads = world.store.count(Call::Load);
    let behind = twin.work(2);
    gateway.register(&[]).await;
    until(|| world.store.count(Call::Load) == loads).await;
    gateway.register(&["room"]).await;
    until(|| world.store.count(Call::Load) > loads).await;
    gateway.hear_for(A_WHILE).await;
    twin.store.hold(Call::Load);
    world.publish(vec![hall]).await;
    gateway.outcome(3).await;
    world.publish(vec![again]).await;
    for commands in many.chunks(250) {
        world.publish(commands.to_vec()).await;
    }
    assert_eq!(gateway.outcome(2).await, "repeated 1");
    let sequence = world.publish(vec![last]).await;
    gateway.outcome(9_999).await;
    world.checkpointed(sequence).await;
    twin.store.release(Call::Load);
    let has_told = |batch: &wire::Batch| batch.outcomes.iter().any(|outcome| outcome.request == 9_999);
    gateway.hear(|gateway| gateway.batches.iter().any(|batch| batch.epoch == 2 && has_told(batch))).await;
    ahead.stop().await;
    behind.stop().await;
    assert_eq!(world.contents("room").len(), DEDUP_CLIENT_IDS_MAX + 2);
    assert_eq!(world.store.torn(), []);
}
