//! The users that are connected to this gateway, with their sessions and rate allowances.

use crate::connection::Connection;
use crate::core::rate::Bucket;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::partition::presence_shard;
use carillon_proto::wire::{Profile, SessionPlace, SessionStarted, Status};
use carillon_runtime::collections::Spare;
use carillon_runtime::settings::Limits;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Actions with a limit per user and minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Message,
    Typing,
    Cursor,
    /// Operations and broadcasts.
    Operation,
}

impl Action {
    fn per_minute(self, limits: &Limits) -> u32 {
        match self {
            Self::Message => limits.messages_per_minute,
            Self::Typing => limits.typing_per_minute,
            Self::Cursor => limits.cursors_per_minute,
            Self::Operation => limits.operations_per_minute,
        }
    }
}

/// A session as it is announced to the presence-workers.
#[derive(Clone)]
pub struct LocalSession {
    pub connection: Arc<Connection>,
    pub profile: Profile,
    /// The status that the user set, with its text.
    pub status: Option<(Status, String)>,
    /// The gateway and number of the session that this one replaces.
    pub moved_from: Option<SessionPlace>,
}

impl LocalSession {
    /// The announcement for the presence-worker. `limit` is the user's maximum of sessions.
    pub fn started(&self, limit: u32) -> SessionStarted {
        let status = self.status.as_ref().map(|(status, _)| (*status).into());
        let text = self.status.as_ref().map(|(_, text)| text.clone()).unwrap_or_default();
        SessionStarted {
            user: self.connection.user.to_string(),
            session: self.connection.id,
            profile: Some(self.profile.clone()),
            limit,
            moved_from: self.moved_from.clone(),
            status,
            text,
        }
    }
}

/// How many messages of a user are remembered as possibly under way. When one of them is delivered, it does not end
/// typing that began after it was sent. A user rarely sends more than 16 in a slow moment.
const SENT_MAX: usize = 16;
/// How long they are remembered, in milliseconds. A message that takes longer ends later typing, which the next renewal
/// shows again.
const SENT_MS: u64 = 30_000;

/// A message that was sent to this gateway.
struct SentMessage {
    conversation: ConversationId,
    client_id: Arc<str>,
    at_ms: u64,
}

/// An action of a user that has a rate.
pub struct Sending<'a> {
    pub action: Action,
    /// The limits that apply; `None` if a backend sends the command for the user.
    pub limits: Option<&'a Limits>,
    /// The conversation and the client id of a message; `None` for other actions.
    pub message: Option<(&'a ConversationId, &'a Arc<str>)>,
}

#[derive(Default)]
struct LocalUser {
    sessions: Vec<LocalSession>,
    buckets: [Bucket; 4],
    /// Newest last.
    sent: VecDeque<SentMessage>,
    /// New connections that wait until the user has fewer sessions.
    waiting: u32,
}

impl LocalUser {
    /// Remembers a message that a connected user sends.
    fn note_sent(&mut self, conversation: &ConversationId, client_id: &Arc<str>, now_ms: u64) {
        if self.sessions.is_empty() {
            return;
        }
        self.forget_sent(now_ms);
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        let (conversation, client_id) = (conversation.clone(), client_id.clone());
        self.sent.push_back(SentMessage { conversation, client_id, at_ms: now_ms });
    }

    fn forget_sent(&mut self, now_ms: u64) {
        while self.sent.front().is_some_and(|sent| sent.at_ms + SENT_MS <= now_ms) {
            self.sent.pop_front();
        }
        if self.sent.is_empty() {
            self.sent = VecDeque::new();
        }
    }

    fn is_forgettable(&self, now_ms: u64, limits: &Limits) -> bool {
        let actions = [Action::Message, Action::Typing, Action::Cursor, Action::Operation];
        self.sessions.is_empty()
            && self.waiting == 0
            && actions
                .iter()
                .all(|action| self.buckets[*action as usize].is_full(now_ms, action.per_minute(limits)))
    }
}

/// A new connection that waits until its user has fewer sessions. Dropping it ends the waiting.
pub struct WaitingConnection<'a> {
    directory: &'a Directory,
    user: UserId,
}

impl Drop for WaitingConnection<'_> {
    fn drop(&mut self) {
        if let Some(local) = self.directory.0.lock().get_mut(&self.user) {
            local.waiting -= 1;
        }
    }
}

/// Local users. A user without a session is kept until the allowances are full again, so that reconnecting does not
/// evade a limit.
#[derive(Default)]
pub struct Directory(Mutex<HashMap<UserId, LocalUser>>);

impl Directory {
    pub fn add(&self, session: LocalSession) {
        self.0.lock().entry(session.connection.user.clone()).or_default().sessions.push(session);
    }

    /// Stores the status that a session's user set.
    pub fn set_status(&self, connection: &Connection, status: Status, text: &str) {
        if let Some(local) = self.0.lock().get_mut(&connection.user) {
            let session = local.sessions.iter_mut().find(|session| session.connection.id == connection.id);
            if let Some(session) = session {
                session.status = Some((status, text.to_owned()));
            }
        }
    }

    /// A session of this gateway, if it still exists.
    pub fn session(&self, connection: &Connection) -> Option<LocalSession> {
        let users = self.0.lock();
        let sessions = &users.get(&connection.user)?.sessions;
        sessions.iter().find(|session| session.connection.id == connection.id).cloned()
    }

    pub fn remove(&self, connection: &Connection) {
        if let Some(local) = self.0.lock().get_mut(&connection.user) {
            local.sessions.retain(|session| session.connection.id != connection.id);
        }
    }

    pub fn connections(&self) -> Vec<Arc<Connection>> {
        let users = self.0.lock();
        users
            .values()
            .flat_map(|local| local.sessions.iter().map(|session| session.connection.clone()))
            .collect()
    }

    /// Whether a user has a connection here.
    pub fn is_here(&self, user: &UserId) -> bool {
        self.0.lock().get(user).is_some_and(|local| !local.sessions.is_empty())
    }

    pub fn connections_of(&self, user: &UserId) -> Vec<Arc<Connection>> {
        let users = self.0.lock();
        let sessions = users.get(user).map(|local| local.sessions.as_slice()).unwrap_or_default();
        sessions.iter().map(|session| session.connection.clone()).collect()
    }

    /// Registers a new connection as waiting for a place. `None` if as many already wait as the user may have
    /// connections.
    pub fn wait(&self, user: &UserId, limit: u32) -> Option<WaitingConnection<'_>> {
        let mut users = self.0.lock();
        let local = users.entry(user.clone()).or_default();
        if local.waiting >= limit {
            return None;
        }
        local.waiting += 1;
        Some(WaitingConnection { directory: self, user: user.clone() })
    }

    /// Takes an action from a user's allowance. If it is a message, remembers it as possibly under way.
    ///
    /// # Errors
    /// The time until the action may be repeated, in milliseconds.
    pub fn try_send(&self, user: &UserId, sending: &Sending<'_>, now_ms: u64) -> Result<(), u64> {
        let per_minute = sending.limits.map_or(0, |limits| sending.action.per_minute(limits));
        let mut users = self.0.lock();
        let local = match users.get_mut(user) {
            Some(local) => local,
            None if per_minute == 0 => return Ok(()),
            None => users.entry(user.clone()).or_default(),
        };
        local.buckets[sending.action as usize].try_acquire(now_ms, per_minute)?;
        if let Some((conversation, client_id)) = sending.message {
            local.note_sent(conversation, client_id, now_ms);
        }
        Ok(())
    }

    /// The client ids of a user's messages to a conversation that may still be under way.
    pub fn sent(&self, user: &UserId, conversation: &ConversationId, now_ms: u64) -> Vec<String> {
        let mut users = self.0.lock();
        let Some(local) = users.get_mut(user) else { return Vec::new() };
        local.forget_sent(now_ms);
        let there = local.sent.iter().filter(|sent| sent.conversation == *conversation);
        there.map(|sent| sent.client_id.to_string()).collect()
    }

    /// The sessions whose users belong to a presence shard.
    pub fn sessions(&self, shard: u32) -> Vec<LocalSession> {
        let users = self.0.lock();
        let of_shard = users.iter().filter(|(user, _)| presence_shard(user.as_str()) == shard);
        of_shard.flat_map(|(_, local)| local.sessions.iter().cloned()).collect()
    }

    /// Removes users that have no session and full allowances. Called once a minute.
    pub fn sweep(&self, now_ms: u64, limits: &Limits) {
        let mut users = self.0.lock();
        users.values_mut().for_each(|local| local.forget_sent(now_ms));
        users.retain(|_, local| !local.is_forgettable(now_ms, limits));
        users.give_spare_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::ClientProtocol;
    use carillon_runtime::settings::{Role, Settings};

    #[test]
    fn a_message_above_the_rate_is_not_remembered_and_a_backend_has_no_rate() {
        let directory = Directory::default();
        let ann = UserId::parse("ann").expect("valid");
        let connection =
            Connection::new(1, ann.clone(), "Ann".into(), ClientProtocol::Native, Arc::default());
        let (profile, connection) = (Profile::default(), Arc::new(connection));
        directory.add(LocalSession { connection, profile, status: None, moved_from: None });
        let room = ConversationId::parse("room").expect("valid");
        let limits = Limits { messages_per_minute: 1, ..Settings::defaults(Role::Gateway).limits };
        let send = |client_id: &str, limits| {
            let client_id = client_id.into();
            let sending = Sending { action: Action::Message, limits, message: Some((&room, &client_id)) };
            directory.try_send(&ann, &sending, 1_000)
        };
        assert_eq!(send("first", Some(&limits)), Ok(()));
        assert_eq!(send("refused", Some(&limits)), Err(60_000));
        assert_eq!(send("backend", None), Ok(()));
        assert_eq!(directory.sent(&ann, &room, 1_000), ["first", "backend"]);

        let ben = UserId::parse("ben").expect("valid");
        let operation = Sending { action: Action::Operation, limits: None, message: None };
        assert_eq!(directory.try_send(&ben, &operation, 1_000), Ok(()));
        assert!(!directory.0.lock().contains_key(&ben), "a user without a session needs no entry");
    }
}
