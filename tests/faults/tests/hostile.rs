//! Input that must not stop a partition: poison in the log, client ids of other users, past and future cursors, and
//! more joins than allowed.

use carillon_faults::deployment::{Deployment, Role, Size};
use carillon_proto::limits::{JOINED_CONVERSATIONS_MAX, PARTITIONS};
use carillon_proto::subject::Prefix;
use carillon_proto::{partition, wire};
use carillon_tests::client::Client;
use prost::Message as _;
use serde_json::json;

/// Number of connections that each join as much as they may.
const GREEDY: usize = 3;

fn one_in_each_partition() -> Vec<String> {
    let id =
        |number: usize| carillon_proto::id::ConversationId::parse(&format!("h-{number}")).expect("valid");
    let mut found = vec![None; PARTITIONS as usize];
    for number in 0.. {
        let id = id(number);
        found[partition::of_conversation(&id, PARTITIONS) as usize].get_or_insert(id.to_string());
        if found.iter().all(Option::is_some) {
            return found.into_iter().flatten().collect();
        }
    }
    unreachable!("an endless range")
}

async fn every_partition_accepts_messages(deployment: &Deployment, conversations: &[String], round: &str) {
    let mut client = Client::user(&deployment.gateways()[0], "sender").await;
    for conversation in conversations {
        let ack = client.send_message(conversation, round, round).await;
        assert!(ack["seq"].as_u64().is_some_and(|seq| seq > 0), "{ack}");
    }
}

/// Entries in a partition's log that no gateway of ours writes.
fn poison(partition: u32) -> Vec<Vec<u8>> {
    let command = |conversation: &str, body| wire::Command {
        conversation: conversation.into(),
        actor: "mallory".into(),
        client_id: "p".into(),
        body,
        ..wire::Command::default()
    };
    let message = wire::SendMessage { content: "boo".into(), ..wire::SendMessage::default() };
    let send = || Some(wire::command::Body::SendMessage(message.clone()));
    let elsewhere = one_in_each_partition()[(partition as usize + 1) % PARTITIONS as usize].clone();
    let entry = |commands| wire::Entry { commands, version: 0 }.encode_to_vec();
    vec![
        Vec::new(),
        b"no entry at all".to_vec(),
        vec![0xff; 4096],
        entry(Vec::new()),
        entry(vec![command("h-1", None)]),
        entry(vec![command("", send()), command("bad id *", send())]),
        entry(vec![command(&elsewhere, send())]),
        entry(vec![wire::Command { actor: String::new(), ..command("h-1", send()) }]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hostile_input_stops_no_partition() {
    let size = Size { gateways: 1, message_workers: 2, presence_workers: 1, ..Size::default() };
    let Some(mut deployment) = Deployment::start(size).await.expect("everything starts") else { return };
    let conversations = one_in_each_partition();
    every_partition_accepts_messages(&deployment, &conversations, "before").await;
    poisoned(&mut deployment, &conversations).await;
    client_ids_of_others(&deployment).await;
    cursors_from_anywhere(&deployment).await;
    more_joins_than_allowed(&deployment).await;
    every_partition_accepts_messages(&deployment, &conversations, "at-last").await;
    carillon_tests::database::drop_keyspace(&deployment.database).await;
}

/// If workers did not skip poison, its partitions would acknowledge nothing any more.
async fn poisoned(deployment: &mut Deployment, conversations: &[String]) {
    let nats = async_nats::connect(deployment.nats.server(0).url()).await.expect("connected");
    let log = async_nats::jetstream::new(nats);
    for number in 0..PARTITIONS {
        for entry in poison(number) {
            let published = log.publish(Prefix::default().command(number), entry.into()).await.expect("sent");
            published.await.expect("the log accepts the entry");
        }
    }
    every_partition_accepts_messages(deployment, conversations, "after-poison").await;
    deployment.of(Role::MessageWorker).into_iter().for_each(|worker| worker.kill());
    deployment.of(Role::MessageWorker).into_iter().for_each(|worker| worker.restart());
    every_partition_accepts_messages(deployment, conversations, "after-poison-and-a-restart").await;
    let mut reader = Client::user(&deployment.gateways()[0], "reader").await;
    for conversation in conversations {
        reader.send(json!({"type": "history", "conversation_id": conversation, "after_seq": 0})).await;
        let page = reader.expect("history").await;
        let events = page["events"].as_array().expect("events");
        let contents: Vec<_> =
            events.iter().map(|event| event["message"]["content"].as_str().expect("text")).collect();
        assert_eq!(contents, ["before", "after-poison", "after-poison-and-a-restart"], "{conversation}");
    }
}

async fn client_ids_of_others(deployment: &Deployment) {
    let base = &deployment.gateways()[0];
    let (mut ann, mut bob) = (Client::user(base, "ann").await, Client::user(base, "bob").await);
    let first = ann.send_message("replayed", "from ann", "the-same-id").await;
    let second = bob.send_message("replayed", "from bob", "the-same-id").await;
    assert_eq!(
        (&first["seq"], &second["seq"]),
        (&json!(1), &json!(2)),
        "the same client id of two senders must give two messages"
    );
    let again = ann.send_message("replayed", "other words", "the-same-id").await;
    assert_eq!((&again["seq"], &again["id"]), (&first["seq"], &first["id"]));
    let elsewhere = ann.send_message("replayed-elsewhere", "from ann", "the-same-id").await;
    assert_eq!(elsewhere["seq"], 1, "a client id counts only in its conversation");
    let reply = json!({"type": "send_message", "conversation_id": "replayed-elsewhere", "content": "re",
                       "reply_to": first["id"], "client_id": "r", "ref": "r"});
    bob.send(reply).await;
    let answer = bob.expect_where(|frame| frame["ref"] == "r").await;
    assert!(
        answer["type"] == "message_ack" || answer["code"].is_string(),
        "neither an acknowledgement nor an error: {answer}"
    );
}

async fn cursors_from_anywhere(deployment: &Deployment) {
    let base = &deployment.gateways()[0];
    let mut ann = Client::user(base, "ann").await;
    for number in 1..=300 {
        ann.send_message("cursors", &format!("m{number}"), &format!("k{number}")).await;
    }
    let mut old = Client::user(base, "old").await;
    old.send(json!({"type": "join_conversation", "conversation_id": "cursors", "after_seq": 0})).await;
    for seq in 1..=300 {
        assert_eq!(old.expect("new_message").await["seq"], seq);
    }
    for after_seq in [json!(301), json!(1_000_000_000_000u64), json!(u64::MAX)] {
        let mut future = Client::user(base, "future").await;
        let join = json!({"type": "join_conversation", "conversation_id": "cursors", "after_seq": after_seq, "ref": "j"});
        future.send(join).await;
        let answer = future.expect_where(|frame| frame["ref"] == "j").await;
        assert!(
            answer["type"] == "conversation_joined" || answer["code"] == "invalid_payload",
            "{after_seq}: {answer}"
        );
    }
    for nonsense in [json!(-1), json!("1"), json!(1.5), json!(null), json!([1])] {
        let join = json!({"type": "join_conversation", "conversation_id": "cursors", "after_seq": nonsense, "ref": "n"});
        old.send(join).await;
        let answer = old.expect_where(|frame| frame["ref"] == "n").await;
        assert!(answer["code"] == "invalid_payload" || nonsense.is_null(), "{nonsense}: {answer}");
    }
    ann.send_message("cursors", "the last", "last").await;
    assert_eq!(old.expect("new_message").await["seq"], 301);
}

async fn more_joins_than_allowed(deployment: &Deployment) {
    let base = deployment.gateways()[0].clone();
    let greedy: Vec<_> = (0..GREEDY).map(|number| tokio::spawn(join_all(base.clone(), number))).collect();
    for joined in greedy {
        joined.await.expect("the client does not panic");
    }
}

/// Joins of one connection: one more than allowed, or a third of a million with `CARILLON_TEST_LONG=1`.
fn joins() -> usize {
    match std::env::var("CARILLON_TEST_LONG").as_deref() {
        Ok("1") => 1_000_000 / GREEDY + 1,
        _ => JOINED_CONVERSATIONS_MAX + 1,
    }
}

async fn join_all(base: String, number: usize) {
    let mut client = Client::user(&base, &format!("greedy-{number}")).await;
    for nth in 0..joins() {
        let join = json!({"type": "join_conversation", "conversation_id": format!("g-{number}-{nth}"), "ref": nth.to_string()});
        client.send(join).await;
        let reference = json!(nth.to_string());
        let answer = client.expect_where(|frame| frame["ref"] == reference).await;
        let expected = if nth < JOINED_CONVERSATIONS_MAX { "conversation_joined" } else { "error" };
        assert_eq!(answer["type"], expected, "{nth}: {answer}");
    }
}
