//! One connection's session: what its user has joined and watches, and what becomes of its commands.
//!
//! What needs an answer from elsewhere becomes [`Work`], of which the socket runs one at a time and in
//! order; everything else is done on the spot.

mod catch_up;
mod presence;

use crate::auth::Identity;
use crate::connection::{Connection, Signal};
use crate::core::outbox::Urgency;
use crate::core::topic::Slot;
use crate::directory::Action;
use crate::hub::Room;
use crate::join::{self, Entered};
use crate::pending::Sender;
use crate::reads::Page;
use crate::shared::Shared;
use crate::{frame, metrics};
use carillon_proto::code::{Close, ErrorCode, Failure};
use carillon_proto::command::{Command, HistoryFrom, Send};
use carillon_proto::dialect::native;
use carillon_proto::event::Reply;
use carillon_proto::id::{ConversationId, MADE_CLIENT_ID_PREFIX, UserId};
use carillon_proto::limits::JOINED_CONVERSATIONS_MAX;
use carillon_proto::wire::{self, Authority, presence_change::Body as Change};
use carillon_runtime::time::now_ms;
use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

/// Something that waits for an answer from elsewhere.
pub type Work = Pin<Box<dyn Future<Output = Done> + std::marker::Send>>;

/// What came of [`Work`].
pub enum Done {
    /// A conversation was joined.
    Entered(Entered),
    /// A page for a member that is behind.
    Page(Arc<Room>, Page),
    /// Everything was told already.
    Told,
}

struct Joined {
    room: Arc<Room>,
    slot: Slot,
    typing: bool,
}

/// One connection's session.
pub struct Session {
    shared: Arc<Shared>,
    /// The connection.
    pub connection: Arc<Connection>,
    /// Whose it is.
    pub identity: Identity,
    joined: HashMap<ConversationId, Joined>,
    watched: HashSet<UserId>,
    behind: Vec<Arc<Room>>,
    typing_refused_ms: u64,
}

impl Session {
    /// A session that has joined nothing yet.
    pub fn new(shared: Arc<Shared>, connection: Arc<Connection>, identity: Identity) -> Session {
        Session {
            shared,
            connection,
            identity,
            joined: HashMap::new(),
            watched: HashSet::new(),
            behind: Vec::new(),
            typing_refused_ms: 0,
        }
    }

    /// Queues a reply.
    pub fn reply(&self, reply: &Reply, reference: Option<&str>) {
        reply_to(&self.connection, reply, reference);
    }

    fn refuse(&self, failure: Failure, reference: Option<&str>) {
        metrics::ERRORS.inc();
        self.reply(&Reply::Error(failure), reference);
    }

    /// Does what a text frame asks for, or says what to wait for.
    pub fn text(&mut self, text: &str) -> Option<Work> {
        metrics::FRAMES_IN.inc();
        match native::decode(text, self.shared.settings.limits.content_chars) {
            Ok(native::Frame { reference, command }) => match self.command(command, reference.clone()) {
                Ok(work) => work,
                Err(failure) => {
                    self.refuse(failure, reference.as_deref());
                    None
                }
            },
            Err(native::Refused { reference, failure }) => {
                self.refuse(failure, reference.as_deref());
                None
            }
        }
    }

    /// A binary frame is none of this vocabulary.
    pub fn binary(&self) {
        metrics::FRAMES_IN.inc();
        self.refuse(Failure::new(ErrorCode::InvalidFrame, "frames must be text"), None);
    }

    fn command(&mut self, command: Command, reference: Option<String>) -> Result<Option<Work>, Failure> {
        match command {
            Command::Ping => self.reply(&Reply::Pong, reference.as_deref()),
            Command::Authenticate { token } => self.renew(&token, reference.as_deref())?,
            Command::Join { conversation, after_seq } => {
                return self.join(conversation, after_seq, reference).map(Some);
            }
            Command::Leave { conversation } => return Ok(Some(self.leave(conversation, reference))),
            Command::Send(send) => self.send(send, reference)?,
            Command::Typing { conversation, typing } => self.typing(&conversation, typing)?,
            Command::GetOnlineStatus { users } => {
                return Ok(Some(self.online_status(users, false, reference)));
            }
            Command::WatchPresence { users } => return self.watch(users, reference).map(Some),
            Command::UnwatchPresence { users } => return Ok(Some(self.unwatch(users, reference))),
            Command::SetStatus { status, text } => {
                let (user, session) = (self.identity.user.to_string(), self.connection.id);
                self.shared.directory.set_status(&self.connection, status, &text);
                let change = wire::StatusSet { user: user.clone(), session, status: status.into(), text };
                self.shared.tell_presence(&user, Change::StatusSet(change));
                self.reply(&Reply::Ack, reference.as_deref());
            }
            Command::History { conversation, from, limit } => {
                return self.history(conversation, from, limit, reference).map(Some);
            }
            Command::Broadcast { conversation, event, data } => {
                self.allow(Action::Operation)?;
                let kind = wire::ephemeral::Kind::Broadcast(wire::Broadcast { event, data });
                self.pass_on(&conversation, kind)?;
            }
            Command::MoveCursor { conversation, position } => {
                if self.allow_quietly(Action::Cursor)? {
                    self.pass_on(&conversation, wire::ephemeral::Kind::Cursor(position))?;
                }
            }
        }
        Ok(None)
    }

    fn authority(&self, conversation: &ConversationId) -> Result<Authority, Failure> {
        self.shared.access.authority(&self.identity, conversation).ok_or_else(Failure::forbidden)
    }

    fn allow(&self, action: Action) -> Result<(), Failure> {
        let limits = &self.shared.settings.limits;
        self.shared.directory.take(&self.identity.user, action, limits, now_ms()).map_err(|wait_ms| {
            Failure::new(ErrorCode::RateLimited, "too many in a minute: slow down").retry_after(wait_ms)
        })
    }

    /// As [`Session::allow`], with at most one error a minute: what is typed or moved comes often (protocol §2).
    fn allow_quietly(&mut self, action: Action) -> Result<bool, Failure> {
        match self.allow(action) {
            Ok(()) => Ok(true),
            Err(failure) => {
                let now_ms = now_ms();
                if now_ms < self.typing_refused_ms + 60_000 {
                    return Ok(false);
                }
                self.typing_refused_ms = now_ms;
                Err(failure)
            }
        }
    }

    fn renew(&mut self, token: &str, reference: Option<&str>) -> Result<(), Failure> {
        let identity = self.shared.verifier.verify(token).map_err(crate::auth::Refusal::failure)?;
        if identity.user != self.identity.user {
            return Err(Failure::new(ErrorCode::Unauthorized, "the token is somebody else's: connect anew"));
        }
        let (user, expires_ms) = (identity.user.clone(), identity.expires_ms.unwrap_or(u64::MAX));
        self.identity = identity;
        self.reply(&Reply::Authenticated { user, expires_ms }, reference);
        Ok(())
    }

    fn join(
        &self,
        conversation: ConversationId,
        after_seq: Option<u64>,
        reference: Option<String>,
    ) -> Result<Work, Failure> {
        let authority = self.authority(&conversation)?;
        let already = self.joined.get(&conversation).map(|joined| (joined.room.clone(), joined.slot));
        if already.is_none() && self.joined.len() >= JOINED_CONVERSATIONS_MAX {
            let message = format!("a connection may join at most {JOINED_CONVERSATIONS_MAX} conversations");
            return Err(Failure::new(ErrorCode::TooLarge, message));
        }
        let request = join::Request {
            shared: self.shared.clone(),
            connection: self.connection.clone(),
            conversation,
            after_seq,
            authority,
            already,
            reference,
        };
        Ok(Box::pin(request.run()))
    }

    fn leave(&mut self, conversation: ConversationId, reference: Option<String>) -> Work {
        let joined = self.joined.remove(&conversation);
        let (shared, connection) = (self.shared.clone(), self.connection.clone());
        Box::pin(async move {
            if let Some(Joined { room, slot, typing }) = joined {
                if typing {
                    shared.typing(&room, &connection.user, &connection.name, false);
                }
                join::leave(&shared, &connection, &room, slot, false).await;
            }
            reply_to(&connection, &Reply::Left { conversation }, reference.as_deref());
            Done::Told
        })
    }

    fn send(&mut self, send: Send, reference: Option<String>) -> Result<(), Failure> {
        let authority = self.authority(&send.conversation)?;
        self.allow(Action::Message)?;
        if let Some(joined) = self.joined.get_mut(&send.conversation) {
            joined.typing = false;
        }
        let given = send.client_id.map(|id| id.to_string());
        let client_id = given.clone().unwrap_or_else(made_client_id);
        let waiting = Sender {
            connection: self.connection.clone(),
            reference,
            client_id: given,
            conversation: send.conversation.clone(),
        };
        let request = self.shared.pending.expect_sender(waiting);
        let command = wire::Command {
            conversation: send.conversation.to_string(),
            actor: self.identity.user.to_string(),
            actor_name: self.identity.name.to_string(),
            client_id,
            authority: authority.into(),
            gateway: self.shared.id.to_string(),
            request,
            traceparent: String::new(),
            body: Some(wire::command::Body::SendMessage(wire::SendMessage {
                content: send.content,
                content_type: send.content_type,
                persona_id: send.persona_id,
                reply_to: send.reply_to,
                metadata: send.metadata,
                is_ai: false,
            })),
        };
        if let Err(failure) = self.shared.publish(&send.conversation, command) {
            self.shared.pending.resolve(request, Err(failure));
        }
        Ok(())
    }

    fn joined_room(&self, conversation: &ConversationId) -> Result<&Joined, Failure> {
        let message = "join the conversation first";
        self.joined.get(conversation).ok_or_else(|| Failure::new(ErrorCode::Forbidden, message))
    }

    fn typing(&mut self, conversation: &ConversationId, typing: bool) -> Result<(), Failure> {
        self.joined_room(conversation)?;
        if !self.allow_quietly(Action::Typing)? {
            return Ok(());
        }
        if let Some(joined) = self.joined.get_mut(conversation) {
            joined.typing = typing;
            self.shared.typing(&joined.room, &self.identity.user, &self.identity.name, typing);
        }
        Ok(())
    }

    fn pass_on(&self, conversation: &ConversationId, kind: wire::ephemeral::Kind) -> Result<(), Failure> {
        let joined = self.joined_room(conversation)?;
        let event = wire::Ephemeral {
            conversation: conversation.to_string(),
            user: self.identity.user.to_string(),
            user_name: self.identity.name.to_string(),
            time_ms: now_ms(),
            kind: Some(kind),
        };
        self.shared.send_ephemeral(&joined.room, event, self.connection.id);
        Ok(())
    }

    fn history(
        &self,
        conversation: ConversationId,
        from: HistoryFrom,
        limit: u32,
        reference: Option<String>,
    ) -> Result<Work, Failure> {
        let authority = self.authority(&conversation)?;
        let page = wire::ReadEvents {
            conversation: conversation.to_string(),
            after_seq: if let HistoryFrom::After(seq) = from { Some(seq) } else { None },
            before_seq: match from {
                HistoryFrom::Before(seq) => Some(seq),
                HistoryFrom::Head => Some(0),
                HistoryFrom::After(_) => None,
            },
            limit,
            check: if authority == Authority::Participant {
                self.identity.user.to_string()
            } else {
                String::new()
            },
        };
        // The page before seq 0 is empty; on the bus, 0 asks for the newest.
        let nothing_before = from == HistoryFrom::Before(0);
        let (shared, connection) = (self.shared.clone(), self.connection.clone());
        Ok(Box::pin(async move {
            let read =
                if nothing_before { Ok(wire::Events::default()) } else { shared.read_events(page).await };
            let reply = match read {
                Ok(wire::Events { events, has_more }) => Reply::History { conversation, events, has_more },
                Err(failure) => Reply::Error(failure),
            };
            reply_to(&connection, &reply, reference.as_deref());
            Done::Told
        }))
    }

    /// Takes note of what came of [`Work`].
    pub fn done(&mut self, done: Done) {
        match done {
            Done::Told => {}
            Done::Entered(Entered { room, slot, behind }) => {
                if behind {
                    self.fell_behind(room.clone());
                }
                self.joined.entry(room.conversation.clone()).or_insert(Joined { room, slot, typing: false });
            }
            Done::Page(room, page) => self.queue_page(&room, page),
        }
    }

    /// Somebody else wants something of this connection; a close is returned.
    pub fn signalled(&mut self, signals: Vec<Signal>) -> Option<Close> {
        let mut close = None;
        for signal in signals {
            match signal {
                Signal::Behind(room) => self.fell_behind(room),
                Signal::Close(reason) => close = Some(reason),
                Signal::Removed(conversation) => {
                    // Its member is gone from the topic already; what is left is the count of users there.
                    if let Some(Joined { room, slot, .. }) = self.joined.remove(&conversation) {
                        let (shared, connection) = (self.shared.clone(), self.connection.clone());
                        tokio::spawn(
                            async move { join::leave(&shared, &connection, &room, slot, false).await },
                        );
                    }
                }
            }
        }
        close
    }

    /// The connection has ended: everything it held is given back.
    pub async fn end(mut self) {
        self.connection.close();
        for (_, Joined { room, slot, typing }) in self.joined.drain() {
            if typing {
                self.shared.typing(&room, &self.connection.user, &self.connection.name, false);
            }
            join::leave(&self.shared, &self.connection, &room, slot, true).await;
        }
        let watched: Vec<UserId> = self.watched.drain().collect();
        self.shared.unwatch(&self.connection, &watched);
        self.shared.directory.remove(&self.connection);
        let (user, session) = (self.identity.user.to_string(), self.connection.id);
        self.shared
            .tell_presence(&user, Change::SessionEnded(wire::SessionEnded { user: user.clone(), session }));
    }
}

/// A key for a send whose client gave none.
pub fn made_client_id() -> String {
    format!("{MADE_CLIENT_ID_PREFIX}{}", uuid::Uuid::new_v4().simple())
}

/// Queues a reply for one connection.
pub fn reply_to(connection: &Connection, reply: &Reply, reference: Option<&str>) {
    connection.offer(&frame::text(&native::reply(reply, reference, now_ms())), Urgency::Reply);
}
