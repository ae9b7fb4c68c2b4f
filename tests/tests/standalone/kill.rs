//! `kill -9` of a standalone process while clients send: no acknowledged message is lost, no message that is sent again
//! with its client id is stored twice, and each sender's order is kept.

use carillon_tests::client::Client;
use carillon_tests::server::Server;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use tempfile::TempDir;

const SENDERS: usize = 8;
const ROUNDS: usize = 5;
/// Messages that a sender has sent without an acknowledgement, at most.
const UNDER_WAY: usize = 10;

/// A sender's state: its next message's number, the numbers without an ack, and the seq and id of the others.
#[derive(Default)]
struct Sent {
    next: usize,
    unacknowledged: Vec<usize>,
    acknowledged: BTreeMap<usize, (u64, String)>,
}

fn frame(sender: usize, number: usize) -> Value {
    json!({"type": "send_message", "conversation_id": format!("room-{}", sender % 3), "content": format!("{sender}/{number}"),
           "client_id": format!("c-{number}")})
}

/// Sends the unacknowledged messages again, then new ones, until the connection breaks.
async fn send_until_it_breaks(base: String, sender: usize, mut sent: Sent) -> Sent {
    let mut client = Client::user(&base, &format!("sender-{sender}")).await;
    for number in sent.unacknowledged.clone() {
        if client.message(frame(sender, number).to_string().into()).await.is_err() {
            return sent;
        }
    }
    loop {
        while sent.unacknowledged.len() < UNDER_WAY {
            let number = sent.next;
            sent.next += 1;
            sent.unacknowledged.push(number);
            if client.message(frame(sender, number).to_string().into()).await.is_err() {
                return sent;
            }
        }
        match client.next_within(Duration::from_secs(20)).await {
            Some(Ok(ack)) if ack["type"] == "message_ack" => {
                let number: usize =
                    ack["client_id"].as_str().expect("a client id")[2..].parse().expect("a number");
                let (seq, id) =
                    (ack["seq"].as_u64().expect("a seq"), ack["id"].as_str().expect("an id").to_owned());
                let before = sent.acknowledged.insert(number, (seq, id.clone()));
                assert!(before.is_none_or(|before| before == (seq, id)), "a client id got two outcomes");
                sent.unacknowledged.retain(|other| *other != number);
            }
            Some(Ok(other)) => assert_ne!(other["type"], "error", "{other}"),
            Some(Err(_)) => return sent,
            None => panic!("no ack"),
        }
    }
}

/// Guards two promises: an acknowledgement means that the row is stored, and a client id makes sending again harmless.
/// If the commit reports rows as written 300 ms too early, another message has an acknowledged seq after the first
/// kill. Without deduplication, messages are stored twice.
#[tokio::test(flavor = "multi_thread")]
async fn kills_while_sending_lose_double_and_reorder_no_message() {
    let data = TempDir::new().expect("a directory");
    let environment = [("CARILLON_LIMITS__MESSAGES_PER_MINUTE", "0")];
    let mut server = Server::standalone(data.path(), &environment);
    let mut all: Vec<Sent> = (0..SENDERS).map(|_| Sent::default()).collect();
    for round in 0..ROUNDS {
        let sending: Vec<_> = all
            .drain(..)
            .enumerate()
            .map(|(sender, sent)| tokio::spawn(send_until_it_breaks(server.ws(), sender, sent)))
            .collect();
        tokio::time::sleep(Duration::from_millis(900 + 137 * round as u64)).await;
        server.kill();
        for sender in sending {
            all.push(sender.await.expect("a sender"));
        }
        server.restart();
    }
    let acknowledged: usize = all.iter().map(|sent| sent.acknowledged.len()).sum();
    assert!(acknowledged > 500, "only {acknowledged} messages were acknowledged");
    let mut reader = Client::user(&server.ws(), "reader").await;
    for room in 0..3 {
        check_room(&mut reader, room, &all).await;
    }
}

async fn check_room(reader: &mut Client, room: usize, all: &[Sent]) {
    let (mut events, mut after_seq) = (Vec::new(), 0);
    loop {
        let page = json!({"type": "history", "conversation_id": format!("room-{room}"), "after_seq": after_seq, "limit": 200});
        reader.send(page).await;
        let page = reader.expect("history").await;
        events.extend(page["events"].as_array().expect("events").clone());
        after_seq = events.last().map_or(0, |event: &Value| event["seq"].as_u64().expect("a seq"));
        if page["has_more"] == false {
            break;
        }
    }
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().expect("a seq")).collect();
    assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>(), "the seqs are not contiguous");
    let contents: Vec<&str> =
        events.iter().map(|event| event["message"]["content"].as_str().expect("content")).collect();
    assert_eq!(contents.iter().collect::<HashSet<_>>().len(), contents.len(), "a message is stored twice");
    for (sender, sent) in all.iter().enumerate().filter(|(sender, _)| sender % 3 == room) {
        for (number, (seq, id)) in &sent.acknowledged {
            let event = &events[*seq as usize - 1];
            assert_eq!(
                event["message"]["content"],
                format!("{sender}/{number}"),
                "another message is stored at the acknowledged seq {seq}"
            );
            assert_eq!(event["message"]["id"], *id);
        }
        let own = |content: &&&str| content.starts_with(&format!("{sender}/"));
        let numbers: Vec<usize> = contents
            .iter()
            .filter(own)
            .map(|content| content.split('/').next_back().expect("a number").parse().expect("a number"))
            .collect();
        assert!(numbers.is_sorted(), "not in the order of sending: {numbers:?}");
    }
}
