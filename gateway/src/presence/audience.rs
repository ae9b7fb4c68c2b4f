//! Which connections of this gateway see which users: by watching them, by sharing a room, or under `dev` by being
//! connected here.

use super::seen_after;
use crate::connection::{ClientProtocol, Connection};
use crate::delivery::hub::{Room, Seen};
use crate::sync::Mutex;
use carillon_proto::id::UserId;
use carillon_proto::limits::VISIBLE_USERS_MAX;
use carillon_proto::partition::presence_shard;
use carillon_proto::wire::UserPresence;
use carillon_runtime::collections::Spare;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// From where one user is seen.
#[derive(Default)]
struct SeenFrom {
    watchers: Vec<Arc<Connection>>,
    rooms: Vec<Arc<Room>>,
    /// Whether the native clients in the lobby see the user.
    lobby: bool,
    /// The user's presence as it is known here: the last one that connections were sent, or that was read.
    shown: Option<UserPresence>,
}

/// Under `dev`, the users of this gateway whom all its native clients see, with their connections. A user without
/// connections stays until offline. At most [`VISIBLE_USERS_MAX`] users, the first that connected. Only for native
/// clients: the other vocabularies have no list of online users.
type Lobby = HashMap<UserId, Vec<Arc<Connection>>>;

fn is_native(connection: &&Arc<Connection>) -> bool {
    connection.protocol == ClientProtocol::Native
}

/// The result of a connection's entering the lobby.
pub struct EnteredLobby {
    /// The connections that did not see its user before.
    pub new_viewers: Vec<Arc<Connection>>,
    /// The last known presence of its user; `None` if no connection here saw the user before.
    pub shown: Option<UserPresence>,
    /// The other users in the lobby, with their last known presence.
    pub others: Vec<(UserId, Option<UserPresence>)>,
}

/// The result of a user's becoming visible in a room.
pub struct EnteredRoom {
    /// The members that did not see the user before.
    pub new_viewers: Vec<Arc<Connection>>,
    /// The last known presence of the user; `None` if no connection here saw the user before.
    pub shown: Option<UserPresence>,
    /// The room is closed, so the user is not visible there.
    pub closed: bool,
}

impl SeenFrom {
    fn is_empty(&self) -> bool {
        self.watchers.is_empty() && self.rooms.is_empty() && !self.lobby
    }

    /// Every connection that sees the user, once, except the user's own.
    fn viewers(&self, user: &str, lobby: &Lobby) -> Vec<Arc<Connection>> {
        let mut known = HashSet::new();
        let mut viewers = Vec::new();
        let mut add = |connection: &Arc<Connection>| {
            if connection.user.as_str() != user && known.insert(connection.id) {
                viewers.push(connection.clone());
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
        viewers
    }
}

/// All users that are seen from this gateway. Lock order: the users' lock before a room's or the lobby's.
#[derive(Default)]
pub struct Audience(Mutex<HashMap<UserId, SeenFrom>>, Mutex<Lobby>);

impl Audience {
    /// Makes a connection watch a user. Watching twice has no further effect.
    pub fn watch(&self, user: &UserId, connection: &Arc<Connection>) {
        let mut users = self.0.lock();
        let seen = users.entry(user.clone()).or_default();
        if !seen.watchers.iter().any(|watcher| watcher.id == connection.id) {
            seen.watchers.push(connection.clone());
        }
    }

    /// Ends a connection's watch of a user. Returns `true` if no connection here sees the user any more.
    pub fn unwatch(&self, user: &UserId, connection: &Connection) -> bool {
        self.change(user.as_str(), |seen| seen.watchers.retain(|watcher| watcher.id != connection.id))
    }

    /// Changes from where a user is seen. Returns `true` if the user was seen, and is not any more.
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

    /// Makes a user visible in a room.
    pub fn enter_room(&self, room: &Arc<Room>, user: &UserId) -> EnteredRoom {
        let mut users = self.0.lock();
        {
            let mut state = room.lock();
            if state.closed {
                // The room has no members, and nothing would remove the user from it later.
                return EnteredRoom { new_viewers: Vec::new(), shown: None, closed: true };
            }
            state.visible.insert(user.clone(), Seen::Present);
        }
        let seen = users.entry(user.clone()).or_default();
        let mut new_viewers = Vec::new();
        // A user who comes back before others received their absence is still in the list, and no connection is new.
        if !seen.rooms.iter().any(|other| Arc::ptr_eq(other, room)) {
            let lobby = self.1.lock();
            let known: HashSet<u64> =
                seen.viewers(user.as_str(), &lobby).iter().map(|connection| connection.id).collect();
            seen.rooms.push(room.clone());
            new_viewers = seen.viewers(user.as_str(), &lobby);
            new_viewers.retain(|connection| !known.contains(&connection.id));
        }
        EnteredRoom { new_viewers, shown: seen.shown.clone(), closed: false }
    }

    /// Adds a connection to the lobby, so that native clients there see each other's users. `None` if the lobby is
    /// full.
    pub fn enter_lobby(&self, connection: &Arc<Connection>) -> Option<EnteredLobby> {
        let (mut users, mut lobby) = (self.0.lock(), self.1.lock());
        let user = &connection.user;
        if lobby.len() >= VISIBLE_USERS_MAX && !lobby.contains_key(user) {
            return None;
        }
        let seen = users.entry(user.clone()).or_default();
        let known: HashSet<u64> =
            seen.viewers(user.as_str(), &lobby).iter().map(|connection| connection.id).collect();
        lobby.entry(user.clone()).or_default().push(connection.clone());
        seen.lobby = true;
        let mut new_viewers = seen.viewers(user.as_str(), &lobby);
        new_viewers.retain(|connection| !known.contains(&connection.id));
        let shown = |user: &UserId| users.get(user).and_then(|seen| seen.shown.clone());
        let others = lobby.keys().filter(|other| *other != user);
        let others = others.map(|other| (other.clone(), shown(other))).collect();
        Some(EnteredLobby { new_viewers, shown: shown(user), others })
    }

    /// Removes an ended connection. Its user stays in the lobby until offline. Returns `true` if the user is offline
    /// and no connection here sees them any more.
    pub fn leave_lobby(&self, connection: &Connection) -> bool {
        if let Some(connections) = self.1.lock().get_mut(&connection.user) {
            connections.retain(|other| other.id != connection.id);
        }
        let offline = self.shown(&connection.user).is_some_and(|shown| !shown.online);
        offline && self.forget_gone(connection.user.as_str())
    }

    /// The last known presence of a user who is seen from here.
    pub fn shown(&self, user: &UserId) -> Option<UserPresence> {
        self.0.lock().get(user)?.shown.clone()
    }

    /// Passes the last known presence of these users to `send`, in their order. Under the lock, so that no newer
    /// presence is sent before it.
    pub fn show_again(&self, users: &[UserId], send: impl Fn(&UserPresence)) {
        let seen = self.0.lock();
        users.iter().filter_map(|user| seen.get(user)?.shown.as_ref()).for_each(send);
    }

    /// Stores a presence that a presence-worker sent. Returns the connections that must receive it: none if it is known
    /// already.
    pub fn update(&self, presence: &UserPresence) -> Vec<Arc<Connection>> {
        let mut users = self.0.lock();
        let Some(seen) = users.get_mut(presence.user.as_str()) else { return Vec::new() };
        let same = seen.shown.as_ref().is_some_and(|shown| {
            (shown.online, shown.status, &shown.text) == (presence.online, presence.status, &presence.text)
        });
        seen.shown = Some(presence.clone());
        if same { Vec::new() } else { seen.viewers(&presence.user, &self.1.lock()) }
    }

    /// Stores the presence of a user without sending it to other connections.
    pub fn store(&self, presence: &UserPresence) {
        if let Some(seen) = self.0.lock().get_mut(presence.user.as_str()) {
            seen.shown = Some(presence.clone());
        }
    }

    /// Removes a user from a room: at once after a leave, but only once offline after a lost connection. A user who has
    /// a connection in the room again is not removed. Returns `true` if no connection here sees the user any more.
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

    /// Removes an offline user from the lobby, and from the rooms that they left by losing the connection. Returns
    /// `true` if no connection here sees them any more.
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

    /// Removes the users of a room that has no local members any more. Returns those whom no connection here sees now.
    pub fn close_room(&self, room: &Arc<Room>) -> Vec<String> {
        let visible: Vec<UserId> = std::mem::take(&mut room.lock().visible).into_keys().collect();
        let gone = |user: &UserId| {
            self.change(user.as_str(), |seen| seen.rooms.retain(|other| !Arc::ptr_eq(other, room)))
        };
        visible.iter().filter(|user| gone(user)).map(ToString::to_string).collect()
    }

    /// The users among `users` that this connection already sees.
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

    /// Whether a connection here sees a user.
    pub fn sees(&self, user: &str) -> bool {
        self.0.lock().contains_key(user)
    }

    /// The users of a shard who are seen from here.
    pub fn watched(&self, shard: u32) -> Vec<String> {
        let users = self.0.lock();
        users.keys().filter(|user| presence_shard(user.as_str()) == shard).map(ToString::to_string).collect()
    }
}
