//! The native frames that a simulated client understands.

use serde_json::Value;
use std::collections::BTreeMap;

/// A parsed frame from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// `new_message`.
    Message {
        /// The conversation's id.
        conversation: String,
        /// The event's seq.
        seq: u64,
        /// The message's id.
        id: String,
        /// The user who sent it.
        sender: String,
        /// The client id that its sender gave, if the frame carries one.
        client_id: Option<String>,
        /// The message's text.
        content: String,
    },
    /// `message_ack`.
    Ack {
        /// The conversation's id.
        conversation: String,
        /// The client id that this client gave.
        client_id: String,
        /// The message's seq.
        seq: u64,
        /// The message's id.
        id: String,
    },
    /// `participant_joined`, `participant_left`, `conversation_updated`.
    Change {
        /// The conversation's id.
        conversation: String,
        /// The event's seq.
        seq: u64,
    },
    /// `conversation_joined`.
    Joined {
        /// The conversation's id.
        conversation: String,
        /// The committed head at the time of the join.
        head: u64,
    },
    /// `conversation_left`: the subscription has ended. Simulated clients never leave by themselves.
    Ended {
        /// The conversation's id.
        conversation: String,
    },
    /// `online_status`: users, and whether they are online.
    Online(BTreeMap<String, bool>),
    /// `error`.
    Failed {
        /// The `ref` of the command that failed.
        reference: String,
        /// The error code.
        code: String,
    },
    /// Any other frame.
    Other,
}

impl Frame {
    /// Parses a frame.
    pub fn parse(text: &str) -> Frame {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let conversation = text_of(&frame["conversation_id"]);
        let seq = frame["seq"].as_u64().unwrap_or_default();
        match frame["type"].as_str() {
            Some("new_message") => {
                let message = &frame["message"];
                Frame::Message {
                    conversation,
                    seq,
                    id: text_of(&message["id"]),
                    sender: text_of(&message["sender_id"]),
                    client_id: message["client_id"].as_str().map(str::to_owned),
                    content: text_of(&message["content"]),
                }
            }
            Some("participant_joined" | "participant_left" | "conversation_updated") => {
                Frame::Change { conversation, seq }
            }
            Some("message_ack") => Frame::Ack {
                conversation,
                client_id: text_of(&frame["client_id"]),
                seq,
                id: text_of(&frame["id"]),
            },
            Some("conversation_joined") => {
                Frame::Joined { conversation, head: frame["head_seq"].as_u64().unwrap_or_default() }
            }
            Some("conversation_left") => Frame::Ended { conversation },
            Some("online_status") => {
                let users = frame["users"].as_object().into_iter().flatten();
                Frame::Online(users.map(|(user, of)| (user.clone(), of["online"] == true)).collect())
            }
            Some("error") => {
                Frame::Failed { reference: text_of(&frame["ref"]), code: text_of(&frame["code"]) }
            }
            _ => Frame::Other,
        }
    }
}
