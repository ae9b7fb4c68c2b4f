//! The tables of the in-memory store. Their cells have write timestamps.

use crate::store::{EventRow, PartitionState, Projection, SEALED_ROWS_MAX, Seal, SentRow, Suspension};
use bytes::Bytes;
use carillon_proto::id::UserId;
use carillon_proto::position::Position;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is stored. Two values can be compared.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Tables {
    pub(super) events: BTreeMap<(String, u64), EventRow>,
    pub(super) heads: BTreeMap<String, (i64, Bytes)>,
    pub(super) participants: BTreeMap<(String, String), (i64, bool)>,
    pub(super) sent: BTreeMap<(String, String), BTreeMap<i64, SentRow>>,
    pub(super) partitions: BTreeMap<u32, PartitionState>,
    pub(super) seals: BTreeMap<String, Seal>,
    /// Seals by conversation, each with its timestamp. A row with a timestamp up to this that the seal does not count
    /// is void.
    pub(super) shut_out: BTreeMap<String, Vec<(Seal, i64)>>,
    pub(super) skips: BTreeMap<u32, BTreeSet<Position>>,
    pub(super) suspensions: BTreeMap<(u32, String), (i64, Suspension)>,
}

impl Tables {
    /// Writes a row. Returns it if the stored row has the same timestamp and other bytes.
    pub(super) fn write_event(&mut self, row: EventRow) -> Option<EventRow> {
        let key = (row.conversation.as_str().to_owned(), row.seq);
        if self.is_shut_out(&row) {
            return None;
        }
        match self.events.get(&key) {
            Some(there) if there.timestamp_us > row.timestamp_us => {}
            Some(there) if there.timestamp_us == row.timestamp_us && *there != row => return Some(row),
            _ => drop(self.events.insert(key, row)),
        }
        None
    }

    fn is_shut_out(&self, row: &EventRow) -> bool {
        let shut_out = self.shut_out.get(row.conversation.as_str()).into_iter().flatten();
        shut_out.clone().any(|(seal, timestamp_us)| {
            // Rows of the seal's own incarnation have higher timestamps.
            let reached = row.seq <= seal.seq + SEALED_ROWS_MAX;
            row.timestamp_us <= *timestamp_us && reached && !seal.counts(0, row.seq)
        })
    }

    pub(super) fn seal(
        &mut self,
        conversation: &str,
        previous: Option<Seal>,
        next: Seal,
        timestamp_us: i64,
    ) -> Seal {
        let in_force = match self.seals.get(conversation) {
            Some(there) if Some(*there) != previous => *there,
            _ => next,
        };
        self.seals.insert(conversation.to_owned(), in_force);
        if in_force.incarnation == next.incarnation {
            self.shut_out.entry(conversation.to_owned()).or_default().push((in_force, timestamp_us));
            let dead = self.events.values().filter(|row| self.is_shut_out(row));
            let dead: Vec<_> = dead.map(|row| (row.conversation.as_str().to_owned(), row.seq)).collect();
            self.events.retain(|key, _| !dead.contains(key));
        }
        in_force
    }

    pub(super) fn project(&mut self, projection: Projection) {
        match projection {
            Projection::Head { conversation, timestamp_us, blob } => {
                let there =
                    self.heads.entry(conversation.as_str().into()).or_insert((i64::MIN, Bytes::new()));
                if there.0 <= timestamp_us {
                    *there = (timestamp_us, blob);
                }
            }
            Projection::Participant { conversation, user, timestamp_us, present } => {
                let key = (conversation.as_str().into(), user.as_str().into());
                let there = self.participants.entry(key).or_insert((i64::MIN, present));
                if there.0 <= timestamp_us {
                    *there = (timestamp_us, present);
                }
            }
            Projection::Sent { conversation, sender, timestamp_us, time_ms, client_id, seq } => {
                let key = (conversation.as_str().into(), sender.as_str().into());
                self.sent.entry(key).or_default().insert(timestamp_us, SentRow { client_id, seq, time_ms });
            }
        }
    }

    pub(super) fn participants_of(&self, conversation: &str) -> Vec<UserId> {
        let here = self.participants.iter().filter(|((id, _), (_, present))| *present && id == conversation);
        here.map(|((_, user), _)| UserId::parse(user).expect("stored")).collect()
    }
}
