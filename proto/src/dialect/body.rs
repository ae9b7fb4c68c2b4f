//! Writing what clients hear: the pieces that are the same in every vocabulary.

use crate::event::status_name;
use crate::wire;
use serde::Serialize;
use serde_json::value::RawValue;

/// `value` as JSON. It must be made of maps with text keys, and of values that serialize.
pub(crate) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// JSON that is passed on as it is; nothing for none.
pub(crate) fn raw(json: &str) -> Option<&RawValue> {
    if json.is_empty() { None } else { serde_json::from_str(json).ok() }
}

/// A text that is there.
pub(crate) fn present(value: &str) -> Option<&str> {
    (!value.is_empty()).then_some(value)
}

/// The status that others see: of somebody offline, `offline`.
pub(crate) fn shown_status(user: &wire::UserPresence) -> &'static str {
    if user.online { status_name(user.status()) } else { "offline" }
}

/// What has changed in a conversation.
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
