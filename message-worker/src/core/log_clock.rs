//! Estimates the present time of a log's own clock from its entries and steady time. The age of an entry follows from
//! that, and not from this process's wall clock, which may be any time away from the log's clock.
//!
//! Entries are read a moment after the log took them, so the entry that was read soonest gives the best estimate of the
//! difference between the two clocks. The estimate is made anew every minute, because the log's clock may be set.

/// Milliseconds of steady time in a window. The difference is estimated from this window and the one before.
const WINDOW_MS: u64 = 30_000;
/// Nothing to read for so long means that all entries were read: readers get an entry within a few milliseconds.
const QUIET_MS: u64 = 100;

/// The estimate of a log's time; see the module.
#[derive(Debug, Default)]
pub(crate) struct LogClock {
    /// The largest differences of log time to steady time, of this window and of the one before.
    differences: [Option<i64>; 2],
    began_ms: u64,
    read_ms: u64,
    /// The last time at which there was nothing to apply.
    caught_up_ms: Option<u64>,
}

impl LogClock {
    /// Notes that at `now_ms` of steady time an entry was read that the log took at `time_ms` of its own clock.
    pub(crate) fn read(&mut self, time_ms: u64, now_ms: u64) {
        if now_ms.saturating_sub(self.began_ms) >= WINDOW_MS {
            self.differences = [None, self.differences[0]];
            self.began_ms = now_ms;
        }
        let difference = time_ms as i64 - now_ms as i64;
        self.differences[0] = self.differences[0].max(Some(difference));
        self.read_ms = now_ms;
    }

    /// Notes that at `now_ms` of steady time a reader is open and there is nothing to apply.
    pub(crate) fn idle(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.read_ms) >= QUIET_MS {
            self.caught_up_ms = Some(now_ms);
        }
    }

    /// How long ago the log took an entry, as far as it can be estimated.
    pub(crate) fn age_ms(&self, time_ms: u64, now_ms: u64) -> u64 {
        let [current, before] = self.differences;
        let log_ms = current.max(before).map(|difference| now_ms as i64 + difference);
        log_ms.map_or(0, |log_ms| u64::try_from(log_ms - time_ms as i64).unwrap_or(0))
    }

    /// How far the work lags behind if the entry of `time_ms` is the oldest that is not applied. It is never longer
    /// than the time since there was nothing to apply, even if the log's clock was set.
    pub(crate) fn lag_ms(&self, time_ms: u64, now_ms: u64) -> u64 {
        let since_caught_up = self.caught_up_ms.map_or(u64::MAX, |at_ms| now_ms.saturating_sub(at_ms));
        self.age_ms(time_ms, now_ms).min(since_caught_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log's time at steady time 0. No other clock is used here.
    const LOG_MS: u64 = 1_800_000_000_000;

    fn clock(reads: &[(u64, u64)]) -> LogClock {
        let mut clock = LogClock::default();
        reads.iter().for_each(|(log_ms, now_ms)| clock.read(LOG_MS + log_ms, *now_ms));
        clock
    }

    /// Before the fix, the lag was the worker's wall clock less the log's time: a wall clock 30 s ahead reported a lag
    /// of 30 s for an empty log.
    #[test]
    fn lag_follows_from_the_log_and_steady_time() {
        let table = [
            ("nothing was read", clock(&[]), 5_000, 0),
            ("read at once", clock(&[(1_000, 1_002)]), 1_003, 1),
            ("it waits for four seconds", clock(&[(1_000, 1_002)]), 5_002, 4_000),
            ("the newest entry shows how late it is", clock(&[(1_000, 9_000), (8_990, 9_000)]), 9_000, 7_990),
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
    fn lag_is_never_longer_than_the_time_since_nothing_was_left() {
        let mut clock = clock(&[(8 * 86_400_000, 1_000)]);
        clock.idle(1_050);
        assert_eq!(
            clock.lag_ms(LOG_MS + 2_000, 2_000),
            8 * 86_400_000 - 1_000,
            "an old reading counts as lag, because there may be more to read"
        );
        clock.idle(1_900);
        assert_eq!(clock.lag_ms(LOG_MS + 2_000, 2_000), 100);
    }
}
