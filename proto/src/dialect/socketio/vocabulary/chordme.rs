//! ChordMe's vocabulary (`docs/protocol.md#chordme`): `join_room`, `broadcast_message`, `room_message`; fields in
//! snake_case, times in milliseconds since 1970. A room id is a conversation id.

use super::Verb;
use super::decode::{Arguments, Entry, served, unserved};
use crate::code::Failure;
use crate::command::Command;
use crate::dialect::body::{raw, text};
use crate::dialect::fields::{self, json, required};
use crate::id::{ConversationId, MessageId};
use crate::limits;
use crate::wire::{self, ephemeral::Kind as Passing, event::Kind};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The events that ChordMe's clients send.
pub(super) const EVENTS: &[Entry] = &[
    served("join_room", Verb::Join, join),
    served("leave_room", Verb::Leave, leave),
    served("broadcast_message", Verb::Broadcast, broadcast),
    unserved("collaboration_operation", Verb::Operation),
    served("cursor_update", Verb::Cursor, cursor),
];

/// The event name under which clients of other vocabularies receive a `broadcast_message`
/// (`docs/protocol.md#one-event-four-vocabularies`).
const BROADCAST_EVENT: &str = "message";

#[derive(Deserialize)]
struct RoomFields<'a> {
    #[serde(borrow)]
    room_id: Option<Cow<'a, str>>,
}

impl<'a> From<Cow<'a, str>> for RoomFields<'a> {
    fn from(id: Cow<'a, str>) -> Self {
        RoomFields { room_id: Some(id) }
    }
}

#[derive(Deserialize)]
struct BroadcastFields<'a> {
    #[serde(borrow)]
    room_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct CursorFields<'a> {
    #[serde(borrow)]
    room_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    position: Option<&'a RawValue>,
}

fn room(id: Option<Cow<'_, str>>) -> Result<ConversationId, Failure> {
    fields::conversation(id, "room_id")
}

fn join(arguments: &Arguments<'_>) -> Result<Command, Failure> {
    let RoomFields { room_id } = arguments.fields_or_text()?;
    Ok(Command::Join { conversation: room(room_id)?, after_seq: None })
}

fn leave(arguments: &Arguments<'_>) -> Result<Command, Failure> {
    let RoomFields { room_id } = arguments.fields_or_text()?;
    Ok(Command::Leave { conversation: room(room_id)? })
}

fn broadcast(arguments: &Arguments<'_>) -> Result<Command, Failure> {
    let BroadcastFields { room_id, message } = arguments.fields()?;
    let conversation = room(room_id)?;
    let data = required(json(message, "message", limits::BROADCAST_MESSAGE_BYTES_MAX)?, "message")?;
    Ok(Command::Broadcast { conversation, event: BROADCAST_EVENT.into(), data })
}

fn cursor(arguments: &Arguments<'_>) -> Result<Command, Failure> {
    let CursorFields { room_id, position } = arguments.fields()?;
    let conversation = room(room_id)?;
    let position = required(json(position, "position", limits::POSITION_BYTES_MAX)?, "position")?;
    Ok(Command::MoveCursor { conversation, position })
}

#[derive(Serialize)]
struct RoomMessage<'a, T> {
    user_id: &'a str,
    message: T,
    timestamp: u64,
}

#[derive(Serialize)]
struct StoredMessage<'a> {
    id: String,
    seq: u64,
    content: &'a str,
    content_type: &'a str,
}

#[derive(Serialize)]
struct CursorMoved<'a> {
    user_id: &'a str,
    position: &'a RawValue,
    timestamp: u64,
}

#[derive(Serialize)]
struct RoomPresence<'a> {
    user_id: &'a str,
    room_id: &'a str,
    participant_count: u32,
}

fn room_message(user_id: &str, message: impl Serialize, timestamp: u64) -> String {
    text(&("room_message", RoomMessage { user_id, message, timestamp }))
}

/// See [`super::event`].
pub(super) fn event(event: &wire::Event) -> Vec<String> {
    let message = match &event.kind {
        Some(Kind::Message(message)) => message,
        Some(
            Kind::Created(_) | Kind::Updated(_) | Kind::ParticipantsAdded(_) | Kind::ParticipantRemoved(_),
        )
        | None => return Vec::new(),
    };
    let message = StoredMessage {
        id: MessageId::from_slice(&event.id).to_string(),
        seq: event.seq,
        content: &message.content,
        content_type: &message.content_type,
    };
    vec![room_message(&event.actor, message, event.time_ms)]
}

/// See [`super::ephemeral`].
pub(super) fn ephemeral(event: &wire::Ephemeral) -> Option<String> {
    let (user_id, timestamp) = (event.user.as_str(), event.time_ms);
    match event.kind.as_ref()? {
        Passing::Typing(_) => None,
        Passing::Broadcast(broadcast) => Some(room_message(user_id, raw(&broadcast.data), timestamp)),
        // ChordMe's client reads fields of the position and throws if it is null.
        Passing::Cursor(position) => {
            Some(text(&("cursor_moved", CursorMoved { user_id, position: raw(position)?, timestamp })))
        }
    }
}

/// ChordMe's `user_joined` and `user_left`, which the other members of the room receive when a user's first connection
/// joins or the last one leaves. `participant_count` is the number of distinct users who are joined then, over all
/// gateways.
pub fn room_presence(user_id: &str, room_id: &str, participant_count: u32, joined: bool) -> String {
    let name = if joined { "user_joined" } else { "user_left" };
    text(&(name, RoomPresence { user_id, room_id, participant_count }))
}

#[cfg(test)]
#[path = "chordme_tests.rs"]
mod tests;
