//! Adding and removing a conversation's participants.

use super::Refused;
use super::body::{InConversation, JsonBody, OfUser, checked_users};
use super::caller::Caller;
use super::conversations::manage;
use super::refusal::Refusals;
use super::shapes::Conversation;
use super::write::Write;
use crate::presence::directory::Action;
use crate::shared::Shared;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use carillon_proto::code::Failure;
use carillon_proto::wire::{self, command::Body};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewParticipants {
    #[schema(min_items = 1, max_items = 200)]
    user_ids: Vec<String>,
}

/// Add participants
///
/// For the conversation's owner, or a backend. Who participates already stays.
#[utoipa::path(
    operation_id = "addParticipants", post, path = "/api/conversations/{id}/participants", tag = "Participants", request_body = NewParticipants,
    params(("id" = String, Path, description = "The conversation")),
    responses((status = 200, body = Conversation, description = "What it has become"), Refusals), security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn add(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InConversation(conversation): InConversation,
    JsonBody(new): JsonBody<NewParticipants>,
) -> Result<Json<Conversation>, Refused> {
    let users = checked_users(new.user_ids.iter().map(String::as_str))?;
    if users.is_empty() {
        return Err(Failure::invalid_payload("userIds must name at least one user").into());
    }
    let users = users.iter().map(ToString::to_string).collect();
    let body = Body::AddParticipants(wire::AddParticipants { users });
    manage(&shared, &caller, &conversation, body).await.map(Json)
}

/// Remove a participant
///
/// For the conversation's owner, or a backend; and anyone may remove themself. Ends their live subscription.
#[utoipa::path(
    operation_id = "removeParticipant", delete, path = "/api/conversations/{id}/participants/{userId}", tag = "Participants",
    params(
        ("id" = String, Path, description = "The conversation"),
        ("userId" = String, Path, description = "Who is removed"),
    ),
    responses((status = 204, description = "Removed"), Refusals), security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn remove(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InConversation(conversation): InConversation,
    OfUser(user): OfUser<true>,
) -> Result<StatusCode, Refused> {
    let right = caller.right(&shared, &conversation)?;
    shared.allow(caller.user(), Action::Operation)?;
    let write = Write {
        conversation: &conversation,
        actor: caller.user(),
        actor_name: caller.shown_name(),
        right,
        client_id: None,
        body: Body::RemoveParticipant(wire::RemoveParticipant { user: user.to_string() }),
    };
    shared.write(write).await?;
    Ok(StatusCode::NO_CONTENT)
}
