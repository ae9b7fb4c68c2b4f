//! From a command to the log, the same for sessions and for the REST API: the user's rate, the command's envelope, and
//! the receiver of its outcome.

use crate::presence::directory::Action;
use crate::shared::Shared;
use crate::workers::pending::{CommandKey, Waiter};
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, MADE_CLIENT_ID_PREFIX, UserId};
use carillon_proto::wire::{self, Authority, command::Body};
use carillon_runtime::time::steady_ms;

/// A command to publish.
pub struct NewCommand<'a> {
    /// The conversation that it is for.
    pub conversation: &'a ConversationId,
    /// The user that it acts for; `None` if a backend acts for itself.
    pub actor: Option<&'a UserId>,
    /// The actor's display name.
    pub actor_name: &'a str,
    /// The right by which the actor sends it.
    pub authority: Authority,
    /// The client's idempotency key. Without one, a client id is made.
    pub client_id: Option<String>,
    /// The command's content.
    pub body: Body,
}

impl Shared {
    /// Publishes a command. `waiter` receives its outcome, at once if the log does not take the command.
    pub fn submit(&self, new: NewCommand<'_>, waiter: Waiter) {
        let NewCommand { conversation, actor, actor_name, authority, client_id, body } = new;
        let client_id = client_id.unwrap_or_else(made_client_id);
        if let (Some(user), Body::SendMessage(_)) = (actor, &body) {
            self.directory.note_sent(user, conversation, &client_id, steady_ms());
        }
        let key = CommandKey {
            conversation: conversation.clone(),
            actor: actor.cloned(),
            client_id: client_id.clone(),
        };
        let request = self.delivery.pending.expect(waiter, key);
        let command = wire::Command {
            conversation: conversation.to_string(),
            actor: actor.map(ToString::to_string).unwrap_or_default(),
            actor_name: actor_name.to_owned(),
            client_id,
            authority: authority.into(),
            gateway: self.id.to_string(),
            request,
            traceparent: String::new(),
            body: Some(body),
        };
        if let Err(failure) = self.publish(conversation, command) {
            self.delivery.pending.resolve(request, Err(failure));
        }
    }

    /// Takes one action from a user's rate allowance. A backend has no limit.
    ///
    /// # Errors
    /// `rate_limited`, with the time after which to try again.
    pub fn allow(&self, user: Option<&UserId>, action: Action) -> Result<(), Failure> {
        let Some(user) = user else { return Ok(()) };
        self.directory.try_acquire(user, action, &self.settings.limits, steady_ms()).map_err(|wait_ms| {
            Failure::new(ErrorCode::RateLimited, "too many in a minute: slow down").retry_after(wait_ms)
        })
    }
}

/// A client id for a command that came without one.
fn made_client_id() -> String {
    format!("{MADE_CLIENT_ID_PREFIX}{}", uuid::Uuid::new_v4().simple())
}
