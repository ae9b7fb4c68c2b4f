//! Nothing is acknowledged before its row is written, and nothing is written twice.

use super::harness::{A_WHILE, World};
use super::memory::{Call, Fault};
use carillon_proto::wire;
use std::sync::atomic::Ordering;

/// Guards the order: append first, then acks and fan-out. Without it, the outcome arrives while the store still writes.
#[tokio::test]
async fn acks_and_events_leave_only_after_the_write() {
    let world = World::new();
    let (working, mut gateway) = (world.work(1), world.gateway("gw-1").await);
    assert_eq!(gateway.register(&["room"]).await, [("room".into(), 0)]);
    world.store.hold(Call::Append);
    world.publish(vec![gateway.send(1, "room", "one")]).await;
    gateway.receive_for(A_WHILE).await;
    assert_eq!((gateway.batches.len(), world.store.count(Call::Append)), (0, 1));
    // Meanwhile requests are answered with the committed head and not with the applied one.
    assert_eq!(gateway.register(&["room"]).await, [("room".into(), 0)]);
    world.store.release(Call::Append);
    assert_eq!(gateway.outcome(1).await, "seq 1");
    assert_eq!(gateway.contents(), [(1, "one".into())]);
    assert_eq!(gateway.register(&["room"]).await, [("room".into(), 1)]);
    working.stop().await;
}

/// Guards that the outcome of every failed write counts as unknown: the same rows are written again, at the same seqs,
/// and each command is acknowledged once.
#[tokio::test]
async fn failed_and_lying_writes_are_repeated_byte_for_byte() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    world.store.fail(Call::Append, &[Fault::Lost, Fault::Half, Fault::Lied, Fault::Lost]);
    world.store.fail(Call::Project, &[Fault::Lost, Fault::Lied, Fault::Half]);
    world.store.fail(Call::Checkpoint, &[Fault::Lied, Fault::Lost]);
    let sends = (1..=4).map(|n| gateway.send(n, "room", &format!("m{n}"))).collect();
    let last = world.publish(sends).await;
    let working = world.work(1);
    for n in 1..=4 {
        assert_eq!(gateway.outcome(n).await, format!("seq {n}"));
    }
    world.checkpointed(last).await;
    working.stop().await;
    assert_eq!(world.contents("room"), (1..=4).map(|n| (n, format!("m{n}"))).collect::<Vec<_>>());
    assert_eq!(world.store.torn(), []);
    assert!(gateway.outcomes.values().all(|outcomes| outcomes.len() == 1), "{:?}", gateway.outcomes);
    let sent = world.store.tables().sent;
    assert_eq!(sent[&("room".into(), "ann".into())].len(), 4, "the projections are written again as well");
}

/// Guards deduplication in memory: when the second command of the entry is applied, the first one is in no store yet.
#[tokio::test]
async fn the_same_client_id_twice_in_one_entry_is_one_event() {
    let world = World::new();
    let (working, mut gateway) = (world.work(1), world.gateway("gw-1").await);
    let named = |request| wire::Command { client_id: "same".into(), ..gateway.send(request, "room", "once") };
    world.publish(vec![named(1), named(2)]).await;
    assert_eq!(gateway.outcome(1).await, "seq 1");
    assert_eq!(gateway.outcome(2).await, "repeated 1");
    assert_eq!(world.contents("room"), [(1, "once".into())]);
    working.stop().await;
}

/// Guards loading a sender's client ids from the store. They are only hints: a command is a repetition only if the
/// event has its client id.
#[tokio::test]
async fn repetitions_are_found_in_the_store_and_forged_ones_are_not() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let first = world.work(1);
    let named =
        |request, id: &str| wire::Command { client_id: id.into(), ..gateway.send(request, "room", id) };
    let (again, forged, other) = (named(3, "a"), named(4, "forged"), named(5, "a"));
    world.publish(vec![named(1, "a"), named(2, "b")]).await;
    gateway.outcome(2).await;
    first.stop().await;
    world.store.change(|tables| {
        let claim = crate::store::SentRow { client_id: "forged".into(), seq: 1, time_ms: u64::MAX };
        tables.sent.get_mut(&("room".into(), "ann".into())).expect("rows").insert(5, claim);
    });
    let second = world.work(2);
    world.publish(vec![again, forged, wire::Command { actor: "bob".into(), ..other }]).await;
    assert_eq!(gateway.outcome(3).await, "repeated 1");
    assert_eq!(gateway.outcome(4).await, "seq 3", "the event at seq 1 has another client id");
    assert_eq!(gateway.outcome(5).await, "seq 4", "the client id belongs to another sender than bob");
    second.stop().await;
}

/// Guards grouping: entries that were read while the store was busy are written in one group.
#[tokio::test]
async fn groups_grow_while_the_store_is_busy() {
    let world = World::new();
    let (working, mut gateway) = (world.work(1), world.gateway("gw-1").await);
    world.store.hold(Call::Append);
    for n in 1..=50 {
        world.publish(vec![gateway.send(n, "room", "x")]).await;
    }
    gateway.receive_for(A_WHILE).await;
    world.store.release(Call::Append);
    assert_eq!(gateway.outcome(50).await, "seq 50");
    let groups = world.store.count(Call::Append);
    assert!(groups <= 3, "50 entries were written in {groups} groups");
    working.stop().await;
}

/// Guards the check of the lease after the last write: any worker may write rows, but only the owner acknowledges.
#[tokio::test]
async fn a_worker_whose_lease_ran_out_acknowledges_nothing() {
    let world = World::new();
    let (working, mut gateway) = (world.work(1), world.gateway("gw-1").await);
    gateway.register(&["room"]).await;
    world.store.hold(Call::Append);
    world.publish(vec![gateway.send(1, "room", "one")]).await;
    gateway.receive_for(A_WHILE).await;
    working.ours.store(false, Ordering::SeqCst);
    world.store.release(Call::Append);
    gateway.receive_for(A_WHILE).await;
    assert_eq!(gateway.batches.len(), 0);
    assert_eq!(world.contents("room"), [(1, "one".into())], "the row is stored");
    // The worker has its lease again: it reads the log again from the checkpoint and acknowledges.
    working.ours.store(true, Ordering::SeqCst);
    assert_eq!(gateway.outcome(1).await, "seq 1");
    assert_eq!(gateway.outcomes[&1].len(), 1);
    working.stop().await;
}

/// Guards the order of flushing: a head is written after all projections that it covers.
#[tokio::test]
async fn heads_are_coalesced_and_follow_the_projections() {
    let world = World::new();
    let (working, mut gateway) = (world.work(1), world.gateway("gw-1").await);
    for n in 1..=20 {
        world.publish(vec![gateway.send(n, "room", "x")]).await;
        gateway.outcome(n).await;
    }
    world.store.hold(Call::Project);
    world.publish(vec![gateway.send(21, "room", "x")]).await;
    assert_eq!(gateway.outcome(21).await, "seq 21", "an outcome must not wait for projections");
    let before = world.store.tables();
    world.store.release(Call::Project);
    world.checkpointed(21).await;
    working.stop().await;
    let after = world.store.tables();
    assert!(before.heads.values().all(|(timestamp_us, _)| *timestamp_us < after.heads["room"].0));
    assert_eq!(after.sent[&("room".into(), "ann".into())].len(), 21);
    assert!(
        world.store.count(Call::Project) <= 8,
        "{} writes for 21 messages",
        world.store.count(Call::Project)
    );
}

/// Guards that lists show a conversation as soon as its creation is acknowledged.
#[tokio::test]
async fn participants_are_projected_before_the_ack() {
    let world = World::new();
    let (working, mut gateway) = (world.work(1), world.gateway("gw-1").await);
    // Wait until this second's flush is over, so that the next one is far away.
    world.publish(vec![gateway.send(9, "other", "x")]).await;
    world.checkpointed(1).await;
    let create = wire::CreateConversation { participants: vec!["bob".into()], ..Default::default() };
    let create = gateway.command(1, "room", "ann", wire::command::Body::CreateConversation(create));
    world.publish(vec![create]).await;
    assert_eq!(gateway.outcome(1).await, "seq 0");
    let names: Vec<_> = world.store.tables().participants.into_keys().map(|(_, user)| user).collect();
    assert_eq!(names, ["ann", "bob"]);
    working.stop().await;
    assert!(world.store.tables().heads.contains_key("room"));
}
