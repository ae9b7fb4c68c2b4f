//! Carillon as it is deployed, every process behind fault proxies of its own: nats-server or three of them, a CQL
//! database, gateways and workers.

use crate::proxy::{Mode, Proxy};
use anyhow::Context;
use carillon_runtime::database::DatabaseConfig;
use carillon_tests::database;
use carillon_tests::parts::{NatsCluster, NatsOptions, NatsServer, Signal, free_port};
use carillon_tests::server::{Server, command};
use std::fmt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

/// For a process to tell its metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(5);

/// How many of each role run, and on what.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Gateways.
    pub gateways: usize,
    /// Message-workers.
    pub message_workers: usize,
    /// Presence-workers.
    pub presence_workers: usize,
    /// nats-servers: 1, or 3 that form a cluster.
    pub nats_servers: usize,
    /// Connections that one user may have, 0: any number.
    pub connections_per_user: u32,
}

impl Default for Size {
    /// The smallest deployment in which everything is there more than once.
    fn default() -> Size {
        Size {
            gateways: 2,
            message_workers: 3,
            presence_workers: 2,
            nats_servers: 1,
            connections_per_user: 0,
        }
    }
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Holds clients' connections.
    Gateway,
    /// Works conversations' logs.
    MessageWorker,
    /// Knows who is online.
    PresenceWorker,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Gateway => "gateway",
            Role::MessageWorker => "message-worker",
            Role::PresenceWorker => "presence-worker",
        })
    }
}

/// One process, and the proxies between it and what it needs.
pub struct Node {
    /// What it does.
    pub role: Role,
    /// The process.
    pub server: Server,
    /// Between it and each nats-server.
    pub nats: Vec<Proxy>,
    /// Between it and the database.
    pub database: Option<Proxy>,
    /// What it printed in earlier lives.
    earlier: String,
}

impl Node {
    /// Sets all proxies to NATS.
    pub fn set_nats(&self, mode: Mode) {
        self.nats.iter().for_each(|proxy| proxy.set(mode));
    }

    /// Sets its proxy to the database, if it has one.
    pub fn set_database(&self, mode: Mode) {
        self.database.iter().for_each(|proxy| proxy.set(mode));
    }

    /// Cuts its connections to NATS.
    pub fn cut_nats(&self) {
        self.nats.iter().for_each(Proxy::cut);
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.server.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.server.signal(Signal::CONT);
    }

    /// The sum of a metric's values, 0 if it has none yet.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.metrics().await?;
        let values =
            text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        Ok(values.filter_map(|value| value.parse::<f64>().ok()).sum())
    }

    /// How many values a metric has, one for each set of labels.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn series(&self, name: &str) -> anyhow::Result<usize> {
        Ok(self.metrics().await?.lines().filter(|line| line.starts_with(name)).count())
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        let client = reqwest::Client::builder().timeout(METRICS_TIMEOUT).build()?;
        Ok(client.get(format!("{}/metrics", self.server.http())).send().await?.text().await?)
    }

    /// Resident memory of the process, MiB.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    /// kill -9. The threads of the test are free for others meanwhile.
    pub fn kill(&mut self) {
        tokio::task::block_in_place(|| self.server.kill());
    }

    /// SIGTERM, until it has ended.
    ///
    /// # Errors
    /// When it ends otherwise than in good order.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        let status = tokio::task::block_in_place(|| self.server.terminate());
        anyhow::ensure!(status.success(), "the {} ended with {status}: {}", self.role, self.server.output());
        Ok(())
    }

    /// Starts it again, until it is ready.
    pub fn restart(&mut self) {
        self.earlier.push_str(&self.server.output());
        tokio::task::block_in_place(|| self.server.restart());
    }

    /// Starts it again, of another program, until it is ready.
    pub fn restart_as(&mut self, program: &Path) {
        self.earlier.push_str(&self.server.output());
        tokio::task::block_in_place(|| self.server.restart_as(program));
    }

    /// Puts another program in its place: SIGTERM, and a new start.
    ///
    /// # Errors
    /// When it ends otherwise than in good order.
    pub fn release(&mut self, program: &Path) -> anyhow::Result<()> {
        self.terminate()?;
        self.restart_as(program);
        Ok(())
    }

    /// Starts it again, of another program, which is to end by itself: its exit status and what it printed.
    pub fn refused(&mut self, program: &Path) -> (ExitStatus, String) {
        self.earlier.push_str(&self.server.output());
        let status = tokio::task::block_in_place(|| self.server.fail_as(program));
        (status, self.server.output())
    }
}

/// The nats-servers.
pub struct Nats(Vec<NatsServer>);

impl Nats {
    async fn start(count: usize) -> Option<Nats> {
        if count == 1 {
            let options = NatsOptions { sync_always: true, ..NatsOptions::default() };
            return Some(Nats(vec![NatsServer::start(options).await?]));
        }
        Some(Nats(NatsCluster::start(count).await?.servers))
    }

    /// One of them.
    pub fn server(&mut self, index: usize) -> &mut NatsServer {
        &mut self.0[index]
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Everything that runs. Ended in the order of the fields.
pub struct Deployment {
    /// Gateways first, then message-workers, then presence-workers.
    pub nodes: Vec<Node>,
    /// The nats-servers.
    pub nats: Nats,
    /// Where conversations are stored.
    pub database: DatabaseConfig,
    environment: Vec<(&'static str, String)>,
}

impl Deployment {
    /// Starts everything; `None`, said aloud, without nats-server or a database.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(size: Size) -> anyhow::Result<Option<Deployment>> {
        let Some(database) = database::new_keyspace() else { return Ok(None) };
        let Some(nats) = Nats::start(size.nats_servers).await else { return Ok(None) };
        let environment = vec![
            ("SCYLLA_KEYSPACE", database.keyspace.clone()),
            ("CARILLON_DEV", "true".into()),
            ("AUTH_SECRET", carillon_tests::cluster::AUTH_SECRET.into()),
            ("CARILLON_LIMITS__MESSAGES_PER_MINUTE", "0".into()),
            ("CARILLON_LIMITS__CONNECTIONS_PER_USER", size.connections_per_user.to_string()),
        ];
        let mut deployment = Deployment { nodes: Vec::new(), nats, database, environment };
        deployment.migrate()?;
        let roles = [
            (Role::MessageWorker, size.message_workers),
            (Role::PresenceWorker, size.presence_workers),
            (Role::Gateway, size.gateways),
        ];
        for (role, count) in roles {
            for _ in 0..count {
                let node = deployment.node(role).await?;
                deployment.nodes.push(node);
            }
        }
        Ok(Some(deployment))
    }

    fn migrate(&self) -> anyhow::Result<()> {
        let mut migrate = command();
        migrate
            .arg("migrate")
            .env("SCYLLA_NODES", self.database.nodes.join(","))
            .env("NATS_URL", self.nats.0[0].url());
        let migrated = migrate.envs(self.environment.iter().map(|(name, value)| (*name, value))).output()?;
        anyhow::ensure!(migrated.status.success(), "carillon migrate: {migrated:?}");
        Ok(())
    }

    /// Starts one more process.
    ///
    /// # Errors
    /// When its proxies cannot be started.
    pub async fn node(&self, role: Role) -> anyhow::Result<Node> {
        let mut nats = Vec::new();
        for server in &self.nats.0 {
            nats.push(Proxy::start(&format!("127.0.0.1:{}", server.port())).await?);
        }
        let mut environment: Vec<(&str, String)> = self.environment.clone();
        let urls: Vec<String> = nats.iter().map(|proxy| format!("nats://{}", proxy.address())).collect();
        environment.push(("NATS_URL", urls.join(",")));
        let mut database = None;
        if role != Role::Gateway {
            let node = self.database.nodes.first().context("a node of the database")?;
            let proxy = Proxy::start(node).await?;
            environment.push(("SCYLLA_NODES", proxy.address()));
            database = Some(proxy);
        }
        let port = free_port();
        let listens = if role == Role::Gateway { "--listen" } else { "--admin-listen" };
        let arguments = vec![role.to_string(), listens.into(), format!("127.0.0.1:{port}")];
        let pairs: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let server = tokio::task::block_in_place(|| Server::start(port, arguments, &pairs));
        Ok(Node { role, server, nats, database, earlier: String::new() })
    }

    /// The processes of a role.
    pub fn of(&mut self, role: Role) -> Vec<&mut Node> {
        self.nodes.iter_mut().filter(|node| node.role == role).collect()
    }

    /// Where gateways serve WebSockets.
    pub fn gateways(&self) -> Vec<String> {
        self.nodes.iter().filter(|node| node.role == Role::Gateway).map(|node| node.server.ws()).collect()
    }

    /// Sets every process's proxy to the database.
    pub fn set_database(&self, mode: Mode) {
        self.nodes.iter().for_each(|node| node.set_database(mode));
    }

    /// Writes what each process printed to a file of its own.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn write_logs(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (number, node) in self.nodes.iter().enumerate() {
            let path = folder.join(format!("{number}-{}.log", node.role));
            std::fs::write(&path, format!("{}{}", node.earlier, node.server.output()))
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Resident memory of all processes, MiB.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        self.nodes.iter().map(Node::resident_mib).sum()
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.set_database(Mode::PASS);
        self.nodes.iter().for_each(|node| node.set_nats(Mode::PASS));
    }
}
