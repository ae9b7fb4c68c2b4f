//! Commands of clients, the same for every vocabulary, and the checks of their fields.

use crate::code::{ErrorCode, Failure};
use crate::id::{ClientId, ConversationId, UserId};
use crate::limits;
use crate::wire::Status;

/// A decoded command of a client. Every field has passed its checks and limits.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Proves or renews the identity.
    Authenticate {
        /// A JWT, without `Bearer`.
        token: String,
    },
    /// Joins a conversation: the client receives its events, from `after_seq` on if given.
    Join {
        /// The conversation.
        conversation: ConversationId,
        /// The last seq the client has.
        after_seq: Option<u64>,
    },
    /// Leaves a conversation: the client receives its events no longer.
    Leave {
        /// The conversation.
        conversation: ConversationId,
    },
    /// Adds a message to a conversation.
    Send(Send),
    /// Reports that the user has begun or stopped typing.
    Typing {
        /// The conversation.
        conversation: ConversationId,
        /// True: typing; false: stopped.
        typing: bool,
    },
    /// Requests the presence of users, once.
    GetOnlineStatus {
        /// The users.
        users: Vec<UserId>,
    },
    /// Requests the presence of users, and their changes from now on.
    WatchPresence {
        /// The users.
        users: Vec<UserId>,
    },
    /// Ends a watch.
    UnwatchPresence {
        /// The users.
        users: Vec<UserId>,
    },
    /// Sets the status that other users see.
    SetStatus {
        /// The status.
        status: Status,
        /// The status text, one line; may be empty.
        text: String,
    },
    /// Requests a page of a conversation's durable events.
    History {
        /// The conversation.
        conversation: ConversationId,
        /// Where the page begins, and in which direction it goes.
        from: HistoryFrom,
        /// At most this many events, at most [`crate::limits::HISTORY_LIMIT_MAX`].
        limit: u32,
    },
    /// Sends data to the members who are connected now. It is not stored.
    Broadcast {
        /// The conversation.
        conversation: ConversationId,
        /// The event's name.
        event: String,
        /// JSON.
        data: String,
    },
    /// Moves the user's cursor. Only the latest position matters.
    MoveCursor {
        /// The conversation.
        conversation: ConversationId,
        /// JSON.
        position: String,
    },
    /// Requests a pong.
    Ping,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Send {
    /// The conversation that the message is added to.
    pub conversation: ConversationId,
    /// The content, cleaned by [`clean_content`].
    pub content: String,
    /// `text` if the client gives none.
    pub content_type: String,
    /// Makes the send idempotent.
    pub client_id: Option<ClientId>,
    /// The id of the addressed persona, or empty.
    pub persona_id: String,
    /// The id of the message that this one answers, or empty.
    pub reply_to: String,
    /// A JSON object, or empty.
    pub metadata: String,
}

/// Which page of the history is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryFrom {
    /// The oldest events above this seq.
    After(u64),
    /// The newest events below this seq.
    Before(u64),
    /// The newest events.
    Head,
}

/// The content without control characters other than line feed and tab. Nothing else is changed: the gateway does not
/// interpret content.
pub fn clean_content(content: &str) -> String {
    // In UTF-8, control characters above 127 begin with the byte 0xC2. Looking at all bytes without leaving the loop
    // early lets the compiler look at many at once.
    let is_plain =
        |byte: u8| (byte >= b' ') & (byte != 0x7F) & (byte != 0xC2) | (byte == b'\n') | (byte == b'\t');
    if content.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
        return content.to_owned();
    }
    content.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// The `too_large` failure for `name`, which may have at most `bound` of `unit`.
pub fn too_large(name: &str, bound: usize, unit: &str) -> Failure {
    Failure::new(ErrorCode::TooLarge, format!("{name} may have at most {bound} {unit}"))
}

/// Checks that a text has at most `chars_max` characters.
///
/// # Errors
/// `too_large`.
pub fn check_length(text: &str, name: &str, chars_max: usize) -> Result<(), Failure> {
    // A character has at least one byte.
    match text.len() > chars_max && text.chars().count() > chars_max {
        true => Err(too_large(name, chars_max, "characters")),
        false => Ok(()),
    }
}

/// Checks that JSON is neither too long nor nested too deep. `json` must be valid JSON.
///
/// # Errors
/// `too_large`.
pub fn check_json(json: &str, name: &str, bytes_max: usize) -> Result<(), Failure> {
    if json.len() > bytes_max {
        return Err(too_large(name, bytes_max, "bytes"));
    }
    if nests_too_deep(json) {
        return Err(too_large(name, limits::JSON_DEPTH_MAX, "levels of nesting"));
    }
    Ok(())
}

/// A message's content as it will be stored, after its checks. `chars_max` 0 means no bound.
///
/// # Errors
/// `empty_content` or `too_large`.
pub fn checked_content(content: &str, chars_max: usize) -> Result<String, Failure> {
    let content = clean_content(content);
    if content.trim().is_empty() {
        return Err(Failure::new(ErrorCode::EmptyContent, "content must not be empty"));
    }
    if chars_max > 0 {
        check_length(&content, "content", chars_max)?;
    }
    Ok(content)
}

/// Metadata as it will be stored: a JSON object, or empty if it is absent or `null`.
///
/// # Errors
/// `invalid_payload` or `too_large`.
pub fn checked_metadata(json: Option<&str>) -> Result<String, Failure> {
    let Some(json) = json.filter(|json| *json != "null") else { return Ok(String::new()) };
    check_json(json, "metadata", limits::METADATA_BYTES_MAX)?;
    if !json.starts_with('{') {
        return Err(Failure::invalid_payload("metadata must be an object"));
    }
    Ok(json.to_owned())
}

/// Whether `json` nests deeper than [`crate::limits::JSON_DEPTH_MAX`]. `json` must be valid JSON.
pub fn nests_too_deep(json: &str) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                if depth > limits::JSON_DEPTH_MAX {
                    return true;
                }
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_loses_only_control_characters() {
        assert_eq!(clean_content(" a\u{0}b\r\n\tc\u{7f}\u{85}<b>\u{1f600} "), " ab\n\tc<b>\u{1f600} ");
        for character in (0..0x1000).filter_map(char::from_u32) {
            let kept = !character.is_control() || matches!(character, '\n' | '\t');
            let expected = if kept { format!("a{character}b") } else { "ab".into() };
            assert_eq!(clean_content(&format!("a{character}b")), expected, "{character:?}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_text() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(!nests_too_deep(&nested(32)));
        assert!(nests_too_deep(&nested(33)));
        assert!(!nests_too_deep(&format!("[\"{}\\\"{}\"]", "[".repeat(40), "{".repeat(40))));
        assert!(!nests_too_deep(&format!("[{}]", vec!["[]"; 100].join(","))));
    }
}
