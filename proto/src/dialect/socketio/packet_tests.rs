//! Tests of Socket.IO packets: the protocol's examples, the data that each kind accepts, and that parsing and writing
//! are inverse.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(text: &str) -> Packet<'_> {
    Packet::parse(text).unwrap_or_else(|malformed| panic!("{text}: {malformed}"))
}

fn wrong(text: &str) -> Malformed {
    Packet::parse(text).expect_err(text)
}

/// Encodes the packet, without the Engine.IO `4`.
fn written(packet: &Packet<'_>) -> String {
    let Packet { kind, attachments, namespace, id, data, .. } = packet;
    message(*kind, *attachments, namespace, *id, data.unwrap_or_default()).split_off(1)
}

#[test]
fn the_examples_of_the_socket_io_protocol_are_parsed() {
    let placeholders = r#"["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    let table = [
        (connect("/", ""), "40"),
        (connect("/", r#"{"sid":"wZX3oN0bSVIhsaknAAAI"}"#), r#"40{"sid":"wZX3oN0bSVIhsaknAAAI"}"#),
        (
            connect("/admin", r#"{"sid":"oSO0OpakMV_3jnilAAAA"}"#),
            r#"40/admin,{"sid":"oSO0OpakMV_3jnilAAAA"}"#,
        ),
        (connect_error("/", r#"{"message":"Not authorized"}"#), r#"44{"message":"Not authorized"}"#),
        (
            connect_error("/random", r#"{"message":"Invalid namespace"}"#),
            r#"44/random,{"message":"Invalid namespace"}"#,
        ),
        (event("/", None, r#"["foo"]"#), r#"42["foo"]"#),
        (event("/admin", None, r#"["bar"]"#), r#"42/admin,["bar"]"#),
        (event("/", Some(12), r#"["foo"]"#), r#"4212["foo"]"#),
        (ack("/admin", 13, r#"["bar"]"#), r#"43/admin,13["bar"]"#),
        (ack("/", 0, "[]"), "430[]"),
        (
            binary(Kind::BinaryEvent, 1, "/", None, r#"["baz",{"_placeholder":true,"num":0}]"#),
            r#"451-["baz",{"_placeholder":true,"num":0}]"#,
        ),
        (
            binary(Kind::BinaryEvent, 2, "/admin", None, placeholders),
            r#"452-/admin,["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#,
        ),
        (
            binary(Kind::BinaryAck, 1, "/", Some(15), r#"["bar",{"_placeholder":true,"num":0}]"#),
            r#"461-15["bar",{"_placeholder":true,"num":0}]"#,
        ),
        (disconnect("/"), "41"),
        (disconnect("/admin"), "41/admin,"),
    ];
    for (encoded, expected) in table {
        assert_eq!(encoded, expected);
        assert_eq!(written(&read(&encoded[1..])), expected[1..]);
    }
}

#[test]
fn bad_packets_of_the_protocols_test_suite_are_refused() {
    assert_eq!(wrong("abc"), Malformed::Type);
    assert_eq!(wrong("2{}"), Malformed::Data(Kind::Event));
    assert_eq!(wrong(r#"2abc["message-with-ack",1,"2",{"3":[false]}]"#), Malformed::Data(Kind::Event));
}

#[test]
fn all_parts_of_a_packet_are_parsed() {
    let packet = read(r#"52-/admin,456["up",{"_placeholder":true,"num":0},[1, 2],"x" ]"#);
    assert_eq!(
        (packet.kind, packet.attachments, packet.namespace, packet.id),
        (Kind::BinaryEvent, 2, "/admin", Some(456))
    );
    let (name, rest) = packet.event().expect("an event");
    assert_eq!(name, "up");
    let rest: Vec<&str> = rest.iter().map(|argument| argument.get()).collect();
    assert_eq!(rest, [r#"{"_placeholder":true,"num":0}"#, "[1, 2]", r#""x""#]);
    assert_eq!(packet.arguments().expect("an array").len(), 4);

    let answer = read(r#"37[null,"]"]"#);
    assert_eq!(
        answer.arguments().expect("an array").iter().map(|a| a.get()).collect::<Vec<_>>(),
        ["null", r#""]""#]
    );
    assert_eq!(answer.event().expect_err("an answer"), Malformed::NoEvent(Kind::Ack));
    assert_eq!(read("0{}").arguments().expect_err("an object"), Malformed::NoArguments(Kind::Connect));
    assert_eq!(
        read("1").event().expect_err("a disconnect packet has no event"),
        Malformed::NoEvent(Kind::Disconnect)
    );
}

#[test]
fn an_event_name_must_be_text_that_is_not_reserved() {
    assert!(matches!(read(r#"2["a.b"]"#).event(), Ok((Cow::Borrowed("a.b"), []))));
    assert_eq!(read(r#"2["\u0061\n"]"#).event().expect("escaped").0, "a\n");
    assert_eq!(read("2[7]").event().expect_err("a number"), Malformed::EventName);
    assert_eq!(read("2[-7e1]").event().expect_err("a number"), Malformed::EventName);
    assert_eq!(wrong(r#"2["\udc00"]"#), Malformed::EventName);
    for name in RESERVED_EVENTS {
        assert_eq!(wrong(&format!(r#"2["{name}",1]"#)), Malformed::ReservedEvent, "{name}");
        assert_eq!(wrong(&format!(r#"51-["{name}"]"#)), Malformed::ReservedEvent, "{name}");
        let escaped = format!(r#"2["\u{:04x}{}"]"#, u32::from(name.as_bytes()[0]), &name[1..]);
        assert_eq!(wrong(&escaped), Malformed::ReservedEvent, "{escaped}");
        assert!(
            Packet::parse(&format!(r#"31["{name}"]"#)).is_ok(),
            "an acknowledgement has no event name, so a reserved one is allowed"
        );
    }
}

#[test]
fn bounds_hold_exactly() {
    let nested = |depth: usize| format!(r#"2["a",{}{}]"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert!(Packet::parse(&nested(limits::JSON_DEPTH_MAX)).is_ok());
    assert_eq!(wrong(&nested(limits::JSON_DEPTH_MAX + 1)), Malformed::Depth);
    let object = |depth: usize| format!("0{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    assert!(Packet::parse(&object(limits::JSON_DEPTH_MAX)).is_ok());
    assert_eq!(wrong(&object(limits::JSON_DEPTH_MAX + 1)), Malformed::Depth);
    assert_eq!(wrong(&nested(30_000)), Malformed::Depth);
    assert_eq!(wrong(&format!("2{}", "[".repeat(60_000))), Malformed::Json);

    assert_eq!(read("218446744073709551615[0]").id, Some(u64::MAX));
    assert_eq!(wrong("218446744073709551616[0]"), Malformed::Id);
    assert_eq!(read("54294967295-[0]").attachments, u32::MAX);
    assert_eq!(wrong("54294967296-[0]"), Malformed::Attachments);
    assert_eq!(wrong("5-[0]"), Malformed::Attachments);
    assert_eq!(wrong("500-[0]"), Malformed::Attachments);
}

#[test]
fn error_texts_name_the_rule() {
    assert_eq!(
        wrong("2[]").to_string(),
        "the data of EVENT must be an array that begins with the event's name"
    );
    assert_eq!(wrong("61-[]").to_string(), "BINARY_ACK must have the id of the event it answers");
    assert_eq!(Malformed::Depth.to_string(), "the data must nest at most 32 levels");
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaves = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!({"_placeholder": true, "num": 0})),
    ];
    leaves.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((".{0,6}", inner), 0..4).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

/// Texts of valid packets of every kind, with their arguments if the kind has some.
fn valid() -> impl Strategy<Value = (String, Vec<Value>)> {
    let namespaces = prop_oneof![Just("/".to_owned()), "/[^,?\\p{Cc}]{1,12}"];
    let arguments = prop::collection::vec(json_values(), 0..4);
    let name = prop_oneof!["[a-z_:]{0,12}", ".{0,6}"]
        .prop_filter("reserved", |name| !RESERVED_EVENTS.contains(&name.as_str()));
    (0..Kind::ALL.len(), namespaces, any::<Option<u64>>(), any::<u32>(), name, arguments).prop_map(
        |(kind, namespace, id, count, name, mut arguments)| {
            let kind = Kind::ALL[kind];
            let id = if kind.is_ack() { Some(id.unwrap_or(7)) } else { id };
            let data = match kind {
                Kind::Connect => r#"{"token":"a,b/?"}"#.to_owned(),
                Kind::Disconnect => String::new(),
                Kind::ConnectError => Value::from(name).to_string(),
                Kind::Ack | Kind::BinaryAck => Value::from(arguments.clone()).to_string(),
                Kind::Event | Kind::BinaryEvent => {
                    arguments.insert(0, name.into());
                    Value::from(arguments.clone()).to_string()
                }
            };
            let has_array = kind.is_event() || kind.is_ack();
            let text = message(kind, count, &namespace, id, &data).split_off(1);
            (text, if has_array { arguments } else { Vec::new() })
        },
    )
}

/// Texts that are almost valid: a valid one with a few characters replaced.
fn mutated() -> impl Strategy<Value = String> {
    let (at, with) = (any::<[prop::sample::Index; 2]>(), "[0-9,/?\\-\\[\\]{}\" ]{0,3}|.{0,4}");
    (valid(), at, with).prop_map(|((text, _), at, with)| {
        let mut characters: Vec<char> = text.chars().collect();
        let [from, to] = at.map(|index| index.index(characters.len() + 1));
        let from = from.min(to);
        characters.splice(from..to.min(from + 6), with.chars());
        characters.into_iter().collect()
    })
}

/// An accepted `text` in the form that an encoder writes: without a query, without the main namespace, with a comma
/// after any other namespace, and with nothing after the data.
fn normal(text: &str) -> String {
    let binary = text.starts_with(['5', '6']);
    let head = if binary { text.find('-').map_or(text.len(), |dash| dash + 1) } else { 1 };
    let (head, rest) = text.split_at(head);
    let (namespace, rest) = match rest.starts_with('/') {
        true => rest.split_once(',').unwrap_or((rest, "")),
        false => ("", rest),
    };
    let path = namespace.split('?').next().unwrap_or_default();
    let path = if path.len() > 1 { format!("{path},") } else { String::new() };
    format!("{head}{path}{}", rest.trim_end_matches([' ', '\t', '\n', '\r']))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn written_packets_are_parsed_back((text, arguments) in valid()) {
        let packet = Packet::parse(&text).map_err(|malformed| TestCaseError::fail(format!("{text}: {malformed}")))?;
        prop_assert_eq!(written(&packet), text.as_str());
        let values: Vec<Value> = packet.arguments().unwrap_or_default().iter()
            .map(|raw| serde_json::from_str(raw.get()).expect("valid JSON")).collect();
        prop_assert_eq!(values.len(), arguments.len());
        if let Some(Value::String(name)) = arguments.first() && packet.kind.is_event() {
            let (read, rest) = packet.event().expect("an event");
            prop_assert_eq!(&read, name);
            prop_assert_eq!(rest.len(), arguments.len() - 1);
        }
        prop_assert_eq!(Value::from(values), serde_json::from_str::<Value>(&Value::from(arguments).to_string()).expect("JSON"));
    }

    #[test]
    fn parsed_packets_are_written_back_in_normal_form(
        text in prop_oneof![mutated(), mutated(), ".{0,80}", r#"[0-6][-,/?0-9\[\]{}":a-c\\ ]{0,40}"#],
    ) {
        match Packet::parse(&text) {
            Ok(packet) => {
                prop_assert_eq!(written(&packet), normal(&text));
                prop_assert!(packet.data.is_none_or(|data| serde_json::from_str::<&RawValue>(data).is_ok()));
                prop_assert_eq!(packet.event().is_ok_and(|(name, _)| RESERVED_EVENTS.contains(&&*name)), false);
            }
            Err(malformed) => prop_assert!(malformed.to_string().chars().count() < 200),
        }
    }
}
