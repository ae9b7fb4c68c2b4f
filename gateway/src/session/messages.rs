//! Commands of a session that send to a conversation, or read its events.

use super::{JoinedConversation, Session, Work, WorkResult, reply_to};
use crate::delivery::dialect::CommandOrigin;
use crate::metrics;
use crate::presence::directory::Action;
use crate::wall;
use crate::workers::pending::{CommandSender, Waiter};
use crate::workers::submit::NewCommand;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::command::{HistoryFrom, Send};
use carillon_proto::event::Reply;
use carillon_proto::id::ConversationId;
use carillon_proto::wire::{self, Authority};

impl Session {
    pub(super) fn send(&mut self, send: Send, origin: CommandOrigin) -> Result<(), Failure> {
        let authority = self.authority(&send.conversation)?;
        let gave_client_id = send.client_id.is_some();
        let sender = CommandSender { connection: self.connection.clone(), origin, gave_client_id };
        let command = NewCommand {
            conversation: &send.conversation,
            actor: Some(&self.identity.user),
            actor_name: &self.identity.name,
            authority,
            client_id: send.client_id.map(Into::into),
            body: wire::command::Body::SendMessage(wire::SendMessage {
                content: send.content,
                content_type: send.content_type,
                persona_id: send.persona_id,
                reply_to: send.reply_to,
                metadata: send.metadata,
                is_ai: false,
            }),
        };
        self.shared.submit(command, Waiter::Sender(Box::new(sender)))?;
        if let Some(joined) = self.joined.get_mut(&send.conversation) {
            joined.typing = false;
        }
        Ok(())
    }

    fn joined_room(&self, conversation: &ConversationId) -> Result<&JoinedConversation, Failure> {
        let message = "join the conversation first";
        self.joined.get(conversation).ok_or_else(|| Failure::new(ErrorCode::Forbidden, message))
    }

    pub(super) fn typing(&mut self, conversation: &ConversationId, typing: bool) -> Result<(), Failure> {
        self.joined_room(conversation)?;
        if self.allow(Action::Typing).is_err() {
            // Dropped without an error: some clients send a start at every key press, and an error does not help them
            // (`docs/protocol.md#details`).
            metrics::TYPING_DROPPED.inc();
            return Ok(());
        }
        if let Some(joined) = self.joined.get_mut(conversation) {
            joined.typing = typing;
            self.shared.typing(&joined.room, &self.identity.user, &self.identity.name, typing);
        }
        Ok(())
    }

    pub(super) fn pass_on(
        &self,
        conversation: &ConversationId,
        kind: wire::ephemeral::Kind,
    ) -> Result<(), Failure> {
        let joined = self.joined_room(conversation)?;
        let event = wire::Ephemeral {
            conversation: conversation.to_string(),
            user: self.identity.user.to_string(),
            user_name: self.identity.name.to_string(),
            time_ms: wall::shown_ms(),
            kind: Some(kind),
            ..wire::Ephemeral::default()
        };
        self.shared.send_ephemeral(&joined.room, event, self.connection.id);
        Ok(())
    }

    pub(super) fn history(
        &self,
        conversation: ConversationId,
        from: HistoryFrom,
        limit: u32,
        origin: CommandOrigin,
    ) -> Result<Work, Failure> {
        let authority = self.authority(&conversation)?;
        let reader = self.shared.delivery.reader.clone();
        let (connection, user) = (self.connection.clone(), self.identity.user.clone());
        Ok(Box::pin(async move {
            let check = if authority == Authority::Participant { user.as_str() } else { "" };
            let read = reader.history(&conversation, from, limit, check).await;
            let reply = match read {
                Ok(wire::Events { events, has_more }) => Reply::History { conversation, events, has_more },
                Err(failure) => Reply::Error(failure),
            };
            reply_to(&connection, &reply, &origin);
            WorkResult::Replied
        }))
    }
}
