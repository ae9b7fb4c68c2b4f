//! The integration guide's vocabulary (`docs/protocol.md#guide`): `subscribe` to channels, `message:send`, `message`;
//! fields in camelCase, times in RFC 3339.

use super::Verb;
use super::decode::{Arguments, Entry, not_served, served, unserved};
use crate::code::Failure;
use crate::command::Command;
use crate::dialect::body::text;
use crate::dialect::fields::{self, Draft, bad_id, required};
use crate::id::{ConversationId, MessageId};
use crate::timestamp::rfc3339;
use crate::wire::{self, ephemeral::Kind as Passing, event::Kind};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The events that the guide's clients send.
pub(super) const EVENTS: &[Entry] = &[
    served("subscribe", Verb::Join, subscribe),
    served("unsubscribe", Verb::Leave, unsubscribe),
    served("message:send", Verb::Send, send),
    served("typing:start", Verb::Typing, |arguments| typing(arguments, true)),
    served("typing:stop", Verb::Typing, |arguments| typing(arguments, false)),
    unserved("notifications:read", Verb::Notifications),
];

const CONVERSATION_PREFIX: &str = "conversation:";
const NOTIFICATIONS_CHANNEL: &str = "user:notifications";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscription<'a> {
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    after_seq: Option<u64>,
}

impl<'a> From<Cow<'a, str>> for Subscription<'a> {
    fn from(channel: Cow<'a, str>) -> Self {
        Subscription { channel: Some(channel), after_seq: None }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageFields<'a> {
    #[serde(borrow)]
    conversation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    client_id: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypingFields<'a> {
    #[serde(borrow)]
    conversation_id: Option<Cow<'a, str>>,
}

fn conversation(id: Option<Cow<'_, str>>) -> Result<ConversationId, Failure> {
    fields::conversation(id, "conversationId")
}

/// The conversation of a channel. The prefix `conversation:` is removed once only, so that a conversation's own id may
/// begin with `conversation:`.
fn channel(channel: Option<Cow<'_, str>>) -> Result<ConversationId, Failure> {
    let channel = required(channel, "channel")?;
    if channel == NOTIFICATIONS_CHANNEL {
        return Err(not_served(NOTIFICATIONS_CHANNEL));
    }
    ConversationId::parse(channel.strip_prefix(CONVERSATION_PREFIX).unwrap_or(&channel)).map_err(bad_id)
}

fn subscribe(arguments: &Arguments<'_>) -> Result<Command, Failure> {
    let subscription: Subscription<'_> = arguments.fields_or_text()?;
    Ok(Command::Join { conversation: channel(subscription.channel)?, after_seq: subscription.after_seq })
}

fn unsubscribe(arguments: &Arguments<'_>) -> Result<Command, Failure> {
    let subscription: Subscription<'_> = arguments.fields_or_text()?;
    Ok(Command::Leave { conversation: channel(subscription.channel)? })
}

fn send(arguments: &Arguments<'_>) -> Result<Command, Failure> {
    let MessageFields { conversation_id, content, client_id } = arguments.fields()?;
    let draft = Draft {
        conversation: conversation(conversation_id)?,
        content,
        client_id,
        content_type: None,
        persona_id: None,
        reply_to: None,
        metadata: None,
    };
    draft.checked(arguments.content_chars_max).map(Command::Send)
}

fn typing(arguments: &Arguments<'_>, typing: bool) -> Result<Command, Failure> {
    let TypingFields { conversation_id } = arguments.fields()?;
    Ok(Command::Typing { conversation: conversation(conversation_id)?, typing })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    id: String,
    conversation_id: &'a str,
    seq: u64,
    sender_id: &'a str,
    sender_name: &'a str,
    content: &'a str,
    timestamp: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Typing<'a> {
    conversation_id: &'a str,
    user_id: &'a str,
    is_typing: bool,
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
    let body = Message {
        id: MessageId::from_slice(&event.id).to_string(),
        conversation_id: &event.conversation,
        seq: event.seq,
        sender_id: &event.actor,
        sender_name: &event.actor_name,
        content: &message.content,
        timestamp: rfc3339(event.time_ms),
    };
    vec![text(&("message", body))]
}

/// See [`super::ephemeral`].
pub(super) fn ephemeral(event: &wire::Ephemeral) -> Option<String> {
    let Passing::Typing(is_typing) = *event.kind.as_ref()? else { return None };
    let body = Typing { conversation_id: &event.conversation, user_id: &event.user, is_typing };
    Some(text(&("typing", body)))
}

#[cfg(test)]
#[path = "guide_tests.rs"]
mod tests;
