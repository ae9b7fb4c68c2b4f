//! Events and acknowledgements whose arguments are JSON only.

use super::{assert_lives, connected, join, payload};
use carillon_tests::conformance::Conformance;
use serde_json::{Value, json};

/// Argument lists that the server must echo unchanged.
fn arguments() -> [Value; 6] {
    [
        json!([1, "2", {"3": [true]}]),
        json!([]),
        json!([null, false, -1.5, 9_007_199_254_740_991_u64, ""]),
        json!(["grüße, 世界 🔔", "\"\\\n\u{0}\u{1e}\u{2028}", {"": {"ключ": [[], {}]}}]),
        json!(["40", "/custom,", "451-[]", {"_placeholder": false, "num": 0}]),
        json!([vec!["x".repeat(1_000); 100]]),
    ]
}

fn with_name(name: &str, arguments: &Value) -> Value {
    let mut list = vec![json!(name)];
    list.extend(arguments.as_array().expect("a list").iter().cloned());
    Value::Array(list)
}

#[tokio::test]
async fn events_are_echoed_in_their_namespace() {
    let server = Conformance::start().await;
    let mut socket = connected(&server).await;
    join(&mut socket, "/custom,").await;
    for prefix in ["", "/custom,"] {
        for arguments in arguments() {
            socket.send(&format!("42{prefix}{}", with_name("message", &arguments))).await;
            let event = payload(&socket.text().await, &format!("42{prefix}"));
            assert_eq!(event, with_name("message-back", &arguments));
        }
    }
}

#[tokio::test]
async fn events_are_echoed_by_polling() {
    let server = Conformance::start().await;
    let mut session = server.socket().open().await;
    session.send("40").await;
    assert!(session.next().await.starts_with("40{"));
    assert_eq!(session.next().await, r#"42["auth",{}]"#);
    for arguments in arguments() {
        session.send(&format!("42{}", with_name("message", &arguments))).await;
        assert_eq!(payload(&session.next().await, "42"), with_name("message-back", &arguments));
    }
}

/// An acknowledgement has the id and the arguments of its event, and no name.
#[tokio::test]
async fn acknowledgements_carry_the_id_of_their_event() {
    let server = Conformance::start().await;
    let mut socket = connected(&server).await;
    join(&mut socket, "/custom,").await;
    for prefix in ["", "/custom,"] {
        for (id, arguments) in [456, 0, 7, 4_294_967_295_u64, 7, 1].into_iter().zip(arguments()) {
            socket.send(&format!("42{prefix}{id}{}", with_name("message-with-ack", &arguments))).await;
            assert_eq!(payload(&socket.text().await, &format!("43{prefix}{id}")), arguments);
        }
    }
}

#[tokio::test]
async fn many_events_are_echoed_in_order() {
    let server = Conformance::start().await;
    let mut socket = connected(&server).await;
    for number in 0..200 {
        socket.send(&format!(r#"42["message",{number}]"#)).await;
        socket.send(&format!(r#"42{number}["message-with-ack",{number}]"#)).await;
    }
    for number in 0..200 {
        assert_eq!(socket.text().await, format!(r#"42["message-back",{number}]"#));
        assert_eq!(socket.text().await, format!("43{number}[{number}]"));
    }
}

/// An event without a handler and an acknowledgement with an unknown id are no protocol errors.
#[tokio::test]
async fn events_without_handler_and_unknown_acknowledgements_are_ignored() {
    let server = Conformance::start().await;
    let mut socket = connected(&server).await;
    for packet in [r#"42["nobody listens",1]"#, r#"427["nobody listens",1]"#, "43999[1]", "430[]"] {
        socket.send(packet).await;
        assert_lives(&mut socket).await;
    }
}
