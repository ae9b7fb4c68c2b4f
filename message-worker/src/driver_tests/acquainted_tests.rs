//! Workers announce to all gateways whose acquaintances changed, once the change can be read
//! (`docs/decisions/0016-acquaintances-are-read-again.md`).

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

/// The users in the next announcement of changed acquaintances.
async fn acquainted(subscription: &mut Subscription) -> Vec<String> {
    loop {
        let incoming = timeout(PATIENCE, subscription.next()).await.expect("a message arrives in time");
        let Some(Incoming::Message(message)) = incoming else { panic!("the subscription has ended") };
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

/// Guards the announcement. Without it, users see the presence of new conversation partners only after they connect
/// again.
#[tokio::test]
async fn users_whose_acquaintances_change_are_announced_once_per_group() {
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
    assert_eq!(acquainted(&mut all).await, ["ann", "dan"], "no other message was published before");
    working.stop().await;
}

/// Guards the order: an announcement before the participants' rows are written would let gateways read the old state.
#[tokio::test]
async fn users_are_announced_after_their_participant_rows_are_written() {
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

/// Guards the announcement against a crash between commit and announcement: the successor replays the entry and
/// announces.
#[tokio::test]
async fn a_replay_announces_the_users_again() {
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
