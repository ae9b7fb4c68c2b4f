//! When a silent client is asked whether it lives, and when it is given up.

use std::time::{Duration, Instant};

/// When clients are pinged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pings {
    /// Silence after which a client is pinged.
    pub interval: Duration,
    /// How long a ping may stay unanswered.
    pub timeout: Duration,
}

/// How late a timer rings on a server that is not overloaded.
const TIMER_SLACK: Duration = Duration::from_millis(20);

/// For native clients (protocol §8: native ping).
pub const NATIVE: Pings = Pings { interval: Duration::from_secs(30), timeout: Duration::from_secs(30) };

/// What to do about a client now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It was heard lately, or has time left to answer.
    Nothing,
    /// It has been silent: ask.
    Ping,
    /// It was pinged and has said nothing since.
    GiveUp,
}

/// What is known of a client's life.
#[derive(Debug)]
pub struct Keepalive {
    pings: Pings,
    /// The last sign, or the ping that has no answer yet.
    since: Instant,
    pinged: bool,
}

impl Keepalive {
    /// A client that has just come.
    pub fn new(pings: Pings, now: Instant) -> Self {
        Self { pings, since: now, pinged: false }
    }

    /// A sign of life; or nobody listened for one, which is no sign of the contrary.
    pub fn heard(&mut self, now: Instant) {
        *self = Self::new(self.pings, now);
    }

    /// When to ask [`Self::due`] again.
    pub fn next(&self) -> Instant {
        self.since + if self.pinged { self.pings.timeout } else { self.pings.interval }
    }

    /// What to do. Only a client that was pinged is given up, however late this is asked.
    pub fn due(&mut self, now: Instant) -> Due {
        if now < self.next() {
            return Due::Nothing;
        }
        if self.pinged {
            return Due::GiveUp;
        }
        // As late as timers are is not late: the client's time runs from when the ping was due.
        let due = self.next();
        let since = if now.saturating_duration_since(due) <= TIMER_SLACK { due } else { now };
        *self = Self { since, pinged: true, ..*self };
        Due::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs an idle client that answers each ping at once, with a timer that rings late; returns its pings.
    fn pings(late: Duration, rounds: u32) -> u32 {
        let began = Instant::now();
        let (mut keepalive, mut now, mut pings) = (Keepalive::new(NATIVE, began), began, 0);
        for _ in 0..rounds {
            now = keepalive.next() + late;
            match keepalive.due(now) {
                Due::Nothing => {}
                Due::Ping => {
                    pings += 1;
                    keepalive.heard(now + Duration::from_millis(1));
                }
                Due::GiveUp => panic!("given up after {pings} answered pings"),
            }
        }
        assert!(now > began);
        pings
    }

    #[test]
    fn who_answers_is_never_given_up_however_late_the_timer() {
        for late_ms in [0, 1, 50, 5_000, 29_999, 60_001] {
            assert_eq!(pings(Duration::from_millis(late_ms), 100), 100, "{late_ms} ms late");
        }
    }

    #[test]
    fn who_does_not_answer_is_given_up_a_timeout_after_the_ping() {
        let began = Instant::now();
        let pings = Pings { interval: Duration::from_secs(25), timeout: Duration::from_secs(60) };
        let mut keepalive = Keepalive::new(pings, began);
        assert_eq!(keepalive.due(began + pings.interval - Duration::from_nanos(1)), Due::Nothing);
        let pinged = began + pings.interval + Duration::from_secs(7);
        assert_eq!(keepalive.due(pinged), Due::Ping);
        assert_eq!(keepalive.next(), pinged + pings.timeout);
        assert_eq!(keepalive.due(pinged + pings.timeout - Duration::from_nanos(1)), Due::Nothing);
        assert_eq!(keepalive.due(pinged + pings.timeout), Due::GiveUp);
    }

    #[test]
    fn who_talks_is_not_pinged() {
        let began = Instant::now();
        let mut keepalive = Keepalive::new(NATIVE, began);
        keepalive.heard(began + Duration::from_secs(20));
        assert_eq!(keepalive.due(began + NATIVE.interval), Due::Nothing);
        assert_eq!(keepalive.next(), began + Duration::from_secs(50));
    }
}
