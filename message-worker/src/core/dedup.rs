//! The accepted client ids of a sender in one conversation. They make it harmless to send a command again.
//!
//! They follow from the conversation's rows alone. The store's `sent` rows are only claims: a client id found in one
//! counts after the event that it points to was seen to have this sender and this client id.
//!
//! Client ids do not expire by time: a clock that was wrong for a moment must not turn a repeated send into a second
//! message.

use super::rows::SentRow;
use carillon_proto::limits::DEDUP_CLIENT_IDS_MAX;
use carillon_proto::partition::stable_hash;
use carillon_proto::position::Position;
use std::collections::VecDeque;

/// The event that a client id first became. The message id follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct First {
    pub(crate) seq: u64,
    pub(crate) time_ms: u64,
    pub(crate) position: Position,
}

/// What is known about a client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hit {
    /// It is not in the window.
    None,
    /// According to the store it became this event. That is not confirmed yet.
    Claimed {
        /// The event's seq.
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
    /// `None` while this is only a claim of the store.
    position: Option<Position>,
}

/// The window of one sender's accepted client ids, at most [`DEDUP_CLIENT_IDS_MAX`]. Most senders have few of them in
/// memory, and some have all. A search compares hashes first, and compares the ids only where the hashes are equal.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    /// Whether the rows of the store are in here too.
    complete: bool,
    /// In ascending order of seq.
    entries: VecDeque<Entry>,
    /// The hashes of the client ids, in the same order.
    hashes: VecDeque<u64>,
}

impl Sender {
    /// A sender for whom the store has no rows that are not in here.
    pub(crate) fn complete() -> Sender {
        Sender { complete: true, ..Sender::default() }
    }

    /// Whether all accepted client ids of the window are known.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The number of client ids in memory.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is known about `client_id`.
    pub(crate) fn hit(&self, client_id: &str) -> Hit {
        let found = self.find(client_id).and_then(|index| self.entries.get(index));
        let Some(Entry { seq, time_ms, position, .. }) = found else { return Hit::None };
        match *position {
            Some(position) => Hit::Known(First { seq: *seq, time_ms: *time_ms, position }),
            None => Hit::Claimed { seq: *seq },
        }
    }

    /// Adds a client id that was just accepted, as the sender's newest.
    pub(crate) fn remember(&mut self, client_id: &str, first: First) {
        while self.entries.len() >= DEDUP_CLIENT_IDS_MAX {
            self.forget_oldest();
        }
        let First { seq, time_ms, position } = first;
        self.push(Entry { client_id: client_id.into(), seq, time_ms, position: Some(position) });
    }

    /// Adds the sender's newest [`DEDUP_CLIENT_IDS_MAX`] rows of the store, newest first. `head_seq` is the
    /// conversation's newest seq; stored rows above it follow from event rows that do not count.
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

    /// Confirms a claim with the event that it points to, or drops the claim if that event is another one.
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
        // Most senders send once or twice while their conversation is in memory.
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

    /// Before the fix, one entry with a time eight days ahead made the client ids of all senders expire.
    #[test]
    fn no_time_makes_an_id_expire() {
        let mut sender = Sender::complete();
        sender.remember("old", first(1, 1_000));
        sender.remember("while the clock was wrong", first(2, u64::MAX));
        sender.remember("new", first(3, 2_000));
        assert_eq!(sender.hit("old"), Hit::Known(first(1, 1_000)));
    }

    #[test]
    fn stored_rows_are_claims_and_folded_rows_take_precedence() {
        let mut sender = Sender::default();
        sender.remember("c3", first(3, 1_000));
        sender.learn(vec![row("c3", 3), row("c2", 2), row("c1", 1)], 3);
        assert!(sender.is_complete());
        assert_eq!(sender.hit("c3"), Hit::Known(first(3, 1_000)));
        assert_eq!(sender.hit("c2"), Hit::Claimed { seq: 2 });
        sender.confirm("c2", Some(first(2, 900)));
        assert_eq!(sender.hit("c2"), Hit::Known(first(2, 900)));
        sender.confirm("c1", None);
        assert_eq!(sender.hit("c1"), Hit::None, "the row has another client id, so this one is unknown");
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
