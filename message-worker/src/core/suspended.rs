//! The suspended conversations of a partition: those that cannot be read, and from which position on their commands are
//! refused, so that all others go on (`docs/decisions/0021-what-cannot-be-read-is-suspended.md`).
//!
//! A command that was refused must never be applied later, by any worker that replays the log. So a suspension begins
//! and ends at positions, which are recorded before an owner passes them.

use crate::limits::SUSPENDED_MAX;
use carillon_proto::id::ConversationId;
use carillon_proto::position::{Incarnation, Position};
use std::collections::HashMap;

/// The range of positions in which the commands of a conversation are refused because it cannot be read
/// (`docs/decisions/0021-what-cannot-be-read-is-suspended.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// The conversation.
    pub conversation: ConversationId,
    /// The first position at which a command is refused.
    pub from: Position,
    /// The first position at which commands are applied again. `None` while the suspension lasts.
    pub until: Option<Position>,
    /// Why the conversation cannot be read. For people.
    pub reason: String,
}

/// The suspensions of a partition, in positions of its present incarnation.
#[derive(Debug, Default)]
pub(crate) struct Suspended {
    by_conversation: HashMap<ConversationId, Span>,
}

/// Commands are refused from `from` on, and before `until`.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Position,
    until: Option<Position>,
}

impl Suspended {
    /// The suspensions that were recorded in the log generation of this incarnation. In another generation the same
    /// sequences name other entries.
    pub(crate) fn of(incarnation: Incarnation, recorded: Vec<Suspension>) -> Suspended {
        let here = |at: Position| incarnation.position(at.sequence, at.index);
        let of_this_log = |one: &Suspension| incarnation.stands_on(one.from);
        let spans = recorded.into_iter().filter(of_this_log).map(|one| {
            let span = Span { from: here(one.from), until: one.until.map(here) };
            (one.conversation, span)
        });
        Suspended { by_conversation: spans.collect() }
    }

    /// Whether a command is refused.
    pub(crate) fn refuses(&self, conversation: &ConversationId, at: Position) -> bool {
        self.by_conversation
            .get(conversation)
            .is_some_and(|span| span.from <= at && span.until.is_none_or(|until| at < until))
    }

    /// Whether one more conversation may be suspended.
    pub(crate) fn has_capacity(&self) -> bool {
        self.open().count() < SUSPENDED_MAX
    }

    /// Refuses the commands of a conversation from `from` on.
    pub(crate) fn begin(&mut self, conversation: ConversationId, from: Position) {
        self.by_conversation.insert(conversation, Span { from, until: None });
    }

    /// Where the conversation's open suspension begins, if it has one.
    pub(crate) fn begun(&self, conversation: &ConversationId) -> Option<Position> {
        self.by_conversation.get(conversation).filter(|span| span.until.is_none()).map(|span| span.from)
    }

    /// Where a suspension begins whose commands may not all be below the checkpoint, open or not. There is one record
    /// for each conversation, so a new suspension keeps this beginning. Commands that were applied in between have
    /// their rows, and refusing them in a replay does not undo those.
    pub(crate) fn unworked(&self, conversation: &ConversationId) -> Option<Position> {
        self.by_conversation.get(conversation).map(|span| span.from)
    }

    /// Applies the commands of a conversation again from `until` on.
    pub(crate) fn end(&mut self, conversation: &ConversationId, until: Position) {
        if let Some(span) = self.by_conversation.get_mut(conversation) {
            span.until = Some(until);
        }
    }

    /// Conversations whose suspension has not ended.
    pub(crate) fn open(&self) -> impl Iterator<Item = &ConversationId> {
        self.by_conversation.iter().filter(|(_, span)| span.until.is_none()).map(|(id, _)| id)
    }

    /// Forgets suspensions that ended at or below this position, because everything up to it is applied and
    /// checkpointed.
    pub(crate) fn worked(&mut self, to: Position) {
        self.by_conversation.retain(|_, span| span.until.is_none_or(|until| until > to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> ConversationId {
        ConversationId::parse("room").expect("valid")
    }

    fn recorded(from: Position, until: Option<Position>) -> Vec<Suspension> {
        vec![Suspension { conversation: room(), from, until, reason: "damaged".into() }]
    }

    #[test]
    fn commands_between_the_positions_are_refused_in_every_incarnation_of_the_log_generation() {
        let first = Incarnation::new(1, 1, 1_000);
        let taken_over = first.taken_over(4, 2_000);
        let stored = recorded(first.position(5, 1), Some(first.position(9, 0)));
        for incarnation in [first, taken_over] {
            let suspended = Suspended::of(incarnation, stored.clone());
            let refused = |sequence, index| suspended.refuses(&room(), incarnation.position(sequence, index));
            let at = [(5, 0), (5, 1), (8, 7), (9, 0)].map(|(sequence, index)| refused(sequence, index));
            assert_eq!(at, [false, true, true, false], "{incarnation:?}");
            assert!(
                !suspended
                    .refuses(&ConversationId::parse("other").expect("valid"), incarnation.position(6, 0))
            );
        }
        let renewed = first.next(20, 3_000);
        let suspended = Suspended::of(renewed, stored);
        assert!(
            !suspended.refuses(&room(), renewed.position(6, 0)),
            "positions of another log generation must not be refused"
        );
    }

    #[test]
    fn an_ended_suspension_is_kept_until_its_commands_are_checkpointed() {
        let incarnation = Incarnation::new(1, 1, 1_000);
        let mut suspended = Suspended::default();
        suspended.begin(room(), incarnation.position(3, 0));
        suspended.worked(incarnation.position(99, 0));
        assert!(suspended.refuses(&room(), incarnation.position(100, 0)) && suspended.open().count() == 1);
        assert_eq!(suspended.begun(&room()), Some(incarnation.position(3, 0)));
        suspended.end(&room(), incarnation.position(100, 0));
        assert!(suspended.refuses(&room(), incarnation.position(99, 0)));
        assert_eq!((suspended.open().count(), suspended.begun(&room())), (0, None));
        suspended.worked(incarnation.position(100, 2));
        assert!(!suspended.refuses(&room(), incarnation.position(99, 0)));
    }
}
