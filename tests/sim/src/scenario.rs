//! Scripted runs: situations that must occur for certain, and not only when a seed happens to produce them.

use crate::client::{Client, Plan};
use crate::club::club;
use crate::cluster::{Cluster, Kind, Place};
use crate::disaster::{forget, go_stale, lapse, owned};
use crate::gate::Cut;
use crate::profile::{Profile, conversation, user};
use crate::run::set_clock_wrong;
use crate::weather::Weather;
use crate::world::{Blackout, World};
use carillon_message_worker::VERSION;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// A scripted run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Without faults.
    Calm,
    /// One entry holds the same client id twice. A connection breaks before its acks arrive, and the client sends
    /// everything again while the log accepts no entries.
    TwiceInOneEntry,
    /// A log loses its tail while its worker runs.
    Rollback,
    /// A log loses its tail and grows past the checkpoint again before a worker reads it.
    RollbackAndGrowth,
    /// A worker is paused after it wrote rows and before it wrote their heads, while clients continue to send.
    PauseBeforeHead,
    /// Replies to joins arrive after the first events.
    LateJoins,
    /// Only batches that carry acks are lost.
    AcksLost,
    /// A gateway is killed while its user has as many connections as are allowed.
    KilledAtTheLimit,
    /// The logs lose entries seven times in a row, so that new log generations begin.
    SevenLogGenerations,
    /// The store is away for a minute.
    StoreAway,
    /// All processes are killed at once, several times.
    AllKilled,
    /// A worker's writes stray, and the worker is paused. The log loses the entries behind the stray writes, and a
    /// successor applies other entries in their place. Then the stray writes arrive, and the first worker resumes.
    StaleWriter,
    /// As [`Self::StaleWriter`], but the log loses entries below the checkpoint, and grows past it again before the
    /// successor reads it.
    StaleWriterAndGrowth,
    /// A worker is paused and a successor takes over. The log then loses the entries that the successor applied and
    /// appends others in their place. The first worker resumes and reads those.
    ResumedReader,
    /// The bus lets all leases run out again and again, and workers take over from owners that still believe in theirs.
    LapsedLeases,
    /// The store answers most requests up to two seconds late, which is longer than an owner may rely on one reading of
    /// its tenure.
    SlowStore,
    /// Participants are removed and added while they send, join and lose their connections.
    Removals,
    /// The wall clock is set back and forth by up to nine days while all clients send messages without an ack again.
    ClockSteps,
    /// Message-workers of the next state machine version replace those of this version for a while, and then for good.
    /// Then a worker of this version starts and is refused. Meanwhile logs lose their tails.
    Upgrades,
}

impl Scenario {
    /// All scenarios, with their names.
    pub const ALL: [(&'static str, Scenario); 19] = [
        ("calm", Self::Calm),
        ("twice-in-one-entry", Self::TwiceInOneEntry),
        ("rollback", Self::Rollback),
        ("rollback-and-growth", Self::RollbackAndGrowth),
        ("pause-before-head", Self::PauseBeforeHead),
        ("late-joins", Self::LateJoins),
        ("acks-lost", Self::AcksLost),
        ("killed-at-the-limit", Self::KilledAtTheLimit),
        ("seven-log-generations", Self::SevenLogGenerations),
        ("store-away", Self::StoreAway),
        ("all-killed", Self::AllKilled),
        ("stale-writer", Self::StaleWriter),
        ("stale-writer-and-growth", Self::StaleWriterAndGrowth),
        ("resumed-reader", Self::ResumedReader),
        ("lapsed-leases", Self::LapsedLeases),
        ("slow-store", Self::SlowStore),
        ("removals", Self::Removals),
        ("clock-steps", Self::ClockSteps),
        ("upgrades", Self::Upgrades),
    ];

    /// The scenario with this name.
    pub fn named(name: &str) -> Option<Scenario> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, scenario)| *scenario)
    }

    /// The scenario's name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, scenario)| *scenario == self).map_or("", |(name, _)| name)
    }

    fn clubs(self) -> u64 {
        if self == Self::Removals { 2 } else { 0 }
    }

    fn plan(self, number: u64, user_number: u64) -> Plan {
        // Enough messages for every log generation, and for clients to be still sending when the script begins.
        let (messages, pause_ms) = match self {
            Self::SevenLogGenerations => (80, 3_000),
            Self::AcksLost | Self::StoreAway => (80, 900),
            Self::StaleWriter
            | Self::StaleWriterAndGrowth
            | Self::ResumedReader
            | Self::ClockSteps
            | Self::Upgrades => (250, 900),
            _ => (40, 600),
        };
        Plan {
            name: format!("c{number}"),
            user: user(user_number),
            conversations: (0..3).map(conversation).chain((0..self.clubs()).map(club)).collect(),
            messages,
            pause_ms,
            burst: 5,
            dawdles: false,
            gateway: number as usize % 2,
        }
    }

    /// Events that must happen, with their least counts. A script that misses what it is written for has failed.
    fn meant_for(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Calm | Self::SlowStore => &[("acks", 240)],
            Self::TwiceInOneEntry => &[("entries with an id twice", 3)],
            Self::Rollback | Self::RollbackAndGrowth => &[("losses of logs", 8), ("new log generations", 2)],
            Self::PauseBeforeHead => &[("processes paused", 2), ("processes killed", 2)],
            Self::LateJoins => &[("late answers to gateways", 8)],
            Self::AcksLost => &[("batches with acks lost", 5)],
            // A connection above the limit is not refused: it waits until the killed gateway's sessions are dropped.
            Self::KilledAtTheLimit => &[("processes killed", 2), ("joins", 40)],
            Self::SevenLogGenerations => &[("new log generations", 14)],
            Self::StoreAway => &[("refusals", 20)],
            Self::AllKilled => &[("processes killed", 18)],
            Self::StaleWriter => &[("losses of logs", 4), ("writes that strayed", 2), ("take-overs", 2)],
            Self::ResumedReader => &[("losses of logs", 4)],
            Self::Removals => {
                &[("changes of participants", 100), ("joins refused", 40), ("subscriptions ended", 40)]
            }
            Self::ClockSteps => {
                &[("acks", 1_400), ("batches with acks lost", 20), ("steps of the wall clock", 12)]
            }
            Self::Upgrades => &[("acks", 1_400), ("versions begun", 4), ("workers refused", 2)],
            Self::LapsedLeases => &[("lapses of leases", 8), ("take-overs", 4)],
            // Most of these logs have grown past the checkpoint again, so only tags show that their entries are others.
            Self::StaleWriterAndGrowth => &[("losses of logs", 12), ("new log generations", 5)],
        }
    }

    /// The events that happened less often than they must, and those that must not happen.
    pub fn missed(self, counts: &BTreeMap<&'static str, u64>) -> Vec<String> {
        let count = |what| counts.get(what).copied().unwrap_or(0);
        let missed = self.meant_for().iter().filter(|(what, least)| count(*what) < *least);
        let mut missed: Vec<String> =
            missed.map(|(what, least)| format!("missed: {} {what}, not {least}", count(*what))).collect();
        // A command without an outcome is a refusal after its timeout, and hidden where the client sends it again.
        if self == Self::Calm && count("refusals") > 0 {
            missed.push(format!("{} refusals, although nothing goes wrong", count("refusals")));
        }
        missed
    }

    /// The scenario's sizes and weather.
    pub fn profile(self) -> Profile {
        let users = if self == Self::KilledAtTheLimit { 1 } else { 3 };
        let clients = if self == Self::KilledAtTheLimit { 5 } else { 6 };
        let calm = Weather::calm();
        let weather = match self {
            Self::TwiceInOneEntry => Weather { append_lost: 5_000, ..calm },
            Self::LateJoins => Weather { answer_late: 6_000, ..calm },
            Self::SlowStore => Weather { store_slow: 8_000, ..calm },
            _ => calm,
        };
        Profile {
            name: "scripted",
            // With one gateway, all attempts of a client meet in the same queue.
            gateways: if self == Self::TwiceInOneEntry { 1 } else { 2 },
            workers: if self == Self::Upgrades { 3 } else { 2 },
            presence: 2,
            clients: (0..clients).map(|number| self.plan(number, number % users)).collect(),
            clubs: self.clubs(),
            club_pause_ms: 150,
            weather,
            disasters_every: None,
            time: Duration::from_secs(if self == Self::SlowStore { 60 } else { 8 }),
        }
    }

    /// Starts the scenario's script. Its faults begin after five seconds.
    pub fn script(
        self,
        world: &Arc<World>,
        cluster: &Arc<Cluster>,
        clients: &[Arc<Client>],
    ) -> JoinHandle<()> {
        let script = Script { world: world.clone(), cluster: cluster.clone(), clients: clients.to_vec() };
        tokio::spawn(async move {
            sleep(Duration::from_secs(5)).await;
            script.play(self).await;
        })
    }
}

struct Script {
    world: Arc<World>,
    cluster: Arc<Cluster>,
    clients: Vec<Arc<Client>>,
}

impl Script {
    fn partitions(&self) -> std::ops::Range<usize> {
        0..self.world.logs.len()
    }

    fn workers(&self) -> Vec<Place> {
        (0..self.cluster.count(Kind::Message)).map(|number| (Kind::Message, number)).collect()
    }

    async fn play(&self, scenario: Scenario) {
        match scenario {
            Scenario::Calm | Scenario::SlowStore => {}
            Scenario::TwiceInOneEntry => self.twice_in_one_entry().await,
            Scenario::Rollback => self.roll_back(3, Duration::from_secs(3)).await,
            Scenario::RollbackAndGrowth => self.roll_back_and_grow().await,
            Scenario::PauseBeforeHead => self.pause_before_head().await,
            Scenario::ClockSteps => self.step_clocks().await,
            Scenario::LateJoins | Scenario::Removals => self.cut_clients_often().await,
            Scenario::AcksLost => self.lose_acks().await,
            Scenario::KilledAtTheLimit => self.kill_at_the_limit().await,
            Scenario::SevenLogGenerations => self.begin_seven_log_generations().await,
            Scenario::StoreAway => self.lose_the_store().await,
            Scenario::AllKilled => self.kill_all().await,
            Scenario::ResumedReader => self.resume_readers().await,
            Scenario::LapsedLeases => self.lapse_leases().await,
            Scenario::Upgrades => self.upgrade().await,
            Scenario::StaleWriter => self.go_stale(0..=2).await,
            Scenario::StaleWriterAndGrowth => self.go_stale(6..=8).await,
        }
    }

    async fn twice_in_one_entry(&self) {
        for _ in 0..8 {
            sleep(Duration::from_millis(900)).await;
            self.clients.iter().for_each(|client| client.cut());
        }
    }

    async fn roll_back(&self, lost: u64, pause: Duration) {
        for _ in 0..3 {
            self.partitions().for_each(|partition| forget(&self.world, partition, Some(lost)));
            sleep(pause).await;
        }
    }

    /// Cuts the workers off from the bus while their logs are rolled back to below the checkpoint and grow again.
    async fn roll_back_and_grow(&self) {
        for _ in 0..2 {
            let workers = self.workers();
            let cuts =
                workers.iter().map(|place| self.cluster.cut(*place, Cut::Bus, Duration::from_millis(1_500)));
            let growth = async {
                self.partitions().for_each(|partition| forget(&self.world, partition, Some(12)));
                sleep(Duration::from_millis(1_400)).await;
            };
            tokio::join!(futures_util::future::join_all(cuts), growth);
            sleep(Duration::from_secs(8)).await;
        }
    }

    async fn pause_before_head(&self) {
        for place in self.workers() {
            // Rows in flight are still written, but nothing after them.
            self.cluster.pause(place, Duration::from_secs(6)).await;
            sleep(Duration::from_secs(2)).await;
        }
        for place in self.workers() {
            self.cluster.kill(place);
            sleep(Duration::from_secs(1)).await;
            self.cluster.start(place);
            sleep(Duration::from_secs(4)).await;
        }
    }

    async fn cut_clients_often(&self) {
        for _ in 0..8 {
            sleep(Duration::from_millis(1_500)).await;
            self.clients.iter().for_each(|client| client.cut());
        }
    }

    async fn step_clocks(&self) {
        const HOUR_MS: i64 = 3_600_000;
        for hours in [1, -2, 30, 9 * 24, 0, -9 * 24] {
            // During the blackout commands are applied without acks. Clients send them again while the clock is wrong.
            let until = Instant::now() + Duration::from_millis(900);
            *self.world.blackout.lock() = Some(Blackout { until, outcomes_only: true });
            sleep(Duration::from_millis(800)).await;
            set_clock_wrong(&self.world, hours * HOUR_MS);
            self.clients.iter().for_each(|client| client.cut());
            sleep(Duration::from_millis(2_500)).await;
            set_clock_wrong(&self.world, 0);
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn lose_acks(&self) {
        for _ in 0..3 {
            let until = Instant::now() + Duration::from_millis(1_200);
            *self.world.blackout.lock() = Some(Blackout { until, outcomes_only: true });
            sleep(Duration::from_secs(3)).await;
        }
    }

    async fn kill_at_the_limit(&self) {
        for number in 0..2 {
            self.cluster.kill((Kind::Gateway, number));
            sleep(Duration::from_secs(10)).await;
            self.cluster.start((Kind::Gateway, number));
            sleep(Duration::from_secs(5)).await;
        }
    }

    async fn begin_seven_log_generations(&self) {
        for round in 0..7 {
            let lost = if round % 3 == 2 { None } else { Some(2 + round) };
            self.partitions().for_each(|partition| forget(&self.world, partition, lost));
            sleep(Duration::from_secs(7)).await;
        }
    }

    async fn lose_the_store(&self) {
        *self.world.store_away_until.lock() = Some(Instant::now() + Duration::from_secs(60));
        sleep(Duration::from_secs(65)).await;
    }

    /// Makes each worker in turn a stale writer, with one more lost entry in each round.
    async fn go_stale(&self, more: std::ops::RangeInclusive<u64>) {
        for more in more {
            for place in self.workers() {
                go_stale(&self.world, &self.cluster, place, more).await;
                sleep(Duration::from_secs(8)).await;
            }
        }
    }

    /// Does this to each worker in turn, twice.
    async fn resume_readers(&self) {
        for place in [self.workers(), self.workers()].concat() {
            let Some(gate) = self.cluster.gate(place) else { continue };
            let last = |partition: usize| self.world.logs[partition].lock().bounds().last;
            let owned = owned(&self.world, &gate);
            gate.pause();
            self.world.note(format_args!("{} is paused", gate.name));
            let read: Vec<u64> = owned.iter().map(|partition| last(*partition)).collect();
            sleep(Duration::from_secs(6)).await;
            for (partition, read) in owned.into_iter().zip(read) {
                forget(&self.world, partition, Some(last(partition).saturating_sub(read)));
            }
            sleep(Duration::from_millis(900)).await;
            self.world.note(format_args!("{} resumes", gate.name));
            gate.resume();
            sleep(Duration::from_secs(8)).await;
        }
    }

    async fn lapse_leases(&self) {
        for _ in 0..8 {
            lapse(&self.world, Duration::from_millis(2_500)).await;
            sleep(Duration::from_millis(700)).await;
        }
    }

    async fn upgrade(&self) {
        let (workers, next) = (self.workers(), VERSION + 1);
        for place in &workers[..2] {
            self.release(*place, next).await;
            sleep(Duration::from_secs(4)).await;
        }
        self.release(workers[0], VERSION).await;
        self.check_version(VERSION);
        for place in &workers {
            self.release(*place, next).await;
        }
        // The lost entries may include the one that begins the new version.
        for lost in 1..=6 {
            sleep(Duration::from_millis(1_000)).await;
            self.partitions().for_each(|partition| forget(&self.world, partition, Some(lost)));
        }
        sleep(Duration::from_secs(20)).await;
        self.check_version(next);
        for place in &workers[1..] {
            self.release(*place, VERSION).await;
            sleep(Duration::from_secs(3)).await;
            if self.cluster.is_running(*place) {
                self.world.violation(format_args!("a worker works that does not know the version"));
            }
            self.cluster.kill(*place);
            self.cluster.set_version(next);
            self.cluster.start(*place);
        }
    }

    /// Replaces a message-worker by one of this version.
    async fn release(&self, place: Place, version: u32) {
        self.cluster.stop(place).await;
        self.cluster.set_version(version);
        self.cluster.start(place);
    }

    /// Checks that each partition is at this version.
    fn check_version(&self, version: u32) {
        for partition in self.partitions() {
            let found = self.world.version(partition as u32);
            if found != version {
                self.world.violation(format_args!(
                    "partition {partition} is worked by version {found}, not {version}"
                ));
            } else if version > VERSION {
                self.world.count("versions begun");
            }
        }
    }

    async fn kill_all(&self) {
        for _ in 0..3 {
            self.cluster.places().into_iter().for_each(|place| self.cluster.kill(place));
            sleep(Duration::from_secs(3)).await;
            self.cluster.heal();
            sleep(Duration::from_secs(6)).await;
        }
    }
}
