//! Socket.IO 5: the cases of the published suite (`docs/socket.io-protocol/v5-test-suite` of `socketio/socket.io`), and
//! malformed input. The suite's cases of Engine.IO on Socket.IO's path are in `engine_io`. Every case also passes
//! against the reference implementation, unless its comment names a bound of our own.
//!
//! To test a server that already runs, set `CARILLON_TEST_CONFORMANCE_URL=http://127.0.0.1:3000`, and
//! `CARILLON_TEST_REFERENCE=1` if it is the reference implementation.

use carillon_tests::conformance::Conformance;
use carillon_tests::polling::{PATIENCE, WebSocket};
use serde_json::Value;
use tokio_tungstenite::tungstenite::protocol::Message;

mod attachments;
mod connect;
mod events;
mod malformed;

/// The JSON of a packet that must begin with `prefix`.
fn payload(packet: &str, prefix: &str) -> Value {
    let json = packet.strip_prefix(prefix).unwrap_or_else(|| panic!("{packet} does not begin with {prefix}"));
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{packet}: {error}"))
}

/// Connects a namespace on a WebSocket: `prefix` is empty for the main one, else `/name,`.
async fn join(socket: &mut WebSocket, prefix: &str) {
    socket.send(&format!("40{prefix}")).await;
    assert!(payload(&socket.text().await, &format!("40{prefix}"))["sid"].is_string());
    assert_eq!(socket.text().await, format!(r#"42{prefix}["auth",{{}}]"#));
}

/// A WebSocket on which the main namespace is connected.
async fn connected(server: &Conformance) -> WebSocket {
    let (mut socket, _) = server.socket().open_websocket().await;
    join(&mut socket, "").await;
    socket
}

/// Asserts that the server still answers events on this connection.
async fn assert_lives(socket: &mut WebSocket) {
    socket.send(r#"42["message","still here"]"#).await;
    assert_eq!(socket.text().await, r#"42["message-back","still here"]"#);
}

/// Asserts that the server ends the connection without answering any event on it.
async fn assert_closed(socket: &mut WebSocket, why: &str) {
    let messages =
        socket.ended_within(PATIENCE).await.unwrap_or_else(|| panic!("{why}: the connection was not closed"));
    let answered = |message: &Message| {
        let text = message.to_text().unwrap_or_default();
        message.is_binary() || text.contains("message-back") || text.starts_with("43")
    };
    assert!(!messages.iter().any(answered), "{why}: {messages:?}");
}
