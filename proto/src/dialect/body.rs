//! Helpers for encoding events and replies that every vocabulary uses.

use crate::wire;
use serde::Serialize;
use serde_json::value::RawValue;

/// Room for the JSON of a usual message, so that its buffer does not grow step by step.
const USUAL_BYTES: usize = 512;

/// `value` as JSON. Its maps must have text keys and every part must serialize; otherwise the result is empty.
pub(crate) fn text(value: &impl Serialize) -> String {
    let mut json = Vec::with_capacity(USUAL_BYTES);
    match serde_json::to_writer(&mut json, value) {
        Ok(()) => String::from_utf8(json).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// JSON that is passed on unchanged; `None` if `json` is empty or not valid.
pub(crate) fn raw(json: &str) -> Option<&RawValue> {
    if json.is_empty() { None } else { serde_json::from_str(json).ok() }
}

/// `None` if the text is empty, so that the field is left out.
pub(crate) fn present(value: &str) -> Option<&str> {
    (!value.is_empty()).then_some(value)
}

/// The changed fields of a conversation.
#[derive(Serialize)]
pub(crate) struct Changes<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    archived: Option<bool>,
}

impl<'a> Changes<'a> {
    /// The changes that `update` makes.
    pub(crate) fn of(update: &'a wire::UpdateConversation) -> Self {
        Changes {
            title: update.title.as_deref(),
            metadata: update.metadata.as_deref().and_then(raw),
            archived: update.archived,
        }
    }
}
