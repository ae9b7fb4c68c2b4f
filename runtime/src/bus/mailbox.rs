//! A subscription's queue. It is bounded in messages and bytes, never blocks the sender, and marks the places where
//! messages were dropped.

use super::{Incoming, Message};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;

/// Most messages that wait in one subscription: 0.1 s of traffic at the highest rate a gateway is built for.
pub(crate) const MAILBOX_MESSAGES_MAX: usize = 4_096;
/// Most bytes that wait in one subscription: 64 messages of the largest size.
pub(crate) const MAILBOX_BYTES_MAX: usize = 64 * carillon_proto::limits::BUS_MESSAGE_BYTES_MAX;

/// Counted for each message besides its payload, so that messages without payload count too.
const MESSAGE_OVERHEAD_BYTES: usize = 64;

#[derive(Default)]
struct State {
    waiting: VecDeque<Incoming>,
    bytes: usize,
    /// The filler was dropped: no more messages are added.
    ended: bool,
    /// The mailbox was dropped: no more messages are read.
    abandoned: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Notify,
}

/// The writing end of a mailbox. Dropping it ends the subscription after the waiting messages were read.
pub struct Filler(Arc<Shared>);

/// The reading end of a mailbox. Dropping it discards the waiting messages.
pub(crate) struct Mailbox(Arc<Shared>);

pub(crate) fn mailbox() -> (Filler, Mailbox) {
    let shared = Arc::<Shared>::default();
    (Filler(shared.clone()), Mailbox(shared))
}

fn size_bytes(incoming: &Incoming) -> usize {
    match incoming {
        Incoming::Message(message) => message.payload.len() + MESSAGE_OVERHEAD_BYTES,
        Incoming::Lost => 0,
    }
}

impl State {
    fn has_room(&self, bytes: usize) -> bool {
        self.waiting.len() < MAILBOX_MESSAGES_MAX && self.bytes + bytes <= MAILBOX_BYTES_MAX
    }

    /// One mark stands for all messages missing at its place, so the number of marks is bounded.
    fn mark_lost(&mut self) {
        if !matches!(self.waiting.back(), Some(Incoming::Lost)) {
            self.waiting.push_back(Incoming::Lost);
        }
    }

    fn pop(&mut self) -> Option<Incoming> {
        let incoming = self.waiting.pop_front()?;
        self.bytes -= size_bytes(&incoming);
        Some(incoming)
    }
}

impl Filler {
    /// Adds a message. If there is no room for it, a mark is added instead.
    pub fn push(&self, message: Message) {
        let incoming = Incoming::Message(message);
        let bytes = size_bytes(&incoming);
        {
            let mut state = self.0.state.lock();
            if state.abandoned {
                return;
            }
            if state.has_room(bytes) {
                state.bytes += bytes;
                state.waiting.push_back(incoming);
            } else {
                state.mark_lost();
            }
        }
        self.0.arrived.notify_one();
    }

    /// Marks that messages may be missing here.
    pub fn lost(&self) {
        self.0.state.lock().mark_lost();
        self.0.arrived.notify_one();
    }

    /// Whether a message with this payload would fit now.
    pub(crate) fn has_room(&self, payload_bytes: usize) -> bool {
        self.0.state.lock().has_room(payload_bytes + MESSAGE_OVERHEAD_BYTES)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.arrived.notify_one();
    }
}

impl Mailbox {
    /// Waits for the next message or mark; `None` at the end. Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Incoming> {
        // The reader of a mailbox that is never empty must let other tasks of its thread run.
        consume_budget().await;
        loop {
            {
                let mut state = self.0.state.lock();
                if let Some(incoming) = state.pop() {
                    return Some(incoming);
                }
                if state.ended {
                    return None;
                }
            }
            self.0.arrived.notified().await;
        }
    }

    /// The next message or mark, if there is one already.
    pub(crate) fn try_next(&mut self) -> Option<Incoming> {
        self.0.state.lock().pop()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let discarded = {
            let mut state = self.0.state.lock();
            state.abandoned = true;
            state.bytes = 0;
            std::mem::take(&mut state.waiting)
        };
        // Dropped outside the lock: the queue may hold thousands of reply handles, and dropping each wakes a task.
        drop(discarded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(bytes: usize) -> Message {
        Message { payload: Bytes::from(vec![7; bytes]), reply: None }
    }

    fn read_all(mailbox: &mut Mailbox) -> (usize, usize) {
        let (mut messages, mut marks) = (0, 0);
        while let Some(incoming) = mailbox.try_next() {
            match incoming {
                Incoming::Message(_) => messages += 1,
                Incoming::Lost => marks += 1,
            }
        }
        (messages, marks)
    }

    #[test]
    fn messages_without_room_leave_one_mark_in_their_place() {
        let (filler, mut mailbox) = mailbox();
        for _ in 0..MAILBOX_MESSAGES_MAX + 10 {
            filler.push(message(1));
        }
        assert!(!filler.has_room(1));
        assert!(matches!(mailbox.try_next(), Some(Incoming::Message(_))));
        assert!(matches!(mailbox.try_next(), Some(Incoming::Message(_))));
        filler.push(message(1));
        let mut kinds = Vec::new();
        while let Some(incoming) = mailbox.try_next() {
            kinds.push(matches!(incoming, Incoming::Lost));
        }
        assert_eq!(kinds.len(), MAILBOX_MESSAGES_MAX);
        assert_eq!(kinds.iter().position(|lost| *lost), Some(MAILBOX_MESSAGES_MAX - 2));
        assert_eq!(kinds.last(), Some(&false));
    }

    #[test]
    fn waiting_bytes_are_bounded_and_released_by_reading() {
        let (filler, mut mailbox) = mailbox();
        let large = MAILBOX_BYTES_MAX / 4;
        for _ in 0..8 {
            filler.push(message(large));
        }
        assert_eq!(read_all(&mut mailbox), (3, 1));
        for _ in 0..2 {
            filler.push(message(large));
        }
        assert_eq!(read_all(&mut mailbox), (2, 0));
    }

    #[tokio::test]
    async fn each_end_of_a_mailbox_notices_that_the_other_was_dropped() {
        let (filler, mut one) = mailbox();
        filler.push(message(1));
        filler.lost();
        filler.lost();
        drop(filler);
        assert!(matches!(one.next().await, Some(Incoming::Message(_))));
        assert!(matches!(one.next().await, Some(Incoming::Lost)));
        assert!(one.next().await.is_none());

        let (filler, other) = mailbox();
        drop(other);
        filler.push(message(1));
        assert!(filler.0.state.lock().waiting.is_empty());
    }
}
