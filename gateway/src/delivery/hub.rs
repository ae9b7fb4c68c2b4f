//! The conversations that this gateway serves, and the delivery of events to their members.
//!
//! The gateway registers exactly the rooms in the hub with the partitions' owners (see [`crate::core::registry`]).

use crate::connection::{Connection, Member, Signal};
use crate::core::outbox::Urgency;
use crate::core::registry::{Changes, Registry};
use crate::core::topic::{Event, RightCheck, Slot, Topic, Wants};
use crate::core::typing::Typists;
use crate::delivery::dialect::{Dialect, SOCKETIO_DIALECTS};
use crate::sync::{Mutex, MutexGuard};
use crate::workers::registration::unavailable;
use bytes::Bytes;
use carillon_proto::code::Failure;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::limits::FANOUT_CHUNK;
use carillon_proto::partition;
use carillon_proto::wire::{self, event::Kind};
use carillon_runtime::time::steady_ms;
use prost::Message;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// A durable event. Its frames are encoded once for each vocabulary in which a member receives it.
pub struct Encoded {
    pub event: wire::Event,
    native: OnceLock<Bytes>,
    /// Allocated when the first Socket.IO client receives the event.
    socketio: OnceLock<Box<[OnceLock<Bytes>; SOCKETIO_DIALECTS]>>,
}

impl Encoded {
    /// An event of which no frames are encoded yet.
    pub fn new(event: wire::Event) -> Arc<Encoded> {
        Arc::new(Encoded { event, native: OnceLock::new(), socketio: OnceLock::new() })
    }

    /// The event's frames in a dialect; empty if the vocabulary has no name for this event.
    pub fn frames(&self, dialect: Dialect) -> &Bytes {
        let frames = match dialect.socketio_index() {
            None => &self.native,
            Some(index) => &self.socketio.get_or_init(Box::default)[index],
        };
        frames.get_or_init(|| dialect.event(&self.event))
    }
}

impl Event for Encoded {
    fn seq(&self) -> u64 {
        self.event.seq
    }
    fn weight(&self) -> usize {
        // An estimate: the decoded event holds the content once, and each vocabulary's frames hold it once more. Most
        // events are encoded for one vocabulary only.
        3 * self.event.encoded_len() + size_of::<Encoded>()
    }
    fn may_end(&self) -> bool {
        matches!(self.event.kind, Some(Kind::ParticipantRemoved(_)))
    }
}

/// The state in a room of a user whose presence the room's members see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Present,
    /// The user's connection ended. The members see the user until the user is offline.
    Gone,
}

/// What a room's lock protects.
#[derive(Default)]
pub struct RoomState {
    /// Head, ring and members.
    pub topic: Topic<Member, Encoded>,
    pub typists: Typists,
    /// How many subscriptions each user has in this room. A connection may have one per vocabulary.
    pub users: HashMap<UserId, u32>,
    /// Users, at any gateway, whose presence the members of this room see.
    pub visible: HashMap<UserId, Seen>,
    /// How many distinct users have joined, over all gateways. The count is best effort.
    pub participants: u32,
    /// The room is no longer in the hub. Code that still holds the room must look up the conversation's room again.
    pub closed: bool,
}

impl RoomState {
    /// Queues a frame for every member that `receives` selects. `frames` is called once for each dialect among them.
    pub fn pass_on(&self, receives: impl Fn(&Connection) -> bool, frames: impl Fn(Dialect) -> Bytes) {
        let mut made: Vec<(Dialect, Bytes)> = Vec::new();
        for (_, member) in self.topic.members().filter(|(_, member)| receives(&member.connection)) {
            let known = made.iter().position(|(dialect, _)| *dialect == member.dialect);
            let index = known.unwrap_or_else(|| {
                made.push((member.dialect, frames(member.dialect)));
                made.len() - 1
            });
            member.connection.offer(&made[index].1, Urgency::Ephemeral);
        }
    }

    /// Whether this slot belongs to this connection in this vocabulary. A slot that becomes free is given to another
    /// member, so a remembered slot number may be out of date.
    pub fn is_slot_of(&self, slot: Slot, connection: &Connection, dialect: Dialect) -> bool {
        let ours = |member: &Member| member.connection.id == connection.id && member.dialect == dialect;
        self.topic.subscriber(slot).is_some_and(ours)
    }

    /// Checks that a member's right to receive the conversation still holds. The owner granted the right at the seq
    /// `since`, and a removal of the user may have arrived after that.
    ///
    /// # Errors
    /// `forbidden` if the user was removed above `since`; `unavailable` if the topic no longer keeps every removal
    /// since then.
    pub fn admit(&self, member: &Member, since: u64) -> Result<(), Failure> {
        match self.topic.right(member, since) {
            RightCheck::Holds => Ok(()),
            RightCheck::Ended => Err(Failure::forbidden()),
            RightCheck::Unknown => Err(unavailable()),
        }
    }
}

/// A conversation with members at this gateway.
pub struct Room {
    pub conversation: ConversationId,
    /// The partition whose owner serves it.
    pub partition: u32,
    state: Mutex<RoomState>,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Room").field(&self.conversation).finish()
    }
}

impl Room {
    /// Locks the room's state. Hold the lock briefly and never over an await.
    pub fn lock(&self) -> MutexGuard<'_, RoomState> {
        self.state.lock()
    }

    /// Writes to the sockets of members for which events were queued. It writes outside the lock, and yields after
    /// every [`FANOUT_CHUNK`] members, so that a large room does not delay other tasks.
    pub async fn flush(&self) {
        let touched: Vec<Arc<Connection>> = {
            let state = self.lock();
            state
                .topic
                .members()
                .filter(|(_, member)| member.connection.take_touched())
                .map(|(_, member)| member.connection.clone())
                .collect()
        };
        for (index, member) in touched.iter().enumerate() {
            member.outgoing.flush_delivery();
            if index % FANOUT_CHUNK == FANOUT_CHUNK - 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Reports to the room's members that a user joined or left it, counted over all gateways. The user's own
    /// connections are left out.
    pub fn show_arrival(&self, user: &str, participants: u32, joined: bool) {
        let conversation = self.conversation.as_str();
        let receives = |member: &Connection| member.user.as_str() != user;
        self.lock().pass_on(receives, |dialect| dialect.arrival(user, conversation, participants, joined));
    }

    /// Queues an event that is not stored for every member that `receives` selects.
    pub fn pass_on(&self, event: &wire::Ephemeral, receives: impl Fn(&Connection) -> bool) {
        self.lock().pass_on(receives, |dialect| dialect.ephemeral(event));
    }
}

/// Events that a room is missing and that must be read from the store.
#[derive(Debug)]
pub struct Fetch {
    pub room: Arc<Room>,
    /// The last seq that the room has.
    pub after_seq: u64,
    /// The last seq to read. It is committed.
    pub up_to_seq: u64,
}

/// The rooms of one partition.
#[derive(Default)]
struct Partition {
    rooms: Mutex<Registry<Arc<Room>>>,
    /// Notified when a room was closed, so that the link task reports this to the partition's owner.
    changed: Notify,
}

/// All rooms of this gateway. Lock order: a partition's registry first, then a room in it.
pub struct Hub {
    partitions: Vec<Partition>,
}

impl Hub {
    pub fn new(partitions: u32) -> Hub {
        Hub { partitions: (0..partitions).map(|_| Partition::default()).collect() }
    }

    fn partition(&self, conversation: &str) -> (u32, &Partition) {
        let partition = partition::of_text(conversation, self.partitions.len() as u32);
        (partition, &self.partitions[partition as usize])
    }

    /// Returns the conversation's room and keeps it open for a join until [`Hub::release`]. A missing room is created.
    pub fn hold(&self, conversation: &ConversationId) -> Arc<Room> {
        let (number, partition) = self.partition(conversation.as_str());
        let mut rooms = partition.rooms.lock();
        let make = || Room { conversation: conversation.clone(), partition: number, state: Mutex::default() };
        let room = rooms.open(conversation, || Arc::new(make())).clone();
        room.lock().topic.start_join();
        room
    }

    /// Ends a [`Hub::hold`]. Returns `true` if this closed the room.
    pub fn release(&self, room: &Arc<Room>) -> bool {
        room.lock().topic.end_join();
        self.close_if_idle(room)
    }

    /// Closes a room that has no members and no joins under way. Returns `true` if it closed. Closing and noting the
    /// change for the partition's owner are one step under one lock. The owner then unregisters the conversation,
    /// unless there is a new room for it by the time the change is sent.
    pub fn close_if_idle(&self, room: &Arc<Room>) -> bool {
        let Partition { rooms, changed } = &self.partitions[room.partition as usize];
        let mut rooms = rooms.lock();
        let mut state = room.lock();
        if state.closed || !state.topic.is_idle() {
            return false;
        }
        state.closed = true;
        rooms.close(&room.conversation);
        changed.notify_one();
        true
    }

    /// The conversation's room, if it has one here.
    pub fn room(&self, conversation: &str) -> Option<Arc<Room>> {
        self.partition(conversation).1.rooms.lock().get(conversation).cloned()
    }

    /// Evaluates `check` on the conversation's room while the room cannot be closed; `false` if there is no room.
    pub fn in_room(&self, conversation: &str, check: impl FnOnce(&RoomState) -> bool) -> bool {
        let rooms = self.partition(conversation).1.rooms.lock();
        rooms.get(conversation).is_some_and(|room| check(&room.lock()))
    }

    pub fn all(&self) -> Vec<Arc<Room>> {
        let rooms = |partition: &Partition| partition.rooms.lock().rooms().cloned().collect::<Vec<_>>();
        self.partitions.iter().flat_map(rooms).collect()
    }

    pub fn count(&self) -> usize {
        self.partitions.iter().map(|partition| partition.rooms.lock().len()).sum()
    }

    pub fn count_of(&self, partition: u32) -> usize {
        self.partitions[partition as usize].rooms.lock().len()
    }

    /// Waits until a room of the partition was closed, so that its removal must be sent to the owner.
    pub async fn changed(&self, partition: u32) {
        self.partitions[partition as usize].changed.notified().await;
    }

    /// As [`Registry::next_changes`]; `None` if so much has changed that everything must be registered again.
    pub fn next_changes(
        &self,
        partition: u32,
        requested: impl Iterator<Item = ConversationId>,
        most: usize,
    ) -> Option<Changes<Arc<Room>>> {
        let mut rooms = self.partitions[partition as usize].rooms.lock();
        (!rooms.has_overflowed()).then(|| rooms.next_changes(requested, most))
    }

    /// As [`Registry::next_replacement`].
    pub fn next_replacement(&self, partition: u32) -> Vec<(ConversationId, Arc<Room>)> {
        self.partitions[partition as usize].rooms.lock().next_replacement()
    }

    /// As [`Registry::put_back`].
    pub fn put_back(&self, partition: u32, conversations: impl Iterator<Item = ConversationId>) {
        self.partitions[partition as usize].rooms.lock().put_back(conversations);
    }

    /// As [`Registry::expected`].
    pub fn expected(&self, partition: u32) -> Option<u64> {
        self.partitions[partition as usize].rooms.lock().expected()
    }

    /// Queues a durable event for its room's members and adds the room to `touched`. The caller then calls
    /// [`Room::flush`] once for each room in `touched`, after all events of a batch.
    pub fn deliver(&self, event: wire::Event, touched: &mut Vec<Arc<Room>>) -> Option<Fetch> {
        let room = self.room(&event.conversation)?;
        if touched.last().is_none_or(|last| !Arc::ptr_eq(last, &room)) {
            touched.push(room.clone());
        }
        let encoded = Encoded::new(event);
        let mut state = room.lock();
        end_typing(&mut state, &encoded.event);
        let wants = state.topic.handle_event(encoded);
        carry_out(&room, &mut state, wants)
    }

    /// Applies a committed head from a registration reply. The registration must have been made while this very room
    /// was open. Returns what to fetch, and whether events were queued for members.
    pub fn announce(&self, room: &Arc<Room>, head: u64) -> (Option<Fetch>, bool) {
        let mut state = room.lock();
        let before = state.topic.head();
        let wants = state.topic.handle_head(head);
        let served = state.topic.head() != before;
        (carry_out(room, &mut state, wants), served)
    }

    /// Applies the result of a fetch; `events` is empty if the fetch failed.
    pub fn fetched(&self, room: &Arc<Room>, events: Vec<wire::Event>) -> Option<Fetch> {
        let events: Vec<_> = events.into_iter().map(Encoded::new).collect();
        let mut state = room.lock();
        let wants = state.topic.handle_fetched(events);
        carry_out(room, &mut state, wants)
    }
}

fn carry_out(room: &Arc<Room>, state: &mut RoomState, wants: Wants) -> Option<Fetch> {
    for slot in wants.behind {
        if let Some(member) = state.topic.subscriber(slot) {
            member.connection.signal(Signal::Behind(room.clone()));
        }
    }
    for slot in wants.ended {
        end(room, state, slot);
    }
    let (after_seq, up_to_seq) = wants.fetch?;
    Some(Fetch { room: room.clone(), after_seq, up_to_seq })
}

/// A message ends the typing of its author, if the author started typing before sending it
/// (`docs/protocol.md#details`).
fn end_typing(state: &mut RoomState, event: &wire::Event) {
    if matches!(event.kind, Some(Kind::Message(_)))
        && state.typists.handle_message(&event.actor, &event.client_id, steady_ms()).is_some()
    {
        let stopped = wire::Ephemeral {
            conversation: event.conversation.clone(),
            user: event.actor.clone(),
            user_name: event.actor_name.clone(),
            time_ms: event.time_ms,
            kind: Some(wire::ephemeral::Kind::Typing(false)),
            ..wire::Ephemeral::default()
        };
        let receives = |member: &Connection| member.user.as_str() != event.actor;
        state.pass_on(receives, |dialect| dialect.ephemeral(&stopped));
    }
}

/// Removes a member that has received the last event that it may receive. The client is sent a notice in the member's
/// vocabulary, and the connection's task gets a signal in the same step. Each removed member leads to exactly one
/// signal.
pub fn end(room: &Arc<Room>, state: &mut RoomState, slot: Slot) {
    let Some(Member { connection, dialect, .. }) = state.topic.leave(slot) else { return };
    connection.offer(&dialect.ended(&room.conversation), Urgency::Reply);
    connection.signal(Signal::Ended(room.clone(), dialect));
}
