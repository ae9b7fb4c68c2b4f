//! A cluster as it is deployed: nats-server, a CQL database, and one process for each gateway and worker.

use crate::parts::{NatsOptions, NatsServer, free_port, part};
use crate::server::{Server, command};

/// The secret with which the tests' clusters verify tokens.
pub const AUTH_SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";

/// A running cluster. Dropping it ends the processes in the order of the fields.
pub struct Cluster {
    /// The gateways.
    pub gateways: Vec<Server>,
    /// The message-workers.
    pub message_workers: Vec<Server>,
    /// The presence-workers.
    pub presence_workers: Vec<Server>,
    _nats: NatsServer,
}

/// The environment variables, the same for every role (`docs/configuration.md`).
struct Environment(Vec<(&'static str, String)>);

impl Environment {
    fn pairs(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    fn run(&self, role: &str) -> Server {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let listens = if role == "gateway" { "--listen" } else { "--admin-listen" };
        Server::start(port, [role, listens, &address].map(String::from).into(), &self.pairs())
    }
}

impl Cluster {
    /// Starts this many gateways, and this many workers of each kind. If a part is missing and not required, prints
    /// that and returns `None`.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start(gateways: usize, workers: usize) -> Option<Cluster> {
        let database = part("database", "CARILLON_TEST_CASSANDRA")?;
        let nats = NatsServer::start(NatsOptions { sync_always: true, ..NatsOptions::default() }).await?;
        let keyspace = format!("cluster_{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let environment = Environment(vec![
            ("NATS_URL", nats.url()),
            ("SCYLLA_NODES", database),
            ("SCYLLA_KEYSPACE", keyspace),
            ("AUTH_SECRET", AUTH_SECRET.into()),
            ("CARILLON_DEV", "true".into()),
            ("CARILLON_LIMITS__MESSAGES_PER_MINUTE", "0".into()),
            ("CARILLON_LIMITS__OPERATIONS_PER_MINUTE", "0".into()),
        ]);
        for round in ["first", "second"] {
            let migrated =
                command().arg("migrate").envs(environment.pairs()).output().expect("carillon migrate runs");
            assert!(migrated.status.success(), "{round}: {migrated:?}");
        }
        let some = |role, count| (0..count).map(|_| environment.run(role)).collect();
        Some(Cluster {
            message_workers: some("message-worker", workers),
            presence_workers: some("presence-worker", workers),
            gateways: some("gateway", gateways),
            _nats: nats,
        })
    }

    /// The WebSocket URL of a gateway, without a path.
    pub fn ws(&self, gateway: usize) -> String {
        self.gateways[gateway].ws()
    }
}
