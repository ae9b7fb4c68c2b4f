//! Decodes native frames to commands. Every input gives a command or a failure with a code.

use crate::code::{ErrorCode, Failure};
use crate::command::{Command, HistoryFrom, Send, too_large};
use crate::dialect::fields::{self, Draft, Token, bad_id, bounded, fields, json, missing, required, status};
use crate::id::{ConversationId, UserId};
use crate::limits;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A decoded frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The frame's `ref`, which the direct reply or the error repeats.
    pub reference: Option<String>,
    /// The command.
    pub command: Command,
}

/// A frame that is not a valid command, with the `ref` that the error repeats.
#[derive(Debug, Clone, PartialEq)]
pub struct InvalidFrame {
    /// The frame's `ref`, if it could be read.
    pub reference: Option<String>,
    /// The failure to report.
    pub failure: Failure,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
}

/// Decodes the text frame `text`. `content_chars_max` limits the code points of a message's content; 0 means no bound.
///
/// # Errors
/// `invalid_frame` when it is not a JSON object with a `type`; `invalid_payload`, `empty_content` or `too_large` when
/// its fields do not fit the type (`docs/protocol.md#errors`).
pub fn decode(text: &str, content_chars_max: usize) -> Result<Frame, InvalidFrame> {
    let unreadable = |message: &str| InvalidFrame {
        reference: None,
        failure: Failure::new(ErrorCode::InvalidFrame, message),
    };
    let envelope: Envelope<'_> =
        fields(text).map_err(|_| unreadable("a frame must be a JSON object with a type"))?;
    let (reference, bad_reference) = match envelope.reference.map(text_of) {
        None => (None, false),
        Some(Some(reference)) if reference.chars().count() <= limits::REF_LENGTH_MAX => {
            (Some(reference), false)
        }
        Some(_) => (None, envelope.reference.is_some_and(|raw| raw.get() != "null")),
    };
    let refuse = |failure| InvalidFrame { reference: reference.clone(), failure };
    let Some(kind) = envelope.kind.and_then(text_of) else {
        return Err(refuse(Failure::new(ErrorCode::InvalidFrame, "a frame must have a type, as text")));
    };
    if bad_reference {
        return Err(refuse(Failure::invalid_payload("ref must be text of at most 64 characters")));
    }
    match command(&kind, text, content_chars_max) {
        Ok(command) => Ok(Frame { reference, command }),
        Err(failure) => Err(refuse(failure)),
    }
}

fn text_of(raw: &RawValue) -> Option<String> {
    fields::text(raw.get()).ok()
}

fn command(kind: &str, text: &str, content_chars_max: usize) -> Result<Command, Failure> {
    Ok(match kind {
        "authenticate" => {
            let Token { token } = fields(text)?;
            Command::Authenticate { token: required(token, "token")?.into_owned() }
        }
        "join_conversation" => {
            let page: Page<'_> = fields(text)?;
            Command::Join { conversation: conversation(page.conversation_id)?, after_seq: page.after_seq }
        }
        "leave_conversation" => Command::Leave { conversation: conversation_of(text)? },
        "send_message" => Command::Send(send(fields(text)?, content_chars_max)?),
        "typing_start" => Command::Typing { conversation: conversation_of(text)?, typing: true },
        "typing_stop" => Command::Typing { conversation: conversation_of(text)?, typing: false },
        "get_online_status" => Command::GetOnlineStatus { users: users_of(text)? },
        "watch_presence" => Command::WatchPresence { users: users_of(text)? },
        "unwatch_presence" => Command::UnwatchPresence { users: users_of(text)? },
        "set_status" => set_status(fields(text)?)?,
        "history" => history(fields(text)?)?,
        "broadcast" => broadcast(fields(text)?)?,
        "move_cursor" => {
            let cursor: Cursor<'_> = fields(text)?;
            Command::MoveCursor {
                conversation: conversation(cursor.conversation_id)?,
                position: json(cursor.position, "position", limits::POSITION_BYTES_MAX)?
                    .ok_or_else(|| missing("position"))?,
            }
        }
        "ping" => Command::Ping,
        _ => {
            let shown: String = kind.chars().take(64).collect();
            return Err(Failure::invalid_payload(format!("unknown type {shown:?}")));
        }
    })
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    conversation_id: Option<Cow<'a, str>>,
    after_seq: Option<u64>,
    before_seq: Option<u64>,
    limit: Option<u32>,
}

#[derive(Deserialize)]
struct Conversation<'a> {
    #[serde(borrow)]
    conversation_id: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Users<'a> {
    #[serde(borrow)]
    user_ids: Option<Vec<Cow<'a, str>>>,
}

#[derive(Deserialize)]
struct StatusFields<'a> {
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct BroadcastFields<'a> {
    #[serde(borrow)]
    conversation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Cursor<'a> {
    #[serde(borrow)]
    conversation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    position: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct SendFields<'a> {
    #[serde(borrow)]
    conversation_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    persona_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reply_to: Option<Cow<'a, str>>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    client_id: Option<Cow<'a, str>>,
}

fn conversation(id: Option<Cow<'_, str>>) -> Result<ConversationId, Failure> {
    fields::conversation(id, "conversation_id")
}

fn conversation_of(text: &str) -> Result<ConversationId, Failure> {
    let Conversation { conversation_id } = fields(text)?;
    conversation(conversation_id)
}

fn users_of(text: &str) -> Result<Vec<UserId>, Failure> {
    let Users { user_ids } = fields(text)?;
    let ids = required(user_ids, "user_ids")?;
    if ids.len() > limits::ID_LIST_LENGTH_MAX {
        return Err(too_large("user_ids", limits::ID_LIST_LENGTH_MAX, "ids"));
    }
    ids.iter().map(|id| UserId::parse(id).map_err(bad_id)).collect()
}

fn send(fields: SendFields<'_>, content_chars_max: usize) -> Result<Send, Failure> {
    let SendFields { conversation_id, content, content_type, persona_id, reply_to, metadata, client_id } =
        fields;
    let conversation = conversation(conversation_id)?;
    Draft { conversation, content, content_type, client_id, persona_id, reply_to, metadata }
        .checked(content_chars_max)
}

fn set_status(fields: StatusFields<'_>) -> Result<Command, Failure> {
    let status = status(fields.status)?;
    Ok(Command::SetStatus { status, text: bounded(fields.text, "text", limits::STATUS_TEXT_LENGTH_MAX)? })
}

fn history(page: Page<'_>) -> Result<Command, Failure> {
    let from = match (page.before_seq, page.after_seq) {
        (Some(_), Some(_)) => return Err(Failure::invalid_payload("give before_seq or after_seq, not both")),
        (Some(seq), None) => HistoryFrom::Before(seq),
        (None, Some(seq)) => HistoryFrom::After(seq),
        (None, None) => HistoryFrom::Head,
    };
    let limit = page.limit.unwrap_or(limits::HISTORY_LIMIT_DEFAULT).clamp(1, limits::HISTORY_LIMIT_MAX);
    Ok(Command::History { conversation: conversation(page.conversation_id)?, from, limit })
}

fn broadcast(fields: BroadcastFields<'_>) -> Result<Command, Failure> {
    let event = bounded(Some(required(fields.event, "event")?), "event", limits::EVENT_NAME_LENGTH_MAX)?;
    let data = json(fields.data, "data", limits::DATA_BYTES_MAX)?.unwrap_or_else(|| "null".into());
    Ok(Command::Broadcast { conversation: conversation(fields.conversation_id)?, event, data })
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
