//! Sessions that the client ends, and how that affects the session's other requests.

use super::{ATTEMPTS, open, open_websocket};
use carillon_tests::conformance::{Conformance, reference_differs};
use carillon_tests::polling::SESSION_UNKNOWN;
use tokio_tungstenite::tungstenite::protocol::Message;

/// The poll that waits is answered at once by a noop. If the close packet overtook the poll, or a heartbeat answered
/// the poll, no poll was waiting, and the test tries again.
#[tokio::test]
async fn a_close_packet_answers_the_poll_that_waits() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let mut answered = false;
        for _ in 0..ATTEMPTS {
            let session = open(&endpoint).await;
            let pending = session.begin_poll().await;
            session.send("1").await;
            let answer = pending.answer().await;
            if answer.body == "2" {
                // A heartbeat answered the poll. The server treats a poll that comes now as sent before the close.
                continue;
            }
            let last = session.poll().await;
            assert_eq!(
                (last.status, last.body.as_str()),
                (400, SESSION_UNKNOWN),
                "later polls must be refused"
            );
            assert_eq!(session.post("4hello").await.body, SESSION_UNKNOWN, "later messages must be refused");
            match (answer.status, answer.body.as_str()) {
                (400, SESSION_UNKNOWN) => {}
                (status, body) => {
                    assert_eq!((status, body), (200, "6"));
                    answered = true;
                    break;
                }
            }
        }
        assert!(answered, "no attempt had a waiting poll");
    }
}

#[tokio::test]
async fn packets_after_a_close_packet_are_ignored() {
    let server = Conformance::start().await;
    let session = server.engine().open().await;
    session.send("1\u{1e}4hello").await;
    assert_eq!(session.gone().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_websocket_ends_after_a_close_packet_without_pongs() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let mut socket = open_websocket(&endpoint).await;
        socket.send("1").await;
        while let Some(message) = socket.receive().await {
            assert_eq!(
                message,
                Message::text("2"),
                "a message other than a ping arrived after the close packet"
            );
        }
    }
}

/// The connection ends at the close packet, and later packets are ignored. The reference ignores close packets on a
/// WebSocket, and ends it for want of pongs.
#[tokio::test]
async fn a_close_packet_ends_the_websocket() {
    if reference_differs("passes over close packets of a WebSocket") {
        return;
    }
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let mut socket = open_websocket(&endpoint).await;
        socket.send("1").await;
        socket.send("42[\"message\",1]").await;
        assert_eq!(socket.ended().await, []);
        let session = open(&endpoint).await;
        let mut socket = session.probe().await;
        socket.send("5").await;
        socket.send("1").await;
        assert_eq!(socket.ended().await, []);
        assert_eq!(session.gone().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_close_packet_by_polling_ends_the_probing_websocket() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let session = open(&endpoint).await;
        let mut socket = session.probe().await;
        session.send("1").await;
        assert_eq!(socket.ended().await, []);
        assert_eq!(session.gone().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn the_end_of_its_websocket_ends_an_upgraded_session() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let session = open(&endpoint).await;
        let mut socket = session.probe().await;
        socket.send("5").await;
        drop(socket);
        assert_eq!(session.gone().await, Vec::<String>::new());
        // Refused by HTTP status, or, while the session is still ending, by the end of the new WebSocket.
        endpoint.refuses_websocket(&session.websocket_query()).await;
    }
}
