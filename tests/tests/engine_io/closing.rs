//! The end of a session by the client's will, as the other requests of that session see it.

use crate::{ATTEMPTS, open, open_websocket};
use carillon_tests::conformance::{Conformance, reference_differs};
use carillon_tests::polling::SESSION_UNKNOWN;
use tokio_tungstenite::tungstenite::protocol::Message;

/// The poll that waits is answered at once by a noop. Where the close came before the poll, or a heartbeat answered it,
/// nothing waited, and the race is run again.
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
                // A heartbeat took it, and a poll that comes now is taken for one that crossed the goodbye.
                continue;
            }
            let last = session.poll().await;
            assert_eq!((last.status, last.body.as_str()), (400, SESSION_UNKNOWN), "later polls");
            assert_eq!(session.post("4hello").await.body, SESSION_UNKNOWN, "later messages");
            match (answer.status, answer.body.as_str()) {
                (400, SESSION_UNKNOWN) => {}
                (status, body) => {
                    assert_eq!((status, body), (200, "6"));
                    answered = true;
                    break;
                }
            }
        }
        assert!(answered, "no poll ever waited");
    }
}

#[tokio::test]
async fn what_follows_a_close_packet_is_not_heard() {
    let server = Conformance::start().await;
    let session = server.engine().open().await;
    session.send("1\u{1e}4hello").await;
    assert_eq!(session.gone().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_websocket_that_closes_and_is_silent_ends() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let mut socket = open_websocket(&endpoint).await;
        socket.send("1").await;
        while let Some(message) = socket.receive().await {
            assert_eq!(message, Message::text("2"), "nothing but a ping");
        }
    }
}

/// Even while pings are answered, and what follows is not heard. The reference passes over close packets of a
/// WebSocket.
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
async fn closing_by_polling_ends_the_websocket_that_was_probing() {
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
async fn the_end_of_the_websocket_ends_the_session_that_began_by_polling() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let session = open(&endpoint).await;
        let mut socket = session.probe().await;
        socket.send("5").await;
        drop(socket);
        assert_eq!(session.gone().await, Vec::<String>::new());
        // By HTTP, or while the end is under way by its own end.
        endpoint.refuses_websocket(&session.websocket_query()).await;
    }
}
