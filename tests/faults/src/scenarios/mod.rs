//! Scenarios: faults one at a time, each with its measurements.

use crate::deployment::{Role, Size};
use crate::figures::{self, Figure};
use crate::proxy::Mode;
use crate::run::{Load, Outcome, Stage};
use crate::schedule::{Fault, What};
use futures_util::future::BoxFuture;
use std::time::Duration;

mod bus;
mod clients;

use tokio::time::sleep;

/// A fault, the deployment and load it happens to, and its measurements.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens, for people.
    pub about: &'static str,
    /// The deployment.
    pub size: fn() -> Size,
    /// The load.
    pub load: fn() -> Load,
    /// Lets the fault happen while clients send.
    pub happen: for<'a> fn(&'a mut Stage) -> BoxFuture<'a, anyhow::Result<()>>,
    /// Computes the figures from the outcome.
    pub figures: fn(&Outcome) -> Vec<Figure>,
}

/// How often a change of owners is repeated: enough to meet a worst case.
const ROUNDS: usize = 10;
/// How often nats-server is killed. Only about one of twenty kills meets the conditions under which an acknowledgement
/// is lost.
const NATS_ROUNDS: usize = 50;
/// A load that a small machine carries easily even when it runs everything, clients included. The scenario then
/// measures the change of owners and not the queues of an overloaded database.
const EASY: fn() -> Load = || Load { rate: 5.0, ..Load::default() };
/// Time before the first fault, to measure the undisturbed state.
const CALM: Duration = Duration::from_secs(10);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    let mut all = of_processes();
    all.extend(of_what_they_need());
    all.extend(bus::all());
    all.extend(clients::all());
    all
}

fn of_processes() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "worker-terminated",
            about: "SIGTERM to a message-worker, ten times: its partitions are handed over",
            size: Size::default,
            load: EASY,
            happen: |stage| {
                Box::pin(rounds(stage, |index| Fault::of(What::Terminate, Role::MessageWorker, index, 0)))
            },
            figures: |outcome| longest_answers(outcome, "SIGTERM", 500.0),
        },
        Scenario {
            name: "worker-killed",
            about: "kill -9 of a message-worker, ten times: its leases run out",
            size: Size::default,
            load: EASY,
            happen: |stage| {
                Box::pin(rounds(stage, |index| Fault::of(What::Kill, Role::MessageWorker, index, 4_000)))
            },
            figures: |outcome| longest_answers(outcome, "kill -9", 3_000.0),
        },
        Scenario {
            name: "worker-paused",
            about: "SIGSTOP of a message-worker past its lease, then SIGCONT, ten times",
            size: Size::default,
            load: EASY,
            happen: |stage| {
                Box::pin(rounds(stage, |index| Fault::of(What::Pause, Role::MessageWorker, index, 5_000)))
            },
            figures: |outcome| longest_answers(outcome, "SIGSTOP", 3_000.0),
        },
        Scenario {
            name: "worker-added",
            about: "a third message-worker comes: a share of the partitions moves to it",
            size: || Size { message_workers: 2, ..Size::default() },
            load: EASY,
            happen: |stage| Box::pin(worker_added(stage)),
            figures: |outcome| {
                let mut figures = longest_answers(outcome, "new worker's coming", 500.0);
                figures.extend(measured(outcome));
                figures
            },
        },
        Scenario {
            name: "gateway-killed",
            about: "kill -9 of one of two gateways: its clients come back on the other and are caught up",
            size: Size::default,
            load: || Load { clients: 400, rate: 2.0, ..Load::default() },
            happen: |stage| Box::pin(gateway_killed(stage)),
            figures: |outcome| {
                let (killed_us, _) = outcome.faults[0];
                let (back_ms, clients) = figures::back_ms(&outcome.records, killed_us, killed_us + 2_000_000);
                vec![Figure {
                    name: format!("ms until all {clients} clients of the gateway were back and caught up"),
                    value: back_ms,
                    at_most: Some(10_000.0),
                }]
            },
        },
        Scenario {
            name: "gateway-killed-at-the-limit",
            about: "kill -9 of a gateway whose users have all the five connections that they may have",
            size: || Size { connections_per_user: 5, ..Size::default() },
            load: || Load { clients: 200, devices: 5, rate: 2.0, ..Load::default() },
            happen: |stage| Box::pin(gateway_killed(stage)),
            figures: |outcome| {
                let (killed_us, _) = outcome.faults[0];
                let (back_ms, clients) = figures::back_ms(&outcome.records, killed_us, killed_us + 2_000_000);
                vec![Figure {
                    name: format!("ms until all {clients} clients of the gateway were back"),
                    value: back_ms,
                    at_most: Some(10_000.0),
                }]
            },
        },
        Scenario {
            name: "gateway-terminated",
            about: "SIGTERM to one of two gateways: it sends its clients away, spread over its drain",
            size: Size::default,
            load: || Load { clients: 400, rate: 2.0, ..Load::default() },
            happen: |stage| {
                Box::pin(async move {
                    sleep(CALM).await;
                    stage.note("SIGTERM to gateway 0");
                    stage.happen(Fault::of(What::Terminate, Role::Gateway, 0, 0)).await?;
                    sleep(seconds(10)).await;
                    Ok(())
                })
            },
            figures: |outcome| {
                let (terminated_us, _) = outcome.faults[0];
                let (back_ms, clients) =
                    figures::back_ms(&outcome.records, terminated_us, terminated_us + 8_000_000);
                let name = format!("ms until all {clients} clients of the gateway were back and caught up");
                vec![Figure { name, value: back_ms, at_most: None }]
            },
        },
    ]
}

fn of_what_they_need() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "fan-out-lost",
            about: "a gateway's connection to NATS is cut for a second under load, five times: what it missed is fetched",
            size: Size::default,
            load: Load::default,
            happen: |stage| Box::pin(fan_out_lost(stage)),
            figures: |outcome| {
                let healed = outcome
                    .faults
                    .chunks(2)
                    .map(|pair| figures::complete_ms(&outcome.records, pair[0].0, pair[1].0));
                let value = healed.fold(0.0, f64::max);
                let name = "ms until every member had received what was lost, worst of five".into();
                vec![Figure { name, value, at_most: Some(2_000.0) }]
            },
        },
        Scenario {
            name: "nats-killed",
            about: "kill -9 of nats-server, started again at once, fifty times",
            size: Size::default,
            load: Load::default,
            happen: |stage| Box::pin(rounds_of(stage, NATS_ROUNDS, |_| Fault::nats_killed(200))),
            figures: |outcome| longest_answers(outcome, "kill -9", 3_000.0),
        },
        Scenario {
            name: "nats-away",
            about: "nats-server is away for 30 s",
            size: Size::default,
            load: Load::default,
            happen: |stage| Box::pin(away(stage, Fault::nats_killed(30_000))),
            figures: steady_again,
        },
        Scenario {
            name: "database-away",
            about: "nothing reaches the database for 60 s",
            size: Size::default,
            load: Load::default,
            happen: |stage| Box::pin(database(stage, Mode::AWAY, 60)),
            figures: steady_again,
        },
        Scenario {
            name: "database-without-answers",
            about: "for 20 s the database applies every write, and its answers do not arrive",
            size: Size::default,
            load: Load::default,
            happen: |stage| Box::pin(database(stage, Mode::NO_ANSWERS, 20)),
            figures: steady_again,
        },
    ]
}

async fn rounds(stage: &mut Stage, fault: impl Fn(usize) -> Fault) -> anyhow::Result<()> {
    rounds_of(stage, ROUNDS, fault).await
}

async fn rounds_of(stage: &mut Stage, count: usize, fault: impl Fn(usize) -> Fault) -> anyhow::Result<()> {
    sleep(seconds(3)).await;
    for round in 0..count {
        let fault = fault(round % Size::default().message_workers);
        stage.note(fault);
        stage.happen(fault).await?;
        sleep(seconds(4)).await;
    }
    Ok(())
}

async fn worker_added(stage: &mut Stage) -> anyhow::Result<()> {
    sleep(CALM).await;
    stage.note("one more message-worker");
    let node = stage.deployment.node(Role::MessageWorker).await?;
    sleep(seconds(5)).await;
    let partitions = node.values("carillon_partition_lag_ms").await?.len();
    stage.measured.push((
        format!("partitions of {} that the third worker has", carillon_proto::limits::PARTITIONS),
        partitions as f64,
    ));
    stage.deployment.nodes.push(node);
    Ok(())
}

async fn gateway_killed(stage: &mut Stage) -> anyhow::Result<()> {
    sleep(CALM).await;
    let fault = Fault::of(What::Kill, Role::Gateway, 0, 15_000);
    stage.note(fault);
    stage.happen(fault).await
}

async fn fan_out_lost(stage: &mut Stage) -> anyhow::Result<()> {
    sleep(seconds(3)).await;
    for _ in 0..5 {
        stage.note("NATS connections of gateway 0 cut and refused, 1000 ms");
        stage.deployment.of(Role::Gateway)[0].set_nats(Mode { refuse: true, ..Mode::PASS });
        stage.deployment.of(Role::Gateway)[0].cut_nats();
        sleep(seconds(1)).await;
        stage.deployment.of(Role::Gateway)[0].set_nats(Mode::PASS);
        stage.note("healed");
        sleep(seconds(5)).await;
    }
    Ok(())
}

async fn away(stage: &mut Stage, fault: Fault) -> anyhow::Result<()> {
    sleep(CALM).await;
    stage.note(fault);
    stage.happen(fault).await?;
    stage.note("healed");
    sleep(seconds(30)).await;
    Ok(())
}

async fn database(stage: &mut Stage, mode: Mode, away_s: u64) -> anyhow::Result<()> {
    sleep(CALM).await;
    stage.note(format!("the database is {mode:?}, {away_s} s"));
    let before_mib = stage.deployment.resident_mib()?;
    stage.deployment.set_database(mode);
    let mut most_mib = before_mib;
    for _ in 0..away_s {
        sleep(seconds(1)).await;
        most_mib = most_mib.max(stage.deployment.resident_mib()?);
    }
    stage.deployment.set_database(Mode::PASS);
    stage.note("healed");
    sleep(seconds(60)).await;
    let processes = stage.deployment.nodes.len();
    stage.measured.push((
        format!("MiB that all {processes} processes grew by at most meanwhile"),
        most_mib - before_mib,
    ));
    Ok(())
}

/// For each fault, the longest time from sending a message around it to its ack; the median and the 99th
/// percentile.
fn longest_answers(outcome: &Outcome, what: &str, goal_ms: f64) -> Vec<Figure> {
    const AROUND_US: u64 = 3_500_000;
    let mut longest: Vec<f64> = (outcome.faults.iter())
        .map(|(at_us, _)| {
            let answers_ms =
                figures::answers_ms(&outcome.records, at_us.saturating_sub(200_000), at_us + AROUND_US);
            answers_ms.last().copied().unwrap_or(0.0)
        })
        .collect();
    longest.sort_by(f64::total_cmp);
    let name = |which: &str| {
        format!("ms to the ack of the slowest message around a {what}, {which} of {}", longest.len())
    };
    vec![
        Figure { name: name("median"), value: figures::quantile(&longest, 0.5), at_most: None },
        Figure { name: name("p99"), value: figures::quantile(&longest, 0.99), at_most: Some(goal_ms) },
    ]
}

/// The values measured during the run, as figures without a goal.
fn measured(outcome: &Outcome) -> impl Iterator<Item = Figure> {
    outcome.measured.iter().map(|(name, value)| Figure { name: name.clone(), value: *value, at_most: None })
}

fn steady_again(outcome: &Outcome) -> Vec<Figure> {
    let [(broken_us, _), (healed_us, _)] = outcome.faults.as_slice() else { return Vec::new() };
    let value = figures::steady_s(&outcome.records, *broken_us, *healed_us, 0.8);
    let name = "s after healing until messages were acknowledged as steadily as before (80 %)".into();
    let mut figures: Vec<Figure> = measured(outcome).collect();
    let meanwhile = figures::acknowledged(&outcome.records, *broken_us + 2_000_000, *healed_us);
    figures.push(Figure { name, value, at_most: Some(60.0) });
    let name = "messages acknowledged from 2 s after the fault to its end".into();
    figures.push(Figure { name, value: meanwhile as f64, at_most: None });
    figures
}
