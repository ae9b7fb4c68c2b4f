//! The gateway's side of presence: it announces sessions, rooms and watches to the presence-workers, and passes
//! presence and room changes on to the connections here that see them.

pub mod directory;

mod acquaintances;
mod audience;
mod shard;

pub use acquaintances::{Refreshing, refresh};
pub use audience::{Audience, EnteredLobby, EnteredRoom};
pub use shard::{ShardHandle, shard};

use crate::connection::{ClientProtocol, Connection};
use crate::core::outbox::Urgency;
use crate::delivery::dialect;
use crate::delivery::hub::{Room, Seen};
use crate::presence::directory::LocalSession;
use crate::shared::Shared;
use bytes::Bytes;
use carillon_proto::id::UserId;
use carillon_proto::partition::presence_shard;
use carillon_proto::wire::{self, presence_change::Body as Change, presence_result::Body as Outcome};
use std::collections::HashSet;
use std::sync::Arc;

/// The answer of presence to a session that starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAdmission {
    /// The session counts among its user's connections.
    Admitted,
    /// The user has as many connections as allowed.
    TooMany,
}

impl Shared {
    /// Announces a session, which counts among its user's connections until [`Shared::end_session`]. It is refused if
    /// the user has `limit` connections already; 0 for no limit. If no presence-worker answers, the session is
    /// admitted.
    pub async fn start_session(&self, session: LocalSession, limit: u32) -> SessionAdmission {
        let started = Change::SessionStarted(session.started(limit));
        let connection = session.connection.clone();
        self.directory.add(session);
        match self.request_presence(started).await {
            Some(Outcome::Done(false)) => {
                // A snapshot sent meanwhile may have announced the session.
                self.end_session(&connection);
                SessionAdmission::TooMany
            }
            _ => SessionAdmission::Admitted,
        }
    }

    /// The presence of users, without following its changes. Each user once; unknown users are offline.
    pub async fn presence_of(&self, users: &[UserId]) -> Vec<wire::UserPresence> {
        self.presence_by(users, |user| Change::StatusQuery(wire::StatusQuery { user })).await
    }

    /// The presence of users. The connection receives its changes from now on.
    pub async fn watch(&self, connection: &Arc<Connection>, users: &[UserId]) -> Vec<wire::UserPresence> {
        for user in users {
            self.audience.watch(user, connection);
        }
        let presences = self.presence_by(users, |user| Change::Watch(wire::Watch { user })).await;
        presences.iter().for_each(|presence| self.audience.store(presence));
        presences
    }

    /// Ends what [`Shared::watch`] began.
    pub fn unwatch(&self, connection: &Connection, users: &[UserId]) {
        for user in users {
            if self.audience.unwatch(user, connection) {
                self.announce_presence(Change::Unwatch(wire::Unwatch { user: user.to_string() }));
            }
        }
    }

    async fn presence_by(
        &self,
        users: &[UserId],
        change: impl Fn(String) -> Change,
    ) -> Vec<wire::UserPresence> {
        let mut seen = HashSet::new();
        let distinct = users.iter().filter(|user| seen.insert(user.as_str()));
        let answers = distinct.map(|user| async {
            match self.request_presence(change(user.to_string())).await {
                Some(Outcome::User(presence)) => presence,
                _ => carillon_proto::event::unknown_presence(user.as_str()),
            }
        });
        futures_util::future::join_all(answers).await
    }

    /// Announces a change and waits for its result; `None` when no presence-worker answers.
    pub(crate) async fn request_presence(&self, change: Change) -> Option<Outcome> {
        self.presence_of_change(&change).request(change).await
    }

    /// Announces a change that may be refused. Returns whether it was applied.
    pub(crate) async fn is_accepted(&self, change: Change) -> bool {
        self.request_presence(change).await == Some(Outcome::Done(true))
    }

    /// Announces a change without waiting for its result.
    pub(crate) fn announce_presence(&self, change: Change) {
        self.presence_of_change(&change).announce(change);
    }

    fn presence_of_change(&self, change: &Change) -> &ShardHandle {
        &self.presence[presence_shard(subject_of(change)) as usize]
    }

    /// Ends a session, so that it does not count any more.
    pub(crate) fn end_session(&self, connection: &Connection) {
        self.directory.remove(connection);
        let (user, session) = (connection.user.to_string(), connection.id);
        self.announce_presence(Change::SessionEnded(wire::SessionEnded { user, session }));
    }

    /// Applies the changes that a presence-worker sent.
    pub fn handle_presence_changes(&self, changes: wire::PresenceChanges) {
        if changes.snapshot_wanted
            && let Some(shard) = self.presence.get(changes.shard as usize)
        {
            shard.snapshot();
        }
        for user in &changes.crowded {
            self.find_dead(user);
        }
        for room in changes.rooms {
            self.room_changed(room);
        }
        for user in changes.users {
            self.user_changed(&user);
        }
    }

    fn user_changed(&self, presence: &wire::UserPresence) {
        self.show(presence, self.audience.update(presence));
        if !presence.online && self.audience.forget_gone(&presence.user) {
            let user = presence.user.clone();
            self.announce_presence(Change::Unwatch(wire::Unwatch { user }));
        }
    }

    fn show(&self, presence: &wire::UserPresence, viewers: Vec<Arc<Connection>>) {
        if viewers.is_empty() {
            return;
        }
        let mut made: Vec<(ClientProtocol, Bytes)> = Vec::new();
        for connection in viewers.iter().filter(|connection| connection.receives_presence()) {
            let known = made.iter().position(|(protocol, _)| *protocol == connection.protocol);
            let index = known.unwrap_or_else(|| {
                let namespace = match connection.protocol {
                    ClientProtocol::Native => None,
                    ClientProtocol::SocketIo(namespace) => Some(namespace),
                };
                made.push((connection.protocol, dialect::presence(namespace, presence)));
                made.len() - 1
            });
            connection.offer(&made[index].1, Urgency::Presence);
        }
    }

    /// Whether a change still describes the present state. A leave is announced after the step in which it happened. If
    /// the user has joined again by then, the leave is dropped, because the announcement of that join may already have
    /// been sent before it. The same holds for watches.
    fn still_holds(&self, change: &Change) -> bool {
        match change {
            Change::RoomLeft(left) => !self
                .delivery
                .hub
                .in_room(&left.conversation, |state| state.users.contains_key(left.user.as_str())),
            Change::Watch(watch) => self.audience.sees(&watch.user),
            Change::Unwatch(unwatch) => !self.audience.sees(&unwatch.user),
            _ => true,
        }
    }

    /// Applies a presence-worker's answer to a join or leave of a user of this gateway. Called in the order of the
    /// announcements, so that members here receive joins and leaves in that order.
    fn handle_room_state(&self, change: &Change, state: &wire::RoomState) {
        let (conversation, user, joined) = match change {
            Change::RoomJoined(joined) => (&joined.conversation, &joined.user, true),
            Change::RoomLeft(left) => (&left.conversation, &left.user, false),
            _ => return,
        };
        let Some(room) = self.delivery.hub.room(conversation) else { return };
        room.lock().participants = state.participants;
        if state.changed {
            room.show_arrival(user, state.participants, joined);
        }
    }

    fn room_changed(&self, change: wire::RoomChange) {
        let Some(room) = self.delivery.hub.room(&change.conversation) else { return };
        let Ok(user) = UserId::parse(&change.user) else { return };
        room.lock().participants = change.participants;
        room.show_arrival(user.as_str(), change.participants, change.joined);
        if change.joined {
            if change.visible {
                self.becomes_visible(&room, &user);
            }
        } else if self.audience.leave_room(&room, &user, change.disconnected) {
            self.announce_presence(Change::Unwatch(wire::Unwatch { user: user.to_string() }));
        }
    }

    /// A user joined a room and may be seen there. Each connection that did not see the user before receives one
    /// presence.
    pub(crate) fn becomes_visible(&self, room: &Arc<Room>, user: &UserId) {
        let EnteredRoom { new_viewers, shown, closed } = self.audience.enter_room(room, user);
        if !closed {
            self.show_entered(user, shown, new_viewers);
        }
    }

    /// Sends a user's presence, if online, to connections that now see the user.
    fn show_entered(
        &self,
        user: &UserId,
        shown: Option<wire::UserPresence>,
        new_viewers: Vec<Arc<Connection>>,
    ) {
        if let Some(presence) = shown {
            if presence.online {
                self.show(&presence, new_viewers);
            }
            return;
        }
        let (Some(shared), user) = (self.this.upgrade(), user.clone()) else { return };
        tokio::spawn(async move {
            if let Some(presence) = shared.look_at(&user).await {
                shared.show(&presence, new_viewers);
            }
        });
    }

    /// Under `dev`, makes the user of a connection and all other users here visible to all native clients, up to a
    /// bound. Returns the other users that are online.
    pub(crate) async fn enter_lobby(&self, connection: &Arc<Connection>) -> Vec<String> {
        let Some(entered) = self.audience.enter_lobby(connection) else { return Vec::new() };
        let EnteredLobby { new_viewers, shown, others } = entered;
        self.show_entered(&connection.user, shown, new_viewers);
        let presences = others.into_iter().map(|(user, shown)| async move {
            match shown {
                Some(presence) => Some(presence).filter(|presence| presence.online),
                None => self.look_at(&user).await,
            }
        });
        let online = futures_util::future::join_all(presences).await.into_iter().flatten();
        online.map(|presence| presence.user).collect()
    }

    /// Ends what [`Shared::enter_lobby`] began. The user stays visible until offline.
    pub(crate) fn leave_lobby(&self, connection: &Connection) {
        if self.audience.leave_lobby(connection) {
            let user = connection.user.to_string();
            self.announce_presence(Change::Unwatch(wire::Unwatch { user }));
        }
    }

    /// Sends a connection the presence of those of these users who are online. It must already watch them.
    pub(crate) fn show_online(&self, connection: &Arc<Connection>, users: &[UserId]) {
        self.audience.show_again(users, |presence| {
            if presence.online {
                self.show(presence, vec![connection.clone()]);
            }
        });
    }

    /// A connection joined a room whose visible users are `visible`. It receives the presence of those who are online
    /// and not in `before`, the users that it saw already.
    pub(crate) async fn sees(
        &self,
        room: &Arc<Room>,
        connection: &Arc<Connection>,
        visible: &[String],
        before: &HashSet<String>,
    ) {
        let others = visible.iter().filter(|user| *user != connection.user.as_str());
        let others: Vec<UserId> = others.filter_map(|user| UserId::parse(user).ok()).collect();
        let presences = others.iter().map(|user| async {
            match self.audience.enter_room(room, user) {
                EnteredRoom { closed: true, .. } => None,
                EnteredRoom { shown: Some(presence), .. } => {
                    Some(presence).filter(|presence| presence.online)
                }
                EnteredRoom { shown: None, .. } => self.look_at(user).await,
            }
        });
        for presence in futures_util::future::join_all(presences).await.into_iter().flatten() {
            if !before.contains(&presence.user) {
                self.show(&presence, vec![connection.clone()]);
            }
        }
    }

    /// Watches a user whom no connection here saw before. Returns the user's presence if online.
    async fn look_at(&self, user: &UserId) -> Option<wire::UserPresence> {
        let watch = Change::Watch(wire::Watch { user: user.to_string() });
        match self.request_presence(watch).await {
            Some(Outcome::User(presence)) => {
                self.audience.store(&presence);
                presence.online.then_some(presence)
            }
            _ => None,
        }
    }

    /// Everything that this gateway announces to one shard, for a worker that is new or missed a batch.
    pub(crate) fn presence_snapshot(&self, shard: u32) -> Vec<wire::PresenceChange> {
        let mut changes = Vec::new();
        let mut add = |body| changes.push(wire::PresenceChange { body: Some(body) });
        for local in self.directory.sessions(shard) {
            add(Change::SessionStarted(local.started(0)));
        }
        for kept in self.recoveries.of_shard(shard) {
            add(Change::RecoveryKept(kept));
        }
        for user in self.audience.watched(shard) {
            add(Change::Watch(wire::Watch { user }));
        }
        for room in self.delivery.hub.all() {
            if presence_shard(room.conversation.as_str()) == shard {
                for user in room.lock().users.keys() {
                    let (conversation, user) = (room.conversation.to_string(), user.to_string());
                    add(Change::RoomJoined(wire::RoomJoined { conversation, user }));
                }
            }
        }
        changes
    }
}

/// The id that decides to which shard a change belongs.
fn subject_of(change: &Change) -> &str {
    match change {
        Change::SessionStarted(change) => &change.user,
        Change::SessionEnded(change) => &change.user,
        Change::StatusSet(change) => &change.user,
        Change::Watch(change) => &change.user,
        Change::Unwatch(change) => &change.user,
        Change::RoomJoined(change) => &change.conversation,
        Change::RoomLeft(change) => &change.conversation,
        Change::StatusQuery(change) => &change.user,
        Change::ProfileQuery(change) => &change.user,
        Change::RecoveryKept(change) => change.record.as_ref().map_or("", |record| &record.pid),
        Change::RecoverySubscribed(change) => &change.pid,
        Change::RecoveryUnsubscribed(change) => &change.pid,
        Change::RecoveryEnded(change) => &change.pid,
        Change::RecoveryQuery(change) => &change.pid,
    }
}

/// How a user is seen in a room after leaving it. `None` if they are not visible there any more; a user who lost the
/// connection stays visible until offline.
pub(crate) fn seen_after(disconnected: bool) -> Option<Seen> {
    disconnected.then_some(Seen::Gone)
}
