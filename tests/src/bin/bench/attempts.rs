//! Runs that count: each begins when other programs leave the cores alone, and is repeated where they did not.

use crate::host::pause;
use crate::report::{Figures, Report, Run};
use crate::{interrupt, usage};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// How often a run is tried when something else used the cores.
const ATTEMPTS: u32 = 3;
/// How long a run waits for other programs to leave the cores alone, and how it finds out.
const QUIET_TIMEOUT: Duration = Duration::from_secs(120);
const QUIET_SAMPLE: Duration = Duration::from_secs(2);

/// Runs `once`, and again while other programs used more than `noise_max` of a core. Returns what counts; a run that
/// failed does not, and is not repeated.
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

/// Waits until other programs leave the cores alone, for a while.
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
