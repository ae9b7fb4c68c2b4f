//! Translates the parsed command line into the options of the modes.

use crate::deployment::Parts;
use crate::systems::System;
use crate::{fanout, idle, path, polling, soak};
use anyhow::{Context, Result};
use clap::ArgMatches;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The whole command line: a mode, and the options that all modes share.
pub struct Invocation {
    pub mode: Mode,
    pub pin: bool,
    pub environment: Vec<(String, String)>,
    pub scratch: PathBuf,
    /// The folder of the Node server.
    pub peer: PathBuf,
}

/// The mode to run, with its options.
pub enum Mode {
    Rooms(fanout::Options),
    Idle(idle::Options),
    Soak(soak::Options),
    Path(path::Options),
    Polling(polling::Options),
    Floor(SocketAddr),
}

/// Reads the options from the parsed command line.
///
/// # Errors
/// When an `--env` has no value, or an environment variable that the mode needs is not set.
pub fn read(matches: &ArgMatches) -> Result<Invocation> {
    // The parser requires a subcommand, so this never fails.
    let (name, given) = matches.subcommand().context("no mode")?;
    if name == "floor" {
        let listen = *given.get_one::<SocketAddr>("listen").context("nowhere to listen")?;
        return Ok(Invocation {
            mode: Mode::Floor(listen),
            pin: false,
            environment: Vec::new(),
            scratch: PathBuf::new(),
            peer: PathBuf::new(),
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
        "polling" => Mode::Polling(polling::Options {
            concurrent: of(given, "concurrent"),
            systems: named_systems(given),
            warmup: time(given, "warmup-seconds"),
            window: time(given, "seconds"),
            repetitions: of(given, "repetitions"),
            noise_max: noise_max(given),
        }),
        _ => Mode::Path(path::Options {
            messages: of(given, "messages"),
            content_bytes: of(given, "content-bytes") as usize,
            repetitions: of(given, "repetitions"),
            parts: parts()?,
        }),
    };
    let scratch = given.get_one::<PathBuf>("scratch").cloned().unwrap_or_else(std::env::temp_dir);
    // Modes that never start the Node server do not have the option `--peer`.
    let peer = given.try_get_one::<PathBuf>("peer").ok().flatten().cloned().unwrap_or_default();
    Ok(Invocation { mode, pin: !given.get_flag("no-pin"), environment, scratch, peer })
}

fn rooms(mode: &'static str, given: &ArgMatches, work: fanout::Work) -> fanout::Options {
    fanout::Options {
        mode,
        connections: of(given, "connections"),
        room_sizes: given.get_many::<u32>("rooms").unwrap_or_default().copied().collect(),
        work,
        systems: named_systems(given),
        content_bytes: of(given, "content-bytes") as usize,
        warmup: time(given, "warmup-seconds"),
        window: time(given, "window-seconds"),
        repetitions: of(given, "repetitions"),
        noise_max: noise_max(given),
    }
}

fn named_systems(given: &ArgMatches) -> Vec<System> {
    let names = given.get_many::<String>("systems").unwrap_or_default();
    // The parser accepts only names of systems, so no name is dropped here.
    names.filter_map(|name| System::of_name(name)).collect()
}

fn noise_max(given: &ArgMatches) -> f64 {
    f64::from(of(given, "noise-percent")) / 100.0
}

/// The value of an option that has a default.
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
    use crate::arguments::command;

    fn invocation(line: &str) -> Result<Invocation> {
        read(&command().try_get_matches_from(line.split_whitespace())?)
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
        let Mode::Polling(polling) = invocation("bench polling --seconds 4").expect("valid").mode else {
            panic!("polling")
        };
        assert_eq!((polling.concurrent, polling.window), (32, Duration::from_secs(4)));
        assert_eq!(polling.systems, [System::SocketioNode, System::Ring]);
        let all = "bench saturate --systems floor,carillon,ring,socketio-node --peer /a";
        let all = invocation(all).expect("valid");
        assert_eq!(all.peer, PathBuf::from("/a"));
        let Mode::Rooms(rooms) = all.mode else { panic!("rooms") };
        assert_eq!(rooms.systems, [System::Floor, System::Carillon, System::Ring, System::SocketioNode]);
        assert_eq!(invocation("bench fanout").expect("valid").peer, PathBuf::from("tests/load/peer"));
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
            "bench polling --systems floor",
        ] {
            assert!(invocation(line).is_err(), "{line}");
        }
    }
}
