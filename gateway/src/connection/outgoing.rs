//! The frames that are under way to one client, and the socket that carries them.
//!
//! Any task may queue a frame and write to the socket. Without a socket, as while a client polls, frames wait until a
//! poll takes them.

use crate::connection::frame;
use crate::connection::writer::Writer;
use crate::core::outbox::{Outbox, Urgency};
use crate::core::tracker::Tracker;
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
    /// The WebSocket library writes now, so no other task may.
    held: bool,
    /// For a client that can be recovered: how far it has received its conversations. It has the same lock as the
    /// queue, so that offsets follow the order of the events.
    tracker: Option<Box<Tracker>>,
}

/// How far [`Outgoing::flush`] got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// All queued frames were written.
    Done,
    /// The socket takes no more for now, or there is no socket.
    Blocked,
    /// The connection is broken.
    Broken,
}

/// How many of these frames fit into one answer to a poll.
pub fn answer_length(frames: &[Bytes]) -> usize {
    let mut bytes = 0;
    let fits = |frame: &&Bytes| {
        bytes += frame.len();
        bytes <= ENGINEIO_ANSWER_BYTES_MAX
    };
    let fitting = frames.iter().take(ENGINEIO_ANSWER_PACKETS_MAX).take_while(fits).count();
    // A frame that exceeds the limit by itself is sent alone.
    fitting.max(frames.len().min(1))
}

/// The queue of frames for one client, and when the client last gave a sign of life.
#[derive(Default)]
pub struct Outgoing {
    state: Mutex<State>,
    wake: Notify,
    /// Time of the last sign of life on the steady clock, in milliseconds, plus one; 0 while the connection is not
    /// read.
    last_activity: AtomicU64,
}

impl Outgoing {
    /// A queue whose frames are written to this socket.
    pub fn to(socket: Arc<TcpStream>) -> Outgoing {
        let state = State { socket: Some(socket), ..State::default() };
        Outgoing { state: Mutex::new(state), ..Outgoing::default() }
    }

    /// Notes a sign of life of the client, or that reading begins.
    pub fn note_activity(&self) {
        self.last_activity.store(steady_ms() + 1, Ordering::Relaxed);
    }

    /// Notes whether the connection is read from now on.
    pub fn set_reading(&self, reading: bool) {
        let was_reading = self.last_activity.load(Ordering::Relaxed) > 0;
        match (was_reading, reading) {
            (true, false) => self.last_activity.store(0, Ordering::Relaxed),
            (false, true) => self.note_activity(),
            _ => {}
        }
    }

    /// When the client last gave a sign of life, or reading began, in milliseconds of the steady clock; `None` while
    /// the connection is not read.
    pub fn last_activity_ms(&self) -> Option<u64> {
        self.last_activity.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Queues a frame without waking a task: the caller flushes it. `None` if it was not taken; `Some(true)` if no
    /// other frame was waiting.
    pub fn queue(&self, frame: &Bytes, urgency: Urgency) -> Option<bool> {
        let State { outbox, tracker, .. } = &mut *self.state.lock();
        match tracker {
            None => outbox.offer(frame, urgency),
            Some(tracker) => outbox.offer(&tracker.stamp(frame, steady_ms()), urgency),
        }
    }

    /// Queues the frames of a durable event. `place` is the subscription's place in the tracker and matters only for a
    /// client that can be recovered. Returns `false` if the frames were not taken.
    pub fn queue_event(&self, frames: &Bytes, urgency: Urgency, place: u32, seq: u64) -> bool {
        let State { outbox, tracker, .. } = &mut *self.state.lock();
        let Some(tracker) = tracker else { return outbox.offer(frames, urgency).is_some() };
        let (stamped, before) = tracker.stamp_event(place, seq, frames, steady_ms());
        let taken = stamped.is_empty() || outbox.offer(&stamped, urgency).is_some();
        if !taken {
            tracker.roll_back(&before);
        }
        taken
    }

    /// Sets or removes the tracker. With one, each event's frames carry the offset that the client has reached.
    pub fn track(&self, tracker: Option<Tracker>) {
        self.state.lock().tracker = tracker.map(Box::new);
    }

    /// Calls `apply` with the tracker; `None` if there is none.
    pub fn tracked<T>(&self, apply: impl FnOnce(&mut Tracker) -> T) -> Option<T> {
        self.state.lock().tracker.as_deref_mut().map(apply)
    }

    /// Queues a frame and wakes the connection's own task. Returns `false` if the frame was not taken.
    pub fn offer(&self, frame: &Bytes, urgency: Urgency) -> bool {
        let taken = self.queue(frame, urgency);
        if taken == Some(true) {
            self.wake.notify_one();
        }
        taken.is_some()
    }

    /// Writes queued frames until the socket takes no more. The rest is left to the connection's own task.
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
            } else if let Some(frame) = state.outbox.pop_only() {
                state.writer.write_one(socket, frame)
            } else if state.outbox.is_empty() {
                return Flushed::Done;
            } else {
                state.writer.set_frames(state.outbox.drain());
                state.writer.write(socket)
            };
            match written {
                Ok(true) => {}
                Ok(false) => return Flushed::Blocked,
                Err(_) => return Flushed::Broken,
            }
        }
    }

    /// Writes the frames of a delivery. Wakes the connection's own task only if not everything could be written.
    pub fn flush_delivery(&self) {
        if self.flush() != Flushed::Done {
            self.wake.notify_one();
        }
    }

    /// Sets the socket to which frames are written from now on.
    pub fn attach(&self, socket: Arc<TcpStream>) {
        self.state.lock().socket = Some(socket);
    }

    /// The current socket.
    pub fn socket(&self) -> Option<Arc<TcpStream>> {
        self.state.lock().socket.clone()
    }

    /// Keeps other tasks from writing until [`Outgoing::release`], so that the WebSocket library can write. Returns
    /// `false` while a frame is half written.
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

    /// Waits until a frame is queued or the task is woken for another reason.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes all queued frames. A frame that is half written stays with the writer.
    pub fn drain(&self) -> VecDeque<Bytes> {
        self.state.lock().outbox.drain()
    }

    /// Takes queued frames of at most `bytes_max` bytes in total, but at least one if there is any.
    pub fn drain_up_to(&self, bytes_max: usize) -> Vec<Bytes> {
        self.state.lock().outbox.drain_up_to(bytes_max)
    }

    /// Takes the frames of one answer to a poll, within the limits of bytes and packets.
    pub fn drain_answer(&self) -> Vec<Bytes> {
        let mut state = self.state.lock();
        let mut frames = frame::split(&state.outbox.drain_up_to(ENGINEIO_ANSWER_BYTES_MAX));
        let rest = frames.split_off(answer_length(&frames));
        state.outbox.put_back(rest);
        frames
    }

    /// Puts taken frames back, in front of later ones.
    pub fn put_back(&self, frames: Vec<Bytes>) {
        self.state.lock().outbox.put_back(frames);
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.state.lock().outbox.is_empty()
    }

    /// Whether the queue is filled to less than half, so that a page of events may be queued.
    pub fn has_room(&self) -> bool {
        self.state.lock().outbox.has_room()
    }

    /// Starts or stops refusing events. A session that moves to another gateway reads refused events again there.
    pub fn seal(&self, sealed: bool) {
        self.state.lock().outbox.seal(sealed);
    }

    /// Drops all queued frames and takes none from now on.
    pub fn close(&self) {
        self.state.lock().outbox.close();
    }
}
