//! Load that clients put on a gateway: all of them reconnect at once, or some read slowly.

use super::{CALM, Scenario, measured, seconds};
use crate::deployment::{Role, Size};
use crate::figures::{self, Figure};
use crate::proxy::Mode;
use crate::run::{Load, Outcome, Stage};
use carillon_history::What;
use std::collections::HashSet;
use tokio::time::sleep;

/// How long slow readers stall, in seconds: less than the 30 s after which a gateway closes a connection that reads
/// nothing.
const STALL_S: u64 = 20;

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "storm",
            about: "kill -9 of the only gateway of 1,000 clients, in twenty conversations: all come back at once",
            size: || Size { gateways: 1, ..Size::default() },
            load: || Load { clients: 1_000, conversations: 20, rate: 0.3, ..Load::default() },
            happen: |stage| Box::pin(storm(stage)),
            figures: storm_figures,
        },
        Scenario {
            name: "slow-readers",
            about: "five clients read nothing for 20 s, twice, while tens of megabytes are sent to them",
            size: Size::default,
            load: || Load {
                clients: 45,
                conversations: 4,
                rate: 8.0,
                content_bytes: 4_500,
                slow: 5,
                ..Load::default()
            },
            happen: |stage| Box::pin(slow_readers(stage)),
            figures: |outcome| measured(outcome).collect(),
        },
    ]
}

async fn storm(stage: &mut Stage) -> anyhow::Result<()> {
    sleep(CALM).await;
    stage.note("kill -9 of gateway 0, and a new start");
    let gateway = &mut stage.deployment.of(Role::Gateway)[0];
    gateway.kill();
    gateway.restart();
    sleep(seconds(15)).await;
    let gateway = &stage.deployment.of(Role::Gateway)[0];
    for name in ["carillon_catch_up_reads_total", "carillon_connections_refused_total"] {
        let value = gateway.metric(name).await?;
        stage.measured.push((name.into(), value));
    }
    Ok(())
}

fn storm_figures(outcome: &Outcome) -> Vec<Figure> {
    let (killed_us, _) = outcome.faults[0];
    let (back_ms, clients) = figures::back_ms(&outcome.records, killed_us, killed_us + 2_000_000);
    let ranges: HashSet<(&str, u64)> = (outcome.records.iter().filter(|record| record.at_us > killed_us))
        .filter_map(|record| match &record.what {
            What::Joined { conversation, after_seq: Some(after_seq), head, .. } if after_seq < head => {
                Some((conversation.as_str(), *after_seq))
            }
            _ => None,
        })
        .collect();
    let reads = outcome.measured.first().map_or(0.0, |(_, reads)| *reads);
    let back = format!("ms until all {clients} clients were back and caught up");
    let per_range = format!("percent: {reads:.0} store reads of {} missing ranges", ranges.len());
    let mut figures = vec![
        Figure { name: back, value: back_ms, at_most: Some(10_000.0) },
        Figure { name: per_range, value: 100.0 * reads / ranges.len().max(1) as f64, at_most: Some(100.0) },
    ];
    figures.extend(measured(outcome));
    figures
}

async fn slow_readers(stage: &mut Stage) -> anyhow::Result<()> {
    sleep(CALM).await;
    let before_mib = stage.deployment.of(Role::Gateway)[0].resident_mib()?;
    let mut most_mib = before_mib;
    for _ in 0..2 {
        stage.note("five clients read nothing, 20 s");
        stage.slow.set(Mode { stall_answers: true, ..Mode::PASS });
        for _ in 0..STALL_S {
            sleep(seconds(1)).await;
            most_mib = most_mib.max(stage.deployment.of(Role::Gateway)[0].resident_mib()?);
        }
        stage.slow.set(Mode::PASS);
        stage.note("they read again");
        sleep(seconds(10)).await;
    }
    let reads = stage.deployment.of(Role::Gateway)[0].metric("carillon_catch_up_reads_total").await?;
    stage.measured.push(("MiB that the gateway grew by at most meanwhile".into(), most_mib - before_mib));
    stage.measured.push(("pages read for those behind".into(), reads));
    Ok(())
}
