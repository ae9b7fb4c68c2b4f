//! Tests of Engine.IO packets: the protocol's examples, the results of the reference parser, and that parsing and
//! writing are inverse.

use super::*;
use crate::limits;
use proptest::prelude::*;

fn read(text: &str) -> Packet<'_> {
    Packet::parse(text).unwrap_or_else(|malformed| panic!("{text}: {malformed}"))
}

fn written(packet: &Packet<'_>) -> String {
    let mut out = String::new();
    packet.write(&mut out);
    out
}

#[test]
fn the_examples_of_the_engine_io_protocol_are_parsed() {
    let table = [
        ("1", Packet::Close),
        ("2", Packet::Ping("".into())),
        ("2probe", Packet::Ping("probe".into())),
        ("3", Packet::Pong("".into())),
        ("3probe", Packet::Pong("probe".into())),
        ("4hello", Packet::Message("hello".into())),
        ("4€", Packet::Message("€".into())),
        ("5", Packet::Upgrade),
        ("6", Packet::Noop),
        ("bAQIDBA==", Packet::Binary(vec![1, 2, 3, 4].into())),
        ("b", Packet::Binary(vec![].into())),
    ];
    for (text, packet) in table {
        assert_eq!(read(text), packet, "{text}");
        assert_eq!(written(&packet), text);
    }
    let payloads = [
        (
            "4hello\u{1e}2\u{1e}4world",
            vec![Packet::Message("hello".into()), Packet::Ping("".into()), Packet::Message("world".into())],
        ),
        (
            "4hello\u{1e}bAQIDBA==",
            vec![Packet::Message("hello".into()), Packet::Binary(vec![1, 2, 3, 4].into())],
        ),
    ];
    for (body, packets) in payloads {
        assert_eq!(parse_payload(body, 64).as_ref(), Ok(&packets), "{body}");
        assert_eq!(payload(&packets), body);
    }
}

#[test]
fn text_is_borrowed() {
    let Packet::Message(Cow::Borrowed("hello")) = read("4hello") else { panic!("not a borrowed message") };
}

#[test]
fn the_handshake_has_the_documented_form() {
    let handshake = Handshake {
        sid: "lv_VI97HAXpY6yYWAAAC",
        upgrades: &["websocket"],
        ping_interval_ms: 25_000,
        ping_timeout_ms: 5_000,
        max_payload_bytes: 1_000_000,
    };
    assert_eq!(
        handshake.packet(),
        r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":5000,"maxPayload":1000000}"#
    );
    let websocket = Handshake { upgrades: &[], sid: "a\"b", ..handshake };
    assert!(websocket.packet().starts_with(r#"0{"sid":"a\"b","upgrades":[],"#), "{}", websocket.packet());
}

#[test]
fn a_payload_has_at_most_packets_max_packets() {
    let body = |packets: usize| vec!["2"; packets].join("\u{1e}");
    let packets_max = limits::ENGINEIO_POST_PACKETS_MAX;
    assert_eq!(parse_payload(&body(packets_max), packets_max).map(|packets| packets.len()), Ok(packets_max));
    assert_eq!(
        parse_payload(&body(packets_max + 1), packets_max),
        Err(Malformed::TooManyPackets { packets_max })
    );
    assert_eq!(parse_payload(&"\u{1e}".repeat(1_000_000), packets_max), Err(Malformed::Empty));
    assert_eq!(parse_payload("2", 0), Err(Malformed::TooManyPackets { packets_max: 0 }));
}

#[test]
fn malformed_packets_have_their_errors() {
    for (text, malformed) in [
        ("", Malformed::Empty),
        ("7", Malformed::Type),
        ("é", Malformed::Type),
        ("1 ", Malformed::UnexpectedData),
        ("b=", Malformed::Base64),
    ] {
        assert_eq!(Packet::parse(text), Err(malformed), "{text}");
    }
    assert_eq!(parse_payload("", 64), Err(Malformed::Empty));
    assert_eq!(parse_payload("4a\u{1e}", 64), Err(Malformed::Empty));
    assert_eq!(parse_payload("4a\u{1e}\u{1e}4b", 64), Err(Malformed::Empty));
}

#[test]
fn bodies_are_parsed_like_the_reference_does() {
    for (body, packets) in ACCEPTED {
        let read = parse_payload(body, 64).unwrap_or_else(|malformed| panic!("{body}: {malformed}"));
        assert_eq!(read.iter().map(written).collect::<Vec<_>>(), *packets, "{body}");
    }
}

#[test]
fn bodies_that_the_reference_refuses_are_refused() {
    for body in REFUSED {
        assert!(parse_payload(body, 64).is_err(), "{body}");
    }
}

#[test]
fn bodies_that_no_encoder_writes_are_refused() {
    for (body, malformed) in STRICTER {
        assert_eq!(parse_payload(body, 64), Err(*malformed), "{body:?}");
    }
}

fn packets() -> impl Strategy<Value = Packet<'static>> {
    let text = "[^\u{1e}]{0,20}".prop_map(Cow::<str>::Owned);
    let bytes = prop::collection::vec(any::<u8>(), 0..40).prop_map(Cow::<[u8]>::Owned);
    prop_oneof![
        text.clone().prop_map(Packet::Open),
        Just(Packet::Close),
        text.clone().prop_map(Packet::Ping),
        text.clone().prop_map(Packet::Pong),
        text.prop_map(Packet::Message),
        bytes.prop_map(Packet::Binary),
        Just(Packet::Upgrade),
        Just(Packet::Noop),
    ]
}

/// Payloads that are almost valid: a valid one with a few characters replaced.
fn mutated() -> impl Strategy<Value = String> {
    let valid = prop::collection::vec(packets(), 1..5).prop_map(|packets| payload(&packets));
    let (at, with) = (any::<[prop::sample::Index; 2]>(), "[0-9b=+/A-Za-z\u{1e}]{0,4}|.{0,4}");
    (valid, at, with).prop_map(|(body, at, with)| {
        let mut characters: Vec<char> = body.chars().collect();
        let [from, to] = at.map(|index| index.index(characters.len() + 1));
        let from = from.min(to);
        characters.splice(from..to.min(from + 6), with.chars());
        characters.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn written_payloads_are_parsed_back(packets in prop::collection::vec(packets(), 1..8)) {
        let body = payload(&packets);
        prop_assert_eq!(parse_payload(&body, 8), Ok(packets));
    }

    #[test]
    fn parsed_payloads_are_written_back_unchanged(body in prop_oneof![mutated(), ".{0,80}", "[0-6b=\u{1e}]{1,80}"]) {
        match parse_payload(&body, 64) {
            Ok(packets) => prop_assert_eq!(payload(&packets), body),
            Err(malformed) => prop_assert!(!malformed.to_string().is_empty()),
        }
    }
}

// The results of engine.io-parser 5.2.3 from npm: each body was decoded with its `decodePayload`, and each packet then
// encoded with its `encodePacket`.

const ACCEPTED: &[(&str, &[&str])] = &[
    (r#"0{"sid":"a"}"#, &[r#"0{"sid":"a"}"#]),
    ("0", &["0"]),
    ("1", &["1"]),
    ("2", &["2"]),
    ("2probe", &["2probe"]),
    ("3", &["3"]),
    ("3probe", &["3probe"]),
    ("4", &["4"]),
    ("4hello", &["4hello"]),
    ("4€", &["4€"]),
    ("4hello\u{1e}2\u{1e}4world", &["4hello", "2", "4world"]),
    ("4hello\u{1e}bAQIDBA==", &["4hello", "bAQIDBA=="]),
    ("b", &["b"]),
    ("bAA==", &["bAA=="]),
    ("b////", &["b////"]),
    ("bAQID", &["bAQID"]),
    ("42[\"hello\"]\u{1e}42[\"world\"]", &[r#"42["hello"]"#, r#"42["world"]"#]),
    ("40", &["40"]),
    ("40/admin,", &["40/admin,"]),
    ("5", &["5"]),
    ("6", &["6"]),
    ("4b", &["4b"]),
    ("44", &["44"]),
    ("41-", &["41-"]),
    ("2\u{1e}3\u{1e}6", &["2", "3", "6"]),
    ("4 \u{a}", &["4 \u{a}"]),
    (
        "451-[\"a\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAQID",
        &[r#"451-["a",{"_placeholder":true,"num":0}]"#, "bAQID"],
    ),
    ("0\u{1e}1\u{1e}2\u{1e}3\u{1e}4\u{1e}5\u{1e}6\u{1e}b", &["0", "1", "2", "3", "4", "5", "6", "b"]),
    ("4\u{0}", &["4\u{0}"]),
    ("4bAQID", &["4bAQID"]),
    ("4é😀", &["4é😀"]),
];

const REFUSED: &[&str] = &[
    "",
    "7",
    "8",
    "9",
    "a",
    "abc",
    "B",
    "\u{1e}",
    "4a\u{1e}",
    "\u{1e}4a",
    "4a\u{1e}\u{1e}4b",
    "4a\u{1e}7",
    "4a\u{1e}x\u{1e}4b",
    " 4a",
    "-1",
    "{}",
    "\u{a}",
    "é",
    "٤a",
    "\u{0}",
    "4a\u{1e} ",
];

const STRICTER: &[(&str, Malformed)] = &[
    ("1x", Malformed::UnexpectedData),
    ("5probe", Malformed::UnexpectedData),
    ("6 ", Malformed::UnexpectedData),
    ("4a\u{1e}1\u{a}", Malformed::UnexpectedData),
    ("bAQIDBA", Malformed::Base64),
    ("bAQIDBA=", Malformed::Base64),
    ("b-_-_", Malformed::Base64),
    ("bAQ==AQ==", Malformed::Base64),
    ("b AQID", Malformed::Base64),
    ("bAQID\u{a}", Malformed::Base64),
    ("b!", Malformed::Base64),
    ("bA", Malformed::Base64),
    ("bAB==", Malformed::Base64),
    ("b====", Malformed::Base64),
    ("bAQID\u{1e}bé", Malformed::Base64),
];
