//! Mode `path`: how long a message takes through NATS and the database until it is acknowledged.
//!
//! One client sends one message at a time and waits for its acknowledgement. Beside it, in alternation, one
//! JetStream publish is awaited and one row is written at QUORUM: the two waits that the durable path cannot do
//! without, on the same nats-server and the same database, at the same moment.

use crate::dialect::Dialect;
use crate::engine::{Engine, PATIENCE, Progress};
use crate::host::{Host, Process, Ready, free_port, pause};
use crate::report::{Column, Figures, Report, Run};
use crate::usage;
use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Rounds that are not counted: connections, caches and the log's first segments.
const WARMUP_ROUNDS: u32 = 200;
/// What a probe writes: about what a message of 200 bytes becomes in the log and in its row.
const PROBE_BYTES: usize = 300;
/// For workers to own every partition, after which joining works.
const OWNED_TIMEOUT: Duration = Duration::from_secs(60);
const OWNED_PAUSE: Duration = Duration::from_secs(1);
/// For the database to answer.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);

/// What to run.
pub struct Options {
    pub messages: u32,
    pub content_bytes: usize,
    pub repetitions: u32,
    /// The binary of nats-server, and where the database listens.
    pub nats_server: String,
    pub cassandra: String,
}

/// Carillon as it is deployed: NATS, a gateway and two workers. The database is there already.
struct Deployment {
    nats: Process,
    carillon: Vec<Process>,
    nats_url: String,
    gateway: SocketAddr,
}

/// The two waits that are measured beside the path.
struct Probes {
    jetstream: jetstream::Context,
    session: Session,
    insert: PreparedStatement,
    payload: Vec<u8>,
}

/// Milliseconds that each round took.
#[derive(Default)]
struct Rounds {
    path_ms: Vec<f64>,
    publish_ms: Vec<f64>,
    write_ms: Vec<f64>,
}

/// Runs everything and prints it.
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
    let folder = host.folder()?;
    let keyspace = format!("carillon_bench_{}", uuid::Uuid::new_v4().simple());
    let session = runtime.block_on(session(&options.cassandra))?;
    let measured = Deployment::start(host, options, &keyspace, folder.path())
        .and_then(|deployment| measure(deployment, session, options, &keyspace, runtime));
    // Whatever happened, the database is left as it was.
    let session = runtime.block_on(self::session(&options.cassandra))?;
    runtime
        .block_on(session.query_unpaged(format!("DROP KEYSPACE IF EXISTS {keyspace}"), ()))
        .with_context(|| format!("keyspace {keyspace} is left behind: drop it by hand"))?;
    measured
}

fn measure(
    deployment: Deployment,
    session: Session,
    options: &Options,
    keyspace: &str,
    runtime: &tokio::runtime::Runtime,
) -> Result<Figures> {
    let probes = runtime.block_on(Probes::prepare(session, &deployment.nats_url, keyspace))?;
    let mut engine = deployment.first_client(options.content_bytes)?;
    let pids: Vec<u32> = deployment.carillon.iter().map(Process::pid).collect();
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
    drop(engine);
    deployment.stop()?;
    Ok(rounds.figures(cpu.total_s() * 1e6 / f64::from(options.messages)))
}

impl Rounds {
    /// One message, one publish, one write.
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
        // Its delivery is not part of what follows.
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

async fn session(cassandra: &str) -> Result<Session> {
    SessionBuilder::new()
        .known_node(cassandra)
        .connection_timeout(DATABASE_TIMEOUT)
        .build()
        .await
        .with_context(|| format!("no database at {cassandra}"))
}

impl Probes {
    async fn prepare(session: Session, nats_url: &str, keyspace: &str) -> Result<Probes> {
        let client = async_nats::connect(nats_url).await.context("NATS for the probe")?;
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

impl Deployment {
    fn start(host: &Host, options: &Options, keyspace: &str, folder: &Path) -> Result<Deployment> {
        let (nats, nats_url) = start_nats(host, &options.nats_server, folder)?;
        let role = |arguments: &[&str]| -> Result<Command> {
            let mut command = host.carillon()?;
            command.args(arguments).args(["--nats", &nats_url, "--scylla", &options.cassandra]);
            command.env("SCYLLA_KEYSPACE", keyspace).args(["--data-dir"]).arg(folder.join("data"));
            Ok(command)
        };
        Process::run("migrate", role(&["migrate"])?)?;
        let mut carillon = Vec::new();
        for (name, admin) in [("message-worker", free_port()?), ("presence-worker", free_port()?)] {
            let command = role(&[name, "--admin-listen", &format!("127.0.0.1:{admin}")])?;
            carillon.push(host.start(name, command, folder, Ready::Answers(admin))?);
        }
        let gateway = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let command = role(&["gateway", "--dev", "--listen", &gateway.to_string()])?;
        carillon.push(host.start("gateway", command, folder, Ready::Answers(gateway.port()))?);
        Ok(Deployment { nats, carillon, nats_url, gateway })
    }

    /// Connects the client, as soon as a worker owns its conversation's partition.
    fn first_client(&self, content_bytes: usize) -> Result<Engine> {
        let began = Instant::now();
        loop {
            let mut engine = Engine::new(self.gateway, Dialect::Native, 1, content_bytes)?;
            match engine.connect(0..1, 1, 1) {
                Ok(()) => return Ok(engine),
                Err(error) if began.elapsed() > OWNED_TIMEOUT => return Err(error),
                Err(_) => pause(OWNED_PAUSE),
            }
        }
    }

    /// Stops everything, the gateway first and NATS last.
    fn stop(self) -> Result<()> {
        for process in self.carillon.into_iter().rev() {
            process.stop()?;
        }
        // Told to stop it ends with a signal's status, which is no success; what it holds is not needed.
        drop(self.nats);
        Ok(())
    }
}

fn start_nats(host: &Host, binary: &str, folder: &Path) -> Result<(Process, String)> {
    let port = free_port()?;
    let configuration = folder.join("nats.conf");
    let text = format!(
        "listen: 127.0.0.1:{port}\njetstream {{\n  store_dir: {:?}\n  sync_interval: always\n}}\n",
        folder.join("nats")
    );
    std::fs::write(&configuration, text)?;
    let mut command = Command::new(binary);
    command.arg("--config").arg(&configuration);
    let process = host.start("nats-server", command, folder, Ready::Accepts(port))?;
    Ok((process, format!("nats://127.0.0.1:{port}")))
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
