//! When a silent client is asked whether it lives, and when it is given up.

use std::time::{Duration, Instant};

/// Silence after which a client is pinged, and for which a ping may stay unanswered (protocol §8: native ping).
pub const PING_INTERVAL: Duration = Duration::from_secs(30);

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

/// What is known of a client's life. Anything it sends is a sign of it.
#[derive(Debug)]
pub struct Keepalive {
    /// The last sign, or the ping that has no answer yet.
    since: Instant,
    pinged: bool,
}

impl Keepalive {
    /// A client that has just come.
    pub fn new(now: Instant) -> Self {
        Self { since: now, pinged: false }
    }

    /// A sign of life; or nobody listened for one, which is no sign of the contrary.
    pub fn heard(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// When to ask [`Self::due`] again.
    pub fn next(&self) -> Instant {
        self.since + PING_INTERVAL
    }

    /// What to do. Only a client that was pinged is given up, however late this is asked.
    pub fn due(&mut self, now: Instant) -> Due {
        if now < self.next() {
            return Due::Nothing;
        }
        if self.pinged {
            return Due::GiveUp;
        }
        *self = Self { since: now, pinged: true };
        Due::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs an idle client that answers each ping at once, with a timer that rings late; returns its pings.
    fn pings(late: Duration, rounds: u32) -> u32 {
        let began = Instant::now();
        let (mut keepalive, mut now, mut pings) = (Keepalive::new(began), began, 0);
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
    fn who_does_not_answer_is_given_up_one_interval_after_the_ping() {
        let began = Instant::now();
        let mut keepalive = Keepalive::new(began);
        assert_eq!(keepalive.due(began + PING_INTERVAL - Duration::from_nanos(1)), Due::Nothing);
        let pinged = began + PING_INTERVAL + Duration::from_secs(7);
        assert_eq!(keepalive.due(pinged), Due::Ping);
        assert_eq!(keepalive.next(), pinged + PING_INTERVAL);
        assert_eq!(keepalive.due(pinged + PING_INTERVAL - Duration::from_nanos(1)), Due::Nothing);
        assert_eq!(keepalive.due(pinged + PING_INTERVAL), Due::GiveUp);
    }

    #[test]
    fn who_talks_is_not_pinged() {
        let began = Instant::now();
        let mut keepalive = Keepalive::new(began);
        keepalive.heard(began + Duration::from_secs(20));
        assert_eq!(keepalive.due(began + PING_INTERVAL), Due::Nothing);
        assert_eq!(keepalive.next(), began + Duration::from_secs(50));
    }
}
