//! Engine.IO packets in WebSocket frames, one in each frame, and the pings that the server sends.

use crate::connection::drive::{Framing, Understood};
use crate::core::keepalive::{Due, Keepalive, Pings};
use bytes::Bytes;
use carillon_proto::code::Close;
use carillon_proto::dialect::socketio::engine::Packet;
use std::borrow::Cow;
use tokio::time::Instant;

/// A ping: `2` in a text frame.
pub const PING: Bytes = Bytes::from_static(&[0x81, 1, b'2']);
/// A no-operation packet, which completes a waiting poll: `6` in a text frame.
pub const NOOP: Bytes = Bytes::from_static(&[0x81, 1, b'6']);

/// The packets on one WebSocket.
pub struct EnginePackets {
    keepalive: Keepalive,
    packet_bytes_max: usize,
}

impl EnginePackets {
    /// Packets of at most `packet_bytes_max` bytes; 0 for no limit.
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
                self.note_pause();
                Ok(Understood::Nothing)
            }
            Packet::Close => Ok(Understood::Close),
            Packet::Noop | Packet::Upgrade => Ok(Understood::Nothing),
            // Clients may not send OPEN or PING. A message parsed from text is always borrowed, so the last case does
            // not occur.
            Packet::Open(_) | Packet::Ping(_) | Packet::Message(_) => Err(Close::ProtocolError),
        }
    }

    /// Only a pong is a sign of life, as in the reference server.
    fn note_activity(&mut self) {}

    fn note_pause(&mut self) {
        self.keepalive.handle_activity(Instant::now().into_std());
    }

    fn deadline(&self) -> Instant {
        Instant::from_std(self.keepalive.poll_timeout())
    }

    fn due(&mut self) -> (Due, Bytes) {
        (self.keepalive.handle_timeout(Instant::now().into_std()), PING)
    }
}
