//! Many runs, each in its own process, so that a run leaves nothing behind for the next one.

use anyhow::Context;
use carillon_sim::scenario::Scenario;
use std::collections::BTreeMap;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A run that lasts longer hangs: it spins without moving its virtual clock.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);
/// Time between two checks of whether a run has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Beginning of the line in which a run prints how often each counted event happened.
pub(crate) const COUNTS: &str = "happened: ";

/// The arguments of each run.
pub(crate) type Runs = Vec<Vec<String>>;

pub(crate) fn seeds(seeds: Range<u64>) -> Runs {
    seeds.map(|seed| vec!["--seed".into(), seed.to_string()]).collect()
}

pub(crate) fn scenarios() -> Runs {
    Scenario::ALL.iter().map(|(name, _)| vec!["--scenario".into(), (*name).into()]).collect()
}

/// Runs all of these, `jobs` at a time; returns whether all passed.
pub(crate) fn run(runs: Runs, jobs: usize) -> anyhow::Result<bool> {
    let (began, count) = (Instant::now(), runs.len());
    let (waiting, failed) = (Mutex::new(runs.into_iter()), AtomicU64::new(0));
    let happened = Mutex::new(BTreeMap::new());
    let program = std::env::current_exe().context("this program cannot find itself")?;
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(arguments) = waiting.lock().ok().and_then(|mut runs| runs.next()) {
                    let (went_well, printed) = one(Command::new(&program).args(&arguments));
                    if let Ok(mut happened) = happened.lock() {
                        add(&mut happened, &printed);
                    }
                    if !went_well {
                        failed.fetch_add(1, Ordering::Relaxed);
                        println!("{printed}of: sim {}\n", arguments.join(" "));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    let happened = happened.into_inner().unwrap_or_default();
    let happened: Vec<_> = happened.iter().map(|(what, count)| format!("{count} {what}")).collect();
    println!("in all {}", happened.join(", "));
    println!("{count} runs, {failed} failed, in {:.1} s", began.elapsed().as_secs_f64());
    Ok(failed == 0)
}

/// Adds the counts that a run printed to the total.
fn add(happened: &mut BTreeMap<String, u64>, printed: &str) {
    let counts =
        printed.lines().filter_map(|line| line.strip_prefix(COUNTS)).flat_map(|line| line.split(", "));
    for (count, what) in counts.filter_map(|one| one.split_once(' ')) {
        *happened.entry(what.to_owned()).or_default() += count.parse::<u64>().unwrap_or(0);
    }
}

/// Whether a run passed, and what it printed.
fn one(command: &mut Command) -> (bool, String) {
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let ended = spawned.and_then(|child| within(child, RUN_TIMEOUT)).and_then(Child::wait_with_output);
    match ended {
        Ok(output) => {
            let printed =
                [output.stdout, output.stderr].map(|printed| String::from_utf8_lossy(&printed).into_owned());
            (output.status.success(), printed.concat())
        }
        Err(error) => (false, format!("{error}\n")),
    }
}

/// Waits for a process, and kills it after `timeout`. Its output fits into the pipe, except with `--trace`.
fn within(mut child: Child, timeout: Duration) -> std::io::Result<Child> {
    let began = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if began.elapsed() > timeout {
            // The process may have ended meanwhile, so a failed kill does not matter.
            let _ = child.kill();
            return Err(std::io::Error::other(format!("the run hung for {timeout:?}")));
        }
        std::thread::park_timeout(LOOK);
    }
    Ok(child)
}
