//! What a gateway knows about one partition's owner: its epoch, the numbers of its batches, and its beats.
//!
//! Batches are numbered and beats announce the last number, so the gateway notices a lost batch and requests it again.
//! If the hash in a beat differs from that of the rooms, or the epoch is new, or beats stop, the gateway registers
//! everything again. There is no anti-entropy besides the beats. The rooms themselves are kept in the hub, not here.

use carillon_proto::wire;

/// Beats come once a second. After this time without one, the gateway registers everything again.
pub const SILENCE_MS: u64 = 3_000;
/// A partition that lags more than this behind its log takes no new commands, so that it can catch up.
pub const LAG_MAX_MS: u64 = 10_000;

/// What the gateway has to do about the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repair {
    /// Request the batches from this number on. Outcomes are only in batches: reading the events of a conversation
    /// again does not show a sender what became of a command.
    pub resend: Option<u64>,
    /// Register everything again, with the heads that are known.
    pub resync: bool,
}

/// The partition's rooms, in the form that a beat is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomDigest {
    /// XOR of the hashes of the rooms that the owner should have registered; `None` while some changes have not been
    /// sent to it.
    pub expected: Option<u64>,
    pub any: bool,
}

/// One gateway's view of one partition's owner.
#[derive(Debug, Default)]
pub struct Link {
    epoch: u64,
    received: u64,
    /// Something was registered since the last beat, so the hash in a beat without a counter proves nothing.
    changed: bool,
    mismatches: u32,
    /// The first missing batch that has not been requested yet.
    missing: Option<u64>,
    /// The first batch whose request was not answered.
    unanswered: Option<u64>,
    /// Everything has to be registered again.
    resync: bool,
    /// The last registration of everything was not finished, or not all heads were received.
    unfinished: bool,
    last_beat_ms: u64,
    lag_ms: u64,
    counter: u64,
    registered_counter: u64,
}

impl Link {
    /// The counter of the next request. `registers`: the request is a registration.
    pub fn next_counter(&mut self, registers: bool) -> u64 {
        self.counter += 1;
        if registers {
            (self.registered_counter, self.changed) = (self.counter, true);
        }
        self.counter
    }

    /// The owner's lag behind its log in milliseconds, if it is too large to send the owner more commands.
    pub fn overloaded(&self) -> Option<u64> {
        (self.lag_ms > LAG_MAX_MS).then_some(self.lag_ms)
    }

    /// The owner's epoch; 0 if no owner is known yet.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn adopt_epoch(&mut self, epoch: u64) {
        (self.epoch, self.received, self.mismatches) = (epoch, 0, 0);
        (self.missing, self.unanswered) = (None, None);
    }

    fn received(&mut self, number: u64, missing_up_to: u64) {
        if missing_up_to > self.received {
            self.missing.get_or_insert(self.received + 1);
        }
        self.received = self.received.max(number);
    }

    /// A reply arrived. Returns whether it counts; a reply of a former owner does not. A new owner has only what this
    /// request registered, so everything has to be registered again unless the request replaced everything.
    pub fn handle_reply(&mut self, epoch: u64, replaces: bool) -> bool {
        if epoch > self.epoch {
            self.resync |= self.epoch != 0 && !replaces;
            self.adopt_epoch(epoch);
        }
        epoch == self.epoch
    }

    pub fn handle_batch(&mut self, epoch: u64, number: u64) {
        if epoch < self.epoch {
            return;
        }
        if epoch > self.epoch {
            self.resync |= self.epoch != 0 || number > 1;
            self.adopt_epoch(epoch);
        }
        self.received(number, number.saturating_sub(1));
    }

    pub fn handle_beat(&mut self, now_ms: u64, beat: &wire::Beat, rooms: &RoomDigest) {
        if beat.epoch < self.epoch {
            return;
        }
        (self.last_beat_ms, self.lag_ms) = (now_ms, beat.lag_ms);
        if beat.epoch > self.epoch {
            self.adopt_epoch(beat.epoch);
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

    /// Whether the owner's registrations differ from the rooms here; `None` if they cannot be compared. A beat contains
    /// the counter of the last request that the owner has handled, so that constant joins and leaves do not prevent the
    /// comparison. Older workers send no counter.
    fn differs(&mut self, beat: &wire::Beat, rooms: &RoomDigest) -> Option<bool> {
        let settled = !std::mem::take(&mut self.changed);
        let comparable = if beat.counter == 0 { settled } else { beat.counter >= self.registered_counter };
        rooms.expected.filter(|_| comparable).map(|expected| expected != beat.interest_hash)
    }

    /// Messages may have been lost, and it is not known which. Batches are requested now, before a later batch or beat
    /// shows that some are missing, because senders wait for the outcomes in them.
    pub fn handle_loss(&mut self) {
        self.resync = true;
        if self.epoch != 0 {
            self.missing.get_or_insert(self.received + 1);
        }
    }

    /// A request for batches of this owner was not answered. It is repeated at the next tick.
    pub fn handle_unanswered(&mut self, epoch: u64, from: u64) {
        if epoch == self.epoch {
            self.unanswered = Some(self.unanswered.map_or(from, |other| other.min(from)));
        }
    }

    /// Everything was registered again. `finished`: all of it was answered, with all heads. An owner has the
    /// registration before it has read the heads, so its beats do not show that heads are missing.
    pub fn handle_resynced(&mut self, finished: bool) {
        self.unfinished = !finished;
    }

    /// Called once a second. Requests unanswered batches again. Registers everything again if there are rooms here and
    /// the owner has sent no beat for [`SILENCE_MS`] or the last registration was not finished.
    pub fn handle_timeout(&mut self, now_ms: u64, serves: bool) {
        if let Some(from) = self.unanswered.take() {
            self.missing = Some(self.missing.map_or(from, |other| other.min(from)));
        }
        if !serves {
            (self.last_beat_ms, self.unfinished) = (now_ms, false);
        } else if now_ms.saturating_sub(self.last_beat_ms) >= SILENCE_MS || self.unfinished {
            self.last_beat_ms = now_ms;
            self.resync = true;
        }
    }

    pub fn poll_repair(&mut self) -> Option<Repair> {
        let repair = Repair { resend: self.missing.take(), resync: std::mem::take(&mut self.resync) };
        (repair.resend.is_some() || repair.resync).then_some(repair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: RoomDigest = RoomDigest { expected: Some(0), any: false };
    const SOME: RoomDigest = RoomDigest { expected: Some(0xA), any: true };

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
        link.handle_timeout(now_ms, serves);
        link.poll_repair()
    }

    const RESYNC: Option<Repair> = Some(Repair { resend: None, resync: true });

    #[test]
    fn a_missing_batch_is_requested_once() {
        let mut link = Link::default();
        assert!(link.handle_reply(7, false));
        link.handle_batch(7, 1);
        assert_eq!(link.poll_repair(), None);
        link.handle_batch(7, 4);
        assert_eq!(link.poll_repair(), resend(2));
        link.handle_batch(7, 3);
        assert_eq!(
            link.poll_repair(),
            None,
            "a resent batch that arrives late must not cause another repair"
        );
        link.handle_batch(7, 5);
        assert_eq!(link.poll_repair(), None);
    }

    /// Breaking it: without the comparison with the beat's number, the loss of the last batch is never noticed.
    #[test]
    fn a_beat_reveals_that_the_last_batch_was_lost() {
        let mut link = Link::default();
        link.handle_reply(7, false);
        link.handle_batch(7, 1);
        link.handle_beat(0, &beat(7, 3), &NONE);
        assert_eq!(link.poll_repair(), resend(2));
        link.handle_beat(0, &beat(7, 3), &NONE);
        assert_eq!(link.poll_repair(), None);
    }

    /// Acknowledgements are only in batches: if the gateway only registered again, senders would wait until their
    /// timeout.
    #[test]
    fn batches_are_requested_even_when_everything_is_registered_again() {
        let mut link = Link::default();
        link.handle_reply(7, false);
        link.handle_batch(7, 1);
        link.handle_loss();
        link.handle_batch(7, 4);
        assert_eq!(link.poll_repair(), Some(Repair { resend: Some(2), resync: true }));
        link.handle_batch(9, 3);
        assert_eq!(
            link.poll_repair(),
            Some(Repair { resend: Some(1), resync: true }),
            "the first batches of a new owner are missing"
        );
        link.handle_batch(9, 6);
        link.handle_reply(11, true);
        assert_eq!(link.poll_repair(), None, "missing batches of a former owner must not be requested");
    }

    /// Before the fix, outcomes in a last batch that was lost waited for the next beat, up to a second.
    #[test]
    fn batches_are_requested_as_soon_as_messages_may_be_lost() {
        let mut link = Link::default();
        link.handle_loss();
        assert_eq!(link.poll_repair(), RESYNC, "without an owner, only a registration is possible");
        link.handle_reply(7, true);
        link.handle_batch(7, 1);
        link.handle_loss();
        assert_eq!(link.poll_repair(), Some(Repair { resend: Some(2), resync: true }));
        link.handle_beat(0, &beat(7, 1), &NONE);
        assert_eq!(link.poll_repair(), None);
    }

    #[test]
    fn batches_whose_request_was_not_answered_are_requested_again() {
        let mut link = Link::default();
        link.handle_reply(7, false);
        link.handle_batch(7, 3);
        assert_eq!(link.poll_repair(), resend(1));
        link.handle_unanswered(7, 1);
        link.handle_batch(7, 4);
        assert_eq!(link.poll_repair(), None, "an unanswered request must not be repeated at once");
        link.handle_batch(7, 6);
        link.handle_timeout(1_000, false);
        assert_eq!(link.poll_repair(), resend(1));
        link.handle_unanswered(7, 1);
        link.handle_reply(9, false);
        link.handle_timeout(2_000, false);
        assert_eq!(
            link.poll_repair(),
            RESYNC,
            "a new owner does not have the batches, so only a registration helps"
        );
        link.handle_unanswered(7, 1);
        link.handle_timeout(3_000, false);
        assert_eq!(link.poll_repair(), None);
    }

    /// A worker of an older version does not send the counter of the last request that it handled.
    #[test]
    fn a_wrong_hash_without_a_counter_counts_when_nothing_is_under_way() {
        let mut link = Link::default();
        link.handle_reply(7, false);
        link.next_counter(true);
        for expected in [None, None, RESYNC] {
            link.handle_beat(0, &hashed(1, 0), &SOME);
            assert_eq!(
                link.poll_repair(),
                expected,
                "a wrong hash counts only at the third beat, because the registration may be under way"
            );
        }
        link.handle_beat(0, &hashed(0xA, 0), &SOME);
        assert_eq!(link.poll_repair(), None);
    }

    /// Before the fix, a hash proved nothing if a user had joined or left between two beats. With constant joins and
    /// leaves, a room that the owner had lost received no events any more.
    #[test]
    fn a_wrong_hash_counts_while_others_join_and_leave() {
        let mut link = Link::default();
        link.handle_reply(7, false);
        let first = link.next_counter(true);
        link.handle_beat(0, &hashed(1, first), &SOME);
        let second = link.next_counter(true);
        link.handle_beat(0, &hashed(1, first), &SOME);
        assert_eq!(
            link.poll_repair(),
            None,
            "the beat is older than the last registration, so its hash proves nothing"
        );
        link.handle_beat(0, &hashed(1, second), &RoomDigest { expected: None, any: true });
        assert_eq!(link.poll_repair(), None, "without an expected hash, the beat's hash proves nothing");
        let third = link.next_counter(true);
        link.next_counter(false);
        link.handle_beat(0, &hashed(1, third), &SOME);
        assert_eq!(
            link.poll_repair(),
            RESYNC,
            "a later request that is no registration must not hide the wrong hash"
        );
        link.handle_beat(0, &hashed(1, third), &SOME);
        link.handle_beat(0, &hashed(0xA, third), &SOME);
        link.handle_beat(0, &hashed(1, third), &SOME);
        assert_eq!(
            link.poll_repair(),
            None,
            "a single wrong hash after a right one must not cause a registration"
        );
    }

    #[test]
    fn a_new_owner_gets_all_registrations_and_a_former_one_is_ignored() {
        let mut link = Link::default();
        assert!(link.handle_reply(7, false));
        link.handle_beat(0, &beat(9, 0), &SOME);
        assert_eq!(link.poll_repair(), RESYNC);
        assert!(!link.handle_reply(7, true));
        link.handle_batch(7, 99);
        link.handle_beat(0, &wire::Beat { lag_ms: 99_000, ..beat(7, 99) }, &SOME);
        assert_eq!(link.poll_repair(), None);
        assert_eq!(link.overloaded(), None);
        link.handle_batch(9, 1);
        assert_eq!(link.poll_repair(), None);
        link.handle_batch(11, 1);
        assert_eq!(link.poll_repair(), RESYNC);
    }

    /// Before the fix, all other rooms waited for two beats and received nothing meanwhile.
    #[test]
    fn a_new_owner_that_first_answers_a_join_gets_all_registrations() {
        let mut link = Link::default();
        assert!(link.handle_reply(7, false));
        assert_eq!(link.poll_repair(), None, "the first owner already has all registrations");
        assert!(link.handle_reply(9, false));
        assert_eq!(link.poll_repair(), RESYNC);
        assert!(link.handle_reply(11, true));
        assert_eq!(link.poll_repair(), None, "an owner that answers a full registration needs no other one");
    }

    #[test]
    fn silence_causes_a_registration_only_with_rooms() {
        let mut link = Link::default();
        assert_eq!(tick(&mut link, 0, false), None);
        assert_eq!(tick(&mut link, 10_000, false), None);
        assert_eq!(tick(&mut link, 12_999, true), None);
        assert_eq!(tick(&mut link, 13_000, true), RESYNC);
        assert_eq!(tick(&mut link, 14_000, true), None);
    }

    #[test]
    fn an_owner_that_did_not_send_all_heads_gets_another_registration() {
        let mut link = Link::default();
        link.handle_beat(1_000, &hashed(0xA, 0), &SOME);
        assert_eq!(link.poll_repair(), RESYNC, "a new owner needs a registration");
        assert_eq!(tick(&mut link, 1_500, true), None);
        link.handle_resynced(false);
        link.handle_beat(2_000, &hashed(0xA, 0), &SOME);
        assert_eq!(link.poll_repair(), None, "the owner already has the registration");
        assert_eq!(tick(&mut link, 2_500, true), RESYNC);
        assert_eq!(tick(&mut link, 3_500, true), RESYNC);
        link.handle_resynced(true);
        assert_eq!(tick(&mut link, 4_500, true), None);
        link.handle_resynced(false);
        assert_eq!(tick(&mut link, 5_500, false), None, "a gateway without rooms needs no registration");
    }

    #[test]
    fn a_lagging_owner_refuses_commands_until_it_has_caught_up() {
        let mut link = Link::default();
        link.handle_beat(0, &wire::Beat { lag_ms: LAG_MAX_MS + 1, ..beat(1, 0) }, &NONE);
        assert_eq!(link.overloaded(), Some(LAG_MAX_MS + 1));
        link.handle_beat(0, &wire::Beat { lag_ms: 3, ..beat(1, 0) }, &NONE);
        assert_eq!(link.overloaded(), None);
    }
}
