//! A whole run: people come, talk while faults happen, come to rest when all is healed; then what they saw is judged.

use crate::deployment::{Deployment, Node, Size};
use crate::dump;
use crate::people::{People, Phase, Scene, Told};
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

/// For everybody to come in the beginning, on a loaded machine.
pub const GATHER_TIMEOUT: Duration = Duration::from_secs(60);
/// For everything to heal after the last fault: leases, the longest backoff, and what has gathered in the logs.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);
/// For the last heads and presence to be told.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What people do in a run.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Clients; with `devices` 0 every fifth is another device of the user before.
    pub clients: usize,
    /// Clients that each user has, 0: one or two.
    pub devices: usize,
    /// Conversations.
    pub conversations: usize,
    /// Conversations that each client is in.
    pub conversations_each: usize,
    /// Messages begun a second by each client, at most.
    pub rate: f64,
    /// Messages that each has under way at once.
    pub window: usize,
    /// Bytes of a message, at least.
    pub content_bytes: usize,
    /// The last so many clients only listen, through a proxy of their own before the first gateway.
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
    /// Who is in which conversations.
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

    /// All conversations.
    pub fn conversations(&self) -> Vec<String> {
        (0..self.conversations).map(conversation).collect()
    }
}

fn conversation(number: usize) -> String {
    format!("room-{number}")
}

/// What came of a run.
pub struct Outcome {
    /// The judgement.
    pub report: Report,
    /// All of the history.
    pub records: Vec<Record>,
    /// What was not healed in time, and messages without an answer.
    pub complaints: Vec<String>,
    /// Faults, each with when it began, microseconds of the history's clock.
    pub faults: Vec<(u64, String)>,
    /// What was measured while it happened.
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

/// People in a deployment.
pub struct Stage {
    /// What runs.
    pub deployment: Deployment,
    /// Who talks.
    pub people: People,
    /// Between those who read slowly and the first gateway.
    pub slow: Proxy,
    /// What was measured while it happened: a name and a value.
    pub measured: Vec<(String, f64)>,
    load: Load,
    size: Size,
    faults: Vec<(u64, String)>,
}

impl Stage {
    /// Starts everything and lets people come; `None`, said aloud, where a part is missing.
    ///
    /// # Errors
    /// When something does not start, or people do not get in.
    pub async fn set(size: Size, load: Load) -> anyhow::Result<Option<Stage>> {
        let Some(deployment) = Deployment::start(size).await? else { return Ok(None) };
        let gateways = deployment.gateways();
        let slow = Proxy::start(gateways[0].trim_start_matches("ws://")).await?;
        let door = (load.slow > 0).then(|| (format!("ws://{}", slow.address()), load.slow));
        let scene = Scene::new(gateways, load.rate, door);
        let people = People::start(scene, load.parts());
        people.come_to_rest(GATHER_TIMEOUT).await.context("nobody has failed yet")?;
        Ok(Some(Stage { deployment, people, slow, load, size, faults: Vec::new(), measured: Vec::new() }))
    }

    /// Notes a fault, now.
    pub fn note(&mut self, fault: impl std::fmt::Display) {
        let at_us = self.people.scene.now_us();
        eprintln!("{:8.3} s  {fault}", at_us as f64 / 1e6);
        self.faults.push((at_us, fault.to_string()));
    }

    /// Lets people talk.
    pub fn talk(&self) {
        self.people.scene.turn_to(Phase::Talk);
    }

    /// Everything heals, everybody comes to rest, and what they saw is judged. What the processes printed goes to
    /// files in `logs`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn end(self, logs: Option<&Path>) -> anyhow::Result<Outcome> {
        let Stage { deployment, people, slow, load, faults, measured, .. } = self;
        deployment.heal();
        slow.set(Mode::PASS);
        people.scene.turn_to(Phase::Settle);
        let mut complaints = Vec::new();
        if let Err(error) = people.come_to_rest(SETTLE_TIMEOUT).await {
            complaints.push(format!("not healed: {error:#}"));
        }
        sleep(LAST_WORDS).await;
        people.scene.turn_to(Phase::Look);
        sleep(LAST_WORDS).await;
        let scene = people.scene.clone();
        let Told { mut records, waiting, silences } = people.stop().await?;
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

    /// Faults one after the other, as the seed says, until there were `faults` and `messages` are acknowledged.
    ///
    /// # Errors
    /// When a process does not come back, or nothing is acknowledged for minutes.
    pub async fn random_faults(
        &mut self,
        seed: u64,
        faults: usize,
        messages: u64,
        away_ms_max: u64,
    ) -> anyhow::Result<()> {
        let mut schedule = Schedule::new(seed, self.size, away_ms_max);
        let (mut told, mut stuck) = (Instant::now(), (0, Instant::now()));
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
            if told.elapsed() > PROGRESS {
                told = Instant::now();
                eprintln!("{acknowledged} of {messages} messages, {} of {faults} faults", self.faults.len());
            }
        }
        Ok(())
    }

    /// Lets one fault happen, to its end.
    ///
    /// # Errors
    /// When a process does not end or come back as it should.
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
        What::WithoutNats | What::DeafToNats => {
            node.set_nats(if what == What::DeafToNats { Mode::DEAF } else { Mode::AWAY });
            away.await;
            node.set_nats(Mode::PASS);
        }
        What::WithoutDatabase | What::DeafToDatabase => {
            node.set_database(if what == What::DeafToDatabase { Mode::DEAF } else { Mode::AWAY });
            away.await;
            node.set_database(Mode::PASS);
        }
    }
    Ok(())
}

/// How many faults of each kind there were, for people.
pub fn kinds(faults: &[(u64, String)]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for (_, fault) in faults {
        let kind = fault.split(',').next().unwrap_or(fault);
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}
