//! A connection as the rest of the gateway sees it: somebody to queue frames for and to signal.

use crate::core::outbox::{Outbox, Urgency};
use crate::core::topic::Hearer;
use crate::hub::Room;
use bytes::Bytes;
use carillon_proto::code::Close;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::limits::UNANSWERED_COMMANDS_MAX;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// What somebody else wants the connection's own task to do.
#[derive(Debug)]
pub enum Signal {
    /// It fell behind in this conversation and must read on from its cursor.
    Behind(Arc<Room>),
    /// The user was removed from this conversation.
    Removed(ConversationId),
    /// End, for this reason, after what is queued.
    Close(Close),
}

/// One client's connection, shared between its own task and all who have something for it.
pub struct Connection {
    /// Unique in this gateway's life.
    pub id: u64,
    /// Who it is.
    pub user: UserId,
    /// How the user is shown.
    pub name: Arc<str>,
    outbox: Mutex<Outbox>,
    signals: Mutex<Vec<Signal>>,
    unanswered: AtomicUsize,
    wake: Notify,
}

impl Connection {
    /// A connection with nothing queued.
    pub fn new(id: u64, user: UserId, name: Arc<str>) -> Connection {
        Connection {
            id,
            user,
            name,
            outbox: Mutex::default(),
            signals: Mutex::default(),
            unanswered: AtomicUsize::new(0),
            wake: Notify::new(),
        }
    }

    /// Queues a frame; `false` when it was not taken.
    pub fn offer(&self, frame: &Bytes, urgency: Urgency) -> bool {
        let taken = self.outbox.lock().offer(frame, urgency);
        if taken == Some(true) {
            self.wake.notify_one();
        }
        taken.is_some()
    }

    /// Asks the connection's task for something.
    pub fn signal(&self, signal: Signal) {
        self.signals.lock().push(signal);
        self.wake.notify_one();
    }

    /// Waits until something is queued or signalled.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes all queued frames.
    pub fn drain(&self) -> VecDeque<Bytes> {
        self.outbox.lock().drain()
    }

    /// Takes all signals.
    pub fn signals(&self) -> Vec<Signal> {
        std::mem::take(&mut *self.signals.lock())
    }

    /// Whether more events may be queued without filling the outbox.
    pub fn has_room(&self) -> bool {
        self.outbox.lock().has_room()
    }

    /// Nothing is queued from now on.
    pub fn close(&self) {
        self.outbox.lock().close();
    }

    /// A command waits for its outcome.
    pub fn command_sent(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// A command's outcome is known.
    pub fn command_answered(&self) {
        if self.unanswered.fetch_sub(1, Ordering::Relaxed) == UNANSWERED_COMMANDS_MAX {
            self.wake.notify_one();
        }
    }

    /// Whether so many commands wait that no more are read.
    pub fn is_busy(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= UNANSWERED_COMMANDS_MAX
    }
}

impl Hearer for Arc<Connection> {
    fn hear(&self, frames: &Bytes) -> bool {
        self.offer(frames, Urgency::Event)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("id", &self.id).field("user", &self.user).finish_non_exhaustive()
    }
}
