//! What clients ask for, whatever vocabulary they say it in.

use crate::id::{ClientId, ConversationId, UserId};
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
                if depth > crate::limits::JSON_DEPTH_MAX {
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
