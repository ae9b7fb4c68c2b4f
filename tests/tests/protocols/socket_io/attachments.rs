//! Events and acknowledgements with binary attachments, both ways on both transports, and their bounds.

use super::{assert_closed, assert_lives, connected, join};
use carillon_tests::conformance::{Conformance, reference_differs};
use carillon_tests::polling::WebSocket;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::tungstenite::protocol::Message;

/// The server waits 5 s for announced attachments; 3 s more for a slow machine.
const ATTACHMENTS_TIMEOUT: Duration = Duration::from_secs(5 + 3);

/// The placeholder of the first attachment; see [`placeholder`].
const FIRST: &str = r#"{"_placeholder":true,"num":0}"#;

fn placeholder(number: usize) -> String {
    format!(r#"{{"_placeholder":true,"num":{number}}}"#)
}

/// Replaces placeholders by their attachments, as lists of numbers.
fn assembled(value: Value, attachments: &[Vec<u8>]) -> Value {
    match value {
        Value::Object(fields) if fields.get("_placeholder") == Some(&json!(true)) => {
            let number = fields["num"].as_u64().expect("a number") as usize;
            json!(attachments[number])
        }
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, assembled(value, attachments))).collect()
        }
        Value::Array(list) => list.into_iter().map(|value| assembled(value, attachments)).collect(),
        other => other,
    }
}

/// The number of attachments that a packet of type 45 or 46 announces, and its JSON after `prefix`.
fn announced(packet: &str, kind: &str, prefix: &str) -> (usize, Value) {
    let (count, rest) = packet
        .strip_prefix(kind)
        .and_then(|packet| packet.split_once('-'))
        .unwrap_or_else(|| panic!("{packet} is not of type {kind}"));
    let json = rest.strip_prefix(prefix).unwrap_or_else(|| panic!("{packet} has no {prefix}"));
    (count.parse().expect("a count"), serde_json::from_str(json).expect("JSON"))
}

/// Receives a packet of type 45 or 46 and its attachments, and returns its JSON with the attachments in it.
async fn next_assembled(socket: &mut WebSocket, kind: &str, prefix: &str) -> Value {
    let (count, json) = announced(&socket.text().await, kind, prefix);
    let mut attachments = Vec::new();
    for _ in 0..count {
        match socket.next().await {
            Message::Binary(bytes) => attachments.push(bytes.to_vec()),
            other => panic!("not an attachment: {other:?}"),
        }
    }
    assembled(json, &attachments)
}

async fn send_with(socket: &mut WebSocket, packet: &str, attachments: &[&[u8]]) {
    socket.send(packet).await;
    for attachment in attachments {
        socket.send_binary(attachment).await;
    }
}

/// The table has two attachments, one nested in an argument, two in reverse order, an empty one, and a large one.
#[tokio::test]
async fn attachments_are_echoed_with_their_event() {
    let server = Conformance::start().await;
    let mut socket = connected(&server).await;
    join(&mut socket, "/custom,").await;
    let (first, second) = (FIRST, placeholder(1));
    let large = vec![7_u8; 60_000];
    let table: [(String, &[&[u8]], Value); 5] = [
        (format!("{first},{second}"), &[&[1, 2, 3], &[4, 5, 6]], json!([[1, 2, 3], [4, 5, 6]])),
        (format!(r#""a",{{"b":[{first},1]}}"#), &[&[0, 255]], json!(["a", {"b": [[0, 255], 1]}])),
        (format!("{second},{first}"), &[&[1], &[2]], json!([[2], [1]])),
        (first.to_owned(), &[&[]], json!([[]])),
        (first.to_owned(), &[&large], json!([large])),
    ];
    for prefix in ["", "/custom,"] {
        for (arguments, attachments, expected) in &table {
            let count = attachments.len();
            let packet = format!(r#"45{count}-{prefix}["message",{arguments}]"#);
            send_with(&mut socket, &packet, attachments).await;
            let mut event = next_assembled(&mut socket, "45", prefix).await;
            assert_eq!(event[0], "message-back");
            event.as_array_mut().expect("a list").remove(0);
            assert_eq!(event, *expected, "{packet}");
            let packet = format!(r#"45{count}-{prefix}789["message-with-ack",{arguments}]"#);
            send_with(&mut socket, &packet, attachments).await;
            let acknowledged = next_assembled(&mut socket, "46", &format!("{prefix}789")).await;
            assert_eq!(acknowledged, *expected, "{packet}");
        }
    }
}

#[tokio::test]
async fn attachments_are_echoed_by_polling() {
    let server = Conformance::start().await;
    let mut session = server.socket().open().await;
    session.send("40").await;
    assert!(session.next().await.starts_with("40{"));
    assert_eq!(session.next().await, r#"42["auth",{}]"#);
    let arguments = format!("{FIRST},{}", placeholder(1));
    session.send(&format!("452-[\"message\",{arguments}]\u{1e}bAQID\u{1e}bBAUG")).await;
    let (count, event) = announced(&session.next().await, "45", "");
    assert_eq!((count, &event[0], &event[2]["num"]), (2, &json!("message-back"), &json!(1)));
    assert_eq!([session.next().await, session.next().await], ["bAQID", "bBAUG"]);
    // An attachment may be sent in a POST of its own.
    session.send(&format!("452-789[\"message-with-ack\",{arguments}]")).await;
    session.send("bAQID").await;
    session.send("bBAUG").await;
    let (count, acknowledged) = announced(&session.next().await, "46", "789");
    assert_eq!((count, acknowledged.as_array().map(Vec::len)), (2, Some(2)));
    assert_eq!([session.next().await, session.next().await], ["bAQID", "bBAUG"]);
}

/// Sends an event with `count` attachments of one byte; the byte is the attachment's index.
async fn send_many(socket: &mut WebSocket, count: usize) {
    let arguments: Vec<String> = (0..count).map(placeholder).collect();
    let bytes: Vec<[u8; 1]> = (0..count as u8).map(|byte| [byte]).collect();
    let attachments: Vec<&[u8]> = bytes.iter().map(|bytes| &bytes[..]).collect();
    send_with(socket, &format!(r#"45{count}-["message",{}]"#, arguments.join(",")), &attachments).await;
}

#[tokio::test]
async fn an_event_may_have_10_attachments() {
    let server = Conformance::start().await;
    let mut socket = connected(&server).await;
    send_many(&mut socket, 10).await;
    let event = next_assembled(&mut socket, "45", "").await;
    assert_eq!((&event[1], &event[10], event.as_array().map(Vec::len)), (&json!([0]), &json!([9]), Some(11)));
}

/// Our own bound; the reference accepts at most 10.
#[tokio::test]
async fn an_event_may_have_16_attachments() {
    if reference_differs("takes 10 attachments at most") {
        return;
    }
    let server = Conformance::start().await;
    let mut socket = connected(&server).await;
    send_many(&mut socket, 16).await;
    let event = next_assembled(&mut socket, "45", "").await;
    assert_eq!((&event[16], event.as_array().map(Vec::len)), (&json!([15]), Some(17)));
}

/// The connection ends at the announcement, before any attachment is sent. Servers that wait for them are open to the
/// attacks of GHSA-2m8v-j782-fhvr and CVE-2026-33151.
#[tokio::test]
async fn an_announcement_of_17_attachments_closes_the_connection() {
    let server = Conformance::start().await;
    for count in ["17", "1000", "4294967297", "99999999999999999999"] {
        let mut socket = connected(&server).await;
        socket.send(&format!(r#"45{count}-["message",{FIRST}]"#)).await;
        assert_closed(&mut socket, count).await;
    }
}

/// Our own bound; the reference waits for ever. Connections that answer pings but send no announced attachment are
/// closed, and a connection that announced none stays open.
#[tokio::test]
async fn attachments_that_never_come_close_the_connection() {
    if reference_differs("waits for attachments for ever") {
        return;
    }
    let server = Conformance::start().await;
    let mut bystander = connected(&server).await;
    let (mut silent, mut halting) = (connected(&server).await, connected(&server).await);
    let arguments = format!("{FIRST},{}", placeholder(1));
    send_with(&mut silent, &format!(r#"452-["message",{arguments}]"#), &[]).await;
    send_with(&mut halting, &format!(r#"452-["message",{arguments}]"#), &[&[1]]).await;
    let closing = async {
        tokio::join!(silent.ended_within(ATTACHMENTS_TIMEOUT), halting.ended_within(ATTACHMENTS_TIMEOUT))
    };
    let living = async {
        loop {
            assert_lives(&mut bystander).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        messages = closing => assert_eq!(messages, (Some(vec![]), Some(vec![]))),
        () = living => {}
    }
    assert_lives(&mut bystander).await;
}
