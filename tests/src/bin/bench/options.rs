//! The command line.

use crate::deployment::Parts;
use crate::systems::System;
use crate::{content, fanout, idle, path, soak};
use anyhow::{Context, Result};
use clap::builder::{PossibleValuesParser, RangedU64ValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const ABOUT: &str = "\
Measures Carillon on this machine. Every mode starts the servers it needs, on free ports of the loopback address and \
in temporary folders, checks that every message reached every member exactly once, undamaged and in order, and that \
every send was acknowledged, and stops what it started.";

/// Said of `--rate`.
const RATE: &str = "Deliveries a second [3000 in rooms below 10, 10000 below 100, 20000 above]";
/// Said of `--gateway`.
const GATEWAY: &str =
    "Measure a gateway's own process, beside NATS, the database and the workers [one process]";
/// Said of `--ring`.
const RING: &str = "Connect by Ring's vocabulary over Socket.IO [the native WebSocket]";
/// Said of `--noise-percent`.
const NOISE: &str = "Share of a core that other programs may use; a noisier run is void and repeated";

const EXAMPLES: &str = "\
Examples:
  cargo build --release --bin carillon --bin bench
  target/release/bench fanout                                 all room sizes, Carillon beside the floor, 8 minutes
  target/release/bench fanout --rooms 10 --repetitions 1      a quick look
  target/release/bench idle                                   memory of an idle connection
  target/release/bench idle --gateway                         of a gateway alone; takes what path takes
  target/release/bench fanout --systems floor,carillon,ring   Socket.IO's clients beside native ones
  target/release/bench saturate --rooms 2,100
  CARILLON_TEST_NATS_SERVER=.parts/nats-server-2.15.1/nats-server CARILLON_TEST_CASSANDRA=127.0.0.1:9042 \\
    target/release/bench path

Every run prints one line of JSON; a table of medians (least–greatest) follows. Exit codes: 0 if every run was in
order, 1 if not, 2 for wrong usage. How to read the figures: docs/performance.md.

Environment:
  CARILLON_BIN                 the binary to measure, instead of the one beside this
  CARILLON_TEST_NATS_SERVER    the binary of nats-server (modes path, idle --gateway)
  CARILLON_TEST_CASSANDRA      host:port of a database that speaks CQL (modes path, idle --gateway)";

/// What was asked for.
pub struct Invocation {
    pub mode: Mode,
    pub pin: bool,
    pub environment: Vec<(String, String)>,
    pub scratch: PathBuf,
}

/// What to do.
pub enum Mode {
    Rooms(fanout::Options),
    Idle(idle::Options),
    Soak(soak::Options),
    Path(path::Options),
    Floor(SocketAddr),
}

/// The whole command line.
pub fn command() -> Command {
    Command::new("bench")
        .about(ABOUT)
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(fanout_command())
        .subcommand(saturate_command())
        .subcommand(idle_command())
        .subcommand(soak_command())
        .subcommand(path_command())
        .subcommand(floor_command())
}

fn floor_command() -> Command {
    let about = "Be the floor: a WebSocket server that only writes frames to the members of a room";
    let listen = Arg::new("listen").long("listen").value_name("address").help("Where to listen");
    Command::new("floor").about(about).arg(listen.required(true).value_parser(value_parser!(SocketAddr)))
}

fn fanout_command() -> Command {
    let about = "CPU and latency of deliveries at a fixed rate, beside the floor";
    rooms_command("fanout", about, "3", "12").arg(number("rate", RATE, 1, 1_000_000))
}

fn saturate_command() -> Command {
    let about = "Deliveries a second when each room always has messages under way, beside the floor";
    rooms_command("saturate", about, "2", "6")
        .arg(number("depth", "Messages under way in each room", 1, 128).default_value("8"))
}

fn rooms_command(
    name: &'static str,
    about: &'static str,
    warmup: &'static str,
    window: &'static str,
) -> Command {
    let systems = PossibleValuesParser::new(["floor", "carillon", "ring"]);
    common(Command::new(name).about(about))
        .arg(connections().default_value("1000"))
        .arg(
            number("rooms", "Sizes of rooms, one after another", 1, 19_000)
                .value_delimiter(',')
                .default_value("2,10,100,1000"),
        )
        .arg(content_bytes())
        .arg(seconds("warmup-seconds", "Load before measuring").default_value(warmup))
        .arg(seconds("window-seconds", "Load while measuring").default_value(window))
        .arg(number("noise-percent", NOISE, 1, 200).default_value("5"))
        .arg(
            Arg::new("systems")
                .long("systems")
                .value_name("names")
                .help("What to run: ring is Carillon by Ring's vocabulary over Socket.IO")
                .value_delimiter(',')
                .value_parser(systems)
                .default_value("floor,carillon"),
        )
}

fn idle_command() -> Command {
    let about =
        "Memory of a connection that joined one conversation and says nothing: the slope between two numbers";
    common(Command::new("idle").about(about))
        .arg(number("few", "Connections at the first measurement", 10, 19_000).default_value("2000"))
        .arg(connections().default_value("10000"))
        .arg(number("members", "Members of each conversation", 1, 1_000).default_value("10"))
        .arg(seconds("settle-seconds", "Rest before a measurement").default_value("10"))
        .arg(Arg::new("ring").long("ring").action(ArgAction::SetTrue).help(RING))
        .arg(Arg::new("gateway").long("gateway").action(ArgAction::SetTrue).help(GATEWAY))
}

fn soak_command() -> Command {
    let about =
        "Memory before, during and after many messages in many conversations by senders that come and go";
    common(Command::new("soak").about(about))
        .arg(number("messages", "Messages in all", 1, 20_000_000).default_value("1000000"))
        .arg(number("conversations", "Conversations in all", 20, 1_000_000).default_value("20000"))
        .arg(number("senders", "Senders at once", 1, 1_000).default_value("64"))
        .arg(number("depth", "Messages of a sender under way", 1, 128).default_value("8"))
        .arg(number("residents", "Connections that stay, in rooms of ten", 10, 10_000).default_value("1000"))
        .arg(content_bytes())
        .arg(seconds("rest-seconds-max", "Rest before a measurement, at most").default_value("150"))
}

fn path_command() -> Command {
    let about = "Time from sending to the acknowledgement through NATS and the database, beside their own";
    common(Command::new("path").about(about))
        .arg(number("messages", "Messages, one at a time", 10, 100_000).default_value("2000"))
        .arg(content_bytes())
}

fn common(command: Command) -> Command {
    let pin = "Leave it to the kernel where processes run [servers on one core, this program on another]";
    let scratch = "Where temporary folders are made, on a disk [the system's place for them]";
    command
        .arg(number("repetitions", "How often everything is run", 1, 100).default_value("3"))
        .arg(Arg::new("no-pin").long("no-pin").action(ArgAction::SetTrue).help(pin))
        .arg(
            Arg::new("env")
                .long("env")
                .value_name("name=value")
                .action(ArgAction::Append)
                .help("A setting for Carillon, as environment; may be given several times"),
        )
        .arg(
            Arg::new("scratch")
                .long("scratch")
                .value_name("folder")
                .value_parser(value_parser!(PathBuf))
                .help(scratch),
        )
}

fn number(name: &'static str, help: &'static str, least: u64, most: u64) -> Arg {
    let parser = RangedU64ValueParser::<u32>::new().range(least..=most);
    Arg::new(name).long(name).value_name("number").help(help).value_parser(parser)
}

fn seconds(name: &'static str, help: &'static str) -> Arg {
    number(name, help, 1, 3_600).value_name("seconds")
}

fn connections() -> Arg {
    number("connections", "Connections", 2, 19_000)
}

fn content_bytes() -> Arg {
    let (least, most) = (content::BYTES_MIN as u64, content::BYTES_MAX as u64);
    number("content-bytes", "Bytes of a message's content", least, most).default_value("200")
}

/// The command line, read.
///
/// # Errors
/// What the parser could not know: a name without a value, or a part that is missing.
pub fn read(matches: &ArgMatches) -> Result<Invocation> {
    // A subcommand is required, so there is one.
    let (name, given) = matches.subcommand().context("no mode")?;
    if name == "floor" {
        let listen = *given.get_one::<SocketAddr>("listen").context("nowhere to listen")?;
        return Ok(Invocation {
            mode: Mode::Floor(listen),
            pin: false,
            environment: Vec::new(),
            scratch: PathBuf::new(),
        });
    }
    let pairs = given.get_many::<String>("env").unwrap_or_default();
    let environment = pairs
        .map(|pair| {
            let (name, value) =
                pair.split_once('=').with_context(|| format!("--env {pair}: give NAME=VALUE"))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect::<Result<_>>()?;
    let mode = match name {
        "fanout" => {
            let rate = given.get_one::<u32>("rate").map(|rate| f64::from(*rate));
            Mode::Rooms(rooms("fanout", given, fanout::Work::Rate(rate)))
        }
        "saturate" => Mode::Rooms(rooms("saturate", given, fanout::Work::Depth(of(given, "depth")))),
        "idle" => Mode::Idle(idle::Options {
            few: of(given, "few"),
            many: of(given, "connections"),
            members: of(given, "members"),
            settle: time(given, "settle-seconds"),
            repetitions: of(given, "repetitions"),
            system: if given.get_flag("ring") { System::Ring } else { System::Carillon },
            parts: if given.get_flag("gateway") { Some(parts()?) } else { None },
        }),
        "soak" => Mode::Soak(soak::Options {
            messages: of(given, "messages"),
            conversations: of(given, "conversations"),
            senders: of(given, "senders"),
            depth: of(given, "depth"),
            residents: of(given, "residents"),
            rest_max: time(given, "rest-seconds-max"),
            content_bytes: of(given, "content-bytes") as usize,
            repetitions: of(given, "repetitions"),
        }),
        _ => Mode::Path(path::Options {
            messages: of(given, "messages"),
            content_bytes: of(given, "content-bytes") as usize,
            repetitions: of(given, "repetitions"),
            parts: parts()?,
        }),
    };
    let scratch = given.get_one::<PathBuf>("scratch").cloned().unwrap_or_else(std::env::temp_dir);
    Ok(Invocation { mode, pin: !given.get_flag("no-pin"), environment, scratch })
}

fn rooms(mode: &'static str, given: &ArgMatches, work: fanout::Work) -> fanout::Options {
    let systems = given.get_many::<String>("systems").unwrap_or_default();
    fanout::Options {
        mode,
        connections: of(given, "connections"),
        room_sizes: given.get_many::<u32>("rooms").unwrap_or_default().copied().collect(),
        work,
        systems: systems.map(|name| system(name)).collect(),
        content_bytes: of(given, "content-bytes") as usize,
        warmup: time(given, "warmup-seconds"),
        window: time(given, "window-seconds"),
        repetitions: of(given, "repetitions"),
        noise_max: f64::from(of(given, "noise-percent")) / 100.0,
    }
}

fn system(name: &str) -> System {
    match name {
        "floor" => System::Floor,
        "ring" => System::Ring,
        _ => System::Carillon,
    }
}

/// A number that has a default.
fn of(given: &ArgMatches, name: &str) -> u32 {
    given.get_one::<u32>(name).copied().unwrap_or_default()
}

fn time(given: &ArgMatches, name: &str) -> Duration {
    Duration::from_secs(of(given, name).into())
}

fn parts() -> Result<Parts> {
    Ok(Parts {
        nats_server: part("CARILLON_TEST_NATS_SERVER", "the binary of nats-server")?,
        cassandra: part("CARILLON_TEST_CASSANDRA", "host:port of a database that speaks CQL")?,
    })
}

fn part(variable: &str, what: &str) -> Result<String> {
    std::env::var(variable)
        .with_context(|| format!("{variable} is not set: give {what}; ./test parts brings both"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invocation(line: &str) -> Result<Invocation> {
        read(&command().try_get_matches_from(line.split_whitespace())?)
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_mode_has_defaults_and_can_be_made_smaller() {
        let Mode::Rooms(rooms) = invocation("bench fanout --rooms 10,100").expect("valid").mode else {
            panic!("rooms")
        };
        assert_eq!((rooms.room_sizes, rooms.connections, rooms.repetitions), (vec![10, 100], 1_000, 3));
        assert_eq!(rooms.systems, [System::Floor, System::Carillon]);
        let Mode::Rooms(rooms) = invocation("bench saturate --depth 3").expect("valid").mode else {
            panic!("rooms")
        };
        assert!(matches!(rooms.work, fanout::Work::Depth(3)));
        let Mode::Idle(idle) = invocation("bench idle --connections 100 --few 20").expect("valid").mode
        else {
            panic!("idle")
        };
        assert_eq!((idle.few, idle.many, idle.settle), (20, 100, Duration::from_secs(10)));
        let Mode::Soak(soak) = invocation("bench soak --messages 1000").expect("valid").mode else {
            panic!("soak")
        };
        assert_eq!((soak.messages, soak.conversations), (1_000, 20_000));
        let with = invocation("bench fanout --no-pin --env A=b=c").expect("valid");
        assert_eq!((with.pin, with.environment), (false, vec![("A".to_owned(), "b=c".to_owned())]));
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "bench",
            "bench fanout --rooms 0",
            "bench fanout --rooms x",
            "bench idle --connections 20000",
            "bench fanout --env A",
            "bench fanout --content-bytes 10",
            "bench floor",
            "bench fanout --systems nginx",
        ] {
            assert!(invocation(line).is_err(), "{line}");
        }
    }
}
