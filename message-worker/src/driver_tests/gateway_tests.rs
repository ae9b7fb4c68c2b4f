//! The messages that gateways receive from a partition: heads, refusals, numbered batches, beats, and ephemeral events
//! of other gateways.

use super::bus::TestBus;
use super::harness::{A_WHILE, Gateway, World, conversations_of, interest, until};
use super::memory::{Call, Fault, MemoryStore};
use crate::metrics;
use carillon_proto::partition::stable_hash;
use carillon_proto::subject;
use carillon_proto::wire::{self, Authority, command::Body, partition_reply, partition_request};
use carillon_runtime::bus::Bus as _;
use prost::Message as _;
use std::sync::atomic::Ordering;

fn failure(reply: wire::PartitionReply) -> String {
    match reply.body {
        Some(partition_reply::Body::Failure(failure)) => failure.code,
        other => panic!("not a failure: {other:?}"),
    }
}

/// Guards registration as the way to join: the gateway receives the committed head and every event above it.
#[tokio::test]
async fn a_registration_returns_the_head_and_all_later_events_follow() {
    let world = World::new();
    let mut writer = world.gateway("gw-1").await;
    let mut reader = world.gateway("gw-2").await;
    let first = world.work(1);
    world.publish(vec![writer.send(1, "room", "m1"), writer.send(2, "hall", "h1")]).await;
    writer.outcome(2).await;
    first.stop().await;
    let second = world.work(2);
    assert_eq!(reader.register(&["room"]).await, [("room".into(), 1)], "the head is loaded from the store");
    for n in 3..=30 {
        world
            .publish(vec![writer.send(n, "room", &format!("m{n}")), writer.send(100 + n, "hall", "h")])
            .await;
    }
    reader.receive_until(|gateway| gateway.contents().len() == 28).await;
    let seqs: Vec<u64> = reader.contents().into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(
        seqs,
        (2..=29).collect::<Vec<_>>(),
        "the events of the room arrive in order, once, and none of the hall's"
    );
    let numbers: Vec<u64> = reader.batches.iter().map(|batch| batch.number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert!(reader.batches.iter().all(|batch| batch.epoch == 2));
    // A registration that replaces all others returns only conversations whose head is above the known one.
    let add = vec![interest("room", 29, &[]), interest("hall", 3, &[])];
    let listened = reader.register_with(wire::Register { replace: true, add, remove: Vec::new() }).await;
    assert_eq!(
        listened.iter().map(|one| (one.conversation.as_str(), one.head)).collect::<Vec<_>>(),
        [("hall", 29)]
    );
    second.stop().await;
}

/// Guards access checks: they use the stored participants, and the answer does not reveal whether a conversation
/// exists.
#[tokio::test]
async fn users_that_do_not_participate_are_refused() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    let create = wire::CreateConversation { participants: vec!["bob".into()], ..Default::default() };
    world.publish(vec![gateway.command(1, "room", "ann", Body::CreateConversation(create))]).await;
    gateway.outcome(1).await;
    let add = vec![interest("room", 9, &["ann", "eve", "bob"]), interest("nowhere", 9, &["ann"])];
    let mut listened = gateway.register_with(wire::Register { replace: true, add, remove: Vec::new() }).await;
    listened.sort_by(|one, other| one.conversation.cmp(&other.conversation));
    let refused: Vec<_> =
        listened.iter().map(|one| (one.conversation.as_str(), one.refused.clone())).collect();
    assert_eq!(refused, [("nowhere", vec!["ann".to_owned()]), ("room", vec!["eve".to_owned()])]);
    working.stop().await;
}

/// Guards the counters of requests: a request that arrives after a newer one must not undo it.
#[tokio::test]
async fn outdated_and_invalid_requests_are_refused() {
    let world = World { partitions: 2, ..World::of(TestBus::new(2), MemoryStore::new()) };
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(5);
    let (ours, other) = (conversations_of(0, 2, 1).remove(0), conversations_of(1, 2, 1).remove(0));
    gateway.register(&[&ours]).await;
    let register = |id: &str| {
        let add = vec![interest(id, 0, &[])];
        partition_request::Body::Register(wire::Register { replace: true, add, remove: Vec::new() })
    };
    let late = gateway.request_with(1, register(&ours)).await;
    assert_eq!((late.epoch, failure(late)), (5, "conflict".into()));
    assert_eq!(failure(gateway.request(register(&other)).await), "invalid_payload");
    let garbage = world
        .bus
        .request(&subject::partition(0), vec![0xff; 3].into(), A_WHILE * 20)
        .await
        .expect("answered");
    assert_eq!(failure(wire::PartitionReply::decode(garbage).expect("decodes")), "invalid_payload");
    working.stop().await;
}

/// Guards that registrations load conversations in parallel with each other and with the log, and never delay it.
#[tokio::test]
async fn registrations_that_load_do_not_delay_the_log() {
    let world = World::new();
    let mut writer = world.gateway("gw-1").await;
    let working = world.work(1);
    world.publish(vec![writer.send(1, "room", "m1")]).await;
    writer.outcome(1).await;
    world.store.hold(Call::Load);
    let rooms: Vec<String> = (0..200).map(|n| format!("r{n}")).collect();
    let mut reader = world.gateway("gw-2").await;
    let bulk = tokio::spawn(async move {
        let heads = reader.register(&rooms.iter().map(String::as_str).collect::<Vec<_>>()).await;
        (reader, heads)
    });
    let store = world.store.clone();
    until(|| store.loading_most() >= 16).await;
    world.publish(vec![writer.send(2, "room", "m2")]).await;
    assert_eq!(writer.outcome(2).await, "seq 2");
    assert_eq!(writer.register(&["room"]).await, [("room".into(), 2)]);
    world.store.release(Call::Load);
    let (_reader, heads) = bulk.await.expect("answered");
    assert_eq!(heads.len(), 200);
    assert!(world.store.loading_most() <= 32, "{} loads at once", world.store.loading_most());
    // If the store cannot be read, the registration is refused at once, before the gateway's timeout.
    world.store.fail(Call::Load, &[Fault::Lost]);
    let add = vec![interest("fresh", 0, &[])];
    let register = wire::Register { replace: false, add, remove: Vec::new() };
    assert_eq!(failure(writer.request(partition_request::Body::Register(register)).await), "unavailable");
    working.stop().await;
}

/// Guards batch numbers, the beat and resending: the gateway notices a message that the bus lost and receives it again,
/// with its acks.
#[tokio::test]
async fn a_lost_batch_is_noticed_by_the_beat_and_resent() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(7);
    gateway.register(&["room", "hall"]).await;
    gateway.receive_until(|gateway| !gateway.beats.is_empty()).await;
    let hash = stable_hash("room") ^ stable_hash("hall");
    gateway
        .receive_until(|gateway| gateway.beats.last().is_some_and(|beat| beat.interest_hash == hash))
        .await;
    world.bus.refusing.store(1, Ordering::SeqCst);
    world.publish(vec![gateway.send(1, "room", "lost")]).await;
    until(|| world.bus.refusing.load(Ordering::SeqCst) == 0).await;
    world.publish(vec![gateway.send(2, "room", "heard")]).await;
    gateway.outcome(2).await;
    assert_eq!(gateway.contents(), [(2, "heard".into())]);
    gateway.receive_until(|gateway| gateway.beats.last().is_some_and(|beat| beat.number == 2)).await;
    let beat = gateway.beats.last().copied().expect("received");
    assert_eq!((beat.partition, beat.epoch, beat.interest_hash, beat.lag_ms), (0, 7, hash, 0));
    let resend = |epoch| partition_request::Body::Resend(wire::Resend { epoch, from: 1 });
    let Some(partition_reply::Body::Resent(resent)) = gateway.request(resend(7)).await.body else {
        panic!("not a resent reply")
    };
    assert_eq!(resent.batches.iter().map(|batch| batch.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((resent.batches[0].events[0].seq, resent.batches[0].outcomes[0].request), (1, 1));
    let Some(partition_reply::Body::Resent(none)) = gateway.request(resend(6)).await.body else {
        panic!("not a resent reply")
    };
    assert!(none.batches.is_empty());
    working.stop().await;
}

/// Guards beats to a gateway that sent commands but never registered, and the lag that they report while a write is
/// held.
#[tokio::test]
async fn a_gateway_that_never_registered_receives_beats_with_the_lag() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    world.store.hold(Call::Append);
    let working = world.work(1);
    world.publish(vec![gateway.send(1, "room", "m1")]).await;
    gateway.receive_until(|gateway| gateway.beats.last().is_some_and(|beat| beat.lag_ms >= 500)).await;
    assert_eq!(gateway.beats.last().map(|beat| (beat.number, beat.interest_hash)), Some((0, 0)));
    world.store.release(Call::Append);
    gateway
        .receive_until(|gateway| {
            gateway.beats.last().is_some_and(|beat| beat.lag_ms == 0 && beat.number == 1)
        })
        .await;
    working.stop().await;
}

/// Guards that ephemeral events reach the other registered gateways, in one message per batch, and not their sender.
#[tokio::test]
async fn ephemeral_events_reach_the_other_gateways() {
    let world = World::new();
    let (mut one, mut other) = (world.gateway("gw-1").await, world.gateway("gw-2").await);
    let working = world.work(1);
    one.register(&["room", "hall"]).await;
    other.register(&["room", "hall"]).await;
    let typing = |id: &str| wire::Ephemeral {
        conversation: id.into(),
        user: "ann".into(),
        kind: Some(wire::ephemeral::Kind::Typing(true)),
        ..wire::Ephemeral::default()
    };
    let batch = wire::EphemeralBatch { gateway: "gw-1".into(), events: vec![typing("room"), typing("hall")] };
    world.bus.publish(&subject::ephemeral(0), batch.encode_to_vec().into()).await.expect("sent");
    other.receive_until(|gateway| !gateway.ephemeral.is_empty()).await;
    assert_eq!(other.ephemeral, [batch]);
    one.receive_for(A_WHILE).await;
    assert!(one.ephemeral.is_empty());
    working.stop().await;
}

/// Guards that a conversation with applied but unwritten commands stays in memory, however many others are requested.
/// If it were loaded again from a store without these rows, the next message would get their seq.
#[tokio::test]
async fn conversations_with_unwritten_rows_stay_in_memory() {
    let world = World { sharing: 5_000, ..World::new() };
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    let rooms: Vec<String> = (0..6).map(|n| format!("r{n}")).collect();
    let all =
        |round: u64| rooms.iter().zip(1..).map(|(room, n)| gateway.send(round * 10 + n, room, "x")).collect();
    let (first, second) = (all(0), all(1));
    world.store.hold(Call::Append);
    world.publish(first).await;
    // Eviction runs with every beat.
    gateway.receive_until(|gateway| gateway.beats.len() >= 3).await;
    gateway.register(&rooms.iter().map(String::as_str).collect::<Vec<_>>()).await;
    world.store.release(Call::Append);
    gateway.receive_until(|gateway| gateway.outcomes.len() == 6).await;
    world.publish(second).await;
    for n in 11..=16 {
        assert_eq!(gateway.outcome(n).await, "seq 2");
    }
    working.stop().await;
    assert_eq!(world.store.tables().events.len(), 12);
}

/// Guards memory: surplus conversations are written, leave memory, and are the same when they are loaded again.
#[tokio::test]
async fn conversations_are_evicted_and_loaded_again() {
    let (partition, partitions) = (37, 64);
    let store = MemoryStore::new();
    // With these numbers a partition may keep two conversations in memory.
    let world = World { partition, partitions, sharing: 5_000, ..World::of(TestBus::new(partitions), store) };
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    let rooms = conversations_of(partition, partitions, 60);
    for round in 0..3 {
        for (n, room) in rooms.iter().enumerate() {
            let command = wire::Command { client_id: format!("c{round}"), ..gateway.send(0, room, "x") };
            world.publish(vec![wire::Command { request: round * 1_000 + n as u64, ..command }]).await;
        }
        for n in 0..rooms.len() as u64 {
            assert_eq!(gateway.outcome(round * 1_000 + n).await, format!("seq {}", round + 1));
        }
    }
    let held = metrics::CONVERSATIONS.with_label_values(&["37"]);
    until(|| (1..=2).contains(&held.get())).await;
    let again = wire::Command { client_id: "c0".into(), ..gateway.send(9_999, &rooms[0], "x") };
    world.publish(vec![again]).await;
    assert_eq!(gateway.outcome(9_999).await, "repeated 1");
    working.stop().await;
    let tables = world.store.tables();
    assert!(rooms.iter().all(|room| tables.heads.contains_key(room)));
}

/// Before the fix, a stopping owner refused all requests until its last group was written, and the refusals arrived
/// before its successor's answers.
#[tokio::test]
async fn a_stopping_owner_leaves_requests_to_its_successor() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let leaving = world.work(1);
    world.worked(&mut gateway).await;
    world.store.hold(Call::Append);
    let appended = world.store.count(Call::Append);
    world.publish(vec![gateway.send(1, "room", "m1")]).await;
    until(|| world.store.count(Call::Append) > appended).await;
    leaving.end();
    tokio::time::sleep(A_WHILE).await;
    let successor = World::of(world.bus.clone(), world.store.twin());
    let working = successor.work(2);
    assert_eq!(
        gateway.register(&["room"]).await.len(),
        1,
        "the successor answers and the former owner has not refused"
    );
    world.store.release(Call::Append);
    leaving.stop().await;
    assert_eq!(gateway.register(&["room"]).await.len(), 1);
    working.stop().await;
}

/// Before the fix, an owner that had lost its lease refused requests, whether it had a successor or not.
#[tokio::test]
async fn an_owner_whose_lease_ran_out_does_not_answer() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let paused = world.work(1);
    world.worked(&mut gateway).await;
    paused.ours.store(false, Ordering::SeqCst);
    let request = wire::PartitionRequest { gateway: "gw-1".into(), counter: 99, body: None };
    let reply = world.bus.request(&subject::partition(0), request.encode_to_vec().into(), A_WHILE).await;
    assert!(reply.is_err(), "{reply:?}");
    paused.kill().await;
}

/// Before the fix, a user added by a row that was not committed yet could join. They received the events since their
/// earlier removal, however long that row took.
#[tokio::test]
async fn access_follows_from_committed_rows() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    let create = wire::CreateConversation { participants: vec!["bob".into()], ..Default::default() };
    let add = |user: &str| Body::AddParticipants(wire::AddParticipants { users: vec![user.into()] });
    let owned = |body| wire::Command { authority: Authority::Backend.into(), ..body };
    world.publish(vec![owned(gateway.command(1, "room", "ann", Body::CreateConversation(create)))]).await;
    gateway.outcome(1).await;
    world.store.hold(Call::Append);
    let remove = Body::RemoveParticipant(wire::RemoveParticipant { user: "bob".into() });
    let changes = [gateway.command(2, "room", "ann", remove), gateway.command(3, "room", "ann", add("eve"))];
    world.publish(changes.map(owned).into()).await;
    gateway.receive_for(A_WHILE).await;
    let refused = async |gateway: &mut Gateway| {
        let add = vec![interest("room", 9, &["ann", "bob", "eve"])];
        let listened = gateway.register_with(wire::Register { replace: true, add, remove: Vec::new() }).await;
        listened.into_iter().flat_map(|listened| listened.refused).collect::<Vec<_>>()
    };
    assert_eq!(
        refused(&mut gateway).await,
        ["eve"],
        "the removal arrives as an event, above the head in the reply"
    );
    world.store.release(Call::Append);
    gateway.outcome(3).await;
    assert_eq!(refused(&mut gateway).await, ["bob"]);
    working.stop().await;
}
