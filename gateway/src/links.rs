//! One task per partition keeps the gateway's interest registered with the partition's owner.

use crate::core::link::{Link, Repair};
use crate::shared::Shared;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::limits::ENTRY_COMMANDS_MAX;
use carillon_proto::{subject, wire};
use carillon_runtime::time::steady_ms;
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Asks that wait for a partition's task; above it a join is `unavailable`. As many as connections that an
/// instance takes by default, since each asks one at a time.
const ASKS_MAX: usize = 16_384;
/// How long one request to the owner may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a join is tried, over a change of owners (a lease's 2 s and its successor's loading).
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries when nobody answers.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Conversations in one registration: ids of the largest size stay far below a bus message.
const REGISTRATIONS_MAX: usize = ENTRY_COMMANDS_MAX * 4;

enum Ask {
    Join {
        conversation: ConversationId,
        check: Option<UserId>,
        answer: oneshot::Sender<Result<u64, Failure>>,
        since: Instant,
    },
    Leave(ConversationId),
    Batch {
        epoch: u64,
        number: u64,
    },
    Beat(wire::Beat),
    Lost,
}

/// The handle of one partition's task.
pub struct LinkHandle {
    asks: mpsc::Sender<Ask>,
    lag_ms: Arc<AtomicU64>,
}

impl LinkHandle {
    /// Registers a conversation and returns its committed head; with `check`, only if that user may join.
    ///
    /// # Errors
    /// `forbidden`, or `unavailable` when the owner did not answer in time.
    pub async fn join(&self, conversation: &ConversationId, check: Option<UserId>) -> Result<u64, Failure> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Join { conversation: conversation.clone(), check, answer, since: Instant::now() };
        if self.asks.try_send(ask).is_err() {
            return Err(unavailable());
        }
        answered.await.unwrap_or_else(|_| Err(unavailable()))
    }

    /// The conversation has no members here any more.
    pub async fn leave(&self, conversation: &ConversationId) {
        let _ = self.asks.send(Ask::Leave(conversation.clone())).await;
    }

    /// A batch with this number came.
    pub async fn batch(&self, epoch: u64, number: u64) {
        let _ = self.asks.send(Ask::Batch { epoch, number }).await;
    }

    /// A beat came.
    pub async fn beat(&self, beat: wire::Beat) {
        let _ = self.asks.send(Ask::Beat(beat)).await;
    }

    /// Messages may have been lost.
    pub async fn lost(&self) {
        let _ = self.asks.send(Ask::Lost).await;
    }

    /// How far the owner is behind its log, if that is too far to take more work, in milliseconds.
    pub fn overloaded(&self) -> Option<u64> {
        let lag_ms = self.lag_ms.load(Ordering::Relaxed);
        (lag_ms > 0).then_some(lag_ms)
    }
}

fn unavailable() -> Failure {
    Failure::new(ErrorCode::Unavailable, "the conversation cannot be reached now: try again")
        .retry_after(1_000)
}

/// Makes a partition's handle and the task behind it.
pub fn link() -> (LinkHandle, LinkTask) {
    let (sender, asks) = mpsc::channel(ASKS_MAX);
    let lag_ms = Arc::new(AtomicU64::new(0));
    (LinkHandle { asks: sender, lag_ms: lag_ms.clone() }, LinkTask { asks, lag_ms })
}

/// What [`LinkTask::run`] owns.
pub struct LinkTask {
    asks: mpsc::Receiver<Ask>,
    lag_ms: Arc<AtomicU64>,
}

/// A registration to be made.
#[derive(Default)]
struct Change {
    joins: Vec<Join>,
    add: HashSet<ConversationId>,
    remove: HashSet<ConversationId>,
}

struct Join {
    conversation: ConversationId,
    check: Option<UserId>,
    answer: oneshot::Sender<Result<u64, Failure>>,
    since: Instant,
}

impl Change {
    /// Takes an ask in, or gives it back when it contradicts one that is in already.
    fn take(&mut self, ask: Ask) -> Result<Option<Ask>, Ask> {
        match ask {
            Ask::Join { ref conversation, .. } if self.remove.contains(conversation) => Err(ask),
            Ask::Leave(ref conversation) if self.add.contains(conversation) => Err(ask),
            Ask::Join { conversation, check, answer, since } => {
                self.add.insert(conversation.clone());
                self.joins.push(Join { conversation, check, answer, since });
                Ok(None)
            }
            Ask::Leave(conversation) => {
                self.remove.insert(conversation);
                Ok(None)
            }
            other => Ok(Some(other)),
        }
    }

    fn is_full(&self) -> bool {
        self.joins.len() + self.remove.len() >= REGISTRATIONS_MAX
    }

    fn is_empty(&self) -> bool {
        self.joins.is_empty() && self.remove.is_empty()
    }
}

impl LinkTask {
    /// Serves one partition until the gateway ends.
    pub async fn run(mut self, shared: Arc<Shared>, partition: u32) {
        let mut owner = Owner { shared, partition, link: Link::default() };
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut held_back: Option<Ask> = None;
        loop {
            let first = match held_back.take() {
                Some(ask) => ask,
                None => tokio::select! {
                    ask = self.asks.recv() => match ask {
                        Some(ask) => ask,
                        None => return,
                    },
                    _ = tick.tick() => {
                        owner.link.tick(steady_ms());
                        owner.repair().await;
                        continue;
                    }
                },
            };
            let mut change = Change::default();
            let mut next = Some(first);
            while let Some(ask) = next.take().or_else(|| self.asks.try_recv().ok()) {
                match change.take(ask) {
                    Ok(None) => {}
                    Ok(Some(ask)) => owner.heard(ask),
                    Err(ask) => {
                        held_back = Some(ask);
                        break;
                    }
                }
                if change.is_full() {
                    break;
                }
            }
            self.lag_ms.store(owner.link.overloaded().unwrap_or(0), Ordering::Relaxed);
            if !change.is_empty() {
                owner.register(change).await;
            }
            owner.repair().await;
        }
    }
}

struct Owner {
    shared: Arc<Shared>,
    partition: u32,
    link: Link,
}

impl Owner {
    fn heard(&mut self, ask: Ask) {
        match ask {
            Ask::Batch { epoch, number } => self.link.batch(epoch, number),
            Ask::Beat(beat) => {
                self.link.beat(steady_ms(), beat.epoch, beat.number, beat.interest_hash, beat.lag_ms)
            }
            Ask::Lost => self.link.lost(),
            Ask::Join { .. } | Ask::Leave(_) => {}
        }
    }

    async fn register(&mut self, change: Change) {
        for conversation in &change.add {
            self.link.add(conversation);
        }
        for conversation in &change.remove {
            self.link.remove(conversation);
        }
        let mut checks: HashMap<&ConversationId, Vec<String>> =
            change.add.iter().map(|conversation| (conversation, Vec::new())).collect();
        for Join { conversation, check, .. } in &change.joins {
            if let (Some(checks), Some(user)) = (checks.get_mut(conversation), check) {
                checks.push(user.to_string());
            }
        }
        let add = checks
            .into_iter()
            .map(|(conversation, check)| wire::Interest {
                conversation: conversation.to_string(),
                known_head: 0,
                check,
            })
            .collect();
        let remove = change.remove.iter().map(ToString::to_string).collect();
        let body = wire::partition_request::Body::Register(wire::Register { replace: false, add, remove });
        let deadline =
            change.joins.iter().map(|join| join.since).min().unwrap_or_else(Instant::now) + JOIN_TIMEOUT;
        let reply = self.request(body, deadline).await;
        let listened: HashMap<String, wire::Listened> = match reply {
            Some(wire::partition_reply::Body::Registered(registered)) => registered
                .conversations
                .into_iter()
                .map(|listened| (listened.conversation.clone(), listened))
                .collect(),
            _ => HashMap::new(),
        };
        for listened in listened.values() {
            self.shared.announce(&listened.conversation, listened.head).await;
        }
        for join in change.joins {
            let refused = |listened: &wire::Listened| {
                join.check
                    .as_ref()
                    .is_some_and(|user| listened.refused.iter().any(|refused| refused == user.as_str()))
            };
            let verdict = match listened.get(join.conversation.as_str()) {
                None => Err(unavailable()),
                Some(listened) if refused(listened) => Err(Failure::forbidden()),
                Some(listened) => Ok(listened.head),
            };
            let _ = join.answer.send(verdict);
        }
    }

    async fn repair(&mut self) {
        let Some(Repair { resend, mut resync }) = self.link.repair() else { return };
        if let Some(from) = resend {
            let epoch = self.link.epoch();
            match self.resend(epoch, from).await {
                Some(whole) => resync |= !whole,
                None => self.link.unanswered(epoch, from),
            }
        }
        if resync {
            let finished = self.resync().await;
            self.link.resynced(finished);
        }
    }

    /// Takes batches that were missed: whether the owner still had all of them, `None` if it did not answer.
    async fn resend(&mut self, epoch: u64, from: u64) -> Option<bool> {
        let body = wire::partition_request::Body::Resend(wire::Resend { epoch, from });
        let reply = self.request(body, Instant::now() + REQUEST_TIMEOUT).await?;
        let wire::partition_reply::Body::Resent(resent) = reply else { return Some(false) };
        let whole = !resent.batches.is_empty();
        let mut touched = Vec::new();
        for batch in resent.batches {
            self.shared.take_batch(batch, &mut touched);
        }
        for room in touched {
            room.flush().await;
        }
        Some(whole)
    }

    /// Whether everything was registered, and its heads are known.
    async fn resync(&mut self) -> bool {
        crate::metrics::RESYNCS.inc();
        let interest: Vec<ConversationId> = self.link.interest().cloned().collect();
        let mut replace = true;
        let mut pages = interest.chunks(REGISTRATIONS_MAX);
        while let Some(page) = pages.next().or(if replace { Some(&[][..]) } else { None }) {
            let known = |conversation: &ConversationId| {
                self.shared
                    .hub
                    .room(conversation.as_str())
                    .and_then(|room| room.lock().topic.head())
                    .unwrap_or(0)
            };
            let add = page
                .iter()
                .map(|conversation| wire::Interest {
                    conversation: conversation.to_string(),
                    known_head: known(conversation),
                    check: Vec::new(),
                })
                .collect();
            let body =
                wire::partition_request::Body::Register(wire::Register { replace, add, remove: Vec::new() });
            replace = false;
            let reply = self.request(body, Instant::now() + JOIN_TIMEOUT).await;
            let Some(wire::partition_reply::Body::Registered(registered)) = reply else { return false };
            for listened in registered.conversations {
                self.shared.announce(&listened.conversation, listened.head).await;
            }
        }
        true
    }

    /// Asks the owner, again and again until `deadline`; each try has a counter of its own.
    async fn request(
        &mut self,
        body: wire::partition_request::Body,
        deadline: Instant,
    ) -> Option<wire::partition_reply::Body> {
        loop {
            let request = wire::PartitionRequest {
                gateway: self.shared.id.to_string(),
                counter: self.link.next_counter(),
                body: Some(body.clone()),
            };
            let payload = request.encode_to_vec().into();
            let subject = subject::partition(self.partition);
            let reply = self.shared.bus.request(&subject, payload, REQUEST_TIMEOUT).await;
            match reply.map(wire::PartitionReply::decode) {
                Ok(Ok(reply)) if self.link.replied(reply.epoch) => match reply.body {
                    Some(wire::partition_reply::Body::Failure(failure)) => {
                        tracing::debug!(
                            partition = self.partition,
                            code = failure.code,
                            "the owner refused a request"
                        );
                    }
                    body => return body,
                },
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(partition = self.partition, %error, "a reply could not be read")
                }
                Err(error) => tracing::debug!(partition = self.partition, %error, "the owner did not answer"),
            }
            if Instant::now() + RETRY_DELAY >= deadline {
                return None;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}
