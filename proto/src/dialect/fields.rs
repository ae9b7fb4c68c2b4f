//! Reading what clients send: fields of any vocabulary to checked values, each refusal with its code.

use crate::code::Failure;
use crate::command::{Send, check_json, check_length, checked_content, checked_metadata};
use crate::event::parse_status;
use crate::id::{ClientId, ConversationId, InvalidId, MessageId};
use crate::limits;
use crate::wire::Status;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The fields of `authenticate`, the same in every vocabulary.
#[derive(Deserialize)]
pub(crate) struct Token<'a> {
    #[serde(borrow)]
    pub(crate) token: Option<Cow<'a, str>>,
}

/// The fields of a JSON object; others are ignored.
///
/// # Errors
/// `invalid_payload` when `json` is no object, or a field is not of its type.
pub(crate) fn fields<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Failure> {
    // serde would take an array for a struct, field by field.
    if !json.trim_start().starts_with('{') {
        return Err(Failure::invalid_payload("the fields must be in an object"));
    }
    serde_json::from_str(json).map_err(unreadable)
}

/// The text that `json` is.
///
/// # Errors
/// `invalid_payload` when it is something else, or has half a character (a lone surrogate).
pub(crate) fn text(json: &str) -> Result<String, Failure> {
    serde_json::from_str(json).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> Failure {
    let error = error.to_string();
    let what = error.split(" at line").next().unwrap_or_default();
    Failure::invalid_payload(what.chars().take(200).collect::<String>())
}

/// The refusal of a command without the field `name`.
pub(crate) fn missing(name: &str) -> Failure {
    Failure::invalid_payload(format!("missing {name}"))
}

/// # Errors
/// `invalid_payload` when the field `name` is absent.
pub(crate) fn required<T>(value: Option<T>, name: &str) -> Result<T, Failure> {
    value.ok_or_else(|| missing(name))
}

/// The refusal of text that is not the id it should be.
pub(crate) fn bad_id(error: InvalidId) -> Failure {
    Failure::invalid_payload(error.to_string())
}

/// The conversation that the field `name` names.
///
/// # Errors
/// `invalid_payload` when it is absent or no id.
pub(crate) fn conversation(id: Option<Cow<'_, str>>, name: &str) -> Result<ConversationId, Failure> {
    ConversationId::parse(&required(id, name)?).map_err(bad_id)
}

/// Optional text of at most `chars_max` characters; absent is empty.
///
/// # Errors
/// `too_large`.
pub(crate) fn bounded(value: Option<Cow<'_, str>>, name: &str, chars_max: usize) -> Result<String, Failure> {
    let value = value.unwrap_or_default();
    check_length(&value, name, chars_max)?;
    Ok(value.into_owned())
}

/// Optional JSON that is passed on as it is.
///
/// # Errors
/// `too_large`.
pub(crate) fn json(raw: Option<&RawValue>, name: &str, bytes_max: usize) -> Result<Option<String>, Failure> {
    let Some(raw) = raw.map(RawValue::get).filter(|raw| *raw != "null") else { return Ok(None) };
    check_json(raw, name, bytes_max)?;
    Ok(Some(raw.to_owned()))
}

/// The status that a client wants to be seen with.
///
/// # Errors
/// `invalid_payload` when it is absent or no status.
pub(crate) fn status(name: Option<Cow<'_, str>>) -> Result<Status, Failure> {
    parse_status(&required(name, "status")?)
        .ok_or_else(|| Failure::invalid_payload("status must be active, away, dnd or invisible"))
}

/// A message as a client wrote it, its bounds not yet checked.
pub(crate) struct Draft<'a> {
    pub(crate) conversation: ConversationId,
    pub(crate) content: Option<Cow<'a, str>>,
    pub(crate) content_type: Option<Cow<'a, str>>,
    pub(crate) client_id: Option<Cow<'a, str>>,
    pub(crate) persona_id: Option<Cow<'a, str>>,
    pub(crate) reply_to: Option<Cow<'a, str>>,
    pub(crate) metadata: Option<&'a RawValue>,
}

impl Draft<'_> {
    /// The message to send; `content_chars_max` 0: no bound.
    ///
    /// # Errors
    /// `invalid_payload`, `empty_content` or `too_large`.
    pub(crate) fn checked(self, content_chars_max: usize) -> Result<Send, Failure> {
        let content_type = bounded(self.content_type, "the content type", limits::CONTENT_TYPE_LENGTH_MAX)?;
        let reply_to = match self.reply_to {
            Some(id) => MessageId::parse(&id).map_err(bad_id)?.to_string(),
            None => String::new(),
        };
        Ok(Send {
            conversation: self.conversation,
            content: checked_content(&required(self.content, "content")?, content_chars_max)?,
            content_type: if content_type.is_empty() { "text".into() } else { content_type },
            client_id: self.client_id.map(|id| ClientId::parse(&id)).transpose().map_err(bad_id)?,
            persona_id: bounded(self.persona_id, "the persona id", limits::CONTENT_TYPE_LENGTH_MAX)?,
            reply_to,
            metadata: checked_metadata(self.metadata.map(RawValue::get))?,
        })
    }
}
