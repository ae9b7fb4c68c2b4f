//! The conformance server: the echo applications that the protocols' own test suites expect, on Carillon's Engine.IO
//! and Socket.IO layers. An echo on `/engine.io/`, and an echo in two namespaces on `/socket.io/`, with short
//! heartbeats.
//!
//! The suites are `docs/engine.io-protocol/v4-test-suite` and `docs/socket.io-protocol/v5-test-suite` of the repository
//! socketio/socket.io; `tests/tests/protocols` has the same cases, and more.

use anyhow::Context as _;
use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use carillon_gateway::connection::outgoing::Outgoing;
use carillon_gateway::core::keepalive::Pings;
use carillon_gateway::core::outbox::Urgency;
use carillon_gateway::engine::{Config, Engine, Service};
use carillon_gateway::session::handler::{ConnectionHandler, MessageHandler};
use carillon_gateway::socketio::{Packets, Sockets};
use carillon_gateway::{connection::frame, http::listen};
use carillon_proto::code::Close;
use carillon_proto::dialect::socketio::packet::{self, Kind, Packet};
use carillon_proto::limits::{ENGINEIO_PAYLOAD_BYTES_MAX, ENGINEIO_POST_PACKETS_MAX};
use clap::{Arg, Command, value_parser};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const ABOUT: &str = "\
Serves the echo applications that the test suites of Engine.IO 4 and Socket.IO 5 expect, at /engine.io/ and /socket.io/.";

/// The suites expect heartbeats with these times.
const PINGS: Pings = Pings { interval: Duration::from_millis(300), timeout: Duration::from_millis(200) };
/// Time for a client to connect to a namespace; later the connection is closed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const NAMESPACES: [&str; 2] = ["/", "/custom"];

fn main() -> anyhow::Result<()> {
    let listen = Arg::new("listen")
        .long("listen")
        .value_name("address")
        .help("Where to listen")
        .default_value("127.0.0.1:3000")
        .value_parser(value_parser!(SocketAddr));
    let matches = Command::new("conformance").about(ABOUT).arg(listen).get_matches();
    let address = *matches.get_one::<SocketAddr>("listen").context("nowhere to listen")?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(address))
}

async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let listener = listen::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    println!("serving on http://{address}");
    let router =
        Router::new().route("/engine.io/", serving(EngineEcho)).route("/socket.io/", serving(SocketEcho));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(listen::serve(listener, router, listen::http_connections(0), stop.clone()));
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    serving.await?;
    Ok(())
}

fn serving<S: Service>(service: S) -> axum::routing::MethodRouter {
    let config = Config {
        name: "echo",
        pings: PINGS,
        payload_bytes_max: ENGINEIO_PAYLOAD_BYTES_MAX,
        packets_max: ENGINEIO_POST_PACKETS_MAX,
        packet_bytes_max: ENGINEIO_PAYLOAD_BYTES_MAX,
        message_bytes_max: ENGINEIO_PAYLOAD_BYTES_MAX,
    };
    let engine = Engine::new(config, service, Arc::default(), None);
    any(move |request| engine.clone().handle(request))
}

struct EngineEcho;

impl Service for EngineEcho {
    type Handler = Echo;
    type Permit = ();

    fn admit(&self, _: &Request) -> Result<(), Box<Response>> {
        Ok(())
    }

    fn open(&self, outgoing: &Arc<Outgoing>, (): &()) -> Echo {
        Echo(outgoing.clone())
    }

    fn unpack(&self, _: &Arc<Outgoing>, _: Bytes) -> Option<Echo> {
        None
    }
}

/// Sends every message back.
struct Echo(Arc<Outgoing>);

impl MessageHandler for Echo {
    fn text(&mut self, text: &str) -> Result<(), Close> {
        self.0.offer(&frame::text(&format!("4{text}")), Urgency::Reply);
        Ok(())
    }

    fn binary(&mut self, bytes: Bytes) -> Result<(), Close> {
        self.0.offer(&frame::binary(&bytes), Urgency::Reply);
        Ok(())
    }
}

impl ConnectionHandler for Echo {
    async fn end(self) {}
}

struct SocketEcho;

impl Service for SocketEcho {
    type Handler = Packets<EchoSockets>;
    type Permit = ();

    fn admit(&self, _: &Request) -> Result<(), Box<Response>> {
        Ok(())
    }

    fn open(&self, outgoing: &Arc<Outgoing>, (): &()) -> Packets<EchoSockets> {
        let sockets = EchoSockets { outgoing: outgoing.clone(), connected: Vec::new() };
        Packets::new(sockets, CONNECT_TIMEOUT)
    }

    fn unpack(&self, _: &Arc<Outgoing>, _: Bytes) -> Option<Packets<EchoSockets>> {
        None
    }
}

/// Sends the arguments of each event back, in the event's namespace, if the client is connected to it.
struct EchoSockets {
    outgoing: Arc<Outgoing>,
    connected: Vec<&'static str>,
}

impl EchoSockets {
    fn send_packet(&self, packet: &str) {
        self.outgoing.offer(&frame::text(packet), Urgency::Reply);
    }

    /// Sends an event or an acknowledgement, with its attachments if there are any.
    fn send(&self, event: bool, namespace: &str, id: Option<u64>, data: &str, attachments: &[Bytes]) {
        let (kind, count) =
            if event { (Kind::BinaryEvent, attachments.len()) } else { (Kind::BinaryAck, attachments.len()) };
        match (count, id) {
            (0, Some(id)) if !event => self.send_packet(&packet::ack(namespace, id, data)),
            (0, _) => self.send_packet(&packet::event(namespace, id, data)),
            _ => self.send_packet(&packet::binary(kind, count as u32, namespace, id, data)),
        }
        for attachment in attachments {
            self.outgoing.offer(&frame::binary(attachment), Urgency::Reply);
        }
    }
}

impl Sockets for EchoSockets {
    fn connect(&mut self, namespace: &str, auth: Option<&str>) -> Result<(), Close> {
        if self.connected.contains(&namespace) {
            return Err(Close::ProtocolError);
        }
        let Some(known) = NAMESPACES.into_iter().find(|known| *known == namespace) else {
            self.send_packet(&packet::connect_error(namespace, r#"{"message":"Invalid namespace"}"#));
            return Ok(());
        };
        self.connected.push(known);
        let sid = uuid::Uuid::new_v4().simple();
        self.send_packet(&packet::connect(known, &format!("{{\"sid\":\"{sid}\"}}")));
        self.send_packet(&packet::event(known, None, &format!("[\"auth\",{}]", auth.unwrap_or("{}"))));
        Ok(())
    }

    fn is_connected(&self) -> bool {
        !self.connected.is_empty()
    }

    fn accepts_attachments(&self) -> bool {
        true
    }

    fn packet(&mut self, packet: &Packet<'_>, attachments: Vec<Bytes>) -> Result<(), Close> {
        let namespace = packet.namespace;
        if !self.connected.contains(&namespace) {
            return Err(Close::ProtocolError);
        }
        match packet.kind {
            Kind::Disconnect => self.connected.retain(|connected| *connected != namespace),
            Kind::Event | Kind::BinaryEvent => {
                let (name, arguments) = packet.event().map_err(|_| Close::ProtocolError)?;
                let arguments: Vec<&str> = arguments.iter().map(|argument| argument.get()).collect();
                let all = arguments.join(",");
                match (&*name, packet.id) {
                    ("message", _) => {
                        let comma = if all.is_empty() { "" } else { "," };
                        let data = format!("[\"message-back\"{comma}{all}]");
                        self.send(true, namespace, None, &data, &attachments);
                    }
                    ("message-with-ack", Some(id)) => {
                        self.send(false, namespace, Some(id), &format!("[{all}]"), &attachments);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl ConnectionHandler for EchoSockets {
    async fn end(self) {}
}
