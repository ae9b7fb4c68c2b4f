//! A connection as the rest of the gateway sees it: somebody to queue frames for and to signal.

use crate::core::outbox::{Outbox, Urgency};
use crate::core::topic::Hearer;
use crate::hub::Room;
use crate::writer::Writer;
use bytes::Bytes;
use carillon_proto::code::Close;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::limits::UNANSWERED_COMMANDS_MAX;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::net::TcpStream;
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

/// What is on its way to a client.
#[derive(Default)]
struct Outgoing {
    outbox: Outbox,
    writer: Writer,
    /// The WebSocket library writes now: nobody else may.
    held: bool,
}

/// How far the queued frames got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// All were written.
    Done,
    /// The socket takes no more for now.
    Blocked,
    /// The connection is broken.
    Broken,
}

/// One client's connection, shared between its own task and all who have something for it.
pub struct Connection {
    /// Unique in this gateway's life.
    pub id: u64,
    /// Who it is.
    pub user: UserId,
    /// How the user is shown.
    pub name: Arc<str>,
    /// Where its frames are written.
    stream: Arc<TcpStream>,
    outgoing: Mutex<Outgoing>,
    /// Events were queued that nobody has written yet.
    touched: AtomicBool,
    signals: Mutex<Vec<Signal>>,
    unanswered: AtomicUsize,
    wake: Notify,
}

impl Connection {
    /// A connection with nothing queued.
    pub fn new(id: u64, user: UserId, name: Arc<str>, stream: Arc<TcpStream>) -> Connection {
        Connection {
            id,
            user,
            name,
            stream,
            outgoing: Mutex::default(),
            touched: AtomicBool::new(false),
            signals: Mutex::default(),
            unanswered: AtomicUsize::new(0),
            wake: Notify::new(),
        }
    }

    /// Queues a frame; `false` when it was not taken.
    pub fn offer(&self, frame: &Bytes, urgency: Urgency) -> bool {
        let taken = self.outgoing.lock().outbox.offer(frame, urgency);
        if taken == Some(true) {
            self.wake.notify_one();
        }
        taken.is_some()
    }

    /// Writes what is queued, as far as the socket takes it. What it does not take is left to the connection's
    /// own task.
    pub fn flush(&self) -> Flushed {
        let mut outgoing = self.outgoing.lock();
        if outgoing.held {
            return Flushed::Done;
        }
        loop {
            if outgoing.writer.is_empty() {
                let frames = outgoing.outbox.drain();
                if frames.is_empty() {
                    return Flushed::Done;
                }
                outgoing.writer.take(frames);
            }
            match outgoing.writer.write(&self.stream) {
                Ok(true) => {}
                Ok(false) => return Flushed::Blocked,
                Err(_) => return Flushed::Broken,
            }
        }
    }

    /// Whether events were queued since the last time this was asked.
    pub fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }

    /// Writes the events that a delivery queued; the connection's own task is woken only where that fails.
    pub fn flush_delivery(&self) {
        if self.flush() != Flushed::Done {
            self.wake.notify_one();
        }
    }

    /// Keeps everybody else from writing, so that the WebSocket library can; `false` while a frame is half
    /// written. Ended by [`Connection::release`].
    pub fn hold(&self) -> bool {
        let mut outgoing = self.outgoing.lock();
        outgoing.held = outgoing.writer.is_empty();
        outgoing.held
    }

    /// Ends a [`Connection::hold`].
    pub fn release(&self) {
        self.outgoing.lock().held = false;
    }

    /// Waits until the socket takes more.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn writable(&self) -> std::io::Result<()> {
        self.stream.writable().await
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

    /// Takes all queued frames that are not on their way yet.
    pub fn drain(&self) -> VecDeque<Bytes> {
        self.outgoing.lock().outbox.drain()
    }

    /// Takes all signals.
    pub fn signals(&self) -> Vec<Signal> {
        std::mem::take(&mut *self.signals.lock())
    }

    /// Whether more events may be queued without filling the outbox.
    pub fn has_room(&self) -> bool {
        self.outgoing.lock().outbox.has_room()
    }

    /// Nothing is queued from now on.
    pub fn close(&self) {
        self.outgoing.lock().outbox.close();
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
    /// Nobody is woken: whoever delivers writes at the end of the delivery (see [`crate::hub`]).
    fn hear(&self, frames: &Bytes) -> bool {
        let taken = self.outgoing.lock().outbox.offer(frames, Urgency::Event).is_some();
        self.touched.store(true, Ordering::Relaxed);
        taken
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("id", &self.id).field("user", &self.user).finish_non_exhaustive()
    }
}
