//! A deployment of Carillon for one measurement: NATS, a database, and one process for each role.

use crate::content;
use crate::dialect::Dialect;
use crate::engine::Engine;
use crate::host::{Host, Process, Ready, free_port, pause};
use anyhow::{Context, Result};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The longest wait until a worker owns the conversation's partition. Before that, joining fails.
const OWNED_TIMEOUT: Duration = Duration::from_secs(60);
const OWNED_PAUSE: Duration = Duration::from_secs(1);
/// How long the database may take to answer.
pub const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);

/// The parts that Carillon needs: the path of the nats-server binary, and the address of the database.
pub struct Parts {
    pub nats_server: String,
    pub cassandra: String,
}

/// One process of each role, with a nats-server and a keyspace of their own.
pub struct Deployment {
    nats: Process,
    workers: Vec<Process>,
    gateway: Process,
    cassandra: String,
    pub nats_url: String,
    pub keyspace: String,
    pub address: SocketAddr,
}

impl Parts {
    /// Starts everything, measures, and stops everything. The keyspace is dropped even if the measurement failed.
    pub fn deployed<T>(&self, host: &Host, measure: impl FnOnce(&Deployment) -> Result<T>) -> Result<T> {
        let folder = host.folder()?;
        let keyspace = format!("carillon_bench_{}", uuid::Uuid::new_v4().simple());
        let measured = Deployment::start(host, self, &keyspace, folder.path()).and_then(|deployment| {
            let measured = measure(&deployment).with_context(|| deployment.gateway.output())?;
            deployment.stop()?;
            Ok(measured)
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let left = format!("keyspace {keyspace} is left behind: drop it by hand");
        runtime.block_on(async {
            let statement = format!("DROP KEYSPACE IF EXISTS {keyspace}");
            session(&self.cassandra).await?.query_unpaged(statement, ()).await.context(left)
        })?;
        measured
    }
}

impl Deployment {
    fn start(host: &Host, parts: &Parts, keyspace: &str, folder: &Path) -> Result<Deployment> {
        let (nats, nats_url) = start_nats(host, &parts.nats_server, folder)?;
        let role = |arguments: &[&str]| -> Result<Command> {
            let mut command = host.carillon()?;
            command.args(arguments).args(["--nats", &nats_url, "--scylla", &parts.cassandra]);
            command.env("SCYLLA_KEYSPACE", keyspace).args(["--data-dir"]).arg(folder.join("data"));
            Ok(command)
        };
        Process::run("migrate", role(&["migrate"])?)?;
        let mut workers = Vec::new();
        for (name, admin) in [("message-worker", free_port()?), ("presence-worker", free_port()?)] {
            let command = role(&[name, "--admin-listen", &format!("127.0.0.1:{admin}")])?;
            workers.push(host.start(name, command, folder, Ready::Answers(admin))?);
        }
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let command = role(&["gateway", "--dev", "--listen", &address.to_string()])?;
        let gateway = host.start("gateway", command, folder, Ready::Answers(address.port()))?;
        let (cassandra, keyspace) = (parts.cassandra.clone(), keyspace.to_owned());
        Ok(Deployment { nats, workers, gateway, cassandra, nats_url, keyspace, address })
    }

    /// Connects the first client of conversation 0, as soon as a worker owns the conversation's partition.
    pub fn first_client(&self, content_bytes: usize) -> Result<Engine> {
        let began = Instant::now();
        loop {
            let mut engine = Engine::new(self.address, Dialect::Native, 1, content_bytes)?;
            match engine.connect(0..1, 1, 1) {
                Ok(()) => return Ok(engine),
                Err(error) if began.elapsed() > OWNED_TIMEOUT => return Err(error),
                Err(_) => pause(OWNED_PAUSE),
            }
        }
    }

    /// Waits until a worker owns the partition of conversation 0.
    pub fn await_owners(&self) -> Result<()> {
        self.first_client(content::BYTES_MIN).map(drop)
    }

    /// The process id of the gateway.
    pub fn gateway(&self) -> u32 {
        self.gateway.pid()
    }

    /// The process ids of the workers and the gateway.
    pub fn carillon(&self) -> Vec<u32> {
        self.workers.iter().chain([&self.gateway]).map(Process::pid).collect()
    }

    /// A connection to the database.
    pub async fn session(&self) -> Result<Session> {
        session(&self.cassandra).await
    }

    /// Stops everything, the gateway first and NATS last.
    fn stop(self) -> Result<()> {
        self.gateway.stop()?;
        for process in self.workers {
            process.stop()?;
        }
        // nats-server exits with a signal's status on SIGTERM, which `stop` would report as a failure. Its data is not
        // needed, so it is killed.
        drop(self.nats);
        Ok(())
    }
}

async fn session(cassandra: &str) -> Result<Session> {
    SessionBuilder::new()
        .known_node(cassandra)
        .connection_timeout(DATABASE_TIMEOUT)
        .build()
        .await
        .with_context(|| format!("no database at {cassandra}"))
}

fn start_nats(host: &Host, binary: &str, folder: &Path) -> Result<(Process, String)> {
    let port = free_port()?;
    let configuration = folder.join("nats.conf");
    let text = format!(
        "listen: 127.0.0.1:{port}\njetstream {{\n  store_dir: {:?}\n  sync_interval: always\n}}\n",
        folder.join("nats")
    );
    std::fs::write(&configuration, text)?;
    let mut command = Command::new(binary);
    command.arg("--config").arg(&configuration);
    let process = host.start("nats-server", command, folder, Ready::Accepts(port))?;
    Ok((process, format!("nats://127.0.0.1:{port}")))
}
