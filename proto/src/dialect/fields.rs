//! Helpers for decoding that every vocabulary uses: they check fields and return values, or failures with their codes.

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

/// Reads the fields of a JSON object into `T`; fields that `T` does not have are ignored.
///
/// # Errors
/// `invalid_payload` when `json` is not an object, or a field has the wrong type.
pub(crate) fn fields<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Failure> {
    // serde would also accept an array for a struct, field by field.
    if !json.trim_start().starts_with('{') {
        return Err(Failure::invalid_payload("the fields must be in an object"));
    }
    serde_json::from_str(json).map_err(|error| Failure::invalid_fields(&error))
}

/// Reads a JSON string.
///
/// # Errors
/// `invalid_payload` when `json` is not a string, or contains half a surrogate pair.
pub(crate) fn text(json: &str) -> Result<String, Failure> {
    serde_json::from_str(json).map_err(|error| Failure::invalid_fields(&error))
}

/// The failure of a command without the field `name`.
pub(crate) fn missing(name: &str) -> Failure {
    Failure::invalid_payload(format!("missing {name}"))
}

/// # Errors
/// `invalid_payload` when the field `name` is absent.
pub(crate) fn required<T>(value: Option<T>, name: &str) -> Result<T, Failure> {
    value.ok_or_else(|| missing(name))
}

/// The failure for text that is not a valid id.
pub(crate) fn bad_id(error: InvalidId) -> Failure {
    Failure::invalid_payload(error.to_string())
}

/// Reads the conversation id in the field `name`.
///
/// # Errors
/// `invalid_payload` when the field is absent or not a valid id.
pub(crate) fn conversation(id: Option<Cow<'_, str>>, name: &str) -> Result<ConversationId, Failure> {
    ConversationId::parse(&required(id, name)?).map_err(bad_id)
}

/// Reads optional text of at most `chars_max` characters; empty if it is absent.
///
/// # Errors
/// `too_large`.
pub(crate) fn bounded(value: Option<Cow<'_, str>>, name: &str, chars_max: usize) -> Result<String, Failure> {
    let value = value.unwrap_or_default();
    check_length(&value, name, chars_max)?;
    Ok(value.into_owned())
}

/// Reads optional JSON that is passed on unchanged; `None` if it is absent or `null`.
///
/// # Errors
/// `too_large`.
pub(crate) fn json(raw: Option<&RawValue>, name: &str, bytes_max: usize) -> Result<Option<String>, Failure> {
    let Some(raw) = raw.map(RawValue::get).filter(|raw| *raw != "null") else { return Ok(None) };
    check_json(raw, name, bytes_max)?;
    Ok(Some(raw.to_owned()))
}

/// Reads the status that a client sets.
///
/// # Errors
/// `invalid_payload` when it is absent or not the name of a status.
pub(crate) fn status(name: Option<Cow<'_, str>>) -> Result<Status, Failure> {
    parse_status(&required(name, "status")?)
        .ok_or_else(|| Failure::invalid_payload("status must be active, away, dnd or invisible"))
}

/// A message as a client sent it, before its fields are checked.
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
    /// Checks the fields and returns the message to send. `content_chars_max` 0 means no bound.
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
