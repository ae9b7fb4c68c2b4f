//! Namespaces: connecting with and without auth, refusals, and leaving one while another stays connected.

use super::{assert_closed, assert_lives, connected, join, payload};
use carillon_tests::conformance::Conformance;
use carillon_tests::polling::{PATIENCE, SESSION_UNKNOWN};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::Message;

/// The conformance server closes a client that connects to no namespace after 1 s. Less by a margin for timers.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(850);

/// The answer has a sid and nothing else; the server's first event has the auth object that it received.
#[tokio::test]
async fn namespaces_are_connected_with_and_without_auth() {
    let server = Conformance::start().await;
    let table = [
        ("40", "", json!({})),
        (r#"40{"token":"123"}"#, "", json!({"token": "123"})),
        (r#"40{"a":{"b":[1,null,"ü"]}}"#, "", json!({"a": {"b": [1, null, "ü"]}})),
        ("40/custom,", "/custom,", json!({})),
        ("40/custom", "/custom,", json!({})),
        (r#"40/custom,{"token":"abc"}"#, "/custom,", json!({"token": "abc"})),
    ];
    for (packet, prefix, auth) in table {
        let (mut socket, handshake) = server.socket().open_websocket().await;
        socket.send(packet).await;
        let answer = payload(&socket.text().await, &format!("40{prefix}"));
        let sid = answer["sid"].as_str().expect("a sid");
        assert_eq!(answer, json!({"sid": sid}), "{packet}");
        assert_ne!(
            answer["sid"], handshake["sid"],
            "the socket's id must not be the secret id of the session"
        );
        let event = payload(&socket.text().await, &format!("42{prefix}"));
        assert_eq!(event, json!(["auth", auth]), "{packet}");
    }
}

#[tokio::test]
async fn namespaces_are_connected_by_polling_too() {
    let server = Conformance::start().await;
    let mut session = server.socket().open().await;
    session.send("40{\"token\":\"123\"}\u{1e}40/custom,").await;
    let sid = payload(&session.next().await, "40")["sid"].clone();
    assert_eq!(session.next().await, r#"42["auth",{"token":"123"}]"#);
    let other = payload(&session.next().await, "40/custom,")["sid"].clone();
    assert_eq!(session.next().await, r#"42/custom,["auth",{}]"#);
    assert!(sid.is_string() && other.is_string() && sid != other, "each namespace must have its own sid");
}

/// The connection stays open, and can still connect to a namespace that exists.
#[tokio::test]
async fn an_unknown_namespace_is_refused() {
    let server = Conformance::start().await;
    let (mut socket, _) = server.socket().open_websocket().await;
    for (packet, name) in
        [("40/random", "/random"), (r#"40/random,{"token":"1"}"#, "/random"), ("40/cust", "/cust")]
    {
        socket.send(packet).await;
        assert_eq!(socket.text().await, format!(r#"44{name},{{"message":"Invalid namespace"}}"#));
    }
    join(&mut socket, "").await;
    assert_lives(&mut socket).await;
}

/// The connection ends at once, not only when the time for connecting is over.
#[tokio::test]
async fn an_invalid_connect_closes_the_connection() {
    let server = Conformance::start().await;
    let packets = ["4abc", "4", "49", "40[]", r#"40"token""#, "40null", r#"40{"token":"#, "40/custom,[]"];
    for packet in packets {
        let started = Instant::now();
        let (mut socket, _) = server.socket().open_websocket().await;
        socket.send(packet).await;
        assert_closed(&mut socket, packet).await;
        assert!(started.elapsed() < CONNECT_TIMEOUT, "{packet}: {:?}", started.elapsed());
    }
}

/// The connection ends at once, not only when the time for connecting is over.
#[tokio::test]
async fn a_first_packet_other_than_connect_closes_the_connection() {
    let server = Conformance::start().await;
    let packets = [
        r#"42["message",1]"#,
        r#"42/custom,["message",1]"#,
        r#"421["message-with-ack",1]"#,
        "41",
        "43[1]",
        r#"44{"message":"no"}"#,
    ];
    for packet in packets {
        let started = Instant::now();
        let (mut socket, _) = server.socket().open_websocket().await;
        socket.send(packet).await;
        assert_closed(&mut socket, packet).await;
        assert!(started.elapsed() < CONNECT_TIMEOUT, "{packet}: {:?}", started.elapsed());
    }
}

/// Answered pings do not keep the connection open, and a refused namespace does not count as connected.
#[tokio::test]
async fn a_client_that_connects_to_no_namespace_is_closed() {
    let server = Conformance::start().await;
    for packet in [None, Some("40/random")] {
        let started = Instant::now();
        let (mut socket, _) = server.socket().open_websocket().await;
        if let Some(packet) = packet {
            socket.send(packet).await;
        }
        let messages = socket.ended().await;
        assert!(started.elapsed() >= CONNECT_TIMEOUT, "{:?}", started.elapsed());
        assert_eq!(messages.len(), usize::from(packet.is_some()), "{messages:?}");
    }
}

#[tokio::test]
async fn a_polling_client_that_connects_to_no_namespace_is_closed() {
    let server = Conformance::start().await;
    let started = Instant::now();
    let session = server.socket().open().await;
    let mut pings = 0;
    let last = loop {
        let answer = session.poll().await;
        assert!(started.elapsed() < PATIENCE, "the session was not closed in time: {answer:?}");
        if answer.status != 200 {
            break answer;
        }
        if answer.body == "2" {
            pings += 1;
            drop(session.post("3").await);
        }
    };
    assert_eq!((last.status, last.body.as_str()), (400, SESSION_UNKNOWN));
    assert!(pings >= 2 && started.elapsed() >= CONNECT_TIMEOUT, "{pings} pings, {:?}", started.elapsed());
}

/// The connection stays open without a namespace: pings continue, and the client can connect to a namespace again.
#[tokio::test]
async fn leaving_the_main_namespace_keeps_the_connection() {
    let server = Conformance::start().await;
    let mut socket = connected(&server).await;
    let started = Instant::now();
    socket.send("41").await;
    while started.elapsed() < Duration::from_millis(1_500) {
        let message = socket.receive().await;
        assert_eq!(message, Some(Message::text("2")), "an unexpected message");
        socket.send("3").await;
    }
    join(&mut socket, "").await;
    assert_lives(&mut socket).await;
}

#[tokio::test]
async fn leaving_one_namespace_keeps_the_other() {
    let server = Conformance::start().await;
    for (left, kept) in [("/custom,", ""), ("", "/custom,")] {
        let mut socket = connected(&server).await;
        join(&mut socket, "/custom,").await;
        socket.send(&format!("41{left}")).await;
        socket.send(&format!(r#"42{kept}["message","kept"]"#)).await;
        assert_eq!(socket.text().await, format!(r#"42{kept}["message-back","kept"]"#));
        join(&mut socket, left).await;
        socket.send(&format!("41{left}")).await;
        socket.send(&format!(r#"42{left}["message","left"]"#)).await;
        assert_closed(&mut socket, "an event to a namespace that was left").await;
    }
    let mut socket = connected(&server).await;
    socket.send("41/custom").await;
    assert_closed(&mut socket, "leaving what was never connected").await;
}

/// An event in one namespace is not echoed in the other.
#[tokio::test]
async fn two_namespaces_on_one_connection_are_separate() {
    let server = Conformance::start().await;
    let mut socket = connected(&server).await;
    join(&mut socket, "/custom,").await;
    for round in 0..3 {
        for prefix in ["", "/custom,"] {
            socket.send(&format!(r#"42{prefix}["message",{round}]"#)).await;
            let event: Value = payload(&socket.text().await, &format!("42{prefix}"));
            assert_eq!(event, json!(["message-back", round]));
        }
    }
}
