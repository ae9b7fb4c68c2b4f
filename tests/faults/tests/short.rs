//! The short form of the fault tests, part of every run of `./test`: real processes under load, twenty faults drawn
//! from a seed, a hundred thousand acknowledged messages, and the judgement of all that clients were told. The long
//! form is `faults random`; CARILLON_FAULTS_SEED repeats a seed's faults.

use carillon_faults::deployment::Size;
use carillon_faults::run::{Load, Stage};

const FAULTS: usize = 20;
const MESSAGES: u64 = 100_000;
/// Beyond every lease and grace; longer pauses are for the long form.
const AWAY_MS_MAX: u64 = 6_000;

fn seed() -> u64 {
    let given = std::env::var("CARILLON_FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs());
    given.unwrap_or_else(now)
}

/// Breaking it: each broken build of tests/broken is caught by the simulation; of those, acknowledging before the
/// write and no dedup fail here as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_acknowledged_is_lost_doubled_or_reordered() {
    let seed = seed();
    eprintln!("CARILLON_FAULTS_SEED={seed}");
    let Some(mut stage) = Stage::set(Size::default(), Load::default()).await.expect("everything starts")
    else {
        return;
    };
    stage.talk();
    stage.random_faults(seed, FAULTS, MESSAGES, AWAY_MS_MAX).await.expect("everything comes back");
    let outcome = stage.end(None).await.expect("a judgement");
    eprintln!("{outcome}");
    assert!(outcome.is_good(), "seed {seed}: {outcome}");
    assert!(outcome.report.counts.acknowledged >= MESSAGES && outcome.faults.len() >= FAULTS);
}
