//! The bus over NATS: a JetStream stream per partition, core messaging, leases in a key-value bucket.
//!
//! When [`Bus::subscribe`] returns, the subscription is active on the server to which this process is connected. The
//! other servers of a NATS cluster learn of it before they receive anything that this process sends afterwards.

use super::{Bus, BusError, LogBounds, LogEntry, LogReader, Subscription, check_size};
use crate::cluster::{ClusterId, Misfit};
use api::ApiError;
use async_trait::async_trait;
use bytes::Bytes;
use carillon_proto::id::{Tag, WorkerId};
use carillon_proto::subject::Prefix;
use connection::{Connection, NoAnswer, hand_over};
use std::sync::Arc;
use std::time::Duration;

mod api;
mod connection;
mod durability;
mod lease;
mod log;
mod mark;
mod progress;
mod reader;
mod subscription;

pub use durability::Durability;
pub use subscription::NatsReply;

/// How to reach NATS, and how to configure its streams.
#[derive(Clone)]
pub struct NatsConfig {
    /// URLs of the servers, separated by commas. They may contain a password.
    pub url: String,
    /// Prepended to the name of every subject, stream and bucket.
    pub prefix: Prefix,
    /// The cluster whose bus this has to be; a bus without a mark gets this one. `None` accepts the bus of any cluster,
    /// for a process that has no database to read the id from.
    pub cluster: Option<ClusterId>,
    /// Copies of each log; `None`: 3 if the servers form a cluster of 3 or more, else 1.
    pub replicas: Option<usize>,
    /// Partitions of the command log.
    pub partitions: u32,
    /// The name of this connection in the servers' monitoring.
    pub name: String,
}

impl std::fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let NatsConfig { url: _, prefix, cluster, replicas, partitions, name } = self;
        let mut shown = f.debug_struct("NatsConfig");
        shown.field("prefix", prefix).field("cluster", cluster).field("replicas", replicas);
        shown.field("partitions", partitions).field("name", name);
        shown.finish_non_exhaustive()
    }
}

/// Why the bus could not be connected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The servers cannot be used now.
    #[error("{0}")]
    Bus(BusError),
    /// The streams belong to another cluster, or do not match this process's settings.
    #[error("{0}")]
    Misfit(Misfit),
}

impl From<BusError> for ConnectError {
    fn from(error: BusError) -> Self {
        ConnectError::Bus(error)
    }
}

impl From<ApiError> for ConnectError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Misfit(misfit) => ConnectError::Misfit(misfit),
            error => ConnectError::Bus(error.into()),
        }
    }
}

/// The bus over NATS.
pub struct NatsBus {
    connection: Arc<Connection>,
    prefix: Prefix,
    logs: log::Logs,
    leases: lease::Leases,
}

impl NatsBus {
    /// Connects, and creates or updates the streams of all partitions.
    ///
    /// # Errors
    /// When no server can be reached, JetStream refuses, or the streams belong to another cluster.
    pub async fn connect(config: NatsConfig) -> Result<Arc<NatsBus>, ConnectError> {
        let connection = Arc::new(Connection::open(&config.url, &config.name).await?);
        let logs = log::Logs::open(connection.clone(), &config).await?;
        let replicas = logs.replicas(0).await?;
        let leases = lease::Leases::new(connection.clone(), config.prefix.clone(), replicas);
        Ok(Arc::new(NatsBus { connection, prefix: config.prefix, logs, leases }))
    }

    /// The live workers of a kind, for a process outside the cluster: this creates nothing and marks nothing. It
    /// ignores the number of partitions and the cluster in `config`.
    ///
    /// # Errors
    /// When no server can be reached, or JetStream refuses.
    pub async fn live_workers(config: &NatsConfig, kind: &str) -> Result<Vec<WorkerId>, BusError> {
        let connection = Arc::new(Connection::open(&config.url, &config.name).await?);
        lease::Leases::new(connection, config.prefix.clone(), 1).look(kind).await
    }

    /// How durably the servers keep acknowledged entries, as far as a client can see, for the process's log at start.
    ///
    /// # Errors
    /// When the bus cannot be reached.
    pub async fn durability(&self) -> Result<Durability, BusError> {
        Ok(durability::report(&self.connection, self.logs.replicas(0).await?))
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn append(&self, partition: u32, tag: Tag, payload: Bytes) -> Result<u64, BusError> {
        check_size(payload.len())?;
        self.logs.append(partition, tag, payload).await
    }

    async fn log_bounds(&self, partition: u32) -> Result<LogBounds, BusError> {
        self.logs.bounds(partition).await
    }

    async fn log_entry(&self, partition: u32, sequence: u64) -> Result<Option<LogEntry>, BusError> {
        self.logs.entry(partition, sequence).await
    }

    async fn read_log(&self, partition: u32, from_sequence: u64) -> Result<Box<dyn LogReader>, BusError> {
        self.logs.read(partition, from_sequence).await
    }

    async fn purge_log(&self, partition: u32, below: u64) -> Result<(), BusError> {
        self.logs.purge(partition, below).await
    }

    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        check_size(payload.len())?;
        self.connection.check_connected()?;
        Ok(hand_over(self.connection.client.publish(self.prefix.subject(subject), payload)).await?)
    }

    async fn subscribe(&self, subject: &str, group: Option<&str>) -> Result<Subscription, BusError> {
        let group = group.map(|group| self.prefix.subject(group));
        subscription::subscribe(&self.connection, self.prefix.subject(subject), group).await
    }

    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
        check_size(payload.len())?;
        match self.connection.request(self.prefix.subject(subject), None, payload, timeout).await {
            Ok(answer) => Ok(answer.payload),
            Err(NoAnswer::NoResponders) => Err(BusError::Unavailable(format!("nobody listens on {subject}"))),
            Err(no_answer) => Err(no_answer.into()),
        }
    }

    async fn clock_ms(&self) -> Result<Option<u64>, BusError> {
        self.logs.clock_ms().await
    }

    async fn renew_lease(&self, kind: &str, worker: &WorkerId) -> Result<u64, BusError> {
        self.leases.renew(kind, worker).await
    }

    async fn live_leases(&self, kind: &str) -> Result<Vec<WorkerId>, BusError> {
        self.leases.live(kind).await
    }

    async fn release_lease(&self, kind: &str, worker: &WorkerId) -> Result<(), BusError> {
        self.leases.release(kind, worker).await
    }

    async fn healthy(&self) -> bool {
        self.connection.round_trip().await.is_ok()
    }
}
