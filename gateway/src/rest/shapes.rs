//! The JSON of conversations, messages, users and presence.

use carillon_proto::event::shown_status;
use carillon_proto::id::{MessageId, given_client_id};
use carillon_proto::timestamp::rfc3339;
use carillon_proto::wire::{self, event::Kind};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A conversation.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Conversation {
    /// The conversation's id.
    id: String,
    /// The title; `null` if there is none.
    #[schema(required = true)]
    title: Option<String>,
    /// The ids of the stored participants, sorted. The list ends at 400 KiB of ids.
    participants: Vec<String>,
    /// The user who may change the conversation and its participants; `null` if there is no owner.
    #[schema(required = true)]
    owner_id: Option<String>,
    /// When the conversation was created.
    #[schema(format = DateTime)]
    created_at: String,
    /// The newest message; `null` if there is none.
    #[schema(required = true)]
    last_message: Option<Message>,
    /// The seq of the newest durable event. Changes of the conversation have a seq too.
    head_seq: u64,
    /// Number of messages that the caller has not read. There are no read marks yet, so all messages count.
    unread_count: u64,
    /// Whether the conversation is archived.
    archived: bool,
    /// The conversation's metadata; `{}` if there is none.
    #[schema(value_type = Object)]
    metadata: Box<RawValue>,
    /// Time of the last message, or else of the creation. Lists are sorted by it.
    #[serde(skip)]
    active_ms: u64,
}

impl Conversation {
    /// The JSON shape of a conversation that a worker returned.
    pub fn of(info: wire::ConversationInfo) -> Conversation {
        let head = info.head.unwrap_or_default();
        let active_ms = head.last_message.as_ref().map_or(head.created_ms, |message| message.time_ms);
        Conversation {
            id: info.conversation,
            title: present(head.title),
            participants: info.participants,
            owner_id: present(head.owner),
            created_at: rfc3339(head.created_ms),
            last_message: head.last_message.as_ref().and_then(Message::of),
            head_seq: head.seq,
            unread_count: head.messages,
            archived: head.archived,
            metadata: json(&head.metadata).unwrap_or_else(empty_object),
            active_ms,
        }
    }

    /// Sorts by last activity, the latest first.
    pub fn sort_by_activity(conversations: &mut [Conversation]) {
        conversations.sort_by(|one, other| (other.active_ms, &one.id).cmp(&(one.active_ms, &other.id)));
    }
}

/// A message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The message's id.
    #[schema(format = "uuid")]
    id: String,
    /// The id of the conversation.
    conversation_id: String,
    /// The number of the message among the conversation's durable events. The numbers of messages may have gaps.
    seq: u64,
    /// The id of the user who sent the message.
    sender_id: String,
    /// The sender's display name when the message was sent.
    sender_name: String,
    /// The text of the message.
    content: String,
    /// The kind of the content.
    #[serde(rename = "type")]
    #[schema(example = "text")]
    content_type: String,
    /// When the message was accepted.
    #[schema(format = DateTime)]
    timestamp: String,
    /// Whether a persona wrote the message.
    is_ai: bool,
    /// The client id that the sender gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// The id of the message that this message answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    /// The metadata that the sender gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
}

impl Message {
    /// The JSON shape of a message event; `None` for other events.
    pub fn of(event: &wire::Event) -> Option<Message> {
        let Some(Kind::Message(message)) = &event.kind else { return None };
        Some(Message {
            id: MessageId::from_slice(&event.id).to_string(),
            conversation_id: event.conversation.clone(),
            seq: event.seq,
            sender_id: event.actor.clone(),
            sender_name: event.actor_name.clone(),
            content: message.content.clone(),
            content_type: message.content_type.clone(),
            timestamp: rfc3339(event.time_ms),
            is_ai: message.is_ai,
            client_id: given_client_id(&event.client_id).map(str::to_owned),
            reply_to: present(message.reply_to.clone()),
            metadata: json(&message.metadata),
        })
    }

    /// The message's seq.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The approximate size of its JSON in bytes.
    pub fn weight_bytes(&self) -> usize {
        256 + self.content.len() + self.metadata.as_ref().map_or(0, |json| json.get().len())
    }
}

/// A user. The profile comes from the token with which the user last connected.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The user's id.
    id: String,
    /// The user's display name; the id if there is no name.
    name: String,
    /// The user's email address. Only the user and backends receive it; otherwise it is `null`.
    #[schema(required = true)]
    email: Option<String>,
    /// The URL of the user's picture; `null` if there is none.
    #[schema(required = true)]
    image: Option<String>,
    /// The user's role; `null` if there is none.
    #[schema(required = true)]
    role: Option<String>,
}

impl User {
    /// The JSON shape of a profile. Without a name in the profile, the id is the name.
    pub fn of(profile: wire::Profile, with_email: bool) -> User {
        User {
            name: present(profile.name).unwrap_or_else(|| profile.user.clone()),
            email: present(profile.email).filter(|_| with_email),
            image: present(profile.picture),
            role: present(profile.role),
            id: profile.user,
        }
    }
}

/// A user's presence.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Presence {
    /// Whether the user is online. An invisible user is shown offline.
    online: bool,
    /// `active`, `away` or `dnd`; `offline` if the user is not online.
    #[schema(example = "active")]
    status: &'static str,
    /// The status text that the user has set, at most 140 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// When the user was last online; `null` if that is not known, or if the caller may not see the user.
    #[schema(format = DateTime, required = true)]
    last_seen: Option<String>,
}

impl Presence {
    /// The JSON shape of a presence that a worker returned.
    pub fn of(presence: &wire::UserPresence) -> Presence {
        Presence {
            online: presence.online,
            status: shown_status(presence),
            text: present(presence.text.clone()),
            last_seen: (presence.last_seen_ms > 0).then(|| rfc3339(presence.last_seen_ms)),
        }
    }
}

fn present(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn json(text: &str) -> Option<Box<RawValue>> {
    serde_json::from_str(text).ok()
}

fn empty_object() -> Box<RawValue> {
    // `{}` is valid JSON, so the default is never used.
    RawValue::from_string("{}".into()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(seq: u64, time_ms: u64) -> wire::Event {
        let body =
            wire::SendMessage { content: "hi".into(), content_type: "text".into(), ..Default::default() };
        wire::Event {
            conversation: "room".into(),
            seq,
            time_ms,
            actor: "ann".into(),
            actor_name: "Ann".into(),
            client_id: "~made".into(),
            kind: Some(Kind::Message(body)),
            ..Default::default()
        }
    }

    #[test]
    fn a_conversation_has_every_field() {
        let head = wire::Head {
            seq: 3,
            owner: "ann".into(),
            created_ms: 1_000,
            last_message: Some(message(3, 2_000)),
            messages: 2,
            ..Default::default()
        };
        let info = wire::ConversationInfo {
            conversation: "room".into(),
            head: Some(head),
            participants: vec!["ann".into()],
        };
        let shown = serde_json::to_value(Conversation::of(info)).expect("JSON");
        let expected = json!({
            "id": "room", "title": null, "participants": ["ann"], "ownerId": "ann",
            "createdAt": "1970-01-01T00:00:01.000Z", "headSeq": 3, "unreadCount": 2, "archived": false, "metadata": {},
            "lastMessage": {
                "id": "00000000-0000-0000-0000-000000000000", "conversationId": "room", "seq": 3,
                "senderId": "ann", "senderName": "Ann", "content": "hi", "type": "text",
                "timestamp": "1970-01-01T00:00:02.000Z", "isAi": false
            }
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_latest_activity_comes_first() {
        let conversation = |id: &str, created_ms, message_ms: Option<u64>| {
            let last_message = message_ms.map(|time_ms| message(1, time_ms));
            let head = Some(wire::Head { created_ms, last_message, ..Default::default() });
            Conversation::of(wire::ConversationInfo {
                conversation: id.into(),
                head,
                participants: Vec::new(),
            })
        };
        let mut all = vec![
            conversation("old", 1, None),
            conversation("b", 1, Some(20)),
            conversation("new", 30, None),
            conversation("a", 2, Some(20)),
        ];
        Conversation::sort_by_activity(&mut all);
        let order: Vec<&str> = all.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(order, ["new", "a", "b", "old"]);
    }

    #[test]
    fn an_email_is_shown_only_on_request() {
        let profile = wire::Profile { user: "ann".into(), email: "ann@x.org".into(), ..Default::default() };
        let shown = |with_email| serde_json::to_value(User::of(profile.clone(), with_email)).expect("JSON");
        assert_eq!(shown(true)["email"], "ann@x.org");
        assert_eq!(
            shown(false),
            json!({"id": "ann", "name": "ann", "email": null, "image": null, "role": null})
        );
    }
}
