//! Carillon as it is deployed: one or three nats-servers, a CQL database, gateways and workers. Each process has its
//! own fault proxies to NATS and to the database.

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

/// Time limit for a process to return its metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(5);

/// How many processes of each role run, and their limits.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Number of gateways.
    pub gateways: usize,
    /// Number of message-workers.
    pub message_workers: usize,
    /// Number of presence-workers.
    pub presence_workers: usize,
    /// Number of nats-servers: 1, or 3 that form a cluster.
    pub nats_servers: usize,
    /// Connections that one user may have; 0 is any number.
    pub connections_per_user: u32,
}

impl Default for Size {
    /// The smallest deployment with more than one process of each role.
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

/// The role of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Holds the connections of clients.
    Gateway,
    /// Owns partitions and applies their commands.
    MessageWorker,
    /// Owns presence shards.
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

/// One process, and its proxies to NATS and the database.
pub struct Node {
    /// Its role.
    pub role: Role,
    /// The process.
    pub server: Server,
    /// The proxies between it and each nats-server.
    pub nats: Vec<Proxy>,
    /// The proxy between it and the database. Gateways have none.
    pub database: Option<Proxy>,
    /// What it printed before its last restart.
    earlier: String,
}

impl Node {
    /// Sets all its proxies to NATS.
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

    /// Stops it by SIGSTOP.
    pub fn pause(&self) {
        self.server.signal(Signal::STOP);
    }

    /// Continues it by SIGCONT.
    pub fn go_on(&self) {
        self.server.signal(Signal::CONT);
    }

    /// The sum of a metric's values, 0 if it has none yet.
    ///
    /// # Errors
    /// When the process does not answer.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        Ok(self.values(name).await?.iter().sum())
    }

    /// The values of a metric, one for each set of labels.
    ///
    /// # Errors
    /// When the process does not answer.
    pub async fn values(&self, name: &str) -> anyhow::Result<Vec<f64>> {
        let text = self.metrics().await?;
        let values =
            text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        Ok(values.filter_map(|value| value.parse().ok()).collect())
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        let client = reqwest::Client::builder().timeout(METRICS_TIMEOUT).build()?;
        Ok(client.get(format!("{}/metrics", self.server.http())).send().await?.text().await?)
    }

    /// Resident memory of the process, in MiB.
    ///
    /// # Errors
    /// If the kernel does not report it.
    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    /// Kills it by SIGKILL. Other tasks of the test continue meanwhile.
    pub fn kill(&mut self) {
        tokio::task::block_in_place(|| self.server.kill());
    }

    /// Sends SIGTERM and waits until it has ended.
    ///
    /// # Errors
    /// If its exit status is not success.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        let status = tokio::task::block_in_place(|| self.server.terminate());
        anyhow::ensure!(status.success(), "the {} ended with {status}: {}", self.role, self.server.output());
        Ok(())
    }

    /// Starts it again and waits until it is ready.
    pub fn restart(&mut self) {
        self.earlier.push_str(&self.server.output());
        tokio::task::block_in_place(|| self.server.restart());
    }

    /// Starts another program in its place and waits until it is ready.
    pub fn restart_as(&mut self, program: &Path) {
        self.earlier.push_str(&self.server.output());
        tokio::task::block_in_place(|| self.server.restart_as(program));
    }

    /// Replaces it by another program: SIGTERM, and a new start.
    ///
    /// # Errors
    /// If the exit status of the old program is not success.
    pub fn release(&mut self, program: &Path) -> anyhow::Result<()> {
        self.terminate()?;
        self.restart_as(program);
        Ok(())
    }

    /// Starts another program in its place that must end by itself. Returns its exit status and what it printed.
    pub fn refused(&mut self, program: &Path) -> (ExitStatus, String) {
        self.earlier.push_str(&self.server.output());
        let status = tokio::task::block_in_place(|| self.server.fail_as(program));
        (status, self.server.output())
    }
}

/// All nats-servers of a deployment.
pub struct Nats(Vec<NatsServer>);

impl Nats {
    async fn start(count: usize) -> Option<Nats> {
        if count == 1 {
            let options = NatsOptions { sync_always: true, ..NatsOptions::default() };
            return Some(Nats(vec![NatsServer::start(options).await?]));
        }
        Some(Nats(NatsCluster::start(count).await?.servers))
    }

    /// The nats-server with this index.
    pub fn server(&mut self, index: usize) -> &mut NatsServer {
        &mut self.0[index]
    }

    /// The number of nats-servers.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// All processes of a deployment. They end in the order of the fields.
pub struct Deployment {
    /// Message-workers first, then presence-workers, then gateways, then later additions.
    pub nodes: Vec<Node>,
    /// The nats-servers.
    pub nats: Nats,
    /// The database that stores conversations.
    pub database: DatabaseConfig,
    environment: Vec<(&'static str, String)>,
}

impl Deployment {
    /// Starts everything. Returns `None`, with a printed notice, if nats-server or a database is not available.
    ///
    /// # Errors
    /// If something does not start.
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

    /// Starts one more process of this role.
    ///
    /// # Errors
    /// If its proxies cannot be started.
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

    /// The WebSocket URLs of the gateways.
    pub fn gateways(&self) -> Vec<String> {
        self.nodes.iter().filter(|node| node.role == Role::Gateway).map(|node| node.server.ws()).collect()
    }

    /// Sets the proxies of all processes to the database.
    pub fn set_database(&self, mode: Mode) {
        self.nodes.iter().for_each(|node| node.set_database(mode));
    }

    /// Writes the output of each process to its own file.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn write_logs(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (number, node) in self.nodes.iter().enumerate() {
            let path = folder.join(format!("{number}-{}.log", node.role));
            std::fs::write(&path, format!("{}{}", node.earlier, node.server.output()))
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Resident memory of all processes, in MiB.
    ///
    /// # Errors
    /// If the kernel does not report it.
    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        self.nodes.iter().map(Node::resident_mib).sum()
    }

    /// Lets all proxies pass everything again.
    pub fn heal(&self) {
        self.set_database(Mode::PASS);
        self.nodes.iter().for_each(|node| node.set_nats(Mode::PASS));
    }
}
