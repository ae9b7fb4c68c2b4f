//! Joining and leaving a conversation: registration with the partition's owner, presence, and the member's cursor.

use crate::connection::{Connection, Member, Signal};
use crate::core::outbox::Urgency;
use crate::core::topic::Slot;
use crate::core::tracker::Tracker;
use crate::delivery::dialect::{CommandOrigin, Dialect};
use crate::delivery::hub::{Room, RoomState, Seen};
use crate::session::recovery::notify_recovery_pending;
use crate::session::{WorkResult, reply_to};
use crate::shared::Shared;
use carillon_proto::code::{Close, ErrorCode, Failure};
use carillon_proto::dialect::socketio::vocabulary::Vocabulary;
use carillon_proto::event::Reply;
use carillon_proto::id::ConversationId;
use carillon_proto::limits::PRESENCE_PARTICIPANTS_MAX;
use carillon_proto::wire::{
    self, Authority, presence_change::Body as Change, presence_result::Body as Outcome,
};
use std::sync::Arc;

/// The result of a successful join.
pub struct Entered {
    pub room: Arc<Room>,
    pub dialect: Dialect,
    pub slot: Slot,
}

/// The subscription in the recovery record of a client that can be recovered.
struct Recorded {
    vocabulary: Vocabulary,
    /// The subscription begins above this seq.
    seq: u64,
    /// The subscription's place in the tracker, if it has one already.
    place: Option<u32>,
    /// The presence-worker has stored it.
    stored: bool,
}

/// A join that is under way.
pub struct JoinRequest {
    pub shared: Arc<Shared>,
    pub connection: Arc<Connection>,
    pub conversation: ConversationId,
    /// The last seq that the client has; `None` to receive only new events.
    pub after_seq: Option<u64>,
    /// What entitles the user to join.
    pub authority: Authority,
    /// The room and slot of the same subscription, if the client has joined before.
    pub already: Option<(Arc<Room>, Slot)>,
    /// Where the command came from, which decides the form of the reply.
    pub origin: CommandOrigin,
}

impl JoinRequest {
    /// Joins, and queues the reply or the refusal.
    pub async fn run(self) -> WorkResult {
        let held = self.shared.hold(&self.conversation);
        let entered = match self.register(&held.room).await {
            Ok(since) => self.enter(&held.room, since).await,
            Err(failure) => Err(failure),
        };
        match entered {
            Ok(entered) => WorkResult::Entered(entered),
            Err(failure) => {
                crate::metrics::ERRORS.inc();
                self.refuse(failure);
                WorkResult::Replied
            }
        }
    }

    /// Registers the conversation with its owner and checks the user's right. Returns the seq from which the right
    /// holds.
    async fn register(&self, room: &Room) -> Result<u64, Failure> {
        let check = (self.authority == Authority::Participant).then(|| self.connection.user.clone());
        self.shared.links[room.partition as usize].join(room, check).await
    }

    fn refuse(&self, failure: Failure) {
        match self.origin {
            CommandOrigin::Restored(dialect) => {
                refuse_restored(&self.shared, &self.connection, &self.conversation, dialect, &failure);
            }
            _ => reply_to(&self.connection, &Reply::Error(failure), &self.origin),
        }
    }

    async fn enter(&self, room: &Arc<Room>, since: u64) -> Result<Entered, Failure> {
        let entering = async {
            match &self.already {
                Some(_) => (room.lock().participants, Vec::new()),
                None => self.enter_presence(room).await,
            }
        };
        let ((participants, visible), recorded) = tokio::join!(entering, self.record(room));
        let before = self.shared.audience.seen_by(&self.connection, &visible);
        let entered = self.become_member(room, participants, recorded.as_ref(), since);
        if let Err(failure) = entered {
            // A session that is restored here and fails with `unavailable` is closed and restored elsewhere, so its
            // record keeps the subscription. Only `forbidden` removes it.
            if !matches!(self.origin, CommandOrigin::Restored(_)) || failure.code == ErrorCode::Forbidden {
                let dialect = self.origin.dialect();
                self.shared.recovery_unsubscribes(&self.connection, &self.conversation, dialect);
            }
            if self.already.is_none() {
                step_out(&self.shared, &self.connection, room, false);
            }
            return Err(failure);
        }
        if recorded.is_some_and(|recorded| !recorded.stored) {
            self.shared.renew_recovery(&self.connection);
        }
        if self.already.is_none() && self.shared.access.is_open(&self.conversation) {
            let user = &self.connection.user;
            if visible.iter().any(|other| other == user.as_str()) {
                self.shared.becomes_visible(room, user);
            }
            self.shared.sees(room, &self.connection, &visible, &before).await;
        }
        entered
    }

    /// Writes the subscription into the recovery record before the client gets the reply, with the seq above which it
    /// receives events. `None` if there is nothing to record.
    async fn record(&self, room: &Room) -> Option<Recorded> {
        let Dialect::SocketIo(vocabulary, _) = self.origin.dialect() else { return None };
        let outgoing = &self.connection.outgoing;
        let known = outgoing.tracked(|tracker| tracker.find(&self.conversation, vocabulary))?;
        let restored = matches!(self.origin, CommandOrigin::Restored(_));
        match (known, self.after_seq) {
            (Some(place), Some(seq)) if restored => {
                return Some(Recorded { vocabulary, seq, place: Some(place), stored: true });
            }
            (Some(_), None) => return None,
            // The client joins again at another seq, which is recorded as another subscription.
            (Some(_), Some(_)) => {
                let dialect = self.origin.dialect();
                self.shared.recovery_unsubscribes(&self.connection, &self.conversation, dialect);
            }
            (None, _) => {}
        }
        let seq = self.after_seq.unwrap_or_else(|| room.lock().topic.head().unwrap_or(0));
        let (connection, conversation) = (&self.connection, &self.conversation);
        let stored = self.shared.recovery_subscribes(connection, conversation, vocabulary, seq).await;
        Some(Recorded { vocabulary, seq, place: None, stored })
    }

    /// Queues the reply and sets the cursor under one lock. No event, and no removal of the user, can come between
    /// them.
    fn become_member(
        &self,
        room: &Arc<Room>,
        participants: u32,
        recorded: Option<&Recorded>,
        since: u64,
    ) -> Result<Entered, Failure> {
        let mut state = room.lock();
        let head_seq = state.topic.head().unwrap_or(0);
        let tracked = recorded.and_then(|recorded| {
            let Recorded { vocabulary, seq, place, .. } = recorded;
            let subscribe = |tracker: &mut Tracker| {
                place.or_else(|| tracker.subscribe(self.conversation.clone(), *vocabulary, *seq))
            };
            Some((self.connection.outgoing.tracked(subscribe)??, *seq))
        });
        // The record does not have the subscription yet, so the client is sent `recovery_pending` first.
        if recorded.is_some_and(|recorded| !recorded.stored) {
            notify_recovery_pending(&self.connection);
        }
        let (connection, dialect) = (self.connection.clone(), self.origin.dialect());
        let member = Member { connection, dialect, place: tracked.map_or(0, |(place, _)| place) };
        // An authority that the owner does not check holds as of the current head.
        let since = match self.authority {
            Authority::Participant => since,
            _ => head_seq,
        };
        state.admit(&member, since)?;
        let head_seq = tracked.filter(|_| self.after_seq.is_none()).map_or(head_seq, |(_, seq)| seq);
        let reply = Reply::Joined {
            conversation: self.conversation.clone(),
            head_seq,
            participant_count: participants,
        };
        self.connection.offer(&self.origin.encode_reply(&reply), Urgency::Reply);
        let earlier = self.already.as_ref().map(|(_, slot)| *slot);
        let earlier = earlier.filter(|slot| state.is_slot_of(*slot, &self.connection, dialect));
        if self.already.is_some() && earlier.is_none() {
            // The earlier subscription ended while this join was under way. The session counts it out (`step_out`) when
            // it handles that signal, so the new one is counted in here.
            if self.count_in(&mut state) {
                self.shared.announce_presence(self.arrival());
            }
        }
        let after_seq = tracked.map(|(_, seq)| seq).or(self.after_seq);
        let slot = match (earlier, after_seq) {
            (Some(slot), after_seq) if after_seq.is_none() || tracked.is_none() => {
                state.topic.rejoin(slot, after_seq, since);
                slot
            }
            (earlier, after_seq) => {
                earlier.into_iter().for_each(|slot| drop(state.topic.leave(slot)));
                state.topic.join(member, after_seq.unwrap_or(head_seq), since).0
            }
        };
        Ok(Entered { room: room.clone(), dialect, slot })
    }

    /// Counts the subscription in. Returns `true` if it is its user's first one in the room.
    fn count_in(&self, state: &mut RoomState) -> bool {
        let connections = state.users.entry(self.connection.user.clone()).or_insert(0);
        *connections += 1;
        *connections == 1
    }

    fn arrival(&self) -> Change {
        let (conversation, user) = (self.conversation.to_string(), self.connection.user.to_string());
        Change::RoomJoined(wire::RoomJoined { conversation, user })
    }

    /// Counts the subscription in and reports the user's first one in the room to the presence-worker. Returns how many
    /// users are in the room and which of them the joining user sees.
    async fn enter_presence(&self, room: &Arc<Room>) -> (u32, Vec<String>) {
        let first = self.count_in(&mut room.lock());
        if first && let Some(Outcome::Room(state)) = self.shared.request_presence(self.arrival()).await {
            return (state.participants, state.visible);
        }
        let mut state = room.lock();
        state.participants = state.participants.max(state.users.len() as u32);
        let present = state.visible.iter().filter(|(_, seen)| **seen == Seen::Present);
        let visible = present.take(PRESENCE_PARTICIPANTS_MAX).map(|(user, _)| user.to_string()).collect();
        (state.participants, visible)
    }
}

/// Refuses a join that restores a session's subscription and that the client did not send, so the client gets no error.
/// On `forbidden` the subscription ends, and the client gets a notice of that. On any other failure the connection is
/// closed, so that the client connects again.
pub fn refuse_restored(
    shared: &Shared,
    connection: &Connection,
    conversation: &ConversationId,
    dialect: Dialect,
    failure: &Failure,
) {
    if failure.code == ErrorCode::Forbidden {
        shared.recovery_unsubscribes(connection, conversation, dialect);
        connection.offer(&dialect.ended(conversation), Urgency::Reply);
    } else {
        connection.signal(Signal::Close(Close::Unavailable));
    }
}

/// Removes a subscription from its room. Does nothing if the topic already removed it, because the connection then gets
/// [`Signal::Ended`] and steps out when it handles that.
pub fn leave(
    shared: &Shared,
    connection: &Connection,
    room: &Arc<Room>,
    (dialect, slot): (Dialect, Slot),
    disconnected: bool,
) {
    {
        let mut state = room.lock();
        if !state.is_slot_of(slot, connection, dialect) {
            return;
        }
        state.topic.leave(slot);
    }
    step_out(shared, connection, room, disconnected);
}

/// Counts one of a connection's subscriptions out of a room. If it was the user's last one there, reports to the
/// presence-worker that the user left.
pub fn step_out(shared: &Shared, connection: &Connection, room: &Arc<Room>, disconnected: bool) {
    let last = {
        let mut state = room.lock();
        let last = match state.users.get_mut(&connection.user) {
            Some(connections) if *connections > 1 => {
                *connections -= 1;
                false
            }
            Some(_) => state.users.remove(&connection.user).is_some(),
            None => false,
        };
        if last {
            state.participants = state.participants.saturating_sub(1);
        }
        last
    };
    if last {
        let (conversation, user) = (room.conversation.to_string(), connection.user.to_string());
        shared.announce_presence(Change::RoomLeft(wire::RoomLeft { conversation, user, disconnected }));
        if shared.audience.leave_room(room, &connection.user, disconnected) {
            let user = connection.user.to_string();
            shared.announce_presence(Change::Unwatch(wire::Unwatch { user }));
        }
    }
    shared.let_go(room);
}
