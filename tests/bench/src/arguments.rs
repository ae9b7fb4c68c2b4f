//! The definition of the command line: modes, options with their help texts, and examples.

use crate::content;
use clap::builder::{PossibleValuesParser, RangedU64ValueParser};
use clap::{Arg, ArgAction, Command, value_parser};
use std::net::SocketAddr;
use std::path::PathBuf;

const ABOUT: &str = "\
Measures Carillon on this machine. Every mode starts the servers it needs, on free ports of the loopback address and \
in temporary folders, checks that every message reached every member exactly once, undamaged and in order, and that \
every send was acknowledged, and stops what it started.";

/// Help text of `--rate`.
const RATE: &str = "Deliveries a second [3000 in rooms below 10, 10000 below 100, 20000 above]";
/// Help text of `--gateway`.
const GATEWAY: &str =
    "Measure a gateway's own process, beside NATS, the database and the workers [one process]";
/// Help text of `--ring`.
const RING: &str = "Connect by Ring's vocabulary over Socket.IO [the native WebSocket]";
/// Help text of `--peer`.
const PEER: &str = "The folder of socketio-node, the server on Node";
/// Help text of `--noise-percent`.
const NOISE: &str = "Share of a core that other programs may use; a noisier run is void and repeated";

/// The default folder of the Node server, relative to the working directory.
const PEER_FOLDER: &str = "tests/load/peer";

const EXAMPLES: &str = "\
Examples:
  cargo build --release --bin carillon --bin bench
  target/release/bench fanout                                 all room sizes, Carillon beside the floor, 8 minutes
  target/release/bench fanout --rooms 10 --repetitions 1      a quick look
  target/release/bench idle                                   memory of an idle connection
  target/release/bench idle --gateway                         of a gateway alone; takes what path takes
  target/release/bench fanout --systems floor,carillon,ring   Socket.IO's clients beside native ones
  npm ci --prefix tests/load/peer && target/release/bench fanout --systems floor,socketio-node,ring
                                                              Socket.IO's own server on Node in the same run
  target/release/bench polling                                sessions a second by long-polling, beside Node
  target/release/bench saturate --rooms 2,100
  CARILLON_TEST_NATS_SERVER=.parts/nats-server-2.15.1/nats-server CARILLON_TEST_CASSANDRA=127.0.0.1:9042 \\
    target/release/bench path

Every run prints one line of JSON; a table of medians (least–greatest) follows. Exit codes: 0 if every run was in
order, 1 if not, 2 for wrong usage. How to read the figures: docs/performance.md.

Environment:
  CARILLON_BIN                 the binary to measure, instead of the one beside this
  CARILLON_TEST_NATS_SERVER    the binary of nats-server (modes path, idle --gateway)
  CARILLON_TEST_CASSANDRA      host:port of a database that speaks CQL (modes path, idle --gateway)";

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
        .subcommand(polling_command())
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
        .arg(noise())
        .arg(systems(&["floor", "carillon", "ring", "socketio-node"]).default_value("floor,carillon"))
        .arg(peer())
}

fn polling_command() -> Command {
    let about = "Sessions a second by HTTP long-polling: handshake, connect, join one conversation, leave";
    common(Command::new("polling").about(about))
        .arg(number("concurrent", "Clients, each in one session after another", 1, 5_000).default_value("32"))
        .arg(seconds("warmup-seconds", "Load before measuring").default_value("3"))
        .arg(seconds("seconds", "Load while measuring").default_value("10"))
        .arg(noise())
        .arg(systems(&["ring", "socketio-node"]).default_value("socketio-node,ring"))
        .arg(peer())
}

fn systems(names: &[&'static str]) -> Arg {
    Arg::new("systems")
        .long("systems")
        .value_name("names")
        .help("What to run: ring is Carillon by Ring's vocabulary over Socket.IO, socketio-node a server on Node")
        .value_delimiter(',')
        .value_parser(PossibleValuesParser::new(names))
}

fn noise() -> Arg {
    number("noise-percent", NOISE, 1, 200).default_value("5")
}

fn peer() -> Arg {
    let parser = value_parser!(PathBuf);
    Arg::new("peer")
        .long("peer")
        .value_name("folder")
        .value_parser(parser)
        .help(PEER)
        .default_value(PEER_FOLDER)
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

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
