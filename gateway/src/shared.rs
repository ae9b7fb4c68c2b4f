//! The state that all parts of one gateway share.

use crate::access::AccessRules;
use crate::access::admission::Admission;
use crate::access::auth::Verifier;
use crate::delivery::batches::Delivery;
use crate::delivery::ephemeral::{Passing, TypingEnds};
use crate::delivery::hub::Room;
use crate::delivery::reads::SharedReads;
use crate::engine;
use crate::presence::directory::Directory;
use crate::presence::{Audience, Refreshing, ShardHandle};
use crate::session::recovery::Recoveries;
use crate::workers::links::LinkHandle;
use crate::workers::publish::Publisher;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, GatewayId};
use carillon_proto::partition;
use carillon_proto::wire::{self, presence_change::Body as Change};
use carillon_runtime::bus::Bus;
use carillon_runtime::settings::Settings;
use carillon_runtime::telemetry;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use tokio_util::sync::CancellationToken;

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
    /// The receivers of workers' batches: rooms with local members, and commands without an outcome.
    pub(crate) delivery: Delivery,
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
    pub(crate) reads: Arc<SharedReads>,
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

    /// Opens the conversation's room and holds it open for a join until the guard is dropped.
    pub fn hold(&self, conversation: &ConversationId) -> RoomHold<'_> {
        RoomHold { shared: self, room: self.delivery.hub.hold(conversation) }
    }

    /// Closes a room that has no members and no joins under way.
    pub fn let_go(&self, room: &Arc<Room>) {
        if self.delivery.hub.close_if_idle(room) {
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
        if self.shared.delivery.hub.release(&self.room) {
            self.shared.forget_room(&self.room);
        }
    }
}
