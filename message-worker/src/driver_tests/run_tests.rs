//! Whole workers with leases on one bus.

use super::bus::TestBus;
use super::harness::{A_WHILE, Gateway, World, conversations_of, until};
use super::memory::MemoryStore;
use crate::{Config, VERSION, run};
use carillon_proto::id::WorkerId;
use carillon_proto::subject;
use carillon_proto::wire::{self, partition_request, read_reply, read_request};
use carillon_runtime::bus::Bus as _;
use prost::Message as _;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PARTITIONS: u32 = 4;

fn world_of(world: &World, partition: u32) -> World {
    World { partition, partitions: PARTITIONS, ..World::of(world.bus.clone(), world.store.clone()) }
}

fn start(world: &World, name: &str) -> (CancellationToken, JoinHandle<anyhow::Result<()>>) {
    start_of(world, name, VERSION)
}

/// Starts a worker of all the world's partitions that knows this version of the state machine.
pub(super) fn start_of(
    world: &World,
    name: &str,
    version: u32,
) -> (CancellationToken, JoinHandle<anyhow::Result<()>>) {
    let shutdown = CancellationToken::new();
    let worker = WorkerId::parse(name).expect("valid");
    let config = Config { worker, partitions: world.partitions, exclusive: false, version };
    let running = tokio::spawn(run(config, world.bus.clone(), world.store.clone(), shutdown.clone()));
    (shutdown, running)
}

/// Stops a worker in good order.
pub(super) async fn stopped(
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    stop.cancel();
    running.await.expect("no panic")
}

/// The epochs of the partitions' owners. Each worker has another epoch.
async fn epochs(world: &World) -> BTreeSet<u64> {
    let mut epochs = BTreeSet::new();
    for partition in 0..PARTITIONS {
        let mut gateway = world_of(world, partition).gateway("gw-asking").await;
        let register = partition_request::Body::Register(wire::Register::default());
        epochs.insert(gateway.request(register).await.epoch);
    }
    epochs
}

/// Sends a message to each partition, and waits until each is acknowledged.
async fn send_everywhere(world: &World, gateway: &mut Gateway, round: u64) {
    for partition in 0..PARTITIONS {
        let request = round * 10 + u64::from(partition);
        let room = conversations_of(partition, PARTITIONS, 1).remove(0);
        world_of(world, partition).publish(vec![gateway.send(request, &room, "x")]).await;
    }
    for partition in 0..PARTITIONS {
        assert_eq!(gateway.outcome(round * 10 + u64::from(partition)).await, format!("seq {}", round + 1));
    }
}

/// Guards that every partition has an owner, whichever workers start, stop or crash.
#[tokio::test]
async fn partitions_follow_the_leases() {
    let world = World { partitions: PARTITIONS, ..World::of(TestBus::new(PARTITIONS), MemoryStore::new()) };
    let mut gateway = world.gateway("gw-1").await;
    let (stop_one, one) = start(&world, "one");
    send_everywhere(&world, &mut gateway, 0).await;
    let (_stop_two, two) = start(&world, "two");
    while epochs(&world).await.len() < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    send_everywhere(&world, &mut gateway, 1).await;
    let read =
        wire::ReadEvents { conversation: conversations_of(0, PARTITIONS, 1).remove(0), ..Default::default() };
    let request = wire::ReadRequest { body: Some(read_request::Body::Events(read)) }.encode_to_vec();
    let reply =
        world.bus.request(subject::READ, request.into(), Duration::from_secs(5)).await.expect("answered");
    let Some(read_reply::Body::Events(page)) = wire::ReadReply::decode(reply).expect("decodes").body else {
        panic!("not events")
    };
    assert_eq!(page.events.len(), 2);
    // Stop `one` in good order: `two` takes over without waiting for a lease to run out.
    stop_one.cancel();
    one.await.expect("no panic").expect("no error");
    send_everywhere(&world, &mut gateway, 2).await;
    // Kill `two` without notice.
    two.abort();
    assert!(two.await.expect_err("aborted").is_cancelled());
    let (stop_three, three) = start(&world, "three");
    send_everywhere(&world, &mut gateway, 3).await;
    stop_three.cancel();
    three.await.expect("no panic").expect("no error");
    let store = world.store.clone();
    until(|| store.tables().partitions.values().all(|state| state.checkpoint.is_some())).await;
    assert_eq!(world.store.torn(), []);
    assert!(
        gateway
            .outcomes
            .values()
            .flatten()
            .all(|outcome| matches!(outcome, wire::outcome::Body::Accepted(_)))
    );
}

const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// Before the fix, an incarnation started with timestamps of a clock that was days ahead. A database that refuses such
/// timestamps then refused all writes of the partition, whichever worker owned it.
#[tokio::test]
async fn no_incarnation_starts_while_the_clock_is_days_ahead() {
    let world = World::of(TestBus::new(1), MemoryStore::new());
    world.bus.clock_ahead_ms.store(3 * DAY_MS, Ordering::SeqCst);
    let working = world.work(1);
    tokio::time::sleep(2 * A_WHILE).await;
    assert!(world.store.tables().partitions.is_empty(), "the worker started an incarnation");
    world.bus.clock_ahead_ms.store(0, Ordering::SeqCst);
    let mut gateway = world.gateway("gw-1").await;
    world.publish(vec![gateway.send(1, "room", "x")]).await;
    assert_eq!(gateway.outcome(1).await, "seq 1");
    working.stop().await;
}

/// Before the fix, a worker with a wrong clock kept its partitions.
#[tokio::test(start_paused = true)]
async fn a_worker_with_a_wrong_clock_gives_up_its_lease() {
    let world = World { partitions: PARTITIONS, ..World::of(TestBus::new(PARTITIONS), MemoryStore::new()) };
    let live = async || !world.bus.live_leases(crate::run::KIND).await.expect("listed").is_empty();
    let (stop, running) = start(&world, "one");
    for (ahead_ms, works) in [(0, true), (3 * DAY_MS, false), (0, true)] {
        world.bus.clock_ahead_ms.store(ahead_ms, Ordering::SeqCst);
        while live().await != works || crate::clocks_agree() != works {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    stop.cancel();
    running.await.expect("no panic").expect("no error");
}
