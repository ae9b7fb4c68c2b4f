//! Commands that wait for their outcome: who receives it, and how long they wait.

use crate::connection::Connection;
use crate::delivery::dialect::CommandOrigin;
use crate::metrics;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::event::Reply;
use carillon_proto::id::{ConversationId, MessageId, Tag, UserId};
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

/// How long a command waits for its outcome. It is longer than the database's own retries within a group. After it the
/// client gets `timeout`, which means that the outcome is unknown.
pub const OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// A command without an outcome after this time is late, and its outcome is requested. It is longer than a group waits
/// for a healthy database.
const OUTCOME_LATE: Duration = Duration::from_secs(1);

/// The key by which a partition's owner knows a command.
#[derive(Debug, Clone)]
pub struct CommandKey {
    pub conversation: ConversationId,
    /// The user that sent it; `None` if a backend acts for itself.
    pub actor: Option<UserId>,
    /// The client id, from the client or made by this gateway.
    pub client_id: Arc<str>,
}

#[derive(Debug)]
pub struct Late {
    /// Its request number.
    pub request: u64,
    pub key: CommandKey,
    /// The tag of the log entry in which it was published.
    pub tag: Tag,
}

/// A client connection that waits for a command's outcome.
pub struct CommandSender {
    pub connection: Arc<Connection>,
    /// Where the command came from, which decides the form of the reply.
    pub origin: CommandOrigin,
    /// The client gave the client id itself.
    pub gave_client_id: bool,
}

/// The receiver of a command's outcome.
pub enum Waiter {
    /// A client connection.
    Sender(Box<CommandSender>),
    /// A caller of the REST API.
    Call(oneshot::Sender<Result<wire::Accepted, Failure>>),
}

struct Pending {
    waiting: Waiter,
    key: CommandKey,
    /// The tag of the log entry in which it was published; `None` until then.
    tag: Option<Tag>,
    since: Instant,
}

/// All commands of this gateway that wait for an outcome, by request number.
#[derive(Default)]
pub struct PendingCommands {
    waiting: Mutex<HashMap<u64, Pending>>,
    next: AtomicU64,
}

impl PendingCommands {
    /// Registers the receiver of a command's outcome, and returns the command's request number.
    pub fn expect(&self, waiter: Waiter, key: CommandKey) -> u64 {
        if let Waiter::Sender(sender) = &waiter {
            sender.connection.command_sent();
        }
        let request = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let pending = Pending { waiting: waiter, key, tag: None, since: Instant::now() };
        self.waiting.lock().insert(request, pending);
        request
    }

    /// Notes that commands are about to be published in an entry with this tag.
    pub fn published(&self, requests: &[u64], tag: Tag) {
        let mut waiting = self.waiting.lock();
        for request in requests {
            if let Some(pending) = waiting.get_mut(request) {
                pending.tag = Some(tag);
            }
        }
    }

    /// The published commands whose outcomes are late, the oldest first.
    pub fn late(&self, now: Instant) -> Vec<Late> {
        let waiting = self.waiting.lock();
        let late = |pending: &Pending| now.saturating_duration_since(pending.since) > OUTCOME_LATE;
        let mut keys: Vec<Late> = waiting
            .iter()
            .filter(|(_, pending)| late(pending))
            .filter_map(|(request, pending)| {
                Some(Late { request: *request, key: pending.key.clone(), tag: pending.tag? })
            })
            .collect();
        drop(waiting);
        keys.sort_unstable_by_key(|late: &Late| late.request);
        keys
    }

    /// Answers a command with its outcome. An outcome that no command waits for is dropped.
    pub fn resolve(&self, request: u64, outcome: Result<wire::Accepted, Failure>) {
        if let Some(sender) = self.answer(request, outcome) {
            sender.flush_touched();
        }
    }

    /// As [`PendingCommands::resolve`], but leaves it to the caller to flush the returned connection, which may have
    /// events to write as well.
    #[must_use]
    pub fn answer(&self, request: u64, outcome: Result<wire::Accepted, Failure>) -> Option<Arc<Connection>> {
        let pending = self.waiting.lock().remove(&request)?;
        observe(Stage::SendToAck, pending.since.elapsed());
        pending.answer(outcome)
    }

    /// Answers `timeout` to all commands that have waited too long. Called about twice a second.
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
            if let Some(sender) = pending.answer(Err(Failure::new(ErrorCode::Timeout, message))) {
                sender.flush_touched();
            }
        }
    }
}

impl Pending {
    /// Returns the connection for which an answer was queued.
    fn answer(self, outcome: Result<wire::Accepted, Failure>) -> Option<Arc<Connection>> {
        let CommandKey { conversation, client_id, .. } = self.key;
        match self.waiting {
            Waiter::Call(sender) => {
                drop(sender.send(outcome));
                None
            }
            Waiter::Sender(sender) => {
                let CommandSender { connection, origin, gave_client_id } = *sender;
                let reply = match outcome {
                    Ok(_) if !origin.wants_ack(gave_client_id) => None,
                    Ok(accepted) => Some(Reply::MessageAck {
                        client_id: gave_client_id.then_some(client_id),
                        conversation,
                        id: MessageId::from_slice(&accepted.id),
                        seq: accepted.seq,
                    }),
                    Err(failure) => Some(Reply::Error(failure)),
                };
                let queued = reply.is_some_and(|reply| connection.queue_reply(&origin.encode_reply(&reply)));
                connection.command_answered();
                queued.then_some(connection)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect_call(
        pending: &PendingCommands,
        key: CommandKey,
    ) -> (u64, oneshot::Receiver<Result<wire::Accepted, Failure>>) {
        let (sender, outcome) = oneshot::channel();
        (pending.expect(Waiter::Call(sender), key), outcome)
    }

    fn key(client_id: &str) -> CommandKey {
        let conversation = ConversationId::parse("general").expect("valid");
        CommandKey { conversation, actor: None, client_id: client_id.into() }
    }

    #[tokio::test]
    async fn a_command_is_answered_once_and_times_out_without_an_outcome() {
        let pending = PendingCommands::default();
        let (first, outcome) = expect_call(&pending, key("a"));
        let (second, late) = expect_call(&pending, key("b"));
        pending.resolve(first, Ok(wire::Accepted { seq: 3, ..Default::default() }));
        pending.resolve(first, Err(Failure::forbidden()));
        assert_eq!(outcome.await.expect("answered").expect("accepted").seq, 3);
        pending.sweep(Instant::now());
        pending.sweep(Instant::now() + OUTCOME_TIMEOUT + Duration::from_millis(1));
        assert_eq!(late.await.expect("answered").expect_err("late").code, ErrorCode::Timeout);
        pending.resolve(second, Err(Failure::forbidden()));
    }

    #[tokio::test]
    async fn late_commands_without_an_outcome_are_listed() {
        let pending = PendingCommands::default();
        let (resolved, _outcome) = expect_call(&pending, key("told"));
        let (open, _open) = expect_call(&pending, key("open"));
        let (later, _later) = expect_call(&pending, key("later"));
        let (queued, _queued) = expect_call(&pending, key("queued"));
        pending.published(&[resolved, open, later], Tag([7; 16]));
        let requests = |now| pending.late(now).iter().map(|late| late.request).collect::<Vec<_>>();
        pending.resolve(resolved, Ok(wire::Accepted::default()));
        assert_eq!(requests(Instant::now()), [0; 0], "an outcome that is not late yet must not be listed");
        assert_eq!(requests(Instant::now() + 2 * OUTCOME_LATE), [open, later]);
        let late = pending.late(Instant::now() + 2 * OUTCOME_LATE);
        assert_eq!((&*late[0].key.client_id, late[0].tag), ("open", Tag([7; 16])));
        pending.published(&[queued], Tag([8; 16]));
        assert_eq!(requests(Instant::now() + 2 * OUTCOME_LATE), [open, later, queued]);
    }
}
