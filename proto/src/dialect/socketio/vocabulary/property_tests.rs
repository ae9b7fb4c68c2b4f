//! Property tests of all three vocabularies: no input makes the decoder panic, and every text is encoded into valid
//! JSON that contains the same text, in an array that ends in an object.

use super::samples::parsed;
use super::*;
use crate::code::ErrorCode;
use crate::event::Reply;
use crate::id::ConversationId;
use crate::limits;
use crate::wire::{ephemeral::Kind as Passing, event::Kind};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

const NAMES: [&str; 22] = [
    "join_conversation",
    "leave_conversation",
    "send_message",
    "edit_message",
    "typing_start",
    "typing_stop",
    "mark_read",
    "presence_update",
    "subscribe",
    "unsubscribe",
    "message:send",
    "typing:start",
    "typing:stop",
    "notifications:read",
    "join_room",
    "leave_room",
    "broadcast_message",
    "collaboration_operation",
    "cursor_update",
    "authenticate",
    "ping",
    "no_such",
];

const KEYS: [&str; 14] = [
    "conversationId",
    "afterSeq",
    "content",
    "type",
    "clientId",
    "replyTo",
    "metadata",
    "status",
    "channel",
    "room_id",
    "message",
    "position",
    "token",
    "senderId",
];

fn name() -> impl Strategy<Value = String> {
    prop_oneof![8 => prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned), 1 => ".{0,80}"]
}

/// JSON of any shape, often with valid keys and ids.
fn argument() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z:]{0,12}".prop_map(Value::from),
        awkward().prop_map(Value::from),
        prop::sample::select(vec!["active", "conversation:c1", "user:notifications", "Bearer x"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 8, |inner| {
        let key =
            prop_oneof![4 => prop::sample::select(KEYS.to_vec()).prop_map(str::to_owned), 1 => ".{0,6}"];
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            4 => prop::collection::vec((key, inner), 0..8)
                .prop_map(|fields| Value::from(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Text with characters that encoders often get wrong.
fn awkward() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "\"",
            "\\",
            "\n",
            "\u{2028}",
            "\u{2029}",
            "\u{0}",
            "\u{1e}",
            "\u{1f600}",
            "</",
            "]"
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

fn raws(arguments: &[Value]) -> Vec<Box<RawValue>> {
    arguments.iter().map(|value| RawValue::from_string(value.to_string()).expect("JSON")).collect()
}

/// The fields of a data array, which must consist of a name and an object.
fn fields(data: &str) -> Value {
    assert!(!data.contains(['\n', '\u{1e}']), "a packet must not contain a separator of packets");
    let array = parsed(data);
    let [Value::String(_), Value::Object(fields)] = array.as_array().expect("an array").as_slice() else {
        panic!("{data} does not end in an object")
    };
    Value::from(fields.clone())
}

fn any_code() -> impl Strategy<Value = ErrorCode> {
    prop::sample::select(ErrorCode::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn no_event_makes_the_decoder_panic(
        name in name(),
        arguments in prop::collection::vec(argument(), 0..3),
    ) {
        let raws = raws(&arguments);
        let raws: Vec<&RawValue> = raws.iter().map(AsRef::as_ref).collect();
        match decode(&name, &raws, limits::CONTENT_CHARS_MAX) {
            Ok(request) => {
                if let Command::Send(send) = &request.command {
                    prop_assert!(!send.content.trim().is_empty());
                    prop_assert!(send.metadata.is_empty() || parsed(&send.metadata).is_object());
                }
            }
            Err(refused) => {
                prop_assert!(!refused.failure.message.is_empty());
                prop_assert!(refused.failure.message.chars().count() < 700);
                let event = refusal_event(refused.vocabulary, refused.verb, &refused.failure);
                prop_assert_eq!(&fields(&event)["message"], &json!(refused.failure.message));
            }
        }
    }

    #[test]
    fn messages_are_encoded_unchanged(
        content in awkward(),
        sender in awkward(),
        key in awkward(),
        value in awkward(),
    ) {
        let metadata = json!({key: value});
        let event = wire::Event {
            conversation: "c1".into(),
            actor: "alice".into(),
            actor_name: sender.clone(),
            kind: Some(Kind::Message(wire::SendMessage {
                content: content.clone(),
                metadata: metadata.to_string(),
                ..Default::default()
            })),
            ..Default::default()
        };
        for vocabulary in Vocabulary::ALL {
            let [data] = &super::event(vocabulary, &event)[..] else { panic!("not exactly one event") };
            let fields = fields(data);
            let (message, name) = match vocabulary {
                Vocabulary::ChordMe => (&fields["message"], None),
                _ => (&fields, Some(&fields["senderName"])),
            };
            prop_assert_eq!(&message["content"], &json!(content));
            prop_assert!(name.is_none_or(|name| *name == json!(sender)));
            if vocabulary == Vocabulary::Ring {
                prop_assert_eq!(&fields["metadata"], &metadata);
            }
        }
    }

    #[test]
    fn ephemeral_events_are_encoded_unchanged(name in awkward(), data in argument(), typing: bool) {
        let expected = parsed(&data.to_string());
        let kinds = [
            Passing::Typing(typing),
            Passing::Broadcast(wire::Broadcast { event: name.clone(), data: data.to_string() }),
            Passing::Cursor(data.to_string()),
        ];
        for kind in kinds {
            let passing = wire::Ephemeral { user_name: name.clone(), kind: Some(kind), ..Default::default() };
            for vocabulary in Vocabulary::ALL {
                let Some(event) = ephemeral(vocabulary, &passing).map(|event| fields(&event)) else { continue };
                match (&passing.kind, vocabulary) {
                    (Some(Passing::Typing(_)), Vocabulary::Ring) => {
                        prop_assert_eq!(&event["userName"], &json!(name));
                        prop_assert_eq!(&event["isTyping"], &json!(typing));
                    }
                    (Some(Passing::Typing(_)), _) => prop_assert_eq!(&event["isTyping"], &json!(typing)),
                    (Some(Passing::Broadcast(_)), _) => prop_assert_eq!(&event["message"], &expected),
                    (_, _) => prop_assert_eq!(&event["position"], &expected),
                }
            }
        }
    }

    #[test]
    fn every_answer_is_valid_json(
        message in awkward(),
        code in any_code(),
        client_id in "[a-z]{0,3}",
        head_seq: u64,
    ) {
        let conversation = ConversationId::parse("c1").expect("valid");
        let failure = Failure::new(code, message.clone());
        let replies = [
            Reply::Joined { conversation: conversation.clone(), head_seq, participant_count: 1 },
            Reply::Left { conversation: conversation.clone() },
            Reply::MessageAck {
                client_id: Some(client_id.into()),
                conversation,
                id: crate::id::MessageId::from_slice(&head_seq.to_be_bytes()),
                seq: head_seq,
            },
            Reply::Pong,
            Reply::Ack,
            Reply::Error(failure),
        ];
        for vocabulary in Vocabulary::ALL {
            for reply in &replies {
                let Answer { ack, events } = answer(vocabulary, reply, head_seq);
                let ack = parsed(&ack.expect("every command is acknowledged"));
                prop_assert_eq!(&ack[0]["ok"], &json!(!matches!(reply, Reply::Error(_))));
                if let Reply::Error(_) = reply {
                    prop_assert_eq!(&ack[0]["error"]["message"], &json!(message));
                    prop_assert!(events.is_empty());
                }
                for event in &events {
                    fields(event);
                }
            }
        }
        let presence = wire::UserPresence { user: message.clone(), ..Default::default() };
        prop_assert_eq!(&fields(&presence_of(&presence))["userId"], &json!(message));
        prop_assert_eq!(&fields(&room_presence(&message, "r", 1, true))["user_id"], &json!(message));
    }
}

fn presence_of(user: &wire::UserPresence) -> String {
    presence(user, 0)
}
