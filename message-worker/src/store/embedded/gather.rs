//! Decides whether the writer pauses between two syncs, so that one sync serves several writes. Pure.
//!
//! A sync costs 50 to 100 microseconds of CPU, however much it writes. Writes that arrive during a sync share the next
//! one anyway. Writes that arrive one at a time, a little apart, share a sync only if the writer pauses. A pause gains
//! nothing if the only caller waits for its answer before it writes again. So the writer measures what its last pauses
//! gained.

use std::time::Duration;

/// With this many jobs in a group the writer does not pause.
pub(super) const ENOUGH_JOBS: usize = 4;
/// A pause ends at the latest this long after the previous sync began.
pub(super) const INTERVAL: Duration = Duration::from_millis(5);
/// Even if pausing does not pay, the writer pauses once in this many groups, to measure again.
const TRY_EVERY: u32 = 16;
/// Jobs that a pause must gain on average, beyond the one that would have been written anyway.
const GAIN_MIN: f32 = 0.2;

/// How much pauses have gained so far.
#[derive(Default)]
pub(super) struct Gather {
    gain: f32,
    groups: u32,
}

impl Gather {
    /// Whether to pause, after a group was written, when `jobs` jobs wait already.
    pub(super) fn pays(&mut self, jobs: usize) -> bool {
        self.groups = (self.groups + 1) % TRY_EVERY;
        jobs < ENOUGH_JOBS && (self.gain >= GAIN_MIN || self.groups == 0)
    }

    /// Records a pause that began with `before` jobs and ended with `after`.
    pub(super) fn learn(&mut self, before: usize, after: usize) {
        let won = after.saturating_sub(before.max(1));
        self.gain += (won as f32 - self.gain) / 4.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 1,000 groups are followed by a pause. `jobs` returns how many jobs wait when the pause ends.
    fn pauses(jobs: impl Fn(usize) -> usize) -> usize {
        let mut gather = Gather::default();
        (0..1_000).filter(|group| gather.pays(0).then(|| gather.learn(0, jobs(*group))).is_some()).count()
    }

    #[test]
    fn pauses_only_while_pausing_gains_jobs() {
        assert!(pauses(|_| 2) > 950);
        assert!(pauses(|group| 1 + group % 2) > 900);
        assert!(pauses(|_| 1) < 70, "too many pauses for one caller that waits for each answer");
        assert!(pauses(|_| 0) < 70);
    }

    #[test]
    fn does_not_pause_when_enough_jobs_wait() {
        let mut gather = Gather::default();
        gather.learn(0, 10);
        assert!(gather.pays(1));
        assert!(!gather.pays(ENOUGH_JOBS));
    }
}
