//! Acquaintances: the users that a user sees because they share stored conversations. They are read when a session
//! begins, and again whenever workers report that they may have changed, or such a report may have been missed
//! (`docs/decisions/0016-acquaintances-are-read-again.md`).

use crate::connection::{Acquaintances, Connection};
use crate::core::refresh::{Next, Refresh};
use crate::shared::Shared;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::UserId;
use carillon_proto::wire::{self, read_reply, read_request};
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

/// How long a query about another user waits for a read that is under way or due. Longer than the spacing of reads.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// The users whose acquaintances are to be read again on this gateway.
pub struct Refreshing {
    core: Mutex<Refresh>,
    started: Instant,
    wanted: Notify,
    done: Notify,
}

impl Default for Refreshing {
    fn default() -> Self {
        Self { core: Mutex::default(), started: Instant::now(), wanted: Notify::new(), done: Notify::new() }
    }
}

impl Refreshing {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn next(&self) -> Next<UserId> {
        self.core.lock().poll_next(self.now_ms())
    }

    fn changed(&self, user: &UserId) {
        self.core.lock().handle_change(self.now_ms(), user);
        self.wanted.notify_one();
    }

    fn done(&self, user: &UserId, read: bool) {
        self.core.lock().handle_read(self.now_ms(), user, read);
        self.done.notify_waiters();
    }

    /// Waits, for a bounded time, until the reported changes of a user's acquaintances have been read.
    async fn settled(&self, user: &UserId) {
        let settling = async {
            loop {
                let done = self.done.notified();
                tokio::pin!(done);
                done.as_mut().enable();
                if !self.core.lock().is_pending(self.now_ms(), user) {
                    return;
                }
                done.await;
            }
        };
        // After the timeout, the caller uses the acquaintances that are known, which may be out of date but do no harm.
        let _ = timeout(SETTLE_TIMEOUT, settling).await;
    }
}

/// Reads acquaintances again whenever that is due. Runs as long as the gateway.
pub async fn refresh(shared: Arc<Shared>) {
    let refreshing = &shared.refreshing;
    let mut reads: FuturesUnordered<BoxFuture<'_, (UserId, bool)>> = FuturesUnordered::new();
    loop {
        let wake_at = loop {
            match refreshing.next() {
                Next::Read(user) => reads.push(Box::pin(async {
                    let read = shared.read_again(&user).await;
                    (user, read)
                })),
                Next::At(at_ms) => break Some(refreshing.started + Duration::from_millis(at_ms)),
                Next::Nothing => break None,
            }
        };
        let wake = async {
            match wake_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = refreshing.wanted.notified() => {}
            () = wake => {}
            Some((user, read)) = reads.next() => refreshing.done(&user, read),
        }
    }
}

impl Shared {
    /// The users that share a stored conversation of at most 100 participants with this one, sorted, at most 500.
    ///
    /// # Errors
    /// As [`Shared::read`].
    pub async fn acquaintances(&self, user: &UserId) -> Result<Vec<UserId>, Failure> {
        let read = wire::ReadAcquaintances { user: user.to_string() };
        let users = match self.delivery.reader.read(read_request::Body::Acquaintances(read)).await? {
            read_reply::Body::Users(users) => users.users,
            _ => return Err(Failure::new(ErrorCode::Internal, "a reply of the wrong kind")),
        };
        let mut users: Vec<UserId> = users.iter().filter_map(|id| UserId::parse(id).ok()).collect();
        users.sort_unstable();
        Ok(users)
    }

    /// Makes a new connection watch its user's acquaintances. Returns them.
    pub(crate) async fn watch_acquaintances(&self, connection: &Arc<Connection>) -> Arc<[UserId]> {
        let users = self.acquaintances(&connection.user).await.unwrap_or_else(|failure| {
            tracing::debug!(%failure, "a connection starts without its acquaintances");
            self.refreshing.changed(&connection.user);
            Vec::new()
        });
        let mut known = connection.acquaintances.lock();
        // If acquaintances were read for a change meanwhile, those are newer.
        if let Acquaintances::Unknown = &*known {
            users.iter().for_each(|user| self.audience.watch(user, connection));
            *known = Acquaintances::Known(users.into());
        }
        known.users()
    }

    /// Ends the watches of a connection that has ended.
    pub(crate) fn unwatch_acquaintances(&self, connection: &Arc<Connection>) {
        let mut known = connection.acquaintances.lock();
        let users = known.users();
        *known = Acquaintances::Ended;
        self.unwatch(connection, &users);
    }

    /// Workers report that these users' acquaintances may have changed.
    pub fn handle_acquaintances_changed(&self, changed: &wire::AcquaintancesChanged) {
        for user in changed.users.iter().filter_map(|user| UserId::parse(user).ok()) {
            if self.directory.is_here(&user) {
                self.refreshing.changed(&user);
            }
        }
    }

    /// Reports may have been missed, so the acquaintances of all users here are read again.
    pub fn refresh_all_acquaintances(&self) {
        let mut users = HashSet::new();
        users.extend(self.directory.connections().iter().map(|connection| connection.user.clone()));
        let refreshing = &self.refreshing;
        refreshing.core.lock().handle_missed_changes(refreshing.now_ms(), users.iter());
        refreshing.wanted.notify_one();
    }

    /// Waits until reported changes have been read, so that the next query is answered from them.
    pub(crate) async fn acquaintances_settled(&self, user: &UserId) {
        self.refreshing.settled(user).await;
    }

    /// Reads a user's acquaintances for all connections of the user; `false` if they cannot be read now.
    async fn read_again(&self, user: &UserId) -> bool {
        if !self.directory.is_here(user) {
            return true;
        }
        let users: Arc<[UserId]> = match self.acquaintances(user).await {
            Ok(users) => users.into(),
            Err(failure) => {
                tracing::debug!(%failure, "cannot read a user's acquaintances; will retry");
                return false;
            }
        };
        let connections = self.directory.connections_of(user);
        join_all(connections.iter().map(|connection| self.acquaint(connection, &users))).await;
        true
    }

    /// Replaces the acquaintances that a connection sees, and sends it the presence of those who are new to it.
    async fn acquaint(&self, connection: &Arc<Connection>, users: &Arc<[UserId]>) {
        let new = self.meet(connection, users);
        if !new.is_empty() {
            self.show_met(connection, &new).await;
        }
    }

    /// Replaces the acquaintances that a connection watches. Returns those whom it did not see before.
    fn meet(&self, connection: &Arc<Connection>, users: &Arc<[UserId]>) -> Vec<UserId> {
        let mut known = connection.acquaintances.lock();
        if let Acquaintances::Ended = &*known {
            return Vec::new();
        }
        let before = known.users();
        let lacks = |list: &[UserId], user: &UserId| list.binary_search(user).is_err();
        let new: Vec<UserId> = users.iter().filter(|user| lacks(&before, user)).cloned().collect();
        let gone: Vec<UserId> = before.iter().filter(|user| lacks(users, user)).cloned().collect();
        let names: Vec<String> = new.iter().map(ToString::to_string).collect();
        let seen = self.audience.seen_by(connection, &names);
        new.iter().for_each(|user| self.audience.watch(user, connection));
        // Under `dev` any user may be watched on request, and such watches are not kept apart from those of
        // acquaintances. Keep watching former acquaintances, or a requested watch could end.
        if self.settings.dev && !gone.is_empty() {
            let mut all: Vec<UserId> = users.iter().cloned().chain(gone).collect();
            all.sort_unstable();
            *known = Acquaintances::Known(all.into());
        } else {
            *known = Acquaintances::Known(users.clone());
            self.unwatch(connection, &gone);
        }
        new.into_iter().filter(|user| !seen.contains(user.as_str())).collect()
    }

    /// Sends a connection the presence of those of these users who are online, once.
    async fn show_met(&self, connection: &Arc<Connection>, users: &[UserId]) {
        let presences = users.iter().map(|user| async move {
            match self.audience.shown(user) {
                Some(presence) => Some(presence).filter(|presence| presence.online),
                None => self.look_at(user).await,
            }
        });
        for presence in join_all(presences).await.into_iter().flatten() {
            self.show(&presence, vec![connection.clone()]);
        }
    }
}
