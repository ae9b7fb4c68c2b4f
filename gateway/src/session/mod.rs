//! One connection's session: its subscriptions, the users that it watches, and the handling of its commands.
//!
//! A command that needs an answer from another service becomes [`Work`]. The connection's task runs one at a time, in
//! order. All other commands are handled at once.

pub(crate) mod crowd;
pub mod handler;
pub(crate) mod join;
pub(crate) mod recovery;
pub(crate) mod running;
pub mod start;

mod catch_up;
mod membership;
mod messages;
mod presence;
mod replies;

pub use replies::{notify, notify_first, reply_to};

use crate::access::auth::Identity;
use crate::connection::Connection;
use crate::core::topic::Slot;
use crate::core::tracker::Tracker;
use crate::delivery::dialect::{CommandOrigin, Dialect};
use crate::delivery::hub::Room;
use crate::delivery::reads::Page;
use crate::metrics;
use crate::presence::directory::Action;
use crate::session::join::Entered;
use crate::shared::Shared;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::command::Command;
use carillon_proto::event::Reply;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::limits::JOINED_CONVERSATIONS_MAX;
use carillon_proto::wire::{self, Authority, presence_change::Body as Change};
use carillon_runtime::time::steady_ms;
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

/// `retry_after` for a client that has used all places of its tracker. A new base of offsets frees places by then.
const REBASE_RETRY_MS: u64 = 30_000;

/// Minimum time between two `rate_limited` errors for cursors.
const CURSOR_REFUSAL_MS: u64 = 60_000;

/// A step that waits for an answer from another service.
pub type Work = Pin<Box<dyn Future<Output = WorkResult> + Send>>;

/// The member for which a page is read, and the seq after which it is read.
pub struct PageCursor {
    room: Arc<Room>,
    dialect: Dialect,
    slot: Slot,
    after_seq: u64,
}

/// The result of [`Work`].
pub enum WorkResult {
    /// A conversation was joined.
    Entered(Entered),
    /// A page was read for a member that is behind.
    Page(PageCursor, Page),
    /// These users are watched now.
    Watched(Vec<UserId>),
    /// Nothing is left to do: the client has its answer.
    Replied,
}

/// A subscription: a member's slot in its room, and the dialect in which it receives events.
struct MemberSlot {
    dialect: Dialect,
    slot: Slot,
}

/// A joined conversation. Most clients join it in one vocabulary.
struct JoinedConversation {
    room: Arc<Room>,
    members: SmallVec<[MemberSlot; 1]>,
    typing: bool,
}

impl JoinedConversation {
    fn slot(&self, dialect: Dialect) -> Option<Slot> {
        self.members.iter().find(|member| member.dialect == dialect).map(|member| member.slot)
    }
}

/// One connection's session.
pub struct Session {
    shared: Arc<Shared>,
    /// The connection.
    pub connection: Arc<Connection>,
    /// The user, and what the user's token allows.
    pub identity: Identity,
    joined: HashMap<ConversationId, JoinedConversation>,
    watched: HashSet<UserId>,
    behind: Vec<Arc<Room>>,
    /// When the last `rate_limited` error for cursors was sent.
    cursor_refused_ms: Option<u64>,
    /// The client disconnected deliberately and does not come back to recover the session.
    pub left_deliberately: bool,
}

impl Session {
    /// A session without subscriptions.
    pub fn new(shared: Arc<Shared>, connection: Arc<Connection>, identity: Identity) -> Session {
        Session {
            shared,
            connection,
            identity,
            joined: HashMap::new(),
            watched: HashSet::new(),
            behind: Vec::new(),
            cursor_refused_ms: None,
            left_deliberately: false,
        }
    }

    /// Maximum length of a message's content in code points; 0 means no limit.
    pub fn content_chars_max(&self) -> usize {
        self.shared.settings.limits.content_chars
    }

    /// Makes a new base for the offsets of a recoverable client when the offsets have become long.
    pub fn rebase(&self) -> Option<Work> {
        let settings = &self.shared.settings;
        // A client that does not answer a ping for this long is closed. One that is still open has received everything
        // that was written before.
        let received_within_ms = (settings.ping_interval + settings.ping_timeout).as_millis() as u64;
        let wants = |tracker: &mut Tracker| tracker.wants_base(steady_ms(), received_within_ms);
        self.connection.outgoing.tracked(wants).filter(|wants| *wants)?;
        let (shared, connection) = (self.shared.clone(), self.connection.clone());
        Some(Box::pin(async move {
            shared.rebase_recovery(&connection).await;
            WorkResult::Replied
        }))
    }

    /// Queues a reply.
    pub fn reply(&self, reply: &Reply, origin: &CommandOrigin) {
        reply_to(&self.connection, reply, origin);
    }

    /// Replies with an error.
    pub fn refuse(&self, failure: Failure, origin: &CommandOrigin) {
        metrics::ERRORS.inc();
        self.reply(&Reply::Error(failure), origin);
    }

    /// Handles a command. Returns the work to wait for, if there is any.
    pub fn handle_command(&mut self, command: Command, origin: &CommandOrigin) -> Option<Work> {
        let restored = match (&command, origin) {
            (Command::Join { conversation, .. }, CommandOrigin::Restored(dialect)) => {
                Some((conversation.clone(), *dialect))
            }
            _ => None,
        };
        self.execute(command, origin.clone()).unwrap_or_else(|failure| {
            match restored {
                Some((conversation, dialect)) => {
                    metrics::ERRORS.inc();
                    join::refuse_restored(&self.shared, &self.connection, &conversation, dialect, &failure);
                }
                None => self.refuse(failure, origin),
            }
            None
        })
    }

    fn execute(&mut self, command: Command, origin: CommandOrigin) -> Result<Option<Work>, Failure> {
        match command {
            Command::Ping => self.reply(&Reply::Pong, &origin),
            Command::Authenticate { token } => self.renew(&token, &origin)?,
            Command::Join { conversation, after_seq } => {
                return self.join(conversation, after_seq, origin).map(Some);
            }
            Command::Leave { conversation } => return Ok(Some(self.leave(&conversation, origin))),
            Command::Send(send) => self.send(send, origin)?,
            Command::Typing { conversation, typing } => {
                self.typing(&conversation, typing)?;
                self.acknowledge(&origin);
            }
            Command::GetOnlineStatus { users } => {
                return Ok(Some(self.online_status(users, false, origin)));
            }
            Command::WatchPresence { users } => return self.watch(users, origin).map(Some),
            Command::UnwatchPresence { users } => return Ok(Some(self.unwatch(users, origin))),
            Command::SetStatus { status, text } => {
                if origin.dialect().names_presence() {
                    self.enable_presence();
                }
                let (user, session) = (self.identity.user.to_string(), self.connection.id);
                self.shared.directory.set_status(&self.connection, status, &text);
                let change = wire::StatusSet { user, session, status: status.into(), text };
                self.shared.announce_presence(Change::StatusSet(change));
                self.reply(&Reply::Ack, &origin);
            }
            Command::History { conversation, from, limit } => {
                return self.history(conversation, from, limit, origin).map(Some);
            }
            Command::Broadcast { conversation, event, data } => {
                self.allow(Action::Operation)?;
                let kind = wire::ephemeral::Kind::Broadcast(wire::Broadcast { event, data });
                self.pass_on(&conversation, kind)?;
                self.acknowledge(&origin);
            }
            Command::MoveCursor { conversation, position } => {
                if self.allow_cursor()? {
                    self.pass_on(&conversation, wire::ephemeral::Kind::Cursor(position))?;
                }
                self.acknowledge(&origin);
            }
        }
        Ok(None)
    }

    /// Confirms a command that has no reply of its own, if the client passed a callback.
    fn acknowledge(&self, origin: &CommandOrigin) {
        if matches!(origin, CommandOrigin::Event { ack: Some(_), .. }) {
            self.reply(&Reply::Ack, origin);
        }
    }

    fn authority(&self, conversation: &ConversationId) -> Result<Authority, Failure> {
        self.shared.access.authority(&self.identity, conversation).ok_or_else(Failure::forbidden)
    }

    fn allow(&self, action: Action) -> Result<(), Failure> {
        self.shared.allow(&self.identity.user, action)
    }

    /// Cursors above the rate are dropped, with at most one error a minute
    /// (`docs/protocol.md#details`).
    fn allow_cursor(&mut self) -> Result<bool, Failure> {
        let Err(failure) = self.allow(Action::Cursor) else { return Ok(true) };
        metrics::CURSORS_DROPPED.inc();
        let now_ms = steady_ms();
        if self.cursor_refused_ms.is_some_and(|refused_ms| now_ms < refused_ms + CURSOR_REFUSAL_MS) {
            return Ok(false);
        }
        self.cursor_refused_ms = Some(now_ms);
        Err(failure)
    }

    fn renew(&mut self, token: &str, origin: &CommandOrigin) -> Result<(), Failure> {
        let identity =
            self.shared.verifier.verify(token).map_err(crate::access::auth::TokenError::failure)?;
        if identity.user != self.identity.user {
            return Err(Failure::new(ErrorCode::Unauthorized, "the token is somebody else's: connect anew"));
        }
        let (user, expires_ms) = (identity.user.clone(), identity.expires_ms.unwrap_or(u64::MAX));
        self.identity = identity;
        self.shared.renew_identity(&self.connection, self.identity.pack(self.profile()));
        self.reply(&Reply::Authenticated { user, expires_ms }, origin);
        self.end_forbidden();
        Ok(())
    }

    fn join(
        &self,
        conversation: ConversationId,
        after_seq: Option<u64>,
        origin: CommandOrigin,
    ) -> Result<Work, Failure> {
        let authority = self.authority(&conversation)?;
        let dialect = origin.dialect();
        if dialect.names_presence() {
            self.enable_presence();
        }
        let already = self.joined.get(&conversation);
        let already = already.and_then(|joined| Some((joined.room.clone(), joined.slot(dialect)?)));
        let no_place = |tracker: &mut Tracker| match dialect {
            Dialect::SocketIo(vocabulary, _) if tracker.find(&conversation, vocabulary).is_some() => false,
            _ => tracker.next_place().is_none(),
        };
        if self.connection.outgoing.tracked(no_place) == Some(true) {
            let message = "conversations are joined and left too fast: wait";
            return Err(Failure::new(ErrorCode::RateLimited, message).retry_after(REBASE_RETRY_MS));
        }
        if already.is_none() && self.joined.len() >= JOINED_CONVERSATIONS_MAX {
            let message = format!("a connection may join at most {JOINED_CONVERSATIONS_MAX} conversations");
            return Err(Failure::new(ErrorCode::TooLarge, message));
        }
        let request = join::JoinRequest {
            shared: self.shared.clone(),
            connection: self.connection.clone(),
            conversation,
            after_seq,
            authority,
            already,
            origin,
        };
        Ok(Box::pin(request.run()))
    }

    fn leave(&mut self, conversation: &ConversationId, origin: CommandOrigin) -> Work {
        let left = self.joined.get_mut(conversation).and_then(|joined| {
            let index = joined.members.iter().position(|member| member.dialect == origin.dialect())?;
            let typing = std::mem::take(&mut joined.typing);
            Some((joined.room.clone(), joined.members.remove(index), typing))
        });
        if self.joined.get(conversation).is_some_and(|joined| joined.members.is_empty()) {
            self.joined.remove(conversation);
        }
        let (shared, connection) = (self.shared.clone(), self.connection.clone());
        let conversation = conversation.clone();
        Box::pin(async move {
            if let Some((room, MemberSlot { dialect, slot }, typing)) = left {
                if typing {
                    shared.end_typing(&room, &connection.user, true);
                }
                join::leave(&shared, &connection, &room, (dialect, slot), false);
            }
            shared.recovery_leaves(&connection, &conversation, origin.dialect()).await;
            reply_to(&connection, &Reply::Left { conversation }, &origin);
            WorkResult::Replied
        })
    }
}

#[cfg(test)]
mod renewal_tests;
