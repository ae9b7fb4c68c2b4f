//! Decides whether a worker's wall clock is good enough to start an incarnation. The timestamps of all writes of an
//! incarnation follow from the time at its start, and every later incarnation must begin above them.

use std::fmt;

/// How far this worker's clock may be from another one. NTP keeps clocks within milliseconds of each other, and a
/// database refuses timestamps that are days ahead.
pub(crate) const DIFFERENCE_MAX_MS: u64 = 60_000;

/// The clock that the worker's clock is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Other {
    /// The clock of the log's servers.
    Log,
    /// The clock of the database.
    Database,
}

impl Other {
    /// The name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Other::Log => "log",
            Other::Database => "database",
        }
    }
}

/// The time of another clock, read between two reads of this worker's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockReading {
    pub(crate) other: Other,
    pub(crate) other_ms: u64,
    /// This worker's clock, before the other clock was read and after.
    pub(crate) before_ms: u64,
    pub(crate) after_ms: u64,
}

/// This worker's clock is too far from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disagreement {
    pub(crate) other: Other,
    /// How far this worker's clock is ahead. Negative if it is behind.
    pub(crate) ahead_ms: i64,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (other, ahead) = (self.other.as_str(), if self.ahead_ms > 0 { "ahead of" } else { "behind" });
        write!(f, "this worker's clock is {} s {ahead} the {other}'s", self.ahead_ms.unsigned_abs() / 1_000)
    }
}

impl ClockReading {
    /// How far this worker's clock is ahead at least. Negative if it is behind.
    pub(crate) fn ahead_ms(&self) -> i64 {
        let ClockReading { other_ms, before_ms, after_ms, .. } = *self;
        // If this worker's clock was set during the read, the other clock may lie anywhere between the two times.
        let (earlier, later) = (before_ms.min(after_ms), before_ms.max(after_ms));
        if other_ms < earlier {
            i64::try_from(earlier - other_ms).unwrap_or(i64::MAX)
        } else {
            -i64::try_from(other_ms.saturating_sub(later)).unwrap_or(i64::MAX)
        }
    }

    /// The disagreement, if the difference is too large.
    pub(crate) fn disagreement(&self) -> Option<Disagreement> {
        let ahead_ms = self.ahead_ms();
        (ahead_ms.unsigned_abs() > DIFFERENCE_MAX_MS).then_some(Disagreement { other: self.other, ahead_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_more_than_a_minute_off_is_reported() {
        const NOW_MS: u64 = 1_800_000_000_000;
        let table = [
            ("the same", 0, 0, 0, None),
            ("slow to answer", -500, 0, 3_000, None),
            ("a minute ahead", -60_000, 0, 0, None),
            ("more than a minute ahead", -60_001, 0, 0, Some(60_001)),
            ("more than a minute behind", 60_011, 0, 10, Some(-60_001)),
            ("three days ahead", -3 * 86_400_000, 0, 5, Some(3 * 86_400_000)),
            ("set back while it was waited for", 0, 3 * 86_400_000, 0, None),
        ];
        for (what, other, before, after, expected) in table {
            let reading = ClockReading {
                other: Other::Database,
                other_ms: NOW_MS.saturating_add_signed(other),
                before_ms: NOW_MS + before,
                after_ms: NOW_MS + after,
            };
            assert_eq!(reading.disagreement().map(|found| found.ahead_ms), expected, "{what}");
        }
        let text = Disagreement { other: Other::Log, ahead_ms: -90_000 }.to_string();
        assert_eq!(text, "this worker's clock is 90 s behind the log's");
    }
}
