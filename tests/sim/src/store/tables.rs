//! The stored tables, whose cells carry their write timestamps.

use super::seals::Seals;
use crate::club::Row;
use crate::world::World;
use bytes::Bytes;
use carillon_message_worker::store::{
    Checkpoint, EventRow, PartitionState, Projection, SentRow, Suspension, Tenure,
};
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::position::Position;
use carillon_proto::wire;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};

type RowKey = (String, u64);

/// All tables.
#[derive(Default)]
pub struct Tables {
    pub(super) events: BTreeMap<RowKey, EventRow>,
    heads: BTreeMap<String, (i64, Bytes)>,
    participants: BTreeMap<(String, String), (i64, bool)>,
    sent: BTreeMap<(String, String), BTreeMap<i64, SentRow>>,
    tenures: BTreeMap<u32, Tenure>,
    checkpoints: BTreeMap<u32, Checkpoint>,
    skips: BTreeMap<u32, BTreeSet<Position>>,
    suspensions: BTreeMap<(u32, String), (i64, Suspension)>,
    pub(super) seals: Seals,
    /// Rows as they were when a client received their ack. They must never change.
    pub(super) acknowledged: BTreeMap<RowKey, EventRow>,
    /// When each row was first written in its present form, in microseconds since the run began.
    written_us: BTreeMap<RowKey, u64>,
}

/// A change of a row that must not happen.
enum Damage {
    /// Two writers wrote different bytes with the same timestamp, so it is undefined which of them wins.
    Torn,
    /// The row was acknowledged before and has changed.
    Acknowledged,
}

impl World {
    /// Writes a row, and reports a violation if the write must not happen.
    pub fn write_event(&self, row: EventRow) {
        let (conversation, seq, position) = (row.conversation.clone(), row.seq, row.position);
        self.note(format_args!("row {conversation} {seq} from {position:?} at {}", row.timestamp_us));
        let now_us = self.trace.now_us();
        match self.tables.lock().write_event(row, now_us) {
            Some(Damage::Torn) => self.violation(format_args!(
                "row {seq} of {conversation} was written twice with one timestamp and different bytes ({position:?})"
            )),
            Some(Damage::Acknowledged) => self.violation(format_args!(
                "row {seq} of {conversation} was acknowledged and is written over from {position:?}"
            )),
            None => {}
        }
    }

    /// Replaces a partition's tenure if `previous` is still in force. Counts take-overs and new log generations.
    pub(super) fn change_tenure(&self, partition: u32, previous: Option<Tenure>, next: Tenure) -> Tenure {
        let known = previous.as_ref().map(|previous| previous.incarnation);
        let in_force = self.tables.lock().change_tenure(partition, previous, next.clone());
        if let Some(known) = known.filter(|known| in_force == next && *known != next.incarnation) {
            let is_same_log = known.generation == next.incarnation.generation;
            self.count(if is_same_log { "take-overs" } else { "new log generations" });
        }
        in_force
    }

    /// Remembers that a row was acknowledged, and reports a violation if it is not stored.
    pub fn acknowledged(&self, conversation: &str, seq: u64) {
        let tables = &mut *self.tables.lock();
        let key = (conversation.to_owned(), seq);
        match tables.events.get(&key) {
            Some(row) => {
                tables.acknowledged.entry(key).or_insert_with(|| row.clone());
            }
            None => self.violation(format_args!(
                "row {seq} of {conversation} is acknowledged and nowhere in the store"
            )),
        }
    }
}

impl Tables {
    fn write_event(&mut self, row: EventRow, now_us: u64) -> Option<Damage> {
        let key = (row.conversation.to_string(), row.seq);
        if self.seals.shut_out(&key, row.timestamp_us) {
            return None;
        }
        if let Some(there) = self.events.get(&key) {
            if there.timestamp_us > row.timestamp_us || *there == row {
                return None;
            }
            if there.timestamp_us == row.timestamp_us {
                return Some(Damage::Torn);
            }
        }
        let damaged = self.acknowledged.get(&key).is_some_and(|acknowledged| *acknowledged != row);
        self.written_us.insert(key.clone(), now_us);
        self.events.insert(key, row);
        damaged.then_some(Damage::Acknowledged)
    }

    pub(super) fn project(&mut self, projection: Projection) {
        match projection {
            Projection::Head { conversation, timestamp_us, blob } => {
                let there = self.heads.entry(conversation.to_string()).or_insert((i64::MIN, Bytes::new()));
                if there.0 <= timestamp_us {
                    *there = (timestamp_us, blob);
                }
            }
            Projection::Participant { conversation, user, timestamp_us, present } => {
                let key = (conversation.to_string(), user.to_string());
                let there = self.participants.entry(key).or_insert((i64::MIN, present));
                if there.0 <= timestamp_us {
                    *there = (timestamp_us, present);
                }
            }
            Projection::Sent { conversation, sender, timestamp_us, time_ms, client_id, seq } => {
                let key = (conversation.to_string(), sender.as_str().to_owned());
                let row = SentRow { client_id, seq, time_ms };
                self.sent.entry(key).or_default().insert(timestamp_us, row);
            }
        }
    }

    fn change_tenure(&mut self, partition: u32, previous: Option<Tenure>, next: Tenure) -> Tenure {
        if self.tenures.get(&partition) == previous.as_ref() {
            self.tenures.insert(partition, next.clone());
        }
        self.tenures.get(&partition).cloned().unwrap_or(next)
    }

    pub(super) fn checkpoint(&mut self, partition: u32, checkpoint: Checkpoint) {
        let there = self.checkpoints.entry(partition).or_insert(checkpoint);
        if there.timestamp_us <= checkpoint.timestamp_us {
            *there = checkpoint;
        }
    }

    pub(super) fn skip(&mut self, partition: u32, position: Position) {
        self.skips.entry(partition).or_default().insert(position);
    }

    pub(super) fn skips_of(&self, partition: u32, incarnation: u32) -> Vec<Position> {
        let skips = self.skips.get(&partition).into_iter().flatten();
        skips.filter(|position| position.incarnation == incarnation).copied().collect()
    }

    pub(super) fn suspend(&mut self, partition: u32, suspension: Suspension, timestamp_us: i64) {
        let key = (partition, suspension.conversation.to_string());
        let there = self.suspensions.entry(key).or_insert((i64::MIN, suspension.clone()));
        if there.0 <= timestamp_us {
            *there = (timestamp_us, suspension);
        }
    }

    pub(super) fn suspensions_of(&self, partition: u32) -> Vec<Suspension> {
        let here = self.suspensions.iter().filter(|((of, _), _)| *of == partition);
        here.map(|(_, (_, suspension))| suspension.clone()).collect()
    }

    /// A partition's tenure and checkpoint.
    pub fn partition(&self, partition: u32) -> PartitionState {
        PartitionState {
            tenure: self.tenures.get(&partition).cloned(),
            checkpoint: self.checkpoints.get(&partition).copied(),
        }
    }

    /// Up to `limit` rows above `after_seq`, up to the first gap.
    pub fn events_after(&self, conversation: &str, after_seq: u64, limit: usize) -> Vec<EventRow> {
        let row = |seq| self.event(conversation, seq);
        (after_seq + 1..).map_while(row).take(limit).collect()
    }

    pub(super) fn events_before(&self, conversation: &str, before_seq: u64, limit: usize) -> Vec<EventRow> {
        let id = || conversation.to_owned();
        let rows = self.events.range((id(), 1)..(id(), before_seq.max(1)));
        let mut rows: Vec<EventRow> = rows.rev().take(limit).map(|(_, row)| row.clone()).collect();
        rows.reverse();
        rows
    }

    pub(super) fn event(&self, conversation: &str, seq: u64) -> Option<EventRow> {
        self.events.get(&(conversation.to_owned(), seq)).cloned()
    }

    pub(super) fn head(&self, conversation: &str) -> Option<Bytes> {
        self.heads.get(conversation).map(|(_, blob)| blob.clone())
    }

    pub(super) fn participants_of(&self, conversation: &str) -> Vec<UserId> {
        let id = || conversation.to_owned();
        let cells = self.participants.range((id(), String::new())..);
        let ours = cells.take_while(|((of, _), _)| of == conversation).filter(|(_, (_, present))| *present);
        ours.filter_map(|((_, user), _)| UserId::parse(user).ok()).collect()
    }

    pub(super) fn sent_by(&self, conversation: &str, sender: &str, limit: usize) -> Vec<SentRow> {
        let rows = self.sent.get(&(conversation.to_owned(), sender.to_owned()));
        rows.map(|rows| rows.values().rev().take(limit).cloned().collect()).unwrap_or_default()
    }

    pub(super) fn conversations_of(
        &self,
        user: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Vec<ConversationId> {
        let cells = self.participants.iter().filter(|((_, of), (_, present))| of == user && *present);
        let above = cells.filter(|((id, _), _)| cursor.is_none_or(|cursor| id.as_str() > cursor));
        above.filter_map(|((id, _), _)| ConversationId::parse(id).ok()).take(limit).collect()
    }

    /// The last seq before the first gap in a conversation's rows.
    pub fn last_seq(&self, conversation: &str) -> u64 {
        let there = |seq: &u64| self.events.contains_key(&(conversation.to_owned(), *seq));
        (1..).take_while(there).last().unwrap_or(0)
    }

    /// The rows of a club, from its creation up to the first gap.
    pub fn club_rows(&self, conversation: &str) -> Vec<Row> {
        let last_seq = self.last_seq(conversation);
        let keys = (0..=last_seq).map(|seq| (conversation.to_owned(), seq));
        let row = |key: RowKey| {
            let event = wire::Event::decode(self.events.get(&key)?.blob.clone()).ok()?;
            Some(Row { event, written_us: self.written_us.get(&key).copied().unwrap_or_default() })
        };
        keys.filter_map(row).collect()
    }
}
