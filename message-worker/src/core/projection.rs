//! Projections: rows that the store keeps besides an event's row so that the event can be found. They are a function of
//! the row alone, so a worker that finds rows above a head can write what a crash left out.

use super::author::Author;
use super::rows::Projection;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::wire::{self, event::Kind};

/// The projections of an event, except the head.
pub(crate) fn of_event(
    conversation: &ConversationId,
    event: &wire::Event,
    timestamp_us: i64,
) -> Vec<Projection> {
    let mut projections = Vec::new();
    let mut participant = |user: &str, present: bool| {
        if let Ok(user) = UserId::parse(user) {
            let conversation = conversation.clone();
            projections.push(Projection::Participant { conversation, user, timestamp_us, present });
        }
    };
    match &event.kind {
        Some(Kind::Created(created)) => created.participants.iter().for_each(|user| participant(user, true)),
        Some(Kind::ParticipantsAdded(added)) => added.users.iter().for_each(|user| participant(user, true)),
        Some(Kind::ParticipantRemoved(removed)) => participant(&removed.user, false),
        Some(Kind::Message(_) | Kind::Updated(_)) | None => {}
    }
    if let (false, Some(sender)) = (event.client_id.is_empty(), Author::parse(&event.actor)) {
        projections.push(Projection::Sent {
            conversation: conversation.clone(),
            sender,
            timestamp_us,
            time_ms: event.time_ms,
            client_id: event.client_id.clone(),
            seq: event.seq,
        });
    }
    projections
}
