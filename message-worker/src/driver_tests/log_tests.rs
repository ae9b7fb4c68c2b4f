//! The log loses entries, its readers break, and it holds entries that cannot be applied.

use super::bus::TestBus;
use super::harness::{A_WHILE, INCARNATION, World, conversations_of, until};
use super::memory::{Call, Fault, MemoryStore};
use carillon_proto::wire;
use carillon_runtime::bus::{Bus as _, LEASE_MS};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Guards tags and incarnations: the sequences of a recreated log have no relation to entries that were applied before.
#[tokio::test]
async fn a_recreated_log_starts_a_new_incarnation_and_outcomes_are_sent_once() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    let named = |n| wire::Command { client_id: format!("c{n}"), ..gateway.send(n, "room", &format!("m{n}")) };
    let commands: Vec<_> = (0..12).map(named).collect();
    for command in &commands[1..4] {
        world.publish(vec![command.clone()]).await;
    }
    gateway.receive_until(|gateway| gateway.outcomes.len() == 3).await;
    working.stop().await;

    // The streams are recreated. A command that is published before a worker notices is never acknowledged, by design.
    let anew = World::of(TestBus::new(1), world.store.clone());
    let mut gateway = anew.gateway("gw-1").await;
    anew.publish(vec![commands[4].clone()]).await;
    let working = anew.work(2);
    anew.worked(&mut gateway).await;
    // The senders send again, and so does a sender whose ack was lost.
    anew.publish(vec![commands[4].clone(), commands[2].clone(), commands[5].clone()]).await;
    assert_eq!(gateway.outcome(5).await, "seq 5");
    assert_eq!(gateway.outcome(4).await, "seq 4");
    assert_eq!(gateway.outcome(2).await, "repeated 2");
    working.stop().await;
    assert!(gateway.outcomes.values().all(|outcomes| outcomes.len() == 1), "{:?}", gateway.outcomes);
    assert_eq!(anew.contents("room"), (1..=5).map(|n| (n, format!("m{n}"))).collect::<Vec<_>>());
    let incarnation = anew.store.tables().partitions[&0].incarnation().expect("an incarnation has started");
    assert_eq!((incarnation.number, incarnation.first_sequence), (2, 2));
    let rows = anew.store.tables().events;
    assert!(rows[&("room".into(), 4)].timestamp_us > rows[&("room".into(), 3)].timestamp_us);
    assert_eq!(rows[&("room".into(), 4)].position.incarnation, 2);
}

/// Guards the tags of rows. The log still holds the checkpoint's entry; above it, it lost entries that were applied and
/// has new ones in their place. Without the check of the row's tag, the new entries at those sequences count as
/// applied.
#[tokio::test]
async fn a_log_that_lost_its_tail_is_noticed_by_the_tags_of_rows() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    world.publish(vec![gateway.send(1, "room", "m1")]).await;
    world.checkpointed(1).await;
    world.store.hold(Call::Checkpoint);
    world.publish(vec![gateway.send(2, "room", "m2")]).await;
    gateway.outcome(2).await;
    working.kill().await;
    world.store.release(Call::Checkpoint);

    let lossy = World::of(TestBus::new(1), world.store.clone());
    let kept = world.bus.log_entry(0, 1).await.expect("the bus answers").expect("the log holds it");
    lossy.bus.append(0, kept.tag, kept.payload).await.expect("kept");
    let mut gateway = lossy.gateway("gw-1").await;
    lossy.publish(vec![gateway.send(3, "room", "m3")]).await;
    let working = lossy.work(2);
    // Incarnation 2 takes over from a killed owner, and then finds that the log has other entries.
    until(|| {
        lossy.store.tables().partitions[&0].incarnation().is_some_and(|incarnation| incarnation.number == 3)
    })
    .await;
    lossy.publish(vec![gateway.send(3, "room", "m3")]).await;
    assert_eq!(gateway.outcome(3).await, "seq 3", "m2 was acknowledged, so m3 must follow it");
    working.stop().await;
}

/// Guards the check of the log once a second: a running worker stops acknowledging when the log has lost entries.
#[tokio::test]
async fn a_running_worker_notices_that_the_log_lost_entries() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    world.publish(vec![gateway.send(1, "room", "m1")]).await;
    gateway.outcome(1).await;
    gateway.register(&["room"]).await;
    world.bus.forgetful.store(true, Ordering::SeqCst);
    until(|| {
        world.store.tables().partitions[&0].incarnation().is_some_and(|incarnation| incarnation.number == 2)
    })
    .await;
    world.bus.forgetful.store(false, Ordering::SeqCst);
    world.publish(vec![gateway.send(2, "room", "m2")]).await;
    assert_eq!(gateway.outcome(2).await, "seq 2");
    gateway.receive_until(|gateway| gateway.beats.last().is_some_and(|beat| beat.interest_hash == 0)).await;
    let numbers: Vec<_> = gateway.batches.iter().map(|batch| (batch.epoch, batch.number)).collect();
    assert_eq!(numbers, [(1, 1), (2, 1)], "batch numbers start at 1 in each epoch");
    working.stop().await;
}

/// Guards the new reader after one that broke: it goes on where the old one ended, with the same state.
#[tokio::test]
async fn broken_readers_lose_and_repeat_nothing() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    world.bus.breaking.store(5, Ordering::SeqCst);
    let working = world.work(1);
    for n in 1..=10 {
        world.publish(vec![gateway.send(n, "room", &format!("m{n}"))]).await;
        assert_eq!(gateway.outcome(n).await, format!("seq {n}"));
    }
    assert_eq!(world.bus.breaking.load(Ordering::SeqCst), 0, "all five reader failures must have happened");
    working.stop().await;
    assert!(gateway.outcomes.values().all(|outcomes| outcomes.len() == 1));
}

/// Guards the check of each entry's sequence, whatever a reader promises: an entry that is skipped here is lost for
/// good.
#[tokio::test]
async fn entries_that_a_reader_leaves_out_are_read_again() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    world.bus.gapping.store(3, Ordering::SeqCst);
    for n in 1..=6 {
        world.publish(vec![gateway.send(n, "room", &format!("m{n}"))]).await;
    }
    let working = world.work(1);
    for n in 1..=6 {
        assert_eq!(gateway.outcome(n).await, format!("seq {n}"));
    }
    assert_eq!(world.bus.gapping.load(Ordering::SeqCst), 0, "all three gaps must have happened");
    working.stop().await;
}

/// Guards the record of skipped commands: it is durable before any worker passes the command, and every replay follows
/// it.
#[tokio::test]
async fn poison_is_skipped_only_after_the_skip_is_recorded() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    world.store.fail(Call::Skip, &[Fault::Lost, Fault::Lied]);
    world.store.hold(Call::Skip);
    world.publish_bytes(vec![0xff; 9].into()).await;
    world.publish(vec![gateway.send(2, "room", "after")]).await;
    let working = world.work(1);
    gateway.receive_for(A_WHILE).await;
    assert!(gateway.outcomes.is_empty(), "a command was applied before the missing entries were recorded");
    world.store.release(Call::Skip);
    assert_eq!(gateway.outcome(2).await, "seq 1");
    working.stop().await;
    let skipped: Vec<_> = world.store.tables().skips[&0].iter().copied().collect();
    assert_eq!(skipped, [INCARNATION.position(1, 0)]);
    // A replay skips a recorded command even if nothing is wrong with it.
    let other = World::of(TestBus::new(1), MemoryStore::new());
    other.store.change(|tables| {
        tables.partitions = world.store.tables().partitions;
        tables.partitions.get_mut(&0).expect("the partition has a row").checkpoint = None;
        tables.skips.insert(0, [INCARNATION.position(1, 1)].into());
    });
    let mut gateway = other.gateway("gw-1").await;
    other.publish((1..=3).map(|n| gateway.send(n, "room", &format!("m{n}"))).collect()).await;
    let working = other.work(1);
    assert_eq!(gateway.outcome(3).await, "seq 2");
    working.stop().await;
    assert_eq!(other.contents("room"), [(1, "m1".into()), (2, "m3".into())]);
}

/// Guards conversations against being written from the logs of two partitions, when roles have different numbers of
/// partitions.
#[tokio::test]
async fn a_conversation_of_another_partition_is_poison() {
    let world = World { partition: 1, partitions: 2, ..World::of(TestBus::new(2), MemoryStore::new()) };
    let mut gateway = world.gateway("gw-1").await;
    let (ours, other) = (conversations_of(1, 2, 1).remove(0), conversations_of(0, 2, 1).remove(0));
    let working = world.work(1);
    world
        .publish(vec![gateway.send(1, &other, "x"), gateway.send(2, &ours, "y"), gateway.send(3, "a b", "z")])
        .await;
    assert_eq!(gateway.outcome(1).await, "internal");
    assert_eq!(gateway.outcome(2).await, "seq 1");
    assert_eq!(gateway.outcome(3).await, "invalid_payload");
    working.stop().await;
    assert!(world.contents(&other).is_empty());
    assert_eq!(world.store.tables().skips[&1].len(), 1);
}

/// Guards memory: a log that belongs to one process keeps nothing below the checkpoint, a shared log keeps ten minutes.
#[tokio::test]
async fn a_log_is_purged_below_the_checkpoint_and_never_above() {
    for exclusive in [true, false] {
        let world = World { exclusive, ..World::of(TestBus::new(1), MemoryStore::new()) };
        let mut gateway = world.gateway("gw-1").await;
        let working = world.work(1);
        for n in 1..=5 {
            world.publish(vec![gateway.send(n, "room", "x")]).await;
        }
        gateway.outcome(5).await;
        world.checkpointed(5).await;
        gateway.receive_until(|gateway| gateway.beats.len() >= 2).await;
        let bounds = world.bus.log_bounds(0).await.expect("read");
        assert_eq!((bounds.first, bounds.last), if exclusive { (5, 5) } else { (1, 5) });
        working.stop().await;
    }
}

/// Guards lists in standalone: after a power failure there is no log to replay, so the rows that a list shows are on
/// disk before the command is acknowledged.
#[tokio::test]
async fn an_acknowledged_participant_survives_a_power_failure_in_standalone() {
    let world = World { exclusive: true, ..World::of(TestBus::new(1), MemoryStore::new()) };
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    // Wait until this second's flush is over, so that the next one is far away.
    world.publish(vec![gateway.send(1, "other", "x")]).await;
    world.checkpointed(1).await;
    world.store.be_lazy();
    let create = wire::command::Body::CreateConversation(wire::CreateConversation::default());
    world.publish(vec![gateway.command(2, "room", "ann", create)]).await;
    gateway.outcome(2).await;
    working.kill().await;
    world.store.lose_power();
    assert!(world.store.tables().participants.contains_key(&("room".into(), "ann".into())));
}

/// Guards standalone restarts: a log in memory starts with the process, and is worked from its first entry at once.
#[tokio::test]
async fn a_standalone_process_starts_a_new_incarnation_without_waiting() {
    let first = World { exclusive: true, ..World::of(TestBus::new(1), MemoryStore::new()) };
    let mut gateway = first.gateway("gw-1").await;
    let working = first.work(1);
    first.publish(vec![gateway.send(1, "room", "m1"), gateway.send(2, "room", "m2")]).await;
    gateway.outcome(2).await;
    working.kill().await;

    let second = World { exclusive: true, ..World::of(TestBus::new(1), first.store.clone()) };
    let mut gateway = second.gateway("gw-2").await;
    second.publish(vec![gateway.send(3, "room", "m3")]).await;
    let began = Instant::now();
    let working = second.work(1);
    assert_eq!(gateway.outcome(3).await, "seq 3");
    assert!(
        began.elapsed() < Duration::from_millis(LEASE_MS),
        "the successor waited for the lease to expire"
    );
    working.stop().await;
    let incarnation = second.store.tables().partitions[&0].incarnation().expect("an incarnation has started");
    assert_eq!((incarnation.number, incarnation.first_sequence), (2, 1));
}
