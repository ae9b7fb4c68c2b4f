//! Gateways request outcomes again when the batches with them were lost with their owner.

use super::harness::{A_WHILE, Gateway, World, described};
use super::memory::Call;
use carillon_proto::wire::{self, Authority, partition_reply, partition_request};
use prost::Message as _;
use std::collections::BTreeMap;
use std::time::Duration;

fn outcome_request(tag: u128, command: &wire::Command) -> wire::AskOutcome {
    let wire::Command { request, conversation, actor, client_id, .. } = command.clone();
    let tag = tag.to_be_bytes().to_vec().into();
    wire::AskOutcome { request, conversation, actor, client_id, tag }
}

/// The tag of an entry in partition 0.
const TAG: u128 = 77;

async fn publish(world: &World, commands: Vec<wire::Command>) -> u64 {
    world.publish_tagged(TAG as u64, wire::Entry { commands, version: 0 }.encode_to_vec().into()).await
}

/// The outcomes that the owner returns for commands of one entry. The request is repeated, because the owner first has
/// to read.
async fn known(gateway: &mut Gateway, tag: u128, commands: &[&wire::Command]) -> BTreeMap<u64, String> {
    let mut known = BTreeMap::new();
    for _ in 0..6 {
        let commands = commands.iter().map(|command| outcome_request(tag, command)).collect();
        let body = partition_request::Body::AskOutcomes(wire::AskOutcomes { commands });
        match gateway.request_with(0, body).await.body {
            Some(partition_reply::Body::Outcomes(outcomes)) => {
                for outcome in outcomes.outcomes {
                    known.insert(outcome.request, described(&outcome.body.expect("not empty")));
                }
            }
            other => panic!("not a reply with outcomes: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    known
}

/// Before the fix, an acknowledgement that was lost with its owner was never sent again, and the sender waited for its
/// timeout.
#[tokio::test]
async fn the_next_owner_returns_the_outcomes_of_its_predecessor() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let (first, other) = (gateway.send(1, "room", "m1"), gateway.send(2, "hall", "h1"));
    let refused = wire::Command { authority: Authority::Participant.into(), ..gateway.send(3, "club", "c1") };
    let never = gateway.send(4, "room", "m2");
    let elsewhere = gateway.send(5, "nowhere", "n1");
    let owner = world.work(1);
    let sequence = publish(&world, vec![first.clone(), other.clone(), refused.clone()]).await;
    gateway.outcome(2).await;
    owner.stop_when(&world, sequence).await;
    let successor = world.work(2);
    let outcomes = known(&mut gateway, TAG, &[&first, &other, &refused, &never, &elsewhere]).await;
    assert_eq!(outcomes, [(1, "seq 1".into()), (2, "seq 1".into())].into());
    let stranger = wire::Command { actor: "bob".into(), ..first.clone() };
    assert!(
        known(&mut gateway, TAG, &[&stranger]).await.is_empty(),
        "the client id belongs to another sender"
    );
    assert!(known(&mut gateway, TAG + 1, &[&other]).await.is_empty(), "the row is of another attempt");
    successor.stop().await;
}

/// Guards that a requested outcome means the same as an acknowledgement: the row is committed.
#[tokio::test]
async fn outcomes_of_uncommitted_commands_are_not_returned() {
    let world = World::new();
    let mut gateway = world.gateway("gw-1").await;
    let owner = world.work(1);
    world.publish(vec![gateway.send(1, "room", "m1")]).await;
    gateway.outcome(1).await;
    world.store.hold(Call::Append);
    let second = gateway.send(2, "room", "m2");
    publish(&world, vec![second.clone()]).await;
    gateway.receive_for(A_WHILE).await;
    assert!(known(&mut gateway, TAG, &[&second]).await.is_empty());
    world.store.release(Call::Append);
    assert_eq!(gateway.outcome(2).await, "seq 2");
    assert_eq!(known(&mut gateway, TAG, &[&second]).await, [(2, "seq 2".into())].into());
    owner.stop().await;
}
