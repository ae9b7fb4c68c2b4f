//! Clubs: conversations whose participants change while clients send. This file computes who may receive which event of
//! them.
//!
//! A user participates from the event that added them to the event that removed them. They may receive everything up to
//! and including their removal, and nothing above it until they are added again. A user who is added may receive all
//! earlier events.

use carillon_proto::id::MessageId;
use carillon_proto::wire::{self, event::Kind};
use std::collections::{BTreeMap, BTreeSet};

/// The namespace of clubs. Access to its conversations follows from the stored participants.
pub const NAMESPACE: &str = "club";

/// The id of the club with this number.
pub fn club(number: u64) -> String {
    format!("{NAMESPACE}:{number}")
}

/// Whether a conversation is a club.
pub fn is_club(conversation: &str) -> bool {
    conversation.starts_with("club:")
}

/// An event as a client received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The name of the client that received it.
    pub client: String,
    /// The client's user.
    pub user: String,
    /// The event's conversation.
    pub conversation: String,
    /// The event's seq.
    pub seq: u64,
    /// The message id; `None` for other events.
    pub id: Option<String>,
    /// When the client received it, in microseconds since the run began.
    pub at_us: u64,
}

/// A stored event, and when it was first written in its present form.
pub struct Row {
    /// The stored event.
    pub event: wire::Event,
    /// When it was written, in microseconds since the run began.
    pub written_us: u64,
}

/// A period in which a user participates.
#[derive(Debug, PartialEq, Eq)]
struct Stay {
    since_us: u64,
    /// The seq of the removal, if there was one.
    until: Option<u64>,
}

/// The participants of one conversation, over its whole history.
#[derive(Debug, Default)]
pub struct Roll {
    stays: BTreeMap<String, Vec<Stay>>,
    /// Message ids by seq; `None` for other events.
    ids: BTreeMap<u64, Option<String>>,
}

impl Roll {
    /// Computes the participants from a conversation's rows, in the order of their seqs.
    pub fn of(rows: &[Row]) -> Roll {
        let mut roll = Roll::default();
        for Row { event, written_us } in rows {
            let id = matches!(event.kind, Some(Kind::Message(_)))
                .then(|| MessageId::from_slice(&event.id).to_string());
            roll.ids.insert(event.seq, id);
            match &event.kind {
                Some(Kind::Created(created)) => roll.add(&created.participants, *written_us),
                Some(Kind::ParticipantsAdded(added)) => roll.add(&added.users, *written_us),
                Some(Kind::ParticipantRemoved(removed)) => {
                    let stays = roll.stays.entry(removed.user.clone()).or_default();
                    stays.iter_mut().filter(|stay| stay.until.is_none()).for_each(|stay| {
                        stay.until = Some(event.seq);
                    });
                }
                _ => {}
            }
        }
        roll
    }

    fn add(&mut self, users: &[String], since_us: u64) {
        for user in users {
            self.stays.entry(user.clone()).or_default().push(Stay { since_us, until: None });
        }
    }

    /// The users who participate at the end.
    pub fn present(&self) -> BTreeSet<String> {
        let present = |stays: &Vec<Stay>| stays.iter().any(|stay| stay.until.is_none());
        self.stays.iter().filter(|(_, stays)| present(stays)).map(|(user, _)| user.clone()).collect()
    }

    /// Returns a violation if the client should not have received this event or received other contents than are
    /// stored.
    pub fn judge(&self, event: &Received) -> Option<String> {
        let Received { client, user, conversation, seq, id, at_us } = event;
        let may_receive =
            |stay: &Stay| stay.since_us <= *at_us && stay.until.is_none_or(|until| *seq <= until);
        match self.ids.get(seq) {
            None => Some(format!("{client} received {seq} of {conversation}, which is not stored")),
            Some(stored) if stored != id => {
                Some(format!("{client} received {id:?} as {seq} of {conversation}, which is {stored:?}"))
            }
            Some(_) if self.stays.get(user).is_some_and(|stays| stays.iter().any(may_receive)) => None,
            Some(_) => Some(format!(
                "{client} received {seq} of {conversation} at {at_us} µs, in which {user} did not participate: {:?}",
                self.stays.get(user)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roll() -> Roll {
        let add = |users: &[&str]| {
            let users = users.iter().map(|user| (*user).into()).collect();
            Kind::ParticipantsAdded(wire::AddParticipants { users })
        };
        let remove = |user: &str| Kind::ParticipantRemoved(wire::RemoveParticipant { user: user.into() });
        let message = || Kind::Message(wire::SendMessage::default());
        let kinds = [add(&["ann", "bob"]), message(), remove("bob"), message(), add(&["bob"]), message()];
        let rows: Vec<Row> = (1..)
            .zip(kinds)
            .map(|(seq, kind)| Row {
                event: wire::Event {
                    seq,
                    id: vec![seq as u8; 16].into(),
                    kind: Some(kind),
                    ..Default::default()
                },
                written_us: seq * 100,
            })
            .collect();
        Roll::of(&rows)
    }

    #[test]
    fn a_user_may_receive_events_up_to_their_removal_and_all_once_added_again() {
        let roll = roll();
        let wrong = |user: &str, seq: u64, at_us: u64| {
            let id = [2, 4, 6].contains(&seq).then(|| MessageId::from_slice(&[seq as u8; 16]).to_string());
            let (client, conversation) = (format!("{user}'s"), club(0));
            roll.judge(&Received { client, user: user.into(), conversation, seq, id, at_us }).is_some()
        };
        for (user, seq, at_us, expected) in [
            ("ann", 2, 250, false),
            ("bob", 2, 250, false),
            ("bob", 3, 350, false),
            ("bob", 4, 450, true),
            ("bob", 4, 550, false),
            ("bob", 6, 650, false),
            ("eve", 2, 250, true),
            ("ann", 7, 750, true),
        ] {
            assert_eq!(wrong(user, seq, at_us), expected, "{user} receives {seq} at {at_us}");
        }
        assert_eq!(roll.present(), ["ann", "bob"].map(String::from).into());
    }

    #[test]
    fn a_received_event_must_equal_the_stored_one() {
        let received = |seq, id: Option<&str>| Received {
            client: "a".into(),
            user: "ann".into(),
            conversation: club(0),
            seq,
            id: id.map(Into::into),
            at_us: 900,
        };
        assert!(roll().judge(&received(2, Some("another"))).is_some());
        assert!(roll().judge(&received(2, None)).is_some());
        assert!(roll().judge(&received(3, None)).is_none());
    }
}
