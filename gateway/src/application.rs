//! What is served over a connection, whatever carries it.

use crate::connection::Connection;
use crate::dialect::Asked;
use crate::session::{Session, Work};
use bytes::Bytes;
use carillon_proto::code::Close;
use carillon_proto::command::Command;
use carillon_proto::event::Reply;
use futures_util::FutureExt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// A token's end is announced this long before (protocol §2), milliseconds.
const EXPIRY_NOTICE_MS: u64 = 60_000;

/// Serves one client with messages as they come.
pub trait Application: Served {
    /// A message came; `Err` says how the connection ends.
    ///
    /// # Errors
    /// Why the connection must end.
    fn text(&mut self, text: &str) -> Result<(), Close>;
    /// A binary message came.
    ///
    /// # Errors
    /// Why the connection must end.
    fn binary(&mut self, bytes: Bytes) -> Result<(), Close>;
}

/// What serves one client between its messages, whatever those are. Nothing here waits: what takes time is gone on
/// with in [`Served::poll_work`].
pub trait Served: Send + 'static {
    /// Whether another message is wanted now.
    fn reads(&self) -> bool {
        true
    }
    /// Queues what has waited for room.
    fn advance(&mut self) {}
    /// Goes on with what is under way; ready when something was done.
    fn poll_work(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
    /// Does what others want of the connection. Called after whatever woke the connection.
    ///
    /// # Errors
    /// Why the connection must end.
    fn woken(&mut self) -> Result<(), Close> {
        Ok(())
    }
    /// When [`Served::due`] must be called.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// Does what time asks for.
    ///
    /// # Errors
    /// Why the connection must end.
    fn due(&mut self) -> Result<(), Close> {
        Ok(())
    }
    /// What is served, written down so that another gateway can go on; `None` while it cannot be.
    fn pack(&self) -> Option<Bytes> {
        None
    }
    /// The connection has ended.
    fn end(self) -> impl Future<Output = ()> + Send;
}

/// A session, and what is under way for it.
pub struct Running {
    /// The session.
    pub session: Session,
    /// The command that waits for an answer; the next one is read when it is done.
    work: Option<Work>,
    /// What is being read for a member that is behind.
    page: Option<Work>,
    /// What is still to be joined again. Bounded by what a connection may join.
    restoring: VecDeque<(Command, Asked)>,
    /// The token's end that was announced.
    expiry_told: Option<u64>,
    /// The token's end as `deadline` knows it, by the steady clock.
    ends_ms: Option<u64>,
    deadline: Option<Instant>,
}

impl Running {
    /// A session for which nothing is under way.
    pub fn new(session: Session) -> Running {
        let mut running = Running {
            session,
            work: None,
            page: None,
            restoring: VecDeque::new(),
            expiry_told: None,
            ends_ms: None,
            deadline: None,
        };
        running.set_deadline();
        running
    }

    /// When the token must be looked at: when its end is to be announced, and at its end.
    fn set_deadline(&mut self) {
        let identity = &self.session.identity;
        self.ends_ms = identity.ends_ms();
        let told = self.expiry_told == identity.expires_ms;
        self.deadline = identity.left_ms().map(|left_ms| {
            let until_ms = if told { left_ms } else { left_ms.saturating_sub(EXPIRY_NOTICE_MS) };
            Instant::now() + Duration::from_millis(until_ms + 1)
        });
    }

    /// Whose connection it is.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.session.connection
    }

    /// Whether another command may be begun.
    pub fn reads(&self) -> bool {
        self.work.is_none() && self.restoring.is_empty() && !self.session.connection.is_busy()
    }

    /// Begins what a command asks for. Short work, like a join of a conversation that is known, is often done at
    /// once.
    pub fn begin(&mut self, work: Option<Work>) {
        if self.session.identity.ends_ms() != self.ends_ms {
            self.set_deadline();
        }
        self.work = work;
        if let Some(work) = &mut self.work
            && let Some(done) = work.now_or_never()
        {
            self.work = None;
            self.session.done(done);
        }
    }

    /// Joins again what was joined on another gateway, from where it was read to. Nothing else is begun before.
    pub fn restore(&mut self, subscriptions: impl IntoIterator<Item = (Command, Asked)>) {
        self.restoring.extend(subscriptions);
        self.go_on_restoring();
    }

    fn go_on_restoring(&mut self) {
        while self.work.is_none()
            && let Some((command, asked)) = self.restoring.pop_front()
        {
            let work = self.session.command(command, &asked);
            self.begin(work);
        }
    }

    /// Whether nothing is under way, so that the session can go on elsewhere.
    pub fn is_settled(&self) -> bool {
        self.work.is_none() && self.restoring.is_empty() && !self.session.connection.has_unanswered()
    }

    /// The connection has ended. What is under way is done first: dropped half-way, a join would leave the user in
    /// the room for good. It ends within the bus's own timeouts.
    pub async fn end(mut self) {
        if let Some(work) = self.work.take() {
            let done = work.await;
            self.session.done(done);
        }
        self.session.end();
    }

    /// As [`Served::poll_work`].
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut progress = Poll::Pending;
        for slot in [&mut self.work, &mut self.page] {
            if let Some(Poll::Ready(done)) = slot.as_mut().map(|work| work.poll_unpin(context)) {
                *slot = None;
                self.session.done(done);
                progress = Poll::Ready(());
            }
        }
        self.go_on_restoring();
        progress
    }

    /// As [`Served::advance`].
    pub fn advance(&mut self) {
        if self.page.is_none() {
            self.page = self.session.catch_up();
        }
        if self.work.is_none() && self.restoring.is_empty() {
            self.work = self.session.rebase();
        }
    }

    /// As [`Served::woken`].
    ///
    /// # Errors
    /// Why the connection must end.
    pub fn woken(&mut self) -> Result<(), Close> {
        let signals = self.session.connection.signals();
        let close = if signals.is_empty() { None } else { self.session.signalled(signals) };
        close.map_or(Ok(()), Err)
    }

    /// When the token must be looked at.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Announces the token's end once, and ends the connection at it.
    ///
    /// # Errors
    /// When the token's time is over.
    pub fn due(&mut self) -> Result<(), Close> {
        let identity = &self.session.identity;
        let (Some(expires_ms), Some(left_ms)) = (identity.expires_ms, identity.left_ms()) else {
            return Ok(());
        };
        if left_ms == 0 {
            return Err(Close::TokenExpired);
        }
        if left_ms <= EXPIRY_NOTICE_MS && self.expiry_told != Some(expires_ms) {
            self.expiry_told = Some(expires_ms);
            crate::session::tell(&self.session.connection, &Reply::TokenExpiring { expires_ms });
        }
        self.set_deadline();
        Ok(())
    }
}
