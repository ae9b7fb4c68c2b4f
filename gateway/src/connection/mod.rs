//! One client's connection: a queue for frames to the client, and signals for the connection's own task.

pub(crate) mod drive;
pub mod frame;
pub mod outgoing;
pub(crate) mod stream;
pub(crate) mod writer;

use crate::connection::outgoing::Outgoing;
use crate::core::outbox::Urgency;
use crate::core::topic::Subscriber;
use crate::delivery::dialect::{Dialect, Namespace};
use crate::delivery::hub::{Encoded, Room};
use bytes::Bytes;
use carillon_proto::code::Close;
use carillon_proto::id::UserId;
use carillon_proto::limits::UNANSWERED_COMMANDS_MAX;
use carillon_proto::wire::event::Kind;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What other tasks request of the connection's own task.
#[derive(Debug)]
pub enum Signal {
    /// One of the connection's members fell behind in this conversation and must read on from its cursor.
    Behind(Arc<Room>),
    /// One of the connection's members, in this vocabulary, received the last event that it may receive. It is already
    /// removed from the room.
    Ended(Arc<Room>, Dialect),
    /// Send what is queued, then close for this reason.
    Close(Close),
}

/// Which kind of vocabulary a client uses, independent of its subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientProtocol {
    /// The native vocabulary.
    Native,
    /// One or more of Socket.IO's vocabularies, in this namespace.
    SocketIo(Namespace),
}

/// The users whom a connection's user sees because they share stored conversations.
#[derive(Debug, Default)]
pub enum Acquaintances {
    /// They have not been read yet.
    #[default]
    Unknown,
    /// These users, sorted. The connection watches them. One read returns a bounded number.
    Known(Arc<[UserId]>),
    /// The connection has ended and watches no users.
    Ended,
}

impl Acquaintances {
    /// The known users; none in the other states.
    pub fn users(&self) -> Arc<[UserId]> {
        match self {
            Self::Known(users) => users.clone(),
            Self::Unknown | Self::Ended => Arc::default(),
        }
    }
}

/// One client's connection. Its own task shares it with all tasks that send to the client.
pub struct Connection {
    /// Unique within this process.
    pub id: u64,
    /// The connection's user.
    pub user: UserId,
    /// The user's display name.
    pub name: Arc<str>,
    /// The kind of vocabulary that the client uses.
    pub protocol: ClientProtocol,
    /// Frames queued for the client.
    pub outgoing: Arc<Outgoing>,
    /// Frames were queued without waking the connection's task, and are not written to the socket yet.
    touched: AtomicBool,
    /// The client uses a vocabulary that has a name for other users' presence.
    receives_presence: AtomicBool,
    /// A probe, which pings the client to see whether it is alive, is under way.
    probed: AtomicBool,
    /// The users whom it watches because they share conversations with its user. Lock order: this lock first, then the
    /// audience's.
    pub acquaintances: Mutex<Acquaintances>,
    signals: Mutex<Vec<Signal>>,
    /// How many commands have no outcome yet, and the bit [`AWAITED`].
    unanswered: AtomicUsize,
}

/// Set in [`Connection::unanswered`] while the connection's task waits for all outcomes, and after a wait that was
/// given up.
const AWAITED: usize = 1 << (usize::BITS - 1);

impl Connection {
    /// A connection of a user, whose frames go to `outgoing`.
    pub fn new(
        id: u64,
        user: UserId,
        name: Arc<str>,
        protocol: ClientProtocol,
        outgoing: Arc<Outgoing>,
    ) -> Connection {
        Connection {
            id,
            user,
            name,
            protocol,
            outgoing,
            touched: AtomicBool::new(false),
            receives_presence: AtomicBool::new(protocol == ClientProtocol::Native),
            probed: AtomicBool::new(false),
            acquaintances: Mutex::default(),
            signals: Mutex::default(),
            unanswered: AtomicUsize::new(0),
        }
    }

    /// Queues frames. Returns `false` if the queue did not take them. Empty frames count as taken.
    pub fn offer(&self, frames: &Bytes, urgency: Urgency) -> bool {
        frames.is_empty() || self.outgoing.offer(frames, urgency)
    }

    /// Queues the answer to a command, without waking the connection's task: the caller calls
    /// [`Connection::flush_touched`]. Returns `false` if there is nothing to write.
    pub fn queue_reply(&self, frames: &Bytes) -> bool {
        let queued = !frames.is_empty() && self.outgoing.queue(frames, Urgency::Reply).is_some();
        if queued {
            self.touched.store(true, Ordering::Relaxed);
        }
        queued
    }

    /// Whether frames were queued without a wake-up since the last call. If so, the caller must write them.
    pub fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }

    /// Writes queued frames, unless another task has taken that over.
    pub fn flush_touched(&self) {
        if self.take_touched() {
            self.outgoing.flush_delivery();
        }
    }

    /// Sends the client a ping in addition to the regular pings.
    pub fn ping(&self) {
        let ping = match self.protocol {
            ClientProtocol::Native => crate::connection::frame::PING,
            ClientProtocol::SocketIo(_) => crate::engine::PING,
        };
        self.offer(&ping, Urgency::Reply);
    }

    /// Begins a probe. Returns `false` if one is already under way.
    pub fn try_start_probe(&self) -> bool {
        !self.probed.swap(true, Ordering::Relaxed)
    }

    /// Ends a probe.
    pub fn end_probe(&self) {
        self.probed.store(false, Ordering::Relaxed);
    }

    /// Adds a signal and wakes the connection's task.
    pub fn signal(&self, signal: Signal) {
        self.signals.lock().push(signal);
        self.outgoing.wake();
    }

    /// Takes all signals.
    pub fn signals(&self) -> Vec<Signal> {
        std::mem::take(&mut *self.signals.lock())
    }

    /// Counts a command that was sent and has no outcome yet.
    pub fn command_sent(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an outcome that arrived, or was given up. Wakes the connection's task when reading may go on because the
    /// count fell below the limit, and when all outcomes are there that [`Connection::await_answers`] waits for.
    pub fn command_answered(&self) {
        let before = self.unanswered.fetch_sub(1, Ordering::Relaxed);
        if before & !AWAITED == UNANSWERED_COMMANDS_MAX || before == AWAITED | 1 {
            self.outgoing.wake();
        }
    }

    /// Whether any command has no outcome yet. If so, the connection's task is woken when every command has one.
    pub fn await_answers(&self) -> bool {
        let unanswered = self.unanswered.fetch_or(AWAITED, Ordering::Relaxed) & !AWAITED;
        if unanswered == 0 {
            self.unanswered.fetch_and(!AWAITED, Ordering::Relaxed);
        }
        unanswered > 0
    }

    /// Whether so many commands have no outcome yet that no more frames are read.
    pub fn is_busy(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) & !AWAITED >= UNANSWERED_COMMANDS_MAX
    }

    /// Notes that the client uses a vocabulary with a name for presence. Returns `true` the first time.
    pub fn enable_presence(&self) -> bool {
        !self.receives_presence.swap(true, Ordering::Relaxed)
    }

    /// Whether the client is sent other users' presence.
    pub fn receives_presence(&self) -> bool {
        self.receives_presence.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("id", &self.id).field("user", &self.user).finish_non_exhaustive()
    }
}

/// A connection's subscription to one conversation in one vocabulary.
#[derive(Debug, Clone)]
pub struct Member {
    /// The subscribed connection.
    pub connection: Arc<Connection>,
    /// The dialect in which its events are encoded.
    pub dialect: Dialect,
    /// The subscription's place in the connection's tracker; unused without a tracker.
    pub place: u32,
}

impl Member {
    /// Queues an event in the member's dialect. Returns `false` if there is no room.
    pub fn queue(&self, event: &Encoded, urgency: Urgency) -> bool {
        let frames = event.frames(self.dialect);
        frames.is_empty()
            || self.connection.outgoing.queue_event(frames, urgency, self.place, event.event.seq)
    }
}

impl Subscriber<Encoded> for Member {
    /// Does not wake the connection's task: the delivery writes to all touched members at its end (see
    /// [`crate::delivery::hub`]).
    fn try_queue(&self, event: &Encoded) -> bool {
        let taken = self.queue(event, Urgency::Event);
        self.connection.touched.store(true, Ordering::Relaxed);
        taken
    }

    /// Removing a participant ends the participant's subscriptions (`docs/protocol.md#removal`).
    fn ends_with(&self, event: &Encoded) -> bool {
        let Some(Kind::ParticipantRemoved(removed)) = &event.event.kind else { return false };
        self.connection.user.as_str() == removed.user
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn connection() -> Connection {
        let user = UserId::parse("ann").expect("valid");
        Connection::new(1, user, "Ann".into(), ClientProtocol::Native, Arc::default())
    }

    fn is_woken(connection: &Connection) -> bool {
        connection.outgoing.woken().now_or_never().is_some()
    }

    #[test]
    fn answers_wake_the_connection_only_if_it_waits_for_them() {
        let connection = connection();
        connection.command_sent();
        connection.command_answered();
        assert!(!is_woken(&connection), "an answer must not wake a connection that does not wait");

        (0..2).for_each(|_| connection.command_sent());
        assert!(connection.await_answers());
        connection.command_answered();
        assert!(!is_woken(&connection), "one answer is still missing");
        connection.command_answered();
        assert!(is_woken(&connection));
        assert!(!connection.await_answers());

        (0..UNANSWERED_COMMANDS_MAX).for_each(|_| connection.command_sent());
        assert!(connection.is_busy());
        connection.command_answered();
        assert!(!connection.is_busy() && is_woken(&connection), "reading may go on");
    }

    #[test]
    fn a_queued_reply_is_written_by_the_next_flush_alone() {
        let connection = connection();
        assert!(!connection.queue_reply(&Bytes::new()), "an empty reply must not be flushed");
        assert!(connection.queue_reply(&Bytes::from_static(b"ack")));
        assert!(!is_woken(&connection) && !connection.outgoing.is_empty());
        assert!(connection.take_touched());
        connection.flush_touched();
        assert!(!is_woken(&connection), "frames that another task has taken over must not be flushed again");
        assert!(connection.queue_reply(&Bytes::from_static(b"ack")));
        connection.flush_touched();
        // Without a socket, as while a client polls, the connection's own task takes the frames.
        assert!(is_woken(&connection));
    }
}
