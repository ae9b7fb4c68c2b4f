//! Typing, cursors and broadcasts. They go to local members at once, and to other gateways through the conversation's
//! owner. A timer ends typing that is not renewed.

use crate::connection::Connection;
use crate::core::typing::{TypingInput, TypingUpdate, Typists};
use crate::delivery::hub::Room;
use crate::shared::Shared;
use crate::wall;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::wire::{self, ephemeral::Kind};
use carillon_proto::{partition, subject};
use carillon_runtime::time::steady_ms;
use parking_lot::Mutex;
use prost::Message;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Events that wait to be sent to owners. Above it new ones are dropped, which ephemeral events allow.
const QUEUE_MAX: usize = 4_096;

/// When a typist's state must be looked at, soonest first. Each typing command adds at most one entry, so the typing
/// rate bounds it.
#[derive(Default)]
pub struct TypingEnds {
    due: Mutex<BinaryHeap<Reverse<(u64, ConversationId, UserId)>>>,
    changed: Notify,
}

/// The queue of ephemeral events for other gateways.
pub struct Passing(mpsc::Sender<wire::Ephemeral>);

/// Makes the queue's handle and the receiver that [`run`] serves.
pub fn passing() -> (Passing, mpsc::Receiver<wire::Ephemeral>) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    (Passing(sender), receiver)
}

/// Sends queued events to the owners of their conversations, one batch per partition and wake-up.
pub async fn run(shared: Arc<Shared>, mut queue: mpsc::Receiver<wire::Ephemeral>) {
    while let Some(first) = queue.recv().await {
        let mut by_partition: BTreeMap<u32, Vec<wire::Ephemeral>> = BTreeMap::new();
        let mut next = Some(first);
        while let Some(event) = next.take().or_else(|| queue.try_recv().ok()) {
            let hash = partition::stable_hash(&event.conversation);
            by_partition.entry((hash % u64::from(shared.partitions)) as u32).or_default().push(event);
        }
        for (partition, events) in by_partition {
            let batch = wire::EphemeralBatch { gateway: shared.id.to_string(), events };
            let payload = batch.encode_to_vec().into();
            if let Err(error) = shared.bus.publish(&subject::ephemeral(partition), payload).await {
                tracing::debug!(partition, %error, "ephemeral events were not passed on");
            }
        }
    }
}

impl Shared {
    /// Sends a local connection's event to the other local members and to the other gateways.
    pub fn send_ephemeral(&self, room: &Room, event: wire::Ephemeral, sender: u64) {
        show(room, &event, Some(sender));
        let _ = self.passing.0.try_send(event);
    }

    /// Passes on events that came from another gateway.
    pub fn handle_ephemeral(&self, batch: wire::EphemeralBatch) {
        for event in batch.events {
            let Some(room) = self.delivery.hub.room(&event.conversation) else { continue };
            match event.kind {
                Some(Kind::Typing(typing)) => self.typing_elsewhere(&room, event, typing),
                _ => show(&room, &event, None),
            }
        }
    }

    fn typing_elsewhere(&self, room: &Room, event: wire::Ephemeral, typing: bool) {
        let Ok(user) = UserId::parse(&event.user) else { return };
        if !typing {
            // The typist's gateway already delayed this if the rate required it, so it takes effect at once.
            return self.end_typing(room, &user, false);
        }
        let input = TypingInput { typing, here: false, sent: event.sent.into() };
        self.typists(room, &user, |typists, now_ms| {
            typists.handle_input(&user, &event.user_name, input, now_ms)
        });
    }

    /// A local user starts, renews or stops typing.
    pub fn typing(&self, room: &Room, user: &UserId, user_name: &str, typing: bool) {
        let now_ms = steady_ms();
        let sent = if typing { self.directory.sent(user, &room.conversation, now_ms) } else { Vec::new() };
        let input = TypingInput { typing, here: true, sent: sent.into() };
        self.typists(room, user, |typists, now_ms| typists.handle_input(user, user_name, input, now_ms));
    }

    /// A typist leaves the conversation or disconnects, from this gateway (`here`) or from another.
    pub fn end_typing(&self, room: &Room, user: &UserId, here: bool) {
        self.typists(room, user, |typists, now_ms| typists.handle_leave(user.as_str(), here, now_ms));
    }

    /// Changes a typist's state in a room, and sends the resulting event to members and, if it began here, to other
    /// gateways.
    fn typists(
        &self,
        room: &Room,
        user: &UserId,
        change: impl FnOnce(&mut Typists, u64) -> Option<TypingUpdate>,
    ) {
        let (update, timeout_ms) = {
            let mut state = room.lock();
            let update = change(&mut state.typists, steady_ms());
            (update, state.typists.poll_timeout_ms(user.as_str()))
        };
        if let Some(timeout_ms) = timeout_ms {
            self.typing_ends.push(timeout_ms, room.conversation.clone(), user.clone());
        }
        let Some(update) = update else { return };
        let pass_on = update.pass_on;
        let event = typing_event(room, user.as_str(), update);
        show(room, &event, None);
        if pass_on {
            let _ = self.passing.0.try_send(event);
        }
    }
}

fn typing_event(room: &Room, user: &str, update: TypingUpdate) -> wire::Ephemeral {
    wire::Ephemeral {
        conversation: room.conversation.to_string(),
        user: user.into(),
        user_name: update.name.into(),
        time_ms: wall::shown_ms(),
        sent: update.sent.into(),
        kind: Some(Kind::Typing(update.typing)),
    }
}

/// Queues an event for a room's members. Typing is not sent to any connection of the typist, other events not to the
/// connection that sent them.
fn show(room: &Room, event: &wire::Ephemeral, sender: Option<u64>) {
    let typing = matches!(event.kind, Some(Kind::Typing(_)));
    let receives = |member: &Connection| {
        if typing { member.user.as_str() != event.user } else { Some(member.id) != sender }
    };
    room.pass_on(event, receives);
}

impl TypingEnds {
    fn push(&self, at_ms: u64, conversation: ConversationId, user: UserId) {
        let soonest = {
            let mut due = self.due.lock();
            due.push(Reverse((at_ms, conversation, user)));
            due.peek().is_some_and(|Reverse((first_ms, ..))| *first_ms == at_ms)
        };
        if soonest {
            self.changed.notify_one();
        }
    }

    fn pop(&self, now_ms: u64) -> Result<(u64, ConversationId, UserId), Option<u64>> {
        let mut due = self.due.lock();
        match due.peek() {
            Some(Reverse((at_ms, ..))) if *at_ms <= now_ms => due.pop().map(|Reverse(due)| due).ok_or(None),
            Some(Reverse((at_ms, ..))) => Err(Some(*at_ms - now_ms)),
            None => {
                due.shrink_to(64);
                Err(None)
            }
        }
    }
}

/// Handles typists' timers: sends states that were delayed, and ends typing that was not renewed. Every gateway does
/// this for the typists that it shows, so that typing ends even if the typist's gateway dies.
pub async fn end_typing(shared: Arc<Shared>) {
    loop {
        match shared.typing_ends.pop(steady_ms()) {
            Ok((timeout_ms, conversation, user)) => {
                if let Some(room) = shared.delivery.hub.room(conversation.as_str()) {
                    let due = |typists: &mut Typists, now_ms| {
                        typists.handle_timeout(user.as_str(), timeout_ms, now_ms)
                    };
                    shared.typists(&room, &user, due);
                }
            }
            Err(Some(wait_ms)) => {
                let sleep = tokio::time::sleep(Duration::from_millis(wait_ms));
                tokio::select! { () = sleep => {}, () = shared.typing_ends.changed.notified() => {} }
            }
            Err(None) => shared.typing_ends.changed.notified().await,
        }
    }
}
