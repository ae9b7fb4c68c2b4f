//! Helpers for the tests of the three vocabularies: they decode events, and make sample events to encode.

use super::{InvalidEvent, Request, decode};
use crate::command::Command;
use crate::id::ConversationId;
use crate::limits;
use crate::wire::{self, ephemeral::Kind as Passing, event::Kind};
use serde_json::Value;
use serde_json::value::RawValue;

/// Text with characters that encoders often get wrong.
pub(super) const AWKWARD: &str = "<b>\"hi\" \\ \n\t\u{2028}\u{1f600} ' &";

/// Decodes the event `name` whose arguments are the JSON array `arguments`.
pub(super) fn requested(name: &str, arguments: &str) -> Result<Request, InvalidEvent> {
    let arguments: Vec<&RawValue> = serde_json::from_str(arguments).expect(arguments);
    decode(name, &arguments, limits::CONTENT_CHARS_MAX)
}

/// The command of the event.
pub(super) fn command(name: &str, arguments: &str) -> Command {
    let request =
        requested(name, arguments).unwrap_or_else(|refused| panic!("{name} {arguments}: {refused:?}"));
    let command = &request.command;
    command.clone()
}

/// The code of the failure with which the event is refused.
pub(super) fn code(name: &str, arguments: &str) -> &'static str {
    let refused = requested(name, arguments).expect_err(&format!("{name} {arguments}"));
    refused.failure.code.as_str()
}

pub(super) fn conversation(id: &str) -> ConversationId {
    ConversationId::parse(id).expect("valid")
}

pub(super) fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// A durable event: seq 7 of `c1`, by alice.
pub(super) fn durable(kind: Kind) -> wire::Event {
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

/// A message with everything in it.
pub(super) fn message() -> wire::Event {
    durable(Kind::Message(wire::SendMessage {
        content: "hi".into(),
        content_type: "text".into(),
        reply_to: "22222222-2222-2222-2222-222222222222".into(),
        metadata: r#"{"k":[1,2]}"#.into(),
        persona_id: "p".into(),
        is_ai: true,
    }))
}

/// One durable event of each kind except a message.
pub(super) fn other_events() -> [wire::Event; 4] {
    let (users, user) = (vec!["bob".into(), "auth0|c".into()], "bob".into());
    let changed = wire::UpdateConversation { title: Some("T".into()), metadata: None, archived: Some(true) };
    [
        durable(Kind::Created(wire::CreateConversation::default())),
        durable(Kind::Updated(changed)),
        durable(Kind::ParticipantsAdded(wire::AddParticipants { users })),
        durable(Kind::ParticipantRemoved(wire::RemoveParticipant { user })),
    ]
}

/// An ephemeral event in `c1`, by alice.
pub(super) fn passing(kind: Passing) -> wire::Ephemeral {
    wire::Ephemeral {
        conversation: "c1".into(),
        user: "alice".into(),
        user_name: "Alice".into(),
        time_ms: 1_700_000_000_007,
        kind: Some(kind),
        ..wire::Ephemeral::default()
    }
}

/// A broadcast of `data`.
pub(super) fn broadcast(data: &str) -> wire::Ephemeral {
    passing(Passing::Broadcast(wire::Broadcast { event: "message".into(), data: data.into() }))
}

/// A cursor at `position`.
pub(super) fn cursor(position: &str) -> wire::Ephemeral {
    passing(Passing::Cursor(position.into()))
}
