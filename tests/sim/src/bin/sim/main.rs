//! Runs Carillon in simulations: one by its seed, or many of them.

use anyhow::Context;
use carillon_sim::run::{Order, Outcome, run};
use carillon_sim::scenario::Scenario;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, value_parser};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

mod entropy;
mod many;
mod show;

const EXAMPLES: &str = "\
Every run is one process, one thread and a virtual clock: the real gateways and workers, a simulated bus and store, \
and faults drawn from the seed. The same seed gives the same run, to the last line of its trace. At the end everything \
heals, and the history of what clients received is compared with what is stored.

Examples:
  sim --seeds 0..1000                 a thousand runs, two at a time; shows which fail
  sim --seed 42                       one run
  sim --seed 42 --trace               the same run, every line of what happened
  sim --seed 42 --log debug           the same run, with what the services log
  sim --seed 42 --history run.jsonl   the same run; what clients did and received, for check-history
  sim --scenario rollback             a scripted run
  sim --scenarios                     all scripted runs that have to go well

Exit status: 0 when all is well, 1 when a run failed, 2 for wrong usage.";

/// The parsed command line.
struct Arguments {
    seed: Option<u64>,
    seeds: Option<Range<u64>>,
    scenario: Option<Scenario>,
    scenarios: bool,
    trace: bool,
    log: Option<String>,
    history: Option<PathBuf>,
    jobs: usize,
}

fn understood() -> clap::Command {
    let flag = |name: &'static str, help| Arg::new(name).long(name).help(help).action(ArgAction::SetTrue);
    let value =
        |name: &'static str, of: &'static str, help| Arg::new(name).long(name).value_name(of).help(help);
    let scenarios = PossibleValuesParser::new(Scenario::ALL.iter().map(|(name, _)| *name));
    clap::Command::new("sim")
        .about("Runs Carillon in simulations: real services, a virtual clock, faults from a seed.")
        .after_help(EXAMPLES)
        .arg_required_else_help(true)
        .arg(value("seed", "SEED", "One run, in this process").value_parser(value_parser!(u64)))
        .arg(value("seeds", "FROM..TO", "Many runs, each in its own process").value_parser(range))
        .arg(value("scenario", "NAME", "A scripted run, in this process").value_parser(scenarios))
        .arg(flag("scenarios", "All scripted runs that have to go well, each in its own process"))
        .arg(flag("trace", "Prints every line of what happened"))
        .arg(value("log", "FILTER", "Prints what the services log, on standard error: a level, or a filter"))
        .arg(
            value("history", "FILE", "Writes what clients did and received, a line of JSON each")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            value("jobs", "COUNT", "Processes at a time")
                .value_parser(value_parser!(usize))
                .default_value("2"),
        )
        .group(ArgGroup::new("runs").args(["seeds", "scenarios"]).conflicts_with_all(["seed", "scenario"]))
}

impl Arguments {
    fn of(matches: &mut ArgMatches) -> Arguments {
        let scenario: Option<String> = matches.remove_one("scenario");
        Arguments {
            seed: matches.remove_one("seed"),
            seeds: matches.remove_one("seeds"),
            scenario: scenario.as_deref().and_then(Scenario::named),
            scenarios: matches.get_flag("scenarios"),
            trace: matches.get_flag("trace"),
            log: matches.remove_one("log"),
            history: matches.remove_one("history"),
            jobs: matches.remove_one("jobs").unwrap_or(2),
        }
    }
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text:?} is no range of seeds: give one like 0..1000");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let range = from.parse().map_err(|_| wrong())?..to.parse().map_err(|_| wrong())?;
    if range.is_empty() { Err(wrong()) } else { Ok(range) }
}

fn main() -> ExitCode {
    let arguments = Arguments::of(&mut understood().get_matches());
    let all_is_well = match (&arguments.seeds, arguments.scenarios) {
        (Some(seeds), _) => many::run(many::seeds(seeds.clone()), arguments.jobs),
        (None, true) => many::run(many::scenarios(), arguments.jobs),
        (None, false) => one(&arguments),
    };
    match all_is_well {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The command that repeats a run.
fn command(order: &Order) -> String {
    match order.scenario {
        Some(scenario) => format!("sim --scenario {} --seed {}", scenario.name(), order.seed),
        None => format!("sim --seed {}", order.seed),
    }
}

fn one(arguments: &Arguments) -> anyhow::Result<bool> {
    let seed = arguments.seed.unwrap_or_default();
    show::panics();
    if let Some(filter) = &arguments.log {
        show::logs(filter)?;
    }
    let order = Order { seed, scenario: arguments.scenario, prints: arguments.trace };
    let began = Instant::now();
    let mut outcome = alone(&order)?;
    outcome.faults.extend(show::panicked());
    if let Some(path) = &arguments.history {
        let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        carillon_history::write(std::io::BufWriter::new(file), &outcome.history)?;
    }
    print(&order, &outcome, began);
    Ok(outcome.is_good())
}

/// Runs on a new thread, so that randomness which this thread drew for arguments and logs does not change the run.
fn alone(order: &Order) -> anyhow::Result<Outcome> {
    entropy::sow(order.seed);
    std::thread::scope(|scope| scope.spawn(|| run(order)).join())
        .unwrap_or_else(|_| anyhow::bail!("the run panicked: see above"))
}

fn print(order: &Order, outcome: &Outcome, began: Instant) {
    let Outcome { hash, lines, elapsed, .. } = outcome;
    let counts: Vec<_> = outcome.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
    println!("{}{}", many::COUNTS, counts.join(", "));
    if outcome.is_good() {
        let name = outcome.profile.name;
        let (seconds, real_ms) = (elapsed.as_secs(), began.elapsed().as_millis());
        println!(
            "{}: well ({name}, {seconds} s in {real_ms} ms, {lines} lines) hash {hash:016x}",
            command(order)
        );
    } else {
        println!("{}: FAILED hash {hash:016x}\n{outcome}", command(order));
        println!("again, with all that happened: {} --trace", command(order));
    }
}
