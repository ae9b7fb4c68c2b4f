//! A cluster of real processes: nats-server, a CQL database, two gateways and two workers of each kind.

use carillon_tests::client::Client;
use carillon_tests::cluster::Cluster;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;

/// The seqs and contents of all messages of a conversation, read page by page.
async fn history(client: &mut Client, conversation: &str) -> Vec<(u64, String)> {
    let (mut events, mut after_seq) = (Vec::new(), 0);
    loop {
        let page =
            json!({"type": "history", "conversation_id": conversation, "after_seq": after_seq, "limit": 200});
        client.send(page).await;
        let page = client.expect("history").await;
        for event in page["events"].as_array().expect("events") {
            after_seq = event["seq"].as_u64().expect("a seq");
            events.push((after_seq, event["message"]["content"].as_str().expect("content").to_owned()));
        }
        if page["has_more"] == false {
            return events;
        }
    }
}

/// All steps share one cluster, because it takes seconds to start.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_serves_one_conversation_over_gateways_and_through_lost_workers() {
    let Some(mut cluster) = Cluster::start(2, 2).await else { return };
    let mut alice = Client::user(&cluster.ws(0), "alice").await;
    let mut bob = Client::user(&cluster.ws(1), "bob").await;
    assert_eq!(alice.join("room").await["participant_count"], 1);
    assert_eq!(bob.join("room").await["participant_count"], 2, "users must be counted over all gateways");
    assert_eq!(bob.expect("presence_update").await["user_id"], "alice");
    assert_eq!(alice.expect("presence_update").await["user_id"], "bob");
    talk(&mut alice, &mut bob).await;
    typing_and_presence(&cluster, &mut alice, bob).await;
    the_limit_holds_over_gateways(&cluster).await;
    many_conversations(&cluster).await;
    a_worker_stops_and_another_goes_on(&mut cluster).await;
    a_worker_dies_and_another_goes_on(&mut cluster).await;
}

async fn talk(alice: &mut Client, bob: &mut Client) {
    for number in 1..=20u64 {
        let (sender, hearer) =
            if number % 2 == 0 { (&mut *alice, &mut *bob) } else { (&mut *bob, &mut *alice) };
        let ack = sender.send_message("room", &format!("m{number}"), &format!("k{number}")).await;
        assert_eq!(ack["seq"], number);
        let heard =
            hearer.expect_where(|frame| frame["type"] == "new_message" && frame["seq"] == number).await;
        assert_eq!(
            (&heard["message"]["content"], &heard["message"]["id"]),
            (&json!(format!("m{number}")), &ack["id"])
        );
    }
    let again = bob.send_message("room", "m1", "k1").await;
    assert_eq!(again["seq"], 1, "a repeated client id must get the first outcome");
    assert_eq!(history(alice, "room").await.len(), 20);
}

async fn typing_and_presence(cluster: &Cluster, alice: &mut Client, mut bob: Client) {
    bob.send(json!({"type": "typing_start", "conversation_id": "room"})).await;
    let typing = alice.expect("typing_indicator").await;
    assert_eq!((&typing["user_id"], &typing["is_typing"]), (&json!("bob"), &json!(true)));
    assert_eq!(
        alice.expect("typing_indicator").await["is_typing"],
        false,
        "typing must end by timeout on every gateway"
    );
    bob.send(json!({"type": "set_status", "status": "away"})).await;
    assert_eq!(alice.expect("presence_update").await["status"], "away");
    bob.cut();
    let gone = alice.expect("presence_update").await;
    assert_eq!((&gone["user_id"], &gone["online"]), (&json!("bob"), &json!(false)));
    // Bob reconnects at the other gateway and catches up there.
    let mut bob = Client::user(&cluster.ws(0), "bob").await;
    bob.send(json!({"type": "join_conversation", "conversation_id": "room", "after_seq": 15})).await;
    for seq in 16..=20 {
        assert_eq!(bob.expect("new_message").await["seq"], seq);
    }
}

async fn the_limit_holds_over_gateways(cluster: &Cluster) {
    let mut five = Vec::new();
    for index in 0..5 {
        five.push(Client::user(&cluster.ws(index % 2), "carol").await);
    }
    let mut sixth = Client::connect(&format!("{}/ws/carol", cluster.ws(1))).await;
    // The five clients answer pings only while the test reads from them.
    let others = join_all(five.iter_mut().map(|client| client.all_within(Duration::from_secs(5))));
    let (ended, _) = tokio::join!(sixth.ended(), others);
    assert_eq!(ended.reason, "Too many connections");
    // The test does not read from them any more, so both gateways end them for a new connection.
    Client::user(&cluster.ws(1), "carol").await;
    for client in &mut five {
        assert_eq!(client.ended().await.code, Some(1001), "a client that does not answer must be closed");
    }
}

/// 40 conversations, so that each message-worker owns the partitions of some.
async fn many_conversations(cluster: &Cluster) {
    let mut sender = Client::user(&cluster.ws(0), "dave").await;
    let mut hearer = Client::user(&cluster.ws(1), "erin").await;
    for number in 0..40 {
        let conversation = format!("many-{number}");
        hearer.join(&conversation).await;
        sender.send_message(&conversation, "hello", "k").await;
        let heard = hearer.expect("new_message").await;
        assert_eq!(heard["conversation_id"], conversation);
    }
}

/// Sends 60 messages, calls `interrupt` before the 21st, and repeats every message until it is acknowledged. Then each
/// message must be stored and delivered once and in order.
async fn goes_on(cluster: &mut Cluster, conversation: &str, interrupt: impl FnOnce(&mut Cluster)) {
    let mut sender = Client::user(&cluster.ws(0), "frank").await;
    let mut hearer = Client::user(&cluster.ws(1), "grace").await;
    hearer.join(conversation).await;
    let send = |number: usize| {
        json!({"type": "send_message", "conversation_id": conversation, "content": format!("m{number}"),
               "client_id": format!("{conversation}-{number}")})
    };
    let mut interrupt = Some(interrupt);
    for number in 0..60 {
        if number == 20
            && let Some(interrupt) = interrupt.take()
        {
            interrupt(cluster);
        }
        loop {
            sender.send(send(number)).await;
            let reply =
                sender.expect_where(|frame| frame["type"] == "message_ack" || frame["type"] == "error").await;
            if reply["type"] == "message_ack" {
                break;
            }
            assert!(reply["code"] == "timeout" || reply["code"] == "unavailable", "{reply}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    let expected: Vec<(u64, String)> =
        (0..60).map(|number| (number as u64 + 1, format!("m{number}"))).collect();
    assert_eq!(
        history(&mut sender, conversation).await,
        expected,
        "every message must be there once, in order"
    );
    let mut heard: Vec<Value> = Vec::new();
    while heard.len() < 60 {
        heard.push(hearer.expect("new_message").await);
    }
    let seqs: Vec<u64> = heard.iter().map(|frame| frame["seq"].as_u64().expect("a seq")).collect();
    assert_eq!(seqs, (1..=60).collect::<Vec<_>>());
}

async fn a_worker_stops_and_another_goes_on(cluster: &mut Cluster) {
    goes_on(cluster, "handover", |cluster| {
        let mut worker = cluster.message_workers.remove(0);
        let status = worker.terminate();
        assert_eq!(status.code(), Some(0), "{}", worker.output());
        worker.restart();
        cluster.message_workers.push(worker);
    })
    .await;
}

async fn a_worker_dies_and_another_goes_on(cluster: &mut Cluster) {
    // Kills both message-workers, one after the other, because either may own the conversation's partition, and a
    // presence-worker.
    goes_on(cluster, "killed", |cluster| {
        cluster.message_workers[0].kill();
        cluster.message_workers[0].restart();
        cluster.message_workers[1].kill();
        cluster.message_workers[1].restart();
        cluster.presence_workers[0].kill();
    })
    .await;
}
