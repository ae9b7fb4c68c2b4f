//! A subscription's queue: bounded in messages and bytes, it never blocks who fills it, and it says where
//! something is missing.

use super::{Incoming, Message};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;

/// Messages that wait in one subscription: a tenth of a second at the highest rate a gateway is built for.
pub(crate) const MAILBOX_MESSAGES_MAX: usize = 4_096;
/// Bytes that wait in one subscription: 64 messages of the largest size.
pub(crate) const MAILBOX_BYTES_MAX: usize = 64 * carillon_proto::limits::BUS_MESSAGE_BYTES_MAX;

/// What an empty message takes, so that messages without payload count too.
const MESSAGE_OVERHEAD_BYTES: usize = 64;

#[derive(Default)]
struct State {
    waiting: VecDeque<Incoming>,
    bytes: usize,
    /// Nothing more comes.
    ended: bool,
    /// Nobody reads any more.
    abandoned: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Notify,
}

/// The end of a subscription that is filled. Dropping it ends the subscription: what waits is still read.
pub struct Filler(Arc<Shared>);

/// The end that is read. Dropping it discards what waits.
pub(crate) struct Mailbox(Arc<Shared>);

/// Both ends of a new mailbox.
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

    /// One mark stands for everything that is missing at its place, so that marks never pile up.
    fn mark_lost(&mut self) {
        if !matches!(self.waiting.back(), Some(Incoming::Lost)) {
            self.waiting.push_back(Incoming::Lost);
        }
    }

    fn take(&mut self) -> Option<Incoming> {
        let incoming = self.waiting.pop_front()?;
        self.bytes -= size_bytes(&incoming);
        Some(incoming)
    }
}

impl Filler {
    /// Adds a message; one that has no room is replaced by a mark.
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

    /// Says that messages may be missing here.
    pub fn lost(&self) {
        self.0.state.lock().mark_lost();
        self.0.arrived.notify_one();
    }

    /// Whether a message of this payload would be taken now.
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
    /// The next message or mark; `None` at the end. Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Incoming> {
        // A mailbox that is never empty must not keep its reader's thread from everybody else.
        consume_budget().await;
        loop {
            {
                let mut state = self.0.state.lock();
                if let Some(incoming) = state.take() {
                    return Some(incoming);
                }
                if state.ended {
                    return None;
                }
            }
            self.0.arrived.notified().await;
        }
    }

    /// What is there already.
    pub(crate) fn try_next(&mut self) -> Option<Incoming> {
        self.0.state.lock().take()
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
        // Outside the lock: it may hold thousands of reply handles, each of which wakes a task.
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
    fn what_has_no_room_leaves_one_mark_in_its_place() {
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
    fn bytes_are_bounded_and_given_back() {
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
    async fn ends_of_a_mailbox_notice_each_other() {
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
