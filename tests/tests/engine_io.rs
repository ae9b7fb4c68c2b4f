//! Engine.IO 4 case by case: what the published suite (`docs/engine.io-protocol/v4-test-suite` of
//! `socketio/socket.io`) checks, and input that nobody should send. Every case holds for the reference
//! implementation too, unless it says that our bound is stricter.
//!
//! Against a server that already runs: `CARILLON_TEST_CONFORMANCE_URL=http://127.0.0.1:3000`, and with
//! `CARILLON_TEST_REFERENCE=1` where that is the reference.

use carillon_tests::polling::{Endpoint, Session, WebSocket};

#[path = "engine_io/closing.rs"]
mod closing;
#[path = "engine_io/handshake.rs"]
mod handshake;
#[path = "engine_io/heartbeat.rs"]
mod heartbeat;
#[path = "engine_io/messages.rs"]
mod messages;
#[path = "engine_io/upgrade.rs"]
mod upgrade;

/// How often a race whose outcome is the network's is run again.
const ATTEMPTS: usize = 10;

/// A session that began by polling. On Socket.IO's path its namespace is connected, which would close it after 1 s
/// otherwise, whatever else a case is about.
async fn open(endpoint: &Endpoint) -> Session {
    let mut session = endpoint.open().await;
    if endpoint.path == "/socket.io/" {
        session.send("40").await;
        let connected = session.next().await;
        assert!(connected.starts_with("40{\"sid\":"), "{connected}");
        assert_eq!(session.next().await, r#"42["auth",{}]"#);
    }
    session
}

/// A session that began by WebSocket, likewise.
async fn open_websocket(endpoint: &Endpoint) -> WebSocket {
    let (mut socket, _) = endpoint.open_websocket().await;
    if endpoint.path == "/socket.io/" {
        socket.send("40").await;
        let connected = socket.text().await;
        assert!(connected.starts_with("40{\"sid\":"), "{connected}");
        assert_eq!(socket.text().await, r#"42["auth",{}]"#);
    }
    socket
}
