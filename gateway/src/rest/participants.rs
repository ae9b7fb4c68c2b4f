//! Adding and removing a conversation's participants.

use super::ErrorResponse;
use super::body::{InConversation, JsonBody, OfUser, checked_users};
use super::caller::Caller;
use super::conversations::manage;
use super::error::ErrorResponses;
use super::shapes::Conversation;
use crate::shared::Shared;
use crate::workers::submit::NewCommand;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use carillon_proto::code::Failure;
use carillon_proto::wire::{self, command::Body};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Users who become participants of a conversation.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewParticipants {
    /// The ids of 1 to 200 users.
    #[schema(min_items = 1, max_items = 200)]
    user_ids: Vec<String>,
}

/// Add participants
///
/// Only the conversation's owner or a backend may add participants. Users who participate already stay. A conversation
/// has at most 10,000 participants.
#[utoipa::path(
    operation_id = "addParticipants", post, path = "/api/conversations/{id}/participants", tag = "Participants", request_body = NewParticipants,
    params(("id" = String, Path, description = "The conversation's id.")),
    responses((status = 200, body = Conversation, description = "The conversation after the change."), ErrorResponses), security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn add(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InConversation(conversation): InConversation,
    JsonBody(new): JsonBody<NewParticipants>,
) -> Result<Json<Conversation>, ErrorResponse> {
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
/// The conversation's owner or a backend may remove any participant, and users may remove themselves. The removed
/// user's subscriptions of the conversation end.
#[utoipa::path(
    operation_id = "removeParticipant", delete, path = "/api/conversations/{id}/participants/{userId}", tag = "Participants",
    params(
        ("id" = String, Path, description = "The conversation's id."),
        ("userId" = String, Path, description = "The id of the user to remove."),
    ),
    responses((status = 204, description = "The user does not participate any more."), ErrorResponses), security(("bearer" = []), ("apiKey" = [])),
)]
pub(super) async fn remove(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    InConversation(conversation): InConversation,
    OfUser(user): OfUser<true>,
) -> Result<StatusCode, ErrorResponse> {
    let right = caller.right(&shared, &conversation)?;
    let command = NewCommand {
        conversation: &conversation,
        actor: caller.user(),
        actor_name: caller.shown_name(),
        authority: right.authority,
        client_id: None,
        body: Body::RemoveParticipant(wire::RemoveParticipant { user: user.to_string() }),
    };
    shared.write(command).await?;
    Ok(StatusCode::NO_CONTENT)
}
