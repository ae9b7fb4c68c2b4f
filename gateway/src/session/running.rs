//! A session with its work that is under way, as a connection of any transport drives it.

use crate::connection::Connection;
use crate::delivery::dialect::CommandOrigin;
use crate::session::{Session, Work};
use carillon_proto::code::Close;
use carillon_proto::command::Command;
use carillon_proto::event::Reply;
use futures_util::FutureExt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// How long before its end a token's end is announced, in milliseconds.
const EXPIRY_NOTICE_MS: u64 = 60_000;

/// A session, and its work that is under way.
pub struct RunningSession {
    pub session: Session,
    /// The command that waits for an answer. The next one is read when it is done.
    work: Option<Work>,
    /// The page that is being read for a member that is behind.
    page: Option<Work>,
    /// Subscriptions that must still be joined again. The number of conversations per connection bounds it.
    restoring: VecDeque<(Command, CommandOrigin)>,
    /// The token's end that was announced to the client.
    announced_expiry_ms: Option<u64>,
    /// The token's end on the steady clock, as it was when `deadline` was set.
    ends_ms: Option<u64>,
    deadline: Option<Instant>,
}

impl RunningSession {
    /// A session without work under way.
    pub fn new(session: Session) -> RunningSession {
        let mut running = RunningSession {
            session,
            work: None,
            page: None,
            restoring: VecDeque::new(),
            announced_expiry_ms: None,
            ends_ms: None,
            deadline: None,
        };
        running.set_deadline();
        running
    }

    /// Sets the time at which the token's end is announced, or at which it ends.
    fn set_deadline(&mut self) {
        let identity = &self.session.identity;
        self.ends_ms = identity.ends_ms();
        let announced = self.announced_expiry_ms == identity.expires_ms;
        self.deadline = identity.left_ms().map(|left_ms| {
            let until_ms = if announced { left_ms } else { left_ms.saturating_sub(EXPIRY_NOTICE_MS) };
            Instant::now() + Duration::from_millis(until_ms + 1)
        });
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.session.connection
    }

    /// Whether another command may begin.
    pub fn reads(&self) -> bool {
        self.work.is_none() && self.restoring.is_empty() && !self.session.connection.is_busy()
    }

    /// Begins work. Short work, like joining a conversation that is registered already, often finishes at once.
    pub fn start_work(&mut self, work: Option<Work>) {
        if self.session.identity.ends_ms() != self.ends_ms {
            self.set_deadline();
        }
        self.work = work;
        if let Some(work) = &mut self.work
            && let Some(done) = work.now_or_never()
        {
            self.work = None;
            self.session.handle_result(done);
        }
    }

    /// Joins again what the session had joined on another gateway, from the cursors there. No other command begins
    /// before.
    pub fn restore(&mut self, subscriptions: impl IntoIterator<Item = (Command, CommandOrigin)>) {
        self.restoring.extend(subscriptions);
        self.continue_restoring();
    }

    fn continue_restoring(&mut self) {
        while self.work.is_none()
            && let Some((command, origin)) = self.restoring.pop_front()
        {
            let work = self.session.handle_command(command, &origin);
            self.start_work(work);
        }
    }

    /// Whether nothing is under way, so that the session can move to another gateway.
    pub fn is_settled(&self) -> bool {
        self.work.is_none() && self.restoring.is_empty() && !self.session.connection.await_answers()
    }

    /// Ends the session after the current work, because a join that is dropped half-way would leave the user in the
    /// room. The bus's timeouts bound the wait.
    pub async fn end(mut self) {
        if let Some(work) = self.work.take() {
            let done = work.await;
            self.session.handle_result(done);
        }
        self.session.end();
    }

    /// As `ConnectionHandler::poll_work`.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut progress = Poll::Pending;
        for slot in [&mut self.work, &mut self.page] {
            if let Some(Poll::Ready(done)) = slot.as_mut().map(|work| work.poll_unpin(context)) {
                *slot = None;
                self.session.handle_result(done);
                progress = Poll::Ready(());
            }
        }
        self.continue_restoring();
        progress
    }

    /// As `ConnectionHandler::advance`.
    pub fn advance(&mut self) {
        if self.page.is_none() {
            self.page = self.session.catch_up();
        }
        if self.work.is_none() && self.restoring.is_empty() {
            self.work = self.session.rebase();
        }
    }

    /// As `ConnectionHandler::woken`.
    ///
    /// # Errors
    /// Why the connection must end.
    pub fn woken(&mut self) -> Result<(), Close> {
        let signals = self.session.connection.signals();
        let close = if signals.is_empty() { None } else { self.session.handle_signals(signals) };
        close.map_or(Ok(()), Err)
    }

    /// When the token's end must be announced, or when it ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Announces the token's end once, and ends the connection at that time.
    ///
    /// # Errors
    /// When the token has ended.
    pub fn due(&mut self) -> Result<(), Close> {
        let identity = &self.session.identity;
        let (Some(expires_ms), Some(left_ms)) = (identity.expires_ms, identity.left_ms()) else {
            return Ok(());
        };
        if left_ms == 0 {
            return Err(Close::TokenExpired);
        }
        if left_ms <= EXPIRY_NOTICE_MS && self.announced_expiry_ms != Some(expires_ms) {
            self.announced_expiry_ms = Some(expires_ms);
            crate::session::notify(&self.session.connection, &Reply::TokenExpiring { expires_ms });
        }
        self.set_deadline();
        Ok(())
    }
}
