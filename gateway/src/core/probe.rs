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
    PingAgain,
}

/// A ping to a connection whose place is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pinged_ms: u64,
}

impl Probe {
    pub fn new(now_ms: u64) -> Probe {
        Probe { pinged_ms: now_ms }
    }

    /// When to call [`Probe::handle_timeout`].
    pub fn poll_timeout_ms(&self) -> u64 {
        self.pinged_ms + PROBE_MS
    }

    /// The result of the ping, for a client that gave its last sign of life at `last_activity_ms`; `None` if it is not
    /// being read now. A client is never given up because of a late timer.
    pub fn handle_timeout(&mut self, now_ms: u64, last_activity_ms: Option<u64>) -> Verdict {
        if last_activity_ms.is_none_or(|last_activity_ms| last_activity_ms >= self.pinged_ms) {
            return Verdict::Alive;
        }
        if now_ms > self.poll_timeout_ms() + LATE_MS {
            self.pinged_ms = now_ms;
            return Verdict::PingAgain;
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
        for (last_activity_ms, now_ms, verdict) in [
            (Some(999), 3_000, Verdict::Dead),
            (Some(1_000), 3_000, Verdict::Alive),
            (Some(2_999), 3_000, Verdict::Alive),
            (None, 3_000, Verdict::Alive),
            (Some(0), 3_500, Verdict::Dead),
            (Some(0), 3_501, Verdict::PingAgain),
        ] {
            assert_eq!(
                Probe::new(1_000).handle_timeout(now_ms, last_activity_ms),
                verdict,
                "{last_activity_ms:?} {now_ms}"
            );
        }
    }

    proptest! {
        /// However late timers fire, a client that answers within a second is never given up. A client that does not
        /// answer is given up as soon as one timer is not late.
        #[test]
        fn only_the_dead_are_given_up(lates in prop::collection::vec(0u64..5_000, 0..8), answer_ms in prop::option::of(0u64..1_000)) {
            let mut now_ms = 10_000;
            let mut probe = Probe::new(now_ms);
            let mut last_activity_ms = 5_000;
            for late_ms in lates.into_iter().chain([0]) {
                let pinged_ms = now_ms;
                last_activity_ms = answer_ms.map_or(last_activity_ms, |answer_ms| pinged_ms + answer_ms);
                now_ms = probe.poll_timeout_ms() + late_ms;
                match probe.handle_timeout(now_ms, Some(last_activity_ms)) {
                    Verdict::Alive => { prop_assert!(answer_ms.is_some()); return Ok(()); }
                    Verdict::Dead => { prop_assert!(answer_ms.is_none() && late_ms <= LATE_MS); return Ok(()); }
                    Verdict::PingAgain => prop_assert!(late_ms > LATE_MS && answer_ms.is_none()),
                }
            }
            prop_assert!(false, "a timer that is not late must lead to a verdict");
        }
    }
}
