//! Ring's vocabulary (`docs/protocol.md#ring`): `join_conversation`, `message_received`; fields in camelCase, times in
//! RFC 3339.

use super::Verb;
use super::decode::{Arguments, Entry, served, unserved};
use crate::code::Failure;
use crate::command::Command;
use crate::dialect::body::{Changes, present, raw, text};
use crate::dialect::fields::{self, Draft};
use crate::event::shown_status;
use crate::id::{ConversationId, MessageId, given_client_id};
use crate::timestamp::rfc3339;
use crate::wire::{self, ephemeral::Kind as Passing, event::Kind};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The events that Ring's clients send.
pub(super) const EVENTS: &[Entry] = &[
    served("join_conversation", Verb::Join, join),
    served("leave_conversation", Verb::Leave, leave),
    served("send_message", Verb::Send, send),
    unserved("edit_message", Verb::Edit),
    unserved("delete_message", Verb::Delete),
    served("typing_start", Verb::Typing, |arguments| typing(arguments, true)),
    served("typing_stop", Verb::Typing, |arguments| typing(arguments, false)),
    unserved("mark_read", Verb::MarkRead),
    served("presence_update", Verb::Presence, presence_update),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target<'a> {
    #[serde(borrow)]
    conversation_id: Option<Cow<'a, str>>,
    after_seq: Option<u64>,
}

impl<'a> From<Cow<'a, str>> for Target<'a> {
    fn from(id: Cow<'a, str>) -> Self {
        Target { conversation_id: Some(id), after_seq: None }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageFields<'a> {
    #[serde(borrow)]
    conversation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(rename = "type", borrow)]
    content_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    client_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reply_to: Option<Cow<'a, str>>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StatusFields<'a> {
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
}

fn conversation(id: Option<Cow<'_, str>>) -> Result<ConversationId, Failure> {
    fields::conversation(id, "conversationId")
}

fn join(arguments: &Arguments<'_>) -> Result<Command, Failure> {
    let Target { conversation_id, after_seq } = arguments.fields_or_text()?;
    Ok(Command::Join { conversation: conversation(conversation_id)?, after_seq })
}

fn leave(arguments: &Arguments<'_>) -> Result<Command, Failure> {
    let Target { conversation_id, .. } = arguments.fields_or_text()?;
    Ok(Command::Leave { conversation: conversation(conversation_id)? })
}

fn typing(arguments: &Arguments<'_>, typing: bool) -> Result<Command, Failure> {
    let Target { conversation_id, .. } = arguments.fields_or_text()?;
    Ok(Command::Typing { conversation: conversation(conversation_id)?, typing })
}

fn send(arguments: &Arguments<'_>) -> Result<Command, Failure> {
    let MessageFields { conversation_id, content, content_type, client_id, reply_to, metadata } =
        arguments.fields()?;
    let conversation = conversation(conversation_id)?;
    Draft { conversation, content, content_type, client_id, persona_id: None, reply_to, metadata }
        .checked(arguments.content_chars_max)
        .map(Command::Send)
}

fn presence_update(arguments: &Arguments<'_>) -> Result<Command, Failure> {
    let StatusFields { status } = arguments.fields()?;
    Ok(Command::SetStatus { status: fields::status(status)?, text: String::new() })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageReceived<'a> {
    id: String,
    conversation_id: &'a str,
    seq: u64,
    sender_id: &'a str,
    sender_name: &'a str,
    content: &'a str,
    #[serde(rename = "type")]
    content_type: &'a str,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
}

impl<'a> MessageReceived<'a> {
    fn of(event: &'a wire::Event, message: &'a wire::SendMessage) -> Self {
        MessageReceived {
            id: MessageId::from_slice(&event.id).to_string(),
            conversation_id: &event.conversation,
            seq: event.seq,
            sender_id: &event.actor,
            sender_name: &event.actor_name,
            content: &message.content,
            content_type: &message.content_type,
            timestamp: rfc3339(event.time_ms),
            client_id: given_client_id(&event.client_id),
            reply_to: present(&message.reply_to),
            metadata: raw(&message.metadata),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConversationUpdated<'a> {
    conversation_id: &'a str,
    seq: u64,
    changes: Changes<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ParticipantChanged<'a> {
    conversation_id: &'a str,
    seq: u64,
    user_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserTyping<'a> {
    conversation_id: &'a str,
    user_id: &'a str,
    user_name: &'a str,
    is_typing: bool,
    timestamp: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PresenceUpdate<'a> {
    user_id: &'a str,
    is_online: bool,
    status: &'a str,
    last_seen: Option<String>,
    timestamp: String,
}

/// See [`super::event`].
pub(super) fn event(event: &wire::Event) -> Vec<String> {
    let (conversation_id, seq) = (event.conversation.as_str(), event.seq);
    let participant =
        |name, user_id: &str| text(&(name, ParticipantChanged { conversation_id, seq, user_id }));
    match &event.kind {
        Some(Kind::Message(message)) => {
            vec![text(&("message_received", MessageReceived::of(event, message)))]
        }
        Some(Kind::Updated(update)) => {
            let changes = Changes::of(update);
            vec![text(&("conversation_updated", ConversationUpdated { conversation_id, seq, changes }))]
        }
        Some(Kind::ParticipantsAdded(added)) => {
            added.users.iter().map(|user| participant("participant_joined", user)).collect()
        }
        Some(Kind::ParticipantRemoved(removed)) => vec![participant("participant_left", &removed.user)],
        Some(Kind::Created(_)) | None => Vec::new(),
    }
}

/// See [`super::ephemeral`].
pub(super) fn ephemeral(event: &wire::Ephemeral) -> Option<String> {
    match event.kind.as_ref()? {
        Passing::Typing(is_typing) => {
            let body = UserTyping {
                conversation_id: &event.conversation,
                user_id: &event.user,
                user_name: &event.user_name,
                is_typing: *is_typing,
                timestamp: rfc3339(event.time_ms),
            };
            Some(text(&("user_typing", body)))
        }
        Passing::Broadcast(_) | Passing::Cursor(_) => None,
    }
}

/// Ring's `presence_update`. `now_ms` is in milliseconds since 1970. Clients of the guide receive presence in this form
/// too (`docs/protocol.md#one-event-four-vocabularies`).
pub fn presence(user: &wire::UserPresence, now_ms: u64) -> String {
    let body = PresenceUpdate {
        user_id: &user.user,
        is_online: user.online,
        status: shown_status(user),
        last_seen: (user.last_seen_ms > 0).then(|| rfc3339(user.last_seen_ms)),
        timestamp: rfc3339(now_ms),
    };
    text(&("presence_update", body))
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
