//! Mode `idle`: the memory of a connection that joined one conversation and sends nothing.

use crate::deployment::Parts;
use crate::dialect::Dialect;
use crate::engine::Engine;
use crate::host::{Host, pause};
use crate::report::{Column, Figures, Report, Run};
use crate::systems::System;
use crate::usage::{self, Memory};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::time::Duration;

/// The most connections that are joining at a time.
const JOINING_AT_ONCE: u32 = 100;
/// The pause between the readiness of a server and its first client.
const SETTLE: Duration = Duration::from_secs(1);

/// The options of mode `idle`.
pub struct Options {
    /// Memory is measured at `few` connections and then at `many`.
    pub few: u32,
    pub many: u32,
    pub members: u32,
    pub settle: Duration,
    pub repetitions: u32,
    /// Selects the vocabulary of the clients: `Carillon` is the native one, `Ring` is Ring's.
    pub system: System,
    /// If given, the gateway of a deployment with NATS and workers is measured. Otherwise `carillon standalone` is.
    pub parts: Option<Parts>,
}

/// Runs all repetitions. It prints a line of JSON for each run, and the table at the end.
pub fn run(host: &Host, options: &Options, report: &mut Report) -> Result<()> {
    let system = match (options.parts.is_some(), options.system) {
        (true, System::Ring) => "gateway, ring",
        (true, _) => "gateway",
        (false, System::Ring) => "standalone, ring",
        (false, _) => "standalone",
    };
    for repetition in 1..=options.repetitions {
        let case = format!("{} to {} connections", options.few, options.many);
        report.add(Run::new("idle", system, case, repetition, once(host, options)));
        ensure!(!crate::interrupt::requested(), "interrupted");
    }
    let column = |figure, title, decimals| Column { figure, title, decimals };
    println!(
        "{}",
        report.table(&[
            column("resident_kib_per_connection", "KiB resident / connection", 2),
            column("anonymous_kib_per_connection", "KiB anonymous / connection", 2),
            column("resident_mib_many", "MiB resident in all", 1),
            column("cpu_us_per_connection_second", "idle CPU µs / connection and s", 2),
            column("connect_cpu_ms", "CPU ms to connect and join", 3),
        ])
    );
    Ok(())
}

fn once(host: &Host, options: &Options) -> Result<Figures> {
    ensure!(options.few < options.many, "the second number of connections has to be the greater one");
    if let Some(parts) = &options.parts {
        return parts.deployed(host, |deployment| {
            deployment.await_owners()?;
            measure(options, deployment.address, options.system.dialect(), deployment.gateway())
        });
    }
    let server = options.system.start(host)?;
    let figures = measure(options, server.address, server.dialect, server.process.pid())
        .with_context(|| server.process.output())?;
    server.stop()?;
    Ok(figures)
}

fn measure(options: &Options, address: SocketAddr, dialect: Dialect, pid: u32) -> Result<Figures> {
    pause(SETTLE);
    let empty = usage::memory(pid)?;
    let rooms = options.many.div_ceil(options.members);
    let mut engine = Engine::new(address, dialect, rooms, crate::content::BYTES_MIN)?;
    engine.connect(0..options.few, options.members, JOINING_AT_ONCE)?;
    engine.pump_for(options.settle)?;
    let few = usage::memory(pid)?;
    let before = usage::read(&[pid])?.servers;
    engine.connect(options.few..options.many, options.members, JOINING_AT_ONCE)?;
    let joined = usage::read(&[pid])?.servers;
    engine.pump_for(options.settle)?;
    let (many, settled) = (usage::memory(pid)?, usage::read(&[pid])?.servers);

    let added = f64::from(options.many - options.few);
    let mut figures = Figures::default();
    let slope = |of: fn(&Memory) -> f64| (of(&many) - of(&few)) / added;
    figures.set("resident_kib_per_connection", slope(|memory| memory.resident_kib));
    figures.set("anonymous_kib_per_connection", slope(|memory| memory.anonymous_kib));
    for (name, memory) in
        [("resident_mib_empty", empty), ("resident_mib_few", few), ("resident_mib_many", many)]
    {
        figures.set(name, memory.resident_kib / 1024.0);
    }
    let idle_s = settled.since(joined).total_s();
    figures.set(
        "cpu_us_per_connection_second",
        idle_s * 1e6 / f64::from(options.many) / options.settle.as_secs_f64(),
    );
    figures.set("connect_cpu_ms", joined.since(before).total_s() * 1e3 / added);

    // Every connection must still receive messages.
    for room in 0..rooms {
        engine.publish((room * options.members) as usize)?;
        if room % JOINING_AT_ONCE == 0 {
            engine.pump(Duration::from_millis(10))?;
        }
    }
    engine.settle()?;
    Ok(figures)
}
