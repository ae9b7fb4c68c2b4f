//! Connections, tokens, frames and rates that a standalone process refuses, with which error or close code, and that
//! other clients are not affected (`docs/protocol.md#errors`, `docs/protocol.md#closes`).

use carillon_tests::client::{Client, Ended};
use carillon_tests::server::standalone;
use futures_util::future::join_all;
use serde_json::json;
use std::time::Duration;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";

fn token(arguments: &[&str]) -> String {
    let output =
        carillon_tests::server::command().arg("token").args(arguments).env("AUTH_SECRET", SECRET).output();
    let output = output.expect("carillon token runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// Guards the limit of five connections per user: without the comparison in `Roster::start`, the sixth connection
/// stays.
#[tokio::test]
async fn the_sixth_connection_of_a_user_is_refused_and_the_others_stay() {
    let (server, _data) = standalone(&[]);
    let mut five = Vec::new();
    for _ in 0..5 {
        five.push(Client::user(&server.ws(), "alice").await);
    }
    let mut sixth = Client::connect(&format!("{}/ws/alice", server.ws())).await;
    // The five clients answer pings only while the test reads from them.
    let others = join_all(five.iter_mut().map(|client| client.all_within(Duration::from_secs(5))));
    let (ended, _) = tokio::join!(sixth.ended(), others);
    assert_eq!(ended, Ended { code: Some(1008), reason: "Too many connections".into() });
    for client in &mut five {
        client.send(json!({"type": "ping"})).await;
        assert_eq!(client.next().await["type"], "pong");
    }
    five.pop().expect("a client").cut();
    tokio::time::sleep(Duration::from_millis(300)).await;
    Client::user(&server.ws(), "alice").await;
}

/// A new connection above the limit makes the gateway ping the user's others and end those that do not answer within
/// 2 s. Before the fix, five dead connections locked their user out until the keepalive ended them, about a minute
/// later.
#[tokio::test]
async fn connections_that_answer_no_ping_are_ended_for_a_new_one() {
    let (server, _data) = standalone(&[]);
    let mut living = Client::user(&server.ws(), "alice").await;
    let mut dead = Vec::new();
    for _ in 0..4 {
        // The test does not read from these connections, so their pings stay unanswered.
        dead.push(Client::user(&server.ws(), "alice").await);
    }
    let began = tokio::time::Instant::now();
    let base = server.ws();
    let (mut sixth, heard) =
        tokio::join!(Client::user(&base, "alice"), living.all_within(Duration::from_secs(4)));
    let waited = began.elapsed();
    assert!((2..5).contains(&waited.as_secs()), "{waited:?}");
    assert!(heard.is_empty(), "{heard:?}");
    for client in &mut dead {
        assert_eq!(client.ended().await.code, Some(1001));
    }
    for client in [&mut living, &mut sixth] {
        client.send(json!({"type": "ping"})).await;
        assert_eq!(client.next().await["type"], "pong");
    }
    for _ in 0..3 {
        Client::user(&base, "alice").await;
    }
}

/// Guards the repeated attempts of `Shared::find_place`: with a single attempt, a client that reconnects before its
/// lost connection has ended is refused, and so is a new connection while another session moves between gateways.
#[tokio::test]
async fn a_new_connection_at_the_limit_waits_for_an_old_one_to_end() {
    let (server, _data) = standalone(&[]);
    let mut five = Vec::new();
    for _ in 0..5 {
        five.push(Client::user(&server.ws(), "alice").await);
    }
    let base = server.ws();
    let coming = Client::user(&base, "alice");
    let going = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        five.pop().expect("a client").cut();
    };
    let (mut came, ()) = tokio::join!(coming, going);
    came.send(json!({"type": "ping"})).await;
    assert_eq!(came.next().await["type"], "pong");
}

/// The places are the query, the header `Authorization`, the subprotocols, and a first frame
/// (`docs/protocol.md#endpoints`).
#[tokio::test]
async fn tokens_are_accepted_in_every_documented_place_and_refused_with_a_reason() {
    let (server, _data) = standalone(&[("AUTH_SECRET", SECRET)]);
    let good = token(&["--sub", "alice", "--name", "Alice"]);
    let base = server.ws();
    let mut query = Client::connect(&format!("{base}/ws/auth?token={good}")).await;
    assert_eq!(query.next().await["users"], json!(["alice"]));
    query.send_message("room", "hi", "k").await;
    let with = |path: &str, name: &'static str, value: &str| {
        let mut request = format!("{base}{path}").into_client_request().expect("a request");
        request.headers_mut().insert(name, value.parse().expect("a value"));
        request
    };
    let header = with("/ws", "authorization", &format!("Bearer {good}"));
    assert_eq!(Client::request(header).await.expect("connected").next().await["type"], "online_users");
    let protocol = with("/", "sec-websocket-protocol", &format!("carillon.v1, bearer.{good}"));
    assert_eq!(Client::request(protocol).await.expect("connected").next().await["type"], "online_users");
    let mut late = Client::connect(&format!("{base}/ws")).await;
    late.send(json!({"type": "ping", "ref": 1})).await;
    late.send(json!({"type": "ping", "ref": "r"})).await;
    assert_eq!(late.next().await["code"], "invalid_payload");
    assert_eq!(late.next().await["code"], "unauthorized");
    late.send(json!({"type": "authenticate", "token": good, "ref": "a"})).await;
    let authenticated = late.next().await;
    assert_eq!(
        (&authenticated["type"], &authenticated["user_id"], &authenticated["ref"]),
        (&json!("authenticated"), &json!("alice"), &json!("a"))
    );
    assert_eq!(late.next().await["type"], "online_users");
    late.send(json!({"type": "authenticate", "token": token(&["--sub", "bob"])})).await;
    assert_eq!(late.next().await["code"], "unauthorized", "an identity cannot be changed");
    let invalid = Ended { code: Some(1008), reason: "Invalid token".into() };
    for path in ["/ws/auth", "/ws/auth?token=x.y.z", "/ws/auth?token="] {
        assert_eq!(Client::connect(&format!("{base}{path}")).await.ended().await, invalid, "{path}");
    }
    let mut wrong = Client::connect(&format!("{base}/ws")).await;
    wrong.send(json!({"type": "authenticate", "token": "x.y.z"})).await;
    assert_eq!(wrong.ended().await, invalid);
    // A connection whose token expires gets a warning and is then closed.
    let short = token(&["--sub", "alice", "--ttl", "2s"]);
    let mut brief = Client::connect(&format!("{base}/ws/auth?token={short}")).await;
    brief.next().await;
    assert_eq!(brief.expect("token_expiring").await["type"], "token_expiring");
    assert_eq!(brief.ended().await, Ended { code: Some(1008), reason: "Token expired".into() });
    let output = server.output();
    assert!(!output.contains(&good) && !output.contains(&short), "a token is in the log output");
}

/// Refused frames keep the connection open, and the witness receives every message. Only frames that break the
/// WebSocket protocol or its size limit close the connection that sent them.
#[tokio::test]
async fn bad_frames_get_their_error_code_and_affect_no_other_client() {
    let (server, _data) = standalone(&[]);
    let mut witness = Client::user(&server.ws(), "witness").await;
    witness.join("room").await;
    let mut client = Client::user(&server.ws(), "client").await;
    let deep = format!(
        r#"{{"type":"broadcast","conversation_id":"room","event":"e","data":{}{}}}"#,
        "[".repeat(2_000),
        "]".repeat(2_000)
    );
    let long =
        format!(r#"{{"type":"send_message","conversation_id":"room","content":"{}"}}"#, "x".repeat(5_001));
    let table = [
        ("", "invalid_frame"),
        ("{", "invalid_frame"),
        ("[1,2]", "invalid_frame"),
        ("{\"type\":null}", "invalid_frame"),
        ("{\"type\":\"drop_table\"}", "invalid_payload"),
        (r#"{"type":"join_conversation","conversation_id":"a.*"}"#, "invalid_payload"),
        (r#"{"type":"join_conversation","conversation_id":">"}"#, "invalid_payload"),
        (r#"{"type":"join_conversation","conversation_id":"a b\n"}"#, "invalid_payload"),
        (r#"{"type":"join_conversation","conversation_id":{"$ne":1}}"#, "invalid_payload"),
        (r#"{"type":"send_message","conversation_id":"room","content":" \t "}"#, "empty_content"),
        (long.as_str(), "too_large"),
        (deep.as_str(), "too_large"),
        (r#"{"type":"broadcast","conversation_id":"not-joined","event":"e"}"#, "forbidden"),
    ];
    for (text, code) in table {
        client.text(text).await;
        let reply = client.next().await;
        assert_eq!((&reply["type"], &reply["code"]), (&json!("error"), &json!(code)), "{text}");
    }
    client.message(Message::binary(vec![0, 159, 146, 150])).await.expect("sent");
    assert_eq!(client.next().await["code"], "invalid_frame");
    client.send_message("room", "still here", "k").await;
    assert_eq!(witness.expect("new_message").await["message"]["content"], "still here");
    // A frame over 64 KiB, or too many pings, close the connection; other clients are not affected.
    let mut huge = Client::user(&server.ws(), "huge").await;
    huge.text(&"x".repeat(70_000)).await;
    assert_eq!(huge.ended().await.code, Some(1009));
    let mut flood = Client::user(&server.ws(), "flood").await;
    for _ in 0..1_000 {
        if flood.message(Message::Ping(vec![1].into())).await.is_err() {
            break;
        }
    }
    assert_eq!(flood.ended().await.code, Some(1002));
    client.send_message("room", "and here", "k2").await;
    assert_eq!(witness.expect("new_message").await["seq"], 2);
}

#[tokio::test]
async fn rates_are_limited_per_user_and_the_connection_stays_open() {
    let (server, _data) = standalone(&[("CARILLON_LIMITS__MESSAGES_PER_MINUTE", "5")]);
    let mut alice = Client::user(&server.ws(), "alice").await;
    for number in 0..5 {
        alice.send_message("room", "hi", &format!("k{number}")).await;
    }
    alice.send(json!({"type": "send_message", "conversation_id": "room", "content": "hi", "ref": "r"})).await;
    let refused = alice.next().await;
    assert_eq!((&refused["code"], &refused["ref"]), (&json!("rate_limited"), &json!("r")));
    assert!(
        refused["retry_after_ms"].as_u64().is_some_and(|wait_ms| (1..=12_000).contains(&wait_ms)),
        "{refused}"
    );
    Client::user(&server.ws(), "bob").await.send_message("room", "hi", "k").await;
    alice.send(json!({"type": "ping"})).await;
    alice.expect("pong").await;
}
