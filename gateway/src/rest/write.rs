//! Writes of the API: each sends a command to the log and waits for its outcome.

use super::caller::Right;
use crate::presence::directory::Action;
use crate::session::made_client_id;
use crate::shared::Shared;
use crate::workers::pending::CommandKey;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::wire::{self, command::Body};
use carillon_runtime::time::steady_ms;

/// A command to send.
pub struct Write<'a> {
    /// The conversation that it is for.
    pub conversation: &'a ConversationId,
    /// The user that it acts for; `None` if a backend acts for itself.
    pub actor: Option<&'a UserId>,
    /// The actor's display name.
    pub actor_name: &'a str,
    /// What entitles the actor.
    pub right: Right,
    /// The client's idempotency key. Without one, a client id is made.
    pub client_id: Option<String>,
    /// The command's content.
    pub body: Body,
}

impl Shared {
    /// Publishes a command and waits until it is stored durably or refused.
    pub(super) async fn write(&self, write: Write<'_>) -> Result<wire::Accepted, Failure> {
        let client_id = write.client_id.unwrap_or_else(made_client_id);
        if let (Some(user), Body::SendMessage(_)) = (write.actor, &write.body) {
            self.directory.note_sent(user, write.conversation, &client_id, steady_ms());
        }
        let key = CommandKey {
            conversation: write.conversation.clone(),
            actor: write.actor.cloned(),
            client_id: client_id.clone(),
        };
        let (request, outcome) = self.delivery.pending.expect_call(key);
        let command = wire::Command {
            conversation: write.conversation.to_string(),
            actor: write.actor.map(ToString::to_string).unwrap_or_default(),
            actor_name: write.actor_name.to_owned(),
            client_id,
            authority: write.right.authority.into(),
            gateway: self.id.to_string(),
            request,
            traceparent: String::new(),
            body: Some(write.body),
        };
        if let Err(failure) = self.publish(write.conversation, command) {
            self.delivery.pending.resolve(request, Err(failure));
        }
        let gone = || Failure::new(ErrorCode::Internal, "the outcome was lost");
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Takes one action from a user's rate allowance. A backend has no limit.
    pub(super) fn allow(&self, user: Option<&UserId>, action: Action) -> Result<(), Failure> {
        let Some(user) = user else { return Ok(()) };
        self.directory.try_acquire(user, action, &self.settings.limits, steady_ms()).map_err(|wait_ms| {
            Failure::new(ErrorCode::RateLimited, "too many in a minute: slow down").retry_after(wait_ms)
        })
    }
}
