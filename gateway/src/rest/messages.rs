//! Messages of a conversation: reading pages of them, and sending one.

use super::ErrorResponse;
use super::body::{InConversation, JsonBody, Params, page_limit};
use super::caller::{Caller, only_with_a_key};
use super::error::ErrorResponses;
use super::shapes::Message;
use crate::shared::Shared;
use crate::workers::submit::NewCommand;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use carillon_proto::code::Failure;
use carillon_proto::command::{HistoryFrom, check_length, checked_content, checked_metadata};
use carillon_proto::id::{ClientId, ConversationId, MessageId, UserId};
use carillon_proto::limits::{CONTENT_TYPE_LENGTH_MAX, HISTORY_LIMIT_MAX, NAME_LENGTH_MAX};
use carillon_proto::wire::{self, command::Body, presence_change::Body as Change};
use carillon_proto::wire::{event::Kind, presence_result::Body as Outcome};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Maximum number of reads for one page. A long run of events without messages ends the page early.
const READS_MAX: usize = 10;
/// A page ends when its messages have this many bytes. One read may bring a little more.
const PAGE_BYTES: usize = 512 * 1024;

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// The page has the newest messages below this seq. It cannot be combined with `afterSeq`.
    before_seq: Option<u64>,
    /// The page has the oldest messages above this seq. It cannot be combined with `beforeSeq`.
    after_seq: Option<u64>,
    /// Maximum number of messages in the page, 50 by default. A value outside 1 to 200 counts as the nearest of these.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// A page of messages.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MessagePage {
    /// The messages of this page, ascending by seq.
    messages: Vec<Message>,
    /// Whether there may be more messages in the direction of the request.
    has_more: bool,
    /// The `beforeSeq` or `afterSeq` of the next page in the same direction. It is absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_seq: Option<u64>,
}

/// List messages
///
/// Returns the newest messages, or those next to a seq. A page may have fewer messages than `limit` although more
/// follow.
#[utoipa::path(
    operation_id = "listMessages", get, path = "/api/conversations/{id}/messages", tag = "Messages",
    params(("id" = String, Path, description = "The conversation's id."), PageParams),
    responses((status = 200, body = MessagePage, description = "A page of messages."), ErrorResponses), security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InConversation(conversation): InConversation,
    Params(params): Params<PageParams>,
) -> Result<Json<MessagePage>, ErrorResponse> {
    let from = match (params.before_seq, params.after_seq) {
        (Some(_), Some(_)) => {
            return Err(Failure::invalid_payload("give beforeSeq or afterSeq, not both").into());
        }
        (Some(seq), None) => HistoryFrom::Before(seq),
        (None, Some(seq)) => HistoryFrom::After(seq),
        (None, None) => HistoryFrom::Head,
    };
    let check = caller.right(&shared, &conversation)?.check;
    let page = Page { shared: &shared, conversation: &conversation, check, limit: page_limit(params.limit) };
    Ok(Json(page.read(from).await?))
}

struct Page<'a> {
    shared: &'a Shared,
    conversation: &'a ConversationId,
    check: String,
    limit: u32,
}

impl Page<'_> {
    /// Reads events until enough of them are messages. The first read requests only the page's limit, because most
    /// events are messages. Later reads request the maximum, because a run of other events may go on.
    async fn read(&self, mut from: HistoryFrom) -> Result<MessagePage, Failure> {
        let (limit, forward) = (self.limit as usize, matches!(from, HistoryFrom::After(_)));
        let (mut messages, mut bytes, mut has_more) = (VecDeque::new(), 0, true);
        for reads in 0..READS_MAX {
            let events_max = if reads == 0 { self.limit } else { HISTORY_LIMIT_MAX };
            let reader = &self.shared.delivery.reader;
            let read = reader.history(self.conversation, from, events_max, &self.check).await?;
            has_more = read.has_more;
            let end = if forward { read.events.last() } else { read.events.first() };
            let Some(end) = end.map(|event| event.seq) else { break };
            from = if forward { HistoryFrom::After(end) } else { HistoryFrom::Before(end) };
            let found: Vec<Message> = read.events.iter().filter_map(Message::of).collect();
            bytes += found.iter().map(Message::weight_bytes).sum::<usize>();
            if forward {
                messages.extend(found);
            } else {
                found.into_iter().rev().for_each(|message| messages.push_front(message));
            }
            if !has_more || messages.len() >= limit || bytes >= PAGE_BYTES {
                break;
            }
        }
        if messages.len() > limit {
            let surplus = messages.len() - limit;
            if forward {
                messages.truncate(limit)
            } else {
                drop(messages.drain(..surplus))
            }
            let end = if forward { messages.back() } else { messages.front() };
            let seq = end.map_or(0, Message::seq);
            (has_more, from) =
                (true, if forward { HistoryFrom::After(seq) } else { HistoryFrom::Before(seq) });
        }
        let next_seq = match from {
            HistoryFrom::After(seq) | HistoryFrom::Before(seq) if has_more => Some(seq),
            _ => None,
        };
        Ok(MessagePage { messages: messages.into(), has_more, next_seq })
    }
}

/// A new message.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewMessage {
    /// 1 to 5,000 characters, or up to the server's setting `limits.content_chars`; not only white space. Control
    /// characters other than line feed and tab are removed.
    #[schema(example = "Hello")]
    content: String,
    /// The kind of the content, for example a MIME type: at most 128 characters, `text` by default.
    #[serde(rename = "type")]
    #[schema(max_length = 128)]
    content_type: Option<String>,
    /// Makes the message safe to send again: 1 to 64 characters of `A-Za-z0-9_.:-`. The header `Idempotency-Key` has
    /// the same meaning; if both are given, they must be equal.
    client_id: Option<String>,
    /// The id of the message that this message answers.
    #[schema(format = "uuid")]
    reply_to: Option<String>,
    /// A JSON object of at most 4 KiB, nested at most 32 levels deep.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
    /// The user who sends the message. A backend must give it; a user may only name themself.
    sender_id: Option<String>,
    /// The sender's display name, at most 128 characters. Only a backend may give it; without it, the name is that of
    /// the sender's profile.
    #[schema(max_length = 128)]
    sender_name: Option<String>,
    /// The persona that the message addresses, at most 128 characters. Only a backend may give it.
    persona_id: Option<String>,
    /// Whether a persona wrote the message. Only a backend may send `true`.
    is_ai: Option<bool>,
}

/// Send a message
///
/// The answer comes when the message is stored durably. If a user sends the same client id to the same conversation
/// again, within 7 days and 1,000 sends, the answer is the first message.
#[utoipa::path(
    operation_id = "sendMessage", post, path = "/api/conversations/{id}/messages", tag = "Messages", request_body = NewMessage,
    params(
        ("id" = String, Path, description = "The conversation's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat: 1 to 64 characters of `A-Za-z0-9_.:-`."),
    ),
    responses(
        (status = 201, body = Message, description = "The message is stored durably."),
        (status = 200, body = Message, description = "The same user sent this client id before. The body is the first message."),
        ErrorResponses,
    ),
    security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn send(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InConversation(conversation): InConversation,
    headers: HeaderMap,
    JsonBody(new): JsonBody<NewMessage>,
) -> Result<Response, ErrorResponse> {
    let client_id = client_id(&headers, new.client_id.as_deref())?;
    let sender = caller.acts_for(new.sender_id.as_deref(), "senderId")?;
    let sender_name = sender_name(&shared, &caller, &sender, new.sender_name.as_deref()).await?;
    let message = checked_message(&new, &caller, shared.settings.limits.content_chars)?;
    let right = caller.right(&shared, &conversation)?;
    let check = right.check.clone();
    let command = NewCommand {
        conversation: &conversation,
        actor: Some(&sender),
        actor_name: &sender_name,
        authority: right.authority,
        client_id: client_id.as_deref().map(Into::into),
        body: Body::SendMessage(message.clone()),
    };
    let accepted = shared.write(command).await?;
    if accepted.repeated {
        return Ok(Json(first(&shared, &conversation, check, accepted.seq).await?).into_response());
    }
    let event = wire::Event {
        conversation: conversation.to_string(),
        seq: accepted.seq,
        time_ms: accepted.time_ms,
        id: accepted.id,
        actor: sender.to_string(),
        actor_name: sender_name,
        client_id: client_id.unwrap_or_default(),
        kind: Some(Kind::Message(message)),
        ..Default::default()
    };
    Ok((StatusCode::CREATED, Json(Message::of(&event))).into_response())
}

/// Reads the message that an earlier send with the same client id created.
async fn first(
    shared: &Shared,
    conversation: &ConversationId,
    check: String,
    seq: u64,
) -> Result<Message, Failure> {
    let read = wire::ReadEvents {
        conversation: conversation.to_string(),
        after_seq: Some(seq.saturating_sub(1)),
        // The seq was accepted, so it is committed.
        up_to_seq: Some(seq),
        limit: 1,
        check,
        ..Default::default()
    };
    let events = shared.delivery.reader.events(read).await?.events;
    let message = events.iter().find(|event| event.seq == seq).and_then(Message::of);
    message.ok_or_else(|| Failure::invalid_payload("this client id named something other than a message"))
}

fn checked_message(
    new: &NewMessage,
    caller: &Caller,
    chars_max: usize,
) -> Result<wire::SendMessage, Failure> {
    let is_backend = matches!(caller, Caller::Backend);
    let (persona_id, is_ai) = (new.persona_id.clone().unwrap_or_default(), new.is_ai.unwrap_or(false));
    if !persona_id.is_empty() && !is_backend {
        return Err(only_with_a_key("personaId"));
    }
    if is_ai && !is_backend {
        return Err(only_with_a_key("isAi"));
    }
    check_length(&persona_id, "personaId", CONTENT_TYPE_LENGTH_MAX)?;
    let content_type = new.content_type.as_deref().filter(|kind| !kind.is_empty()).unwrap_or("text");
    check_length(content_type, "type", CONTENT_TYPE_LENGTH_MAX)?;
    let reply_to = new.reply_to.as_deref().map(MessageId::parse).transpose();
    let reply_to = reply_to.map_err(|error| Failure::invalid_payload(error.to_string()))?;
    Ok(wire::SendMessage {
        content: checked_content(&new.content, chars_max)?,
        content_type: content_type.to_owned(),
        persona_id,
        reply_to: reply_to.map(|id| id.to_string()).unwrap_or_default(),
        metadata: checked_metadata(new.metadata.as_deref().map(RawValue::get))?,
        is_ai,
    })
}

/// The sender's display name: a user's from the token; otherwise the name that the backend gives, or the profile's.
async fn sender_name(
    shared: &Shared,
    caller: &Caller,
    sender: &UserId,
    named: Option<&str>,
) -> Result<String, Failure> {
    match (caller, named.filter(|name| !name.trim().is_empty())) {
        (Caller::User(identity), None) => Ok(identity.name.to_string()),
        (Caller::User(_), Some(_)) => Err(only_with_a_key("senderName")),
        (Caller::Backend, Some(name)) => {
            check_length(name, "senderName", NAME_LENGTH_MAX)?;
            Ok(name.chars().filter(|c| !c.is_control()).collect())
        }
        (Caller::Backend, None) => {
            let query = Change::ProfileQuery(wire::ProfileQuery { user: sender.to_string() });
            match shared.request_presence(query).await {
                Some(Outcome::Profile(profile)) if !profile.name.is_empty() => Ok(profile.name),
                _ => Ok(sender.to_string()),
            }
        }
    }
}

fn client_id(headers: &HeaderMap, in_body: Option<&str>) -> Result<Option<String>, Failure> {
    match (idempotency_key(headers)?, in_body.map(parse_client_id).transpose()?) {
        (Some(key), Some(id)) if key != id => {
            Err(Failure::invalid_payload("Idempotency-Key and clientId differ: give one"))
        }
        (key, id) => Ok(key.or(id)),
    }
}

fn parse_client_id(text: &str) -> Result<String, Failure> {
    let id = ClientId::parse(text).map_err(|error| Failure::invalid_payload(error.to_string()))?;
    Ok(id.to_string())
}

/// The value of the header `Idempotency-Key`, with or without quotes.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let value = value.to_str().unwrap_or_default().trim();
    let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    parse_client_id(bare).map(Some)
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
