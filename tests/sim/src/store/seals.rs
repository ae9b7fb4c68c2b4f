//! Simulated seals. A seal is decided at once or not at all. Its deletions are written like rows, each by itself.

use super::{Fate, Tables};
use crate::gate::Cut;
use crate::node::Node;
use crate::world::World;
use carillon_message_worker::store::{SEALED_ROWS_MAX, Seal, StoreError};
use carillon_proto::id::ConversationId;
use std::collections::BTreeMap;

/// Seals in force, and their deletions.
#[derive(Default)]
pub struct Seals {
    in_force: BTreeMap<String, Seal>,
    deletions: BTreeMap<String, Vec<Deletion>>,
}

/// Deletes the rows in this range of seqs with timestamps up to `timestamp_us`.
#[derive(Debug, Clone, Copy)]
struct Deletion {
    first: u64,
    last: u64,
    timestamp_us: i64,
}

impl Deletion {
    fn covers(&self, seq: u64, timestamp_us: i64) -> bool {
        (self.first..=self.last).contains(&seq) && timestamp_us <= self.timestamp_us
    }
}

impl Seals {
    /// The seal in force.
    pub(super) fn known(&self, conversation: &str) -> Option<Seal> {
        self.in_force.get(conversation).copied()
    }

    /// Whether a deletion covers a row that arrives after it.
    pub(super) fn shut_out(&self, (conversation, seq): &(String, u64), timestamp_us: i64) -> bool {
        let deletions = self.deletions.get(conversation).into_iter().flatten();
        deletions.into_iter().any(|deletion| deletion.covers(*seq, timestamp_us))
    }
}

impl World {
    fn delete(&self, conversation: &str, deletion: Deletion) {
        let Deletion { first, last, timestamp_us } = deletion;
        self.note(format_args!("rows {first} to {last} of {conversation} up to {timestamp_us} are deleted"));
        for seq in self.tables.lock().delete(conversation, deletion) {
            self.violation(format_args!("row {seq} of {conversation} was acknowledged and is deleted"));
        }
    }

    fn seal(&self, conversation: &str, previous: Option<Seal>, next: Seal) -> Seal {
        let in_force = &mut self.tables.lock().seals.in_force;
        let there = in_force.entry(conversation.to_owned()).or_insert(next);
        if Some(*there) == previous {
            *there = next;
        }
        if *there == next {
            self.count("seals");
        }
        *there
    }
}

impl Tables {
    /// Applies a deletion and returns the acknowledged rows that it removed.
    fn delete(&mut self, conversation: &str, deletion: Deletion) -> Vec<u64> {
        let key = |seq| (conversation.to_owned(), seq);
        let rows = self.events.range(key(deletion.first)..=key(deletion.last));
        let dead = rows.filter(|((_, seq), row)| deletion.covers(*seq, row.timestamp_us));
        let dead: Vec<u64> = dead.map(|((_, seq), _)| *seq).collect();
        dead.iter().for_each(|seq| drop(self.events.remove(&key(*seq))));
        self.seals.deletions.entry(conversation.to_owned()).or_default().push(deletion);
        dead.into_iter().filter(|seq| self.acknowledged.contains_key(&key(*seq))).collect()
    }
}

impl Node {
    pub(super) async fn seal_rows(
        &self,
        conversation: &ConversationId,
        previous: Option<Seal>,
        next: Seal,
        timestamp_us: i64,
    ) -> Result<Seal, StoreError> {
        let in_force = self.decide_seal(conversation.to_string(), previous, next).await?;
        if in_force.incarnation == next.incarnation {
            let Seal { created, seq, .. } = in_force;
            let above = Deletion { first: seq + 1, last: seq + SEALED_ROWS_MAX, timestamp_us };
            let creation = Deletion { first: 0, last: 0, timestamp_us };
            let deletions = if created { vec![above] } else { vec![above, creation] };
            let id = conversation.to_string();
            self.write("deletions", deletions, move |world, deletion| world.delete(&id, deletion)).await?;
        }
        Ok(in_force)
    }

    async fn decide_seal(
        &self,
        conversation: String,
        previous: Option<Seal>,
        next: Seal,
    ) -> Result<Seal, StoreError> {
        self.way(Cut::Store).await?;
        let fate = self.write_fate();
        // A lightweight transaction is decided at once or not at all, so it cannot stray.
        if matches!(fate, Fate::Lost | Fate::Strays) {
            return Err(self.no_answer().await.into());
        }
        let (world, id) = (self.world.clone(), conversation.clone());
        let decide = move || world.seal(&id, previous, next);
        let in_force = self.world.network.remote(self.world.latency(), decide).await;
        self.note(format_args!("seals {conversation} by {next:?}: in force {in_force:?}, {fate:?}"));
        if fate != Fate::Done {
            return Err(self.no_answer().await.into());
        }
        self.way(Cut::Store).await?;
        Ok(in_force)
    }
}
