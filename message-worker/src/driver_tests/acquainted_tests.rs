//! Gateways are told whose acquaintances change, when that can be read.

use super::harness::{Gateway, World};
use super::memory::{Call, Fault};
use carillon_proto::subject;
use carillon_proto::wire::{self, command::Body, to_gateway};
use carillon_runtime::bus::{Bus as _, Incoming, Subscription};
use prost::Message as _;
use std::time::Duration;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

async fn all_gateways(world: &World) -> Subscription {
    world.bus.subscribe(subject::GATEWAYS, None).await.expect("subscribed")
}

/// The users that the next such message names.
async fn acquainted(subscription: &mut Subscription) -> Vec<String> {
    loop {
        let incoming = timeout(PATIENCE, subscription.next()).await.expect("told in time");
        let Some(Incoming::Message(message)) = incoming else { panic!("the bus lives") };
        let message = wire::ToGateway::decode(message.payload).expect("decodes");
        if let Some(to_gateway::Body::Acquaintances(changed)) = message.body {
            return changed.users;
        }
    }
}

fn creation(gateway: &Gateway, request: u64, id: &str, participants: &[&str]) -> wire::Command {
    let participants = participants.iter().map(ToString::to_string).collect();
    let create = wire::CreateConversation { participants, ..wire::CreateConversation::default() };
    gateway.command(request, id, "ann", Body::CreateConversation(create))
}

/// Without the telling, nobody sees whom they meet in a conversation until they connect anew.
#[tokio::test]
async fn those_who_come_to_share_a_conversation_are_named_once_for_a_group_and_only_they() {
    let world = World::new();
    let mut all = all_gateways(&world).await;
    let mut gateway = world.gateway("gw-1").await;
    let add = wire::AddParticipants { users: vec!["cem".into()] };
    let remove = wire::RemoveParticipant { user: "ben".into() };
    let refused = wire::AddParticipants { users: vec!["eve".into()] };
    let commands = vec![
        creation(&gateway, 1, "alone", &[]),
        creation(&gateway, 2, "room", &["ben"]),
        gateway.command(3, "room", "ann", Body::AddParticipants(add)),
        gateway.command(4, "room", "ann", Body::RemoveParticipant(remove)),
        gateway.command(5, "alone", "eve", Body::AddParticipants(refused)),
    ];
    world.publish(commands).await;
    let working = world.work(1);
    assert_eq!(acquainted(&mut all).await, ["ann", "ben", "cem"]);
    assert_eq!(gateway.outcome(5).await, "forbidden");
    world.publish(vec![creation(&gateway, 6, "last", &["dan"])]).await;
    assert_eq!(acquainted(&mut all).await, ["ann", "dan"], "nothing else was told before");
    working.stop().await;
}

/// Told before the rows of participants are there, gateways would read that nothing has changed.
#[tokio::test]
async fn they_are_named_when_who_participates_can_be_read() {
    let world = World::new();
    let mut all = all_gateways(&world).await;
    let mut gateway = world.gateway("gw-1").await;
    world.store.fail(Call::Project, &[Fault::Lost, Fault::Lost]);
    world.publish(vec![creation(&gateway, 1, "room", &["ben"])]).await;
    let working = world.work(1);
    assert_eq!(gateway.outcome(1).await, "seq 0");
    assert_eq!(acquainted(&mut all).await, ["ann", "ben"]);
    let participants = world.store.tables().participants;
    let written = |user: &str| participants.contains_key(&("room".to_owned(), user.to_owned()));
    assert!(written("ann") && written("ben"), "{participants:?}");
    working.stop().await;
}

/// A worker that dies between commit and telling leaves it to its successor, which works the entry again.
#[tokio::test]
async fn whoever_works_the_entry_again_names_them_again() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    world.publish(vec![creation(&gateway, 1, "room", &["ben"])]).await;
    world.store.hold(Call::Checkpoint);
    let first = world.work(1);
    assert_eq!(gateway.outcome(1).await, "seq 0");
    first.kill().await;
    world.store.release(Call::Checkpoint);
    let mut all = all_gateways(&world).await;
    let second = world.work(2);
    assert_eq!(acquainted(&mut all).await, ["ann", "ben"]);
    second.stop().await;
}
