//! What all parts of one gateway share, and the handing out of what workers send.

use crate::access::AccessRules;
use crate::admission::Admission;
use crate::auth::Verifier;
use crate::directory::Directory;
use crate::engine;
use crate::ephemeral::{Passing, TypingEnds};
use crate::hub::{Fetch, Hub, Room};
use crate::links::LinkHandle;
use crate::metrics;
use crate::pending::PendingCommands;
use crate::presence::{Audience, Refreshing, ShardHandle};
use crate::publish::Publisher;
use crate::reads::SharedReads;
use crate::recovery::Recoveries;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, GatewayId};
use carillon_proto::limits::HISTORY_LIMIT_MAX;
use carillon_proto::wire::{self, outcome::Body as Came, presence_change::Body as Change};
use carillon_proto::{partition, subject};
use carillon_runtime::bus::{Bus, BusError};
use carillon_runtime::settings::Settings;
use carillon_runtime::telemetry;
use prost::Message;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a read by a worker may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries to fetch what a topic misses.
const FETCH_RETRY_DELAY: Duration = Duration::from_millis(200);

/// One gateway.
pub struct Shared {
    /// This life of the gateway.
    pub id: GatewayId,
    /// The settings.
    pub settings: Settings,
    /// Partitions of the command log.
    pub partitions: u32,
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// Checks tokens.
    pub verifier: Verifier,
    /// Who may use what.
    pub access: AccessRules,
    /// Who may connect.
    pub admission: Admission,
    /// Local users.
    pub directory: Directory,
    /// Conversations with local members.
    pub hub: Hub,
    /// Awaited outcomes.
    pub pending: PendingCommands,
    /// One for each partition.
    pub links: Vec<LinkHandle>,
    /// One for each partition.
    pub publishers: Vec<Publisher>,
    /// One for each presence shard.
    pub presence: Vec<ShardHandle>,
    /// Who hears of whose presence.
    pub audience: Audience,
    /// Whose acquaintances are to be read again.
    pub refreshing: Refreshing,
    /// For other gateways.
    pub passing: Passing,
    /// When typing ends.
    pub typing_ends: TypingEnds,
    /// The number of the next connection.
    pub next_connection: AtomicU64,
    /// Cancelled when clients are to be sent away.
    pub draining: CancellationToken,
    /// Every connection's own way to be told that the gateway goes.
    pub this: Weak<Shared>,
    /// Sessions that poll.
    pub polling: Arc<engine::Sessions>,
    /// Sessions that can be recovered.
    pub recoveries: Recoveries,
    /// Pages being read for members that are behind.
    pub reads: SharedReads,
    /// What the health endpoint judged last.
    pub health: crate::rest::RecentHealth,
}

impl Shared {
    /// Queues a command for its conversation's log.
    ///
    /// # Errors
    /// `unavailable` when the log or its worker is not keeping up.
    pub fn publish(&self, conversation: &ConversationId, mut command: wire::Command) -> Result<(), Failure> {
        let partition = partition::of_conversation(conversation, self.partitions) as usize;
        if let Some(lag_ms) = self.links[partition].overloaded() {
            let message = "messages are being worked off: try again";
            return Err(Failure::new(ErrorCode::Unavailable, message).retry_after(lag_ms.min(30_000)));
        }
        let span = telemetry::message_span("gateway.publish");
        command.traceparent = telemetry::traceparent(&span);
        self.publishers[partition].publish(command)
    }

    /// Asks any message-worker to read something.
    ///
    /// # Errors
    /// The worker's refusal, or `unavailable`/`timeout`.
    pub async fn read(&self, body: wire::read_request::Body) -> Result<wire::read_reply::Body, Failure> {
        let payload = wire::ReadRequest { body: Some(body) }.encode_to_vec().into();
        let reply =
            self.bus.request(subject::READ, payload, READ_TIMEOUT).await.map_err(|error| match error {
                BusError::Timeout(_) => Failure::new(ErrorCode::Timeout, "reading took too long: try again"),
                _ => Failure::new(ErrorCode::Unavailable, "nothing can be read now: try again")
                    .retry_after(1_000),
            })?;
        let reply = wire::ReadReply::decode(reply).map_err(|error| {
            Failure::new(ErrorCode::Internal, format!("a reply could not be read: {error}"))
        })?;
        match reply.body {
            Some(wire::read_reply::Body::Failure(failure)) => Err(failure.into()),
            Some(body) => Ok(body),
            None => Err(Failure::new(ErrorCode::Internal, "an empty reply")),
        }
    }

    /// A page of events.
    ///
    /// # Errors
    /// As [`Shared::read`].
    pub async fn read_events(&self, page: wire::ReadEvents) -> Result<wire::Events, Failure> {
        match self.read(wire::read_request::Body::Events(page)).await? {
            wire::read_reply::Body::Events(events) => Ok(events),
            _ => Err(Failure::new(ErrorCode::Internal, "a reply of the wrong kind")),
        }
    }

    /// Events above `after_seq`, for topics and members that miss them, up to one that is known to be committed: a row
    /// above may be one that will never count.
    ///
    /// # Errors
    /// As [`Shared::read`].
    pub async fn read_after(
        &self,
        conversation: &str,
        after_seq: u64,
        up_to_seq: u64,
    ) -> Result<Vec<wire::Event>, Failure> {
        let page = wire::ReadEvents {
            conversation: conversation.into(),
            after_seq: Some(after_seq),
            up_to_seq: Some(up_to_seq),
            limit: HISTORY_LIMIT_MAX,
            ..Default::default()
        };
        let mut events = self.read_events(page).await?.events;
        // A worker of an earlier version knows no bound.
        events.retain(|event| event.seq <= up_to_seq);
        Ok(events)
    }

    /// Hands a batch's events to their rooms and its outcomes to who awaits them.
    /// Rooms whose members are to be written to are added to `touched`.
    pub fn take_batch(&self, batch: wire::Batch, touched: &mut Vec<Arc<Room>>) {
        metrics::EVENTS.inc_by(batch.events.len() as u64);
        for event in batch.events {
            let fetch = if event.traceparent.is_empty() {
                self.hub.deliver(event, touched)
            } else {
                let span = telemetry::continued_span("gateway.deliver", &event.traceparent);
                span.in_scope(|| self.hub.deliver(event, touched))
            };
            self.start_fetch(fetch);
        }
        batch.outcomes.into_iter().for_each(|outcome| self.take_outcome(outcome));
    }

    /// Hands an outcome to who awaits it.
    pub fn take_outcome(&self, outcome: wire::Outcome) {
        let came = match outcome.body {
            Some(Came::Accepted(accepted)) => Ok(accepted),
            Some(Came::Failure(failure)) => Err(failure.into()),
            None => Err(Failure::new(ErrorCode::Internal, "an empty outcome")),
        };
        self.pending.resolve(outcome.request, came);
    }

    /// Fetches what a topic misses, in the background, until it misses nothing.
    pub(crate) fn start_fetch(&self, fetch: Option<Fetch>) {
        let (Some(mut fetch), Some(shared)) = (fetch, self.this.upgrade()) else { return };
        tokio::spawn(async move {
            loop {
                let Fetch { room, after_seq, up_to_seq } = fetch;
                if room.lock().closed {
                    return;
                }
                metrics::FETCHES.inc();
                let read = shared.read_after(room.conversation.as_str(), after_seq, up_to_seq).await;
                let events = match read {
                    Ok(events) => events,
                    Err(failure) => {
                        tracing::debug!(conversation = %room.conversation, %failure, "missed events not fetched yet");
                        Vec::new()
                    }
                };
                if events.is_empty() {
                    tokio::time::sleep(FETCH_RETRY_DELAY).await;
                }
                let more = shared.hub.fetched(&room, events);
                room.flush().await;
                match more {
                    Some(more) => fetch = more,
                    None => return,
                }
            }
        });
    }

    /// The room of a conversation, held open for a join until the guard is dropped.
    pub fn hold(&self, conversation: &ConversationId) -> Held<'_> {
        Held { shared: self, room: self.hub.hold(conversation) }
    }

    /// Lets a room go if nobody needs it.
    pub fn let_go(&self, room: &Arc<Room>) {
        if self.hub.close_if_idle(room) {
            self.forget_room(room);
        }
    }

    /// The users who were seen in a room that has been closed are seen there no longer.
    fn forget_room(&self, room: &Arc<Room>) {
        for user in self.audience.close_room(room) {
            self.tell_presence(Change::Unwatch(wire::Unwatch { user }));
        }
    }
}

/// A room that does not go while somebody joins it.
pub struct Held<'s> {
    shared: &'s Shared,
    /// The room.
    pub room: Arc<Room>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.shared.hub.release(&self.room) {
            self.shared.forget_room(&self.room);
        }
    }
}
