//! Decides whether a connection is alive when another connection needs its place, sooner than the regular pings would
//! (`docs/decisions/0015-the-dead-make-room.md`).

use carillon_proto::limits::PROBE_MS;

/// A timer that fires later than this shows that this process is overloaded, and proves nothing about the client.
const LATE_MS: u64 = 500;

/// The result of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The client has given a sign of life, or the connection is not being read.
    Alive,
    /// The client has left the ping unanswered.
    Dead,
    /// Undecided: ping once more.
    Ask,
}

/// A ping to a connection whose place is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    asked_ms: u64,
}

impl Probe {
    /// A ping that is sent now.
    pub fn new(now_ms: u64) -> Probe {
        Probe { asked_ms: now_ms }
    }

    /// When to call [`Probe::due`].
    pub fn next_ms(&self) -> u64 {
        self.asked_ms + PROBE_MS
    }

    /// The result of the ping, for a client that gave its last sign of life at `heard_ms`; `None` if it is not being
    /// read now. A client is never given up because of a late timer.
    pub fn due(&mut self, now_ms: u64, heard_ms: Option<u64>) -> Verdict {
        if heard_ms.is_none_or(|heard_ms| heard_ms >= self.asked_ms) {
            return Verdict::Alive;
        }
        if now_ms > self.next_ms() + LATE_MS {
            self.asked_ms = now_ms;
            return Verdict::Ask;
        }
        Verdict::Dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_ping_has_two_seconds() {
        for (heard_ms, now_ms, verdict) in [
            (Some(999), 3_000, Verdict::Dead),
            (Some(1_000), 3_000, Verdict::Alive),
            (Some(2_999), 3_000, Verdict::Alive),
            (None, 3_000, Verdict::Alive),
            (Some(0), 3_500, Verdict::Dead),
            (Some(0), 3_501, Verdict::Ask),
        ] {
            assert_eq!(Probe::new(1_000).due(now_ms, heard_ms), verdict, "{heard_ms:?} {now_ms}");
        }
    }

    proptest! {
        /// However late timers fire, a client that answers within a second is never given up. A client that does not
        /// answer is given up as soon as one timer is not late.
        #[test]
        fn only_the_dead_are_given_up(lates in prop::collection::vec(0u64..5_000, 0..8), answer_ms in prop::option::of(0u64..1_000)) {
            let mut now_ms = 10_000;
            let mut probe = Probe::new(now_ms);
            let mut heard_ms = 5_000;
            for late_ms in lates.into_iter().chain([0]) {
                let asked_ms = now_ms;
                heard_ms = answer_ms.map_or(heard_ms, |answer_ms| asked_ms + answer_ms);
                now_ms = probe.next_ms() + late_ms;
                match probe.due(now_ms, Some(heard_ms)) {
                    Verdict::Alive => { prop_assert!(answer_ms.is_some()); return Ok(()); }
                    Verdict::Dead => { prop_assert!(answer_ms.is_none() && late_ms <= LATE_MS); return Ok(()); }
                    Verdict::Ask => prop_assert!(late_ms > LATE_MS && answer_ms.is_none()),
                }
            }
            prop_assert!(false, "a timer that is not late must lead to a verdict");
        }
    }
}
