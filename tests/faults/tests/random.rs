//! Real processes under load, with faults drawn from a seed, and a judgement of everything that clients received. Every
//! run of `./test` has 20 faults and 100,000 acknowledged messages; `--long` has ten times as many.
//! CARILLON_FAULTS_SEED repeats the faults of a seed.

use carillon_faults::deployment::Size;
use carillon_faults::run::{Load, Stage};

/// The size of a run.
struct Extent {
    faults: usize,
    messages: u64,
    /// The longest pause, in milliseconds: longer than every lease and grace.
    away_ms_max: u64,
}

fn extent() -> Extent {
    match std::env::var("CARILLON_TEST_LONG").as_deref() {
        Ok("1") => Extent { faults: 200, messages: 1_000_000, away_ms_max: 30_000 },
        _ => Extent { faults: 20, messages: 100_000, away_ms_max: 6_000 },
    }
}

#[expect(clippy::disallowed_methods, reason = "a seed that the user did not choose is drawn from the time")]
fn seed() -> u64 {
    let given = std::env::var("CARILLON_FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs());
    given.unwrap_or_else(now)
}

/// The simulation catches every broken build of tests/broken. Two of them fail this test as well: acks before the
/// write, and no dedup.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_acknowledged_is_lost_doubled_or_reordered() {
    let (seed, Extent { faults, messages, away_ms_max }) = (seed(), extent());
    eprintln!("CARILLON_FAULTS_SEED={seed}");
    let Some(mut stage) = Stage::set(Size::default(), Load::default()).await.expect("everything starts")
    else {
        return;
    };
    stage.begin_sending();
    stage
        .random_faults(seed, faults, messages, away_ms_max)
        .await
        .expect("all parts return after the faults");
    let outcome = stage.end(None).await.expect("a judgement");
    eprintln!("{outcome}");
    assert!(outcome.is_good(), "seed {seed}: {outcome}");
    assert!(outcome.report.counts.acknowledged >= messages && outcome.faults.len() >= faults);
}
