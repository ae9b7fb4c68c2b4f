//! Malformed packets: each closes its own connection, and no other one.

use super::{assert_closed, assert_lives, connected};
use carillon_tests::conformance::{Conformance, is_reference, reference_differs};
use tokio_tungstenite::tungstenite::protocol::Message;

/// Asserts that each packet closes its connection to the main namespace, and that another connection stays open.
async fn assert_each_closes(packets: &[&str]) {
    let server = Conformance::start().await;
    let mut bystander = connected(&server).await;
    for packet in packets {
        let mut socket = connected(&server).await;
        socket.send(packet).await;
        assert_closed(&mut socket, packet.get(..80).unwrap_or(packet)).await;
        assert_lives(&mut bystander).await;
    }
}

#[tokio::test]
async fn unknown_packet_types_close_the_connection() {
    assert_each_closes(&["4abc", "4", "47", "49", "4-1", "4 2[\"message\"]", "4\u{1e}"]).await;
}

#[tokio::test]
async fn malformed_payloads_close_the_connection() {
    assert_each_closes(&[
        "42{}",
        "42[]",
        r#"42"message""#,
        "42null",
        "42[null]",
        r#"42[{"message":1}]"#,
        r#"42[["message"]]"#,
        r#"42["message",1"#,
        r#"42["message",1]]"#,
        r#"42["message",1] x"#,
        r#"42["message",'1']"#,
        r#"42["message",NaN]"#,
        "42[\"message\",\"\u{1}\"]",
        "43{}",
        "43x",
        "41{}",
        "41[]",
    ])
    .await;
}

/// Clients use these names for their own local events.
#[tokio::test]
async fn reserved_event_names_close_the_connection() {
    assert_each_closes(&[
        r#"42["connect"]"#,
        r#"42["connect_error",1]"#,
        r#"42["disconnect"]"#,
        r#"42["disconnecting"]"#,
    ])
    .await;
}

#[tokio::test]
async fn an_id_that_is_no_number_closes_the_connection() {
    assert_each_closes(&[
        r#"42abc["message-with-ack",1,"2",{"3":[false]}]"#,
        r#"42-1["message-with-ack",1]"#,
        r#"421.5["message-with-ack",1]"#,
        r#"420x1["message-with-ack",1]"#,
    ])
    .await;
}

/// Connecting twice, a namespace that is not connected or does not exist, and packets that only servers send.
#[tokio::test]
async fn packets_out_of_place_close_the_connection() {
    assert_each_closes(&[
        "40",
        r#"40{"token":"other"}"#,
        r#"42/custom,["message",1]"#,
        r#"42/random,["message",1]"#,
        r#"42/custom["message",1]"#,
        r#"44{"message":"no"}"#,
        r#"44/custom,{"message":"no"}"#,
    ])
    .await;
}

#[tokio::test]
async fn malformed_announcements_of_attachments_close_the_connection() {
    assert_each_closes(&[
        r#"45["message"]"#,
        r#"451["message"]"#,
        r#"45-["message"]"#,
        r#"45x-["message"]"#,
        r#"45-1-["message"]"#,
        r#"450-["message"]"#,
        r#"451.5-["message"]"#,
        r#"451-{"_placeholder":true,"num":0}"#,
        r#"451-["message",{"_placeholder":true"#,
        "461",
        "451",
    ])
    .await;
}

/// A binary message without an announcement, text instead of an attachment, and placeholders without an attachment.
#[tokio::test]
async fn attachments_out_of_place_close_the_connection() {
    let server = Conformance::start().await;
    let mut bystander = connected(&server).await;
    let announcing =
        |number: &str| Message::text(format!(r#"451-["message",{{"_placeholder":true,"num":{number}}}]"#));
    let attachment = || Message::binary(vec![1, 2, 3]);
    let mut table = vec![
        vec![attachment()],
        vec![announcing("0"), Message::text(r#"42["message",1]"#)],
        vec![announcing("0"), Message::text("40/custom,")],
        vec![announcing("0"), announcing("0")],
        vec![announcing("1"), attachment()],
        vec![announcing("-1"), attachment()],
        vec![announcing(r#""0""#), attachment()],
        vec![announcing("null"), attachment()],
    ];
    if !is_reference() {
        // The reference accepts it, as the value `undefined`.
        table.push(vec![announcing("0.5"), attachment()]);
    }
    for messages in table {
        let mut socket = connected(&server).await;
        for message in &messages {
            socket.send_message(message.clone()).await;
        }
        assert_closed(&mut socket, &format!("{messages:?}")).await;
        assert_lives(&mut bystander).await;
    }
}

/// A polling session ends too, and the events behind the malformed packet are not answered.
#[tokio::test]
async fn a_malformed_packet_ends_a_polling_session() {
    let server = Conformance::start().await;
    for packet in ["42{}", "4abc", "bAQID", "40"] {
        let mut session = server.socket().open().await;
        session.send("40").await;
        assert!(session.next().await.starts_with("40{"));
        assert_eq!(session.next().await, r#"42["auth",{}]"#);
        let pending = session.begin_poll().await;
        drop(server.socket().begin("POST", &session.query(), packet).await.answer_if_any().await);
        drop(pending.answer().await);
        let rest = session.gone().await;
        assert!(!rest.iter().any(|packet| packet.starts_with("42")), "{packet}: {rest:?}");
    }
}

/// A JSON list nested to this depth.
fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

#[tokio::test]
async fn moderate_nesting_is_echoed() {
    let server = Conformance::start().await;
    let mut socket = connected(&server).await;
    let deep = nested(30);
    socket.send(&format!(r#"42["message",{deep}]"#)).await;
    assert_eq!(socket.text().await, format!(r#"42["message-back",{deep}]"#));
}

/// Our own bound, because the parser is recursive and must not overflow the stack. The reference parses any depth, but
/// fails to serialize some of them.
#[tokio::test]
async fn deep_nesting_closes_the_connection() {
    if reference_differs("takes JSON of any depth") {
        return;
    }
    let mut packets = Vec::new();
    for deep in [nested(1_000), nested(100_000), "[".repeat(100_000)] {
        packets.push(format!(r#"42["message",{deep}]"#));
        packets.push(format!("42{deep}"));
        packets.push(format!("43{deep}"));
        packets.push(format!(r#"40/custom,{{"token":{deep}}}"#));
        packets.push(format!(r#"451-["message",{{"_placeholder":true,"num":0}},{deep}]"#));
    }
    packets.push(format!(r#"42["message",{}1{}]"#, r#"{"a":"#.repeat(1_000), "}".repeat(1_000)));
    assert_each_closes(&packets.iter().map(String::as_str).collect::<Vec<_>>()).await;
}
