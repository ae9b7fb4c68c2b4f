//! One run: its world, processes, clients and disasters, and the judgement at the end.

use crate::client::{Client, RunningClient};
use crate::cluster::Cluster;
use crate::disaster::Disasters;
use crate::judge;
use crate::profile::{PARTITIONS, Profile};
use crate::random::Random;
use crate::scenario::Scenario;
use crate::steward::Steward;
use crate::weather::Weather;
use crate::world::World;
use carillon_history::Record;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The wall clock at the start of every run, in milliseconds since 1970: 2025-01-01.
const EPOCH_MS: u64 = 1_735_689_600_000;

/// What to run.
#[derive(Debug, Clone)]
pub struct Order {
    /// The seed from which all randomness follows.
    pub seed: u64,
    /// A scripted run, instead of one drawn from the seed.
    pub scenario: Option<Scenario>,
    /// Whether to print every line of the trace.
    pub prints: bool,
}

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The sizes and faults of the run.
    pub profile: Profile,
    /// What is wrong, one line each; empty if all is well.
    pub faults: Vec<String>,
    /// The checker's report on the history.
    pub report: String,
    /// Everything that clients did and received, and what is stored at the end.
    pub history: Vec<Record>,
    /// How often each counted event happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// A hash of the whole trace.
    pub hash: u64,
    /// Number of lines in the trace.
    pub lines: u64,
    /// Duration of the run in virtual time.
    pub elapsed: Duration,
}

impl Outcome {
    /// Whether no fault was found.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.profile)?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "  {fault}"))?;
        write!(f, "{}", self.report)
    }
}

thread_local! {
    /// When the run on this thread began.
    static BEGAN: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
    /// How far the wall clock is off, in milliseconds.
    static SKEW_MS: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
}

/// The wall clock of a run. It starts at a fixed date and follows the virtual time, except while a disaster sets it
/// wrong.
fn virtual_ms() -> u64 {
    let right_ms = BEGAN.get().map_or(EPOCH_MS, |began| EPOCH_MS + began.elapsed().as_millis() as u64);
    right_ms.saturating_add_signed(SKEW_MS.get())
}

/// Sets the wall clock wrong by `skew_ms` milliseconds; 0 sets it right again.
pub fn set_clock_wrong(world: &World, skew_ms: i64) {
    world.count("steps of the wall clock");
    world.note(format_args!("the wall clock is {skew_ms} ms wrong"));
    SKEW_MS.set(skew_ms);
}

/// Runs one run to its end, on this thread. A process can do this only once, so that no static holds anything from an
/// earlier run.
///
/// # Errors
/// If this process has done a run before, or if no runtime can be built.
pub fn run(order: &Order) -> anyhow::Result<Outcome> {
    carillon_runtime::time::install(virtual_ms)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let outcome = runtime.block_on(simulate(order));
    // Some tasks wait forever, so the runtime must not wait for them.
    runtime.shutdown_background();
    Ok(outcome)
}

async fn simulate(order: &Order) -> Outcome {
    let began = Instant::now();
    BEGAN.set(Some(began));
    let mut random = Random::new(order.seed);
    let profile = match order.scenario {
        Some(scenario) => scenario.profile(),
        None => Profile::drawn(&mut random),
    };
    let world = World::new(random.number(), PARTITIONS, profile.weather.clone(), order.prints);
    note_entropy(&world);
    tokio::spawn(world.network.clone().run());
    let cluster = Cluster::new(world.clone(), profile.gateways, profile.workers, profile.presence);
    cluster.heal();
    let clients: Vec<_> = profile.clients.iter().cloned().map(Client::new).collect();
    for client in &clients {
        tokio::spawn(RunningClient::new(client.clone(), world.clone(), cluster.clone()).run());
    }
    let script = order.scenario.map(|scenario| scenario.script(&world, &cluster, &clients));
    let disasters = profile.disasters_every.map(|every| {
        let disasters = Disasters::new(world.clone(), cluster.clone(), clients.clone());
        tokio::spawn(disasters.run(every))
    });
    let steward = (profile.clubs > 0).then(|| {
        let users: BTreeSet<_> = profile.clients.iter().map(|plan| plan.user.clone()).collect();
        let (users, pause_ms) = (users.into_iter().collect(), profile.club_pause_ms);
        let steward = Steward::new(world.clone(), cluster.clone(), users, profile.clubs, pause_ms);
        tokio::spawn(steward.run())
    });
    sleep(profile.time).await;
    if let Some(script) = script
        && let Err(error) = script.await
    {
        world.violation(format_args!("the script failed: {error}"));
    }
    if let Some(disasters) = disasters {
        disasters.abort();
    }
    calm_down(&world, &cluster).await;
    if let Some(steward) = steward {
        steward.abort();
    }
    let mut faults = judge::rest(&world, &cluster, &clients).await;
    let (history, report) = judge::judge(&world, &clients);
    faults.extend(world.violations());
    faults.extend(
        report.violations.iter().map(|violation| format!("{:?}: {}", violation.kind, violation.detail)),
    );
    let counts = world.counts();
    faults.extend(order.scenario.into_iter().flat_map(|scenario| scenario.missed(&counts)));
    let ((hash, lines), report, elapsed) = (world.trace.digest(), report.to_string(), began.elapsed());
    Outcome { profile, faults, report, history, counts, hash, lines, elapsed }
}

/// Notes the state of every other source of randomness as the first line of the trace. A source that does not follow
/// from the seed then shows at once.
fn note_entropy(world: &World) {
    let order: Vec<u32> = (0..8).collect::<HashSet<u32>>().into_iter().collect();
    world.note(format_args!("hash tables have the order {order:?}, an id is {}", uuid::Uuid::new_v4()));
}

/// Ends all faults and heals the cluster. It heals twice, because a disaster that was under way can strike once more.
async fn calm_down(world: &Arc<World>, cluster: &Arc<Cluster>) {
    world.note(format_args!("everything heals"));
    let tags_kept_ms = world.weather.lock().tags_kept_ms;
    *world.weather.lock() = Weather { tags_kept_ms, ..Weather::calm() };
    *world.blackout.lock() = None;
    *world.store_away_until.lock() = None;
    *world.stray_until.lock() = None;
    SKEW_MS.set(0);
    cluster.heal();
    sleep(Duration::from_secs(35)).await;
    cluster.heal();
}
