//! Encodes events and replies as native frames. An event's frame is built once and shared by all members that receive
//! it.

use crate::code::Failure;
use crate::dialect::body::{Changes, present, raw, text};
use crate::event::{Reply, shown_status};
use crate::id::{MessageId, given_client_id};
use crate::timestamp::rfc3339;
use crate::wire::{self, ephemeral::Kind as Passing, event::Kind};
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::value::RawValue;

#[derive(Serialize)]
struct MessageBody<'a> {
    id: String,
    sender_id: &'a str,
    sender_name: &'a str,
    content: &'a str,
    content_type: &'a str,
    timestamp: &'a str,
    is_ai: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum EventFrame<'a> {
    NewMessage {
        conversation_id: &'a str,
        seq: u64,
        message: MessageBody<'a>,
        timestamp: &'a str,
    },
    ConversationUpdated {
        conversation_id: &'a str,
        seq: u64,
        changes: Changes<'a>,
        timestamp: &'a str,
    },
    ParticipantJoined {
        conversation_id: &'a str,
        seq: u64,
        user_id: &'a str,
        timestamp: &'a str,
    },
    ParticipantLeft {
        conversation_id: &'a str,
        seq: u64,
        user_id: &'a str,
        timestamp: &'a str,
    },
    TypingIndicator {
        conversation_id: &'a str,
        user_id: &'a str,
        user_name: &'a str,
        is_typing: bool,
        timestamp: &'a str,
    },
    Broadcast {
        conversation_id: &'a str,
        user_id: &'a str,
        event: &'a str,
        data: Option<&'a RawValue>,
        timestamp: &'a str,
    },
    CursorMoved {
        conversation_id: &'a str,
        user_id: &'a str,
        position: Option<&'a RawValue>,
        timestamp: &'a str,
    },
}

/// The frames of a durable event: none for an event that this vocabulary has no name for, and one for each user if
/// several were added at once.
pub fn event(event: &wire::Event) -> Vec<String> {
    let timestamp = &rfc3339(event.time_ms);
    let (conversation_id, seq) = (event.conversation.as_str(), event.seq);
    match &event.kind {
        Some(Kind::Message(message)) => vec![text(&EventFrame::NewMessage {
            conversation_id,
            seq,
            message: MessageBody {
                id: MessageId::from_slice(&event.id).to_string(),
                sender_id: &event.actor,
                sender_name: &event.actor_name,
                content: &message.content,
                content_type: &message.content_type,
                timestamp,
                is_ai: message.is_ai,
                client_id: given_client_id(&event.client_id),
                reply_to: present(&message.reply_to),
                metadata: raw(&message.metadata),
            },
            timestamp,
        })],
        Some(Kind::Updated(update)) => {
            let changes = Changes::of(update);
            vec![text(&EventFrame::ConversationUpdated { conversation_id, seq, changes, timestamp })]
        }
        Some(Kind::ParticipantsAdded(added)) => {
            let joined =
                |user_id| text(&EventFrame::ParticipantJoined { conversation_id, seq, user_id, timestamp });
            added.users.iter().map(|user| joined(user.as_str())).collect()
        }
        Some(Kind::ParticipantRemoved(removed)) => {
            let user_id = removed.user.as_str();
            vec![text(&EventFrame::ParticipantLeft { conversation_id, seq, user_id, timestamp })]
        }
        Some(Kind::Created(_)) | None => Vec::new(),
    }
}

/// The frame of an ephemeral event; `None` if its kind is unknown.
pub fn ephemeral(event: &wire::Ephemeral) -> Option<String> {
    let timestamp = &rfc3339(event.time_ms);
    let (conversation_id, user_id) = (event.conversation.as_str(), event.user.as_str());
    Some(match event.kind.as_ref()? {
        Passing::Typing(is_typing) => text(&EventFrame::TypingIndicator {
            conversation_id,
            user_id,
            user_name: &event.user_name,
            is_typing: *is_typing,
            timestamp,
        }),
        Passing::Broadcast(broadcast) => text(&EventFrame::Broadcast {
            conversation_id,
            user_id,
            event: &broadcast.event,
            data: raw(&broadcast.data),
            timestamp,
        }),
        Passing::Cursor(position) => {
            text(&EventFrame::CursorMoved { conversation_id, user_id, position: raw(position), timestamp })
        }
    })
}

#[derive(Serialize)]
struct PresenceFields<'a> {
    online: bool,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    last_seen: Option<String>,
}

impl<'a> PresenceFields<'a> {
    fn of(user: &'a wire::UserPresence) -> Self {
        PresenceFields {
            online: user.online,
            status: shown_status(user),
            text: present(&user.text),
            last_seen: (user.last_seen_ms > 0).then(|| rfc3339(user.last_seen_ms)),
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "presence_update")]
struct PresenceUpdate<'a> {
    user_id: &'a str,
    #[serde(flatten)]
    fields: PresenceFields<'a>,
    timestamp: String,
}

/// The frame of a change of a user's presence. `now_ms` is in milliseconds since 1970.
pub fn presence(user: &wire::UserPresence, now_ms: u64) -> String {
    text(&PresenceUpdate {
        user_id: &user.user,
        fields: PresenceFields::of(user),
        timestamp: rfc3339(now_ms),
    })
}

struct PresenceByUser<'a>(&'a [wire::UserPresence]);

impl Serialize for PresenceByUser<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for user in self.0 {
            map.serialize_entry(&user.user, &PresenceFields::of(user))?;
        }
        map.end()
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ReplyFrame<'a> {
    OnlineUsers {
        users: &'a [String],
    },
    Authenticated {
        user_id: &'a str,
        expires_at: String,
    },
    ConversationJoined {
        conversation_id: &'a str,
        head_seq: u64,
        participant_count: u32,
    },
    ConversationLeft {
        conversation_id: &'a str,
    },
    MessageAck {
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a str>,
        conversation_id: &'a str,
        id: String,
        seq: u64,
    },
    Ack,
    OnlineStatus {
        users: PresenceByUser<'a>,
    },
    History {
        conversation_id: &'a str,
        events: Vec<Box<RawValue>>,
        has_more: bool,
    },
    Pong,
    Error {
        code: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    Reconnect {
        after_ms: u64,
    },
    TokenExpiring {
        expires_at: String,
    },
}

impl<'a> ReplyFrame<'a> {
    fn of(reply: &'a Reply) -> Self {
        match reply {
            Reply::OnlineUsers { users } => Self::OnlineUsers { users },
            Reply::Authenticated { user, expires_ms } => {
                Self::Authenticated { user_id: user.as_str(), expires_at: rfc3339(*expires_ms) }
            }
            Reply::Joined { conversation, head_seq, participant_count } => Self::ConversationJoined {
                conversation_id: conversation.as_str(),
                head_seq: *head_seq,
                participant_count: *participant_count,
            },
            Reply::Left { conversation } => Self::ConversationLeft { conversation_id: conversation.as_str() },
            Reply::MessageAck { client_id, conversation, id, seq } => Self::MessageAck {
                client_id: client_id.as_deref(),
                conversation_id: conversation.as_str(),
                id: id.to_string(),
                seq: *seq,
            },
            Reply::Ack => Self::Ack,
            Reply::OnlineStatus { users } => Self::OnlineStatus { users: PresenceByUser(users) },
            Reply::History { conversation, events, has_more } => Self::History {
                conversation_id: conversation.as_str(),
                events: events
                    .iter()
                    .flat_map(event)
                    .filter_map(|frame| RawValue::from_string(frame).ok())
                    .collect(),
                has_more: *has_more,
            },
            Reply::Pong => Self::Pong,
            Reply::Error(Failure { code, message, retry_after_ms }) => {
                Self::Error { code: code.as_str(), message, retry_after_ms: *retry_after_ms }
            }
            Reply::Reconnect { after_ms } => Self::Reconnect { after_ms: *after_ms },
            Reply::TokenExpiring { expires_ms } => Self::TokenExpiring { expires_at: rfc3339(*expires_ms) },
        }
    }
}

#[derive(Serialize)]
struct Direct<'a> {
    #[serde(flatten)]
    reply: ReplyFrame<'a>,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    timestamp: String,
}

/// The frame of a direct reply, with the command's `ref` if it had one. `now_ms` is in milliseconds since 1970.
pub fn reply(reply: &Reply, reference: Option<&str>, now_ms: u64) -> String {
    text(&Direct { reply: ReplyFrame::of(reply), reference, timestamp: rfc3339(now_ms) })
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
