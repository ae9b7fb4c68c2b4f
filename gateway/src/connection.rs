//! A connection as the rest of the gateway sees it: somebody to queue frames for and to signal.

use crate::core::outbox::Urgency;
use crate::core::topic::Hearer;
use crate::dialect::{Dialect, Namespace};
use crate::hub::{Encoded, Room};
use crate::outgoing::Outgoing;
use bytes::Bytes;
use carillon_proto::code::Close;
use carillon_proto::id::UserId;
use carillon_proto::limits::UNANSWERED_COMMANDS_MAX;
use carillon_proto::wire::event::Kind;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What somebody else wants the connection's own task to do.
#[derive(Debug)]
pub enum Signal {
    /// One of its members fell behind in this conversation and must read on from its cursor.
    Behind(Arc<Room>),
    /// One of its members, in this vocabulary, has heard the last that it may, and is gone from the room.
    Ended(Arc<Room>, Dialect),
    /// End, for this reason, after what is queued.
    Close(Close),
}

/// What a client speaks, whatever it joins by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// The native vocabulary.
    Native,
    /// One or more of Socket.IO's vocabularies, in this namespace.
    SocketIo(Namespace),
}

/// Whom a connection's user sees by sharing stored conversations.
#[derive(Debug, Default)]
pub enum Acquaintances {
    /// They have not been read.
    #[default]
    Unknown,
    /// These, sorted, and the connection watches them. Bounded by what one read gives.
    Known(Arc<[UserId]>),
    /// The connection has ended, and watches nobody any more.
    Ended,
}

impl Acquaintances {
    /// Those that are known.
    pub fn users(&self) -> Arc<[UserId]> {
        match self {
            Self::Known(users) => users.clone(),
            Self::Unknown | Self::Ended => Arc::default(),
        }
    }
}

/// One client's connection, shared between its own task and all who have something for it.
pub struct Connection {
    /// Unique in this gateway's life.
    pub id: u64,
    /// Who it is.
    pub user: UserId,
    /// How the user is shown.
    pub name: Arc<str>,
    /// What it speaks.
    pub speaks: Speaks,
    /// Its frames.
    pub outgoing: Arc<Outgoing>,
    /// Events were queued that nobody has written yet.
    touched: AtomicBool,
    /// It has a name for other users' presence.
    hears_presence: AtomicBool,
    /// It is being found out whether its client lives.
    probed: AtomicBool,
    /// Whom it watches for its user's conversations. The audience's lock is taken under this one.
    pub acquaintances: Mutex<Acquaintances>,
    signals: Mutex<Vec<Signal>>,
    unanswered: AtomicUsize,
}

impl Connection {
    /// A connection of a user, whose frames go to `outgoing`.
    pub fn new(id: u64, user: UserId, name: Arc<str>, speaks: Speaks, outgoing: Arc<Outgoing>) -> Connection {
        Connection {
            id,
            user,
            name,
            speaks,
            outgoing,
            touched: AtomicBool::new(false),
            hears_presence: AtomicBool::new(speaks == Speaks::Native),
            probed: AtomicBool::new(false),
            acquaintances: Mutex::default(),
            signals: Mutex::default(),
            unanswered: AtomicUsize::new(0),
        }
    }

    /// Queues frames, if there are any; `false` when they were not taken.
    pub fn offer(&self, frames: &Bytes, urgency: Urgency) -> bool {
        frames.is_empty() || self.outgoing.offer(frames, urgency)
    }

    /// Whether events were queued since the last time this was asked.
    pub fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }

    /// Pings the client, apart from the pings that are due by themselves.
    pub fn ping(&self) {
        let ping = match self.speaks {
            Speaks::Native => crate::frame::PING,
            Speaks::SocketIo(_) => crate::engine::PING,
        };
        self.offer(&ping, Urgency::Reply);
    }

    /// It is to be found out whether the client lives; `false` when that is under way already.
    pub fn begin_probe(&self) -> bool {
        !self.probed.swap(true, Ordering::Relaxed)
    }

    /// It has been found out.
    pub fn end_probe(&self) {
        self.probed.store(false, Ordering::Relaxed);
    }

    /// Asks the connection's task for something.
    pub fn signal(&self, signal: Signal) {
        self.signals.lock().push(signal);
        self.outgoing.wake();
    }

    /// Takes all signals.
    pub fn signals(&self) -> Vec<Signal> {
        std::mem::take(&mut *self.signals.lock())
    }

    /// A command waits for its outcome.
    pub fn command_sent(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// A command's outcome is known.
    pub fn command_answered(&self) {
        // One that is not read waits for fewer of them, one that moves elsewhere for none.
        if matches!(self.unanswered.fetch_sub(1, Ordering::Relaxed), 1 | UNANSWERED_COMMANDS_MAX) {
            self.outgoing.wake();
        }
    }

    /// Whether any command waits for its outcome.
    pub fn has_unanswered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0
    }

    /// Whether so many commands wait that no more are read.
    pub fn is_busy(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= UNANSWERED_COMMANDS_MAX
    }

    /// The client speaks a vocabulary that has a name for presence; `true` when that was not known.
    pub fn speaks_of_presence(&self) -> bool {
        !self.hears_presence.swap(true, Ordering::Relaxed)
    }

    /// Whether the client hears of other users' presence.
    pub fn hears_presence(&self) -> bool {
        self.hears_presence.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("id", &self.id).field("user", &self.user).finish_non_exhaustive()
    }
}

/// A connection's place in one conversation: a subscription, in the vocabulary that it was made in.
#[derive(Debug, Clone)]
pub struct Member {
    /// Whose it is.
    pub connection: Arc<Connection>,
    /// What it hears the conversation in.
    pub dialect: Dialect,
    /// Its place in the connection's tracker, where there is one.
    pub place: u32,
}

impl Member {
    /// Queues what it hears of an event; `false` when there is no room.
    pub fn queue(&self, event: &Encoded, urgency: Urgency) -> bool {
        let frames = event.frames(self.dialect);
        frames.is_empty()
            || self.connection.outgoing.queue_event(frames, urgency, self.place, event.event.seq)
    }
}

impl Hearer<Encoded> for Member {
    /// Nobody is woken: whoever delivers writes at the end of the delivery (see [`crate::hub`]).
    fn hear(&self, event: &Encoded) -> bool {
        let taken = self.queue(event, Urgency::Event);
        self.connection.touched.store(true, Ordering::Relaxed);
        taken
    }

    /// Removing a participant ends their live subscription (protocol §7).
    fn ends_with(&self, event: &Encoded) -> bool {
        let Some(Kind::ParticipantRemoved(removed)) = &event.event.kind else { return false };
        self.connection.user.as_str() == removed.user
    }
}
