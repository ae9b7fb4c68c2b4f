//! The conversations that this gateway serves, and the delivery of events to their members.
//!
//! What is registered with partitions' owners follows from the rooms that are here (see [`crate::core::registry`]).

use crate::connection::{Connection, Member, Signal};
use crate::core::outbox::Urgency;
use crate::core::registry::{Changes, Registry};
use crate::core::topic::{Event, Right, Slot, Topic, Wants};
use crate::core::typing::Typists;
use crate::dialect::{Dialect, SOCKETIO_DIALECTS};
use crate::registration::unavailable;
use crate::sync::{Mutex, MutexGuard};
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

/// A durable event, encoded once for each vocabulary in which anybody hears it.
pub struct Encoded {
    /// The event itself.
    pub event: wire::Event,
    native: OnceLock<Bytes>,
    /// Made when the first client of Socket.IO hears the event.
    socketio: OnceLock<Box<[OnceLock<Bytes>; SOCKETIO_DIALECTS]>>,
}

impl Encoded {
    /// An event that nobody has heard yet.
    pub fn new(event: wire::Event) -> Arc<Encoded> {
        Arc::new(Encoded { event, native: OnceLock::new(), socketio: OnceLock::new() })
    }

    /// The event's frames; empty where the vocabulary has no name for it.
    pub fn frames(&self, dialect: Dialect) -> &Bytes {
        let place = match dialect.socketio_index() {
            None => &self.native,
            Some(index) => &self.socketio.get_or_init(Box::default)[index],
        };
        place.get_or_init(|| dialect.event(&self.event))
    }
}

impl Event for Encoded {
    fn seq(&self) -> u64 {
        self.event.seq
    }
    fn weight(&self) -> usize {
        // The event holds its content once, each vocabulary's frames once more; mostly that is one vocabulary.
        3 * self.event.encoded_len() + size_of::<Encoded>()
    }
    fn may_end(&self) -> bool {
        matches!(self.event.kind, Some(Kind::ParticipantRemoved(_)))
    }
}

/// A user whose presence the members of a room see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Joined now.
    Present,
    /// Gone with their connection: seen until they are offline.
    Gone,
}

/// What a room holds, under its lock.
#[derive(Default)]
pub struct RoomState {
    /// Head, ring and members.
    pub topic: Topic<Member, Encoded>,
    /// Who is typing.
    pub typists: Typists,
    /// Connections here of each user.
    pub users: HashMap<UserId, u32>,
    /// Users over all gateways whose presence is shared here.
    pub visible: HashMap<UserId, Seen>,
    /// Distinct users joined now over all gateways, best effort.
    pub participants: u32,
    /// No longer in the hub: whoever holds it must look again.
    pub closed: bool,
}

impl RoomState {
    /// Queues what `frames` makes, once for each dialect in use, for every member that `hears` it.
    pub fn pass_on(&self, hears: impl Fn(&Connection) -> bool, frames: impl Fn(Dialect) -> Bytes) {
        let mut made: Vec<(Dialect, Bytes)> = Vec::new();
        for (_, member) in self.topic.members().filter(|(_, member)| hears(&member.connection)) {
            let known = made.iter().position(|(dialect, _)| *dialect == member.dialect);
            let place = known.unwrap_or_else(|| {
                made.push((member.dialect, frames(member.dialect)));
                made.len() - 1
            });
            member.connection.offer(&made[place].1, Urgency::Ephemeral);
        }
    }
}

/// A conversation with local members.
pub struct Room {
    /// Its id.
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
    /// The room's state; held briefly, never over an await.
    pub fn lock(&self) -> MutexGuard<'_, RoomState> {
        self.state.lock()
    }

    /// Writes to the members for whom events were queued. Written outside the lock, and in chunks, so that a
    /// large room holds up nobody.
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

    /// Tells that a user is in the room, or no longer, over all gateways.
    pub fn show_arrival(&self, user: &str, participants: u32, joined: bool) {
        let conversation = self.conversation.as_str();
        let hears = |member: &Connection| member.user.as_str() != user;
        self.lock().pass_on(hears, |dialect| dialect.arrival(user, conversation, participants, joined));
    }

    /// Queues an event that is not stored for every member that `hears` it.
    pub fn pass_on(&self, event: &wire::Ephemeral, hears: impl Fn(&Connection) -> bool) {
        self.lock().pass_on(hears, |dialect| dialect.ephemeral(event));
    }
}

impl RoomState {
    /// Whether a place is a connection's in this vocabulary: places are given to others when they are free.
    pub fn is_place_of(&self, slot: Slot, connection: &Connection, dialect: Dialect) -> bool {
        let ours = |member: &Member| member.connection.id == connection.id && member.dialect == dialect;
        self.topic.hearer(slot).is_some_and(ours)
    }

    /// Lets a member in whose right to be here is of `since`, if that still holds: a removal may have come since the owner
    /// said so.
    ///
    /// # Errors
    /// `forbidden`, or `unavailable` where more has come than is kept.
    pub fn admit(&self, member: &Member, since: u64) -> Result<(), Failure> {
        match self.topic.right(member, since) {
            Right::Holds => Ok(()),
            Right::Ended => Err(Failure::forbidden()),
            Right::Unknown => Err(unavailable()),
        }
    }
}

/// What the shell must do after something was handed to a room.
#[derive(Debug)]
pub struct Fetch {
    /// The room that misses events.
    pub room: Arc<Room>,
    /// The last seq it has.
    pub after_seq: u64,
    /// The last one that it misses, which is committed.
    pub up_to_seq: u64,
}

/// The rooms of one partition.
#[derive(Default)]
struct Partition {
    rooms: Mutex<Registry<Arc<Room>>>,
    /// A room has gone: its owner is to be told.
    changed: Notify,
}

/// All rooms of this gateway. A room's lock is taken under its partition's, never the other way.
pub struct Hub {
    partitions: Vec<Partition>,
}

impl Hub {
    /// A hub without rooms.
    pub fn new(partitions: u32) -> Hub {
        Hub { partitions: (0..partitions).map(|_| Partition::default()).collect() }
    }

    fn partition(&self, conversation: &str) -> (u32, &Partition) {
        let partition = partition::of_text(conversation, self.partitions.len() as u32);
        (partition, &self.partitions[partition as usize])
    }

    /// The room of a conversation, made if need be, held open for a join until [`Hub::release`].
    pub fn hold(&self, conversation: &ConversationId) -> Arc<Room> {
        let (number, partition) = self.partition(conversation.as_str());
        let mut rooms = partition.rooms.lock();
        let make = || Room { conversation: conversation.clone(), partition: number, state: Mutex::default() };
        let room = rooms.open(conversation, || Arc::new(make())).clone();
        room.lock().topic.begin_join();
        room
    }

    /// Ends a [`Hub::hold`]; `true` when the room went with it.
    pub fn release(&self, room: &Arc<Room>) -> bool {
        room.lock().topic.end_join();
        self.close_if_idle(room)
    }

    /// Lets a room go that nobody needs; `true` when it went. In the same step it is noted for the partition's owner,
    /// who is told that nobody listens unless there is another room of the conversation by then.
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

    /// The room of a conversation with local members.
    pub fn room(&self, conversation: &str) -> Option<Arc<Room>> {
        self.partition(conversation).1.rooms.lock().get(conversation).cloned()
    }

    /// Asks the room of a conversation, if there is one now.
    pub fn in_room(&self, conversation: &str, ask: impl FnOnce(&RoomState) -> bool) -> bool {
        let rooms = self.partition(conversation).1.rooms.lock();
        rooms.get(conversation).is_some_and(|room| ask(&room.lock()))
    }

    /// Every room.
    pub fn all(&self) -> Vec<Arc<Room>> {
        let rooms = |partition: &Partition| partition.rooms.lock().rooms().cloned().collect::<Vec<_>>();
        self.partitions.iter().flat_map(rooms).collect()
    }

    /// How many rooms there are.
    pub fn count(&self) -> usize {
        self.partitions.iter().map(|partition| partition.rooms.lock().len()).sum()
    }

    /// How many there are of one partition.
    pub fn count_of(&self, partition: u32) -> usize {
        self.partitions[partition as usize].rooms.lock().len()
    }

    /// Waits until the partition's owner is to be told that a room has gone.
    pub async fn changed(&self, partition: u32) {
        self.partitions[partition as usize].changed.notified().await;
    }

    /// As [`Registry::take`]; `None` when everything is to be told anew.
    pub fn take_changes(
        &self,
        partition: u32,
        asked: impl Iterator<Item = ConversationId>,
        most: usize,
    ) -> Option<Changes<Arc<Room>>> {
        let mut rooms = self.partitions[partition as usize].rooms.lock();
        (!rooms.has_overflowed()).then(|| rooms.take(asked, most))
    }

    /// As [`Registry::take_all`].
    pub fn take_all(&self, partition: u32) -> Vec<(ConversationId, Arc<Room>)> {
        self.partitions[partition as usize].rooms.lock().take_all()
    }

    /// As [`Registry::put_back`].
    pub fn put_back(&self, partition: u32, conversations: impl Iterator<Item = ConversationId>) {
        self.partitions[partition as usize].rooms.lock().put_back(conversations);
    }

    /// As [`Registry::expected`].
    pub fn expected(&self, partition: u32) -> Option<u64> {
        self.partitions[partition as usize].rooms.lock().expected()
    }

    /// Queues a durable event for its room's members. They are written to with [`Room::flush`], once for all
    /// events that came together: `touched` collects the rooms.
    pub fn deliver(&self, event: wire::Event, touched: &mut Vec<Arc<Room>>) -> Option<Fetch> {
        let room = self.room(&event.conversation)?;
        if touched.last().is_none_or(|last| !Arc::ptr_eq(last, &room)) {
            touched.push(room.clone());
        }
        let encoded = Encoded::new(event);
        let mut state = room.lock();
        end_typing(&mut state, &encoded.event);
        let wants = state.topic.deliver(encoded);
        carry_out(&room, &mut state, wants)
    }

    /// The committed head of a room's conversation was told, as of a registration that was made while this very room was
    /// there. Returns what to fetch, and whether events were queued for its members.
    pub fn announce(&self, room: &Arc<Room>, head: u64) -> (Option<Fetch>, bool) {
        let mut state = room.lock();
        let before = state.topic.head();
        let wants = state.topic.announce(head);
        let served = state.topic.head() != before;
        (carry_out(room, &mut state, wants), served)
    }

    /// A fetch came back, with nothing if it failed.
    pub fn fetched(&self, room: &Arc<Room>, events: Vec<wire::Event>) -> Option<Fetch> {
        let events: Vec<_> = events.into_iter().map(Encoded::new).collect();
        let mut state = room.lock();
        let wants = state.topic.fetched(events);
        carry_out(room, &mut state, wants)
    }
}

fn carry_out(room: &Arc<Room>, state: &mut RoomState, wants: Wants) -> Option<Fetch> {
    for slot in wants.behind {
        if let Some(member) = state.topic.hearer(slot) {
            member.connection.signal(Signal::Behind(room.clone()));
        }
    }
    for slot in wants.ended {
        end(room, state, slot);
    }
    let (after_seq, up_to_seq) = wants.fetch?;
    Some(Fetch { room: room.clone(), after_seq, up_to_seq })
}

/// A message from the typist ends the typing that it came from (protocol §2).
fn end_typing(state: &mut RoomState, event: &wire::Event) {
    if matches!(event.kind, Some(Kind::Message(_)))
        && state.typists.message(&event.actor, &event.client_id, steady_ms()).is_some()
    {
        let stopped = wire::Ephemeral {
            conversation: event.conversation.clone(),
            user: event.actor.clone(),
            user_name: event.actor_name.clone(),
            time_ms: event.time_ms,
            kind: Some(wire::ephemeral::Kind::Typing(false)),
            ..wire::Ephemeral::default()
        };
        let hears = |member: &Connection| member.user.as_str() != event.actor;
        state.pass_on(hears, |dialect| dialect.ephemeral(&stopped));
    }
}

/// A member has heard the last that it may: it is told so, in whatever it hears the conversation in, and goes. Its
/// connection's task is told in the same step, once for each member that goes so.
pub fn end(room: &Arc<Room>, state: &mut RoomState, slot: Slot) {
    let Some(Member { connection, dialect, .. }) = state.topic.leave(slot) else { return };
    connection.offer(&dialect.ended(&room.conversation), Urgency::Reply);
    connection.signal(Signal::Ended(room.clone(), dialect));
}
