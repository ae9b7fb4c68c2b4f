//! Tests of Ring's vocabulary against the tables of `docs/protocol.md#ring` and
//! `docs/protocol.md#one-event-four-vocabularies`.

use super::super::samples::{
    AWKWARD, broadcast, code, command, conversation, cursor, durable, message, other_events, parsed, passing,
    requested,
};
use super::super::{self as vocabulary, Vocabulary};
use super::*;
use crate::command::Send;
use crate::event::unknown_presence;
use crate::id::ClientId;
use crate::wire::Status;

fn plain(content: &str) -> Send {
    Send {
        conversation: conversation("c1"),
        content: content.into(),
        content_type: "text".into(),
        client_id: None,
        persona_id: String::new(),
        reply_to: String::new(),
        metadata: String::new(),
    }
}

#[test]
fn every_event_is_decoded_in_every_form() {
    let join = |after_seq| Command::Join { conversation: conversation("c1"), after_seq };
    let leave = Command::Leave { conversation: conversation("c1") };
    let typing = |typing| Command::Typing { conversation: conversation("c1"), typing };
    let status = |status| Command::SetStatus { status, text: String::new() };
    let full = Send {
        content_type: "image/png".into(),
        client_id: Some(ClientId::parse("k1").expect("valid")),
        reply_to: "22222222-2222-2222-2222-222222222222".into(),
        metadata: r#"{"a": [1]}"#.into(),
        ..plain("hi")
    };
    let table = [
        ("join_conversation", r#"["c1"]"#, join(None), Verb::Join),
        ("join_conversation", r#"[{"conversationId":"c1"}]"#, join(None), Verb::Join),
        ("join_conversation", r#"[{"conversationId":"c1","afterSeq":null}]"#, join(None), Verb::Join),
        ("join_conversation", r#"[{"conversationId":"c1","afterSeq":0,"x":{}}]"#, join(Some(0)), Verb::Join),
        ("join_conversation", r#"["c1",{"behind":true}]"#, join(None), Verb::Join),
        ("leave_conversation", r#"["c1"]"#, leave.clone(), Verb::Leave),
        ("leave_conversation", r#"[{"conversationId":"c1"}]"#, leave, Verb::Leave),
        (
            "send_message",
            r#"[{"conversationId":"c1","content":"hi"}]"#,
            Command::Send(plain("hi")),
            Verb::Send,
        ),
        (
            "send_message",
            r#"[{"conversationId":"c1","content":"hi","type":"image/png","clientId":"k1",
                "replyTo":"22222222-2222-2222-2222-222222222222","metadata":{"a": [1]}}]"#,
            Command::Send(full),
            Verb::Send,
        ),
        (
            "send_message",
            r#"[{"conversationId":"c1","content":"hi","type":null,"clientId":null,"replyTo":null,
                "metadata":null,"senderId":"mallory","senderName":7,"timestamp":"now"}]"#,
            Command::Send(plain("hi")),
            Verb::Send,
        ),
        ("typing_start", r#"[{"conversationId":"c1"}]"#, typing(true), Verb::Typing),
        ("typing_start", r#"["c1"]"#, typing(true), Verb::Typing),
        ("typing_stop", r#"[{"conversationId":"c1"}]"#, typing(false), Verb::Typing),
        ("typing_stop", r#"["c1"]"#, typing(false), Verb::Typing),
        ("presence_update", r#"[{"status":"active"}]"#, status(Status::Active), Verb::Presence),
        ("presence_update", r#"[{"status":"invisible"}]"#, status(Status::Invisible), Verb::Presence),
    ];
    for (name, arguments, expected, verb) in table {
        let request = requested(name, arguments).expect(arguments);
        assert_eq!((request.vocabulary, request.verb), (Vocabulary::Ring, verb), "{name}");
        assert_eq!(request.command, expected, "{name} {arguments}");
    }
}

#[test]
fn bad_conversation_ids_are_refused_for_every_event() {
    let forms = ["join_conversation", "leave_conversation", "typing_start", "typing_stop", "send_message"];
    for name in forms {
        for arguments in [
            "[]",
            "[null]",
            "[{}]",
            "[7]",
            "[true]",
            r#"[["c1"]]"#,
            r#"[""]"#,
            r#"["a b"]"#,
            r#"["a.*\n"]"#,
            r#"[{"conversationId":null,"content":"x"}]"#,
            r#"[{"conversationId":7,"content":"x"}]"#,
            r#"[{"conversationId":"","content":"x"}]"#,
            r#"[{"conversationId":">","content":"x"}]"#,
            r#"[{"conversation_id":"c1","content":"x"}]"#,
            r#"[{"conversationId":"c1","conversationId":"c1","content":"x"}]"#,
        ] {
            assert_eq!(code(name, arguments), "invalid_payload", "{name} {arguments}");
        }
    }
}

#[test]
fn bad_fields_are_refused_with_their_codes() {
    let send = |more: &str| format!(r#"[{{"conversationId":"c1",{more}}}]"#);
    let long = send(&format!(r#""content":"{}""#, "ü".repeat(5_001)));
    let heavy = send(&format!(r#""content":"x","metadata":{{"k":"{}"}}"#, "x".repeat(4_096)));
    let typed = send(&format!(r#""content":"x","type":"{}""#, "t".repeat(129)));
    let table = [
        ("send_message", send(r#""type":"text""#), "invalid_payload"),
        ("send_message", send(r#""content":null"#), "invalid_payload"),
        ("send_message", send(r#""content":7"#), "invalid_payload"),
        ("send_message", send(r#""content":{"text":"x"}"#), "invalid_payload"),
        ("send_message", send(r#""content":"x","type":7"#), "invalid_payload"),
        ("send_message", send(r#""content":"x","clientId":"""#), "invalid_payload"),
        ("send_message", send(r#""content":"x","clientId":"~made""#), "invalid_payload"),
        ("send_message", send(r#""content":"x","replyTo":"not-one""#), "invalid_payload"),
        ("send_message", send(r#""content":"x","metadata":[1]"#), "invalid_payload"),
        ("send_message", send(r#""content":" \n\u0000""#), "empty_content"),
        ("send_message", long, "too_large"),
        ("send_message", heavy, "too_large"),
        ("send_message", typed, "too_large"),
        ("send_message", r#"["c1"]"#.into(), "invalid_payload"),
        ("join_conversation", r#"[{"conversationId":"c1","afterSeq":-1}]"#.into(), "invalid_payload"),
        ("join_conversation", r#"[{"conversationId":"c1","afterSeq":"1"}]"#.into(), "invalid_payload"),
        ("join_conversation", r#"[{"conversationId":"c1","afterSeq":1.5}]"#.into(), "invalid_payload"),
        ("presence_update", "[]".into(), "invalid_payload"),
        ("presence_update", r#"[{"status":null}]"#.into(), "invalid_payload"),
        ("presence_update", r#"[{"status":"offline"}]"#.into(), "invalid_payload"),
        ("presence_update", r#"[{"status":1}]"#.into(), "invalid_payload"),
    ];
    for (name, arguments, expected) in table {
        assert_eq!(code(name, &arguments), expected, "{name} {arguments}");
    }
}

#[test]
fn content_is_limited_in_code_points_and_otherwise_unchanged() {
    let exact = format!(r#"[{{"conversationId":"c1","content":"{}"}}]"#, "\u{1f600}".repeat(5_000));
    assert!(requested("send_message", &exact).is_ok());
    let arguments = serde_json::json!([{"conversationId": "c1", "content": format!(" {AWKWARD} ")}]);
    assert_eq!(
        command("send_message", &arguments.to_string()),
        Command::Send(plain(&format!(" {AWKWARD} "))),
        "only control characters may be removed, and spaces at the ends must be kept"
    );
}

#[test]
fn durable_events_have_their_documented_form() {
    let message = message();
    assert_eq!(
        vocabulary::event(Vocabulary::Ring, &message),
        [concat!(
            r#"["message_received",{"id":"11111111-1111-1111-1111-111111111111","conversationId":"c1","seq":7,"#,
            r#""senderId":"alice","senderName":"Alice","content":"hi","type":"text","#,
            r#""timestamp":"2023-11-14T22:13:20.007Z","clientId":"k1","#,
            r#""replyTo":"22222222-2222-2222-2222-222222222222","metadata":{"k":[1,2]}}]"#
        )]
    );
    let [created, updated, added, removed] = other_events();
    assert!(event(&created).is_empty());
    assert_eq!(
        event(&updated),
        [
            r#"["conversation_updated",{"conversationId":"c1","seq":7,"changes":{"title":"T","archived":true}}]"#
        ]
    );
    assert_eq!(
        event(&added),
        [
            r#"["participant_joined",{"conversationId":"c1","seq":7,"userId":"bob"}]"#,
            r#"["participant_joined",{"conversationId":"c1","seq":7,"userId":"auth0|c"}]"#
        ]
    );
    assert_eq!(event(&removed), [r#"["participant_left",{"conversationId":"c1","seq":7,"userId":"bob"}]"#]);
    assert!(event(&wire::Event::default()).is_empty(), "an event of an unknown kind must be skipped");
}

#[test]
fn a_message_without_optional_fields_omits_them() {
    let sent =
        wire::SendMessage { content: AWKWARD.into(), content_type: "text".into(), ..Default::default() };
    let mut event = durable(Kind::Message(sent));
    event.client_id = "~made".into();
    let shown = parsed(&super::event(&event)[0]);
    assert_eq!(shown[1]["content"], AWKWARD);
    for absent in ["clientId", "replyTo", "metadata"] {
        assert_eq!(shown[1].get(absent), None, "{absent}");
    }
}

#[test]
fn typing_is_encoded_and_events_without_a_name_are_not() {
    assert_eq!(
        vocabulary::ephemeral(Vocabulary::Ring, &passing(Passing::Typing(true))).as_deref(),
        Some(concat!(
            r#"["user_typing",{"conversationId":"c1","userId":"alice","userName":"Alice","isTyping":true,"#,
            r#""timestamp":"2023-11-14T22:13:20.007Z"}]"#
        ))
    );
    for nameless in [broadcast("1"), cursor("1"), wire::Ephemeral::default()] {
        assert_eq!(ephemeral(&nameless), None);
    }
}

#[test]
fn presence_is_shown_as_others_may_see_it() {
    let mut user = wire::UserPresence {
        user: "bob".into(),
        online: true,
        text: "not shown".into(),
        last_seen_ms: 1_700_000_000_007,
        ..Default::default()
    };
    user.set_status(Status::Dnd);
    assert_eq!(
        presence(&user, 1_700_000_000_008),
        concat!(
            r#"["presence_update",{"userId":"bob","isOnline":true,"status":"dnd","#,
            r#""lastSeen":"2023-11-14T22:13:20.007Z","timestamp":"2023-11-14T22:13:20.008Z"}]"#
        )
    );
    assert_eq!(
        presence(&unknown_presence("bob"), 0),
        concat!(
            r#"["presence_update",{"userId":"bob","isOnline":false,"status":"offline","lastSeen":null,"#,
            r#""timestamp":"1970-01-01T00:00:00.000Z"}]"#
        )
    );
}
