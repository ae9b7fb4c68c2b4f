//! Modes `fanout` and `saturate`: deliveries in rooms of several sizes, for Carillon, the floor and the Node server.

use crate::attempts;
use crate::engine::Engine;
use crate::host::{Host, pause};
use crate::load::{self, Load, Rooms};
use crate::report::{Column, Figures, Report, Run};
use crate::systems::System;
use anyhow::{Result, ensure};
use std::time::Duration;

/// The most connections that are joining at a time.
const JOINING_AT_ONCE: u32 = 64;
/// The pause between the readiness of a server and its first client, and between the last join and the load.
const SETTLE: Duration = Duration::from_secs(1);

/// The options of modes `fanout` and `saturate`.
pub struct Options {
    pub mode: &'static str,
    pub connections: u32,
    pub room_sizes: Vec<u32>,
    pub work: Work,
    pub systems: Vec<System>,
    pub content_bytes: usize,
    pub warmup: Duration,
    pub window: Duration,
    pub repetitions: u32,
    /// The share of a core above which the CPU use of other programs makes a run void.
    pub noise_max: f64,
}

/// The kind of load on the rooms.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Deliveries a second. `None` selects the usual rate for the size of the room.
    Rate(Option<f64>),
    /// Messages in each room that are sent but not yet delivered to every member.
    Depth(u32),
}

/// Runs all repetitions. It prints a line of JSON for each run, and the table at the end.
pub fn run(host: &Host, options: &Options, report: &mut Report) -> Result<()> {
    options.systems.iter().try_for_each(|system| system.check(host))?;
    for repetition in 1..=options.repetitions {
        for members in &options.room_sizes {
            let mut floor = None;
            for system in &options.systems {
                let found = attempts::until_quiet(options.noise_max, report, || {
                    let case = format!("rooms of {members}");
                    let found = once(host, options, *members, *system, floor.as_ref());
                    Run::new(options.mode, system.name(), case, repetition, found)
                })?;
                if *system == System::Floor {
                    floor = found;
                }
            }
        }
    }
    println!("{}", report.table(columns(options.work)));
    Ok(())
}

fn columns(work: Work) -> &'static [Column] {
    match work {
        Work::Rate(_) => &[
            Column { figure: "cpu_s_per_million", title: "CPU s / million deliveries", decimals: 1 },
            Column { figure: "cpu_ratio_to_floor", title: "× floor", decimals: 2 },
            Column { figure: "user_us_per_delivery", title: "user µs", decimals: 2 },
            Column { figure: "system_us_per_delivery", title: "system µs", decimals: 2 },
            Column { figure: "p50_ms", title: "p50 ms", decimals: 2 },
            Column { figure: "p99_ms", title: "p99 ms", decimals: 2 },
            Column { figure: "ack_p99_ms", title: "ack p99 ms", decimals: 2 },
        ],
        Work::Depth(_) => &[
            Column { figure: "deliveries_per_s", title: "deliveries/s", decimals: 0 },
            Column { figure: "rate_ratio_to_floor", title: "× floor", decimals: 2 },
            Column { figure: "messages_per_s", title: "messages/s", decimals: 0 },
            Column { figure: "cpu_s_per_million", title: "CPU s / million deliveries", decimals: 1 },
            Column { figure: "p50_ms", title: "p50 ms", decimals: 2 },
            Column { figure: "p99_ms", title: "p99 ms", decimals: 2 },
        ],
    }
}

fn once(
    host: &Host,
    options: &Options,
    members: u32,
    system: System,
    floor: Option<&Figures>,
) -> Result<Figures> {
    let rooms = Rooms { count: options.connections / members, members };
    ensure!(rooms.count > 0, "rooms of {members} take at least as many connections");
    let server = system.start(host)?;
    pause(SETTLE);
    let mut engine = Engine::new(server.address, server.dialect, rooms.count, options.content_bytes)?;
    engine.connect(0..rooms.count * members, members, JOINING_AT_ONCE)?;
    engine.pump_for(SETTLE)?;
    let mut load = match options.work {
        Work::Rate(rate) => Load::paced(rooms, rate.unwrap_or_else(|| usual_rate(members))),
        Work::Depth(depth) => Load::closed(rooms, depth),
    };
    let pids = [server.process.pid()];
    let mut figures = load::measure(&mut engine, &mut load, &pids, options.warmup, options.window)?;
    drop(engine);
    server.stop()?;
    for (name, figure) in
        [("cpu_ratio_to_floor", "cpu_s_per_million"), ("rate_ratio_to_floor", "deliveries_per_s")]
    {
        if let (Some(own), Some(floor)) = (figures.get(figure), floor.and_then(|floor| floor.get(figure))) {
            figures.set(name, own / floor);
        }
    }
    Ok(figures)
}

/// Deliveries a second that a server on one core can make without being saturated. The rate is lower in small rooms,
/// where each message causes few deliveries.
fn usual_rate(members: u32) -> f64 {
    match members {
        ..10 => 3_000.0,
        10..100 => 10_000.0,
        _ => 20_000.0,
    }
}
