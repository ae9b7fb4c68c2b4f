//! Typing, cursors and broadcasts: to local members at once, to other gateways through the conversation's
//! owner; and the end of typing that nobody renewed.

use crate::connection::Connection;
use crate::hub::Room;
use crate::shared::Shared;
use crate::wall;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::limits::TYPING_MS;
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

/// Events that wait to be passed on; above it they are dropped, as what is ephemeral may be.
const QUEUE_MAX: usize = 4_096;

/// Ends of typing that are due, soonest first. One entry per typist and start; bounded by the typing rate.
#[derive(Default)]
pub struct TypingEnds {
    due: Mutex<BinaryHeap<Reverse<(u64, ConversationId, UserId)>>>,
    changed: Notify,
}

/// Where ephemeral events are handed over for other gateways.
pub struct Passing(mpsc::Sender<wire::Ephemeral>);

/// Makes the handle and the queue that [`run`] serves.
pub fn passing() -> (Passing, mpsc::Receiver<wire::Ephemeral>) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    (Passing(sender), receiver)
}

/// Sends queued events to the owners of their conversations, those of one wake-up together.
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
    /// An event of a local connection: to the other local members, and on to the other gateways.
    pub fn send_ephemeral(&self, room: &Room, event: wire::Ephemeral, sender: u64) {
        show(room, &event, Some(sender));
        let _ = self.passing.0.try_send(event);
    }

    /// Events from another gateway.
    pub fn take_ephemeral(&self, batch: wire::EphemeralBatch) {
        for event in batch.events {
            let Some(room) = self.hub.room(&event.conversation) else { continue };
            let shown = match event.kind {
                Some(Kind::Typing(true)) => self.note_typing(&room, &event.user, &event.user_name),
                Some(Kind::Typing(false)) => room.lock().typists.stop(&event.user).is_some(),
                _ => true,
            };
            if shown {
                show(&room, &event, None);
            }
        }
    }

    /// A local user types or has stopped.
    pub fn typing(&self, room: &Room, user: &UserId, user_name: &str, typing: bool) {
        let shown = if typing {
            self.note_typing(room, user.as_str(), user_name)
        } else {
            room.lock().typists.stop(user.as_str()).is_some()
        };
        if shown {
            let event = typing_event(room, user.as_str(), user_name, typing);
            show(room, &event, None);
            let _ = self.passing.0.try_send(event);
        }
    }

    /// Notes a start; whether it is to be shown.
    fn note_typing(&self, room: &Room, user: &str, user_name: &str) -> bool {
        let Ok(user) = UserId::parse(user) else { return false };
        let now_ms = steady_ms();
        let (first, shown) = {
            let mut state = room.lock();
            let first = state.typists.ends_ms(user.as_str()).is_none();
            (first, state.typists.start(&user, user_name, now_ms))
        };
        if first {
            self.typing_ends.push(now_ms + TYPING_MS, room.conversation.clone(), user);
        }
        shown
    }
}

fn typing_event(room: &Room, user: &str, user_name: &str, typing: bool) -> wire::Ephemeral {
    wire::Ephemeral {
        conversation: room.conversation.to_string(),
        user: user.into(),
        user_name: user_name.into(),
        time_ms: wall::shown_ms(),
        kind: Some(Kind::Typing(typing)),
    }
}

/// Queues an event for a room's members: typing never for the typist, everything else not for the
/// connection that sent it.
fn show(room: &Room, event: &wire::Ephemeral, sender: Option<u64>) {
    let typing = matches!(event.kind, Some(Kind::Typing(_)));
    let hears = |member: &Connection| {
        if typing { member.user.as_str() != event.user } else { Some(member.id) != sender }
    };
    room.pass_on(event, hears);
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

    fn pop(&self, now_ms: u64) -> Result<(ConversationId, UserId), Option<u64>> {
        let mut due = self.due.lock();
        match due.peek() {
            Some(Reverse((at_ms, ..))) if *at_ms <= now_ms => {
                due.pop().map(|Reverse((_, conversation, user))| (conversation, user)).ok_or(None)
            }
            Some(Reverse((at_ms, ..))) => Err(Some(*at_ms - now_ms)),
            None => {
                due.shrink_to(64);
                Err(None)
            }
        }
    }
}

/// Ends typing that nobody renewed, on every gateway that shows it, so that a typist's gateway may die.
pub async fn end_typing(shared: Arc<Shared>) {
    loop {
        match shared.typing_ends.pop(steady_ms()) {
            Ok((conversation, user)) => end_if_due(&shared, conversation, user),
            Err(Some(wait_ms)) => {
                let sleep = tokio::time::sleep(Duration::from_millis(wait_ms));
                tokio::select! { () = sleep => {}, () = shared.typing_ends.changed.notified() => {} }
            }
            Err(None) => shared.typing_ends.changed.notified().await,
        }
    }
}

fn end_if_due(shared: &Shared, conversation: ConversationId, user: UserId) {
    let Some(room) = shared.hub.room(conversation.as_str()) else { return };
    let ends_ms = room.lock().typists.ends_ms(user.as_str());
    match ends_ms {
        Some(ends_ms) if ends_ms > steady_ms() => shared.typing_ends.push(ends_ms, conversation, user),
        Some(_) => {
            let name = room.lock().typists.stop(user.as_str()).unwrap_or_default();
            show(&room, &typing_event(&room, user.as_str(), &name, false), None);
        }
        None => {}
    }
}
