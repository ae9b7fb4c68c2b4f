//! From a command to the log, the same for sessions and for the REST API: the user's rate, the command's envelope, and
//! the receiver of its outcome.

use crate::presence::directory::{Action, Sending};
use crate::shared::Shared;
use crate::workers::pending::{CommandKey, Waiter};
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, MADE_CLIENT_ID_PREFIX, UserId};
use carillon_proto::wire::{self, Authority, command::Body};
use carillon_runtime::time::steady_ms;
use std::sync::Arc;

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
    pub client_id: Option<Arc<str>>,
    /// The command's content.
    pub body: Body,
}

impl NewCommand<'_> {
    fn action(&self) -> Action {
        match self.body {
            Body::SendMessage(_) => Action::Message,
            _ => Action::Operation,
        }
    }
}

impl Shared {
    /// Publishes a command, after taking it from the actor's rate allowance. A backend has no limit, also when it acts
    /// for a user. `waiter` receives the outcome, at once if the log does not take the command.
    ///
    /// # Errors
    /// `rate_limited`, with the time after which to try again. Then `waiter` receives nothing.
    pub fn submit(&self, new: NewCommand<'_>, waiter: Waiter) -> Result<(), Failure> {
        let action = new.action();
        let NewCommand { conversation, actor, actor_name, authority, client_id, body } = new;
        let client_id = client_id.unwrap_or_else(made_client_id);
        if let Some(user) = actor {
            let limits = (authority != Authority::Backend).then_some(&self.settings.limits);
            let message = (action == Action::Message).then_some((conversation, &client_id));
            let sending = Sending { action, limits, message };
            self.directory.try_send(user, &sending, steady_ms()).map_err(rate_limited)?;
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
            client_id: (*client_id).to_owned(),
            authority: authority.into(),
            gateway: self.id.to_string(),
            request,
            traceparent: String::new(),
            body: Some(body),
        };
        if let Err(failure) = self.publish(conversation, command) {
            self.delivery.pending.resolve(request, Err(failure));
        }
        Ok(())
    }

    /// Takes one action from a user's rate allowance. Commands are taken by [`Shared::submit`].
    ///
    /// # Errors
    /// `rate_limited`, with the time after which to try again.
    pub fn allow(&self, user: &UserId, action: Action) -> Result<(), Failure> {
        let sending = Sending { action, limits: Some(&self.settings.limits), message: None };
        self.directory.try_send(user, &sending, steady_ms()).map_err(rate_limited)
    }
}

fn rate_limited(wait_ms: u64) -> Failure {
    Failure::new(ErrorCode::RateLimited, "too many in a minute: slow down").retry_after(wait_ms)
}

/// A client id for a command that came without one.
fn made_client_id() -> Arc<str> {
    format!("{MADE_CLIENT_ID_PREFIX}{}", uuid::Uuid::new_v4().simple()).into()
}
