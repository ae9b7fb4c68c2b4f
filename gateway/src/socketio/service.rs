//! Socket.IO on this gateway's listener: the engine for each path, with its limits.

use super::{Client, Packets, Path};
use crate::access::admission::ConnectionPermit;
use crate::connection::outgoing::Outgoing;
use crate::core::keepalive::Pings;
use crate::engine::{Config, Engine, Relay, Service};
use crate::http::routes::admit;
use crate::shared::Shared;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use carillon_proto::limits::{
    ENGINEIO_PAYLOAD_BYTES_MAX, ENGINEIO_POST_PACKETS_MAX, SOCKETIO_ATTACHMENTS_BYTES_MAX,
};
use carillon_proto::wire::MovedClient;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;

/// Time for a client to request a namespace.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves all Socket.IO vocabularies on one path.
pub struct SocketIoService {
    shared: Arc<Shared>,
    path: Path,
}

/// The Engine.IO engine that serves a path.
pub fn engine(shared: Arc<Shared>, path: Path) -> Arc<Engine<SocketIoService>> {
    let settings = &shared.settings;
    let packet_bytes_max = settings.limits.frame_bytes;
    let config = Config {
        name: match path {
            Path::Api => "api",
            Path::SocketIo => "socket.io",
        },
        pings: Pings { interval: settings.ping_interval, timeout: settings.ping_timeout },
        payload_bytes_max: ENGINEIO_PAYLOAD_BYTES_MAX,
        packets_max: ENGINEIO_POST_PACKETS_MAX,
        packet_bytes_max,
        message_bytes_max: match packet_bytes_max {
            0 => 0,
            bytes => bytes.max(SOCKETIO_ATTACHMENTS_BYTES_MAX),
        },
    };
    let relay = Relay::new(shared.id.clone(), shared.bus.clone());
    let sessions = shared.polling.clone();
    Engine::new(config, SocketIoService { shared, path }, sessions, Some(relay))
}

/// The permit of a connection, and whether its query or the settings request recovery.
pub struct SocketIoPermit {
    _connection: ConnectionPermit,
    recovers: bool,
}

impl Service for SocketIoService {
    type Handler = Packets<Client>;
    type Permit = SocketIoPermit;

    fn admit(&self, request: &Request) -> Result<SocketIoPermit, Box<Response>> {
        let mut query = request.uri().query().unwrap_or_default().split('&');
        let recovers = self.shared.settings.socketio_recovery || query.any(|pair| pair == "recovery=1");
        Ok(SocketIoPermit { _connection: admit(&self.shared, request)?, recovers })
    }

    fn open(&self, outgoing: &Arc<Outgoing>, permit: &SocketIoPermit) -> Packets<Client> {
        let client = Client::new(self.shared.clone(), outgoing.clone(), self.path, permit.recovers);
        Packets::new(client, CONNECT_TIMEOUT)
    }

    fn unpack(&self, outgoing: &Arc<Outgoing>, packed: Bytes) -> Option<Packets<Client>> {
        let moved = MovedClient::decode(packed).ok()?;
        let client = Client::moved(self.shared.clone(), outgoing.clone(), self.path, moved)?;
        Some(Packets::new(client, CONNECT_TIMEOUT))
    }
}
