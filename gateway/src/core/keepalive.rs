//! Decides when a silent client is pinged, and when it is given up.

use std::time::{Duration, Instant};

/// When clients are pinged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pings {
    /// Silence after which a client is pinged.
    pub interval: Duration,
    /// How long a ping may stay unanswered.
    pub timeout: Duration,
}

/// How late a timer fires on a server that is not overloaded.
const TIMER_SLACK: Duration = Duration::from_millis(20);

/// For native clients (`docs/protocol.md#closes`).
pub const NATIVE: Pings = Pings { interval: Duration::from_secs(30), timeout: Duration::from_secs(30) };

/// What to do about a client now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing: the client gave a sign of life lately, or has time left to answer.
    Nothing,
    /// Ping the client, which has been silent.
    Ping,
    /// Give up the client, which has left a ping unanswered.
    GiveUp,
}

/// The last sign of life of a client, and whether it was pinged since.
#[derive(Debug)]
pub struct Keepalive {
    pings: Pings,
    /// The time of the last sign of life, or of the ping that has no answer yet.
    since: Instant,
    pinged: bool,
}

impl Keepalive {
    /// Keepalive for a client that has just connected.
    pub fn new(pings: Pings, now: Instant) -> Self {
        Self { pings, since: now, pinged: false }
    }

    /// Records a sign of life. Also called after a time in which the client was not read, so that it is not given up
    /// for that.
    pub fn handle_activity(&mut self, now: Instant) {
        *self = Self::new(self.pings, now);
    }

    /// When to call [`Self::handle_timeout`] again.
    pub fn poll_timeout(&self) -> Instant {
        self.since + if self.pinged { self.pings.timeout } else { self.pings.interval }
    }

    /// What to do now. Only a client that was pinged is given up, however late this is called.
    pub fn handle_timeout(&mut self, now: Instant) -> Due {
        if now < self.poll_timeout() {
            return Due::Nothing;
        }
        if self.pinged {
            return Due::GiveUp;
        }
        // Ignore normal timer jitter (<= 20 ms): the timeout runs from when the ping was due. After a longer delay it
        // runs from now, so that the client has its full time to answer.
        let due = self.poll_timeout();
        let since = if now.saturating_duration_since(due) <= TIMER_SLACK { due } else { now };
        *self = Self { since, pinged: true, ..*self };
        Due::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs an idle client that answers each ping at once, with a timer that fires late. Returns the number of pings.
    fn pings(late: Duration, rounds: u32) -> u32 {
        let started = Instant::now();
        let (mut keepalive, mut now, mut pings) = (Keepalive::new(NATIVE, started), started, 0);
        for _ in 0..rounds {
            now = keepalive.poll_timeout() + late;
            match keepalive.handle_timeout(now) {
                Due::Nothing => {}
                Due::Ping => {
                    pings += 1;
                    keepalive.handle_activity(now + Duration::from_millis(1));
                }
                Due::GiveUp => panic!("given up after {pings} answered pings"),
            }
        }
        assert!(now > started);
        pings
    }

    #[test]
    fn a_client_that_answers_is_never_given_up_however_late_the_timer() {
        for late_ms in [0, 1, 50, 5_000, 29_999, 60_001] {
            assert_eq!(pings(Duration::from_millis(late_ms), 100), 100, "{late_ms} ms late");
        }
    }

    #[test]
    fn a_silent_client_is_given_up_a_timeout_after_the_ping() {
        let started = Instant::now();
        let pings = Pings { interval: Duration::from_secs(25), timeout: Duration::from_secs(60) };
        let mut keepalive = Keepalive::new(pings, started);
        assert_eq!(
            keepalive.handle_timeout(started + pings.interval - Duration::from_nanos(1)),
            Due::Nothing
        );
        let pinged = started + pings.interval + Duration::from_secs(7);
        assert_eq!(keepalive.handle_timeout(pinged), Due::Ping);
        assert_eq!(keepalive.poll_timeout(), pinged + pings.timeout);
        assert_eq!(keepalive.handle_timeout(pinged + pings.timeout - Duration::from_nanos(1)), Due::Nothing);
        assert_eq!(keepalive.handle_timeout(pinged + pings.timeout), Due::GiveUp);
    }

    #[test]
    fn a_client_that_sends_is_not_pinged() {
        let started = Instant::now();
        let mut keepalive = Keepalive::new(NATIVE, started);
        keepalive.handle_activity(started + Duration::from_secs(20));
        assert_eq!(keepalive.handle_timeout(started + NATIVE.interval), Due::Nothing);
        assert_eq!(keepalive.poll_timeout(), started + Duration::from_secs(50));
    }
}
