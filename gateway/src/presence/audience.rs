//! Who on this gateway hears of whose presence: by watching, by sharing a room, or under `dev` by being here.

use super::seen_after;
use crate::connection::{Connection, Speaks};
use crate::hub::{Room, Seen};
use crate::sync::Mutex;
use carillon_proto::id::UserId;
use carillon_proto::limits::VISIBLE_USERS_MAX;
use carillon_proto::partition::presence_shard;
use carillon_proto::wire::UserPresence;
use carillon_runtime::collections::Spare;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Where one user is seen from.
#[derive(Default)]
struct SeenFrom {
    watchers: Vec<Arc<Connection>>,
    rooms: Vec<Arc<Room>>,
    /// The native clients in the lobby see the user.
    lobby: bool,
    /// What was told last.
    shown: Option<UserPresence>,
}

/// Under `dev`, the users of this gateway whom all native clients in here see, with their connections; without any they
/// are seen until they are offline. At most [`VISIBLE_USERS_MAX`], the first that came. Other vocabularies have no list of
/// who is online that this would be true to.
type Lobby = HashMap<UserId, Vec<Arc<Connection>>>;

fn is_native(connection: &&Arc<Connection>) -> bool {
    connection.speaks == Speaks::Native
}

/// A connection that came into the lobby.
pub struct EnteredLobby {
    /// Those who did not see its user before.
    pub new_hearers: Vec<Arc<Connection>>,
    /// What is known of its user; `None` when nobody here saw them before.
    pub shown: Option<UserPresence>,
    /// The others in there, likewise.
    pub others: Vec<(UserId, Option<UserPresence>)>,
}

/// A user who may be seen in a room.
pub struct EnteredRoom {
    /// Members who did not see the user before.
    pub new_hearers: Vec<Arc<Connection>>,
    /// What is known of the user; `None` when nobody here saw them before.
    pub shown: Option<UserPresence>,
    /// The room has gone: nobody is seen there.
    pub closed: bool,
}

impl SeenFrom {
    fn is_empty(&self) -> bool {
        self.watchers.is_empty() && self.rooms.is_empty() && !self.lobby
    }

    /// Every connection that sees the user, once, their own excepted.
    fn hearers(&self, user: &str, lobby: &Lobby) -> Vec<Arc<Connection>> {
        let mut known = HashSet::new();
        let mut hearers = Vec::new();
        let mut add = |connection: &Arc<Connection>| {
            if connection.user.as_str() != user && known.insert(connection.id) {
                hearers.push(connection.clone());
            }
        };
        self.watchers.iter().for_each(&mut add);
        if self.lobby {
            lobby.values().flatten().filter(is_native).for_each(&mut add);
        }
        for room in &self.rooms {
            for (_, member) in room.lock().topic.members() {
                if member.dialect.names_presence() {
                    add(&member.connection);
                }
            }
        }
        hearers
    }
}

/// All users who are seen from this gateway. A room's lock and the lobby's are taken under the users', never the other
/// way.
#[derive(Default)]
pub struct Audience(Mutex<HashMap<UserId, SeenFrom>>, Mutex<Lobby>);

impl Audience {
    /// A connection watches a user; watching twice is watching once.
    pub fn watch(&self, user: &UserId, connection: &Arc<Connection>) {
        let mut users = self.0.lock();
        let seen = users.entry(user.clone()).or_default();
        if !seen.watchers.iter().any(|watcher| watcher.id == connection.id) {
            seen.watchers.push(connection.clone());
        }
    }

    /// A connection no longer watches a user; `true` when nobody here sees the user any more.
    pub fn unwatch(&self, user: &UserId, connection: &Connection) -> bool {
        self.change(user.as_str(), |seen| seen.watchers.retain(|watcher| watcher.id != connection.id))
    }

    /// Changes where a known user is seen from; `true` when they were, and are no longer.
    fn change(&self, user: &str, change: impl FnOnce(&mut SeenFrom)) -> bool {
        let mut users = self.0.lock();
        let Some(seen) = users.get_mut(user) else { return false };
        change(seen);
        let gone = seen.is_empty();
        if gone {
            users.remove(user);
            users.give_spare_back();
        }
        gone
    }

    /// A user may be seen in a room from now on.
    pub fn enter_room(&self, room: &Arc<Room>, user: &UserId) -> EnteredRoom {
        let mut users = self.0.lock();
        {
            let mut state = room.lock();
            if state.closed {
                // Nobody is in there any more, and nothing would take the user out of it again.
                return EnteredRoom { new_hearers: Vec::new(), shown: None, closed: true };
            }
            state.visible.insert(user.clone(), Seen::Present);
        }
        let seen = users.entry(user.clone()).or_default();
        let mut new_hearers = Vec::new();
        // One who is back before their absence was told is in there already: nobody noticed it.
        if !seen.rooms.iter().any(|other| Arc::ptr_eq(other, room)) {
            let lobby = self.1.lock();
            let known: HashSet<u64> =
                seen.hearers(user.as_str(), &lobby).iter().map(|connection| connection.id).collect();
            seen.rooms.push(room.clone());
            new_hearers = seen.hearers(user.as_str(), &lobby);
            new_hearers.retain(|connection| !known.contains(&connection.id));
        }
        EnteredRoom { new_hearers, shown: seen.shown.clone(), closed: false }
    }

    /// A connection is in the lobby from now on: who hears of its user, and of whom it does. `None` where it is full.
    pub fn enter_lobby(&self, connection: &Arc<Connection>) -> Option<EnteredLobby> {
        let (mut users, mut lobby) = (self.0.lock(), self.1.lock());
        let user = &connection.user;
        if lobby.len() >= VISIBLE_USERS_MAX && !lobby.contains_key(user) {
            return None;
        }
        let seen = users.entry(user.clone()).or_default();
        let known: HashSet<u64> =
            seen.hearers(user.as_str(), &lobby).iter().map(|connection| connection.id).collect();
        lobby.entry(user.clone()).or_default().push(connection.clone());
        seen.lobby = true;
        let mut new_hearers = seen.hearers(user.as_str(), &lobby);
        new_hearers.retain(|connection| !known.contains(&connection.id));
        let shown = |user: &UserId| users.get(user).and_then(|seen| seen.shown.clone());
        let others = lobby.keys().filter(|other| *other != user);
        let others = others.map(|other| (other.clone(), shown(other))).collect();
        Some(EnteredLobby { new_hearers, shown: shown(user), others })
    }

    /// A connection has ended: its user stays in the lobby until they are offline. `true` when they are, and nobody here
    /// sees them any more.
    pub fn leave_lobby(&self, connection: &Connection) -> bool {
        if let Some(connections) = self.1.lock().get_mut(&connection.user) {
            connections.retain(|other| other.id != connection.id);
        }
        let offline = self.shown(&connection.user).is_some_and(|shown| !shown.online);
        offline && self.forget_gone(connection.user.as_str())
    }

    /// What was told last of a user who is seen from here.
    pub fn shown(&self, user: &UserId) -> Option<UserPresence> {
        self.0.lock().get(user)?.shown.clone()
    }

    /// Tells what is known of these users, in their order. Under the lock, so that nothing newer is told before it.
    pub fn show_again(&self, users: &[UserId], tell: impl Fn(&UserPresence)) {
        let seen = self.0.lock();
        users.iter().filter_map(|user| seen.get(user)?.shown.as_ref()).for_each(tell);
    }

    /// What a presence-worker said of a user: those who must be told, nobody if they know it already.
    pub fn told(&self, presence: &UserPresence) -> Vec<Arc<Connection>> {
        let mut users = self.0.lock();
        let Some(seen) = users.get_mut(presence.user.as_str()) else { return Vec::new() };
        let same = seen.shown.as_ref().is_some_and(|shown| {
            (shown.online, shown.status, &shown.text) == (presence.online, presence.status, &presence.text)
        });
        seen.shown = Some(presence.clone());
        if same { Vec::new() } else { seen.hearers(&presence.user, &self.1.lock()) }
    }

    /// What is known of a user without a change to tell.
    pub fn learnt(&self, presence: &UserPresence) {
        if let Some(seen) = self.0.lock().get_mut(presence.user.as_str()) {
            seen.shown = Some(presence.clone());
        }
    }

    /// A user left a room: at once if they asked to, when they are offline if their connection ended. One who has a
    /// connection there is back already, and has not left. `true` when nobody here sees the user any more.
    pub fn leave_room(&self, room: &Arc<Room>, user: &UserId, disconnected: bool) -> bool {
        if let Some(gone) = seen_after(disconnected) {
            let mut state = room.lock();
            if !state.users.contains_key(user)
                && let Some(seen) = state.visible.get_mut(user.as_str())
            {
                *seen = gone;
            }
            return false;
        }
        self.change(user.as_str(), |seen| {
            let mut state = room.lock();
            if !state.users.contains_key(user) {
                state.visible.remove(user.as_str());
                seen.rooms.retain(|other| !Arc::ptr_eq(other, room));
            }
        })
    }

    /// A user is offline: the rooms that they had left with their connection forget them, and so does the lobby. `true`
    /// when nobody here sees them any more.
    pub fn forget_gone(&self, user: &str) -> bool {
        self.change(user, |seen| {
            let mut lobby = self.1.lock();
            if lobby.get(user).is_some_and(Vec::is_empty) {
                lobby.remove(user);
                seen.lobby = false;
            }
            seen.rooms.retain(|room| {
                let mut state = room.lock();
                let leaves = state.visible.get(user) == Some(&Seen::Gone);
                if leaves {
                    state.visible.remove(user);
                }
                !leaves
            });
        })
    }

    /// A room has no local members any more: the users whom nobody here sees now.
    pub fn close_room(&self, room: &Arc<Room>) -> Vec<String> {
        let visible: Vec<UserId> = std::mem::take(&mut room.lock().visible).into_keys().collect();
        let gone = |user: &UserId| {
            self.change(user.as_str(), |seen| seen.rooms.retain(|other| !Arc::ptr_eq(other, room)))
        };
        visible.iter().filter(|user| gone(user)).map(ToString::to_string).collect()
    }

    /// The users among `users` whom this connection sees already.
    pub fn seen_by(&self, connection: &Connection, users: &[String]) -> HashSet<String> {
        let all = self.0.lock();
        let own = |other: &Arc<Connection>| other.id == connection.id;
        let lobby = self.1.lock();
        let in_lobby = lobby.get(&connection.user).is_some_and(|here| here.iter().filter(is_native).any(own));
        let sees = |user: &&String| {
            all.get(user.as_str()).is_some_and(|seen| {
                seen.watchers.iter().any(own)
                    || (seen.lobby && in_lobby)
                    || seen.rooms.iter().any(|room| {
                        room.lock().topic.members().any(|(_, member)| member.connection.id == connection.id)
                    })
            })
        };
        users.iter().filter(sees).cloned().collect()
    }

    /// Whether anybody here sees a user.
    pub fn sees(&self, user: &str) -> bool {
        self.0.lock().contains_key(user)
    }

    /// The users of a shard who are seen from here.
    pub fn watched(&self, shard: u32) -> Vec<String> {
        let users = self.0.lock();
        users.keys().filter(|user| presence_shard(user.as_str()) == shard).map(ToString::to_string).collect()
    }
}
