//! Runs each role: from its settings to its clean stop.

use crate::connect::Opened;
use crate::parts::Parts;
use crate::standalone::{self, Running};
use crate::{connect, limits};
use anyhow::Context;
use carillon_gateway::Gateway;
use carillon_message_worker::{VERSION, VERSION_MARK_LENGTH_MAX};
use carillon_proto::id::WorkerId;
use carillon_proto::limits::SERVICE_ID_LENGTH_MAX;
use carillon_runtime::admin::{Admin, Health};
use carillon_runtime::bus::Bus;
use carillon_runtime::settings::{Role, Settings};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long the stop of a gateway may last after its `drain_timeout`, to send its last frames.
pub const GATEWAY_STOP_MARGIN: Duration = Duration::from_secs(3);
/// The time that a worker has to finish its work when it stops. A shorter `drain_timeout` does not shorten it.
pub const WORKER_STOP_TIMEOUT: Duration = Duration::from_secs(4);
/// Probes have nothing to finish, so they stop at once.
const PROBES_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a role until `shutdown`, and stops it.
///
/// # Errors
/// When it cannot start, fails while it runs, or does not stop cleanly.
pub async fn run(
    role: Role,
    mut settings: Settings,
    open_files: Option<u64>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    tracing::info!(role = role.as_str(), version = env!("CARGO_PKG_VERSION"), "starting");
    if role.serves_clients() {
        limits::fit(&mut settings.limits, open_files);
        if settings.dev && !settings.listen.ip().is_loopback() {
            tracing::warn!(listen = %settings.listen, "dev lets any client use any identity, and the listen address is reachable from other machines");
        }
    }
    match role {
        Role::Standalone => standalone(settings, shutdown).await,
        Role::Gateway => gateway(settings, shutdown).await,
        Role::MessageWorker => message_worker(settings, VERSION, shutdown).await,
        Role::PresenceWorker => presence_worker(settings, shutdown).await,
        Role::Migrate => connect::migrate(&settings).await,
        Role::Token => anyhow::bail!("a token is printed, not run"),
        Role::Audit => anyhow::bail!("an audit is told what to look at"),
    }
}

async fn standalone(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<()> {
    let dev = settings.dev;
    let banner = standalone::Banner::new(&settings);
    let Some(mut running) = unless(&shutdown, standalone::start(settings)).await? else { return Ok(()) };
    if dev {
        println!("{}", banner.text(running.addr()));
    }
    tokio::select! {
        () = shutdown.cancelled() => running.stop().await,
        error = running.failed() => failed(error, Running::stop(running)).await,
    }
}

async fn gateway(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<()> {
    // The port is bound first, so that a port in use is reported at once.
    let gateway = Gateway::bind(&settings)?;
    let needs = Arc::new(Needs::default());
    let mut parts = Parts::default();
    serve_probes(&mut parts, &settings, Role::Gateway, &needs, &shutdown).await?;
    let name = worker_id()?;
    let Some(bus) = unless(&shutdown, connect::bus(&settings, &name, None)).await? else {
        return parts.stop().await;
    };
    needs.bus.get_or_init(|| bus.clone());
    let patience = settings.drain_timeout + GATEWAY_STOP_MARGIN;
    parts.start("gateway", patience, |stop| gateway.run(bus, stop));
    until(parts, shutdown).await
}

/// Runs a message-worker until `shutdown`, and stops it. `version` is the newest version of the state machine that its
/// build knows.
///
/// # Errors
/// As for [`run`].
pub async fn message_worker(
    settings: Settings,
    version: u32,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let worker = worker_id()?;
    let needs = Arc::new(Needs::default());
    let mut parts = Parts::default();
    serve_probes(&mut parts, &settings, Role::MessageWorker, &needs, &shutdown).await?;
    let connecting = async {
        let Opened { store, cluster } = connect::messages(&settings, Role::MessageWorker).await?;
        anyhow::Ok((connect::bus(&settings, &worker, Some(cluster)).await?, store))
    };
    let Some((bus, store)) = unless(&shutdown, connecting).await? else { return parts.stop().await };
    needs.bus.get_or_init(|| bus.clone());
    needs.store.get_or_init(|| connect::AnyStore::Messages(store.clone()));
    let config = carillon_message_worker::Config {
        worker,
        partitions: settings.partitions,
        exclusive: false,
        version,
    };
    let patience = settings.drain_timeout.max(WORKER_STOP_TIMEOUT);
    parts.start("message-worker", patience, |stop| carillon_message_worker::run(config, bus, store, stop));
    until(parts, shutdown).await
}

async fn presence_worker(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<()> {
    let worker = worker_id()?;
    let needs = Arc::new(Needs::default());
    let mut parts = Parts::default();
    serve_probes(&mut parts, &settings, Role::PresenceWorker, &needs, &shutdown).await?;
    let connecting = async {
        let Opened { store, cluster } = connect::users(&settings).await?;
        anyhow::Ok((connect::bus(&settings, &worker, Some(cluster)).await?, store))
    };
    let Some((bus, users)) = unless(&shutdown, connecting).await? else { return parts.stop().await };
    needs.bus.get_or_init(|| bus.clone());
    needs.store.get_or_init(|| connect::AnyStore::Users(users.clone()));
    let config = carillon_presence_worker::Config { worker, grace: settings.presence_grace };
    let patience = settings.drain_timeout.max(WORKER_STOP_TIMEOUT);
    parts.start("presence-worker", patience, |stop| carillon_presence_worker::run(config, bus, users, stop));
    until(parts, shutdown).await
}

/// Runs the parts until `shutdown` or until one of them fails, and stops them.
pub(crate) async fn until(mut parts: Parts, shutdown: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        () = shutdown.cancelled() => parts.stop().await,
        error = parts.failed() => failed(error, Parts::stop(parts)).await,
    }
}

/// Stops the other parts after one failed. The first error is returned.
async fn failed(error: anyhow::Error, stop: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tracing::error!("{error:#}");
    // Failures of the stop are already in the log.
    let _ = stop.await;
    Err(error)
}

/// Waits for `begin` and returns its result, or `None` if `shutdown` comes first.
pub(crate) async fn unless<T>(
    shutdown: &CancellationToken,
    begin: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(None),
        begun = begin => begun.map(Some),
    }
}

/// The bus and the store of a process, for readiness probes. Each is set as soon as it is open.
#[derive(Default)]
pub(crate) struct Needs {
    pub(crate) bus: OnceLock<Arc<dyn Bus>>,
    pub(crate) store: OnceLock<connect::AnyStore>,
}

struct NeedsOf {
    needs: Arc<Needs>,
    role: Role,
}

#[async_trait::async_trait]
impl Health for NeedsOf {
    async fn parts(&self) -> Vec<(&'static str, bool)> {
        let bus = match self.needs.bus.get() {
            Some(bus) => bus.healthy().await,
            None => false,
        };
        if self.role == Role::Gateway {
            return vec![("bus", bus)];
        }
        let store = match self.needs.store.get() {
            Some(store) => store.healthy().await,
            None => false,
        };
        let mut parts = vec![("bus", bus), ("store", store)];
        if self.role == Role::MessageWorker {
            parts.push(("clock", carillon_message_worker::clocks_agree()));
        }
        parts
    }
}

/// Serves probes and metrics on `admin_listen`, if it is set.
pub(crate) async fn serve_probes(
    parts: &mut Parts,
    settings: &Settings,
    role: Role,
    needs: &Arc<Needs>,
    draining: &CancellationToken,
) -> anyhow::Result<()> {
    let Some(address) = settings.admin_listen else { return Ok(()) };
    let admin = Admin::bind(address, role.as_str()).await?;
    tracing::info!(listen = %admin.local_addr()?, "serving probes and metrics");
    let (health, draining) = (Arc::new(NeedsOf { needs: needs.clone(), role }), draining.clone());
    parts.start("probes", PROBES_STOP_TIMEOUT, |stop| async move {
        admin.run(health, draining, stop).await;
        Ok(())
    });
    Ok(())
}

/// Makes a worker's id: the host's name, and a random part that makes it unique to this process.
///
/// # Errors
/// When the operating system provides no random bytes.
pub fn worker_id() -> anyhow::Result<WorkerId> {
    let mut random = [0; 6];
    getrandom::fill(&mut random).context("no randomness for a worker id")?;
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let uname = rustix::system::uname();
    let host =
        uname.nodename().to_string_lossy().replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-");
    let room = SERVICE_ID_LENGTH_MAX - random.len() - 1 - VERSION_MARK_LENGTH_MAX;
    let host = &host[..host.len().min(room)];
    WorkerId::parse(&format!("{host}-{random}")).context("a worker id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_ids_are_valid_and_different() {
        let ids = [worker_id().expect("an id"), worker_id().expect("an id")];
        assert_ne!(ids[0], ids[1]);
    }

    #[tokio::test]
    async fn a_process_without_bus_or_store_is_not_ready() {
        let needs = Arc::new(Needs::default());
        let health = NeedsOf { needs: needs.clone(), role: Role::MessageWorker };
        assert_eq!(health.parts().await, [("bus", false), ("store", false), ("clock", true)]);
        needs.bus.get_or_init(|| carillon_runtime::bus::embedded::EmbeddedBus::new(1));
        assert_eq!(health.parts().await, [("bus", true), ("store", false), ("clock", true)]);
    }

    #[tokio::test]
    async fn a_start_is_abandoned_on_shutdown() {
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let begun = unless(&shutdown, std::future::pending::<anyhow::Result<()>>()).await;
        assert_eq!(begun.expect("no failure"), None);
    }
}
