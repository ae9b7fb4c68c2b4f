//! Runs everything in one process: store, bus, workers and gateway, started in this order and stopped in the reverse
//! order.

use crate::connect;
use crate::parts::Parts;
use crate::roles::{GATEWAY_STOP_MARGIN, Needs, WORKER_STOP_TIMEOUT, serve_probes, worker_id};
use carillon_gateway::Gateway;
use carillon_runtime::settings::{Role, Settings};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A running standalone Carillon. If it is dropped without [`Running::stop`], it ends without draining.
pub struct Running {
    addr: SocketAddr,
    draining: CancellationToken,
    parts: Parts,
    stores: connect::Stores,
}

/// Starts everything. Clients can connect to [`Running::addr`] as soon as it returns.
///
/// # Errors
/// When the data directory or the port is in use, when a bus or database that the settings name cannot be used, or when
/// these belong to different clusters.
pub async fn start(settings: Settings) -> anyhow::Result<Running> {
    let worker = worker_id()?;
    let stores = connect::Stores::open(&settings).await?;
    let gateway = Gateway::bind(&settings)?;
    let addr = gateway.local_addr()?;
    let bus = connect::bus(&settings, &worker, Some(stores.cluster)).await?;

    let (mut parts, draining, needs) =
        (Parts::default(), CancellationToken::new(), Arc::new(Needs::default()));
    needs.bus.get_or_init(|| bus.clone());
    needs.store.get_or_init(|| connect::AnyStore::Messages(stores.messages.clone()));
    serve_probes(&mut parts, &settings, Role::Standalone, &needs, &draining).await?;
    let config = carillon_message_worker::Config {
        worker: worker.clone(),
        partitions: settings.partitions,
        exclusive: settings.nats_url.is_none(),
        version: carillon_message_worker::VERSION,
    };
    let store = stores.messages.clone();
    let for_worker = bus.clone();
    parts.start("message-worker", WORKER_STOP_TIMEOUT, |stop| {
        carillon_message_worker::run(config, for_worker, store, stop)
    });
    let config = carillon_presence_worker::Config { worker, grace: settings.presence_grace };
    let users = stores.users.clone();
    let for_worker = bus.clone();
    parts.start("presence-worker", WORKER_STOP_TIMEOUT, |stop| {
        carillon_presence_worker::run(config, for_worker, users, stop)
    });
    parts.start("gateway", settings.drain_timeout + GATEWAY_STOP_MARGIN, |stop| gateway.run(bus, stop));
    Ok(Running { addr, draining, parts, stores })
}

impl Running {
    /// The address that clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until a part ends without having been stopped, and returns the reason.
    pub async fn failed(&mut self) -> anyhow::Error {
        self.parts.failed().await
    }

    /// Drains the gateway, lets the workers finish their work, and closes the stores.
    ///
    /// # Errors
    /// When a part failed while it stopped, or did not stop in time.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.draining.cancel();
        let stopped = self.parts.stop().await;
        self.stores.close().await;
        stopped
    }
}

/// The settings that the banner of `--dev` shows.
pub(crate) struct Banner {
    data: String,
    connections: u32,
}

impl Banner {
    pub(crate) fn new(settings: &Settings) -> Banner {
        let data_dir =
            std::path::absolute(&settings.data_dir).unwrap_or_else(|_| PathBuf::from(&settings.data_dir));
        let data = match settings.scylla_nodes.as_slice() {
            [] => data_dir.display().to_string(),
            nodes => format!("keyspace {} at {}", settings.scylla_keyspace, nodes.join(", ")),
        };
        Banner { data, connections: settings.limits.connections }
    }

    pub(crate) fn text(&self, addr: SocketAddr) -> String {
        // A gateway that listens on all addresses can be reached on this machine by the loopback address.
        let host = if addr.ip().is_unspecified() { "127.0.0.1".into() } else { addr.ip().to_string() };
        let host = if host.contains(':') {
            format!("[{host}]:{}", addr.port())
        } else {
            format!("{host}:{}", addr.port())
        };
        let mut banner =
            format!("Carillon {} serves. With --dev anyone may be anyone.\n", env!("CARGO_PKG_VERSION"));
        let _ = writeln!(banner, "  chat page     http://{host}/");
        let _ = writeln!(banner, "  API           http://{host}/api/docs");
        let _ = writeln!(banner, "  WebSocket     ws://{host}/ws/YOUR_NAME");
        let _ = writeln!(banner, "  data          {}", self.data);
        match self.connections {
            0 => banner.push_str("  connections   any number"),
            connections => {
                let _ = write!(banner, "  connections   up to {connections}");
            }
        }
        banner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_shows_all_addresses_and_the_data_directory() {
        let mut settings = Settings::defaults(Role::Standalone);
        settings.data_dir = "/data".into();
        let banner = Banner::new(&settings);
        let text = banner.text(SocketAddr::from(([0, 0, 0, 0], 8_000)));
        for part in
            ["http://127.0.0.1:8000/\n", "ws://127.0.0.1:8000/ws/", "/api/docs", "/data\n", "up to 10000"]
        {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert!(banner.text("[::1]:1".parse().expect("address")).contains("http://[::1]:1/"));
    }
}
