//! Workers die anywhere and double up; what is stored in the end is as if nothing had happened.

use super::bus::TestBus;
use super::harness::{Gateway, LIFE, World, told, until};
use super::memory::{Call, MemoryStore, Tables};
use crate::store::PartitionState;
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
    store.change(|tables| drop(tables.partitions.insert(0, state)));
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
    join_all((1..1500).map(|round| double(round, &golden))).await;
}

/// Guards the reading of `sent` above the own head: a worker that is behind must not take what the one ahead wrote
/// for this very command as a repetition, and then number the next one wrongly.
#[tokio::test]
async fn a_worker_that_finds_another_ahead_reads_its_rows_first() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let one = world.work(1);
    let of_bob = |command| wire::Command { actor: "bob".into(), ..command };
    world.publish(vec![gateway.send(1, "room", "m1")]).await;
    gateway.outcome(1).await;
    world.checkpointed(1).await;
    // `behind` loads the conversation with its one message and then cannot go on.
    world.store.hold(Call::Append);
    let behind = world.work(2);
    let mut other = world.gateway("gw-2").await;
    let _ = gateway.register(&["room"]).await;
    let before = world.store.tables();
    world.publish(vec![gateway.send(2, "room", "m2"), of_bob(gateway.send(3, "room", "m3"))]).await;
    world.store.release(Call::Append);
    gateway.outcome(3).await;
    world.publish(vec![of_bob(gateway.send(4, "room", "m4")), other.send(5, "room", "m5")]).await;
    other.outcome(5).await;
    one.stop().await;
    behind.stop().await;
    assert!(before.events.len() == 1);
    let contents: Vec<String> = world.contents("room").into_iter().map(|(_, content)| content).collect();
    assert_eq!(contents, ["m1", "m2", "m3", "m4", "m5"]);
    assert_eq!(world.store.torn(), []);
}
