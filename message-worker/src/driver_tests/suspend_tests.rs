//! The commands of a conversation that cannot be read are refused, and all other conversations go on.

use super::audit_tests::auditor;
use super::harness::{Gateway, INCARNATION, World, interest, until};
use super::memory::{Call, Fault};
use super::query_tests::source;
use crate::query;
use crate::store::Projection;
use crate::store::Store as _;
use carillon_proto::id::ConversationId;
use carillon_proto::subject;
use carillon_proto::wire::{
    self, command::Body, partition_reply, partition_request, read_reply, read_request,
};
use carillon_runtime::bus::Bus as _;
use prost::Message as _;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Writes a head of the room with a version that no build knows.
async fn damage(world: &World) {
    let position = Some(INCARNATION.position(1, 0).into());
    let head = wire::Head { seq: 1, version: u32::MAX, position, ..wire::Head::default() };
    let (blob, timestamp_us) = (head.encode_to_vec().into(), INCARNATION.timestamp_us(1, 0));
    let conversation = ConversationId::parse("room").expect("valid");
    let head = Projection::Head { conversation, timestamp_us, blob };
    world.store.project(vec![head]).await.expect("written");
}

/// Removes the unreadable head, as an operator's repair would.
fn repair(world: &World) {
    world.store.change(|tables| drop(tables.heads.remove("room")));
}

/// Sends messages to the room until one is accepted, and returns its outcome.
async fn sends_again(world: &World, gateway: &mut Gateway, mut request: u64) -> String {
    loop {
        world.publish(vec![gateway.send(request, "room", &format!("m{request}"))]).await;
        match gateway.outcome(request).await {
            outcome if outcome == "unavailable" => tokio::time::sleep(Duration::from_millis(300)).await,
            outcome => return outcome,
        }
        request += 1;
    }
}

/// Before the fix, one damaged conversation stopped all acknowledgements of its partition, and every join in it failed.
#[tokio::test(start_paused = true)]
async fn a_damaged_conversation_does_not_stop_others() {
    let world = World::new();
    damage(&world).await;
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    world.publish(vec![gateway.send(1, "other", "before")]).await;
    let refused = gateway.send(2, "room", "refused");
    let last = world.publish(vec![refused.clone(), gateway.send(3, "other", "after"), refused]).await;
    assert_eq!(gateway.outcome(1).await, "seq 1");
    assert_eq!(gateway.outcome(2).await, "unavailable");
    assert_eq!(gateway.outcome(3).await, "seq 2");
    let heads = gateway.register(&["other", "room"]).await;
    assert_eq!(heads, [("other".into(), 2)], "a registration still returns the heads of the other rooms");
    world.checkpointed(last).await;

    let report = auditor(&world, 10, &[]).run().await;
    assert!(
        !report.is_ok() && report.unread.iter().any(|reason| reason.contains("room is suspended")),
        "{report}"
    );
    assert!(report.findings.is_empty(), "a refused command is not reported as missing: {report}");

    repair(&world);
    assert_eq!(sends_again(&world, &mut gateway, 10).await, "seq 1");
    let accepted = world.contents("room");
    assert_eq!(accepted.len(), 1);
    working.stop().await;
    let report = auditor(&world, 10, &[]).run().await;
    assert!(report.is_ok(), "{report}");
}

/// Guards the record of a suspension: a command that was refused is not applied by a replay, although the conversation
/// can be read by then.
#[tokio::test(start_paused = true)]
async fn a_replay_does_not_apply_refused_commands() {
    let world = World::new();
    damage(&world).await;
    let mut gateway = world.gateway("gw-1").await;
    // Recording fails at first, and the refusal is not sent before the record exists.
    world.store.fail(Call::Skip, &[Fault::Lost, Fault::Lied]);
    let working = world.work(1);
    world.publish(vec![gateway.send(1, "room", "refused")]).await;
    assert_eq!(gateway.outcome(1).await, "unavailable");
    repair(&world);
    let outcome = sends_again(&world, &mut gateway, 10).await;
    assert_eq!(outcome, "seq 1");
    let accepted = world.contents("room");
    working.kill().await;
    // The successor replays everything in another incarnation, without the conversation's stored rows.
    world.store.change(|tables| {
        tables.partitions.get_mut(&0).expect("the partition has a row").checkpoint = None;
        tables.events.clear();
        tables.heads.clear();
        tables.sent.clear();
    });
    let mut watching = world.gateway("gw-2").await;
    let working = world.work(2);
    world.publish(vec![watching.send(99, "other", "x")]).await;
    assert_eq!(watching.outcome(99).await, "seq 1");
    working.stop().await;
    assert_eq!(world.contents("room"), accepted);
}

/// Before the fix, one token range without a quorum stopped the whole partition. A failure of one second suspends no
/// conversation.
#[tokio::test(start_paused = true)]
async fn a_token_range_without_quorum_does_not_stop_others() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    world.worked(&mut gateway).await;
    world.store.lose_quorum("room");
    world.publish(vec![gateway.send(1, "room", "waits")]).await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    world.store.regain_quorum();
    assert_eq!(gateway.outcome(1).await, "seq 1", "a short outage must not suspend the conversation");
    working.stop().await;

    let working = world.work(2);
    world.store.lose_quorum("room");
    world.publish(vec![gateway.send(2, "room", "refused"), gateway.send(3, "other", "x")]).await;
    assert_eq!(gateway.outcome(2).await, "unavailable");
    assert_eq!(gateway.outcome(3).await, "seq 1");
    let add = vec![interest("room", 0, &[]), interest("other", 0, &[])];
    let register = wire::Register { replace: false, add, remove: Vec::new() };
    match gateway.request(partition_request::Body::Register(register)).await.body {
        Some(partition_reply::Body::Registered(registered)) => {
            assert_eq!(
                (registered.conversations.len(), &registered.unread[..]),
                (1, &["room".to_owned()][..])
            );
        }
        other => panic!("not a registered reply: {other:?}"),
    }
    world.store.regain_quorum();
    assert_eq!(sends_again(&world, &mut gateway, 10).await, "seq 2");
    working.stop().await;
}

/// Guards against suspensions while the whole store is away: the log keeps the commands that are sent meanwhile.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_suspends_no_conversation() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    world.worked(&mut gateway).await;
    world.store.lose_quorum("*");
    world.publish(vec![gateway.send(1, "room", "m1")]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.store.regain_quorum();
    assert_eq!(gateway.outcome(1).await, "seq 1");
    assert!(world.store.tables().suspensions.is_empty());
    working.stop().await;
}

/// Before the fix, one unreadable conversation broke its participants' lists and their acquaintances.
#[tokio::test]
async fn lists_leave_out_unreadable_conversations() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let working = world.work(1);
    let create = |request, id: &str, other: &str| {
        let participants = vec![other.into()];
        let create = wire::CreateConversation { participants, ..Default::default() };
        gateway.command(request, id, "ann", Body::CreateConversation(create))
    };
    world.publish(vec![create(1, "room", "bob"), create(2, "hall", "eve")]).await;
    gateway.outcome(2).await;
    working.stop().await;
    until(|| world.store.tables().participants.len() == 4).await;
    let stop = CancellationToken::new();
    let reads = tokio::spawn(query::serve(world.bus.clone(), source(world.store.clone()), stop.clone()));
    let request = async |body| {
        let request = wire::ReadRequest { body: Some(body) }.encode_to_vec();
        loop {
            match world.bus.request(subject::READ, request.clone().into(), Duration::from_secs(5)).await {
                Ok(reply) => {
                    return wire::ReadReply::decode(reply).expect("decodes").body.expect("not empty");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let list = || {
        let read = wire::ReadConversations { user: "ann".into(), cursor: String::new(), limit: 0 };
        request(read_request::Body::Conversations(read))
    };
    let listed = async || match list().await {
        read_reply::Body::Conversations(list) => {
            list.conversations.into_iter().map(|info| info.conversation).collect::<Vec<_>>()
        }
        other => panic!("not a list: {other:?}"),
    };
    world.store.lose_quorum("room");
    assert_eq!(listed().await, ["hall"]);
    match request(read_request::Body::Acquaintances(wire::ReadAcquaintances { user: "ann".into() })).await {
        read_reply::Body::Users(users) => assert_eq!(users.users, ["eve"]),
        other => panic!("not users: {other:?}"),
    }
    world.store.lose_quorum("hall");
    assert!(matches!(list().await, read_reply::Body::Failure(_)), "without a quorum the list must fail");
    world.store.regain_quorum();
    world.store.change(|tables| {
        let head = &mut tables.heads.get_mut("room").expect("the room has a head").1;
        *head = vec![0xff; 9].into();
    });
    assert_eq!(listed().await, ["hall"]);
    stop.cancel();
    reads.await.expect("it ends");
}
