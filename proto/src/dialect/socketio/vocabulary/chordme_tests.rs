//! Tests of ChordMe's vocabulary against the tables of `docs/protocol.md#chordme` and
//! `docs/protocol.md#one-event-four-vocabularies`.

use super::super::samples::{
    broadcast as broadcast_of, code, command, conversation, cursor as cursor_at, message, other_events,
    parsed, passing, requested,
};
use super::super::{self as vocabulary, Vocabulary};
use super::*;

fn broadcast_command(data: &str) -> Command {
    Command::Broadcast { conversation: conversation("r1"), event: "message".into(), data: data.into() }
}

fn cursor_command(position: &str) -> Command {
    Command::MoveCursor { conversation: conversation("r1"), position: position.into() }
}

#[test]
fn every_event_is_decoded_in_every_form() {
    let join = Command::Join { conversation: conversation("r1"), after_seq: None };
    let leave = Command::Leave { conversation: conversation("r1") };
    let table = [
        ("join_room", r#"[{"room_id":"r1"}]"#, join.clone(), Verb::Join),
        ("join_room", r#"["r1"]"#, join, Verb::Join),
        ("leave_room", r#"[{"room_id":"r1"}]"#, leave.clone(), Verb::Leave),
        ("leave_room", r#"["r1"]"#, leave, Verb::Leave),
        (
            "broadcast_message",
            r#"[{"room_id":"r1","message":{"type": "chat","n":[1,null]}}]"#,
            broadcast_command(r#"{"type": "chat","n":[1,null]}"#),
            Verb::Broadcast,
        ),
        (
            "broadcast_message",
            r#"[{"room_id":"r1","message":"text"}]"#,
            broadcast_command(r#""text""#),
            Verb::Broadcast,
        ),
        ("broadcast_message", r#"[{"room_id":"r1","message":0}]"#, broadcast_command("0"), Verb::Broadcast),
        (
            "broadcast_message",
            r#"[{"room_id":"r1","message":false}]"#,
            broadcast_command("false"),
            Verb::Broadcast,
        ),
        (
            "cursor_update",
            r#"[{"room_id":"r1","position":{"line":1,"column":2}}]"#,
            cursor_command(r#"{"line":1,"column":2}"#),
            Verb::Cursor,
        ),
        ("cursor_update", r#"[{"room_id":"r1","position":17}]"#, cursor_command("17"), Verb::Cursor),
    ];
    for (name, arguments, expected, verb) in table {
        let request = requested(name, arguments).expect(arguments);
        assert_eq!((request.vocabulary, request.verb), (Vocabulary::ChordMe, verb), "{name}");
        assert_eq!(request.command, expected, "{name} {arguments}");
    }
}

#[test]
fn bad_room_ids_are_refused_for_every_event() {
    for name in ["join_room", "leave_room", "broadcast_message", "cursor_update"] {
        for arguments in [
            "[]",
            "[null]",
            "[{}]",
            "[7]",
            "[false]",
            r#"[["r1",1]]"#,
            r#"[""]"#,
            r#"["r 1"]"#,
            r#"[{"room_id":null,"message":1,"position":1}]"#,
            r#"[{"room_id":7,"message":1,"position":1}]"#,
            r#"[{"room_id":"r>","message":1,"position":1}]"#,
            r#"[{"roomId":"r1","message":1,"position":1}]"#,
        ] {
            assert_eq!(code(name, arguments), "invalid_payload", "{name} {arguments}");
        }
    }
}

#[test]
fn broadcasts_and_cursors_are_limited_in_size_and_depth() {
    let sized =
        |name: &str, bytes: usize| format!(r#"[{{"room_id":"r1","{name}":"{}"}}]"#, "x".repeat(bytes - 2));
    let deep = format!(r#"[{{"room_id":"r1","message":{}{}}}]"#, "[".repeat(33), "]".repeat(33));
    let table = [
        ("broadcast_message", r#"[{"room_id":"r1"}]"#.into(), "invalid_payload"),
        ("broadcast_message", r#"[{"room_id":"r1","message":null}]"#.into(), "invalid_payload"),
        ("broadcast_message", r#"["r1"]"#.into(), "invalid_payload"),
        ("broadcast_message", sized("message", 10 * 1_024 + 1), "too_large"),
        ("broadcast_message", deep, "too_large"),
        ("cursor_update", r#"[{"room_id":"r1","position":null}]"#.into(), "invalid_payload"),
        ("cursor_update", sized("position", 1_025), "too_large"),
    ];
    for (name, arguments, expected) in table {
        assert_eq!(code(name, &arguments), expected, "{name}");
    }
    assert!(requested("broadcast_message", &sized("message", 10 * 1_024)).is_ok());
    assert!(requested("cursor_update", &sized("position", 1_024)).is_ok());
}

#[test]
fn messages_and_broadcasts_are_both_room_messages() {
    assert_eq!(
        vocabulary::event(Vocabulary::ChordMe, &message()),
        [concat!(
            r#"["room_message",{"user_id":"alice","message":{"id":"11111111-1111-1111-1111-111111111111","#,
            r#""seq":7,"content":"hi","content_type":"text"},"timestamp":1700000000007}]"#
        )]
    );
    assert_eq!(
        vocabulary::ephemeral(Vocabulary::ChordMe, &broadcast_of(r#"{"a": 1}"#)).as_deref(),
        Some(r#"["room_message",{"user_id":"alice","message":{"a": 1},"timestamp":1700000000007}]"#)
    );
    assert_eq!(
        ephemeral(&broadcast_of("")).as_deref(),
        Some(r#"["room_message",{"user_id":"alice","message":null,"timestamp":1700000000007}]"#)
    );
}

#[test]
fn cursors_are_encoded_and_events_without_a_name_are_not() {
    assert_eq!(
        ephemeral(&cursor_at(r#"{"line":1}"#)).as_deref(),
        Some(r#"["cursor_moved",{"user_id":"alice","position":{"line":1},"timestamp":1700000000007}]"#)
    );
    for nameless in
        [cursor_at(""), cursor_at("no json"), passing(Passing::Typing(true)), wire::Ephemeral::default()]
    {
        assert_eq!(ephemeral(&nameless), None);
    }
    for nameless in other_events() {
        assert!(event(&nameless).is_empty(), "{nameless:?}");
    }
}

#[test]
fn user_joined_and_user_left_carry_the_count() {
    assert_eq!(
        room_presence("auth0|a", "r1", 3, true),
        r#"["user_joined",{"user_id":"auth0|a","room_id":"r1","participant_count":3}]"#
    );
    assert_eq!(
        room_presence("auth0|a", "r1", 2, false),
        r#"["user_left",{"user_id":"auth0|a","room_id":"r1","participant_count":2}]"#
    );
}

#[test]
fn a_broadcast_passes_through_as_the_same_json() {
    let given = serde_json::json!({"lyrics": super::super::samples::AWKWARD, "n": [1.5, null, {"": true}]});
    let arguments = serde_json::json!([{"room_id": "r1", "message": given}]).to_string();
    let Command::Broadcast { data, .. } = command("broadcast_message", &arguments) else {
        panic!("not a broadcast")
    };
    assert_eq!(parsed(&ephemeral(&broadcast_of(&data)).expect("named"))[1]["message"], given);
}
