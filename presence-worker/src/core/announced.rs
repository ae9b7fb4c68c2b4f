//! The content of a gateway's snapshot, collected until its last part has come. Everything that the gateway announced
//! before and that is not in the snapshot is removed then.

use crate::limits::ANNOUNCED_MAX;
use carillon_proto::id::{ConversationId, UserId};
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet};

/// The content of a snapshot, as far as its parts have come.
#[derive(Debug, Default)]
pub struct Announced {
    sessions: HashMap<UserId, SmallVec<[u64; 2]>>,
    watches: HashSet<UserId>,
    rooms: HashMap<ConversationId, HashSet<UserId>>,
    records: HashSet<String>,
    count: usize,
    /// The number of the snapshot's last part.
    pub last_part: u64,
}

impl Announced {
    /// A snapshot that ends with the part of this number.
    pub fn until(last_part: u64) -> Announced {
        Announced { last_part, ..Announced::default() }
    }

    /// Adds a session.
    pub fn add_session(&mut self, user: &UserId, session: u64) {
        self.sessions.entry(user.clone()).or_default().push(session);
        self.count += 1;
    }

    /// Removes a session that ended between two parts.
    pub fn remove_session(&mut self, user: &str, session: u64) {
        if let Some(sessions) = self.sessions.get_mut(user) {
            sessions.retain(|other| *other != session);
        }
    }

    /// Adds a watch.
    pub fn add_watch(&mut self, user: &UserId) {
        self.count += usize::from(self.watches.insert(user.clone()));
    }

    /// Removes a watch that ended between two parts.
    pub fn remove_watch(&mut self, user: &str) {
        self.watches.remove(user);
    }

    /// Adds a user in a room.
    pub fn add_room(&mut self, conversation: &ConversationId, user: &UserId) {
        self.count += usize::from(self.rooms.entry(conversation.clone()).or_default().insert(user.clone()));
    }

    /// Removes a user who left a room between two parts.
    pub fn remove_room(&mut self, conversation: &str, user: &str) {
        if let Some(users) = self.rooms.get_mut(conversation) {
            users.remove(user);
        }
    }

    /// Adds a record of connection-state recovery.
    pub fn add_record(&mut self, pid: String) {
        self.count += usize::from(self.records.insert(pid));
    }

    /// Removes a record whose session ended between two parts.
    pub fn remove_record(&mut self, pid: &str) {
        self.records.remove(pid);
    }

    /// Whether the snapshot has the record.
    pub fn has_record(&self, pid: &str) -> bool {
        self.records.contains(pid)
    }

    /// Whether the snapshot has the session.
    pub fn has_session(&self, user: &UserId, session: u64) -> bool {
        self.sessions.get(user).is_some_and(|sessions| sessions.contains(&session))
    }

    /// Whether the snapshot has the watch.
    pub fn has_watch(&self, user: &UserId) -> bool {
        self.watches.contains(user)
    }

    /// Whether the snapshot has the user in the room.
    pub fn has_room(&self, conversation: &ConversationId, user: &UserId) -> bool {
        self.rooms.get(conversation).is_some_and(|users| users.contains(user))
    }

    /// Whether the snapshot has more announcements than a gateway can have.
    pub fn is_too_large(&self) -> bool {
        self.count > ANNOUNCED_MAX
    }
}
