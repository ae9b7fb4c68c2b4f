//! Mode `path`: the time from sending a message to its acknowledgement, through NATS and the database.
//!
//! One client sends one message at a time and waits for its acknowledgement. After each message, one JetStream publish
//! and one write of a row at QUORUM are measured on the same nats-server and the same database. The durable path
//! cannot take less time than these two.

use crate::deployment::{DATABASE_TIMEOUT, Deployment, Parts};
use crate::engine::{Engine, PATIENCE, Progress};
use crate::host::Host;
use crate::report::{Column, Figures, Report, Run};
use crate::usage;
use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use scylla::client::session::Session;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use std::time::{Duration, Instant};

/// Rounds that are not counted, because connections, caches and the first log segments make them slower.
const WARMUP_ROUNDS: u32 = 200;
/// The size of a probe: about the size of a message of 200 bytes in the log and in its row.
const PROBE_BYTES: usize = 300;

/// The options of mode `path`.
pub struct Options {
    pub messages: u32,
    pub content_bytes: usize,
    pub repetitions: u32,
    pub parts: Parts,
}

/// The JetStream publish and the database write that are measured for comparison.
struct Probes {
    jetstream: jetstream::Context,
    session: Session,
    insert: PreparedStatement,
    payload: Vec<u8>,
}

/// The times of each round, in milliseconds.
#[derive(Default)]
struct Rounds {
    path_ms: Vec<f64>,
    publish_ms: Vec<f64>,
    write_ms: Vec<f64>,
}

/// Runs all repetitions. It prints a line of JSON for each run, and the table at the end.
pub fn run(host: &Host, options: &Options, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for repetition in 1..=options.repetitions {
        let case = format!("{} messages, one at a time", options.messages);
        report.add(Run::new("path", "carillon", case, repetition, once(host, options, &runtime)));
        ensure!(!crate::interrupt::requested(), "interrupted");
    }
    let column = |figure, title| Column { figure, title, decimals: 2 };
    println!(
        "{}",
        report.table(&[
            column("path_p50_ms", "send → ack p50 ms"),
            column("path_p99_ms", "p99 ms"),
            column("publish_p50_ms", "JetStream publish p50 ms"),
            column("publish_p99_ms", "p99 ms"),
            column("write_p50_ms", "QUORUM write p50 ms"),
            column("write_p99_ms", "p99 ms"),
            column("path_to_parts_p50", "path / (publish + write)"),
            column("cpu_us_per_message", "Carillon's CPU µs / message"),
        ])
    );
    Ok(())
}

fn once(host: &Host, options: &Options, runtime: &tokio::runtime::Runtime) -> Result<Figures> {
    options.parts.deployed(host, |deployment| {
        let probes = runtime.block_on(Probes::prepare(deployment))?;
        let mut engine = deployment.first_client(options.content_bytes)?;
        let pids = deployment.carillon();
        let mut rounds = Rounds::default();
        for round in 0..WARMUP_ROUNDS {
            rounds.one(&mut engine, &probes, round, runtime)?;
        }
        rounds = Rounds::default();
        let before = usage::read(&pids)?.servers;
        for round in 0..options.messages {
            rounds.one(&mut engine, &probes, WARMUP_ROUNDS + round, runtime)?;
        }
        let cpu = usage::read(&pids)?.servers.since(before);
        engine.settle()?;
        Ok(rounds.figures(cpu.total_s() * 1e6 / f64::from(options.messages)))
    })
}

impl Rounds {
    /// Measures one message, one publish and one write.
    fn one(
        &mut self,
        engine: &mut Engine,
        probes: &Probes,
        round: u32,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<()> {
        let since_ms = |began: Instant| began.elapsed().as_secs_f64() * 1e3;
        let began = Instant::now();
        engine.publish(0)?;
        let mut progress = Progress::new(PATIENCE);
        while engine.member(0).context("the client is gone")?.unacknowledged() > 0 {
            engine.pump(Duration::from_millis(100))?;
            progress.made(engine.world.tally.acknowledged).context("no acknowledgement")?;
        }
        self.path_ms.push(since_ms(began));
        // Wait for the delivery here, so that it does not disturb the probes.
        while engine.world.tally.delivered < engine.world.tally.due {
            engine.pump(Duration::from_millis(100))?;
            progress.made(engine.world.tally.delivered).context("no delivery")?;
        }
        let began = Instant::now();
        runtime.block_on(probes.publish())?;
        self.publish_ms.push(since_ms(began));
        let began = Instant::now();
        runtime.block_on(probes.write(round))?;
        self.write_ms.push(since_ms(began));
        Ok(())
    }

    fn figures(mut self, cpu_us_per_message: f64) -> Figures {
        let mut figures = Figures::default();
        for (values, p50, p99) in [
            (&mut self.path_ms, "path_p50_ms", "path_p99_ms"),
            (&mut self.publish_ms, "publish_p50_ms", "publish_p99_ms"),
            (&mut self.write_ms, "write_p50_ms", "write_p99_ms"),
        ] {
            values.sort_by(f64::total_cmp);
            figures.set(p50, quantile(values, 0.5));
            figures.set(p99, quantile(values, 0.99));
        }
        let parts = quantile(&self.publish_ms, 0.5) + quantile(&self.write_ms, 0.5);
        figures.set("path_to_parts_p50", quantile(&self.path_ms, 0.5) / parts);
        figures.set("cpu_us_per_message", cpu_us_per_message);
        figures
    }
}

/// The value that `share` of all sorted values do not exceed.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

impl Probes {
    async fn prepare(deployment: &Deployment) -> Result<Probes> {
        let session = deployment.session().await?;
        let keyspace = &deployment.keyspace;
        let client = async_nats::connect(&deployment.nats_url).await.context("NATS for the probe")?;
        let jetstream = jetstream::new(client);
        let stream = jetstream::stream::Config {
            name: "BENCH_PROBE".into(),
            subjects: vec!["bench.probe".into()],
            ..Default::default()
        };
        jetstream.create_stream(stream).await.context("a stream for the probe")?;
        let table = format!("CREATE TABLE {keyspace}.bench_probe (id int PRIMARY KEY, blob blob)");
        session.query_unpaged(table, ()).await.context("a table for the probe")?;
        let insert = format!("INSERT INTO {keyspace}.bench_probe (id, blob) VALUES (?, ?)");
        let mut insert = session.prepare(insert).await.context("a statement for the probe")?;
        insert.set_consistency(Consistency::Quorum);
        insert.set_request_timeout(Some(DATABASE_TIMEOUT));
        Ok(Probes { jetstream, session, insert, payload: vec![b'x'; PROBE_BYTES] })
    }

    async fn publish(&self) -> Result<()> {
        let sent = self.jetstream.publish("bench.probe", self.payload.clone().into()).await?;
        sent.await.context("the probe's publish")?;
        Ok(())
    }

    async fn write(&self, round: u32) -> Result<()> {
        let row = (i32::try_from(round)?, self.payload.as_slice());
        self.session.execute_unpaged(&self.insert, row).await.context("the probe's write")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(
            (quantile(&values, 0.5), quantile(&values, 0.99), quantile(&values, 1.0)),
            (100.0, 198.0, 200.0)
        );
        assert_eq!((quantile(&[7.0], 0.5), quantile(&[], 0.5)), (7.0, 0.0));
    }
}
