//! What a session sees of other users: the first frame, status, watches.

use super::{Done, Session, Work, reply_to, tell};
use crate::core::outbox::Urgency;
use crate::dialect::Asked;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::event::{Reply, unknown_presence};
use carillon_proto::id::UserId;
use carillon_proto::limits::VISIBLE_USERS_MAX;
use carillon_proto::wire;

impl Session {
    /// Watches the users whom this one sees by sharing stored conversations, and tells who is online.
    pub async fn greet(&mut self) {
        let user = self.identity.user.to_string();
        let acquaintances = match self
            .shared
            .read(wire::read_request::Body::Acquaintances(wire::ReadAcquaintances { user }))
            .await
        {
            Ok(wire::read_reply::Body::Users(users)) => users.users,
            Ok(_) => Vec::new(),
            Err(failure) => {
                tracing::debug!(%failure, "a connection starts without its acquaintances");
                Vec::new()
            }
        };
        let users: Vec<UserId> = acquaintances.iter().filter_map(|user| UserId::parse(user).ok()).collect();
        let presences = self.shared.watch(&self.connection, &users).await;
        self.watched.extend(users);
        let own = self.identity.user.to_string();
        let others = presences.into_iter().filter(|presence| presence.online && presence.user != own);
        let users = std::iter::once(own.clone()).chain(others.map(|presence| presence.user)).collect();
        // Changes that came meanwhile go behind the first frame.
        let early = self.connection.outgoing.drain();
        tell(&self.connection, &Reply::OnlineUsers { users });
        for frame in early {
            self.connection.offer(&frame, Urgency::Presence);
        }
    }

    /// Under `dev` anyone may be seen, otherwise those who are visible already.
    fn may_see(&self, users: Vec<UserId>) -> (Vec<UserId>, Vec<UserId>) {
        if self.shared.settings.dev {
            return (users, Vec::new());
        }
        let names: Vec<String> = users.iter().map(ToString::to_string).collect();
        let seen = self.shared.audience.seen_by(&self.connection, &names);
        users.into_iter().partition(|user| *user == self.identity.user || seen.contains(user.as_str()))
    }

    pub(super) fn watch(&mut self, users: Vec<UserId>, asked: Asked) -> Result<Work, Failure> {
        let more = users.iter().filter(|user| !self.watched.contains(user.as_str())).count();
        if self.watched.len() + more > VISIBLE_USERS_MAX {
            let message = format!("at most {} users can be watched", VISIBLE_USERS_MAX);
            return Err(Failure::new(ErrorCode::TooLarge, message));
        }
        Ok(self.online_status(users, true, asked))
    }

    pub(super) fn online_status(&mut self, users: Vec<UserId>, watch: bool, asked: Asked) -> Work {
        let (visible, hidden) = self.may_see(users);
        if watch {
            self.watched.extend(visible.iter().cloned());
        }
        let (shared, connection) = (self.shared.clone(), self.connection.clone());
        Box::pin(async move {
            let mut users = if watch {
                shared.watch(&connection, &visible).await
            } else {
                shared.presence_of(&visible).await
            };
            users.extend(hidden.iter().map(|user| unknown_presence(user.as_str())));
            reply_to(&connection, &Reply::OnlineStatus { users }, &asked);
            Done::Told
        })
    }

    pub(super) fn unwatch(&mut self, users: Vec<UserId>, asked: Asked) -> Work {
        for user in &users {
            self.watched.remove(user.as_str());
        }
        self.shared.unwatch(&self.connection, &users);
        self.online_status(users, false, asked)
    }
}
