//! Tests of the integration guide's vocabulary against the tables of `docs/protocol.md#guide` and
//! `docs/protocol.md#one-event-four-vocabularies`.

use super::super::samples::{
    AWKWARD, broadcast, code, command, conversation, cursor, durable, message, other_events, parsed, passing,
    requested,
};
use super::super::{self as vocabulary, Vocabulary};
use super::*;
use crate::command::Send;
use crate::id::ClientId;

fn send(content: &str, client_id: Option<&str>) -> Command {
    Command::Send(Send {
        conversation: conversation("c1"),
        content: content.into(),
        content_type: "text".into(),
        client_id: client_id.map(|id| ClientId::parse(id).expect("valid")),
        persona_id: String::new(),
        reply_to: String::new(),
        metadata: String::new(),
    })
}

#[test]
fn every_event_is_decoded_in_every_form() {
    let join = |id, after_seq| Command::Join { conversation: conversation(id), after_seq };
    let leave = |id| Command::Leave { conversation: conversation(id) };
    let typing = |typing| Command::Typing { conversation: conversation("c1"), typing };
    let table = [
        ("subscribe", r#"["conversation:c1"]"#, join("c1", None), Verb::Join),
        ("subscribe", r#"["c1"]"#, join("c1", None), Verb::Join),
        ("subscribe", r#"["conversation:conversation:c1"]"#, join("conversation:c1", None), Verb::Join),
        ("subscribe", r#"["conversation:user:notifications"]"#, join("user:notifications", None), Verb::Join),
        ("subscribe", r#"[{"channel":"conversation:c1"}]"#, join("c1", None), Verb::Join),
        ("subscribe", r#"[{"channel":"team:c1","afterSeq":9}]"#, join("team:c1", Some(9)), Verb::Join),
        ("subscribe", r#"[{"channel":"c1","afterSeq":null}]"#, join("c1", None), Verb::Join),
        ("unsubscribe", r#"["conversation:c1"]"#, leave("c1"), Verb::Leave),
        ("unsubscribe", r#"[{"channel":"conversation:c1"}]"#, leave("c1"), Verb::Leave),
        ("message:send", r#"[{"conversationId":"c1","content":"hi"}]"#, send("hi", None), Verb::Send),
        (
            "message:send",
            r#"[{"conversationId":"c1","content":"hi","timestamp":1700000000007,"clientId":"k1"}]"#,
            send("hi", Some("k1")),
            Verb::Send,
        ),
        (
            "message:send",
            r#"[{"conversationId":"c1","content":"hi","timestamp":{},"clientId":null,"type":7}]"#,
            send("hi", None),
            Verb::Send,
        ),
        ("typing:start", r#"[{"conversationId":"c1"}]"#, typing(true), Verb::Typing),
        ("typing:stop", r#"[{"conversationId":"c1"}]"#, typing(false), Verb::Typing),
    ];
    for (name, arguments, expected, verb) in table {
        let request = requested(name, arguments).expect(arguments);
        assert_eq!((request.vocabulary, request.verb), (Vocabulary::Guide, verb), "{name}");
        assert_eq!(request.command, expected, "{name} {arguments}");
    }
}

#[test]
fn bad_channels_are_refused() {
    for name in ["subscribe", "unsubscribe"] {
        for arguments in [
            "[]",
            "[null]",
            "[{}]",
            "[7]",
            "[[]]",
            r#"[""]"#,
            r#"["conversation:"]"#,
            r#"["conversation:a b"]"#,
            r#"["conversation:*"]"#,
            r#"[{"channel":null}]"#,
            r#"[{"channel":7}]"#,
            r#"[{"channel":""}]"#,
            r#"[{"conversationId":"c1"}]"#,
            r#"[{"channel":"c1","afterSeq":-1}]"#,
        ] {
            assert_eq!(code(name, arguments), "invalid_payload", "{name} {arguments}");
        }
        for arguments in [r#"["user:notifications"]"#, r#"[{"channel":"user:notifications"}]"#] {
            let refused = requested(name, arguments).expect_err(arguments);
            assert_eq!(refused.vocabulary, Vocabulary::Guide);
            assert_eq!(refused.failure, not_served("user:notifications"));
        }
    }
}

#[test]
fn bad_fields_are_refused_with_their_codes() {
    let long = format!(r#"[{{"conversationId":"c1","content":"{}"}}]"#, "x".repeat(5_001));
    let table = [
        ("message:send", "[]", "invalid_payload"),
        ("message:send", r#"["c1"]"#, "invalid_payload"),
        ("message:send", r#"[["c1","hi"]]"#, "invalid_payload"),
        ("message:send", r#"[{"content":"hi"}]"#, "invalid_payload"),
        ("message:send", r#"[{"conversationId":"c1"}]"#, "invalid_payload"),
        ("message:send", r#"[{"conversationId":"c 1","content":"hi"}]"#, "invalid_payload"),
        ("message:send", r#"[{"conversationId":"c1","content":["hi"]}]"#, "invalid_payload"),
        ("message:send", r#"[{"conversationId":"c1","content":"hi","clientId":"a b"}]"#, "invalid_payload"),
        ("message:send", r#"[{"conversationId":"c1","content":"\t\n"}]"#, "empty_content"),
        ("message:send", long.as_str(), "too_large"),
        ("typing:start", "[]", "invalid_payload"),
        ("typing:start", r#"[{"conversationId":null}]"#, "invalid_payload"),
        ("typing:start", r#"[{"conversationId":"/"}]"#, "invalid_payload"),
        ("typing:stop", r#"[{"conversationId":1}]"#, "invalid_payload"),
    ];
    for (name, arguments, expected) in table {
        assert_eq!(code(name, arguments), expected, "{name} {arguments}");
    }
}

#[test]
fn a_message_has_its_documented_fields() {
    assert_eq!(
        vocabulary::event(Vocabulary::Guide, &message()),
        [concat!(
            r#"["message",{"id":"11111111-1111-1111-1111-111111111111","conversationId":"c1","seq":7,"#,
            r#""senderId":"alice","senderName":"Alice","content":"hi","#,
            r#""timestamp":"2023-11-14T22:13:20.007Z"}]"#
        )]
    );
}

#[test]
fn content_passes_through_unchanged() {
    let arguments = serde_json::json!([{"conversationId": "c1", "content": AWKWARD}]).to_string();
    let Command::Send(sent) = command("message:send", &arguments) else { panic!("not a send") };
    let stored = wire::SendMessage { content: sent.content, ..Default::default() };
    assert_eq!(parsed(&event(&durable(Kind::Message(stored)))[0])[1]["content"], AWKWARD);
}

#[test]
fn typing_is_encoded_and_events_without_a_name_are_not() {
    assert_eq!(
        vocabulary::ephemeral(Vocabulary::Guide, &passing(Passing::Typing(false))).as_deref(),
        Some(r#"["typing",{"conversationId":"c1","userId":"alice","isTyping":false}]"#)
    );
    for nameless in [broadcast("1"), cursor("1"), wire::Ephemeral::default()] {
        assert_eq!(ephemeral(&nameless), None);
    }
    for nameless in other_events() {
        assert!(event(&nameless).is_empty(), "{nameless:?}");
    }
}
