//! Messages both ways on both transports, and what is no message.

use crate::ATTEMPTS;
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

/// One packet, several, binary among text, none but ASCII not, an empty message.
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

/// What waits is one payload, so a client hears of three messages by one poll.
#[tokio::test]
async fn what_waits_comes_with_one_poll() {
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

/// Not a packet, nothing, a type that does not exist, an empty packet at the end, one bad packet among good ones.
/// The reference closes the session too, but answers such a POST with 200 or cuts its connection.
#[tokio::test]
async fn an_invalid_payload_closes_the_session() {
    let server = Conformance::start().await;
    for body in ["abc", "", "9", "4a\u{1e}", "4a\u{1e}abc\u{1e}4b"] {
        let session = server.engine().open().await;
        let mut pending = server.engine().begin("POST", &session.query(), body).await;
        let status = pending.answer_if_any().await.map(|answer| answer.status);
        assert!(is_reference() || status == Some(400), "{body:?}: {status:?}");
        let packets = session.gone().await;
        assert!(!packets.contains(&"4b".to_owned()), "{body:?}: what follows is not read");
    }
}

/// Both answers of two concurrent requests, as they come.
async fn answers(mut pending: [Pending; 2]) -> Vec<(u16, String)> {
    let [first, second] = &mut pending;
    let answers = tokio::join!(first.answer_if_any(), second.answer_if_any());
    [answers.0, answers.1].into_iter().flatten().map(|answer| (answer.status, answer.body)).collect()
}

/// Two polls at a time: one is refused with 400, the other is told to close, whichever came first. Where a heartbeat
/// answered the first one before the second came, they were not concurrent, and the race is run again.
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
    panic!("no two polls were ever concurrent");
}

/// Two POSTs at a time, neither of which has arrived whole: one is refused with 400 nevertheless. The other may be cut.
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

/// A client that takes back its poll is gone. Its pongs still come, and its polls never overlap: neither the heartbeat
/// nor a concurrent poll is what ends the session. One that is taken back before the server has seen it is taken back
/// again.
#[tokio::test]
async fn a_cancelled_poll_closes_the_session() {
    let server = Conformance::start().await;
    let session = server.engine().open().await;
    let deadline = Instant::now() + PATIENCE;
    while session.post("3").await.status != 400 {
        assert!(Instant::now() < deadline, "not closed");
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
    assert_eq!(bystander.text().await, "4hello", "others notice nothing");
}

#[tokio::test]
async fn a_payload_may_have_1000_packets() {
    let server = Conformance::start().await;
    let mut session = server.engine().open().await;
    let packets: Vec<String> = (0..1_000).map(|number| format!("4{number}")).collect();
    echoed(&mut session, &packets.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// Our bound; the reference takes any number, which let one POST of empty packets occupy it (CVE-2020-36049).
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
        assert_eq!(session.gone().await, Vec::<String>::new(), "none of them is echoed");
    }
}

#[tokio::test]
async fn a_post_may_be_as_large_as_max_payload_says_and_no_larger() {
    let server = Conformance::start().await;
    let endpoint = server.engine();
    let mut session = endpoint.open().await;
    let full = format!("4{}", "x".repeat(999_999));
    session.send(&full).await;
    assert!(session.next().await == full, "echoed whole");
    let session = endpoint.open().await;
    assert_eq!(session.post(&format!("{full}x")).await.status, 413);
    // No header tells the length of this one.
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
    assert!(socket.text().await == full, "echoed whole");
    socket.send(&format!("{full}x")).await;
    assert_eq!(socket.ended().await, []);
    let (mut socket, _) = server.engine().open_websocket().await;
    socket.send_binary(&vec![0; 1_000_001]).await;
    assert_eq!(socket.ended().await, []);
}
