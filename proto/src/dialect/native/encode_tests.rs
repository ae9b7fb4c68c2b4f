//! Tests of native frames against the tables of `docs/protocol.md#native-websocket`.

use super::*;
use crate::code::ErrorCode;
use crate::id::{ConversationId, UserId};
use serde_json::{Value, json};

fn parsed(frame: &str) -> Value {
    serde_json::from_str(frame).expect("JSON")
}

fn sample(kind: Kind) -> wire::Event {
    wire::Event {
        conversation: "c1".into(),
        seq: 7,
        time_ms: 1_700_000_000_007,
        id: vec![0x11; 16].into(),
        actor: "alice".into(),
        actor_name: "Alice".into(),
        client_id: "k1".into(),
        kind: Some(kind),
        ..wire::Event::default()
    }
}

#[test]
fn a_message_frame_has_every_documented_field() {
    let message = wire::SendMessage {
        content: "<b>\"hi\"\n".into(),
        content_type: "text".into(),
        metadata: r#"{"k":[1,2]}"#.into(),
        ..wire::SendMessage::default()
    };
    let mut sent = sample(Kind::Message(message));
    let expected = json!({
        "type": "new_message", "conversation_id": "c1", "seq": 7, "timestamp": "2023-11-14T22:13:20.007Z",
        "message": {
            "id": "11111111-1111-1111-1111-111111111111", "sender_id": "alice", "sender_name": "Alice",
            "content": "<b>\"hi\"\n", "content_type": "text", "timestamp": "2023-11-14T22:13:20.007Z",
            "is_ai": false, "client_id": "k1", "metadata": {"k": [1, 2]},
        },
    });
    assert_eq!(parsed(&event(&sent)[0]), expected);
    sent.client_id = "~made".into();
    assert_eq!(
        parsed(&event(&sent)[0])["message"].get("client_id"),
        None,
        "a client id made by the gateway must not be shown"
    );
}

#[test]
fn a_creation_has_no_frame_and_each_added_user_has_one() {
    assert!(event(&sample(Kind::Created(wire::CreateConversation::default()))).is_empty());
    let added = event(&sample(Kind::ParticipantsAdded(wire::AddParticipants {
        users: vec!["b".into(), "c".into()],
    })));
    assert_eq!(added.len(), 2);
    assert_eq!(parsed(&added[1])["user_id"], "c");
}

#[test]
fn replies_have_type_timestamp_and_the_reference() {
    let conversation = ConversationId::parse("c1").expect("valid");
    let user = UserId::parse("alice").expect("valid");
    let id = MessageId::from_slice(&[0x22; 16]);
    let table = [
        (Reply::OnlineUsers { users: vec!["a".into()] }, json!({"type": "online_users", "users": ["a"]})),
        (Reply::Pong, json!({"type": "pong"})),
        (Reply::Ack, json!({"type": "ack"})),
        (
            Reply::Joined { conversation: conversation.clone(), head_seq: 3, participant_count: 2 },
            json!({"type": "conversation_joined", "conversation_id": "c1", "head_seq": 3, "participant_count": 2}),
        ),
        (
            Reply::Left { conversation: conversation.clone() },
            json!({"type": "conversation_left", "conversation_id": "c1"}),
        ),
        (
            Reply::MessageAck { client_id: None, conversation, id, seq: 9 },
            json!({"type": "message_ack", "conversation_id": "c1", "id": id.to_string(), "seq": 9}),
        ),
        (
            Reply::Authenticated { user, expires_ms: 0 },
            json!({"type": "authenticated", "user_id": "alice", "expires_at": "1970-01-01T00:00:00.000Z"}),
        ),
        (
            Reply::Error(Failure::new(ErrorCode::RateLimited, "slow down").retry_after(5)),
            json!({"type": "error", "code": "rate_limited", "message": "slow down", "retry_after_ms": 5}),
        ),
    ];
    for (given, mut expected) in table {
        expected["timestamp"] = json!("1970-01-01T00:00:00.001Z");
        expected["ref"] = json!("r");
        assert_eq!(parsed(&reply(&given, Some("r"), 1)), expected);
    }
    assert_eq!(parsed(&reply(&Reply::Pong, None, 1)).get("ref"), None);
}

#[test]
fn an_unknown_user_is_shown_as_offline_and_never_seen() {
    let gone = crate::event::unknown_presence("bob");
    assert_eq!(
        parsed(&presence(&gone, 1)),
        json!({"type": "presence_update", "user_id": "bob", "online": false, "status": "offline",
               "last_seen": null, "timestamp": "1970-01-01T00:00:00.001Z"})
    );
    let status = parsed(&reply(&Reply::OnlineStatus { users: vec![gone] }, None, 1));
    assert_eq!(status["users"], json!({"bob": {"online": false, "status": "offline", "last_seen": null}}));
}

#[test]
fn ephemeral_events_carry_their_data() {
    let event = |kind| wire::Ephemeral {
        conversation: "c".into(),
        user: "u".into(),
        user_name: "U".into(),
        time_ms: 1,
        kind: Some(kind),
        ..wire::Ephemeral::default()
    };
    let typing = parsed(&ephemeral(&event(Passing::Typing(true))).expect("a frame"));
    assert_eq!(
        (&typing["type"], &typing["is_typing"], &typing["user_name"]),
        (&json!("typing_indicator"), &json!(true), &json!("U"))
    );
    let broadcast = wire::Broadcast { event: "e".into(), data: "[1]".into() };
    assert_eq!(
        parsed(&ephemeral(&event(Passing::Broadcast(broadcast))).expect("a frame"))["data"],
        json!([1])
    );
    assert_eq!(ephemeral(&wire::Ephemeral::default()), None);
}

#[test]
fn history_is_shaped_like_live_frames() {
    let conversation = ConversationId::parse("c1").expect("valid");
    let sent = sample(Kind::Message(wire::SendMessage::default()));
    let page = Reply::History { conversation, events: vec![sent.clone()], has_more: true };
    let page = parsed(&reply(&page, None, 1));
    assert_eq!(page["events"][0], parsed(&event(&sent)[0]));
    assert_eq!(page["has_more"], true);
}
