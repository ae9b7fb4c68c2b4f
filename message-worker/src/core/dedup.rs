//! A sender's accepted client ids in one conversation: what makes sending again harmless.
//!
//! Follows from the conversation's rows alone. The store's `sent` rows are only claims: a hit on one counts
//! once the event it points to was seen to be this sender's, with this client id.
//!
//! No clock plays a part: a time that was wrong for a moment must not make a repeated send a second message.

use crate::store::SentRow;
use carillon_proto::limits::DEDUP_CLIENT_IDS_MAX;
use carillon_proto::partition::stable_hash;
use carillon_proto::position::Position;
use std::collections::VecDeque;

/// The event that a client id first became. Its message id follows from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct First {
    pub(crate) seq: u64,
    pub(crate) time_ms: u64,
    pub(crate) position: Position,
}

/// What is known of a client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hit {
    /// Not among those of the window.
    None,
    /// The store says that this event has it; to be confirmed.
    Claimed {
        /// The event.
        seq: u64,
    },
    /// It became this event.
    Known(First),
}

#[derive(Debug)]
struct Entry {
    client_id: Box<str>,
    seq: u64,
    time_ms: u64,
    /// `None`: the store claims it.
    position: Option<Position>,
}

/// The window of one sender's accepted client ids, at most [`DEDUP_CLIENT_IDS_MAX`]. Most senders have a few in
/// memory, and some have all: hashes are searched one after the other, and ids only where they meet.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    /// Whether the store's rows are in here too.
    complete: bool,
    /// Ascending by seq.
    entries: VecDeque<Entry>,
    /// Of the client ids, in the same order.
    hashes: VecDeque<u64>,
}

impl Sender {
    /// A sender of whom the store has nothing that is not in here.
    pub(crate) fn complete() -> Sender {
        Sender { complete: true, ..Sender::default() }
    }

    /// Whether every accepted client id of the window is known.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Client ids remembered.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is known of `client_id`.
    pub(crate) fn hit(&self, client_id: &str) -> Hit {
        let found = self.find(client_id).and_then(|index| self.entries.get(index));
        let Some(Entry { seq, time_ms, position, .. }) = found else { return Hit::None };
        match *position {
            Some(position) => Hit::Known(First { seq: *seq, time_ms: *time_ms, position }),
            None => Hit::Claimed { seq: *seq },
        }
    }

    /// A client id was accepted: the sender's newest.
    pub(crate) fn remember(&mut self, client_id: &str, first: First) {
        while self.entries.len() >= DEDUP_CLIENT_IDS_MAX {
            self.forget_oldest();
        }
        let First { seq, time_ms, position } = first;
        self.push(Entry { client_id: client_id.into(), seq, time_ms, position: Some(position) });
    }

    /// The store's newest [`DEDUP_CLIENT_IDS_MAX`] rows of this sender, newest first, where the conversation's head
    /// is `head_seq`. What lies above that came from rows that do not count.
    pub(crate) fn learn(&mut self, rows: Vec<SentRow>, head_seq: u64) {
        let folded = std::mem::take(self);
        let mut claims: Vec<SentRow> = rows.into_iter().filter(|row| row.seq <= head_seq).collect();
        claims.sort_by_key(|row| row.seq);
        for SentRow { client_id, seq, time_ms } in claims {
            if folded.find(&client_id).is_none() {
                self.push(Entry { client_id: client_id.into(), seq, time_ms, position: None });
            }
        }
        folded.entries.into_iter().for_each(|entry| self.push(entry));
        while self.entries.len() > DEDUP_CLIENT_IDS_MAX {
            self.forget_oldest();
        }
        self.complete = true;
    }

    /// What the event that a claim pointed to really is.
    pub(crate) fn confirm(&mut self, client_id: &str, first: Option<First>) {
        let Some(index) = self.find(client_id) else { return };
        let Some(entry) = self.entries.get_mut(index).filter(|entry| entry.position.is_none()) else {
            return;
        };
        match first {
            Some(First { seq, time_ms, position }) if seq == entry.seq => {
                (entry.time_ms, entry.position) = (time_ms, Some(position));
            }
            _ => {
                self.entries.remove(index);
                self.hashes.remove(index);
            }
        }
    }

    fn find(&self, client_id: &str) -> Option<usize> {
        let hash = stable_hash(client_id);
        let same = |(index, other): &(usize, &u64)| {
            **other == hash && self.entries.get(*index).is_some_and(|entry| *entry.client_id == *client_id)
        };
        self.hashes.iter().enumerate().rev().find(same).map(|(index, _)| index)
    }

    fn push(&mut self, entry: Entry) {
        // Most senders are heard once or twice while their conversation is in memory.
        if self.entries.is_empty() {
            self.entries.reserve_exact(1);
            self.hashes.reserve_exact(1);
        }
        self.hashes.push_back(stable_hash(&entry.client_id));
        self.entries.push_back(entry);
    }

    fn forget_oldest(&mut self) {
        self.entries.pop_front();
        self.hashes.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seq: u64, time_ms: u64) -> First {
        let position = Position { incarnation: 1, sequence: seq, index: 0 };
        First { seq, time_ms, position }
    }

    fn row(client_id: &str, seq: u64) -> SentRow {
        SentRow { client_id: client_id.into(), seq, time_ms: 1_000 }
    }

    #[test]
    fn the_window_holds_the_newest_ids_and_no_more() {
        let mut sender = Sender::complete();
        for seq in 1..=(DEDUP_CLIENT_IDS_MAX as u64 + 5) {
            sender.remember(&format!("c{seq}"), first(seq, 1_000));
        }
        assert_eq!(sender.len(), DEDUP_CLIENT_IDS_MAX);
        assert_eq!(sender.hashes.len(), DEDUP_CLIENT_IDS_MAX);
        assert_eq!(sender.hit("c5"), Hit::None);
        assert_eq!(sender.hit("c6"), Hit::Known(first(6, 1_000)));
    }

    /// Before, one entry whose time was eight days ahead made everybody's client ids expire.
    #[test]
    fn no_time_makes_an_id_expire() {
        let mut sender = Sender::complete();
        sender.remember("old", first(1, 1_000));
        sender.remember("while the clock was wrong", first(2, u64::MAX));
        sender.remember("new", first(3, 2_000));
        assert_eq!(sender.hit("old"), Hit::Known(first(1, 1_000)));
    }

    #[test]
    fn the_stores_rows_are_claims_below_what_was_folded() {
        let mut sender = Sender::default();
        sender.remember("c3", first(3, 1_000));
        sender.learn(vec![row("c3", 3), row("c2", 2), row("c1", 1)], 3);
        assert!(sender.is_complete());
        assert_eq!(sender.hit("c3"), Hit::Known(first(3, 1_000)));
        assert_eq!(sender.hit("c2"), Hit::Claimed { seq: 2 });
        sender.confirm("c2", Some(first(2, 900)));
        assert_eq!(sender.hit("c2"), Hit::Known(first(2, 900)));
        sender.confirm("c1", None);
        assert_eq!(sender.hit("c1"), Hit::None, "the event was another");
        sender.remember("c1", first(4, 1_000));
        assert_eq!(sender.hit("c1"), Hit::Known(first(4, 1_000)));
    }

    #[test]
    fn rows_above_the_head_do_not_count() {
        let mut sender = Sender::default();
        sender.learn(vec![row("c9", 9), row("c1", 1)], 3);
        assert_eq!(sender.hit("c9"), Hit::None);
        assert_eq!(sender.hit("c1"), Hit::Claimed { seq: 1 });
    }
}
