//! Mode `polling`: the most sessions a second over HTTP long-polling that a server on one core can serve.
//!
//! Every client runs one session after another on two connections that stay open: one for polls, one for posts.

use crate::engine::{PATIENCE, Progress};
use crate::exchange::Exchange;
use crate::histogram::Histogram;
use crate::host::{Host, pause};
use crate::report::{Column, Figures, Report, Run};
use crate::systems::System;
use crate::visit::{Visit, Visitor};
use crate::{attempts, interrupt, load, usage};
use anyhow::{Context, Result, ensure};
use mio::{Events, Poll, Token};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The pause between the readiness of a server and its first client.
const SETTLE: Duration = Duration::from_secs(1);
/// The longest wait for socket events.
const TURN: Duration = Duration::from_millis(50);
/// The path and query at which both servers serve Ring's vocabulary by polling.
const TARGET: &str = "/api/socket/?EIO=4&transport=polling";
/// The size of the read buffer.
const READ_BYTES: usize = 16 * 1024;

/// The options of mode `polling`.
pub struct Options {
    pub concurrent: u32,
    pub systems: Vec<System>,
    pub warmup: Duration,
    pub window: Duration,
    pub repetitions: u32,
    /// The share of a core above which the CPU use of other programs makes a run void.
    pub noise_max: f64,
}

/// Runs all repetitions. It prints a line of JSON for each run, and the table at the end.
pub fn run(host: &Host, options: &Options, report: &mut Report) -> Result<()> {
    options.systems.iter().try_for_each(|system| system.check(host))?;
    for repetition in 1..=options.repetitions {
        let mut node: Option<Figures> = None;
        for system in &options.systems {
            let found = attempts::until_quiet(options.noise_max, report, || {
                let case = format!("{} at once", options.concurrent);
                let found = once(host, options, *system, node.as_ref());
                Run::new("polling", system.name(), case, repetition, found)
            })?;
            if *system == System::SocketioNode {
                node = found;
            }
        }
    }
    let column = |figure, title, decimals| Column { figure, title, decimals };
    println!(
        "{}",
        report.table(&[
            column("sessions_per_s", "sessions/s", 0),
            column("rate_ratio_to_node", "× socketio-node", 2),
            column("cpu_ms_per_session", "CPU ms / session", 3),
            column("cpu_ratio_to_node", "× socketio-node", 2),
            column("p50_ms", "p50 ms", 2),
            column("p99_ms", "p99 ms", 2),
            column("requests_per_session", "requests / session", 1),
            column("server_share", "of the server's core", 2),
            column("own_share", "of the generator's core", 2),
        ])
    );
    Ok(())
}

fn once(host: &Host, options: &Options, system: System, node: Option<&Figures>) -> Result<Figures> {
    let server = system.start(host)?;
    pause(SETTLE);
    let measured = measure(options, server.address, server.process.pid());
    let mut figures =
        measured.with_context(|| format!("the server printed {:?}", server.process.output()))?;
    server.stop()?;
    for (name, figure) in
        [("rate_ratio_to_node", "sessions_per_s"), ("cpu_ratio_to_node", "cpu_ms_per_session")]
    {
        if let (Some(own), Some(node)) = (figures.get(figure), node.and_then(|node| node.get(figure))) {
            figures.set(name, own / node);
        }
    }
    Ok(figures)
}

fn measure(options: &Options, server: SocketAddr, pid: u32) -> Result<Figures> {
    let mut crowd = Crowd::new(server, options.concurrent)?;
    crowd.run_for(options.warmup)?;
    crowd.tally = Tally::default();
    let (began, before) = (Instant::now(), usage::read(&[pid])?);
    crowd.run_for(options.window)?;
    let (seconds, after) = (began.elapsed().as_secs_f64(), usage::read(&[pid])?);
    let tally = std::mem::take(&mut crowd.tally);
    crowd.finish()?;
    ensure!(tally.sessions > 0, "no session ended in the window");
    let sessions = tally.sessions as f64;
    let mut figures = Figures::default();
    figures.set("window_s", seconds);
    figures.set("sessions", sessions);
    figures.set("sessions_per_s", sessions / seconds);
    figures.set("requests_per_session", tally.answers as f64 / sessions);
    let servers = after.servers.since(before.servers);
    figures.set("cpu_ms_per_session", servers.total_s() * 1e3 / sessions);
    figures.set("user_ms_per_session", servers.user_s * 1e3 / sessions);
    figures.set("system_ms_per_session", servers.system_s * 1e3 / sessions);
    for (name, share) in [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("max_ms", 1.0)] {
        figures.set(name, tally.session_us.quantile(share) / 1_000.0);
    }
    load::set_shares(&mut figures, &before, &after, seconds);
    Ok(figures)
}

/// The counts of a window.
#[derive(Default)]
struct Tally {
    /// The sessions that ended in the window, and their durations in microseconds.
    sessions: u64,
    session_us: Histogram,
    answers: u64,
}

struct Crowd {
    clients: Vec<Client>,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    tally: Tally,
    /// Answers since the start. The run fails if this number stops growing.
    answers: u64,
    progress: Progress,
}

impl Crowd {
    fn new(server: SocketAddr, concurrent: u32) -> Result<Crowd> {
        let poll = Poll::new()?;
        let clients = (0..concurrent).map(|number| {
            let connect = |token| Exchange::connect(server, poll.registry(), Token(token));
            let first = number as usize * 2;
            Ok(Client {
                visitor: Visitor::new(number)?,
                polls: connect(first)?,
                posts: connect(first + 1)?,
                visit: None,
                began: Instant::now(),
                requests: 0,
            })
        });
        Ok(Crowd {
            clients: clients.collect::<Result<_>>()?,
            poll,
            events: Events::with_capacity(1024),
            buffer: vec![0; READ_BYTES],
            tally: Tally::default(),
            answers: 0,
            progress: Progress::new(PATIENCE),
        })
    }

    /// Every client runs one session after another for the duration `time`. Sessions that are open then stay open.
    fn run_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        for client in self.clients.iter_mut().filter(|client| client.visit.is_none()) {
            client.begin()?;
        }
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            // epoll's timeout has a resolution of 1 ms.
            self.pump(left.clamp(Duration::from_millis(1), TURN), true)?;
        }
        Ok(())
    }

    /// Waits until every session has ended, and starts no new ones.
    fn finish(&mut self) -> Result<()> {
        while self.clients.iter().any(|client| client.visit.is_some()) {
            self.pump(TURN, false)?;
        }
        Ok(())
    }

    /// Waits up to `timeout` for socket events, and handles them. With `again`, a client whose session ended starts
    /// another one.
    fn pump(&mut self, timeout: Duration, again: bool) -> Result<()> {
        ensure!(!interrupt::requested(), "interrupted");
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &self.events {
            let (number, posts) = (event.token().0 / 2, event.token().0 % 2 == 1);
            let client = &mut self.clients[number];
            let answered = client.ready(posts, event, &mut self.buffer);
            if !answered.with_context(|| format!("client {number}"))? {
                continue;
            }
            self.answers += 1;
            self.tally.answers += 1;
            if let Some(took) = client.ended() {
                self.tally.sessions += 1;
                self.tally.session_us.record(took.as_micros() as u64);
                if again {
                    client.begin()?;
                }
            }
        }
        self.progress.made(self.answers).context("no session goes on")
    }
}

/// One client, with the connections that it keeps.
struct Client {
    visitor: Visitor,
    polls: Exchange,
    posts: Exchange,
    /// The current session.
    visit: Option<Visit>,
    began: Instant,
    requests: u64,
}

impl Client {
    fn begin(&mut self) -> Result<()> {
        self.visit = Some(Visit::new());
        self.began = Instant::now();
        self.speak()
    }

    /// Writes and reads on a connection that is ready. Returns whether an answer arrived.
    fn ready(&mut self, posts: bool, event: &mio::event::Event, buffer: &mut [u8]) -> Result<bool> {
        let exchange = if posts { &mut self.posts } else { &mut self.polls };
        if event.is_writable() {
            exchange.flush()?;
        }
        if !event.is_readable() {
            return Ok(false);
        }
        let Some(body) = exchange.read(buffer)? else { return Ok(false) };
        let visit = self.visit.as_mut().context("an answer without a session")?;
        if posts {
            visit.posted(&body)?;
        } else {
            visit.polled(&body, &self.visitor)?;
        }
        self.speak()?;
        Ok(true)
    }

    /// The duration of the session, if it has just ended.
    fn ended(&mut self) -> Option<Duration> {
        self.visit.take_if(|visit| visit.is_over()).map(|_| self.began.elapsed())
    }

    /// Sends the requests that are due: the post before the poll, as engine.io-client does.
    fn speak(&mut self) -> Result<()> {
        let Some(visit) = self.visit.as_mut() else { return Ok(()) };
        if let Some(body) = visit.begin_post() {
            self.posts.post(&target(&mut self.requests, visit.sid()), &body)?;
        }
        if visit.begin_poll() {
            self.polls.get(&target(&mut self.requests, visit.sid()))?;
        }
        Ok(())
    }
}

/// The target of a session's next request. The number in `t` prevents caches from answering it.
fn target(requests: &mut u64, sid: &str) -> String {
    *requests += 1;
    match sid {
        "" => format!("{TARGET}&t={requests:08x}"),
        sid => format!("{TARGET}&t={requests:08x}&sid={sid}"),
    }
}
