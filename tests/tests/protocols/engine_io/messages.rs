//! Messages in both directions on both transports, and malformed packets and payloads.

use super::ATTEMPTS;
use carillon_tests::conformance::{Conformance, is_reference, reference_differs};
use carillon_tests::polling::{PATIENCE, Pending, SESSION_UNKNOWN, Session};
use futures_util::future::select;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::protocol::Message;

/// Sends a payload and asserts that its packets come back, in order and once.
async fn echoed(session: &mut Session, packets: &[&str]) {
    session.send(&packets.join("\u{1e}")).await;
    for packet in packets {
        assert_eq!(session.next().await, *packet);
    }
}

/// The payloads have one packet, several packets, binary ones between and before text, text beyond ASCII, and an empty
/// message.
#[tokio::test]
async fn polling_carries_payloads_both_ways() {
    let server = Conformance::start().await;
    let payloads: [&[&str]; 6] = [
        &["4hello"],
        &["4test1", "4test2", "4test3"],
        &["4hello", "bAQIDBA=="],
        &["bAQIDBA==", "bAP8=", "4after"],
        &["4grüße, 世界 🔔", "4\"\\\n\0"],
        &["4"],
    ];
    let mut session = server.engine().open().await;
    for packets in payloads {
        echoed(&mut session, packets).await;
    }
}

/// All queued messages form one payload, so one poll returns three messages.
#[tokio::test]
async fn one_poll_returns_all_queued_messages() {
    let server = Conformance::start().await;
    let session = server.engine().open().await;
    session.send("4one\u{1e}bAQIDBA==").await;
    session.send("4two").await;
    let answer = session.poll().await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("\r\ncontent-type: text/plain"), "{answer:?}");
    // A heartbeat may have come in between on a slow machine.
    let packets: Vec<&str> = answer.body.split('\u{1e}').filter(|packet| *packet != "2").collect();
    assert_eq!(packets, ["4one", "bAQIDBA==", "4two"]);
}

/// The bodies are text without a packet type, no text, an unknown type, an empty packet at the end, and one bad packet
/// among good ones. The reference closes the session too, but answers the POST with 200 or drops its connection.
#[tokio::test]
async fn an_invalid_payload_closes_the_session() {
    let server = Conformance::start().await;
    for body in ["abc", "", "9", "4a\u{1e}", "4a\u{1e}abc\u{1e}4b"] {
        let session = server.engine().open().await;
        let mut pending = server.engine().begin("POST", &session.query(), body).await;
        let status = pending.answer_if_any().await.map(|answer| answer.status);
        assert!(is_reference() || status == Some(400), "{body:?}: {status:?}");
        let packets = session.gone().await;
        assert!(!packets.contains(&"4b".to_owned()), "{body:?}: a packet after the malformed one was read");
    }
}

/// The answers to two concurrent requests; a request may get none.
async fn answers(mut pending: [Pending; 2]) -> Vec<(u16, String)> {
    let [first, second] = &mut pending;
    let answers = tokio::join!(first.answer_if_any(), second.answer_if_any());
    [answers.0, answers.1].into_iter().flatten().map(|answer| (answer.status, answer.body)).collect()
}

/// Of two concurrent polls one is refused with 400, and the other gets a close packet. If a heartbeat answered the
/// first poll before the second came, they were not concurrent, and the test tries again.
#[tokio::test]
async fn concurrent_polls_close_the_session() {
    let server = Conformance::start().await;
    for _ in 0..ATTEMPTS {
        let session = server.engine().open().await;
        let mut answers = answers([session.begin_poll().await, session.begin_poll().await]).await;
        if answers.iter().any(|(_, body)| body == "2") {
            continue;
        }
        answers.sort();
        assert_eq!(answers.len(), 2, "{answers:?}");
        assert_eq!(answers[0], (200, "1".into()));
        assert_eq!(answers[1].0, 400, "{answers:?}");
        assert_eq!(session.gone().await, Vec::<String>::new());
        return;
    }
    panic!("no attempt had two polls at the same time");
}

/// Neither of two concurrent POSTs has its whole body yet. One is refused with 400; the other may get no answer.
#[tokio::test]
async fn concurrent_posts_close_the_session() {
    let server = Conformance::start().await;
    let endpoint = server.engine();
    let session = endpoint.open().await;
    let mut first = endpoint.begin_partial(&session.query(), 6, "4he").await;
    let mut second = endpoint.begin_partial(&session.query(), 6, "4he").await;
    let (first, second) = (pin!(first.answer_if_any()), pin!(second.answer_if_any()));
    let (answer, other) = select(first, second).await.factor_first();
    let answer = if answer.is_some() { answer } else { other.await };
    assert_eq!(answer.map(|answer| answer.status), Some(400));
    assert_eq!(session.gone().await, Vec::<String>::new());
}

/// A client that ends the connection of its poll ends the session. It sends pongs, and its polls never overlap, so
/// neither the heartbeat nor a concurrent poll ends the session. If a poll was cancelled before the server read it, the
/// next one is cancelled too.
#[tokio::test]
async fn a_cancelled_poll_closes_the_session() {
    let server = Conformance::start().await;
    let session = server.engine().open().await;
    let deadline = Instant::now() + PATIENCE;
    while session.post("3").await.status != 400 {
        assert!(Instant::now() < deadline, "the session was not closed in time");
        let poll = session.begin_poll().await;
        sleep(Duration::from_millis(100)).await;
        drop(poll);
    }
    assert_eq!(session.poll().await.body, SESSION_UNKNOWN);
}

#[tokio::test]
async fn a_websocket_carries_text_and_binary_both_ways() {
    let server = Conformance::start().await;
    let (mut socket, _) = server.engine().open_websocket().await;
    for text in ["4hello", "4", "4grüße, 世界 🔔", "4\u{1e}4"] {
        socket.send(text).await;
        assert_eq!(socket.text().await, text);
    }
    for bytes in [&[1, 2, 3, 4][..], &[0], &[255; 70_000]] {
        socket.send_binary(bytes).await;
        assert_eq!(socket.next().await, Message::binary(bytes.to_vec()));
    }
}

#[tokio::test]
async fn an_invalid_packet_closes_the_websocket() {
    let server = Conformance::start().await;
    let (mut bystander, _) = server.engine().open_websocket().await;
    for packet in ["abc", "", "9", "hello"] {
        let (mut socket, _) = server.engine().open_websocket().await;
        socket.send(packet).await;
        assert_eq!(socket.ended_within(PATIENCE).await, Some(vec![]), "{packet:?}");
    }
    bystander.send("4hello").await;
    assert_eq!(bystander.text().await, "4hello", "another session must not be affected");
}

#[tokio::test]
async fn a_payload_may_have_1000_packets() {
    let server = Conformance::start().await;
    let mut session = server.engine().open().await;
    let packets: Vec<String> = (0..1_000).map(|number| format!("4{number}")).collect();
    echoed(&mut session, &packets.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// Our own bound; the reference accepts any number, so one POST of empty packets could occupy a server
/// (CVE-2020-36049).
#[tokio::test]
async fn a_payload_with_1001_packets_closes_the_session() {
    if reference_differs("takes any number of packets") {
        return;
    }
    let server = Conformance::start().await;
    for packet in ["4x", "6", "3"] {
        let session = server.engine().open().await;
        let answer = session.post(&[packet; 1_001].join("\u{1e}")).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(session.gone().await, Vec::<String>::new(), "no packet may be echoed");
    }
}

/// The handshake announces `maxPayload`, 1,000,000 bytes. The bound also holds for a chunked body, whose length no
/// header announces.
#[tokio::test]
async fn a_post_over_max_payload_is_refused_and_one_of_that_size_is_read() {
    let server = Conformance::start().await;
    let endpoint = server.engine();
    let mut session = endpoint.open().await;
    let full = format!("4{}", "x".repeat(999_999));
    session.send(&full).await;
    assert!(session.next().await == full, "the echo differs from the message");
    let session = endpoint.open().await;
    assert_eq!(session.post(&format!("{full}x")).await.status, 413);
    // This request is chunked, so no header has its length.
    let session = endpoint.open().await;
    let chunk = "4".repeat(100_001);
    let pending = endpoint.begin_chunked(&session.query(), &[chunk.as_str(); 10]).await;
    assert_eq!(pending.answer().await.status, 413);
}

#[tokio::test]
async fn a_websocket_message_over_max_payload_ends_the_connection() {
    let server = Conformance::start().await;
    let (mut socket, _) = server.engine().open_websocket().await;
    let full = format!("4{}", "x".repeat(999_999));
    socket.send(&full).await;
    assert!(socket.text().await == full, "the echo differs from the message");
    socket.send(&format!("{full}x")).await;
    assert_eq!(socket.ended().await, []);
    let (mut socket, _) = server.engine().open_websocket().await;
    socket.send_binary(&vec![0; 1_000_001]).await;
    assert_eq!(socket.ended().await, []);
}
