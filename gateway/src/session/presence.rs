//! What a session receives about other users: the first frame, status and watches.

use super::{Session, Work, WorkResult, notify_first, reply_to};
use crate::connection::Connection;
use crate::delivery::dialect::CommandOrigin;
use crate::shared::Shared;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::event::{Reply, unknown_presence};
use carillon_proto::id::UserId;
use carillon_proto::limits::VISIBLE_USERS_MAX;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Session {
    /// Watches the users that this session's user sees because they share stored conversations, and sends the list of
    /// those that are online. Under `dev` the list has the other users of this gateway, too.
    pub async fn greet(&mut self) {
        let users = self.shared.watch_acquaintances(&self.connection).await;
        let presences = self.shared.watch(&self.connection, &users).await;
        let own = self.identity.user.to_string();
        let online = presences.into_iter().filter(|presence| presence.online).map(|presence| presence.user);
        let mut others: BTreeSet<String> = online.collect();
        if self.shared.settings.dev {
            others.extend(self.shared.enter_lobby(&self.connection).await);
        }
        others.remove(&own);
        let users = std::iter::once(own).chain(others.into_iter().take(VISIBLE_USERS_MAX)).collect();
        // Presence changes that were queued meanwhile follow the first frame.
        notify_first(&self.connection, &Reply::OnlineUsers { users });
    }

    /// Notes that the client uses a vocabulary with a name for presence. Socket.IO's vocabularies have no list of
    /// online users, so the first time the client is sent the presence of each online user that its user sees.
    pub fn enable_presence(&self) {
        if self.connection.enable_presence() {
            let users = self.connection.acquaintances.lock().users();
            self.shared.show_online(&self.connection, &users);
        }
    }

    pub(super) fn watch(&mut self, users: Vec<UserId>, origin: CommandOrigin) -> Result<Work, Failure> {
        let acquaintances = self.connection.acquaintances.lock().users();
        let is_more = |user: &&UserId| acquaintances.binary_search(user).is_err();
        let watched = self.watched.iter().filter(is_more).count();
        let more = users.iter().filter(is_more).filter(|user| !self.watched.contains(user.as_str())).count();
        if acquaintances.len() + watched + more > VISIBLE_USERS_MAX {
            let message = format!("at most {} users can be watched", VISIBLE_USERS_MAX);
            return Err(Failure::new(ErrorCode::TooLarge, message));
        }
        Ok(self.online_status(users, true, origin))
    }

    pub(super) fn online_status(&mut self, users: Vec<UserId>, watch: bool, origin: CommandOrigin) -> Work {
        let (shared, connection) = (self.shared.clone(), self.connection.clone());
        Box::pin(async move {
            let (visible, hidden) = may_see(&shared, &connection, users).await;
            let mut users = if watch {
                shared.watch(&connection, &visible).await
            } else {
                shared.presence_of(&visible).await
            };
            users.extend(hidden.iter().map(|user| unknown_presence(user.as_str())));
            reply_to(&connection, &Reply::OnlineStatus { users }, &origin);
            if watch { WorkResult::Watched(visible) } else { WorkResult::Replied }
        })
    }

    pub(super) fn unwatch(&mut self, users: Vec<UserId>, origin: CommandOrigin) -> Work {
        for user in &users {
            self.watched.remove(user.as_str());
        }
        self.shared.unwatch(&self.connection, &users);
        self.online_status(users, false, origin)
    }
}

/// Splits users into those that the connection may see and the others. Under `dev` every user may be seen.
async fn may_see(
    shared: &Shared,
    connection: &Arc<Connection>,
    users: Vec<UserId>,
) -> (Vec<UserId>, Vec<UserId>) {
    if shared.settings.dev {
        return (users, Vec::new());
    }
    shared.acquaintances_settled(&connection.user).await;
    let acquaintances = connection.acquaintances.lock().users();
    let names: Vec<String> = users.iter().map(ToString::to_string).collect();
    let seen = shared.audience.seen_by(connection, &names);
    let sees = |user: &UserId| {
        *user == connection.user || acquaintances.binary_search(user).is_ok() || seen.contains(user.as_str())
    };
    users.into_iter().partition(sees)
}
