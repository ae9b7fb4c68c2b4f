//! The native frames that a simulated client understands.

use serde_json::Value;
use std::collections::BTreeMap;

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// `new_message`.
    Message {
        /// Where.
        conversation: String,
        /// Its place there.
        seq: u64,
        /// Its id.
        id: String,
        /// Whose.
        sender: String,
        /// The id that its sender gave.
        client_id: Option<String>,
        /// What it says.
        content: String,
    },
    /// `message_ack`.
    Ack {
        /// Where.
        conversation: String,
        /// The id that this client gave.
        client_id: String,
        /// Its place there.
        seq: u64,
        /// Its id.
        id: String,
    },
    /// `participant_joined`, `participant_left`, `conversation_updated`.
    Change {
        /// Where.
        conversation: String,
        /// Its place there.
        seq: u64,
    },
    /// `conversation_joined`.
    Joined {
        /// Where.
        conversation: String,
        /// The head then.
        head: u64,
    },
    /// `conversation_left`, which nobody asked for here: the subscription has ended.
    Ended {
        /// Where.
        conversation: String,
    },
    /// `online_status`.
    Online(BTreeMap<String, bool>),
    /// `error`.
    Failed {
        /// What it is about.
        reference: String,
        /// Its code.
        code: String,
    },
    /// Anything else.
    Other,
}

impl Told {
    /// What this frame says.
    pub fn read(text: &str) -> Told {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let conversation = text_of(&frame["conversation_id"]);
        let seq = frame["seq"].as_u64().unwrap_or_default();
        match frame["type"].as_str() {
            Some("new_message") => {
                let message = &frame["message"];
                Told::Message {
                    conversation,
                    seq,
                    id: text_of(&message["id"]),
                    sender: text_of(&message["sender_id"]),
                    client_id: message["client_id"].as_str().map(str::to_owned),
                    content: text_of(&message["content"]),
                }
            }
            Some("participant_joined" | "participant_left" | "conversation_updated") => {
                Told::Change { conversation, seq }
            }
            Some("message_ack") => Told::Ack {
                conversation,
                client_id: text_of(&frame["client_id"]),
                seq,
                id: text_of(&frame["id"]),
            },
            Some("conversation_joined") => {
                Told::Joined { conversation, head: frame["head_seq"].as_u64().unwrap_or_default() }
            }
            Some("conversation_left") => Told::Ended { conversation },
            Some("online_status") => {
                let users = frame["users"].as_object().into_iter().flatten();
                Told::Online(users.map(|(user, of)| (user.clone(), of["online"] == true)).collect())
            }
            Some("error") => {
                Told::Failed { reference: text_of(&frame["ref"]), code: text_of(&frame["code"]) }
            }
            _ => Told::Other,
        }
    }
}
