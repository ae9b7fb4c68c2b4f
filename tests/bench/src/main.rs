//! Benchmarks of Carillon: `bench MODE`. `bench --help` lists the modes; docs/performance.md explains the figures.
//!
//! One thread drives all clients from one epoll loop, so that the load generator uses little CPU compared with the
//! server.

mod arguments;
mod attempts;
mod connection;
mod content;
mod deployment;
mod dialect;
mod engine;
mod exchange;
mod fanout;
mod floor;
mod histogram;
mod host;
mod idle;
mod interrupt;
mod load;
mod member;
mod options;
mod path;
mod polling;
mod report;
mod soak;
mod systems;
mod usage;
mod visit;
mod websocket;

use options::{Invocation, Mode};
use std::process::ExitCode;

const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let invocation = match options::read(&arguments::command().get_matches()) {
        Ok(invocation) => invocation,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match run(invocation) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("{failures} of the runs failed: see \"error\" in their lines");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many runs failed.
fn run(invocation: Invocation) -> anyhow::Result<usize> {
    if let Mode::Floor(address) = invocation.mode {
        floor::serve(address)?;
        return Ok(0);
    }
    interrupt::listen()?;
    let Invocation { pin, environment, scratch, peer, .. } = &invocation;
    let host = host::Host::new(*pin, environment.clone(), scratch, peer)?;
    let mut report = report::Report::default();
    match &invocation.mode {
        Mode::Rooms(options) => fanout::run(&host, options, &mut report)?,
        Mode::Idle(options) => idle::run(&host, options, &mut report)?,
        Mode::Soak(options) => soak::run(&host, options, &mut report)?,
        Mode::Polling(options) => polling::run(&host, options, &mut report)?,
        Mode::Path(options) => path::run(&host, options, &mut report)?,
        Mode::Floor(_) => {}
    }
    Ok(report.failures())
}
