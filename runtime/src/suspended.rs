//! The time for which this machine has been suspended. The monotonic clock, by which leases and tenures are measured,
//! stands still during a suspension, while the clocks of other machines go on.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A smaller difference between the clocks is ignored. This is shorter than every span that is measured against it, and
/// longer than a thread is normally interrupted between the two readings of [`measured_ms`].
const NOTICED_MS: u64 = 50;

/// The suspended time noticed so far, in milliseconds.
static NOTICED: AtomicU64 = AtomicU64::new(0);

/// How long this machine has been suspended since it started, as far as noticed. It never falls. It rises only after a
/// suspension of [`NOTICED_MS`] or more, so that it does not disturb a simulated clock.
pub fn suspended() -> Duration {
    let rises_at_ms = NOTICED.load(Ordering::Acquire) + NOTICED_MS;
    if measured_ms() >= rises_at_ms {
        // A thread that is interrupted between its two readings measures too much, so the smallest of several counts.
        let now_ms = (0..3).map(|_| measured_ms()).min().unwrap_or(0);
        if now_ms >= rises_at_ms {
            NOTICED.fetch_max(now_ms, Ordering::AcqRel);
        }
    }
    Duration::from_millis(NOTICED.load(Ordering::Acquire))
}

fn measured_ms() -> u64 {
    let monotonic = ms(clock_gettime(ClockId::Monotonic));
    ms(clock_gettime(ClockId::Boottime)).saturating_sub(monotonic)
}

fn ms(time: Timespec) -> u64 {
    (time.tv_sec as u64) * 1_000 + (time.tv_nsec as u64) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_runs_is_not_suspended() {
        let before = suspended();
        for _ in 0..1_000 {
            assert_eq!(suspended(), before);
        }
    }
}
