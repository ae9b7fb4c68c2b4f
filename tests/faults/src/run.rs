//! A whole run: clients connect, send while faults happen, and come to rest when all is healed. Then the history is
//! judged.

use crate::deployment::{Deployment, Node, Size};
use crate::dump;
use crate::people::{Observations, People, Phase, Scene};
use crate::person::Part;
use crate::proxy::{Mode, Proxy};
use crate::schedule::{Fault, Schedule, What, Whom};
use anyhow::Context;
use carillon_history::{Record, Report, check};
use carillon_tests::parts::{NatsServer, Signal};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Time limit for all clients to connect and join at the start, on a loaded machine.
pub const GATHER_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit for everything to heal after the last fault: leases, the longest backoff, and the entries gathered in
/// the logs.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);
/// Time for the last events and for presence to arrive.
const LAST_DELIVERIES: Duration = Duration::from_secs(5);

/// What the clients of a run do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Number of clients. If `devices` is 0, every fifth client belongs to the user of the client before it.
    pub clients: usize,
    /// Clients of each user; 0 is one or two.
    pub devices: usize,
    /// Number of conversations.
    pub conversations: usize,
    /// Conversations that each client joins.
    pub conversations_each: usize,
    /// Messages that each client begins per second, at most.
    pub rate: f64,
    /// Messages that each client has under way at once.
    pub window: usize,
    /// Least length of a message, in bytes.
    pub content_bytes: usize,
    /// How many clients only read, through their own proxy to the first gateway. They are the last ones.
    pub slow: usize,
}

impl Default for Load {
    fn default() -> Load {
        Load {
            clients: 60,
            devices: 0,
            conversations: 40,
            conversations_each: 2,
            rate: 25.0,
            window: 16,
            content_bytes: 100,
            slow: 0,
        }
    }
}

impl Load {
    /// What each client does, with its conversations.
    pub fn parts(&self) -> Vec<Part> {
        let name = |client: usize| format!("c{client}");
        let user = |client: usize| match self.devices {
            0 => format!("u{}", if client % 5 == 4 { client - 1 } else { client }),
            devices => format!("u{}", client / devices),
        };
        (0..self.clients)
            .map(|client| Part {
                client: name(client),
                user: user(client),
                conversations: (0..self.conversations_each)
                    .map(|nth| {
                        conversation((client + nth * (client / self.conversations + 7)) % self.conversations)
                    })
                    .collect::<std::collections::BTreeSet<_>>()
                    .into_iter()
                    .collect(),
                window: self.window,
                content_bytes: self.content_bytes,
            })
            .collect()
    }

    /// The ids of all conversations.
    pub fn conversations(&self) -> Vec<String> {
        (0..self.conversations).map(conversation).collect()
    }
}

fn conversation(number: usize) -> String {
    format!("room-{number}")
}

/// The result of a run.
pub struct Outcome {
    /// The judgement.
    pub report: Report,
    /// The whole history.
    pub records: Vec<Record>,
    /// What did not heal in time, and messages without an answer.
    pub complaints: Vec<String>,
    /// The faults, each with its beginning in microseconds of the history's clock.
    pub faults: Vec<(u64, String)>,
    /// Values measured during the run, by name.
    pub measured: Vec<(String, f64)>,
}

impl Outcome {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.report.is_good() && self.complaints.is_empty()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} faults", self.faults.len())?;
        self.complaints.iter().try_for_each(|complaint| writeln!(f, "{complaint}"))?;
        write!(f, "{}", self.report)
    }
}

/// A deployment with its clients.
pub struct Stage {
    /// The processes.
    pub deployment: Deployment,
    /// The clients.
    pub people: People,
    /// The proxy between slow readers and the first gateway.
    pub slow: Proxy,
    /// Values measured during the run, by name.
    pub measured: Vec<(String, f64)>,
    load: Load,
    size: Size,
    faults: Vec<(u64, String)>,
}

impl Stage {
    /// Starts everything and waits until all clients have joined. Returns `None`, with a printed notice, if nats-server
    /// or a database is not available.
    ///
    /// # Errors
    /// If something does not start, or a client does not connect and join in time.
    pub async fn set(size: Size, load: Load) -> anyhow::Result<Option<Stage>> {
        let Some(deployment) = Deployment::start(size).await? else { return Ok(None) };
        let gateways = deployment.gateways();
        let slow = Proxy::start(gateways[0].trim_start_matches("ws://")).await?;
        let door = (load.slow > 0).then(|| (format!("ws://{}", slow.address()), load.slow));
        let scene = Scene::new(gateways, load.rate, door);
        let people = People::start(scene, load.parts());
        people.come_to_rest(GATHER_TIMEOUT).await.context("before the first fault")?;
        Ok(Some(Stage { deployment, people, slow, load, size, faults: Vec::new(), measured: Vec::new() }))
    }

    /// Records and prints a fault that begins now.
    pub fn note(&mut self, fault: impl std::fmt::Display) {
        let at_us = self.people.scene.now_us();
        eprintln!("{:8.3} s  {fault}", at_us as f64 / 1e6);
        self.faults.push((at_us, fault.to_string()));
    }

    /// Lets the clients send.
    pub fn begin_sending(&self) {
        self.people.scene.turn_to(Phase::Send);
    }

    /// Heals everything, waits until all clients are at rest, and judges the history. The output of the processes goes
    /// to files in `logs`.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn end(self, logs: Option<&Path>) -> anyhow::Result<Outcome> {
        let Stage { deployment, people, slow, load, faults, measured, .. } = self;
        deployment.heal();
        slow.set(Mode::PASS);
        people.scene.turn_to(Phase::Settle);
        let mut complaints = Vec::new();
        if let Err(error) = people.come_to_rest(SETTLE_TIMEOUT).await {
            complaints.push(format!("not healed: {error:#}"));
        }
        sleep(LAST_DELIVERIES).await;
        people.scene.turn_to(Phase::Look);
        sleep(LAST_DELIVERIES).await;
        let scene = people.scene.clone();
        let Observations { mut records, waiting, silences } = people.stop().await?;
        complaints.extend(waiting);
        complaints.extend(silences);
        records.extend(dump::stored(&deployment.database, &load.conversations(), scene.now_us()).await?);
        let report = check(&records);
        if let Some(folder) = logs {
            deployment.write_logs(folder)?;
        }
        carillon_tests::database::drop_keyspace(&deployment.database).await;
        Ok(Outcome { report, records, complaints, faults, measured })
    }

    /// Lets faults of this seed happen one after the other, until there were `faults` of them and `messages` are
    /// acknowledged.
    ///
    /// # Errors
    /// If a process does not come back, or nothing is acknowledged for two minutes.
    pub async fn random_faults(
        &mut self,
        seed: u64,
        faults: usize,
        messages: u64,
        away_ms_max: u64,
    ) -> anyhow::Result<()> {
        let mut schedule = Schedule::new(seed, self.size, away_ms_max);
        let (mut reported, mut stuck) = (Instant::now(), (0, Instant::now()));
        while self.faults.len() < faults || self.people.scene.acknowledged() < messages {
            let (wait_ms, fault) = schedule.next_fault();
            sleep(Duration::from_millis(wait_ms)).await;
            self.note(fault);
            self.happen(fault).await?;
            let acknowledged = self.people.scene.acknowledged();
            if acknowledged != stuck.0 {
                stuck = (acknowledged, Instant::now());
            }
            anyhow::ensure!(stuck.1.elapsed() < SETTLE_TIMEOUT, "nothing is acknowledged any more");
            if reported.elapsed() > PROGRESS {
                reported = Instant::now();
                eprintln!("{acknowledged} of {messages} messages, {} of {faults} faults", self.faults.len());
            }
        }
        Ok(())
    }

    /// Lets one fault happen, to its end.
    ///
    /// # Errors
    /// If a process does not end or come back as it should.
    pub async fn happen(&mut self, fault: Fault) -> anyhow::Result<()> {
        let away = sleep(Duration::from_millis(fault.away_ms));
        match fault.whom {
            Whom::Nats(index) => nats_fault(self.deployment.nats.server(index), fault.what, away).await,
            Whom::Node(role, index) => node_fault(self.deployment.of(role)[index], fault.what, away).await,
        }
    }
}

async fn nats_fault(server: &mut NatsServer, what: What, away: Sleep) -> anyhow::Result<()> {
    match what {
        What::Kill => {
            server.kill();
            away.await;
            server.start_again().await;
        }
        What::Pause => {
            server.signal(Signal::STOP);
            away.await;
            server.signal(Signal::CONT);
        }
        other => anyhow::bail!("{other:?} does not happen to a nats-server"),
    }
    Ok(())
}

async fn node_fault(node: &mut Node, what: What, away: Sleep) -> anyhow::Result<()> {
    match what {
        What::Kill => {
            node.kill();
            away.await;
            node.restart();
        }
        What::Terminate => {
            node.terminate()?;
            node.restart();
        }
        What::Pause => {
            node.pause();
            away.await;
            node.go_on();
        }
        What::CutNats => node.cut_nats(),
        What::WithoutNats | What::WithoutNatsAnswers => {
            node.set_nats(if what == What::WithoutNatsAnswers { Mode::NO_ANSWERS } else { Mode::AWAY });
            away.await;
            node.set_nats(Mode::PASS);
        }
        What::WithoutDatabase | What::WithoutDatabaseAnswers => {
            node.set_database(if what == What::WithoutDatabaseAnswers {
                Mode::NO_ANSWERS
            } else {
                Mode::AWAY
            });
            away.await;
            node.set_database(Mode::PASS);
        }
    }
    Ok(())
}

/// How many faults there were of each kind and process, for people.
pub fn kinds(faults: &[(u64, String)]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for (_, fault) in faults {
        let kind = fault.split(',').next().unwrap_or(fault);
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}
