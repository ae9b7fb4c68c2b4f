//! Conversations whose participants change while people talk: who may have heard what of them.
//!
//! A user participates from the event that added them to the event that removed them. They may hear everything up to
//! their removal, the removal too, and nothing above it, until they are added again; who is added hears what was before.

use carillon_proto::id::MessageId;
use carillon_proto::wire::{self, event::Kind};
use std::collections::{BTreeMap, BTreeSet};

/// The namespace of these conversations, whose access follows from stored participants.
pub const NAMESPACE: &str = "club";

/// A conversation's name by its number.
pub fn club(number: u64) -> String {
    format!("{NAMESPACE}:{number}")
}

/// Whether a conversation is one of these.
pub fn is_club(conversation: &str) -> bool {
    conversation.starts_with("club:")
}

/// An event as a client heard it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Who heard it.
    pub client: String,
    /// Whose client that is.
    pub user: String,
    /// Where.
    pub conversation: String,
    /// Its seq.
    pub seq: u64,
    /// A message's id; nothing for other events.
    pub id: Option<String>,
    /// When, microseconds of the run.
    pub at_us: u64,
}

/// A stored event, and when it was first there as it is now.
pub struct Row {
    /// The event.
    pub event: wire::Event,
    /// Microseconds of the run.
    pub written_us: u64,
}

/// From when on a user participates, and up to which seq.
#[derive(Debug, PartialEq, Eq)]
struct Stay {
    since_us: u64,
    /// The seq of the removal, if there was one.
    until: Option<u64>,
}

/// Who participates in one conversation, from its beginning to its end.
#[derive(Debug, Default)]
pub struct Roll {
    stays: BTreeMap<String, Vec<Stay>>,
    /// Message ids by seq; nothing for other events.
    ids: BTreeMap<u64, Option<String>>,
}

impl Roll {
    /// Follows from a conversation's rows, in the order of their seqs.
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

    /// What is wrong with what a client heard, if anything is.
    pub fn judge(&self, heard: &Heard) -> Option<String> {
        let Heard { client, user, conversation, seq, id, at_us } = heard;
        let may_hear = |stay: &Stay| stay.since_us <= *at_us && stay.until.is_none_or(|until| *seq <= until);
        match self.ids.get(seq) {
            None => Some(format!("{client} heard {seq} of {conversation}, which is not stored")),
            Some(stored) if stored != id => {
                Some(format!("{client} heard {id:?} as {seq} of {conversation}, which is {stored:?}"))
            }
            Some(_) if self.stays.get(user).is_some_and(|stays| stays.iter().any(may_hear)) => None,
            Some(_) => Some(format!(
                "{client} heard {seq} of {conversation} at {at_us} µs, in which {user} did not participate: {:?}",
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
    fn a_user_hears_up_to_their_removal_and_everything_once_they_are_back() {
        let roll = roll();
        let wrong = |user: &str, seq: u64, at_us: u64| {
            let id = [2, 4, 6].contains(&seq).then(|| MessageId::from_slice(&[seq as u8; 16]).to_string());
            let (client, conversation) = (format!("{user}'s"), club(0));
            roll.judge(&Heard { client, user: user.into(), conversation, seq, id, at_us }).is_some()
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
            assert_eq!(wrong(user, seq, at_us), expected, "{user} hears {seq} at {at_us}");
        }
        assert_eq!(roll.present(), ["ann", "bob"].map(String::from).into());
    }

    #[test]
    fn what_is_heard_is_what_is_stored() {
        let heard = |seq, id: Option<&str>| Heard {
            client: "a".into(),
            user: "ann".into(),
            conversation: club(0),
            seq,
            id: id.map(Into::into),
            at_us: 900,
        };
        assert!(roll().judge(&heard(2, Some("another"))).is_some());
        assert!(roll().judge(&heard(2, None)).is_some());
        assert!(roll().judge(&heard(3, None)).is_none());
    }
}
