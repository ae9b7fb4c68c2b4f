//! Applies a command to a conversation. The result is a function of the state, the position and the entry alone, so a
//! replay and a second worker make the same rows byte for byte.

use super::conversation::Conversation;
use super::dedup::{First, Hit};
use super::projection;
use super::rows::Projection;
use super::versions::BACKENDS_DEDUPLICATED;
use crate::limits::{CLIENT_KEY_BYTES_MAX, EVENT_BYTES_MAX};
use bytes::Bytes;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{MessageId, UserId};
use carillon_proto::limits::PARTICIPANTS_MAX;
use carillon_proto::position::Position;
use carillon_proto::wire::{self, Authority, command::Body, event::Kind, outcome};
use prost::Message as _;
use std::collections::HashSet;
use std::sync::Arc;

/// The place of a command in the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    pub(crate) position: Position,
    /// The write timestamp that follows from the position.
    pub(crate) timestamp_us: i64,
    /// The time at which the log took the command's entry.
    pub(crate) time_ms: u64,
    /// The version of the state machine that works the command.
    pub(crate) version: u32,
}

/// The result of applying a command.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// The event whose row is to be written.
    pub(crate) row: Option<Arc<wire::Event>>,
    /// The projections of the row.
    pub(crate) projections: Vec<Projection>,
    /// The outcome that the sender gets. `None` for a replayed command that left nothing but its effect on later
    /// commands.
    pub(crate) outcome: Option<outcome::Body>,
}

/// The author of a command, with the author's rights.
struct By<'a> {
    actor: Option<&'a UserId>,
    authority: Option<Authority>,
}

impl By<'_> {
    fn is_backend(&self) -> bool {
        self.authority == Some(Authority::Backend)
    }
}

impl Conversation {
    /// Applies a command. Everything that [`Conversation::need`] names must be known.
    pub(crate) fn apply(&mut self, at: At, command: &wire::Command) -> Applied {
        let actor = UserId::parse(&command.actor).ok();
        let is_deduplicated = actor.is_some() || at.version >= BACKENDS_DEDUPLICATED;
        let hit = match self.hit(&command.actor, &command.client_id) {
            Hit::Known(first) if is_deduplicated => Some(first),
            Hit::Known(_) | Hit::None | Hit::Claimed { .. } => None,
        };
        if Some(at.position) <= self.position.max(self.worked_to) {
            return Applied { outcome: self.replayed(at.position, hit), ..Applied::default() };
        }
        if let Some(first) = hit {
            return Applied { outcome: Some(self.accepted(first, true)), ..Applied::default() };
        }
        let by = By { actor: actor.as_ref(), authority: Authority::try_from(command.authority).ok() };
        let decided = match self.decide(&by, command) {
            Ok(Some(kind)) => self.event(at, command, kind),
            Ok(None) => {
                let time_ms = self.event_time_ms(at.time_ms);
                let known = wire::Accepted { seq: self.seq, id: Bytes::new(), time_ms, repeated: false };
                return Applied { outcome: Some(outcome::Body::Accepted(known)), ..Applied::default() };
            }
            Err(failure) => Err(failure),
        };
        match decided {
            Ok(event) => {
                self.fold(&event, at.timestamp_us);
                let projections = projection::of_event(&self.id, &event, at.timestamp_us);
                let first = First { seq: event.seq, time_ms: event.time_ms, position: at.position };
                Applied { row: Some(event), projections, outcome: Some(self.accepted(first, false)) }
            }
            Err(failure) => {
                Applied { outcome: Some(outcome::Body::Failure(failure.into())), ..Applied::default() }
            }
        }
    }

    /// The event that a command becomes. `None` if the conversation already is as the command wants it.
    fn decide(&self, by: &By, command: &wire::Command) -> Result<Option<Kind>, Failure> {
        if command.client_id.len() > CLIENT_KEY_BYTES_MAX {
            return Err(Failure::invalid_payload("the client id is too long"));
        }
        match &command.body {
            Some(Body::SendMessage(message)) => self.send(by, message),
            Some(Body::CreateConversation(create)) => self.create(by, create),
            Some(Body::UpdateConversation(update)) => self.update(by, update),
            Some(Body::AddParticipants(add)) => self.add_participants(by, add),
            Some(Body::RemoveParticipant(remove)) => self.remove_participant(by, remove),
            None => Err(Failure::invalid_payload("unknown command: upgrade workers before gateways")),
        }
    }

    fn send(&self, by: &By, message: &wire::SendMessage) -> Result<Option<Kind>, Failure> {
        self.authorize(by)?;
        if by.actor.is_none() {
            return Err(Failure::invalid_payload("a message needs a sender"));
        }
        let is_ai = message.is_ai && by.is_backend();
        Ok(Some(Kind::Message(wire::SendMessage { is_ai, ..message.clone() })))
    }

    fn create(&self, by: &By, create: &wire::CreateConversation) -> Result<Option<Kind>, Failure> {
        if by.actor.is_none() && !by.is_backend() {
            return Err(Failure::forbidden());
        }
        if self.exists() {
            return Err(Failure::new(ErrorCode::Conflict, "the conversation exists already"));
        }
        let named = create.participants.iter().map(String::as_str);
        let participants = distinct(by.actor.map(UserId::as_str).into_iter().chain(named))?;
        if participants.len() > PARTICIPANTS_MAX {
            return Err(too_many_participants());
        }
        let participants = participants.iter().map(|user| user.as_str().to_owned()).collect();
        Ok(Some(Kind::Created(wire::CreateConversation { participants, ..create.clone() })))
    }

    fn update(&self, by: &By, update: &wire::UpdateConversation) -> Result<Option<Kind>, Failure> {
        self.authorize(by)?;
        self.authorize_management(by)?;
        if *update == wire::UpdateConversation::default() {
            return Err(Failure::invalid_payload("name at least one of title, metadata and archived"));
        }
        Ok(Some(Kind::Updated(update.clone())))
    }

    fn add_participants(&self, by: &By, add: &wire::AddParticipants) -> Result<Option<Kind>, Failure> {
        self.authorize(by)?;
        self.authorize_management(by)?;
        let mut users = distinct(add.users.iter().map(String::as_str))?;
        users.retain(|user| !self.participants.contains(user));
        if users.is_empty() {
            return Ok(None);
        }
        if self.participants.len() + users.len() > PARTICIPANTS_MAX {
            return Err(too_many_participants());
        }
        let users = users.iter().map(|user| user.as_str().to_owned()).collect();
        Ok(Some(Kind::ParticipantsAdded(wire::AddParticipants { users })))
    }

    fn remove_participant(&self, by: &By, remove: &wire::RemoveParticipant) -> Result<Option<Kind>, Failure> {
        self.authorize(by)?;
        let user =
            UserId::parse(&remove.user).map_err(|error| Failure::invalid_payload(error.to_string()))?;
        if by.actor != Some(&user) {
            self.authorize_management(by)?;
        }
        if !self.participants.contains(&user) {
            return Err(Failure::new(
                ErrorCode::NotFound,
                "the user does not participate in this conversation",
            ));
        }
        Ok(Some(Kind::ParticipantRemoved(remove.clone())))
    }

    /// Whether the author may do anything in this conversation.
    fn authorize(&self, by: &By) -> Result<(), Failure> {
        match by.authority {
            Some(Authority::Backend | Authority::Granted) => Ok(()),
            Some(Authority::Participant) if by.actor.is_some_and(|user| self.participants.contains(user)) => {
                Ok(())
            }
            Some(Authority::Participant) | None => Err(Failure::forbidden()),
        }
    }

    /// Whether the author may change the conversation and its participants.
    fn authorize_management(&self, by: &By) -> Result<(), Failure> {
        match by.is_backend() {
            true if self.exists() => Ok(()),
            true => Err(Failure::new(ErrorCode::NotFound, "there is no such conversation")),
            false if by.actor.is_some_and(|user| user.as_str() == self.owner) => Ok(()),
            false => Err(Failure::forbidden()),
        }
    }

    fn event(&self, at: At, command: &wire::Command, kind: Kind) -> Result<Arc<wire::Event>, Failure> {
        let creates = matches!(kind, Kind::Created(_));
        let seq = if creates { 0 } else { self.seq + 1 };
        let time_ms = self.event_time_ms(at.time_ms);
        let event = wire::Event {
            conversation: self.id.as_str().to_owned(),
            seq,
            position: Some(at.position.into()),
            time_ms,
            id: self.message_id(First { seq, time_ms, position: at.position }),
            actor: command.actor.clone(),
            actor_name: command.actor_name.clone(),
            client_id: command.client_id.clone(),
            traceparent: command.traceparent.clone(),
            kind: Some(kind),
        };
        if event.encoded_len() > EVENT_BYTES_MAX {
            return Err(Failure::new(
                ErrorCode::TooLarge,
                "the event is too large for the bus: send less at once",
            ));
        }
        Ok(Arc::new(event))
    }

    fn message_id(&self, first: First) -> Bytes {
        let id = MessageId::new(first.time_ms, first.seq, self.id.as_str(), first.position);
        Bytes::copy_from_slice(id.as_bytes())
    }

    fn accepted(&self, first: First, repeated: bool) -> outcome::Body {
        outcome::Body::Accepted(wire::Accepted { repeated, ..self.acceptance(first) })
    }

    /// The acceptance of a command that became this event.
    pub(super) fn acceptance(&self, first: First) -> wire::Accepted {
        let (seq, time_ms) = (first.seq, first.time_ms);
        wire::Accepted { seq, id: self.message_id(first), time_ms, repeated: false }
    }

    /// The outcome of a command that was applied before. If it became an event, the outcome is sent again. If it was
    /// refused, the state that refused it is gone, so nothing is sent and the sender's own timeout applies.
    fn replayed(&self, position: Position, hit: Option<First>) -> Option<outcome::Body> {
        let (first, met) = hit.map(|first| (first, self.as_met(first.position)))?;
        (met <= position).then(|| self.accepted(first, met < position))
    }
}

fn distinct<'a>(users: impl Iterator<Item = &'a str>) -> Result<Vec<UserId>, Failure> {
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for user in users {
        let user = UserId::parse(user).map_err(|error| Failure::invalid_payload(error.to_string()))?;
        if seen.insert(user.clone()) {
            kept.push(user);
        }
    }
    Ok(kept)
}

fn too_many_participants() -> Failure {
    Failure::new(ErrorCode::TooLarge, format!("a conversation has at most {PARTICIPANTS_MAX} participants"))
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "replay_tests.rs"]
mod replay_tests;
