//! Opens the bus and the stores that a role needs, embedded or over the network, by the settings.

use anyhow::Context;
use carillon_message_worker::KIND;
use carillon_message_worker::store::Store;
use carillon_message_worker::store::embedded::EmbeddedStore;
use carillon_message_worker::store::scylla::ScyllaStore;
use carillon_presence_worker::store::UserStore;
use carillon_presence_worker::store::embedded::EmbeddedUserStore;
use carillon_presence_worker::store::scylla::ScyllaUserStore;
use carillon_proto::id::WorkerId;
use carillon_runtime::bus::Bus;
use carillon_runtime::bus::embedded::EmbeddedBus;
use carillon_runtime::bus::nats::{ConnectError, NatsBus, NatsConfig};
use carillon_runtime::cluster::{ClusterId, Mark, Misfit};
use carillon_runtime::database::{self, DatabaseConfig, DatabaseError};
use carillon_runtime::settings::{Refused, Role, Settings};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long to wait for servers that start at the same time as this process. It is less than the minute after which
/// Kubernetes gives up on a starting pod.
const STARTUP_PATIENCE: Duration = Duration::from_secs(45);
/// The pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Opens the bus: NATS if the settings name it, else an embedded one for this process only. The bus must belong to
/// `cluster`. A process without a database passes `None`: it accepts the cluster that the bus belongs to, and checks
/// only the number of partitions.
///
/// # Errors
/// When NATS cannot be used within `STARTUP_PATIENCE`; [`Refused`] when it belongs to another cluster.
pub async fn bus(
    settings: &Settings,
    name: &WorkerId,
    cluster: Option<ClusterId>,
) -> anyhow::Result<Arc<dyn Bus>> {
    let Some(config) = nats(settings, name.as_str(), cluster) else {
        return Ok(EmbeddedBus::new(settings.partitions));
    };
    let bus = patiently("nats", async || NatsBus::connect(config.clone()).await.map_err(of_bus)).await?;
    match bus.durability().await {
        Ok(durability) if durability.warnings.is_empty() => tracing::info!("{durability}"),
        Ok(durability) => tracing::warn!("{durability}"),
        Err(error) => tracing::warn!(%error, "the durability of the bus could not be determined"),
    }
    Ok(bus)
}

fn nats(settings: &Settings, name: &str, cluster: Option<ClusterId>) -> Option<NatsConfig> {
    Some(NatsConfig {
        url: settings.nats_url.clone()?,
        prefix: settings.nats_prefix.clone(),
        cluster,
        replicas: settings.nats_replicas,
        partitions: settings.partitions,
        name: name.to_owned(),
    })
}

/// A store, and the cluster that it belongs to.
pub struct Opened<S: ?Sized> {
    /// The store.
    pub store: Arc<S>,
    /// The cluster.
    pub cluster: ClusterId,
}

/// Opens the store of conversations in the database. The first worker of a cluster writes the cluster's mark into it;
/// an audit only reads the mark.
///
/// # Errors
/// When the database cannot be used within `STARTUP_PATIENCE`; [`Refused`] when its cluster has another number of
/// partitions.
pub async fn messages(settings: &Settings, role: Role) -> anyhow::Result<Opened<dyn Store>> {
    let config = DatabaseConfig::from(settings);
    let (store, mark) = patiently("database", async || {
        let store = ScyllaStore::connect(&config).await.map_err(of_database)?;
        let mark = match role {
            Role::Audit => known(store.mark().await?, &config)?,
            _ => store.mark_or_make(settings.partitions).await?,
        };
        Ok((store, mark))
    })
    .await?;
    let cluster = fitting(mark, format!("keyspace {}", config.keyspace), settings)?;
    match store.durability().await {
        Ok(durability) if durability.warnings.is_empty() => tracing::info!("{durability}"),
        Ok(durability) => tracing::warn!("{durability}"),
        Err(error) => tracing::warn!(%error, "the durability of the database could not be determined"),
    }
    Ok(Opened { store, cluster })
}

/// Opens the store of users in the database, which must have the mark of a message-worker.
///
/// # Errors
/// When the database cannot be used within `STARTUP_PATIENCE`; [`Refused`] when its cluster has another number of
/// partitions.
pub async fn users(settings: &Settings) -> anyhow::Result<Opened<dyn UserStore>> {
    let config = DatabaseConfig::from(settings);
    let (store, mark) = patiently("database", async || {
        let store = ScyllaUserStore::connect(&config).await.map_err(of_database)?;
        let mark = known(store.mark().await?, &config)?;
        Ok((store, mark))
    })
    .await?;
    let cluster = fitting(mark, format!("keyspace {}", config.keyspace), settings)?;
    Ok(Opened { store, cluster })
}

fn known(mark: Option<Mark>, config: &DatabaseConfig) -> anyhow::Result<Mark> {
    mark.with_context(|| format!("no message-worker has used keyspace {} yet: start one", config.keyspace))
}

/// The cluster in the mark of `place`, if it has the number of partitions of the settings.
fn fitting(mark: Mark, place: String, settings: &Settings) -> anyhow::Result<ClusterId> {
    mark.check_partitions(place, settings.partitions).map_err(of_misfit)?;
    Ok(mark.id)
}

/// The error is wrong usage, so another attempt would not help.
fn refused(error: impl std::fmt::Display) -> anyhow::Error {
    Refused(vec![error.to_string()]).into()
}

fn of_misfit(misfit: Misfit) -> anyhow::Error {
    refused(misfit)
}

fn of_bus(error: ConnectError) -> anyhow::Error {
    match error {
        ConnectError::Misfit(misfit) => of_misfit(misfit),
        ConnectError::Bus(error) => error.into(),
    }
}

fn of_database(error: DatabaseError) -> anyhow::Error {
    if error.is_final() { refused(error) } else { error.into() }
}

/// Brings the database's schema up to date and prints what was done. It also refuses a number of partitions that
/// workers would refuse: if it runs before an upgrade, the old version then continues to run unchanged.
///
/// # Errors
/// When the database cannot be used within `STARTUP_PATIENCE`, or refuses a migration; [`Refused`] when a newer
/// program has migrated it, or its cluster has another number of partitions.
pub async fn migrate(settings: &Settings) -> anyhow::Result<()> {
    let config = DatabaseConfig::from(settings);
    let alone = async || database::pending_alone(&config).await.map_err(of_database);
    if let Some(step) = patiently("database", alone).await? {
        ensure_no_worker_runs(settings, step).await?;
    }
    let done = patiently("database", async || database::migrate(&config).await.map_err(of_database)).await?;
    let session = database::connect(&config.nodes, &config.keyspace).await.map_err(of_database)?;
    if let Some(mark) = database::mark(&session).await? {
        fitting(mark, format!("keyspace {}", config.keyspace), settings)?;
    }
    if done.is_empty() {
        println!("keyspace {} is up to date", config.keyspace);
    }
    done.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// Refuses a migration that changes what message-workers rely on while any of them are running.
async fn ensure_no_worker_runs(settings: &Settings, step: &str) -> anyhow::Result<()> {
    let Some(config) = nats(settings, "migrate", None) else { return Ok(()) };
    let live = NatsBus::live_workers(&config, KIND).await;
    let live = live.with_context(|| {
        format!("{step} needs all message-workers stopped, and whether any run is unknown")
    })?;
    anyhow::ensure!(
        live.is_empty(),
        "{step} changes what message-workers rely on, and {} are at work: stop them all, then migrate, then start the new \
         ones",
        live.len()
    );
    Ok(())
}

/// The two stores of a standalone process.
pub struct Stores {
    /// Conversations.
    pub messages: Arc<dyn Store>,
    /// Users.
    pub users: Arc<dyn UserStore>,
    /// The cluster that both belong to.
    pub cluster: ClusterId,
}

impl Stores {
    /// Opens both: in the database if the settings name one, else in the data directory.
    ///
    /// # Errors
    /// When the data directory is in use, or the database cannot be used; [`Refused`] when they belong to a cluster
    /// with another number of partitions.
    pub async fn open(settings: &Settings) -> anyhow::Result<Stores> {
        if !settings.scylla_nodes.is_empty() {
            let Opened { store, cluster } = messages(settings, Role::Standalone).await?;
            return Ok(Stores { messages: store, users: users(settings).await?.store, cluster });
        }
        let data_dir = settings.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || {
            // The first store to be opened locks the directory, and fails if another process has locked it.
            let messages = EmbeddedStore::open(&data_dir)?;
            let users = EmbeddedUserStore::open(&data_dir)
                .with_context(|| format!("data directory {} cannot be used", data_dir.display()))?;
            anyhow::Ok((messages, users))
        });
        let (messages, users) = opened.await.context("opening the stores was cut off")??;
        let mark = messages.mark_or_make(settings.partitions).await?;
        let cluster = fitting(mark, format!("data directory {}", settings.data_dir.display()), settings)?;
        Ok(Stores { messages, users, cluster })
    }

    /// Closes both. The embedded stores then write what they have in memory.
    pub async fn close(self) {
        if Arc::strong_count(&self.messages) > 1 {
            tracing::warn!("the store is still in use and will close later");
        }
        // Closing waits for the disk, so it must not block this thread.
        if tokio::task::spawn_blocking(move || drop(self)).await.is_err() {
            tracing::error!("closing the store failed");
        }
    }
}

/// A store of either kind, for readiness probes.
pub enum AnyStore {
    /// The store of conversations.
    Messages(Arc<dyn Store>),
    /// The store of users.
    Users(Arc<dyn UserStore>),
}

impl AnyStore {
    /// Whether the store can be used now.
    pub async fn healthy(&self) -> bool {
        match self {
            Self::Messages(store) => store.healthy().await,
            Self::Users(store) => store.healthy().await,
        }
    }
}

/// Repeats `attempt` until it succeeds, is refused, or `STARTUP_PATIENCE` has passed: in a cluster, all processes
/// start at the same time.
async fn patiently<T>(what: &'static str, attempt: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + STARTUP_PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() + RETRY_PAUSE < deadline && !error.is::<Refused>() => {
                tracing::warn!(what, "not available yet, trying again: {error:#}");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn late_servers_are_waited_for_and_absent_or_wrong_ones_are_reported() {
        let attempts = Cell::new(0);
        let late = patiently("late", async || {
            attempts.set(attempts.get() + 1);
            if attempts.get() == 5 { Ok("here") } else { anyhow::bail!("away") }
        });
        assert_eq!(late.await.expect("the server answers at last"), "here");

        let started = Instant::now();
        let error = patiently("absent", async || anyhow::Result::<()>::Err(anyhow::anyhow!("away"))).await;
        assert_eq!(error.expect_err("an absent server is reported").to_string(), "away");
        assert!(started.elapsed() <= STARTUP_PATIENCE);

        let started = Instant::now();
        let wrong = patiently("wrong", async || anyhow::Result::<()>::Err(refused("another cluster"))).await;
        assert!(wrong.is_err_and(|error| error.is::<Refused>()));
        assert_eq!(started.elapsed(), Duration::ZERO, "a refusal must be reported at once");
    }
}
