//! Engine.IO 4: the cases of the published suite (`docs/engine.io-protocol/v4-test-suite` of `socketio/socket.io`), and
//! malformed input. Every case also passes against the reference implementation, unless its comment names a bound of
//! our own.
//!
//! To test a server that already runs, set `CARILLON_TEST_CONFORMANCE_URL=http://127.0.0.1:3000`, and
//! `CARILLON_TEST_REFERENCE=1` if it is the reference implementation.

use carillon_tests::polling::{Endpoint, Session, WebSocket};

mod closing;
mod handshake;
mod heartbeat;
mod messages;
mod upgrade;

/// Attempts at a race whose outcome depends on the network.
const ATTEMPTS: usize = 10;

/// A session that began by polling. On Socket.IO's path it connects to the main namespace, because the server closes a
/// session without a namespace after 1 s.
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

/// A session that began by WebSocket, with its namespace as in [`open`].
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
