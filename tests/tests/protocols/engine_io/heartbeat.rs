//! The server sends pings, and closes a session that does not answer them. Socket.IO's path behaves the same.

use super::{open, open_websocket};
use carillon_tests::conformance::Conformance;
use carillon_tests::polling::{PATIENCE, SESSION_UNKNOWN};
use std::time::Duration;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::Message;

/// Three intervals of 300 ms, less a margin for timers.
const THREE_INTERVALS: Duration = Duration::from_millis(750);

#[tokio::test]
async fn a_polling_session_that_answers_pings_stays_open() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let started = Instant::now();
        let session = open(&endpoint).await;
        for _ in 0..3 {
            let answer = session.poll().await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "2"));
            session.send("3").await;
        }
        assert!(started.elapsed() >= THREE_INTERVALS, "{:?}", started.elapsed());
    }
}

/// The poll that waits at the timeout is answered with a noop, or, by the reference, with a close packet.
#[tokio::test]
async fn polling_without_pongs_is_closed() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let session = open(&endpoint).await;
        let (mut bodies, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        let last = loop {
            assert!(Instant::now() < deadline, "the session was not closed in time: {bodies:?}");
            let answer = session.poll().await;
            match answer.status {
                200 => bodies.push(answer.body),
                _ => break answer,
            }
        };
        assert_eq!((last.status, last.body.as_str()), (400, SESSION_UNKNOWN));
        assert_eq!(bodies[0], "2");
        assert!(bodies.len() <= 2 && bodies[1..].iter().all(|body| body == "6" || body == "1"), "{bodies:?}");
        assert_eq!(session.post("4hello").await.status, 400);
    }
}

/// A client that never polls does not receive its ping, and its session is closed too.
#[tokio::test]
async fn a_session_that_is_never_polled_is_closed() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let session = open(&endpoint).await;
        let deadline = Instant::now() + PATIENCE;
        // The client's noops do not keep the session open: only a pong does.
        while session.post("6").await.status != 400 {
            assert!(Instant::now() < deadline, "the session was not closed in time");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(session.poll().await.body, SESSION_UNKNOWN);
    }
}

#[tokio::test]
async fn a_websocket_that_answers_pings_stays_open() {
    let server = Conformance::start().await;
    let started = Instant::now();
    for endpoint in server.both() {
        let mut socket = open_websocket(&endpoint).await;
        for _ in 0..3 {
            let message = socket.receive().await;
            assert_eq!(message, Some(Message::text("2")));
            socket.send("3").await;
        }
    }
    assert!(started.elapsed() >= 2 * THREE_INTERVALS, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_websocket_without_pongs_is_closed() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let started = Instant::now();
        let mut socket = open_websocket(&endpoint).await;
        assert_eq!(socket.receive().await, Some(Message::text("2")));
        assert_eq!(socket.receive().await, None);
        assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
    }
}

/// In Engine.IO 4 only the server sends pings; in protocol 3 the client did. The reference also closes the session.
#[tokio::test]
async fn a_ping_from_the_client_closes_the_session() {
    let server = Conformance::start().await;
    for ping in ["2", "2probe"] {
        let (mut socket, _) = server.engine().open_websocket().await;
        socket.send(ping).await;
        assert_eq!(socket.ended().await, [], "{ping}");
        let session = server.engine().open().await;
        drop(server.engine().begin("POST", &session.query(), ping).await.answer_if_any().await);
        assert_eq!(session.gone().await, Vec::<String>::new(), "{ping}");
    }
}
