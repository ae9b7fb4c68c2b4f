//! Everything outside the processes: network, bus, store, randomness, and the records of the run.

use crate::bus::{Leases, Log, Subjects};
use crate::club::{Received, is_club};
use crate::network::Network;
use crate::random::Random;
use crate::store::Tables;
use crate::trace::Trace;
use crate::weather::Weather;
use carillon_history::{Record, What};
use carillon_message_worker::store::FIRST_VERSION;
use carillon_presence_worker::store::UserRow;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Most violations that are kept. One is enough to fail a run.
const VIOLATIONS_MAX: usize = 50;

/// What all processes of a run share.
pub struct World {
    /// The lines of everything that happened.
    pub trace: Trace,
    /// Messages and writes on their way.
    pub network: Arc<Network>,
    /// The chances of small faults now.
    pub weather: Mutex<Weather>,
    /// The logs, by partition.
    pub logs: Vec<Mutex<Log>>,
    /// Notified when the log of this partition changes.
    pub grown: Vec<Notify>,
    /// Subscriptions of core messaging.
    pub subjects: Arc<Mutex<Subjects>>,
    /// Leases, by kind of worker.
    pub leases: Mutex<BTreeMap<String, Leases>>,
    /// The store of conversations.
    pub tables: Mutex<Tables>,
    /// The store of users.
    pub users: Mutex<BTreeMap<String, UserRow>>,
    /// Until when the store is out of reach for every process, if it is.
    pub store_away_until: Mutex<Option<Instant>>,
    /// Until when every write arrives much later than its answer, if there is such a period.
    pub stray_until: Mutex<Option<Instant>>,
    /// A period in which messages to gateways are lost, if there is one.
    pub blackout: Mutex<Option<Blackout>>,
    dice: Mutex<Random>,
    history: Mutex<Vec<Record>>,
    clubs: Mutex<Vec<Received>>,
    violations: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

/// A period in which messages from workers to gateways are lost.
#[derive(Debug, Clone, Copy)]
pub struct Blackout {
    /// When the period ends.
    pub until: Instant,
    /// Whether only batches that carry outcomes are lost, and not all messages.
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
            stray_until: Mutex::new(None),
            blackout: Mutex::new(None),
            dice: Mutex::new(Random::new(seed)),
            history: Mutex::default(),
            clubs: Mutex::default(),
            violations: Mutex::default(),
            counts: Mutex::default(),
        })
    }

    /// Draws from the run's random numbers.
    pub fn dice<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.dice.lock())
    }

    /// Whether a fault with this chance strikes now.
    pub fn strikes(&self, chance: impl FnOnce(&Weather) -> u32) -> bool {
        let per_10_000 = chance(&self.weather.lock());
        self.dice(|random| random.chance(per_10_000))
    }

    /// Draws the time of one direction of a call.
    pub fn latency(&self) -> Duration {
        let most_ms = self.weather.lock().latency_ms;
        Duration::from_millis(self.dice(|random| random.between(0..=most_ms)))
    }

    /// Adds a line to the trace.
    pub fn note(&self, what: Arguments<'_>) {
        self.trace.line(what);
    }

    /// Counts an event that a scenario may require.
    pub fn count(&self, what: &'static str) {
        *self.counts.lock().entry(what).or_default() += 1;
    }

    /// How often each counted event happened.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().clone()
    }

    /// Records what a client did or received. Events of clubs stay out of the history, which knows messages only; the
    /// judge checks them separately.
    pub fn record(&self, what: What) {
        self.note(format_args!("client {what:?}"));
        if what.conversation().is_some_and(is_club) {
            return;
        }
        self.history.lock().push(Record { at_us: self.trace.now_us(), what });
    }

    /// Records an event of a club that a client received.
    pub fn record_club_event(&self, event: impl FnOnce(u64) -> Received) {
        self.clubs.lock().push(event(self.trace.now_us()));
    }

    /// The events of clubs that clients received.
    pub fn clubs(&self) -> Vec<Received> {
        self.clubs.lock().clone()
    }

    /// What clients did and received.
    pub fn history(&self) -> Vec<Record> {
        self.history.lock().clone()
    }

    /// Records something that must never happen.
    pub fn violation(&self, what: Arguments<'_>) {
        self.note(format_args!("VIOLATION {what}"));
        let mut violations = self.violations.lock();
        if violations.len() < VIOLATIONS_MAX {
            violations.push(format!("at {} µs: {what}", self.trace.now_us()));
        }
    }

    /// The recorded violations.
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    /// Whether the store is out of reach now.
    pub fn store_is_away(&self) -> bool {
        self.store_away_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// The version of the state machine that a partition's checkpoint names.
    pub fn version(&self, partition: u32) -> u32 {
        let checkpoint = self.tables.lock().partition(partition).checkpoint;
        checkpoint.map_or(FIRST_VERSION, |checkpoint| checkpoint.version)
    }

    /// Whether every write strays now.
    pub fn every_write_strays(&self) -> bool {
        self.stray_until.lock().is_some_and(|until| Instant::now() < until)
    }
}
