//! Engine.IO packets in WebSocket frames: one a frame, and heartbeats that the server begins.

use crate::core::keepalive::{Due, Keepalive, Pings};
use crate::drive::{Framing, Understood};
use bytes::Bytes;
use carillon_proto::code::Close;
use carillon_proto::dialect::socketio::engine::Packet;
use std::borrow::Cow;
use tokio::time::Instant;

/// A heartbeat, `2` in a text frame.
pub const PING: Bytes = Bytes::from_static(&[0x81, 1, b'2']);
/// The end of a poll that waits, `6` in a text frame.
pub const NOOP: Bytes = Bytes::from_static(&[0x81, 1, b'6']);

/// Packets on one WebSocket.
pub struct EnginePackets {
    keepalive: Keepalive,
    packet_bytes_max: usize,
}

impl EnginePackets {
    /// Packets of at most so many bytes, 0: any.
    pub fn new(pings: Pings, packet_bytes_max: usize) -> EnginePackets {
        EnginePackets { keepalive: Keepalive::new(pings, Instant::now().into_std()), packet_bytes_max }
    }
}

impl Framing for EnginePackets {
    fn text<'a>(&mut self, text: &'a str) -> Result<Understood<'a>, Close> {
        if self.packet_bytes_max > 0 && text.len() > self.packet_bytes_max {
            return Err(Close::FrameTooLarge);
        }
        match Packet::parse(text).map_err(|_| Close::ProtocolError)? {
            Packet::Message(Cow::Borrowed(text)) => Ok(Understood::Message(text)),
            Packet::Binary(bytes) => Ok(Understood::Binary(bytes.into_owned().into())),
            Packet::Pong(_) => {
                self.deaf();
                Ok(Understood::Nothing)
            }
            Packet::Close => Ok(Understood::Goodbye),
            Packet::Noop | Packet::Upgrade => Ok(Understood::Nothing),
            // Only servers open and ping; a text's message is borrowed.
            Packet::Open(_) | Packet::Ping(_) | Packet::Message(_) => Err(Close::ProtocolError),
        }
    }

    /// Only a pong is a sign of life here, as in the reference server.
    fn heard(&mut self) {}

    fn deaf(&mut self) {
        self.keepalive.heard(Instant::now().into_std());
    }

    fn deadline(&self) -> Instant {
        Instant::from_std(self.keepalive.next())
    }

    fn due(&mut self) -> (Due, Bytes) {
        (self.keepalive.due(Instant::now().into_std()), PING)
    }
}
