//! What a gateway knows of one partition's owner: epoch, batch numbers, interest, beats.
//!
//! Batches carry numbers and beats announce the last one, so a lost batch is asked for again; a wrong
//! interest hash, a new epoch or silence makes the gateway register everything anew. The beat is all the
//! anti-entropy there is.

use carillon_proto::id::ConversationId;
use carillon_proto::partition::stable_hash;
use carillon_runtime::collections::Spare;
use std::collections::HashSet;

/// Beats come once a second; after this long without one the owner is taken for new.
pub const SILENCE_MS: u64 = 3_000;
/// A partition this far behind its log takes no new work (design, step 3).
pub const LAG_MAX_MS: u64 = 10_000;

/// What to do about the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Ask for the batches from this number on.
    Resend {
        /// Of the owner whose batches they are.
        epoch: u64,
        /// The first missing one.
        from: u64,
    },
    /// Register everything again, with the heads that are known.
    Resync,
}

/// One gateway's view of one partition's owner.
#[derive(Debug, Default)]
pub struct Link {
    epoch: u64,
    received: u64,
    interest: HashSet<ConversationId>,
    hash: u64,
    /// The interest changed since the last beat, so that its hash proves nothing.
    changed: bool,
    mismatches: u32,
    /// Not everything was registered the last time, or its heads were not told.
    unfinished: bool,
    heard_ms: u64,
    lag_ms: u64,
    counter: u64,
}

impl Link {
    /// A conversation is served here from now on; `false` if it was already.
    pub fn add(&mut self, conversation: &ConversationId) -> bool {
        let new = self.interest.insert(conversation.clone());
        if new {
            self.hash ^= stable_hash(conversation.as_str());
            self.changed = true;
        }
        new
    }

    /// A conversation is no longer served here.
    pub fn remove(&mut self, conversation: &ConversationId) -> bool {
        let was = self.interest.remove(conversation);
        if was {
            self.hash ^= stable_hash(conversation.as_str());
            self.changed = true;
        }
        self.interest.give_spare_back();
        was
    }

    /// Everything that is served here.
    pub fn interest(&self) -> impl Iterator<Item = &ConversationId> {
        self.interest.iter()
    }

    /// The counter of the next request.
    pub fn next_counter(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// How far the owner is behind its log, if it is too far to take more work.
    pub fn overloaded(&self) -> Option<u64> {
        (self.lag_ms > LAG_MAX_MS).then_some(self.lag_ms)
    }

    /// A reply came: whether it counts, which one of an owner before does not.
    pub fn replied(&mut self, epoch: u64) -> bool {
        if epoch > self.epoch {
            (self.epoch, self.received) = (epoch, 0);
            self.mismatches = 0;
        }
        epoch == self.epoch
    }

    /// A batch came.
    pub fn batch(&mut self, epoch: u64, number: u64) -> Option<Repair> {
        if epoch < self.epoch {
            return None;
        }
        if epoch > self.epoch {
            let known_before = self.epoch != 0;
            (self.epoch, self.received) = (epoch, number);
            return (known_before || number > 1).then_some(Repair::Resync);
        }
        let expected = self.received + 1;
        self.received = self.received.max(number);
        (number > expected).then_some(Repair::Resend { epoch, from: expected })
    }

    /// A beat came.
    pub fn beat(
        &mut self,
        now_ms: u64,
        epoch: u64,
        number: u64,
        interest_hash: u64,
        lag_ms: u64,
    ) -> Option<Repair> {
        if epoch < self.epoch {
            return None;
        }
        (self.heard_ms, self.lag_ms) = (now_ms, lag_ms);
        if epoch > self.epoch {
            (self.epoch, self.received) = (epoch, number);
            return (!self.interest.is_empty()).then_some(Repair::Resync);
        }
        let settled = !std::mem::take(&mut self.changed);
        if interest_hash == self.hash || !settled {
            self.mismatches = 0;
        } else {
            self.mismatches += 1;
        }
        if self.mismatches >= 2 {
            self.mismatches = 0;
            self.received = self.received.max(number);
            return Some(Repair::Resync);
        }
        let expected = self.received + 1;
        self.received = self.received.max(number);
        (number >= expected).then_some(Repair::Resend { epoch, from: expected })
    }

    /// Everything was registered anew and its heads were told, or not. An owner knows what it was asked to register
    /// before it has the heads, so that its beats do not say that these were missed.
    pub fn resynced(&mut self, finished: bool) {
        self.unfinished = !finished;
    }

    /// Once a second: an owner that has fallen silent while something is served here is looked for anew, and one that did
    /// not tell all heads is asked again.
    pub fn tick(&mut self, now_ms: u64) -> Option<Repair> {
        if self.interest.is_empty() {
            (self.heard_ms, self.unfinished) = (now_ms, false);
            return None;
        }
        if now_ms.saturating_sub(self.heard_ms) < SILENCE_MS && !self.unfinished {
            return None;
        }
        self.heard_ms = now_ms;
        Some(Repair::Resync)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(text: &str) -> ConversationId {
        ConversationId::parse(text).expect("valid")
    }

    #[test]
    fn a_missing_batch_is_asked_for_once() {
        let mut link = Link::default();
        assert!(link.replied(7));
        assert_eq!(link.batch(7, 1), None);
        assert_eq!(link.batch(7, 4), Some(Repair::Resend { epoch: 7, from: 2 }));
        assert_eq!(link.batch(7, 3), None, "the resent ones come late and are welcome");
        assert_eq!(link.batch(7, 5), None);
    }

    /// Breaking it: without the comparison with the beat's number, a lost last batch is never missed.
    #[test]
    fn a_beat_reveals_the_last_batch_lost() {
        let mut link = Link::default();
        link.replied(7);
        link.batch(7, 1);
        assert_eq!(link.beat(0, 7, 3, 0, 0), Some(Repair::Resend { epoch: 7, from: 2 }));
        assert_eq!(link.beat(0, 7, 3, 0, 0), None);
    }

    #[test]
    fn a_wrong_hash_counts_when_nothing_is_under_way() {
        let mut link = Link::default();
        link.replied(7);
        link.add(&conversation("a"));
        assert_eq!(link.beat(0, 7, 0, 1, 0), None, "the registration may be on its way");
        assert_eq!(link.beat(0, 7, 0, 1, 0), None);
        assert_eq!(link.beat(0, 7, 0, 1, 0), Some(Repair::Resync));
        assert_eq!(link.beat(0, 7, 0, stable_hash("a"), 0), None);
    }

    #[test]
    fn a_new_owner_is_registered_with_and_an_old_one_ignored() {
        let mut link = Link::default();
        link.add(&conversation("a"));
        assert!(link.replied(7));
        assert_eq!(link.beat(0, 9, 5, 0, 0), Some(Repair::Resync));
        assert!(!link.replied(7));
        assert_eq!(link.batch(7, 99), None);
        assert_eq!(link.beat(0, 7, 99, 0, 99_000), None);
        assert_eq!(link.overloaded(), None);
        assert_eq!(link.batch(9, 6), None);
        assert_eq!(link.batch(11, 1), Some(Repair::Resync));
    }

    #[test]
    fn silence_is_a_reason_to_ask_only_with_interest() {
        let mut link = Link::default();
        assert_eq!(link.tick(0), None);
        assert_eq!(link.tick(10_000), None);
        link.add(&conversation("a"));
        assert_eq!(link.tick(12_999), None);
        assert_eq!(link.tick(13_000), Some(Repair::Resync));
        assert_eq!(link.tick(14_000), None);
        link.remove(&conversation("a"));
        assert_eq!(link.hash, 0);
    }

    #[test]
    fn an_owner_that_did_not_tell_all_heads_is_asked_again() {
        let mut link = Link::default();
        link.add(&conversation("a"));
        link.beat(1_000, 7, 0, stable_hash("a"), 0);
        assert_eq!(link.tick(1_500), None);
        link.resynced(false);
        assert_eq!(link.beat(2_000, 7, 0, stable_hash("a"), 0), None, "it has the registration");
        assert_eq!(link.tick(2_500), Some(Repair::Resync));
        assert_eq!(link.tick(3_500), Some(Repair::Resync));
        link.resynced(true);
        assert_eq!(link.tick(4_500), None);
        link.resynced(false);
        link.remove(&conversation("a"));
        assert_eq!(link.tick(5_500), None, "nothing is served here");
    }

    #[test]
    fn lag_refuses_work_until_it_is_caught_up() {
        let mut link = Link::default();
        link.beat(0, 1, 0, 0, LAG_MAX_MS + 1);
        assert_eq!(link.overloaded(), Some(LAG_MAX_MS + 1));
        link.beat(0, 1, 0, 0, 3);
        assert_eq!(link.overloaded(), None);
    }
}
