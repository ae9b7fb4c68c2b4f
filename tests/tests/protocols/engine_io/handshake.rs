//! Opening a session, and every refusal of one. Socket.IO's path behaves the same.

use carillon_tests::conformance::Conformance;
use carillon_tests::polling::SESSION_UNKNOWN;
use serde_json::{Value, json};

/// Asserts that a handshake has exactly the fields of the protocol, and returns its sid.
fn sid_of(handshake: &Value, upgrades: &Value) -> String {
    let sid = handshake["sid"].as_str().expect("a sid").to_owned();
    let expected = json!({
        "sid": sid, "upgrades": upgrades, "pingInterval": 300, "pingTimeout": 200, "maxPayload": 1_000_000
    });
    assert_eq!(*handshake, expected);
    sid
}

#[tokio::test]
async fn polling_opens_a_session() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let mut sids = Vec::new();
        for _ in 0..2 {
            let answer = endpoint.request("GET", "EIO=4&transport=polling", "").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.head.contains("\r\ncontent-type: text/plain"), "{answer:?}");
            let handshake = answer.body.strip_prefix('0').expect("an open packet");
            let handshake = serde_json::from_str(handshake).expect("JSON");
            sids.push(sid_of(&handshake, &json!(["websocket"])));
        }
        assert_ne!(sids[0], sids[1], "two sessions have the same id");
        // 96 random bits are 16 characters of base64.
        assert!(sids.iter().all(|sid| sid.len() >= 16), "{sids:?}");
    }
}

#[tokio::test]
async fn a_websocket_opens_a_session_that_offers_no_upgrade() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let (_one, first) = endpoint.open_websocket().await;
        let (_two, second) = endpoint.open_websocket().await;
        assert_ne!(sid_of(&first, &json!([])), sid_of(&second, &json!([])));
    }
}

#[tokio::test]
async fn versions_other_than_4_are_refused() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        for version in ["", "EIO=abc&", "EIO=&", "EIO=3&", "EIO=5&"] {
            let answer = endpoint.request("GET", &format!("{version}transport=polling"), "").await;
            let expected = r#"{"code":5,"message":"Unsupported protocol version"}"#;
            assert_eq!((answer.status, answer.body.as_str()), (400, expected), "{version}");
            endpoint.refuses_websocket(&format!("{version}transport=websocket")).await;
        }
    }
}

#[tokio::test]
async fn unknown_transports_are_refused() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        for query in ["", "EIO=4", "EIO=4&transport=", "EIO=4&transport=abc", "EIO=4&transport=POLLING"] {
            let answer = endpoint.request("GET", query, "").await;
            let expected = r#"{"code":0,"message":"Transport unknown"}"#;
            assert_eq!((answer.status, answer.body.as_str()), (400, expected), "{query}");
            let status = endpoint.refuses_websocket(query).await;
            assert_eq!(status, Some(400), "{query}");
        }
    }
}

#[tokio::test]
async fn only_get_opens_a_session() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let answer = endpoint.request(method, "EIO=4&transport=polling", "4hello").await;
            let expected = r#"{"code":2,"message":"Bad handshake method"}"#;
            assert_eq!((answer.status, answer.body.as_str()), (400, expected), "{method}");
        }
    }
}

/// The query names the transport `websocket`, but the request has no `Upgrade` header.
#[tokio::test]
async fn a_websocket_needs_an_upgrade() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let answer = endpoint.request("GET", "EIO=4&transport=websocket", "").await;
        assert_eq!((answer.status, answer.body.as_str()), (400, r#"{"code":3,"message":"Bad request"}"#));
    }
}

/// Among the guesses are property names that a JavaScript object would find, a live session's id with another last
/// character, and the id of a session on the other path.
#[tokio::test]
async fn a_guessed_sid_is_unknown_to_every_transport() {
    let server = Conformance::start().await;
    for (endpoint, other) in [(server.engine(), server.socket()), (server.socket(), server.engine())] {
        let session = endpoint.open().await;
        let elsewhere = other.open().await.sid;
        let mut near = session.sid.clone();
        let last = near.pop().expect("a character");
        near.push(if last == 'A' { 'B' } else { 'A' });
        let long = "A".repeat(4_000);
        for sid in
            [&near, &elsewhere, &long, "abcdefghijklmnopAAAA", "__proto__", "constructor", "..%2F", "%00"]
        {
            let query = format!("EIO=4&transport=polling&sid={sid}");
            for method in ["GET", "POST"] {
                let answer = endpoint.request(method, &query, "4hello").await;
                assert_eq!((answer.status, answer.body.as_str()), (400, SESSION_UNKNOWN), "{method} {sid}");
            }
            let query = format!("EIO=4&transport=websocket&sid={sid}");
            assert_eq!(endpoint.refuses_websocket(&query).await, Some(400), "{sid}");
        }
    }
}
