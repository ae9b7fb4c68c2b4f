//! What is on its way to one client: queued frames, and the socket that carries them, if there is one now.
//!
//! Whoever queues may write. Without a socket, as while a client polls, frames wait for whoever asks for them.

use crate::core::outbox::{Outbox, Urgency};
use crate::core::tracker::Tracker;
use crate::frame;
use crate::writer::Writer;
use bytes::Bytes;
use carillon_proto::limits::{ENGINEIO_ANSWER_BYTES_MAX, ENGINEIO_ANSWER_PACKETS_MAX};
use carillon_runtime::time::steady_ms;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpStream;
use tokio::sync::Notify;

#[derive(Default)]
struct State {
    outbox: Outbox,
    writer: Writer,
    socket: Option<Arc<TcpStream>>,
    /// The WebSocket library writes now: nobody else may.
    held: bool,
    /// Of a client that can be recovered: how far it has heard. Under the same lock as the queue, so that offsets
    /// come in the order of the events.
    tracker: Option<Box<Tracker>>,
}

/// How far the queued frames got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// All were written.
    Done,
    /// The socket takes no more for now, or there is none.
    Blocked,
    /// The connection is broken.
    Broken,
}

/// How many of these frames go into one answer to a poll.
pub fn answer_length(frames: &[Bytes]) -> usize {
    let mut bytes = 0;
    let fits = |frame: &&Bytes| {
        bytes += frame.len();
        bytes <= ENGINEIO_ANSWER_BYTES_MAX
    };
    let fitting = frames.iter().take(ENGINEIO_ANSWER_PACKETS_MAX).take_while(fits).count();
    // One that is too large alone goes alone.
    fitting.max(frames.len().min(1))
}

/// Frames for one client, and when it was heard.
#[derive(Default)]
pub struct Outgoing {
    state: Mutex<State>,
    wake: Notify,
    /// By the steady clock, one more than that; 0 while nobody listens to the client.
    heard: AtomicU64,
}

impl Outgoing {
    /// Frames that are written to this socket.
    pub fn to(socket: Arc<TcpStream>) -> Outgoing {
        let state = State { socket: Some(socket), ..State::default() };
        Outgoing { state: Mutex::new(state), ..Outgoing::default() }
    }

    /// The client gave a sign of life, or somebody begins to listen for one.
    pub fn heard(&self) {
        self.heard.store(steady_ms() + 1, Ordering::Relaxed);
    }

    /// Whether somebody listens to the client from now on.
    pub fn listens(&self, listens: bool) {
        let listened = self.heard.load(Ordering::Relaxed) > 0;
        match (listened, listens) {
            (true, false) => self.heard.store(0, Ordering::Relaxed),
            (false, true) => self.heard(),
            _ => {}
        }
    }

    /// When the client was heard last, or somebody began to listen to it; `None` while nobody does.
    pub fn heard_ms(&self) -> Option<u64> {
        self.heard.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Queues a frame; `None` when it was not taken, `Some(true)` when it is the first that waits.
    fn queue(&self, frame: &Bytes, urgency: Urgency) -> Option<bool> {
        let State { outbox, tracker, .. } = &mut *self.state.lock();
        match tracker {
            None => outbox.offer(frame, urgency),
            Some(tracker) => outbox.offer(&tracker.stamp(frame, steady_ms()), urgency),
        }
    }

    /// Queues the frames of a durable event for the subscription at `place`, which matters only for a client that
    /// can be recovered; `false` when they were not taken.
    pub fn queue_event(&self, frames: &Bytes, urgency: Urgency, place: u32, seq: u64) -> bool {
        let State { outbox, tracker, .. } = &mut *self.state.lock();
        let Some(tracker) = tracker else { return outbox.offer(frames, urgency).is_some() };
        let (stamped, before) = tracker.stamp_event(place, seq, frames, steady_ms());
        let taken = stamped.is_empty() || outbox.offer(&stamped, urgency).is_some();
        if !taken {
            tracker.take_back(&before);
        }
        taken
    }

    /// How far the client has heard is written behind its events from now on, or no more.
    pub fn track(&self, tracker: Option<Tracker>) {
        self.state.lock().tracker = tracker.map(Box::new);
    }

    /// Asks or changes how far the client has heard; `None` where that is not followed.
    pub fn tracked<T>(&self, ask: impl FnOnce(&mut Tracker) -> T) -> Option<T> {
        self.state.lock().tracker.as_deref_mut().map(ask)
    }

    /// Queues a frame and wakes the connection's own task; `false` when it was not taken.
    pub fn offer(&self, frame: &Bytes, urgency: Urgency) -> bool {
        let taken = self.queue(frame, urgency);
        if taken == Some(true) {
            self.wake.notify_one();
        }
        taken.is_some()
    }

    /// Writes what is queued, as far as the socket takes it. What it does not take is left to the connection's
    /// own task.
    pub fn flush(&self) -> Flushed {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.held {
            return Flushed::Done;
        }
        let Some(socket) = &state.socket else {
            return if state.outbox.is_empty() { Flushed::Done } else { Flushed::Blocked };
        };
        loop {
            let written = if !state.writer.is_empty() {
                state.writer.write(socket)
            } else if let Some(frame) = state.outbox.take_only() {
                state.writer.write_one(socket, frame)
            } else if state.outbox.is_empty() {
                return Flushed::Done;
            } else {
                state.writer.take(state.outbox.drain());
                state.writer.write(socket)
            };
            match written {
                Ok(true) => {}
                Ok(false) => return Flushed::Blocked,
                Err(_) => return Flushed::Broken,
            }
        }
    }

    /// Writes what a delivery queued; the connection's own task is woken only where that fails.
    pub fn flush_delivery(&self) {
        if self.flush() != Flushed::Done {
            self.wake.notify_one();
        }
    }

    /// Frames are written to this socket from now on.
    pub fn attach(&self, socket: Arc<TcpStream>) {
        self.state.lock().socket = Some(socket);
    }

    /// The socket that carries frames now.
    pub fn socket(&self) -> Option<Arc<TcpStream>> {
        self.state.lock().socket.clone()
    }

    /// Keeps everybody else from writing, so that the WebSocket library can; `false` while a frame is half
    /// written. Ended by [`Outgoing::release`].
    pub fn hold(&self) -> bool {
        let mut state = self.state.lock();
        state.held = state.writer.is_empty();
        state.held
    }

    /// Ends a [`Outgoing::hold`].
    pub fn release(&self) {
        self.state.lock().held = false;
    }

    /// Wakes the connection's own task.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until something is queued or the task is woken for another reason.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes all queued frames that are not on their way yet.
    pub fn drain(&self) -> VecDeque<Bytes> {
        self.state.lock().outbox.drain()
    }

    /// Takes queued frames of together at most `bytes_max`, and one at least if any waits.
    pub fn drain_up_to(&self, bytes_max: usize) -> Vec<Bytes> {
        self.state.lock().outbox.drain_up_to(bytes_max)
    }

    /// Takes frames of at most so many packets, for an answer to a poll.
    pub fn drain_answer(&self) -> Vec<Bytes> {
        let mut state = self.state.lock();
        let mut frames = frame::split(&state.outbox.drain_up_to(ENGINEIO_ANSWER_BYTES_MAX));
        let rest = frames.split_off(answer_length(&frames));
        state.outbox.put_back(rest);
        frames
    }

    /// Puts frames back that were taken out, in front of what was queued since.
    pub fn put_back(&self, frames: Vec<Bytes>) {
        self.state.lock().outbox.put_back(frames);
    }

    /// Whether nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        self.state.lock().outbox.is_empty()
    }

    /// Whether more events may be queued without filling the outbox.
    pub fn has_room(&self) -> bool {
        self.state.lock().outbox.has_room()
    }

    /// Refuses events until what is queued has gone elsewhere, or takes them again.
    pub fn seal(&self, sealed: bool) {
        self.state.lock().outbox.seal(sealed);
    }

    /// Nothing is queued from now on.
    pub fn close(&self) {
        self.state.lock().outbox.close();
    }
}
