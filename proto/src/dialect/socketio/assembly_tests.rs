//! Tests of attachments: each limit exactly, messages in the wrong order, and that no state is kept beyond the limits.

use super::*;
use crate::dialect::socketio::packet::Kind;
use proptest::prelude::*;

const BINARY: &str = r#"52-/n,7["up",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;

fn announce(count: u32) -> String {
    format!(r#"5{count}-["up"]"#)
}

fn assert_idle(assembly: &mut Assembly) {
    assert!(!assembly.is_waiting());
    assert_eq!(assembly.deadline_ms(), None);
    assert_eq!(assembly.binary(0, Bytes::new()), Err(AssemblyError::UnexpectedBinary));
}

#[test]
fn a_packet_without_attachments_completes_at_once() {
    let mut assembly = Assembly::new(false);
    for text in [r#"2["a"]"#, "0", "31[]"] {
        let packet = assembly.text(0, text).expect("a packet").expect("complete");
        assert_eq!(packet.attachments, 0, "{text}");
        assert_idle(&mut assembly);
    }
}

#[test]
fn a_binary_packet_needs_attachments_and_placeholders_must_refer_to_them() {
    for text in [r#"50-["a"]"#, "60-1[]"] {
        let refused = Assembly::new(true).text(0, text).expect_err("refused");
        assert_eq!(refused, AssemblyError::NoAttachments, "{text}");
    }
    let complete = |data: &str| {
        let mut assembly = Assembly::new(true);
        assert!(assembly.text(0, &format!("51-[\"a\",{data}]")).expect("a packet").is_none());
        assembly.binary(0, Bytes::from_static(b"x")).map(|assembled| assembled.is_some())
    };
    for data in [r#"{"_placeholder":true,"num":0}"#, r#"[{"b":{"_placeholder":true,"num":0}}]"#, "1"] {
        assert_eq!(complete(data), Ok(true), "{data}");
    }
    for number in ["1", "-1", "0.5", "\"0\"", "null", "18446744073709551616"] {
        let data = format!(r#"{{"deep":[{{"_placeholder":true,"num":{number}}}]}}"#);
        assert_eq!(complete(&data), Err(AssemblyError::Placeholder), "{data}");
    }
    assert_eq!(complete(r#"{"_placeholder":true}"#), Err(AssemblyError::Placeholder));
}

#[test]
fn a_packet_is_complete_after_its_last_attachment() {
    let mut assembly = Assembly::new(true);
    assert!(assembly.text(1_000, BINARY).expect("a packet").is_none());
    assert!(assembly.is_waiting());
    assert_eq!(assembly.deadline_ms(), Some(6_000));
    assert_eq!(assembly.binary(1_001, Bytes::from_static(b"first")), Ok(None));
    assert_eq!(assembly.deadline_ms(), Some(6_000), "an attachment does not move the deadline");
    let assembled = assembly.binary(6_000, Bytes::new()).expect("in time").expect("the last");
    assert_eq!(assembled.attachments, [&b"first"[..], b""]);
    let packet = assembled.packet().expect("parsed before");
    assert_eq!((packet.kind, packet.namespace, packet.id), (Kind::BinaryEvent, "/n", Some(7)));
    assert_eq!(packet.event().expect("an event").1[1].get(), r#"{"_placeholder":true,"num":1}"#);
    assert_idle(&mut assembly);
    assert!(
        assembly.text(7_000, r#"2["a"]"#).is_ok_and(|packet| packet.is_some()),
        "the next packet must be read after the attachments"
    );
}

#[test]
fn attachments_do_not_keep_the_receive_buffer_in_memory() {
    let mut assembly = Assembly::new(true);
    let buffer = Bytes::from(vec![7; 65_536]);
    assert!(assembly.text(0, &announce(1)).expect("a packet").is_none());
    let assembled = assembly.binary(0, buffer.slice(10..12)).expect("in time").expect("the last");
    assert_eq!(assembled.attachments, [&[7, 7][..]]);
    assert!(buffer.is_unique());
}

#[test]
fn attachments_are_refused_before_authentication() {
    let mut assembly = Assembly::new(false);
    assert_eq!(
        assembly.text(0, BINARY).expect_err("a binary event is not allowed yet"),
        AssemblyError::NotAllowed
    );
    assert_idle(&mut assembly);
    assembly.allow_attachments();
    assert!(assembly.text(0, BINARY).expect("allowed").is_none());
}

#[test]
fn bounds_hold_exactly() {
    let mut assembly = Assembly::new(true);
    assert_eq!(assembly.text(0, &announce(17)).expect_err("too many"), AssemblyError::TooMany);
    assert_idle(&mut assembly);
    assert_eq!(assembly.text(0, &announce(u32::MAX)).expect_err("too many"), AssemblyError::TooMany);

    let part = Bytes::from(vec![1; limits::SOCKETIO_ATTACHMENTS_BYTES_MAX / 16]);
    assert!(
        assembly.text(0, &announce(16)).expect("the highest number of attachments is accepted").is_none()
    );
    for _ in 0..15 {
        assert_eq!(assembly.binary(0, part.clone()), Ok(None));
    }
    let assembled =
        assembly.binary(0, part.clone()).expect("the largest attachments are accepted").expect("the last");
    assert_eq!(assembled.attachments.len(), 16);

    assert!(assembly.text(0, &announce(16)).expect("a packet").is_none());
    for _ in 0..15 {
        assert_eq!(assembly.binary(0, part.clone()), Ok(None));
    }
    let larger = Bytes::from(vec![1; part.len() + 1]);
    assert_eq!(assembly.binary(0, larger), Err(AssemblyError::TooLarge));
    assert_idle(&mut assembly);

    assert!(assembly.text(10, &announce(1)).expect("a packet").is_none());
    assert_eq!(assembly.binary(5_011, Bytes::new()), Err(AssemblyError::Late));
    assert_idle(&mut assembly);
    assert!(assembly.text(u64::MAX, &announce(1)).expect("a packet").is_none());
    assert_eq!(assembly.deadline_ms(), Some(u64::MAX));
}

#[test]
fn messages_in_the_wrong_order_are_refused() {
    let mut assembly = Assembly::new(true);
    assert_idle(&mut assembly);
    assert!(assembly.text(0, BINARY).expect("a packet").is_none());
    assert_eq!(
        assembly.text(1, r#"2["a"]"#).expect_err("a text packet between attachments is refused"),
        AssemblyError::UnexpectedText
    );
    assert_idle(&mut assembly);
    assert_eq!(assembly.text(0, "9").expect_err("no packet"), AssemblyError::Malformed(Malformed::Type));
    assert_eq!(AssemblyError::Malformed(Malformed::Type).to_string(), Malformed::Type.to_string());
}

#[derive(Debug, Clone)]
enum Message {
    Text(String),
    Binary(usize),
}

fn messages() -> impl Strategy<Value = Vec<(u64, Message)>> {
    let message = prop_oneof![
        (0u32..20).prop_map(|count| Message::Text(announce(count))),
        Just(Message::Text(r#"2["a"]"#.into())),
        ".{0,8}".prop_map(Message::Text),
        (0usize..100).prop_map(Message::Binary),
        (0usize..100).prop_map(Message::Binary),
        (0usize..100).prop_map(Message::Binary),
        (0usize..300_000).prop_map(Message::Binary),
    ];
    prop::collection::vec((0u64..1_000, message), 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    /// Compares the assembly with a simple model of the rules: the announced number, the deadline, and the sizes of the
    /// attachments since.
    #[test]
    fn no_sequence_of_messages_exceeds_the_limits(messages in messages(), allowed in prop::bool::weighted(0.9)) {
        let mut assembly = Assembly::new(allowed);
        let zeros = Bytes::from(vec![0; 300_000]);
        let mut now_ms = 0;
        let mut due: Option<(u32, u64, Vec<usize>)> = None;
        for (elapsed_ms, message) in messages {
            now_ms += elapsed_ms;
            match message {
                Message::Text(text) => {
                    let read = assembly.text(now_ms, &text).map(|packet| packet.is_some());
                    let announced = Packet::parse(&text).map(|packet| packet.attachments);
                    let binary = Packet::parse(&text).is_ok_and(|packet| packet.kind.is_binary());
                    match (due.take(), announced) {
                        (Some(_), _) => prop_assert_eq!(read, Err(AssemblyError::UnexpectedText)),
                        (None, Err(malformed)) => prop_assert_eq!(read, Err(AssemblyError::Malformed(malformed))),
                        (None, Ok(0)) if binary => prop_assert_eq!(read, Err(AssemblyError::NoAttachments)),
                        (None, Ok(0)) => prop_assert_eq!(read, Ok(true)),
                        (None, Ok(_)) if !allowed => prop_assert_eq!(read, Err(AssemblyError::NotAllowed)),
                        (None, Ok(17..)) => prop_assert_eq!(read, Err(AssemblyError::TooMany)),
                        (None, Ok(count)) => {
                            prop_assert_eq!(read, Ok(false));
                            due = Some((count, now_ms + 5_000, Vec::new()));
                        }
                    }
                }
                Message::Binary(size) => {
                    let read = assembly.binary(now_ms, zeros.slice(..size));
                    match due.take() {
                        None => prop_assert_eq!(read, Err(AssemblyError::UnexpectedBinary)),
                        Some((_, deadline_ms, _)) if now_ms > deadline_ms => prop_assert_eq!(read, Err(AssemblyError::Late)),
                        Some((count, deadline_ms, mut sizes)) => {
                            sizes.push(size);
                            if sizes.iter().sum::<usize>() > 262_144 {
                                prop_assert_eq!(read, Err(AssemblyError::TooLarge));
                            } else if sizes.len() == count as usize {
                                let assembled = read.expect("complete").expect("complete");
                                let came: Vec<usize> = assembled.attachments.iter().map(Bytes::len).collect();
                                prop_assert_eq!(came, sizes);
                            } else {
                                prop_assert_eq!(read, Ok(None));
                                due = Some((count, deadline_ms, sizes));
                            }
                        }
                    }
                }
            }
            prop_assert_eq!(assembly.is_waiting(), due.is_some());
            prop_assert_eq!(assembly.deadline_ms(), due.as_ref().map(|(_, deadline_ms, _)| *deadline_ms));
        }
    }
}
