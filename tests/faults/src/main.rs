//! `carillon-faults`: runs Carillon with real processes under load, injects faults, and reports the result.

use anyhow::Context;
use carillon_faults::deployment::Size;
use carillon_faults::run::{Load, Outcome, Stage, kinds};
use carillon_faults::scenarios;
use clap::{Args, Parser, Subcommand};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Injects faults into real Carillon processes under load, and checks everything that the clients received.
///
/// Needs nats-server (CARILLON_TEST_NATS_SERVER: path of the binary) and a CQL database (CARILLON_TEST_CASSANDRA:
/// host:port); `./test parts` installs both. Exit code: 0 if nothing was lost, doubled or reordered and everything
/// recovered, else 1.
#[derive(Parser)]
#[command(name = "carillon-faults")]
struct Invocation {
    #[command(subcommand)]
    mode: Mode,
    /// Write the output of every process to files in this folder.
    #[arg(long, global = true)]
    logs: Option<PathBuf>,
    /// Write the history to this file, one line of JSON for everything that a client did or received. With several
    /// scenarios, the file holds the history of the last one.
    #[arg(long, global = true)]
    history: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Mode {
    /// Inject random faults that follow from a seed: kill -9, SIGTERM, SIGSTOP, and cut or silent connections, for
    /// every process and for NATS.
    Random(Random),
    /// Run one scenario, or all of them one after the other, and report its measurements.
    Scenario(One),
}

#[derive(Args)]
struct One {
    /// The name of the scenario; `list` prints all names, `all` runs all scenarios.
    name: String,
}

#[derive(Args)]
struct Random {
    /// The seed of the faults; without it, one is drawn and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// The least number of faults.
    #[arg(long, default_value_t = 20)]
    faults: usize,
    /// The least number of acknowledged messages.
    #[arg(long, default_value_t = 100_000)]
    messages: u64,
    /// The longest duration of a fault, in milliseconds.
    #[arg(long, default_value_t = 8_000)]
    away_ms_max: u64,
    /// The number of nats-servers: 1, or 3 that form a cluster.
    #[arg(long, default_value_t = 1)]
    nats_servers: usize,
    /// The number of clients.
    #[arg(long, default_value_t = 60)]
    clients: usize,
    /// The most messages that each client sends in a second.
    #[arg(long, default_value_t = 25.0)]
    rate: f64,
}

fn main() -> ExitCode {
    let invocation = Invocation::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let ended = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(invocation)));
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(invocation: Invocation) -> anyhow::Result<bool> {
    let Invocation { mode, logs, history } = invocation;
    match mode {
        Mode::Random(random) => random_faults(random, logs.as_deref(), history.as_deref()).await,
        Mode::Scenario(one) => scenario(&one.name, logs.as_deref(), history.as_deref()).await,
    }
}

async fn scenario(name: &str, logs: Option<&Path>, history: Option<&Path>) -> anyhow::Result<bool> {
    let all = scenarios::all();
    if name == "list" {
        all.iter().for_each(|scenario| println!("{:28} {}", scenario.name, scenario.about));
        return Ok(true);
    }
    let wanted: Vec<_> = all.into_iter().filter(|scenario| name == "all" || scenario.name == name).collect();
    anyhow::ensure!(
        !wanted.is_empty(),
        "there is no scenario {name}: `carillon-faults scenario list` shows them all"
    );
    let mut good = true;
    for scenario in wanted {
        eprintln!("{}: {}", scenario.name, scenario.about);
        let mut stage =
            Stage::set((scenario.size)(), (scenario.load)()).await?.context("parts are missing")?;
        stage.begin_sending();
        (scenario.happen)(&mut stage).await?;
        let outcome = stage.end(logs).await?;
        write_history(&outcome, history)?;
        println!("{}\n{outcome}", scenario.name);
        (scenario.figures)(&outcome).iter().for_each(|figure| println!("{figure}"));
        good &= outcome.is_good();
    }
    Ok(good)
}

#[expect(clippy::disallowed_methods, reason = "a seed that the user did not choose is drawn from the time")]
async fn random_faults(random: Random, logs: Option<&Path>, history: Option<&Path>) -> anyhow::Result<bool> {
    let drawn =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let seed = random.seed.unwrap_or_else(drawn);
    eprintln!("seed {seed}");
    let size = Size { nats_servers: random.nats_servers, ..Size::default() };
    let load = Load { clients: random.clients, rate: random.rate, ..Load::default() };
    let mut stage = Stage::set(size, load).await?.context("parts are missing")?;
    stage.begin_sending();
    stage.random_faults(seed, random.faults, random.messages, random.away_ms_max).await?;
    let outcome = stage.end(logs).await?;
    write_history(&outcome, history)?;
    print(&outcome);
    println!("seed {seed}");
    Ok(outcome.is_good())
}

fn write_history(outcome: &Outcome, history: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = history else { return Ok(()) };
    let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
    let mut out = std::io::BufWriter::new(file);
    carillon_history::write(&mut out, &outcome.records)?;
    Ok(out.flush()?)
}

fn print(outcome: &Outcome) {
    for (kind, count) in kinds(&outcome.faults) {
        println!("{count:5} {kind}");
    }
    println!("{outcome}");
}
