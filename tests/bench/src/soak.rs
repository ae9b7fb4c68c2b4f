//! Mode `soak`: the memory that a server keeps after many messages in many conversations by senders that come and go.
//!
//! A thousand residents in rooms of ten stay connected all the time and send nothing. Each session belongs to another
//! user. It connects, joins one conversation, sends its messages with several in flight, waits for each delivery and
//! each acknowledgement, and closes. Every conversation has two sessions, of two users.
//!
//! *Before* is the memory after a warm-up and a rest. The warm-up is of the same kind, with a fifth of the messages; it
//! fills the structures of fixed size. *After* is the memory after the messages and the same rest. The same
//! connections are open at both times.

use crate::connection::State;
use crate::engine::{Engine, PATIENCE, Progress};
use crate::host::Host;
use crate::report::{Column, Figures, Report, Run};
use crate::systems::System;
use crate::usage::{self, Memory};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

const RESIDENTS_PER_ROOM: u32 = 10;
/// The most connections that are joining at a time.
const JOINING_AT_ONCE: u32 = 64;
/// Sessions in each conversation.
const VISITS: u32 = 2;
/// The warm-up has one part in this many of the conversations: enough to fill the database's page cache, which stays
/// full.
const WARMUP_PART: u32 = 5;
/// The shortest rest. The server evicts state that is idle for a minute; a rest is longer than that.
const REST_MIN: Duration = Duration::from_secs(75);
const REST_SAMPLE: Duration = Duration::from_secs(5);
/// After `REST_MIN`, a rest ends when this many samples in a row differ by less than `REST_CHANGE_MAX`.
const REST_SAMPLES_ALIKE: usize = 4;
const REST_CHANGE_MAX: f64 = 0.01;

/// The options of mode `soak`.
pub struct Options {
    pub messages: u32,
    pub conversations: u32,
    pub senders: u32,
    pub depth: u32,
    pub residents: u32,
    pub rest_max: Duration,
    pub content_bytes: usize,
    pub repetitions: u32,
}

/// A number of sessions. Each sender runs one session after another.
struct Sessions {
    /// The slot of the first sender.
    first_slot: u32,
    senders: u32,
    depth: u32,
    messages_each: u32,
    /// The room of the first conversation, and the number of conversations.
    first_room: u32,
    conversations: u32,
    first_user: u32,
    count: u32,
}

/// Runs all repetitions. It prints a line of JSON for each run, and the table at the end.
pub fn run(host: &Host, options: &Options, report: &mut Report) -> Result<()> {
    for repetition in 1..=options.repetitions {
        let case = format!("{} messages, {} conversations", options.messages, options.conversations);
        report.add(Run::new("soak", "carillon", case, repetition, once(host, options)));
        ensure!(!crate::interrupt::requested(), "interrupted");
    }
    let column = |figure, title, decimals| Column { figure, title, decimals };
    println!(
        "{}",
        report.table(&[
            column("resident_mib_before", "MiB before", 1),
            column("resident_mib_peak", "MiB at peak", 1),
            column("resident_mib_after", "MiB after", 1),
            column("after_to_before", "after / before", 3),
            column("messages_per_s", "messages/s", 0),
            column("cpu_us_per_message", "CPU µs / message", 1),
        ])
    );
    Ok(())
}

fn once(host: &Host, options: &Options) -> Result<Figures> {
    let messages_each = options.messages / options.conversations / VISITS;
    ensure!(messages_each > 0, "each conversation takes at least {VISITS} messages");
    ensure!(
        options.conversations >= options.senders * WARMUP_PART,
        "there are too few conversations for the senders"
    );
    let resident_rooms = options.residents.div_ceil(RESIDENTS_PER_ROOM);
    let warmup_conversations = options.conversations / WARMUP_PART;
    let rooms = resident_rooms + warmup_conversations + options.conversations;
    let warmup = Sessions {
        first_slot: options.residents,
        senders: options.senders,
        depth: options.depth,
        messages_each,
        first_room: resident_rooms,
        conversations: warmup_conversations,
        first_user: options.residents,
        count: warmup_conversations * VISITS,
    };
    let sessions = Sessions {
        first_room: resident_rooms + warmup_conversations,
        conversations: options.conversations,
        first_user: options.residents + warmup.count,
        count: options.conversations * VISITS,
        ..warmup
    };

    let server = System::Carillon.start(host)?;
    let pid = server.process.pid();
    let mut engine = Engine::new(server.address, server.dialect, rooms, options.content_bytes)?;
    engine.connect(0..options.residents, RESIDENTS_PER_ROOM, JOINING_AT_ONCE)?;
    warmup.run(&mut engine, pid)?;
    let before = rest(&mut engine, pid, options.rest_max)?;
    let (began, cpu) = (Instant::now(), usage::read(&[pid])?.servers);
    let peak_kib = sessions.run(&mut engine, pid)?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), usage::read(&[pid])?.servers.since(cpu));
    let after = rest(&mut engine, pid, options.rest_max)?;
    // The residents must still receive messages.
    for room in 0..resident_rooms {
        engine.publish((room * RESIDENTS_PER_ROOM) as usize)?;
    }
    engine.settle()?;
    drop(engine);
    server.stop()?;

    let messages = f64::from(sessions.count * messages_each);
    let mut figures = Figures::default();
    figures.set("messages", messages);
    figures.set("sessions", f64::from(sessions.count));
    figures.set("seconds", seconds);
    figures.set("messages_per_s", messages / seconds);
    figures.set("cpu_us_per_message", cpu.total_s() * 1e6 / messages);
    figures.set("resident_mib_before", before.resident_kib / 1024.0);
    figures.set("resident_mib_peak", peak_kib / 1024.0);
    figures.set("resident_mib_after", after.resident_kib / 1024.0);
    figures.set("anonymous_mib_before", before.anonymous_kib / 1024.0);
    figures.set("anonymous_mib_after", after.anonymous_kib / 1024.0);
    figures.set("after_to_before", after.resident_kib / before.resident_kib);
    Ok(figures)
}

impl Sessions {
    /// Runs all sessions and returns the server's greatest resident memory, in KiB.
    fn run(&self, engine: &mut Engine, pid: u32) -> Result<f64> {
        let closed_before = engine.world.tally.closed;
        let (mut begun, mut sent) = (0, vec![0; self.senders as usize]);
        let (mut peak_kib, mut sampled): (f64, _) = (0.0, Instant::now());
        let mut progress = Progress::new(PATIENCE);
        while engine.world.tally.closed - closed_before < self.count {
            for (sender, sent) in sent.iter_mut().enumerate() {
                let slot = self.first_slot as usize + sender;
                if engine.state(slot).is_none() && begun < self.count {
                    let room = self.first_room + begun % self.conversations;
                    engine.open(slot, self.first_user + begun, room)?;
                    (begun, *sent) = (begun + 1, 0);
                } else if engine.state(slot) == Some(State::Joined) {
                    self.go_on(engine, slot, sent).with_context(|| format!("a session in slot {slot}"))?;
                }
            }
            engine.pump(Duration::from_millis(100))?;
            let tally = &engine.world.tally;
            progress.made(tally.delivered + tally.acknowledged + u64::from(tally.closed))?;
            if sampled.elapsed() > Duration::from_secs(1) {
                peak_kib = peak_kib.max(usage::memory(pid)?.resident_kib);
                sampled = Instant::now();
            }
        }
        Ok(peak_kib)
    }

    /// Sends the messages that a session may send now, or closes the session when it has received everything.
    fn go_on(&self, engine: &mut Engine, slot: usize, sent: &mut u32) -> Result<()> {
        let member = engine.member(slot).context("nobody there")?;
        let published = engine.world.rooms[member.room as usize].published;
        let may = self.depth.saturating_sub(member.unacknowledged() as u32).min(self.messages_each - *sent);
        if *sent == self.messages_each && member.is_even_with(published) {
            member.check(published)?;
            return engine.close(slot);
        }
        for _ in 0..may {
            engine.publish(slot)?;
        }
        *sent += may;
        Ok(())
    }
}

/// Waits until the server has evicted idle state and its memory no longer changes, for at most `rest_max`. Returns the
/// memory at the end.
fn rest(engine: &mut Engine, pid: u32, rest_max: Duration) -> Result<Memory> {
    let began = Instant::now();
    let mut samples = vec![usage::memory(pid)?];
    while began.elapsed() < rest_max {
        engine.pump_for(REST_SAMPLE.min(rest_max.saturating_sub(began.elapsed())))?;
        samples.push(usage::memory(pid)?);
        let last = &samples[samples.len().saturating_sub(REST_SAMPLES_ALIKE)..];
        let sizes = || last.iter().map(|memory| memory.resident_kib);
        let (least, greatest) = (sizes().fold(f64::MAX, f64::min), sizes().fold(0.0, f64::max));
        if began.elapsed() >= REST_MIN && greatest - least < greatest * REST_CHANGE_MAX {
            break;
        }
    }
    samples.pop().context("there is a sample")
}
