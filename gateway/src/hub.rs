//! The conversations that this gateway serves, and the delivery of events to their members.

use crate::connection::{Connection, Member, Signal};
use crate::core::outbox::Urgency;
use crate::core::topic::{Event, Slot, Topic, Wants};
use crate::core::typing::Typists;
use crate::dialect::{Dialect, SOCKETIO_DIALECTS};
use bytes::Bytes;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::limits::FANOUT_CHUNK;
use carillon_proto::partition;
use carillon_proto::wire::{self, event::Kind};
use carillon_runtime::collections::Spare;
use carillon_runtime::time::steady_ms;
use parking_lot::{Mutex, MutexGuard};
use prost::Message;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

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
    /// Joins under way: the room must not go.
    pub joining: u32,
    /// No longer in the hub: whoever holds it must look again.
    pub closed: bool,
}

impl RoomState {
    /// Whether any member here hears who comes and goes.
    pub fn hears_arrivals(&self) -> bool {
        self.topic.members().any(|(_, member)| member.dialect.names_arrivals())
    }

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

/// All rooms of this gateway.
pub struct Hub {
    rooms: Mutex<HashMap<ConversationId, Arc<Room>>>,
    partitions: u32,
}

impl Hub {
    /// A hub without rooms.
    pub fn new(partitions: u32) -> Hub {
        Hub { rooms: Mutex::default(), partitions }
    }

    /// The room of a conversation, made if need be, held open for a join until [`Hub::release`].
    pub fn hold(&self, conversation: &ConversationId) -> Arc<Room> {
        let mut rooms = self.rooms.lock();
        let room = rooms.entry(conversation.clone()).or_insert_with(|| {
            Arc::new(Room {
                conversation: conversation.clone(),
                partition: partition::of_conversation(conversation, self.partitions),
                state: Mutex::default(),
            })
        });
        room.lock().joining += 1;
        room.clone()
    }

    /// Ends a [`Hub::hold`].
    pub fn release(&self, room: &Arc<Room>) -> bool {
        room.lock().joining -= 1;
        self.close_if_idle(room)
    }

    /// Lets a room go that nobody needs; `true` when it went.
    pub fn close_if_idle(&self, room: &Arc<Room>) -> bool {
        let mut rooms = self.rooms.lock();
        let mut state = room.lock();
        if state.closed || state.joining > 0 || !state.topic.is_idle() {
            return false;
        }
        state.closed = true;
        rooms.remove(&room.conversation);
        rooms.give_spare_back();
        true
    }

    /// The room of a conversation with local members.
    pub fn room(&self, conversation: &str) -> Option<Arc<Room>> {
        self.rooms.lock().get(conversation).cloned()
    }

    /// Every room.
    pub fn all(&self) -> Vec<Arc<Room>> {
        self.rooms.lock().values().cloned().collect()
    }

    /// How many rooms there are.
    pub fn count(&self) -> usize {
        self.rooms.lock().len()
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
        let wants = state.topic.deliver(encoded.clone());
        apply_removal(&mut state, &room.conversation, &encoded.event);
        carry_out(&room, &mut state, wants)
    }

    /// The committed head of a conversation was told. Returns what to fetch, and the room if events were
    /// queued for its members.
    pub fn announce(&self, conversation: &str, head: u64) -> (Option<Fetch>, Option<Arc<Room>>) {
        let Some(room) = self.room(conversation) else { return (None, None) };
        let mut state = room.lock();
        let before = state.topic.head();
        let wants = state.topic.announce(head);
        let served = state.topic.head() != before;
        let fetch = carry_out(&room, &mut state, wants);
        drop(state);
        (fetch, served.then_some(room))
    }

    /// Gives a fetch up whose room nobody hears any more; `true` when it did.
    pub fn abandon_fetch(&self, room: &Room) -> bool {
        let mut state = room.lock();
        let abandoned = state.topic.member_count() == 0 && state.joining == 0;
        if abandoned {
            state.topic.abandon_fetch();
        }
        abandoned
    }

    /// A fetch came back, with nothing if it failed.
    pub fn fetched(&self, room: &Arc<Room>, events: Vec<wire::Event>) -> Option<Fetch> {
        let events: Vec<_> = events.into_iter().map(Encoded::new).collect();
        let mut state = room.lock();
        let wants = state.topic.fetched(events.clone());
        for encoded in &events {
            apply_removal(&mut state, &room.conversation, &encoded.event);
        }
        carry_out(room, &mut state, wants)
    }
}

fn carry_out(room: &Arc<Room>, state: &mut RoomState, wants: Wants) -> Option<Fetch> {
    for slot in wants.behind {
        if let Some(member) = state.topic.hearer(slot) {
            member.connection.signal(Signal::Behind(room.clone()));
        }
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

/// Removing a participant ends their live subscription at once (protocol §7): they hear the removal and
/// nothing above it.
fn apply_removal(state: &mut RoomState, conversation: &ConversationId, event: &wire::Event) {
    let Some(Kind::ParticipantRemoved(removed)) = &event.kind else { return };
    let slots: Vec<Slot> = state
        .topic
        .members()
        .filter(|(_, member)| member.connection.user.as_str() == removed.user)
        .map(|(slot, _)| slot)
        .collect();
    for slot in slots {
        if let Some(member) = state.topic.leave(slot) {
            member.connection.signal(Signal::Removed(conversation.clone()));
        }
    }
}
