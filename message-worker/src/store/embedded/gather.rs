//! Whether the writer should pause between two syncs, so that one serves several writes. Pure.
//!
//! A sync costs some 50 to 100 microseconds of CPU whatever it writes. Writes that arrive while one is under
//! way share the next by themselves; those that arrive one at a time, a little apart, do so only if the writer
//! pauses. A pause is of no use to a caller who writes again only when answered, so it is learnt from whether
//! the last pauses won anything.

use std::time::Duration;

/// So many jobs share a sync well enough: none waits longer.
pub(super) const ENOUGH_JOBS: usize = 4;
/// From the start of one sync to that of the next.
pub(super) const INTERVAL: Duration = Duration::from_millis(5);
/// Without a reason to pause, it is done all the same after so many groups, to learn.
const TRY_EVERY: u32 = 16;
/// Jobs that a pause must win on average, beyond the one that would have been written anyway.
const GAIN_MIN: f32 = 0.2;

/// What pausing has won so far.
#[derive(Default)]
pub(super) struct Gather {
    gain: f32,
    groups: u32,
}

impl Gather {
    /// Whether to pause now that a group is written and `jobs` wait already.
    pub(super) fn pays(&mut self, jobs: usize) -> bool {
        self.groups = (self.groups + 1) % TRY_EVERY;
        jobs < ENOUGH_JOBS && (self.gain >= GAIN_MIN || self.groups == 0)
    }

    /// Takes note of a pause after which there were `after` jobs where there had been `before`.
    pub(super) fn learn(&mut self, before: usize, after: usize) {
        let won = after.saturating_sub(before.max(1));
        self.gain += (won as f32 - self.gain) / 4.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 1,000 groups are followed by a pause, if so many jobs have come when it ends.
    fn pauses(jobs: impl Fn(usize) -> usize) -> usize {
        let mut gather = Gather::default();
        (0..1_000).filter(|group| gather.pays(0).then(|| gather.learn(0, jobs(*group))).is_some()).count()
    }

    #[test]
    fn pauses_while_that_wins_and_else_hardly_ever() {
        assert!(pauses(|_| 2) > 950);
        assert!(pauses(|group| 1 + group % 2) > 900);
        assert!(pauses(|_| 1) < 70, "one caller, who waits for each answer");
        assert!(pauses(|_| 0) < 70);
    }

    #[test]
    fn never_pauses_when_there_is_enough() {
        let mut gather = Gather::default();
        gather.learn(0, 10);
        assert!(gather.pays(1));
        assert!(!gather.pays(ENOUGH_JOBS));
    }
}
