//! Opens what a role needs: the bus and the stores, embedded or by the network, as the settings say.

use anyhow::Context;
use carillon_message_worker::store::Store;
use carillon_message_worker::store::embedded::EmbeddedStore;
use carillon_message_worker::store::scylla::ScyllaStore;
use carillon_presence_worker::store::UserStore;
use carillon_presence_worker::store::embedded::EmbeddedUserStore;
use carillon_presence_worker::store::scylla::ScyllaUserStore;
use carillon_proto::id::WorkerId;
use carillon_runtime::bus::Bus;
use carillon_runtime::bus::embedded::EmbeddedBus;
use carillon_runtime::bus::nats::{NatsBus, NatsConfig};
use carillon_runtime::database::{self, DatabaseConfig};
use carillon_runtime::settings::Settings;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long servers that start at the same time as this process are waited for: less than the minute after
/// which Kubernetes gives a starting pod up.
const STARTUP_PATIENCE: Duration = Duration::from_secs(45);
/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// The bus: NATS if the settings name it, else one of this process's own.
///
/// # Errors
/// When NATS cannot be used, even after a while.
pub async fn bus(settings: &Settings, name: &WorkerId) -> anyhow::Result<Arc<dyn Bus>> {
    let Some(url) = &settings.nats_url else { return Ok(EmbeddedBus::new(settings.partitions)) };
    let config = NatsConfig {
        url: url.clone(),
        replicas: settings.nats_replicas,
        partitions: settings.partitions,
        name: name.to_string(),
    };
    let bus = patiently("nats", async || Ok(NatsBus::connect(config.clone()).await?)).await?;
    match bus.durability().await {
        Ok(durability) if durability.warnings.is_empty() => tracing::info!("{durability}"),
        Ok(durability) => tracing::warn!("{durability}"),
        Err(error) => tracing::warn!(%error, "how durable the bus is cannot be told"),
    }
    Ok(bus)
}

/// The store of conversations in the database.
///
/// # Errors
/// When the database cannot be used, even after a while.
pub async fn messages(settings: &Settings) -> anyhow::Result<Arc<dyn Store>> {
    let config = DatabaseConfig::from(settings);
    let store = patiently("database", async || Ok(ScyllaStore::connect(&config).await?)).await?;
    match store.durability().await {
        Ok(durability) if durability.warnings.is_empty() => tracing::info!("{durability}"),
        Ok(durability) => tracing::warn!("{durability}"),
        Err(error) => tracing::warn!(%error, "how durable the database is cannot be told"),
    }
    Ok(store)
}

/// The store of users in the database.
///
/// # Errors
/// When the database cannot be used, even after a while.
pub async fn users(settings: &Settings) -> anyhow::Result<Arc<dyn UserStore>> {
    let config = DatabaseConfig::from(settings);
    Ok(patiently("database", async || Ok(ScyllaUserStore::connect(&config).await?)).await?)
}

/// Brings the database's schema up to date and tells what was done.
///
/// # Errors
/// When the database cannot be used, even after a while, or refuses.
pub async fn migrate(settings: &Settings) -> anyhow::Result<()> {
    let config = DatabaseConfig::from(settings);
    let done = patiently("database", async || Ok(database::migrate(&config).await?)).await?;
    if done.is_empty() {
        println!("keyspace {} is up to date", config.keyspace);
    }
    done.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// Both stores of a standalone process.
pub struct Stores {
    /// Conversations.
    pub messages: Arc<dyn Store>,
    /// Users.
    pub users: Arc<dyn UserStore>,
}

impl Stores {
    /// Opens them: in the database if the settings name one, else in the data directory.
    ///
    /// # Errors
    /// When the data directory is in use, or the database cannot be used.
    pub async fn open(settings: &Settings) -> anyhow::Result<Stores> {
        if !settings.scylla_nodes.is_empty() {
            return Ok(Stores { messages: messages(settings).await?, users: users(settings).await? });
        }
        let data_dir = settings.data_dir.clone();
        tokio::task::spawn_blocking(move || {
            // The first to be opened holds the directory, and says so if another process does.
            let messages = EmbeddedStore::open(&data_dir)?;
            let users = EmbeddedUserStore::open(&data_dir)
                .with_context(|| format!("data directory {} cannot be used", data_dir.display()))?;
            Ok(Stores { messages, users })
        })
        .await
        .context("opening the stores was cut off")?
    }

    /// Closes them, once nobody else holds them: what the embedded ones have in memory is written.
    pub async fn close(self) {
        if Arc::strong_count(&self.messages) > 1 {
            tracing::warn!("the store is still in use and closes late");
        }
        // Closing waits for the disk.
        if tokio::task::spawn_blocking(move || drop(self)).await.is_err() {
            tracing::error!("closing the store failed");
        }
    }
}

/// Any store, for probes.
pub enum AnyStore {
    /// Of conversations.
    Messages(Arc<dyn Store>),
    /// Of users.
    Users(Arc<dyn UserStore>),
}

impl AnyStore {
    /// Whether it can be used now.
    pub async fn healthy(&self) -> bool {
        match self {
            Self::Messages(store) => store.healthy().await,
            Self::Users(store) => store.healthy().await,
        }
    }
}

/// Tries until it works or patience ends: in a cluster everything starts at once.
async fn patiently<T>(what: &'static str, attempt: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + STARTUP_PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() + RETRY_PAUSE < deadline => {
                tracing::warn!(what, "not there yet: {error:#}");
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
    async fn what_comes_late_is_waited_for_and_what_does_not_come_is_told() {
        let attempts = Cell::new(0);
        let late = patiently("late", async || {
            attempts.set(attempts.get() + 1);
            if attempts.get() == 5 { Ok("here") } else { anyhow::bail!("away") }
        });
        assert_eq!(late.await.expect("it came"), "here");

        let started = Instant::now();
        let error = patiently("absent", async || anyhow::Result::<()>::Err(anyhow::anyhow!("away"))).await;
        assert_eq!(error.expect_err("it never came").to_string(), "away");
        assert!(started.elapsed() <= STARTUP_PATIENCE);
    }
}
