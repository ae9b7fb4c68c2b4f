//! Writes of the API: each sends a command to the log and waits for its outcome.

use crate::shared::Shared;
use crate::workers::pending::Waiter;
use crate::workers::submit::NewCommand;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::wire;
use tokio::sync::oneshot;

impl Shared {
    /// Publishes a command, within its user's rate, and waits until it is stored durably or refused.
    pub(super) async fn write(&self, command: NewCommand<'_>) -> Result<wire::Accepted, Failure> {
        let (sender, outcome) = oneshot::channel();
        self.submit(command, Waiter::Call(sender))?;
        let gone = || Failure::new(ErrorCode::Internal, "the outcome was lost");
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }
}
