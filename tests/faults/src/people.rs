//! Clients under load. Each is a WebSocket that reconnects when it is lost, to the next gateway that accepts it.

use crate::person::{Part, Person};
use anyhow::Context;
use carillon_history::Record;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Time limit for a connection and its first frame. A paused gateway accepts connections and sends nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// A connection is given up after so long without a frame. The client pings every second, so a live one always has
/// some.
const DEAD_AFTER: Duration = Duration::from_secs(6);
/// The same for slow readers, which stop reading on purpose.
const DEAD_AFTER_SLOW: Duration = Duration::from_secs(60);
/// Least time between the end of a connection and the next attempt. Up to as much again is added at random.
const RECONNECT_MS: u64 = 100;
/// Time between two checks of what is due.
const TICK: Duration = Duration::from_millis(20);

/// What the clients of a run do at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Join, and send nothing.
    Gather,
    /// Send messages.
    Send,
    /// Begin no new messages, and repeat unanswered ones until they are answered.
    Settle,
    /// Request the presence of other users.
    Look,
    /// End.
    Stop,
}

/// What all clients of a run share.
pub struct Scene {
    /// The WebSocket URLs of the gateways.
    pub gateways: Vec<String>,
    /// Start of the history's clock.
    pub began: Instant,
    /// Messages that each client begins per second, at most.
    pub rate: f64,
    /// The URL for slow readers, and how many of the clients they are: the last ones, which send nothing.
    pub slow: Option<(String, usize)>,
    phase: watch::Sender<Phase>,
    acknowledged: AtomicU64,
    connected: AtomicUsize,
    at_rest: AtomicUsize,
    connects: AtomicU64,
}

impl Scene {
    /// The state before any client starts.
    pub fn new(gateways: Vec<String>, rate: f64, slow: Option<(String, usize)>) -> Arc<Scene> {
        Arc::new(Scene {
            gateways,
            began: Instant::now(),
            rate,
            slow,
            phase: watch::Sender::new(Phase::Gather),
            acknowledged: AtomicU64::new(0),
            connected: AtomicUsize::new(0),
            at_rest: AtomicUsize::new(0),
            connects: AtomicU64::new(0),
        })
    }

    /// Microseconds on the history's clock.
    pub fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// Sets the phase for all clients.
    pub fn turn_to(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Messages acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Clients that have a connection.
    pub fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    /// Clients that wait for nothing.
    pub fn at_rest(&self) -> usize {
        self.at_rest.load(Ordering::Relaxed)
    }

    /// Connections made so far.
    pub fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }
}

/// The clients of a run.
pub struct People {
    /// What the clients share.
    pub scene: Arc<Scene>,
    count: usize,
    tasks: JoinSet<Person>,
}

impl People {
    /// Starts these clients.
    pub fn start(scene: Arc<Scene>, parts: Vec<Part>) -> People {
        let users: Arc<[String]> = parts.iter().map(|part| part.user.clone()).collect();
        let count = parts.len();
        let mut tasks = JoinSet::new();
        let slow_from = count - scene.slow.as_ref().map_or(0, |(_, slow)| *slow);
        for (number, part) in parts.into_iter().enumerate() {
            let slow = number >= slow_from;
            tasks.spawn(run_client(scene.clone(), number, slow, Person::new(part), users.clone()));
        }
        People { scene, count, tasks }
    }

    /// The number of clients.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Waits until no client waits for anything.
    ///
    /// # Errors
    /// If that does not happen within `within`.
    pub async fn come_to_rest(&self, within: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        while self.scene.at_rest() < self.count {
            anyhow::ensure!(
                Instant::now() < deadline,
                "{} of {} clients are at rest and {} connected after {within:?}",
                self.scene.at_rest(),
                self.count,
                self.scene.connected()
            );
            sleep(TICK).await;
        }
        Ok(())
    }

    /// Ends all clients and returns what they recorded and still waited for.
    ///
    /// # Errors
    /// If a client panicked.
    pub async fn stop(mut self) -> anyhow::Result<Observations> {
        self.scene.turn_to(Phase::Stop);
        let mut observations = Observations::default();
        while let Some(person) = self.tasks.join_next().await {
            let mut person = person.context("a client panicked")?;
            if !person.is_at_rest() {
                observations.waiting.push(person.waits_for());
            }
            person.disconnected(self.scene.now_us());
            observations.silences.append(&mut person.silences);
            observations.records.append(&mut person.records);
        }
        observations.records.sort_by_key(|record| record.at_us);
        Ok(observations)
    }
}

/// What the clients recorded.
#[derive(Debug, Default)]
pub struct Observations {
    /// The records, in the order of time.
    pub records: Vec<Record>,
    /// The clients that were not at rest at the end, and why.
    pub waiting: Vec<String>,
    /// Messages without an answer on a live connection.
    pub silences: Vec<String>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn run_client(
    scene: Arc<Scene>,
    number: usize,
    slow: bool,
    mut person: Person,
    users: Arc<[String]>,
) -> Person {
    let mut random = Random(number as u64 + 1);
    let mut gateway = number;
    while *scene.phase.borrow() != Phase::Stop {
        let door = match &scene.slow {
            Some((door, _)) if slow => door,
            _ => &scene.gateways[gateway % scene.gateways.len()],
        };
        let url = format!("{door}/ws/{}", person.user());
        if let Ok(Ok(socket)) = timeout(CONNECT_TIMEOUT, connect(&url)).await {
            scene.connects.fetch_add(1, Ordering::Relaxed);
            scene.connected.fetch_add(1, Ordering::Relaxed);
            let mut visit = Visit { scene: &scene, person: &mut person, users: &users, slow, rested: false };
            visit.serve(socket, &mut random).await;
            visit.rest(false);
            scene.connected.fetch_sub(1, Ordering::Relaxed);
            if *scene.phase.borrow() == Phase::Stop {
                return person;
            }
            person.disconnected(scene.now_us());
        }
        gateway += 1;
        sleep(Duration::from_millis(RECONNECT_MS + random.below(RECONNECT_MS))).await;
    }
    person
}

async fn connect(url: &str) -> anyhow::Result<Socket> {
    let (mut socket, _) = connect_async(url).await?;
    // The connection counts only once its first frame has arrived.
    match socket.next().await {
        Some(Ok(Message::Text(_))) => Ok(socket),
        other => anyhow::bail!("not served: {other:?}"),
    }
}

/// One connection of one client.
struct Visit<'a> {
    scene: &'a Scene,
    person: &'a mut Person,
    users: &'a [String],
    slow: bool,
    rested: bool,
}

impl Visit<'_> {
    async fn serve(&mut self, socket: Socket, random: &mut Random) {
        let (mut out, mut frames) = socket.split();
        let joins = self.person.connected(self.scene.now_us());
        if send(&mut out, &joins).await.is_err() {
            return;
        }
        let mut phase = self.scene.phase.subscribe();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let dead_after = if self.slow { DEAD_AFTER_SLOW } else { DEAD_AFTER };
        let mut last = Instant::now();
        let (mut pinged, mut looked) = (last, false);
        let mut allowance = random.below(1_000) as f64 / 1_000.0;
        loop {
            tokio::select! {
                frame = frames.next() => {
                    let Some(Ok(message)) = frame else { return };
                    last = Instant::now();
                    self.receive(&message);
                    if self.receive_available(&mut frames).is_none() {
                        return;
                    }
                }
                _ = tick.tick() => {
                    if *phase.borrow_and_update() == Phase::Send && !self.slow {
                        allowance = (allowance + self.scene.rate * TICK.as_secs_f64()).min(self.scene.rate.max(1.0));
                        while allowance >= 1.0 && self.person.begin() {
                            allowance -= 1.0;
                        }
                    }
                }
                _ = phase.changed() => {}
            }
            let mut due = self.person.due(self.scene.now_us());
            let now = *phase.borrow();
            if now == Phase::Look && !looked && self.person.is_at_rest() {
                looked = true;
                due.push(self.person.look_at(&self.some_users(random)));
            }
            if pinged.elapsed() > Duration::from_secs(1) {
                pinged = Instant::now();
                due.push(json!({"type": "ping"}));
            }
            self.rest(self.person.is_at_rest());
            if now == Phase::Stop || last.elapsed() > dead_after || send(&mut out, &due).await.is_err() {
                return;
            }
        }
    }

    fn receive(&mut self, message: &Message) {
        let Message::Text(text) = message else { return };
        let Ok(frame) = serde_json::from_str::<Value>(text) else { return };
        let before = self.person.acknowledged;
        self.person.receive(self.scene.now_us(), &frame);
        self.scene.acknowledged.fetch_add(self.person.acknowledged - before, Ordering::Relaxed);
    }

    /// Receives frames that have arrived already, so that a client that receives much does not read the clock for each.
    fn receive_available(&mut self, frames: &mut SplitStream<Socket>) -> Option<()> {
        use futures_util::FutureExt;
        for _ in 0..64 {
            match frames.next().now_or_never() {
                None => break,
                Some(Some(Ok(message))) => self.receive(&message),
                Some(_) => return None,
            }
        }
        Some(())
    }

    fn rest(&mut self, at_rest: bool) {
        if at_rest != std::mem::replace(&mut self.rested, at_rest) {
            if at_rest {
                self.scene.at_rest.fetch_add(1, Ordering::Relaxed);
            } else {
                self.scene.at_rest.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn some_users(&self, random: &mut Random) -> Vec<String> {
        let mut users: Vec<String> =
            (0..5).map(|_| self.users[random.below(self.users.len() as u64) as usize].clone()).collect();
        users.sort();
        users.dedup();
        users
    }
}

async fn send(out: &mut SplitSink<Socket, Message>, frames: &[Value]) -> anyhow::Result<()> {
    if frames.is_empty() {
        return Ok(());
    }
    let sending = async {
        for frame in frames {
            out.feed(Message::text(frame.to_string())).await?;
        }
        anyhow::Ok(out.flush().await?)
    };
    timeout(DEAD_AFTER, sending).await?
}

/// A small generator, so that a run's choices follow from its seed (SplitMix64, public domain by S. Vigna).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}
