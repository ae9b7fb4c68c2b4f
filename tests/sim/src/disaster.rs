//! Disasters: faults that strike a process, a log, the store or the clients at a drawn time, in addition to the
//! weather. Each is begun by itself, and many can be under way at once.

use crate::bus::Leases;
use crate::client::Client;
use crate::cluster::{Cluster, Kind, Place};
use crate::gate::{Cut, Gate};
use crate::random::Random;
use crate::run::set_clock_wrong;
use crate::world::{Blackout, World};
use carillon_proto::subject;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long writes stray before their worker is paused. This is less than the second between two checkpoints.
const STRAYING: Duration = Duration::from_millis(900);
/// How long the worker stays paused: long enough that a successor takes over, waits, and applies the new commands.
const STANDING_STILL: Duration = Duration::from_secs(7);
/// Extra entries that a log loses so that it certainly ends below the checkpoint and a new incarnation begins. The
/// stray writes then belong to a former incarnation.
const BELOW_CHECKPOINT: u64 = 1_000;

/// How far the wall clock steps at most: an hour, or more than the seven days for which client ids are remembered.
const CLOCK_HOUR_MS: u64 = 3_600_000;
const CLOCK_DAYS_MS: u64 = 9 * 24 * CLOCK_HOUR_MS;

/// Time between two moments at which all leases run out.
const LAPSE: Duration = Duration::from_millis(20);

/// Draws disasters and lets them strike.
pub struct Disasters {
    world: Arc<World>,
    cluster: Arc<Cluster>,
    clients: Vec<Arc<Client>>,
    random: Random,
}

impl Disasters {
    /// Disasters for this cluster and these clients.
    pub fn new(world: Arc<World>, cluster: Arc<Cluster>, clients: Vec<Arc<Client>>) -> Disasters {
        let random = world.dice(Random::fork);
        Disasters { world, cluster, clients, random }
    }

    /// Begins one disaster after another, `every` apart on average, until the future is dropped.
    pub async fn run(mut self, every: Duration) {
        loop {
            let pause_ms = self.random.between(1..=2 * every.as_millis() as u64);
            sleep(Duration::from_millis(pause_ms)).await;
            self.strike();
        }
    }

    fn place(&mut self) -> Option<Place> {
        let places = self.cluster.places();
        self.random.pick(&places).copied()
    }

    fn seconds(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.random.between(200..=most * 1_000))
    }

    fn strike(&mut self) {
        let Some(place) = self.place() else { return };
        let cluster = self.cluster.clone();
        match self.random.below(100) {
            0..=19 => {
                let away = self.seconds(10);
                cluster.kill(place);
                tokio::spawn(async move {
                    sleep(away).await;
                    cluster.start(place);
                });
            }
            20..=29 => drop(tokio::spawn(async move {
                cluster.stop(place).await;
                cluster.start(place);
            })),
            30..=39 => {
                let pause = self.seconds(30);
                tokio::spawn(async move { cluster.pause(place, pause).await });
            }
            40..=54 => {
                let cut =
                    if place.0 == Kind::Message && self.random.chance(5_000) { Cut::Store } else { Cut::Bus };
                let time = self.seconds(15);
                tokio::spawn(async move { cluster.cut(place, cut, time).await });
            }
            55..=57 => {
                let away = self.seconds(60);
                self.world.note(format_args!("the store is away for {away:?}"));
                *self.world.store_away_until.lock() = Some(Instant::now() + away);
            }
            58..=70 => self.forget(),
            71..=73 => {
                let more =
                    if self.random.chance(3_000) { BELOW_CHECKPOINT } else { self.random.between(0..=16) };
                self.let_go_stale(more);
            }
            74..=76 => {
                let (world, time) = (self.world.clone(), self.seconds(4));
                tokio::spawn(async move { lapse(&world, time).await });
            }
            77..=86 => self.cut_clients(),
            87..=89 => self.step_the_clock(),
            _ => self.black_out(),
        }
    }

    /// Lets a log lose its tail or all entries, sometimes several times in a row.
    fn forget(&mut self) {
        let partition = self.random.below(self.world.logs.len() as u64) as usize;
        let times = if self.random.chance(1_500) { self.random.between(2..=5) } else { 1 };
        let (world, mut random) = (self.world.clone(), self.random.fork());
        tokio::spawn(async move {
            for _ in 0..times {
                let most = if random.chance(3_000) { 200 } else { 8 };
                let lost = random.between(1..=most);
                let anew = random.chance(2_000);
                forget(&world, partition, if anew { None } else { Some(lost) });
                sleep(Duration::from_millis(random.between(50..=6_000))).await;
            }
        });
    }

    fn let_go_stale(&mut self, more: u64) {
        let number = self.random.below(self.cluster.count(Kind::Message) as u64) as usize;
        let (world, cluster) = (self.world.clone(), self.cluster.clone());
        tokio::spawn(async move { go_stale(&world, &cluster, (Kind::Message, number), more).await });
    }

    fn cut_clients(&mut self) {
        let count = self.random.between(1..=self.clients.len() as u64);
        for _ in 0..count {
            if let Some(client) = self.random.pick(&self.clients) {
                self.world.note(format_args!("{} is cut off", client.plan.name));
                client.cut();
            }
        }
        // Sometimes a client ends for good and never sends the rest of its messages.
        if self.random.chance(700)
            && let Some(client) = self.random.pick(&self.clients)
        {
            self.world.note(format_args!("{} leaves", client.plan.name));
            client.leave();
        }
    }

    /// Sets the wall clock wrong for a while, sometimes by days, as a clock with an empty battery is.
    fn step_the_clock(&mut self) {
        let most_ms = if self.random.chance(3_000) { CLOCK_DAYS_MS } else { CLOCK_HOUR_MS };
        let skew_ms = self.random.between(1..=most_ms) as i64;
        let skew_ms = if self.random.chance(5_000) { skew_ms } else { -skew_ms };
        let (world, time) = (self.world.clone(), self.seconds(20));
        tokio::spawn(async move {
            set_clock_wrong(&world, skew_ms);
            sleep(time).await;
            set_clock_wrong(&world, 0);
        });
    }

    fn black_out(&mut self) {
        let (outcomes_only, time) = (self.random.chance(5_000), self.seconds(4));
        self.world.note(format_args!("fan-out is lost for {time:?}, outcomes only: {outcomes_only}"));
        *self.world.blackout.lock() = Some(Blackout { until: Instant::now() + time, outcomes_only });
    }
}

/// Removes the newest `lost` entries from a log; `None` recreates the log empty.
pub fn forget(world: &World, partition: usize, lost: Option<u64>) {
    world.count("losses of logs");
    let (before, after) = {
        let mut log = world.logs[partition].lock();
        let before = log.bounds();
        match lost {
            Some(lost) => log.roll_back(before.last.saturating_sub(lost)),
            None => log.recreate(),
        }
        (before, log.bounds())
    };
    world.note(format_args!("log {partition} forgets: it held {before:?}, and holds {after:?}"));
    world.grown[partition].notify_waiters();
}

/// Lets all leases run out as soon as they are renewed, as on a bus whose clock runs fast. Other workers then take over
/// from owners that still believe in their leases.
pub async fn lapse(world: &World, time: Duration) {
    world.count("lapses of leases");
    world.note(format_args!("leases run out at once, as far as the bus knows, for {time:?}"));
    let until = Instant::now() + time;
    while Instant::now() < until {
        world.leases.lock().values_mut().for_each(Leases::lapse);
        sleep(LAPSE).await;
    }
}

/// The partitions that a worker owns, or owned without having noticed the loss. A worker listens on the subject of each
/// such partition.
pub fn owned(world: &World, gate: &Gate) -> Vec<usize> {
    let subscribes = |partition: &usize| {
        world.subjects.lock().subscribes(gate.instance, &subject::partition(*partition as u32))
    };
    (0..world.logs.len()).filter(subscribes).collect()
}

/// Simulates a stale writer. A worker's writes stray, then the worker is paused. Its logs lose the entries behind the
/// stray writes and `more` entries below them, and a successor applies new commands. Then the stray writes arrive, and
/// the worker resumes.
pub async fn go_stale(world: &World, cluster: &Cluster, place: Place, more: u64) {
    let Some(gate) = cluster.gate(place) else { return };
    let last = |partition: usize| world.logs[partition].lock().bounds().last;
    let owned = owned(world, &gate);
    let worked: Vec<u64> = owned.iter().map(|partition| last(*partition)).collect();
    *world.stray_until.lock() = Some(Instant::now() + STRAYING);
    sleep(STRAYING).await;
    gate.pause();
    world.note(format_args!("{} is paused with what it has read", gate.name));
    for (partition, worked) in owned.into_iter().zip(worked) {
        forget(world, partition, Some(last(partition).saturating_sub(worked) + more));
    }
    sleep(STANDING_STILL).await;
    world.note(format_args!("{} resumes", gate.name));
    gate.resume();
}
