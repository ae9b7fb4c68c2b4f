//! Upgrades from polling to WebSocket: what moves to the WebSocket, what happens to waiting polls, and refused
//! upgrades.

use super::{ATTEMPTS, open};
use carillon_tests::conformance::{Conformance, reference_differs};
use carillon_tests::polling::{Endpoint, PATIENCE, Session, WebSocket};
use std::time::Duration;

/// Time within which the server ends the WebSocket of a stalled upgrade; the reference does so after 10 s.
const STALLED_UPGRADE: Duration = Duration::from_secs(15);

/// Asserts that the session's messages are echoed on its WebSocket.
async fn assert_carries(endpoint: &Endpoint, socket: &mut WebSocket) {
    let (sent, expected) = match endpoint.path {
        "/socket.io/" => (r#"42["message",1]"#, r#"42["message-back",1]"#),
        _ => ("4hello", "4hello"),
    };
    socket.send(sent).await;
    assert_eq!(socket.text().await, expected);
}

/// Asserts that the session's messages are echoed by polling, on Engine.IO's path.
async fn assert_polls(session: &mut Session, text: &str) {
    session.send(text).await;
    assert_eq!(session.next().await, text);
}

/// A poll after the probe's answer is answered by a noop, so that the client can stop polling.
#[tokio::test]
async fn an_upgrade_moves_the_session() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let session = open(&endpoint).await;
        let mut socket = session.probe().await;
        let mut answer = session.poll().await;
        if answer.body == "2" {
            // On a slow machine a ping may come first.
            session.send("3").await;
            answer = session.poll().await;
        }
        assert_eq!((answer.status, answer.body.as_str()), (200, "6"));
        socket.send("5").await;
        assert_carries(&endpoint, &mut socket).await;
    }
}

/// The probe answers a poll that waits with a noop. If a heartbeat answered the poll, the test tries again.
#[tokio::test]
async fn a_poll_that_waits_is_ended_by_the_probe() {
    let server = Conformance::start().await;
    for _ in 0..ATTEMPTS {
        let session = server.engine().open().await;
        let pending = session.begin_poll().await;
        let mut socket = session.probe().await;
        let answer = pending.answer().await;
        socket.send("5").await;
        assert_carries(&server.engine(), &mut socket).await;
        match (answer.status, answer.body.as_str()) {
            (200, "2") => {}
            (status, body) => {
                assert_eq!((status, body), (200, "6"));
                return;
            }
        }
    }
    panic!("no attempt had a waiting poll");
}

/// A client may send its upgrade without waiting for the probe's answer.
#[tokio::test]
async fn a_client_may_send_probe_and_upgrade_together() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let session = open(&endpoint).await;
        let mut socket = endpoint.websocket(&session.websocket_query()).await.expect("an upgrade");
        socket.send("2probe").await;
        socket.send("5").await;
        assert_eq!(socket.text().await, "3probe");
        assert_carries(&endpoint, &mut socket).await;
    }
}

#[tokio::test]
async fn queued_messages_arrive_over_the_websocket_in_order_and_once() {
    let server = Conformance::start().await;
    let session = server.engine().open().await;
    session.send("4one\u{1e}bAQIDBA==").await;
    let mut socket = session.probe().await;
    session.send("4two").await;
    socket.send("5").await;
    socket.send("4three").await;
    assert_eq!(socket.text().await, "4one");
    assert_eq!(socket.next().await.into_data().as_ref(), [1, 2, 3, 4]);
    assert_eq!(socket.text().await, "4two");
    assert_eq!(socket.text().await, "4three");
}

#[tokio::test]
async fn an_upgraded_session_refuses_polling_and_stays_open() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let session = open(&endpoint).await;
        let mut socket = session.probe().await;
        socket.send("5").await;
        assert_carries(&endpoint, &mut socket).await;
        assert_eq!(session.poll().await.status, 400);
        assert_eq!(session.post("1").await.status, 400);
        assert_eq!(session.post("4hello").await.status, 400);
        assert_carries(&endpoint, &mut socket).await;
    }
}

/// A second client that knows the session's id can neither take nor end the session.
#[tokio::test]
async fn a_second_websocket_on_an_upgraded_session_is_refused() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let session = open(&endpoint).await;
        let mut socket = session.probe().await;
        socket.send("5").await;
        endpoint.refuses_websocket(&session.websocket_query()).await;
        assert_carries(&endpoint, &mut socket).await;
    }
}

/// The session offered no upgrade. The reference lets the second WebSocket take the session over.
#[tokio::test]
async fn a_second_websocket_on_a_session_that_began_by_websocket_is_refused() {
    if reference_differs("upgrades a session from WebSocket to WebSocket") {
        return;
    }
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let (mut socket, handshake) = endpoint.open_websocket().await;
        let sid = handshake["sid"].as_str().expect("a sid");
        if endpoint.path == "/socket.io/" {
            socket.send("40").await;
            assert!(socket.text().await.starts_with("40{"));
            assert_eq!(socket.text().await, r#"42["auth",{}]"#);
        }
        endpoint.refuses_websocket(&format!("EIO=4&transport=websocket&sid={sid}")).await;
        assert_carries(&endpoint, &mut socket).await;
    }
}

#[tokio::test]
async fn a_second_websocket_during_an_upgrade_is_refused() {
    let server = Conformance::start().await;
    for endpoint in server.both() {
        let session = open(&endpoint).await;
        let mut socket = session.probe().await;
        endpoint.refuses_websocket(&session.websocket_query()).await;
        socket.send("5").await;
        assert_carries(&endpoint, &mut socket).await;
    }
}

/// A WebSocket whose first packet is no probe is closed; the session continues by polling and can upgrade later.
#[tokio::test]
async fn a_first_packet_that_is_no_probe_ends_only_the_websocket() {
    let server = Conformance::start().await;
    for packet in ["4hello", "2", "2other", "3probe", "1", "abc", ""] {
        let mut session = server.engine().open().await;
        let mut socket = server.engine().websocket(&session.websocket_query()).await.expect("an upgrade");
        socket.send(packet).await;
        assert_eq!(socket.ended_within(PATIENCE).await, Some(vec![]), "{packet:?}");
        assert_polls(&mut session, "4still here").await;
        let mut socket = session.probe().await;
        socket.send("5").await;
        assert_carries(&server.engine(), &mut socket).await;
    }
}

/// The client drops its WebSocket between probe and upgrade.
#[tokio::test]
async fn an_abandoned_upgrade_leaves_the_session_polling() {
    let server = Conformance::start().await;
    let mut session = server.engine().open().await;
    drop(session.probe().await);
    assert_polls(&mut session, "4still here").await;
    assert_polls(&mut session, "4and here").await;
}

/// The client probes and never upgrades: the server ends the WebSocket, polling works all the time, and the client can
/// try again.
#[tokio::test]
async fn a_stalled_upgrade_is_given_up_while_polling_goes_on() {
    let server = Conformance::start().await;
    let mut session = server.engine().open().await;
    let mut stalled = session.probe().await;
    let ended = tokio::spawn(async move { stalled.ended_within(STALLED_UPGRADE).await });
    while !ended.is_finished() {
        assert_polls(&mut session, "4still here").await;
        // A pause, so that the test does not occupy the machine.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ended.await.expect("no panic"), Some(vec![]));
    assert_polls(&mut session, "4and here").await;
    let mut socket = session.probe().await;
    socket.send("5").await;
    assert_carries(&server.engine(), &mut socket).await;
}

/// After an upgrade the server sends its pings over the WebSocket, and accepts pongs there.
#[tokio::test]
async fn pings_move_to_the_websocket() {
    let server = Conformance::start().await;
    let session = server.engine().open().await;
    let mut socket = session.probe().await;
    socket.send("5").await;
    for _ in 0..4 {
        let ping = socket.receive().await.expect("a ping");
        assert_eq!(ping.into_data().as_ref(), b"2");
        socket.send("3").await;
    }
}
