//! Versions of the state machine: where a version starts, and how a build stops that does not know it
//! (`docs/decisions/0022-a-version-begins-by-a-log-entry.md`).

use super::bus::TestBus;
use super::harness::{A_WHILE, INCARNATION, World, until};
use super::memory::{Call, MemoryStore};
use super::run_tests::{start_of, stopped};
use crate::run::KIND;
use crate::store::{Checkpoint, Projection, Store as _};
use carillon_proto::id::{ConversationId, Tag};
use carillon_proto::wire::{self, Authority, command::Body};
use carillon_runtime::bus::Bus as _;
use carillon_runtime::settings::Refused;
use prost::Message as _;
use std::time::Duration;

/// Longer than a lease.
const LONG: Duration = Duration::from_secs(4);

async fn raise(world: &World, version: u32) -> u64 {
    world.publish_bytes(wire::Entry { commands: Vec::new(), version }.encode_to_vec().into()).await
}

fn head_version(world: &World, conversation: &str) -> Option<u32> {
    let tables = world.store.tables();
    let (_, blob) = tables.heads.get(conversation)?;
    Some(wire::Head::decode(blob.clone()).expect("decodes").version)
}

fn version(world: &World) -> Option<u32> {
    world.store.checkpoint().map(|checkpoint| checkpoint.version)
}

/// Guards the order: entries after the version's entry are applied only when a checkpoint names the version. From then
/// on heads name it too.
#[tokio::test]
async fn a_version_starts_at_its_entry_once_a_checkpoint_names_it() {
    let world = World { version: 2, ..World::new() };
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    world.publish(vec![gateway.send(1, "room", "before")]).await;
    assert_eq!(gateway.outcome(1).await, "seq 1");
    until(|| head_version(&world, "room") == Some(1)).await;

    world.store.hold(Call::Checkpoint);
    let entry = raise(&world, 2).await;
    let last = world.publish(vec![gateway.send(2, "room", "after"), gateway.send(3, "other", "after")]).await;
    gateway.receive_for(3 * A_WHILE).await;
    assert!(!gateway.outcomes.contains_key(&2), "applied before a checkpoint names the version");
    assert_eq!(version(&world), Some(1));

    world.store.release(Call::Checkpoint);
    assert_eq!((gateway.outcome(2).await.as_str(), gateway.outcome(3).await.as_str()), ("seq 2", "seq 1"));
    world.checkpointed(entry).await;
    assert_eq!(version(&world), Some(2));
    working.stop_when(&world, last).await;
    assert_eq!((head_version(&world, "room"), head_version(&world, "other")), (Some(2), Some(2)));

    // Entries that do not raise the version are passed without effect.
    raise(&world, 2).await;
    raise(&world, 1).await;
    let working = world.work(2);
    world.publish(vec![gateway.send(4, "room", "later")]).await;
    assert_eq!(gateway.outcome(4).await, "seq 3");
    working.stop().await;
    assert_eq!(version(&world), Some(2));
}

#[tokio::test]
async fn a_build_that_does_not_know_the_version_stops_at_its_entry() {
    let world = World { version: 1, ..World::new() };
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    world.publish(vec![gateway.send(1, "room", "before")]).await;
    raise(&world, 2).await;
    world.publish(vec![gateway.send(2, "room", "after")]).await;
    assert_eq!(gateway.outcome(1).await, "seq 1");
    let refused = working.outdated.refused(1).await.to_string();
    assert!(refused.contains("version 2") && refused.contains("run the newer carillon"), "{refused}");
    gateway.receive_for(3 * A_WHILE).await;
    assert!(!gateway.outcomes.contains_key(&2), "applied by a build that does not know the version");
    working.stop().await;
    assert_ne!(version(&world), Some(2));

    let newer = World { version: 2, ..World::of(world.bus.clone(), world.store.clone()) };
    let working = newer.work(2);
    assert_eq!(gateway.outcome(2).await, "seq 2");
    working.stop().await;
    assert_eq!(world.store.torn(), []);
}

fn record(world: &World, version: u32) {
    let checkpoint =
        Checkpoint { position: INCARNATION.position(5, 0), tag: Tag([5; 16]), timestamp_us: 1, version };
    world.store.change(|tables| {
        tables.partitions.get_mut(&0).expect("the partition has a row").checkpoint = Some(checkpoint);
    });
}

#[tokio::test]
async fn a_build_that_does_not_know_the_version_takes_no_partition() {
    let world = World { version: 1, ..World::new() };
    record(&world, 2);
    let before = world.store.tables().partitions;
    let working = world.work(1);
    assert!(working.outdated.refused(1).await.to_string().contains("version 2"));
    working.stop().await;
    assert_eq!(world.store.tables().partitions, before);
}

/// Guards that the version outlives the log in which it started.
#[tokio::test]
async fn a_new_incarnation_keeps_the_version() {
    let world = World { version: 2, ..World::new() };
    record(&world, 2);
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    world.worked(&mut gateway).await;
    let last = world.publish(vec![gateway.send(1, "room", "x")]).await;
    assert_eq!(gateway.outcome(1).await, "seq 1");
    let store = &world.store;
    until(|| {
        store.checkpoint().is_some_and(|checkpoint| checkpoint.position.incarnation > INCARNATION.number)
    })
    .await;
    working.stop_when(&world, last).await;
    assert_eq!((version(&world), head_version(&world, "room")), (Some(2), Some(2)));
}

/// A former owner raises the version while a build that does not know it takes the partition over. The build stops; the
/// conversation is sound and is not suspended.
#[tokio::test]
async fn a_head_of_an_unknown_version_stops_the_build_if_a_checkpoint_names_it() {
    let world = World { version: 1, ..World::new() };
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    world.publish(vec![gateway.send(1, "other", "x")]).await;
    assert_eq!(gateway.outcome(1).await, "seq 1");
    let head = wire::Head {
        seq: 1,
        version: 2,
        position: Some(INCARNATION.position(1, 0).into()),
        ..wire::Head::default()
    };
    let conversation = ConversationId::parse("room").expect("valid");
    let (blob, timestamp_us) = (head.encode_to_vec().into(), INCARNATION.timestamp_us(1, 0));
    world.store.project(vec![Projection::Head { conversation, timestamp_us, blob }]).await.expect("written");
    record(&world, 2);
    world.publish(vec![gateway.send(2, "room", "x")]).await;
    assert!(working.outdated.refused(1).await.to_string().contains("version 2"));
    working.stop().await;
    assert!(world.store.tables().suspensions.is_empty());
}

/// Guards that the version of the partition decides, and that a later owner knows a backend's client ids from the
/// store. The log can forget an entry's tag before a gateway sends the entry again.
#[tokio::test]
async fn a_backends_command_counts_once_from_version_2_on() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let change = |request, client_id: &str, body| wire::Command {
        client_id: client_id.into(),
        authority: Authority::Backend.into(),
        ..gateway.command(request, "room", "", body)
    };
    let add = || Body::AddParticipants(wire::AddParticipants { users: vec!["eve".into()] });
    let remove = || Body::RemoveParticipant(wire::RemoveParticipant { user: "eve".into() });
    let before = [
        gateway.send(1, "room", "x"),
        change(2, "~add-1", add()),
        change(3, "~remove-1", remove()),
        change(4, "~add-1", add()),
        change(5, "~remove-2", remove()),
    ];
    let after = [
        change(6, "~add-2", add()),
        change(7, "~remove-3", remove()),
        change(8, "~add-2", add()),
        change(9, "~add-1", add()),
    ];
    let by_the_successor = [change(10, "~remove-3", remove()), change(11, "~add-3", add())];

    let working = world.work(1);
    world.publish(before.to_vec()).await;
    raise(&world, 2).await;
    let last = world.publish(after.to_vec()).await;
    let mut outcomes = Vec::new();
    for request in 1..=9 {
        outcomes.push(gateway.outcome(request).await);
    }
    working.stop_when(&world, last).await;
    let successor = world.work(2);
    let last = world.publish(by_the_successor.to_vec()).await;
    for request in 10..=11 {
        outcomes.push(gateway.outcome(request).await);
    }
    successor.stop_when(&world, last).await;
    let of_version_1 = ["seq 1", "seq 2", "seq 3", "seq 4", "seq 5"];
    let of_version_2 = ["seq 6", "seq 7", "repeated 6", "repeated 4", "repeated 7", "seq 8"];
    assert_eq!(outcomes, [&of_version_1[..], &of_version_2[..]].concat());
    assert_eq!(world.store.torn(), []);
}

/// Whole workers. The version starts when the last old worker has been gone for the time of a lease, and an old worker
/// that comes back is refused before it takes a lease.
#[tokio::test]
async fn a_version_starts_when_all_live_workers_know_it() {
    const PARTITIONS: u32 = 4;
    let world = World { partitions: PARTITIONS, ..World::of(TestBus::new(PARTITIONS), MemoryStore::new()) };
    let versions = || -> Vec<u32> {
        let tables = world.store.tables();
        tables.partitions.values().filter_map(|state| Some(state.checkpoint?.version)).collect()
    };
    let (stop_old, old) = start_of(&world, "old", 1);
    let (stop_new, new) = start_of(&world, "new", 2);
    tokio::time::sleep(LONG).await;
    assert!(versions().iter().all(|version| *version == 1), "{:?}", versions());

    stopped(stop_old, old).await.expect("no error");
    until(|| versions() == [2; PARTITIONS as usize]).await;
    let (_stop, old) = start_of(&world, "old-again", 1);
    let refused = old.await.expect("no panic").expect_err("refused");
    assert!(refused.is::<Refused>(), "{refused:#}");
    let live = world.bus.live_leases(KIND).await.expect("listed");
    assert_eq!(live.len(), 1, "{live:?}");
    stopped(stop_new, new).await.expect("no error");
}
