//! Conversations: listing, creating, reading and changing them.

use super::ErrorResponse;
use super::body::{InConversation, JsonBody, Params, checked_users, conversation_id, page_limit};
use super::caller::Caller;
use super::error::ErrorResponses;
use super::messages::idempotency_key;
use super::shapes::Conversation;
use crate::shared::Shared;
use crate::workers::submit::NewCommand;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::command::{check_length, checked_metadata};
use carillon_proto::id::{ConversationId, MADE_CLIENT_ID_PREFIX, UserId};
use carillon_proto::limits::TITLE_LENGTH_MAX;
use carillon_proto::partition::stable_hash;
use carillon_proto::wire::{self, command::Body, read_reply, read_request};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Maximum number of conversations in the page, 50 by default. A value outside 1 to 200 counts as the nearest of
    /// these.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// The `nextCursor` of the previous page. Without it, the answer is the first page.
    cursor: Option<String>,
    /// The user whose conversations are listed. A backend must give it; a user may only name themself.
    user_id: Option<String>,
}

/// A page of conversations.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConversationPage {
    /// The conversations of this page, sorted by last activity, the latest first. Pages follow each other by id.
    conversations: Vec<Conversation>,
    /// The `cursor` of the next page; `null` on the last page.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// List conversations
///
/// Returns the conversations in which the user is a stored participant. A page may have fewer conversations than
/// `limit` although more follow. A change appears in the list within about a second.
#[utoipa::path(
    operation_id = "listConversations", get, path = "/api/conversations", tag = "Conversations", params(ListParams),
    responses((status = 200, body = ConversationPage, description = "A page of conversations."), ErrorResponses), security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Json<ConversationPage>, ErrorResponse> {
    let user = caller.acts_for(params.user_id.as_deref(), "userId")?.to_string();
    let cursor = params.cursor.unwrap_or_default();
    if !cursor.is_empty() {
        conversation_id(&cursor)?;
    }
    let read = wire::ReadConversations { user, cursor, limit: page_limit(params.limit) };
    let page = match shared.delivery.reader.read(read_request::Body::Conversations(read)).await? {
        read_reply::Body::Conversations(page) => page,
        _ => return Err(wrong_reply().into()),
    };
    let mut conversations: Vec<_> = page.conversations.into_iter().map(Conversation::of).collect();
    Conversation::sort_by_activity(&mut conversations);
    let next_cursor = (!page.next_cursor.is_empty()).then_some(page.next_cursor);
    Ok(Json(ConversationPage { conversations, next_cursor }))
}

/// A new conversation.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewConversation {
    /// 1 to 128 characters of `A-Za-z0-9_.:@-`. Without it, the server makes an id.
    #[schema(example = "team:planning")]
    id: Option<String>,
    /// At most 200 characters. Control characters are removed.
    #[schema(max_length = 200)]
    title: Option<String>,
    /// The ids of at most 200 users who participate besides the owner.
    #[schema(max_items = 200)]
    participants: Option<Vec<String>>,
    /// A JSON object of at most 4 KiB, nested at most 32 levels deep.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
    /// The user for whom a backend creates the conversation, as its owner and a participant. Without it, a backend's
    /// conversation has no owner. A user may only name themself.
    owner_id: Option<String>,
}

/// Create a conversation
///
/// The calling user becomes the owner and a participant. With an `Idempotency-Key`, a repeated request returns the
/// conversation that the first request created.
#[utoipa::path(
    operation_id = "createConversation", post, path = "/api/conversations", tag = "Conversations", request_body = NewConversation,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to repeat: 1 to 64 characters of `A-Za-z0-9_.:-`.")),
    responses(
        (status = 201, body = Conversation, description = "The conversation is stored durably.", headers(("Location" = String, description = "The path of the conversation."))),
        (status = 200, body = Conversation, description = "The same request created the conversation before. The body is the conversation as it is now."),
        ErrorResponses,
    ),
    security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody(new): JsonBody<NewConversation>,
) -> Result<Response, ErrorResponse> {
    let owner = match (&caller, &new.owner_id) {
        (Caller::Backend, None) => None,
        (_, named) => Some(caller.acts_for(named.as_deref(), "ownerId")?),
    };
    let key = idempotency_key(&headers)?;
    let conversation = match &new.id {
        Some(id) => conversation_id(id)?,
        None => made_id(owner.as_ref(), key.as_deref())?,
    };
    let named = new.participants.unwrap_or_default();
    let mut participants = checked_users(named.iter().map(String::as_str))?;
    participants.retain(|user| Some(user) != owner.as_ref());
    let body = wire::CreateConversation {
        title: checked_title(new.title.as_deref().unwrap_or_default())?,
        participants: owner.iter().chain(&participants).map(ToString::to_string).collect(),
        metadata: checked_metadata(new.metadata.as_deref().map(RawValue::get))?,
    };
    let right = caller.right(&shared, &conversation)?;
    let command = NewCommand {
        conversation: &conversation,
        actor: owner.as_ref(),
        actor_name: caller.shown_name(),
        authority: right.authority,
        // The prefix separates these keys from those of messages, for which the same caller may use the same key.
        client_id: key.map(|key| format!("{MADE_CLIENT_ID_PREFIX}create:{key}").into()),
        body: Body::CreateConversation(body.clone()),
    };
    let accepted = shared.write(command).await?;
    if accepted.repeated {
        let check = caller.right(&shared, &conversation)?.check;
        return Ok(Json(read_conversation(&shared, &conversation, check).await?).into_response());
    }
    let location = [(LOCATION, format!("/api/conversations/{conversation}"))];
    let created = created(&conversation, owner.as_ref(), body, accepted.time_ms);
    Ok((StatusCode::CREATED, location, Json(created)).into_response())
}

/// The response for a new conversation, built without a read because all fields are known.
fn created(
    conversation: &ConversationId,
    owner: Option<&UserId>,
    body: wire::CreateConversation,
    time_ms: u64,
) -> Conversation {
    let head = wire::Head {
        created: true,
        owner: owner.map(ToString::to_string).unwrap_or_default(),
        title: body.title,
        metadata: body.metadata,
        created_ms: time_ms,
        ..Default::default()
    };
    let mut participants = body.participants;
    participants.sort_unstable();
    let conversation = conversation.to_string();
    Conversation::of(wire::ConversationInfo { conversation, head: Some(head), participants })
}

/// Makes the id of a conversation for which none was given. The same owner and key give the same id, so that a repeated
/// request finds the conversation.
fn made_id(owner: Option<&UserId>, key: Option<&str>) -> Result<ConversationId, Failure> {
    let uuid = match key {
        None => uuid::Uuid::new_v4(),
        Some(key) => {
            let owner = owner.map_or("", UserId::as_str);
            let half = |name: &str| stable_hash(&format!("{name}\n{owner}\n{key}"));
            uuid::Uuid::from_u64_pair(half("first"), half("second"))
        }
    };
    conversation_id(&uuid.to_string())
}

/// Read a conversation
///
/// Returns a conversation with its participants and its last message.
#[utoipa::path(
    operation_id = "readConversation", get, path = "/api/conversations/{id}", tag = "Conversations",
    params(("id" = String, Path, description = "The conversation's id.")),
    responses((status = 200, body = Conversation, description = "The conversation."), ErrorResponses), security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InConversation(conversation): InConversation,
) -> Result<Json<Conversation>, ErrorResponse> {
    let check = caller.right(&shared, &conversation)?.check;
    Ok(Json(read_conversation(&shared, &conversation, check).await?))
}

/// Changes of a conversation. At least one field is needed; absent fields stay as they are.
#[derive(Deserialize, ToSchema)]
pub(super) struct ConversationChanges {
    /// At most 200 characters. Control characters are removed. An empty text removes the title.
    #[schema(max_length = 200)]
    title: Option<String>,
    /// A JSON object of at most 4 KiB, nested at most 32 levels deep. It replaces the metadata as a whole.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
    /// Whether the conversation is archived.
    archived: Option<bool>,
}

/// Change a conversation
///
/// Only the owner or a backend may change a conversation. Fields that are absent or `null` stay as they are.
#[utoipa::path(
    operation_id = "changeConversation", patch, path = "/api/conversations/{id}", tag = "Conversations", request_body = ConversationChanges,
    params(("id" = String, Path, description = "The conversation's id.")),
    responses((status = 200, body = Conversation, description = "The conversation after the change."), ErrorResponses), security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn update(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InConversation(conversation): InConversation,
    JsonBody(changes): JsonBody<ConversationChanges>,
) -> Result<Json<Conversation>, ErrorResponse> {
    let metadata = checked_metadata(changes.metadata.as_deref().map(RawValue::get))?;
    let body = wire::UpdateConversation {
        title: changes.title.as_deref().map(checked_title).transpose()?,
        metadata: (!metadata.is_empty()).then_some(metadata),
        archived: changes.archived,
    };
    if body == wire::UpdateConversation::default() {
        let message = "name at least one of title, metadata and archived";
        return Err(Failure::invalid_payload(message).into());
    }
    manage(&shared, &caller, &conversation, Body::UpdateConversation(body)).await.map(Json)
}

/// Changes a conversation or its participants, and reads the result.
pub(super) async fn manage(
    shared: &Shared,
    caller: &Caller,
    conversation: &ConversationId,
    body: Body,
) -> Result<Conversation, ErrorResponse> {
    let right = caller.right(shared, conversation)?;
    let check = right.check.clone();
    let (actor, actor_name) = (caller.user(), caller.shown_name());
    shared
        .write(NewCommand {
            conversation,
            actor,
            actor_name,
            authority: right.authority,
            client_id: None,
            body,
        })
        .await?;
    Ok(read_conversation(shared, conversation, check).await?)
}

/// Reads a conversation. `check` is empty, or a user that must be a stored participant.
pub(super) async fn read_conversation(
    shared: &Shared,
    conversation: &ConversationId,
    check: String,
) -> Result<Conversation, Failure> {
    let checked = !check.is_empty();
    let read = wire::ReadConversation { conversation: conversation.to_string(), check };
    match shared.delivery.reader.read(read_request::Body::Conversation(read)).await {
        Ok(read_reply::Body::Conversation(info)) => Ok(Conversation::of(info)),
        Ok(_) => Err(wrong_reply()),
        // The refusal does not reveal whether the conversation exists.
        Err(failure) if checked && failure.code == ErrorCode::NotFound => Err(Failure::forbidden()),
        Err(failure) => Err(failure),
    }
}

/// Checks a title's length and removes control characters.
fn checked_title(title: &str) -> Result<String, Failure> {
    let title: String = title.chars().filter(|c| !c.is_control()).collect();
    check_length(&title, "title", TITLE_LENGTH_MAX)?;
    Ok(title)
}

/// The error for a worker's reply of an unexpected kind.
pub(super) fn wrong_reply() -> Failure {
    Failure::new(ErrorCode::Internal, "a reply of the wrong kind")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::caller::user_id;

    #[test]
    fn a_made_id_is_the_same_for_the_same_owner_and_key_only() {
        let (ann, ben) = (user_id("ann").expect("valid"), user_id("ben").expect("valid"));
        let made = |owner, key| made_id(owner, key).expect("an id");
        assert_eq!(made(Some(&ann), Some("k")), made(Some(&ann), Some("k")));
        let others = [made(Some(&ben), Some("k")), made(None, Some("k")), made(Some(&ann), Some("l"))];
        assert!(others.iter().all(|other| *other != made(Some(&ann), Some("k"))));
        assert_ne!(made(Some(&ann), None), made(Some(&ann), None));
    }

    #[test]
    fn titles_are_one_line() {
        assert_eq!(checked_title("a\nb\u{0}c"), Ok("abc".into()));
        assert!(checked_title(&"ä".repeat(200)).is_ok());
        assert_eq!(checked_title(&"ä".repeat(201)).expect_err("long").code, ErrorCode::TooLarge);
    }
}
