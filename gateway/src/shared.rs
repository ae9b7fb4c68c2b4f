//! The state that all parts of one gateway share, and the distribution of messages from workers.

use crate::access::AccessRules;
use crate::access::admission::Admission;
use crate::access::auth::Verifier;
use crate::delivery::ephemeral::{Passing, TypingEnds};
use crate::delivery::hub::{Fetch, Hub, Room};
use crate::delivery::reads::SharedReads;
use crate::engine;
use crate::metrics;
use crate::presence::directory::Directory;
use crate::presence::{Audience, Refreshing, ShardHandle};
use crate::session::recovery::Recoveries;
use crate::workers::links::LinkHandle;
use crate::workers::pending::PendingCommands;
use crate::workers::publish::Publisher;
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

/// Time limit for one read by a message-worker.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay before the next try to fetch missing events.
const FETCH_RETRY_DELAY: Duration = Duration::from_millis(200);

/// One gateway.
pub struct Shared {
    /// This process's id. It is new at every start.
    pub id: GatewayId,
    pub(crate) settings: Settings,
    /// Number of partitions of the command log.
    pub(crate) partitions: u32,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) verifier: Verifier,
    /// Decides who may use a conversation.
    pub(crate) access: AccessRules,
    /// Decides who may connect.
    pub(crate) admission: Admission,
    pub(crate) directory: Directory,
    /// Conversations with local members.
    pub(crate) hub: Hub,
    pub(crate) pending: PendingCommands,
    /// The handles of the tasks that register with partitions' owners, by partition.
    pub(crate) links: Vec<LinkHandle>,
    /// The handles of the tasks that publish commands, by partition.
    pub(crate) publishers: Vec<Publisher>,
    /// The handles of the tasks that announce presence, by presence shard.
    pub(crate) presence: Vec<ShardHandle>,
    /// Which connections are sent which users' presence.
    pub(crate) audience: Audience,
    /// Users whose acquaintances must be read again.
    pub(crate) refreshing: Refreshing,
    /// The queue of ephemeral events for other gateways.
    pub(crate) passing: Passing,
    /// When typists' states must be looked at.
    pub(crate) typing_ends: TypingEnds,
    /// The last connection number that was given out.
    pub(crate) next_connection: AtomicU64,
    /// Cancelled when clients are to be sent away.
    pub draining: CancellationToken,
    /// A weak reference to this value, for tasks that it spawns.
    pub(crate) this: Weak<Shared>,
    pub(crate) polling: Arc<engine::Sessions>,
    pub(crate) recoveries: Recoveries,
    /// Pages being read for members that are behind.
    pub(crate) reads: SharedReads,
    /// The last result of the health check.
    pub(crate) health: crate::rest::RecentHealth,
}

impl Shared {
    /// Queues a command for its conversation's log.
    ///
    /// # Errors
    /// `unavailable` when the log or the partition's owner is too far behind.
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

    /// Requests a read from any message-worker.
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

    /// Reads events above `after_seq` for topics and members that miss them. The caller knows that `up_to_seq` is
    /// committed. A row above it may not be committed, so it is not returned.
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
        // A worker of an earlier version ignores `up_to_seq`.
        events.retain(|event| event.seq <= up_to_seq);
        Ok(events)
    }

    /// Applies a batch: events go to their rooms, outcomes to the commands that wait for them. Rooms whose members must
    /// be written to are added to `touched`.
    pub fn handle_batch(&self, batch: wire::Batch, touched: &mut Vec<Arc<Room>>) {
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
        batch.outcomes.into_iter().for_each(|outcome| self.handle_outcome(outcome));
    }

    /// Passes an outcome to the command that waits for it.
    pub fn handle_outcome(&self, outcome: wire::Outcome) {
        let came = match outcome.body {
            Some(Came::Accepted(accepted)) => Ok(accepted),
            Some(Came::Failure(failure)) => Err(failure.into()),
            None => Err(Failure::new(ErrorCode::Internal, "an empty outcome")),
        };
        self.pending.resolve(outcome.request, came);
    }

    /// Fetches a room's missing events in the background until none is missing.
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
                        tracing::debug!(conversation = %room.conversation, %failure, "missing events could not be fetched: trying again");
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

    /// Opens the conversation's room and holds it open for a join until the guard is dropped.
    pub fn hold(&self, conversation: &ConversationId) -> RoomHold<'_> {
        RoomHold { shared: self, room: self.hub.hold(conversation) }
    }

    /// Closes a room that has no members and no joins under way.
    pub fn let_go(&self, room: &Arc<Room>) {
        if self.hub.close_if_idle(room) {
            self.forget_room(room);
        }
    }

    /// Stops showing the users that were seen in a closed room.
    fn forget_room(&self, room: &Arc<Room>) {
        for user in self.audience.close_room(room) {
            self.announce_presence(Change::Unwatch(wire::Unwatch { user }));
        }
    }
}

/// A room that stays open for a join. Dropping it ends the hold.
pub struct RoomHold<'s> {
    shared: &'s Shared,
    pub(crate) room: Arc<Room>,
}

impl Drop for RoomHold<'_> {
    fn drop(&mut self) {
        if self.shared.hub.release(&self.room) {
            self.shared.forget_room(&self.room);
        }
    }
}
