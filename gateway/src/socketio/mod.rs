//! Socket.IO 5 over Engine.IO: assembles packets with their attachments, and passes them to the [`Sockets`] behind
//! them.

mod client;
mod moving;
mod service;
mod start;

pub use client::{Client, Path};
pub use service::{SocketIoService, engine};

use crate::session::handler::{ConnectionHandler, MessageHandler};
use bytes::Bytes;
use carillon_proto::code::Close;
use carillon_proto::dialect::socketio::assembly::Assembly;
use carillon_proto::dialect::socketio::packet::{Kind, Packet};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of a namespace's name. The names that are served are shorter; a longer name would only be echoed in the
/// refusal.
const NAMESPACE_BYTES_MAX: usize = 256;

/// Serves the namespaces of one client.
pub trait Sockets: ConnectionHandler {
    /// The client requests a namespace, with the JSON of its `auth` if it gave any.
    ///
    /// # Errors
    /// The reason to close the connection: the client is in that namespace already.
    fn connect(&mut self, namespace: &str, auth: Option<&str>) -> Result<(), Close>;
    /// Whether the client is in a namespace, or is entering or leaving one.
    fn is_connected(&self) -> bool;
    /// Whether attachments are accepted. Before the client has authenticated they are not, so that strangers cannot
    /// make the server hold them in memory.
    fn accepts_attachments(&self) -> bool;
    /// An event, an acknowledgement or a disconnect was received.
    ///
    /// # Errors
    /// The reason to close the connection: the packet is for a namespace that the client is not in.
    fn packet(&mut self, packet: &Packet<'_>, attachments: Vec<Bytes>) -> Result<(), Close>;
}

/// The packets of one client, from messages of text and binary messages.
pub struct Packets<S> {
    assembly: Assembly,
    sockets: S,
    started: Instant,
    /// Time by which the client must have requested a namespace.
    connect_by: Option<Instant>,
}

impl<S: Sockets> Packets<S> {
    /// Packets for `sockets`, of a client that has `connect_timeout` to request a namespace.
    pub fn new(sockets: S, connect_timeout: Duration) -> Packets<S> {
        let started = Instant::now();
        let assembly = Assembly::new(sockets.accepts_attachments());
        Packets { assembly, sockets, started, connect_by: Some(started + connect_timeout) }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// Passes a packet to the namespaces.
fn handle_packet<S: Sockets>(
    sockets: &mut S,
    packet: &Packet<'_>,
    attachments: Vec<Bytes>,
) -> Result<(), Close> {
    match packet.kind {
        // A refusal repeats the namespace's name, so limit its length.
        Kind::Connect if packet.namespace.len() > NAMESPACE_BYTES_MAX => Err(Close::ProtocolError),
        Kind::Connect => sockets.connect(packet.namespace, packet.data),
        // Only a server may refuse a CONNECT.
        Kind::ConnectError => Err(Close::ProtocolError),
        _ => sockets.packet(packet, attachments),
    }
}

impl<S: Sockets> MessageHandler for Packets<S> {
    fn text(&mut self, text: &str) -> Result<(), Close> {
        let now_ms = self.now_ms();
        if self.sockets.accepts_attachments() {
            self.assembly.allow_attachments();
        }
        match self.assembly.text(now_ms, text) {
            Ok(Some(packet)) => handle_packet(&mut self.sockets, &packet, Vec::new()),
            Ok(None) => Ok(()),
            Err(_) => Err(Close::ProtocolError),
        }
    }

    fn binary(&mut self, bytes: Bytes) -> Result<(), Close> {
        let now_ms = self.now_ms();
        match self.assembly.binary(now_ms, bytes) {
            Ok(Some(assembled)) => {
                let packet = assembled.packet().map_err(|_| Close::ProtocolError)?;
                handle_packet(&mut self.sockets, &packet, assembled.attachments.clone())
            }
            Ok(None) => Ok(()),
            Err(_) => Err(Close::ProtocolError),
        }
    }
}

impl<S: Sockets> ConnectionHandler for Packets<S> {
    fn reads(&self) -> bool {
        self.sockets.reads()
    }

    fn advance(&mut self) {
        self.sockets.advance();
    }

    fn poll_work(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.sockets.poll_work(context)
    }

    fn woken(&mut self) -> Result<(), Close> {
        if self.connect_by.is_some() && self.sockets.is_connected() {
            self.connect_by = None;
        }
        self.sockets.woken()
    }

    fn deadline(&self) -> Option<Instant> {
        let attachments = self.assembly.deadline_ms();
        // One millisecond later, so that the deadline has passed when the timer fires.
        let attachments = attachments.map(|at_ms| self.started + Duration::from_millis(at_ms + 1));
        [attachments, self.connect_by, self.sockets.deadline()].into_iter().flatten().min()
    }

    fn due(&mut self) -> Result<(), Close> {
        let late = self.assembly.deadline_ms().is_some_and(|at_ms| self.now_ms() > at_ms);
        if late || self.connect_by.is_some_and(|by| Instant::now() >= by) {
            return Err(Close::ProtocolError);
        }
        self.sockets.due()
    }

    fn pack(&self) -> Option<Bytes> {
        if self.assembly.is_waiting() { None } else { self.sockets.pack() }
    }

    async fn end(self) {
        self.sockets.end().await;
    }
}
