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

    /// Whether [`Link::poll_repair`] would return something.
    pub fn needs_repair(&self) -> bool {
        self.missing.is_some() || self.resync
    }

    pub fn poll_repair(&mut self) -> Option<Repair> {
        let needed = self.needs_repair();
        let repair = Repair { resend: self.missing.take(), resync: std::mem::take(&mut self.resync) };
        needed.then_some(repair)
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
