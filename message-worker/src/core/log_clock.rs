//! What time it is by a log's own clock, as far as its entries tell: how old one is follows from that and from steady
//! time, never from this process's wall clock, which may be any time away from the log's.
//!
//! Entries are read a moment after the log took them, so the one that was read soonest tells the difference between
//! the two clocks best. It is told anew every minute: the log's clock may be set, too.

/// Steady time after which what was told of the difference is told anew, twice in a minute.
const WINDOW_MS: u64 = 30_000;
/// Nothing to read for so long: whatever the log holds was read. Readers hear of an entry in a few milliseconds.
const QUIET_MS: u64 = 100;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LogClock {
    /// The largest differences of log time to steady time, of this window and the one before.
    differences: [Option<i64>; 2],
    began_ms: u64,
    read_ms: u64,
    /// When nothing was left to work.
    caught_up_ms: Option<u64>,
}

impl LogClock {
    /// At `now_ms` of steady time an entry was read, or seen, that the log took at `time_ms` of its own.
    pub(crate) fn read(&mut self, time_ms: u64, now_ms: u64) {
        if now_ms.saturating_sub(self.began_ms) >= WINDOW_MS {
            self.differences = [None, self.differences[0]];
            self.began_ms = now_ms;
        }
        let difference = time_ms as i64 - now_ms as i64;
        self.differences[0] = self.differences[0].max(Some(difference));
        self.read_ms = now_ms;
    }

    /// At `now_ms` of steady time the log is listened to, and there is nothing to work.
    pub(crate) fn idle(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.read_ms) >= QUIET_MS {
            self.caught_up_ms = Some(now_ms);
        }
    }

    /// How long ago the log took an entry, as far as it can be told.
    pub(crate) fn age_ms(&self, time_ms: u64, now_ms: u64) -> u64 {
        let [current, before] = self.differences;
        let log_ms = current.max(before).map(|difference| now_ms as i64 + difference);
        log_ms.map_or(0, |log_ms| u64::try_from(log_ms - time_ms as i64).unwrap_or(0))
    }

    /// How far work lies behind when the entry of `time_ms` is the oldest that is not worked: no longer than since
    /// nothing was left, whatever became of the log's clock.
    pub(crate) fn lag_ms(&self, time_ms: u64, now_ms: u64) -> u64 {
        let since_caught_up = self.caught_up_ms.map_or(u64::MAX, |at_ms| now_ms.saturating_sub(at_ms));
        self.age_ms(time_ms, now_ms).min(since_caught_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log's time where steady time is 0; no other clock plays a part.
    const LOG_MS: u64 = 1_800_000_000_000;

    fn clock(reads: &[(u64, u64)]) -> LogClock {
        let mut clock = LogClock::default();
        reads.iter().for_each(|(log_ms, now_ms)| clock.read(LOG_MS + log_ms, *now_ms));
        clock
    }

    /// Before, lag was the worker's wall clock less the log's: one of 30 s ahead reported 30 s with an empty log.
    #[test]
    fn lag_is_told_by_the_log_and_steady_time() {
        let table = [
            ("nothing was read", clock(&[]), 5_000, 0),
            ("read at once", clock(&[(1_000, 1_002)]), 1_003, 1),
            ("it waits for four seconds", clock(&[(1_000, 1_002)]), 5_002, 4_000),
            ("the newest one says how late it is", clock(&[(1_000, 9_000), (8_990, 9_000)]), 9_000, 7_990),
            ("its first reading was late", clock(&[(1_000, 9_000), (12_000, 12_001)]), 12_001, 11_000),
        ];
        for (what, clock, now_ms, lag_ms) in table {
            assert_eq!(clock.lag_ms(LOG_MS + 1_000, now_ms), lag_ms, "{what}");
        }
    }

    #[test]
    fn a_log_clock_that_is_set_is_followed_within_a_minute() {
        let mut clock = clock(&[(0, 0), (1_000, 1_000)]);
        // It steps back by an hour.
        let log_ms = |now_ms: u64| LOG_MS - 3_600_000 + now_ms;
        for now_ms in (2_000..70_000).step_by(1_000) {
            clock.read(log_ms(now_ms), now_ms);
        }
        assert_eq!(clock.lag_ms(log_ms(69_000), 69_500), 500);
    }

    #[test]
    fn work_is_never_further_behind_than_since_nothing_was_left() {
        let mut clock = clock(&[(8 * 86_400_000, 1_000)]);
        clock.idle(1_050);
        assert_eq!(
            clock.lag_ms(LOG_MS + 2_000, 2_000),
            8 * 86_400_000 - 1_000,
            "perhaps there is more to read"
        );
        clock.idle(1_900);
        assert_eq!(clock.lag_ms(LOG_MS + 2_000, 2_000), 100);
    }
}
