//! Everything outside the processes: network, bus, store, dice, and what is written down about the run.

use crate::bus::{Leases, Log, Subjects};
use crate::club::{Heard, is_club};
use crate::network::Network;
use crate::random::Random;
use crate::store::Tables;
use crate::trace::Trace;
use crate::weather::Weather;
use carillon_history::{Record, What};
use carillon_presence_worker::store::UserRow;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Violations that are kept word for word; one is enough to fail.
const VIOLATIONS_MAX: usize = 50;

/// What all processes of a run share.
pub struct World {
    /// What happened.
    pub trace: Trace,
    /// What is on its way.
    pub network: Arc<Network>,
    /// How much goes wrong now.
    pub weather: Mutex<Weather>,
    /// One for each partition.
    pub logs: Vec<Mutex<Log>>,
    /// Woken when the log of this partition has grown.
    pub grown: Vec<Notify>,
    /// Core messaging.
    pub subjects: Arc<Mutex<Subjects>>,
    /// By kind of worker.
    pub leases: Mutex<BTreeMap<String, Leases>>,
    /// The store of conversations.
    pub tables: Mutex<Tables>,
    /// The store of users.
    pub users: Mutex<BTreeMap<String, UserRow>>,
    /// Nobody reaches the store until then.
    pub store_away_until: Mutex<Option<Instant>>,
    /// Messages to gateways that pass by this are lost, until it is over.
    pub blackout: Mutex<Option<Blackout>>,
    dice: Mutex<Random>,
    history: Mutex<Vec<Record>>,
    clubs: Mutex<Vec<Heard>>,
    violations: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

/// What is lost of what workers send to gateways.
#[derive(Debug, Clone, Copy)]
pub struct Blackout {
    /// Until when.
    pub until: Instant,
    /// Only batches that carry outcomes; otherwise everything.
    pub outcomes_only: bool,
}

impl World {
    /// A world without processes.
    pub fn new(seed: u64, partitions: u32, weather: Weather, prints: bool) -> Arc<World> {
        Arc::new(World {
            trace: Trace::new(prints),
            network: Arc::default(),
            weather: Mutex::new(weather),
            logs: (0..partitions).map(|_| Mutex::default()).collect(),
            grown: (0..partitions).map(|_| Notify::new()).collect(),
            subjects: Arc::default(),
            leases: Mutex::default(),
            tables: Mutex::default(),
            users: Mutex::default(),
            store_away_until: Mutex::new(None),
            blackout: Mutex::new(None),
            dice: Mutex::new(Random::new(seed)),
            history: Mutex::default(),
            clubs: Mutex::default(),
            violations: Mutex::default(),
            counts: Mutex::default(),
        })
    }

    /// Draws something.
    pub fn dice<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.dice.lock())
    }

    /// Whether a fault happens now.
    pub fn strikes(&self, chance: impl FnOnce(&Weather) -> u32) -> bool {
        let per_10_000 = chance(&self.weather.lock());
        self.dice(|random| random.chance(per_10_000))
    }

    /// How long one way takes.
    pub fn latency(&self) -> Duration {
        let most_ms = self.weather.lock().latency_ms;
        Duration::from_millis(self.dice(|random| random.between(0..=most_ms)))
    }

    /// This happened.
    pub fn note(&self, what: Arguments<'_>) {
        self.trace.line(what);
    }

    /// Something happened that a run may be meant for.
    pub fn count(&self, what: &'static str) {
        *self.counts.lock().entry(what).or_default() += 1;
    }

    /// How often what happened.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().clone()
    }

    /// A client did this or was told it. Clubs have events that are no messages, and a judgement of their own.
    pub fn record(&self, what: What) {
        self.note(format_args!("client {what:?}"));
        if what.conversation().is_some_and(is_club) {
            return;
        }
        self.history.lock().push(Record { at_us: self.trace.now_us(), what });
    }

    /// A client heard an event of a club.
    pub fn heard(&self, heard: impl FnOnce(u64) -> Heard) {
        self.clubs.lock().push(heard(self.trace.now_us()));
    }

    /// What clients heard of clubs.
    pub fn clubs(&self) -> Vec<Heard> {
        self.clubs.lock().clone()
    }

    /// What clients did and were told.
    pub fn history(&self) -> Vec<Record> {
        self.history.lock().clone()
    }

    /// Something must never happen, and did.
    pub fn violation(&self, what: Arguments<'_>) {
        self.note(format_args!("VIOLATION {what}"));
        let mut violations = self.violations.lock();
        if violations.len() < VIOLATIONS_MAX {
            violations.push(format!("at {} µs: {what}", self.trace.now_us()));
        }
    }

    /// What must never have happened.
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    /// Whether the store is away now.
    pub fn store_is_away(&self) -> bool {
        self.store_away_until.lock().is_some_and(|until| Instant::now() < until)
    }
}
