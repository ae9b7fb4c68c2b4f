//! The end of a run: checks that everything comes to rest, and that clients received only what is true.

use crate::client::{Client, Plan, RunningClient, State, wait_for};
use crate::club::{Roll, Row, is_club};
use crate::cluster::{Cluster, GRACE, Kind};
use crate::profile::user;
use crate::world::World;
use carillon_history::{Record, Report, What, check};
use carillon_message_worker::store::EventRow;
use carillon_proto::id::{MessageId, given_client_id};
use carillon_proto::wire::{self, event::Kind as Body};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Virtual time within which everything must come to rest after the faults have ceased. A client that sends again waits
/// for ten seconds each time, and is refused at most once for each disaster that was under way.
const REST: Duration = Duration::from_secs(180);
/// Time for presence to settle, in addition to the grace. A gateway that is gone loses its sessions after three silent
/// beats, and its users go offline one grace later.
const PRESENCE_SETTLES: Duration = Duration::from_secs(8);
/// The users who read the heads at the end have numbers from here on, one for each gateway. No client has them.
const AUDITOR: u64 = 1_000;

/// Waits until every client has received everything and every outcome of its messages, then reads presence and heads.
/// Returns what did not happen in time.
pub async fn rest(world: &Arc<World>, cluster: &Arc<Cluster>, clients: &[Arc<Client>]) -> Vec<String> {
    clients.iter().for_each(|client| client.be_quiet());
    let deadline = Instant::now() + REST;
    let mut faults = Vec::new();
    for client in clients.iter().filter(|client| !client.has_left()) {
        if !wait_for(client, deadline, |state| waits_for(world, client, state).is_empty()).await {
            let waits = waits_for(world, client, &client.state.lock());
            faults.push(format!("not healed: {} waits for {}", client.plan.name, waits.join(", ")));
        }
    }
    world.note(format_args!("everything has come to rest, or has not in time"));
    faults.extend(see(world, clients).await);
    faults.extend(read_heads(world, cluster, clients).await);
    faults
}

/// What a client still waits for.
fn waits_for(world: &World, client: &Client, state: &State) -> Vec<String> {
    let mut waits: Vec<String> =
        state.unanswered().into_iter().map(|client_id| format!("the ack of {client_id}")).collect();
    for conversation in &client.plan.conversations {
        if is_club(conversation) && !participates(world, conversation, client) {
            continue;
        }
        let last_seq = world.tables.lock().last_seq(conversation);
        match state.cursors.get(conversation) {
            _ if !state.joined.contains(conversation) => waits.push(format!("joining {conversation}")),
            Some(cursor) if *cursor < last_seq => {
                waits.push(format!("{conversation} above {cursor}, which has {last_seq}"));
            }
            _ => {}
        }
    }
    waits
}

fn participates(world: &World, club: &str, client: &Client) -> bool {
    let roll = Roll::of(&world.tables.lock().club_rows(club));
    roll.present().contains(client.plan.user.as_str())
}

/// As every client, requests the presence of all users, and records the answers.
async fn see(world: &World, clients: &[Arc<Client>]) -> Vec<String> {
    sleep(GRACE + PRESENCE_SETTLES).await;
    let users: BTreeSet<String> = clients.iter().map(|client| client.plan.user.to_string()).collect();
    let mut faults = Vec::new();
    for client in clients.iter().filter(|client| !client.has_left()) {
        client.state.lock().request_presence(users.iter().cloned().collect());
        let deadline = Instant::now() + Duration::from_secs(15);
        if !wait_for(client, deadline, |state| state.online.len() == users.len()).await {
            faults.push(format!("not healed: {} has not received who is online", client.plan.name));
        }
        let online = client.state.lock().online.clone();
        for (user, online) in online {
            world.record(What::Seen { observer: client.plan.name.clone(), user, online });
        }
    }
    faults
}

/// Joins every open conversation as a new client through every gateway, and records the heads from the replies.
async fn read_heads(world: &Arc<World>, cluster: &Arc<Cluster>, clients: &[Arc<Client>]) -> Vec<String> {
    let mut faults = Vec::new();
    for gateway in 0..cluster.count(Kind::Gateway) {
        let conversations = conversations(clients);
        let auditor = Client::new(Plan {
            name: format!("auditor-{gateway}"),
            user: user(AUDITOR + gateway as u64),
            conversations: conversations.iter().cloned().collect(),
            messages: 0,
            pause_ms: 1,
            burst: 1,
            dawdles: false,
            gateway,
        });
        let task = tokio::spawn(RunningClient::new(auditor.clone(), world.clone(), cluster.clone()).run());
        let deadline = Instant::now() + Duration::from_secs(40);
        if !wait_for(&auditor, deadline, |state| state.joined.len() == conversations.len()).await {
            faults.push(format!("not healed: gateway {gateway} does not let an auditor join"));
        }
        let heads: BTreeMap<String, u64> = auditor.state.lock().cursors.clone();
        task.abort();
        for (conversation, head) in heads {
            world.record(What::Head { conversation, head });
        }
    }
    faults
}

/// All conversations that clients join and that are not clubs.
fn conversations(clients: &[Arc<Client>]) -> BTreeSet<String> {
    joined(clients).filter(|conversation| !is_club(conversation)).collect()
}

fn joined(clients: &[Arc<Client>]) -> impl Iterator<Item = String> {
    clients.iter().flat_map(|client| client.plan.conversations.iter().cloned())
}

/// Checks that clients received only events of clubs that they may receive, and that each message is stored once.
fn judge_clubs(world: &World, clients: &[Arc<Client>]) {
    let clubs: BTreeSet<String> = joined(clients).filter(|conversation| is_club(conversation)).collect();
    let received = world.clubs();
    for club in clubs {
        let rows = world.tables.lock().club_rows(&club);
        let mut known = BTreeSet::new();
        for Row { event, .. } in &rows {
            if !event.client_id.is_empty() && !known.insert((&event.actor, &event.client_id)) {
                world
                    .violation(format_args!("{} of {} stands twice in {club}", event.client_id, event.actor));
            }
        }
        let roll = Roll::of(&rows);
        let wrong =
            received.iter().filter(|event| event.conversation == club).filter_map(|event| roll.judge(event));
        wrong.for_each(|wrong| world.violation(format_args!("{wrong}")));
    }
}

/// Records what is stored, and judges the whole history.
pub fn judge(world: &World, clients: &[Arc<Client>]) -> (Vec<Record>, Report) {
    for conversation in conversations(clients) {
        let rows = world.tables.lock().events_after(&conversation, 0, usize::MAX);
        for row in &rows {
            match stored(row) {
                Some(what) => world.record(what),
                None => world.violation(format_args!("row {} of {conversation} is no message", row.seq)),
            }
        }
    }
    judge_clubs(world, clients);
    let history = world.history();
    let report = check(&history);
    (history, report)
}

fn stored(row: &EventRow) -> Option<What> {
    let event = wire::Event::decode(row.blob.clone()).ok()?;
    let Some(Body::Message(message)) = event.kind else { return None };
    Some(What::Stored {
        conversation: row.conversation.to_string(),
        seq: event.seq,
        id: MessageId::from_slice(&event.id).to_string(),
        sender: event.actor,
        client_id: given_client_id(&event.client_id)?.to_owned(),
        content: message.content,
    })
}
