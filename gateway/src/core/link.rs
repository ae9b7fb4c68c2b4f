//! What a gateway knows of one partition's owner: epoch, batch numbers, beats.
//!
//! Batches carry numbers and beats announce the last one, so a lost batch is asked for again; a hash that is not that of
//! the rooms, a new epoch or silence makes the gateway register everything anew. The beat is all the anti-entropy there
//! is. Which rooms there are is not kept here: the hub has them.

use carillon_proto::wire;

/// Beats come once a second; after this long without one the owner is taken for new.
pub const SILENCE_MS: u64 = 3_000;
/// A partition this far behind its log takes no new work (design, step 3).
pub const LAG_MAX_MS: u64 = 10_000;

/// What to do about the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repair {
    /// Ask for the batches from this number on. Outcomes are in them alone: what is read of a conversation anew does not
    /// tell a sender what became of a command.
    pub resend: Option<u64>,
    /// Register everything again, with the heads that are known.
    pub resync: bool,
}

/// The partition's rooms, as a beat is compared with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rooms {
    /// XOR of the hashes of what the owner should have registered; `None` while it was not told everything.
    pub expected: Option<u64>,
    /// There is a room.
    pub any: bool,
}

/// One gateway's view of one partition's owner.
#[derive(Debug, Default)]
pub struct Link {
    epoch: u64,
    received: u64,
    /// Something was registered since the last beat, so that the hash in one without a counter proves nothing.
    changed: bool,
    mismatches: u32,
    /// The first batch that did not come, and has not been asked for.
    missing: Option<u64>,
    /// The first one that was asked for in vain.
    unanswered: Option<u64>,
    /// Everything is to be registered anew.
    resync: bool,
    /// Not everything was registered the last time, or its heads were not told.
    unfinished: bool,
    heard_ms: u64,
    lag_ms: u64,
    counter: u64,
    /// Of the last registration.
    registered_counter: u64,
}

impl Link {
    /// The counter of the next request, which may be a registration.
    pub fn next_counter(&mut self, registers: bool) -> u64 {
        self.counter += 1;
        if registers {
            (self.registered_counter, self.changed) = (self.counter, true);
        }
        self.counter
    }

    /// How far the owner is behind its log, if it is too far to take more work.
    pub fn overloaded(&self) -> Option<u64> {
        (self.lag_ms > LAG_MAX_MS).then_some(self.lag_ms)
    }

    /// The owner's number.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn begin(&mut self, epoch: u64) {
        (self.epoch, self.received, self.mismatches) = (epoch, 0, 0);
        (self.missing, self.unanswered) = (None, None);
    }

    fn received(&mut self, number: u64, missing_up_to: u64) {
        if missing_up_to > self.received {
            self.missing.get_or_insert(self.received + 1);
        }
        self.received = self.received.max(number);
    }

    /// A reply came: whether it counts, which one of an owner before does not. A new owner has what it was asked to
    /// register just now, and nothing else, unless that replaces everything.
    pub fn replied(&mut self, epoch: u64, replaces: bool) -> bool {
        if epoch > self.epoch {
            self.resync |= self.epoch != 0 && !replaces;
            self.begin(epoch);
        }
        epoch == self.epoch
    }

    /// A batch came.
    pub fn batch(&mut self, epoch: u64, number: u64) {
        if epoch < self.epoch {
            return;
        }
        if epoch > self.epoch {
            self.resync |= self.epoch != 0 || number > 1;
            self.begin(epoch);
        }
        self.received(number, number.saturating_sub(1));
    }

    /// A beat came.
    pub fn beat(&mut self, now_ms: u64, beat: &wire::Beat, rooms: &Rooms) {
        if beat.epoch < self.epoch {
            return;
        }
        (self.heard_ms, self.lag_ms) = (now_ms, beat.lag_ms);
        if beat.epoch > self.epoch {
            self.begin(beat.epoch);
            self.resync |= rooms.any;
        } else if let Some(differs) = self.differs(beat, rooms) {
            self.mismatches = if differs { self.mismatches + 1 } else { 0 };
        }
        if self.mismatches >= 2 {
            self.mismatches = 0;
            self.resync = true;
        }
        self.received(beat.number, beat.number);
    }

    /// Whether the owner has something else registered than the rooms that are here; `None` where that cannot be told. A
    /// beat says the last request that its owner knows, so that joins and leaves all the time do not keep it from being
    /// compared; older workers do not say it.
    fn differs(&mut self, beat: &wire::Beat, rooms: &Rooms) -> Option<bool> {
        let settled = !std::mem::take(&mut self.changed);
        let comparable = if beat.counter == 0 { settled } else { beat.counter >= self.registered_counter };
        rooms.expected.filter(|_| comparable).map(|expected| expected != beat.interest_hash)
    }

    /// Messages may have been lost, whichever. Batches are asked for before a later one or a beat shows that they are
    /// missing: senders wait for the outcomes in them.
    pub fn lost(&mut self) {
        self.resync = true;
        if self.epoch != 0 {
            self.missing.get_or_insert(self.received + 1);
        }
    }

    /// Nobody answered for the batches of this owner: they are asked for again with the next tick.
    pub fn unanswered(&mut self, epoch: u64, from: u64) {
        if epoch == self.epoch {
            self.unanswered = Some(self.unanswered.map_or(from, |other| other.min(from)));
        }
    }

    /// Everything was registered anew and its heads were told, or not. An owner knows what it was asked to register
    /// before it has the heads, so that its beats do not say that these were missed.
    pub fn resynced(&mut self, finished: bool) {
        self.unfinished = !finished;
    }

    /// Once a second: an owner that has fallen silent while something is served here is looked for anew, and one that did
    /// not tell all heads, or did not answer, is asked again.
    pub fn tick(&mut self, now_ms: u64, serves: bool) {
        if let Some(from) = self.unanswered.take() {
            self.missing = Some(self.missing.map_or(from, |other| other.min(from)));
        }
        if !serves {
            (self.heard_ms, self.unfinished) = (now_ms, false);
        } else if now_ms.saturating_sub(self.heard_ms) >= SILENCE_MS || self.unfinished {
            self.heard_ms = now_ms;
            self.resync = true;
        }
    }

    /// What is to be done now.
    pub fn repair(&mut self) -> Option<Repair> {
        let repair = Repair { resend: self.missing.take(), resync: std::mem::take(&mut self.resync) };
        (repair.resend.is_some() || repair.resync).then_some(repair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Rooms = Rooms { expected: Some(0), any: false };
    const SOME: Rooms = Rooms { expected: Some(0xA), any: true };

    fn beat(epoch: u64, number: u64) -> wire::Beat {
        wire::Beat { epoch, number, ..wire::Beat::default() }
    }

    fn hashed(interest_hash: u64, counter: u64) -> wire::Beat {
        wire::Beat { interest_hash, counter, ..beat(7, 0) }
    }

    fn resend(from: u64) -> Option<Repair> {
        Some(Repair { resend: Some(from), resync: false })
    }

    fn tick(link: &mut Link, now_ms: u64, serves: bool) -> Option<Repair> {
        link.tick(now_ms, serves);
        link.repair()
    }

    const RESYNC: Option<Repair> = Some(Repair { resend: None, resync: true });

    #[test]
    fn a_missing_batch_is_asked_for_once() {
        let mut link = Link::default();
        assert!(link.replied(7, false));
        link.batch(7, 1);
        assert_eq!(link.repair(), None);
        link.batch(7, 4);
        assert_eq!(link.repair(), resend(2));
        link.batch(7, 3);
        assert_eq!(link.repair(), None, "the resent ones come late and are welcome");
        link.batch(7, 5);
        assert_eq!(link.repair(), None);
    }

    /// Breaking it: without the comparison with the beat's number, a lost last batch is never missed.
    #[test]
    fn a_beat_reveals_the_last_batch_lost() {
        let mut link = Link::default();
        link.replied(7, false);
        link.batch(7, 1);
        link.beat(0, &beat(7, 3), &NONE);
        assert_eq!(link.repair(), resend(2));
        link.beat(0, &beat(7, 3), &NONE);
        assert_eq!(link.repair(), None);
    }

    /// Acknowledgements are in batches alone: who only registers anew leaves senders to their timeout.
    #[test]
    fn batches_are_asked_for_even_where_everything_is_registered_anew() {
        let mut link = Link::default();
        link.replied(7, false);
        link.batch(7, 1);
        link.lost();
        link.batch(7, 4);
        assert_eq!(link.repair(), Some(Repair { resend: Some(2), resync: true }));
        link.batch(9, 3);
        assert_eq!(link.repair(), Some(Repair { resend: Some(1), resync: true }), "a new owner's first ones");
        link.batch(9, 6);
        link.replied(11, true);
        assert_eq!(link.repair(), None, "those of an owner before are nobody's any more");
    }

    /// Before, the outcomes in a last batch that was lost waited for the next beat, up to a second.
    #[test]
    fn batches_are_asked_for_as_soon_as_messages_may_be_lost() {
        let mut link = Link::default();
        link.lost();
        assert_eq!(link.repair(), RESYNC, "there is no owner to ask yet");
        link.replied(7, true);
        link.batch(7, 1);
        link.lost();
        assert_eq!(link.repair(), Some(Repair { resend: Some(2), resync: true }));
        link.beat(0, &beat(7, 1), &NONE);
        assert_eq!(link.repair(), None);
    }

    #[test]
    fn batches_that_were_asked_for_in_vain_are_asked_for_again() {
        let mut link = Link::default();
        link.replied(7, false);
        link.batch(7, 3);
        assert_eq!(link.repair(), resend(1));
        link.unanswered(7, 1);
        link.batch(7, 4);
        assert_eq!(link.repair(), None, "not at once");
        link.batch(7, 6);
        link.tick(1_000, false);
        assert_eq!(link.repair(), resend(1));
        link.unanswered(7, 1);
        link.replied(9, false);
        link.tick(2_000, false);
        assert_eq!(link.repair(), RESYNC, "the owner is another one, which has nothing of the batches");
        link.unanswered(7, 1);
        link.tick(3_000, false);
        assert_eq!(link.repair(), None);
    }

    /// A worker of an older version does not say which request it knows.
    #[test]
    fn a_wrong_hash_without_a_counter_counts_when_nothing_is_under_way() {
        let mut link = Link::default();
        link.replied(7, false);
        link.next_counter(true);
        for expected in [None, None, RESYNC] {
            link.beat(0, &hashed(1, 0), &SOME);
            assert_eq!(link.repair(), expected, "the registration may be on its way");
        }
        link.beat(0, &hashed(0xA, 0), &SOME);
        assert_eq!(link.repair(), None);
    }

    /// Before, a hash proved nothing while anybody joined or left between two beats: where somebody always does, a room
    /// that the owner had lost stayed deaf.
    #[test]
    fn a_wrong_hash_counts_while_others_join_and_leave() {
        let mut link = Link::default();
        link.replied(7, false);
        let first = link.next_counter(true);
        link.beat(0, &hashed(1, first), &SOME);
        let second = link.next_counter(true);
        link.beat(0, &hashed(1, first), &SOME);
        assert_eq!(link.repair(), None, "the beat does not know the last registration");
        link.beat(0, &hashed(1, second), &Rooms { expected: None, any: true });
        assert_eq!(link.repair(), None, "the owner was not told everything");
        let third = link.next_counter(true);
        link.next_counter(false);
        link.beat(0, &hashed(1, third), &SOME);
        assert_eq!(link.repair(), RESYNC, "what was asked for since is no registration");
        link.beat(0, &hashed(1, third), &SOME);
        link.beat(0, &hashed(0xA, third), &SOME);
        link.beat(0, &hashed(1, third), &SOME);
        assert_eq!(link.repair(), None, "one may have been overtaken");
    }

    #[test]
    fn a_new_owner_is_registered_with_and_an_old_one_ignored() {
        let mut link = Link::default();
        assert!(link.replied(7, false));
        link.beat(0, &beat(9, 0), &SOME);
        assert_eq!(link.repair(), RESYNC);
        assert!(!link.replied(7, true));
        link.batch(7, 99);
        link.beat(0, &wire::Beat { lag_ms: 99_000, ..beat(7, 99) }, &SOME);
        assert_eq!(link.repair(), None);
        assert_eq!(link.overloaded(), None);
        link.batch(9, 1);
        assert_eq!(link.repair(), None);
        link.batch(11, 1);
        assert_eq!(link.repair(), RESYNC);
    }

    /// Before, everything else waited for two beats, and heard nothing meanwhile.
    #[test]
    fn an_owner_that_answers_one_join_first_is_registered_with() {
        let mut link = Link::default();
        assert!(link.replied(7, false));
        assert_eq!(link.repair(), None, "the first owner was told everything");
        assert!(link.replied(9, false));
        assert_eq!(link.repair(), RESYNC);
        assert!(link.replied(11, true));
        assert_eq!(link.repair(), None, "it has everything");
    }

    #[test]
    fn silence_is_a_reason_to_ask_only_with_rooms() {
        let mut link = Link::default();
        assert_eq!(tick(&mut link, 0, false), None);
        assert_eq!(tick(&mut link, 10_000, false), None);
        assert_eq!(tick(&mut link, 12_999, true), None);
        assert_eq!(tick(&mut link, 13_000, true), RESYNC);
        assert_eq!(tick(&mut link, 14_000, true), None);
    }

    #[test]
    fn an_owner_that_did_not_tell_all_heads_is_asked_again() {
        let mut link = Link::default();
        link.beat(1_000, &hashed(0xA, 0), &SOME);
        assert_eq!(link.repair(), RESYNC, "it is new");
        assert_eq!(tick(&mut link, 1_500, true), None);
        link.resynced(false);
        link.beat(2_000, &hashed(0xA, 0), &SOME);
        assert_eq!(link.repair(), None, "it has the registration");
        assert_eq!(tick(&mut link, 2_500, true), RESYNC);
        assert_eq!(tick(&mut link, 3_500, true), RESYNC);
        link.resynced(true);
        assert_eq!(tick(&mut link, 4_500, true), None);
        link.resynced(false);
        assert_eq!(tick(&mut link, 5_500, false), None, "nothing is served here");
    }

    #[test]
    fn lag_refuses_work_until_it_is_caught_up() {
        let mut link = Link::default();
        link.beat(0, &wire::Beat { lag_ms: LAG_MAX_MS + 1, ..beat(1, 0) }, &NONE);
        assert_eq!(link.overloaded(), Some(LAG_MAX_MS + 1));
        link.beat(0, &wire::Beat { lag_ms: 3, ..beat(1, 0) }, &NONE);
        assert_eq!(link.overloaded(), None);
    }
}
