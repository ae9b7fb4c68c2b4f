//! What clients ask for, whatever vocabulary they say it in.

use crate::code::{ErrorCode, Failure};
use crate::id::{ClientId, ConversationId, UserId};
use crate::limits;
use crate::wire::Status;

/// A client's command, decoded and bounded: every field has passed the protocol's limits.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Proves or renews the identity.
    Authenticate {
        /// A JWT, without `Bearer`.
        token: String,
    },
    /// Starts hearing a conversation, from `after_seq` if given.
    Join {
        /// The conversation.
        conversation: ConversationId,
        /// The last seq the client has.
        after_seq: Option<u64>,
    },
    /// Stops hearing a conversation.
    Leave {
        /// The conversation.
        conversation: ConversationId,
    },
    /// Adds a message to a conversation.
    Send(Send),
    /// Says that the user types, or has stopped.
    Typing {
        /// The conversation.
        conversation: ConversationId,
        /// Typing, or stopped.
        typing: bool,
    },
    /// Asks for the presence of users, once.
    GetOnlineStatus {
        /// The users.
        users: Vec<UserId>,
    },
    /// Asks for the presence of users, and their changes from now on.
    WatchPresence {
        /// The users.
        users: Vec<UserId>,
    },
    /// Ends a watch.
    UnwatchPresence {
        /// The users.
        users: Vec<UserId>,
    },
    /// Says how the user wants to be seen.
    SetStatus {
        /// The status.
        status: Status,
        /// A line under the name; may be empty.
        text: String,
    },
    /// Asks for a page of a conversation's durable events.
    History {
        /// The conversation.
        conversation: ConversationId,
        /// From where, and in which direction.
        from: HistoryFrom,
        /// At most this many events, at most [`crate::limits::HISTORY_LIMIT_MAX`].
        limit: u32,
    },
    /// Passes data on to those who are there now.
    Broadcast {
        /// The conversation.
        conversation: ConversationId,
        /// The event's name.
        event: String,
        /// JSON.
        data: String,
    },
    /// Moves the user's cursor; the latest wins.
    MoveCursor {
        /// The conversation.
        conversation: ConversationId,
        /// JSON.
        position: String,
    },
    /// Asks for a pong.
    Ping,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Send {
    /// Where to.
    pub conversation: ConversationId,
    /// The content, cleaned by [`clean_content`].
    pub content: String,
    /// `text` unless the client says otherwise.
    pub content_type: String,
    /// Makes the send idempotent.
    pub client_id: Option<ClientId>,
    /// The persona that is addressed, or empty.
    pub persona_id: String,
    /// The message that this one answers, or empty.
    pub reply_to: String,
    /// A JSON object, or empty.
    pub metadata: String,
}

/// Which page of history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryFrom {
    /// The oldest events above this seq.
    After(u64),
    /// The newest events below this seq.
    Before(u64),
    /// The newest events.
    Head,
}

/// The content without control characters other than line feed and tab (protocol §2). Content is data:
/// nothing else is rewritten.
pub fn clean_content(content: &str) -> String {
    content.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// `name` is over a bound.
pub fn too_large(name: &str, bound: usize, unit: &str) -> Failure {
    Failure::new(ErrorCode::TooLarge, format!("{name} may have at most {bound} {unit}"))
}

/// Checks that a text has at most `chars_max` characters.
///
/// # Errors
/// `too_large`.
pub fn check_length(text: &str, name: &str, chars_max: usize) -> Result<(), Failure> {
    match text.chars().count() > chars_max {
        true => Err(too_large(name, chars_max, "characters")),
        false => Ok(()),
    }
}

/// Checks that valid JSON, which is passed on as it is, is neither too long nor too deep.
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

/// A message's content as it will be stored, within its bounds; `chars_max` 0: none.
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

/// Metadata as it will be stored: a JSON object, or empty where there is none or `null`.
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
    fn content_keeps_all_but_control_characters() {
        assert_eq!(clean_content(" a\u{0}b\r\n\tc\u{7f}\u{85}<b>\u{1f600} "), " ab\n\tc<b>\u{1f600} ");
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
