//! Commands whose outcome is awaited: who hears it, and how long they wait.

use crate::connection::Connection;
use crate::core::outbox::Urgency;
use crate::dialect::Asked;
use crate::metrics;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::event::Reply;
use carillon_proto::id::{ConversationId, MessageId};
use carillon_proto::wire;
use carillon_runtime::collections::Spare;
use carillon_runtime::metrics::{Stage, observe};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long an outcome is awaited. Above the database's own retries within a group, below a person's
/// patience; then `timeout` says that it is unknown.
pub const OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that waits for its message's outcome.
pub struct Sender {
    /// Where the ack goes.
    pub connection: Arc<Connection>,
    /// How it asked.
    pub asked: Asked,
    /// The client id that it gave.
    pub client_id: Option<String>,
    /// Where it sent to.
    pub conversation: ConversationId,
}

enum Waiting {
    Sender(Box<Sender>),
    Call(oneshot::Sender<Result<wire::Accepted, Failure>>),
}

struct Pending {
    waiting: Waiting,
    since: Instant,
}

/// All awaited outcomes of this gateway, by request number.
#[derive(Default)]
pub struct PendingCommands {
    waiting: Mutex<HashMap<u64, Pending>>,
    next: AtomicU64,
}

impl PendingCommands {
    /// A connection awaits an outcome; the number goes with the command.
    pub fn expect_sender(&self, sender: Sender) -> u64 {
        sender.connection.command_sent();
        self.insert(Waiting::Sender(Box::new(sender)))
    }

    /// A caller awaits an outcome.
    pub fn expect_call(&self) -> (u64, oneshot::Receiver<Result<wire::Accepted, Failure>>) {
        let (sender, receiver) = oneshot::channel();
        (self.insert(Waiting::Call(sender)), receiver)
    }

    fn insert(&self, waiting: Waiting) -> u64 {
        let request = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.waiting.lock().insert(request, Pending { waiting, since: Instant::now() });
        request
    }

    /// An outcome came. One that nobody awaits any more is dropped.
    pub fn resolve(&self, request: u64, outcome: Result<wire::Accepted, Failure>) {
        let pending = self.waiting.lock().remove(&request);
        if let Some(pending) = pending {
            observe(Stage::SendToAck, pending.since.elapsed());
            pending.answer(outcome);
        }
    }

    /// Answers `timeout` to all who have waited too long. Called about twice a second.
    pub fn sweep(&self, now: Instant) {
        let late: Vec<Pending> = {
            let mut waiting = self.waiting.lock();
            let late = |pending: &Pending| now.saturating_duration_since(pending.since) > OUTCOME_TIMEOUT;
            let requests: Vec<u64> =
                waiting.iter().filter(|(_, p)| late(p)).map(|(request, _)| *request).collect();
            let taken = requests.iter().filter_map(|request| waiting.remove(request)).collect();
            waiting.give_spare_back();
            taken
        };
        for pending in late {
            metrics::TIMEOUTS.inc();
            let message = "outcome unknown: send again with the same client id";
            pending.answer(Err(Failure::new(ErrorCode::Timeout, message)));
        }
    }
}

impl Pending {
    fn answer(self, outcome: Result<wire::Accepted, Failure>) {
        match self.waiting {
            Waiting::Call(sender) => drop(sender.send(outcome)),
            Waiting::Sender(sender) => {
                let Sender { connection, asked, client_id, conversation } = *sender;
                let reply = match outcome {
                    Ok(_) if !asked.wants_ack(client_id.is_some()) => None,
                    Ok(accepted) => Some(Reply::MessageAck {
                        client_id,
                        conversation,
                        id: MessageId::from_slice(&accepted.id),
                        seq: accepted.seq,
                    }),
                    Err(failure) => Some(Reply::Error(failure)),
                };
                if let Some(reply) = reply {
                    connection.offer(&asked.answer(&reply), Urgency::Reply);
                }
                connection.command_answered();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_outcome_is_told_once_and_lateness_is_a_timeout() {
        let pending = PendingCommands::default();
        let (first, heard) = pending.expect_call();
        let (second, late) = pending.expect_call();
        pending.resolve(first, Ok(wire::Accepted { seq: 3, ..Default::default() }));
        pending.resolve(first, Err(Failure::forbidden()));
        assert_eq!(heard.await.expect("answered").expect("accepted").seq, 3);
        pending.sweep(Instant::now());
        pending.sweep(Instant::now() + OUTCOME_TIMEOUT + Duration::from_millis(1));
        assert_eq!(late.await.expect("answered").expect_err("late").code, ErrorCode::Timeout);
        pending.resolve(second, Err(Failure::forbidden()));
    }
}
