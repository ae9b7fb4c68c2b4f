//! Tests of the events that all vocabularies share, of unknown events, and of the tables of names.

use super::super::samples::{code, command, requested};
use super::*;
use std::collections::HashSet;

#[test]
fn authenticate_accepts_every_form_of_token_that_clients_send() {
    let token = |token: &str| Command::Authenticate { token: token.into() };
    let table = [
        (r#"[{"token":"a.b.c"}]"#, "a.b.c"),
        (r#"[{"token":"Bearer a.b.c"}]"#, "a.b.c"),
        (r#"[{"token":"bearer  a.b.c "}]"#, "a.b.c"),
        (r#"["a.b.c"]"#, "a.b.c"),
        (r#"["Bearer a.b.c"]"#, "a.b.c"),
        (r#"["Bearer"]"#, ""),
        (r#"[{"token":"Bearers x"}]"#, "Bearers x"),
    ];
    for (arguments, expected) in table {
        if expected.is_empty() {
            assert_eq!(code("authenticate", arguments), "invalid_payload", "{arguments}");
        } else {
            assert_eq!(command("authenticate", arguments), token(expected), "{arguments}");
        }
    }
    for arguments in [
        "[]",
        "[null]",
        "[{}]",
        "[7]",
        r#"[["a"]]"#,
        r#"[{"token":null}]"#,
        r#"[{"token":7}]"#,
        r#"[" "]"#,
        r#"[{"token":"Bearer "}]"#,
    ] {
        let refused = requested("authenticate", arguments).expect_err(arguments);
        assert_eq!(refused.failure.code.as_str(), "invalid_payload", "{arguments}");
        assert_eq!((refused.vocabulary, refused.verb), (Vocabulary::ChordMe, Verb::Authenticate));
    }
}

#[test]
fn a_handshake_accepts_the_same_forms_of_token() {
    let token = |auth: &str| handshake_token(&RawValue::from_string(auth.into()).expect("JSON"));
    assert_eq!(token(r#"{"token":"Bearer a","pid":"x"}"#).as_deref(), Some("a"));
    assert_eq!(token(r#""a""#).as_deref(), Some("a"));
    for none in ["{}", "null", "[]", r#"{"token":null}"#, r#"{"token":""}"#, r#"{"token":{}}"#] {
        assert_eq!(token(none), None, "{none}");
    }
}

#[test]
fn ping_ignores_its_arguments() {
    for arguments in ["[]", "[{}]", "[null]", "[7]", r#"["x",1]"#] {
        let request = requested("ping", arguments).expect("ping");
        let expected = Request { vocabulary: Vocabulary::ChordMe, verb: Verb::Ping, command: Command::Ping };
        assert_eq!(request, expected);
    }
}

#[test]
fn unknown_events_are_refused_with_a_shortened_name() {
    let refused = requested("no_such", "[]").expect_err("unknown");
    assert_eq!((refused.vocabulary, refused.verb), (Vocabulary::Ring, Verb::Unknown));
    assert_eq!(refused.failure, Failure::invalid_payload(r#"unknown event "no_such""#));
    let long = requested(&"x".repeat(10_000), "[]").expect_err("unknown");
    assert_eq!(long.failure.message, format!("unknown event \"{}\"", "x".repeat(64)));
    for name in ["", "Join_Conversation", "join_conversation ", "send_message\0", "__proto__"] {
        assert_eq!(code(name, "[]"), "invalid_payload", "{name:?}");
    }
}

#[test]
fn events_that_are_not_served_yet_are_refused_in_their_vocabulary() {
    use Vocabulary::{ChordMe, Guide, Ring};
    let table = [
        ("edit_message", r#"[{"conversationId":"c","messageId":"m","content":"x"}]"#, Ring, Verb::Edit),
        ("delete_message", r#"[{"conversationId":"c","messageId":"m"}]"#, Ring, Verb::Delete),
        ("mark_read", r#"[{"conversationId":"c","seq":1}]"#, Ring, Verb::MarkRead),
        ("notifications:read", r#"[{"ids":["n"]}]"#, Guide, Verb::Notifications),
        ("collaboration_operation", r#"[{"room_id":"c","operation":{}}]"#, ChordMe, Verb::Operation),
    ];
    for (name, arguments, vocabulary, verb) in table {
        let failure = Failure::invalid_payload(format!("{name} is not served by this version"));
        let refused = requested(name, arguments).expect_err(name);
        assert_eq!(refused, InvalidEvent { vocabulary, verb, failure });
    }
}

#[test]
fn every_event_name_is_in_one_table_only() {
    let mut seen = HashSet::new();
    for (_, entries) in TABLES {
        for entry in entries {
            assert!(seen.insert(entry.name), "{} is in two tables", entry.name);
        }
    }
    let vocabularies: HashSet<_> = TABLES.into_iter().map(|(vocabulary, _)| vocabulary).collect();
    assert_eq!(vocabularies, HashSet::from(Vocabulary::ALL));
}

#[test]
fn nesting_without_end_is_refused_and_not_followed() {
    let deep = format!(r#"[{{"room_id":"c","message":{}{}}}]"#, "[".repeat(4_000), "]".repeat(4_000));
    assert_eq!(code("broadcast_message", &deep), "too_large");
    let ignored = format!(r#"[{{"conversationId":"c","x":{}{}}}]"#, "[".repeat(30_000), "]".repeat(30_000));
    assert!(requested("join_conversation", &ignored).is_ok());
}

#[test]
fn half_a_surrogate_pair_is_refused_in_text_and_unchanged_in_json() {
    assert_eq!(code("join_conversation", r#"["\ud800"]"#), "invalid_payload");
    assert_eq!(code("send_message", r#"[{"conversationId":"c","content":"\ud800"}]"#), "invalid_payload");
    let Command::Broadcast { data, .. } =
        command("broadcast_message", r#"[{"room_id":"c","message":"\ud800"}]"#)
    else {
        panic!("not a broadcast");
    };
    assert_eq!(data, r#""\ud800""#);
}
