//! The processes of a run. They can be started, stopped, killed, paused and cut off.

use crate::club::NAMESPACE;
use crate::door::{self, FRAMES_MAX, Incoming};
use crate::gate::{Cut, Gate};
use crate::node::Node;
use crate::steward::API_KEY;
use crate::world::World;
use axum::body::Body;
use axum::http::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use carillon_gateway::GatewayTasks;
use carillon_gateway::shared::Shared;
use carillon_message_worker::VERSION;
use carillon_proto::id::{UserId, WorkerId};
use carillon_runtime::settings::{Access, Limits, Refused, Role, Settings};
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// How long a process has to stop before it is killed, as a supervisor does.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between the end of a user's last connection and the user being offline.
pub const GRACE: Duration = Duration::from_secs(2);

/// The role of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A gateway: clients connect to it.
    Gateway,
    /// A message-worker: it owns partitions.
    Message,
    /// A presence-worker: it owns presence shards.
    Presence,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Message => "message",
            Self::Presence => "presence",
        }
    }
}

/// A process, by its role and number.
pub type Place = (Kind, usize);

/// A running gateway's state that clients connect to.
struct Entrance {
    shared: Arc<Shared>,
    connections: JoinSet<()>,
}

/// One instance of a process: every start creates a new one.
struct Instance {
    gate: Arc<Gate>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    entrance: Arc<Mutex<Option<Entrance>>>,
}

/// All processes of a run.
pub struct Cluster {
    world: Arc<World>,
    settings: Settings,
    places: Vec<(Place, Mutex<Option<Instance>>)>,
    instances: AtomicU64,
    /// The state machine version of message-workers that start from now on.
    version: AtomicU32,
}

fn settings(partitions: u32) -> Settings {
    let mut settings = Settings::defaults(Role::Standalone);
    settings.dev = true;
    settings.partitions = partitions;
    settings.access_default = Access::Open;
    settings.access_namespaces.insert(NAMESPACE.into(), Access::Participants);
    settings.api_keys = vec![API_KEY.into()];
    settings.presence_grace = GRACE;
    settings.drain_timeout = Duration::from_secs(2);
    // Only the limit on connections is under test; the rate limits would slow the clients down.
    settings.limits = Limits { messages_per_minute: 0, operations_per_minute: 0, ..settings.limits };
    settings
}

/// A client's end of a connection.
pub struct Line {
    /// Frames to the server.
    pub to: mpsc::Sender<String>,
    /// Frames from the server, and the close.
    pub from: mpsc::Receiver<Incoming>,
}

impl Cluster {
    /// A cluster with these numbers of processes, none of them started.
    pub fn new(world: Arc<World>, gateways: usize, workers: usize, presence: usize) -> Arc<Cluster> {
        let partitions = world.logs.len() as u32;
        let kinds = [(Kind::Gateway, gateways), (Kind::Message, workers), (Kind::Presence, presence)];
        let places = kinds.iter().flat_map(|(kind, count)| (0..*count).map(|number| (*kind, number)));
        let places = places.map(|place| (place, Mutex::new(None))).collect();
        let version = AtomicU32::new(VERSION);
        Arc::new(Cluster {
            world,
            settings: settings(partitions),
            places,
            instances: AtomicU64::new(0),
            version,
        })
    }

    /// Sets the state machine version of message-workers that start from now on.
    pub fn set_version(&self, version: u32) {
        self.world.note(format_args!("message-workers of version {version} are installed"));
        self.version.store(version, Ordering::Relaxed);
    }

    /// Whether a process was started and has not ended by itself.
    pub fn is_running(&self, place: Place) -> bool {
        let Some(slot) = self.slot(place) else { return false };
        slot.lock().as_ref().is_some_and(|instance| !instance.task.is_finished())
    }

    /// All processes, whether they run or not.
    pub fn places(&self) -> Vec<Place> {
        self.places.iter().map(|(place, _)| *place).collect()
    }

    /// The number of processes of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.places.iter().filter(|((of, _), _)| *of == kind).count()
    }

    fn slot(&self, place: Place) -> Option<&Mutex<Option<Instance>>> {
        self.places.iter().find(|(there, _)| *there == place).map(|(_, slot)| slot)
    }

    /// The gate of a running process.
    pub fn gate(&self, place: Place) -> Option<Arc<Gate>> {
        self.slot(place)?.lock().as_ref().map(|instance| instance.gate.clone())
    }

    /// Starts a process, unless it was started and neither stopped nor killed since.
    pub fn start(&self, place: Place) {
        let Some(slot) = self.slot(place) else { return };
        let mut slot = slot.lock();
        if slot.is_some() {
            return;
        }
        let number = self.instances.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("{}-{}-{number}", place.0.name(), place.1);
        self.world.note(format_args!("{name} starts"));
        let gate = Arc::new(Gate::new(name, number));
        let node = Node { world: self.world.clone(), gate: gate.clone() };
        let (shutdown, entrance) = (CancellationToken::new(), Arc::<Mutex<Option<Entrance>>>::default());
        let task = match place.0 {
            Kind::Gateway => {
                tokio::spawn(gateway(node, self.settings.clone(), entrance.clone(), shutdown.clone()))
            }
            Kind::Message => {
                let version = self.version.load(Ordering::Relaxed);
                tokio::spawn(message_worker(node, self.settings.partitions, version, shutdown.clone()))
            }
            Kind::Presence => tokio::spawn(presence_worker(node, shutdown.clone())),
        };
        *slot = Some(Instance { gate, shutdown, task, entrance });
    }

    fn remove(&self, place: Place) -> Option<Instance> {
        self.slot(place)?.lock().take()
    }

    /// Kills a process at once.
    pub fn kill(&self, place: Place) {
        if let Some(instance) = self.remove(place) {
            self.world.note(format_args!("{} is killed", instance.gate.name));
            self.world.count("processes killed");
            self.end(instance);
        }
    }

    fn end(&self, instance: Instance) {
        instance.gate.kill();
        instance.task.abort();
        drop(instance.entrance.lock().take());
        self.world.subjects.lock().forget(instance.gate.instance);
    }

    /// Requests a process to stop; returns when it has stopped or was killed after `STOP_TIMEOUT`.
    pub async fn stop(&self, place: Place) {
        let Some(mut instance) = self.remove(place) else { return };
        self.world.note(format_args!("{} is requested to stop", instance.gate.name));
        self.world.count("processes stopped");
        instance.shutdown.cancel();
        let stopped = timeout(STOP_TIMEOUT, &mut instance.task).await;
        let name = &instance.gate.name;
        self.world.note(format_args!("{name} has stopped {}", if stopped.is_ok() { "well" } else { "late" }));
        self.end(instance);
    }

    /// Pauses a process for this time.
    pub async fn pause(&self, place: Place, pause: Duration) {
        let Some(gate) = self.gate(place) else { return };
        self.world.note(format_args!("{} is paused for {pause:?}", gate.name));
        self.world.count("processes paused");
        gate.pause();
        sleep(pause).await;
        self.world.note(format_args!("{} resumes", gate.name));
        gate.resume();
    }

    /// Cuts a process off from the bus or the store for this time.
    pub async fn cut(&self, place: Place, cut: Cut, time: Duration) {
        let Some(gate) = self.gate(place) else { return };
        self.world.note(format_args!("{} is cut off from the {cut:?} for {time:?}", gate.name));
        self.world.count("processes cut off");
        gate.set_cut(cut, true);
        sleep(time).await;
        self.world.note(format_args!("{} reaches the {cut:?} again", gate.name));
        gate.set_cut(cut, false);
        if cut == Cut::Bus {
            self.world.subjects.lock().lost(gate.instance);
        }
    }

    /// Ends all cuts and pauses, and starts every process that was stopped or killed.
    pub fn heal(&self) {
        for place in self.places() {
            if let Some(gate) = self.gate(place) {
                gate.set_cut(Cut::Store, false);
                if gate.is_cut(Cut::Bus) {
                    gate.set_cut(Cut::Bus, false);
                    self.world.subjects.lock().lost(gate.instance);
                }
                if gate.is_paused() {
                    gate.resume();
                }
            }
            self.start(place);
        }
    }

    /// Connects to a gateway; `None` if it does not accept connections.
    pub fn connect(&self, gateway: usize, user: &UserId) -> Option<Line> {
        let slot = self.slot((Kind::Gateway, gateway))?.lock();
        let instance = slot.as_ref()?;
        let mut entrance = instance.entrance.lock();
        let Entrance { shared, connections } = entrance.as_mut()?;
        if shared.draining.is_cancelled() {
            return None;
        }
        let (to, frames) = mpsc::channel(FRAMES_MAX);
        let (client, from) = mpsc::channel(FRAMES_MAX);
        let served = door::serve(shared.clone(), instance.gate.clone(), user.clone(), frames, client);
        connections.spawn(served);
        Some(Line { to, from })
    }

    /// Sends a request to a gateway's REST API as a backend and returns the status; `None` if the gateway does not run.
    pub async fn rest(&self, gateway: usize, method: &str, path: &str, body: &Value) -> Option<u16> {
        let (shared, gate) = {
            let slot = self.slot((Kind::Gateway, gateway))?.lock();
            let instance = slot.as_ref()?;
            let shared = instance.entrance.lock().as_ref()?.shared.clone();
            (shared, instance.gate.clone())
        };
        gate.running().await;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, format!("ApiKey {API_KEY}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()))
            .ok()?;
        let answer = carillon_gateway::http::routes::router(shared).oneshot(request).await.ok()?;
        gate.running().await;
        Some(answer.status().as_u16())
    }
}

async fn gateway(
    node: Node,
    settings: Settings,
    entrance: Arc<Mutex<Option<Entrance>>>,
    shutdown: CancellationToken,
) {
    // A real gateway that cannot start exits and its supervisor starts it again. The loop stands for that.
    let gateway = loop {
        match GatewayTasks::start(settings.clone(), Arc::new(node.clone())).await {
            Ok(gateway) => break gateway,
            Err(error) => node.note(format_args!("does not begin: {error:#}")),
        }
    };
    node.note(format_args!("serves as {}", gateway.shared().id));
    *entrance.lock() = Some(Entrance { shared: gateway.shared().clone(), connections: JoinSet::new() });
    shutdown.cancelled().await;
    gateway.drain().await;
    // Connections end by themselves once the gateway drains.
    while entrance.lock().as_mut().is_some_and(|open| {
        while open.connections.try_join_next().is_some() {}
        !open.connections.is_empty()
    }) {
        sleep(Duration::from_millis(20)).await;
    }
    gateway.end().await;
}

fn worker_id(node: &Node) -> WorkerId {
    // Process names consist of letters, digits and dashes, so they are valid worker ids.
    WorkerId::parse(&node.gate.name).unwrap_or_else(|error| unreachable!("{error}"))
}

async fn message_worker(node: Node, partitions: u32, version: u32, shutdown: CancellationToken) {
    let config =
        carillon_message_worker::Config { worker: worker_id(&node), partitions, exclusive: false, version };
    let (bus, store) = (Arc::new(node.clone()), Arc::new(node.clone()));
    if let Err(error) = carillon_message_worker::run(config, bus, store, shutdown).await {
        if error.is::<Refused>() {
            node.world.count("workers refused");
            return node.note(format_args!("is refused: {error}"));
        }
        node.world.violation(format_args!("{} failed: {error:#}", node.gate.name));
    }
}

async fn presence_worker(node: Node, shutdown: CancellationToken) {
    let config = carillon_presence_worker::Config { worker: worker_id(&node), grace: GRACE };
    let (bus, store) = (Arc::new(node.clone()), Arc::new(node.clone()));
    if let Err(error) = carillon_presence_worker::run(config, bus, store, shutdown).await {
        node.world.violation(format_args!("{} failed: {error:#}", node.gate.name));
    }
}
