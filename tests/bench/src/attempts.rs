//! Repeats a run that other programs disturbed. A run starts when other programs use little CPU; if they use too much
//! during the run, the run is void and is repeated.

use crate::host::pause;
use crate::report::{Figures, Report, Run};
use crate::{interrupt, usage};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// The most attempts at one run, if other programs disturb every attempt.
const ATTEMPTS: u32 = 3;
/// The longest wait, before a run, for other programs to use little CPU. The run starts after it in any case.
const QUIET_TIMEOUT: Duration = Duration::from_secs(120);
/// The interval over which the CPU use of other programs is measured during that wait.
const QUIET_SAMPLE: Duration = Duration::from_secs(2);

/// Calls `once` until other programs used at most `noise_max` of a core during the run, up to [`ATTEMPTS`] times.
/// Returns the figures of the run that counts, or `None`. A failed run does not count and is not repeated.
///
/// # Errors
/// When the program is interrupted.
pub fn until_quiet(
    noise_max: f64,
    report: &mut Report,
    mut once: impl FnMut() -> Run,
) -> Result<Option<Figures>> {
    for _ in 0..ATTEMPTS {
        await_quiet(noise_max)?;
        let mut run = once();
        ensure!(!interrupt::requested(), "interrupted");
        run.void = run.figures.get("others_user_share").is_some_and(|share| share > noise_max);
        let (void, figures) = (run.void, run.figures.clone());
        if report.add(run) {
            return Ok(Some(figures));
        }
        if !void {
            return Ok(None);
        }
    }
    Ok(None)
}

/// Waits until other programs use at most `noise_max` of a core, for at most [`QUIET_TIMEOUT`].
fn await_quiet(noise_max: f64) -> Result<()> {
    let began = Instant::now();
    let mut before = usage::read(&[])?;
    while began.elapsed() < QUIET_TIMEOUT {
        pause(QUIET_SAMPLE);
        ensure!(!interrupt::requested(), "interrupted");
        let now = usage::read(&[])?;
        let (machine, own) = (now.machine.since(before.machine), now.own.since(before.own));
        if machine.user_s - own.user_s <= noise_max * QUIET_SAMPLE.as_secs_f64() {
            break;
        }
        before = now;
    }
    Ok(())
}
