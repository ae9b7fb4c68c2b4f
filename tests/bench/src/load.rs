//! Load on rooms, at a fixed rate or as fast as the server answers, and the measurement of its cost in a window.

use crate::engine::Engine;
use crate::report::Figures;
use crate::usage;
use anyhow::Result;
use std::time::{Duration, Instant};

/// Rooms that all have the same number of members, in consecutive slots.
#[derive(Debug, Clone, Copy)]
pub struct Rooms {
    pub count: u32,
    pub members: u32,
}

impl Rooms {
    fn slot(self, room: u32, nth: u32) -> usize {
        (room * self.members + nth % self.members) as usize
    }
}

/// How messages are sent.
pub enum Load {
    /// Messages at a fixed rate, independent of the server's answers. Rooms take turns, and so do the members of each
    /// room.
    Paced { rooms: Rooms, messages_per_s: f64, began: Option<Instant>, sent: u64, lag_s_max: f64 },
    /// A room gets its next message when fewer than `depth` of its messages are undelivered.
    Closed { rooms: Rooms, depth: u32, primed: bool },
}

impl Load {
    /// Load at a fixed rate of deliveries.
    pub fn paced(rooms: Rooms, deliveries_per_s: f64) -> Load {
        let messages_per_s = deliveries_per_s / f64::from(rooms.members);
        Load::Paced { rooms, messages_per_s, began: None, sent: 0, lag_s_max: 0.0 }
    }

    /// Load with `depth` undelivered messages in each room.
    pub fn closed(rooms: Rooms, depth: u32) -> Load {
        Load::Closed { rooms, depth, primed: false }
    }

    /// Sends the messages that are due and handles socket events.
    fn turn(&mut self, engine: &mut Engine) -> Result<()> {
        match self {
            Load::Paced { rooms, messages_per_s, began, sent, lag_s_max } => {
                let began = *began.get_or_insert_with(Instant::now);
                let due = (began.elapsed().as_secs_f64() * *messages_per_s) as u64;
                if engine.world.tally.measuring {
                    *lag_s_max = lag_s_max.max((due - *sent) as f64 / *messages_per_s);
                }
                while *sent < due {
                    let (room, nth) = (*sent % u64::from(rooms.count), *sent / u64::from(rooms.count));
                    engine.publish(rooms.slot(room as u32, nth as u32))?;
                    *sent += 1;
                }
                let next = Duration::from_secs_f64((*sent + 1) as f64 / *messages_per_s);
                let wait = next.saturating_sub(began.elapsed());
                // epoll's timeout has a resolution of 1 ms.
                engine.pump(wait.clamp(Duration::from_millis(1), Duration::from_millis(100)))
            }
            Load::Closed { rooms, depth, primed } => {
                if !std::mem::replace(primed, true) {
                    for nth in 0..*depth {
                        (0..rooms.count).try_for_each(|room| engine.publish(rooms.slot(room, nth)))?;
                    }
                }
                engine.pump(Duration::from_millis(100))?;
                let touched = std::mem::take(&mut engine.world.tally.touched);
                for room in touched {
                    let books = &engine.world.rooms[room as usize];
                    let under_way = u64::from(books.published) * u64::from(rooms.members) - books.delivered;
                    if under_way <= u64::from(*depth - 1) * u64::from(rooms.members) {
                        let nth = books.published;
                        engine.publish(rooms.slot(room, nth))?;
                    }
                }
                Ok(())
            }
        }
    }

    /// The greatest delay of a send behind its due time. A closed load has no due times.
    fn lag_ms_max(&self) -> Option<f64> {
        match self {
            Load::Paced { lag_s_max, .. } => Some(lag_s_max * 1_000.0),
            Load::Closed { .. } => None,
        }
    }
}

/// Applies the load for `warmup`, then measures it for `window`. After that it checks that everything arrived.
pub fn measure(
    engine: &mut Engine,
    load: &mut Load,
    pids: &[u32],
    warmup: Duration,
    window: Duration,
) -> Result<Figures> {
    let began = Instant::now();
    while began.elapsed() < warmup {
        load.turn(engine)?;
    }
    engine.world.tally.measuring = true;
    let (began, before) = (Instant::now(), usage::read(pids)?);
    let sums = |engine: &Engine| {
        let tally = &engine.world.tally;
        (tally.published, tally.delivered, tally.bytes_in)
    };
    let (published, delivered, bytes_in) = sums(engine);
    while began.elapsed() < window {
        load.turn(engine)?;
    }
    let (seconds, after, now) = (began.elapsed().as_secs_f64(), usage::read(pids)?, sums(engine));
    engine.world.tally.measuring = false;
    let delivered = (now.1 - delivered) as f64;
    let mut figures = Figures::default();
    figures.set("window_s", seconds);
    figures.set("messages_per_s", (now.0 - published) as f64 / seconds);
    figures.set("deliveries_per_s", delivered / seconds);
    figures.set("bytes_per_delivery", (now.2 - bytes_in) as f64 / delivered);
    set_cpu(&mut figures, &before, &after, seconds, delivered);
    let tally = &engine.world.tally;
    for (name, share) in [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("max_ms", 1.0)] {
        figures.set(name, tally.delivery_us.quantile(share) / 1_000.0);
    }
    if engine.world.dialect.acknowledges() {
        figures.set("ack_p50_ms", tally.acknowledgement_us.quantile(0.5) / 1_000.0);
        figures.set("ack_p99_ms", tally.acknowledgement_us.quantile(0.99) / 1_000.0);
    }
    if let Some(lag_ms) = load.lag_ms_max() {
        figures.set("lag_ms_max", lag_ms);
    }
    engine.settle()?;
    Ok(figures)
}

fn set_cpu(
    figures: &mut Figures,
    before: &usage::Reading,
    after: &usage::Reading,
    seconds: f64,
    delivered: f64,
) {
    let servers = after.servers.since(before.servers);
    figures.set("cpu_s_per_million", servers.total_s() / delivered * 1e6);
    figures.set("user_us_per_delivery", servers.user_s / delivered * 1e6);
    figures.set("system_us_per_delivery", servers.system_s / delivered * 1e6);
    set_shares(figures, before, after, seconds);
}

/// Sets the shares of a core that the servers, this program and other programs used in a window of `seconds`.
pub fn set_shares(figures: &mut Figures, before: &usage::Reading, after: &usage::Reading, seconds: f64) {
    let servers = after.servers.since(before.servers);
    let own = after.own.since(before.own);
    let machine = after.machine.since(before.machine);
    figures.set("server_user_s", servers.user_s);
    figures.set("server_system_s", servers.system_s);
    figures.set("server_share", servers.total_s() / seconds);
    figures.set("own_share", own.total_s() / seconds);
    // User time identifies other programs: kernel threads, which also work for the server's files and sockets, have
    // none.
    figures.set("others_user_share", (machine.user_s - servers.user_s - own.user_s).max(0.0) / seconds);
    figures.set("others_share", (machine.total_s() - servers.total_s() - own.total_s()).max(0.0) / seconds);
    figures.set("stolen_share", (after.stolen_s - before.stolen_s) / seconds);
}
