//! The gateway. It holds clients' connections, publishes their commands to the log, and delivers the events that
//! workers send.
//!
//! A gateway keeps nothing durable and has no access to a database, so a gateway that is killed loses nothing.

pub mod access;
pub mod connection;
pub mod core;
pub(crate) mod delivery;
pub mod engine;
pub mod http;
pub(crate) mod metrics;
pub mod native;
pub(crate) mod presence;
pub(crate) mod rest;
pub mod session;
pub mod shared;
pub mod socketio;
mod sync;
pub(crate) mod wall;
pub(crate) mod workers;

#[cfg(test)]
mod membership_tests;
#[cfg(test)]
mod order_tests;

use crate::connection::Signal;
use crate::delivery::deliver::Subscriptions;
use crate::shared::Shared;
use anyhow::Context;
use carillon_proto::code::Close;
use carillon_proto::event::Reply;
use carillon_proto::id::GatewayId;
use carillon_proto::limits::PRESENCE_SHARDS;
use carillon_proto::subject;
use carillon_runtime::bus::Bus;
use carillon_runtime::settings::{Access, Settings};
use carillon_runtime::time::steady_ms;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often commands without an outcome are checked for their timeout.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// How often users without a session are checked for removal.
const DIRECTORY_SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Drain time per connection. It spreads the reconnects of many clients, while a few clients leave at once.
const DRAIN_PER_CONNECTION: Duration = Duration::from_millis(2);
/// Time for the last announcements to leave.
const LAST_ANNOUNCEMENTS_TIME: Duration = Duration::from_millis(100);

/// A gateway whose port is open and which does not serve yet.
pub struct Gateway {
    listener: std::net::TcpListener,
    settings: Settings,
}

impl Gateway {
    /// Opens the port of `settings.listen`.
    ///
    /// # Errors
    /// When the port is taken or not allowed, with a message of one line.
    pub fn bind(settings: &Settings) -> anyhow::Result<Gateway> {
        let address = settings.listen;
        let listener = http::listen::bind(address).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                anyhow::anyhow!("{address} is in use: stop what listens there, or give another with --listen")
            }
            _ => anyhow::anyhow!("cannot listen on {address}: {error}"),
        })?;
        Ok(Gateway { listener, settings: settings.clone() })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// When the operating system does not return the address.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, then closes all connections within `drain_timeout`.
    ///
    /// # Errors
    /// When the bus cannot be reached at the start.
    pub async fn run(self, bus: Arc<dyn Bus>, shutdown: CancellationToken) -> anyhow::Result<()> {
        let listener =
            tokio::net::TcpListener::from_std(self.listener).context("the listener cannot be used")?;
        let mut gateway = GatewayTasks::start(self.settings, bus).await?;
        let shared = gateway.shared().clone();
        let stop_accepting = CancellationToken::new();
        let http_connections = http::listen::http_connections(shared.settings.limits.connections);
        let router = http::routes::router(shared.clone());
        gateway.tasks.spawn(http::listen::serve(listener, router, http_connections, stop_accepting.clone()));
        tracing::info!(gateway = %shared.id, "the gateway serves");
        let served = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            error = gateway.failed() => Err(error),
        };
        gateway.drain().await;
        stop_accepting.cancel();
        gateway.end().await;
        served
    }
}

/// A gateway without its port: the tasks that serve sessions. Dropping it stops them at once, like a crash.
pub struct GatewayTasks {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl GatewayTasks {
    /// Builds a gateway's parts and starts their tasks. Sessions are started by [`session::start::start`].
    ///
    /// # Errors
    /// When the bus cannot be reached.
    pub async fn start(settings: Settings, bus: Arc<dyn Bus>) -> anyhow::Result<GatewayTasks> {
        warn_of_unserved(&settings);
        let mut tasks = JoinSet::new();
        let shared = assemble(settings, bus, &mut tasks)?;
        let subscriptions = Subscriptions::of(&shared).await.context("no subscription to the bus")?;
        tasks.spawn(delivery::deliver::run(shared.clone(), subscriptions));
        let relayed = shared.bus.subscribe(&subject::engine(&shared.id), None).await;
        let relayed = relayed.context("no subscription to the bus")?;
        let relay = engine::Relay::new(shared.id.clone(), shared.bus.clone());
        tasks.spawn(engine::relayed::serve(shared.polling.clone(), relay, relayed));
        tasks.spawn(delivery::ephemeral::end_typing(shared.clone()));
        tasks.spawn(presence::refresh(shared.clone()));
        tasks.spawn(sweep(shared.clone()));
        tasks.spawn(workers::outcomes::run(shared.clone()));
        Ok(GatewayTasks { shared, tasks })
    }

    /// The state that all sessions share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Waits until one of the gateway's tasks panics. The gateway must then stop, because without the task some
    /// conversations would silently receive nothing.
    pub async fn failed(&mut self) -> anyhow::Error {
        loop {
            match self.tasks.join_next().await {
                Some(Err(error)) if error.is_panic() => {
                    return anyhow::Error::new(error).context("a task of the gateway panicked");
                }
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Sends all clients away and closes their connections within `drain_timeout`.
    pub async fn drain(&self) {
        drain(&self.shared).await;
    }

    /// Waits until the last announcements have left, then stops all tasks.
    pub async fn end(mut self) {
        tokio::time::sleep(LAST_ANNOUNCEMENTS_TIME).await;
        self.tasks.shutdown().await;
    }
}

/// Warns of settings that this version accepts and does not apply. They are accepted because one environment may
/// configure several versions.
fn warn_of_unserved(settings: &Settings) {
    let rules = settings.access_namespaces.values().chain([&settings.access_default]);
    if rules.into_iter().any(|access| matches!(access, Access::Webhook(_))) {
        tracing::warn!("access by webhook is not served by this version: nobody may use those conversations");
    }
    if settings.auth.jwks_url.is_some() {
        tracing::warn!(
            "auth.jwks_url is not served by this version: only tokens signed with auth.secret count"
        );
    }
}

/// Builds a gateway's parts and starts the tasks of its partitions and presence shards.
fn assemble(settings: Settings, bus: Arc<dyn Bus>, tasks: &mut JoinSet<()>) -> anyhow::Result<Arc<Shared>> {
    let partitions = settings.partitions;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let id = GatewayId::parse(&format!("g-{}", &id[..16])).context("a gateway id")?;
    let (links, link_tasks): (Vec<_>, Vec<_>) = (0..partitions).map(|_| workers::links::link()).unzip();
    let (publishers, queues): (Vec<_>, Vec<_>) =
        (0..partitions).map(|_| workers::publish::publisher()).unzip();
    let (presence, shard_tasks): (Vec<_>, Vec<_>) = (0..PRESENCE_SHARDS).map(|_| presence::shard()).unzip();
    let (passing, passing_queue) = delivery::ephemeral::passing();
    let delivery = delivery::batches::Delivery {
        hub: Arc::new(delivery::hub::Hub::new(partitions)),
        pending: Arc::default(),
        reader: workers::reader::Reader::new(bus.clone()),
    };
    let shared = Arc::new_cyclic(|this| Shared {
        id: id.clone(),
        partitions,
        bus: bus.clone(),
        verifier: access::auth::Verifier::new(&settings.auth),
        access: access::AccessRules::new(&settings),
        admission: access::admission::Admission::new(&settings),
        directory: presence::directory::Directory::default(),
        delivery: delivery.clone(),
        links,
        publishers,
        presence,
        audience: presence::Audience::default(),
        refreshing: presence::Refreshing::default(),
        passing,
        typing_ends: delivery::ephemeral::TypingEnds::default(),
        next_connection: 0.into(),
        draining: CancellationToken::new(),
        this: this.clone(),
        polling: Arc::default(),
        recoveries: session::recovery::Recoveries::default(),
        reads: Arc::new(delivery::reads::SharedReads::new(delivery.reader.clone())),
        health: rest::RecentHealth::default(),
        settings,
    });
    for (partition, (task, queue)) in (0..).zip(link_tasks.into_iter().zip(queues)) {
        tasks.spawn(task.run(id.clone(), bus.clone(), delivery.clone(), partition));
        let log =
            workers::publish::PartitionLog { bus: bus.clone(), pending: delivery.pending.clone(), partition };
        tasks.spawn(workers::publish::run(log, queue));
    }
    for (shard, task) in (0..).zip(shard_tasks) {
        tasks.spawn(task.run(shared.clone(), shard));
    }
    tasks.spawn(delivery::ephemeral::run(shared.clone(), passing_queue));
    Ok(shared)
}

async fn sweep(shared: Arc<Shared>) {
    let mut directory_swept = Instant::now();
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        shared.delivery.pending.sweep(Instant::now());
        shared.reads.sweep();
        if directory_swept.elapsed() > DIRECTORY_SWEEP_INTERVAL {
            shared.directory.sweep(steady_ms(), &shared.settings.limits);
            directory_swept = Instant::now();
        }
    }
}

/// Sends every client a `reconnect` with a random delay, and closes the connections spread over at most half of
/// `drain_timeout`.
async fn drain(shared: &Shared) {
    shared.draining.cancel();
    let connections = shared.directory.connections();
    let limit = shared.settings.drain_timeout;
    let spread = (DRAIN_PER_CONNECTION * connections.len() as u32).min(limit / 2);
    tracing::info!(connections = connections.len(), "sending clients away");
    let started = Instant::now();
    for (index, connection) in connections.iter().enumerate() {
        let after_ms = random_below(spread.as_millis() as u64 + 1_000);
        session::notify(connection, &Reply::Reconnect { after_ms });
        connection.signal(Signal::Close(Close::Draining));
        if index % 64 == 63 {
            let due = spread.mul_f64((index + 1) as f64 / connections.len() as f64);
            tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
        }
    }
    while shared.admission.connections() > 0 && started.elapsed() < limit {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A random number below `bound`. It only spreads load and is not for secrets.
pub(crate) fn random_below(bound: u64) -> u64 {
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    random % bound.max(1)
}
