//! Engine.IO 4 packets: one in each WebSocket frame, or several in the body of a polling request (Engine.IO protocol
//! v4, "Packet encoding").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use std::borrow::Cow;

/// The separator between the packets of a payload (Engine.IO protocol v4, "HTTP long-polling").
pub const SEPARATOR: char = '\u{1e}';

/// An Engine.IO packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0`: the handshake; only the server sends it.
    Open(Cow<'a, str>),
    /// `1`: the transport can be closed.
    Close,
    /// `2`: a heartbeat if the server sends it, the probe of an upgrade if the client sends it.
    Ping(Cow<'a, str>),
    /// `3`: the answer to a ping, with the ping's data.
    Pong(Cow<'a, str>),
    /// `4`: a message of text.
    Message(Cow<'a, str>),
    /// A message of bytes: a binary WebSocket frame as it is, or `b` and base64 as text.
    Binary(Cow<'a, [u8]>),
    /// `5`: the client moves to the probed transport.
    Upgrade,
    /// `6`: no content; it ends a waiting poll.
    Noop,
}

/// Why a text is not a valid Engine.IO packet or payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The packet or the whole payload is empty.
    #[error("a packet must begin with its type")]
    Empty,
    /// The first character is not a packet type.
    #[error("a packet's type must be a digit from 0 to 6, or b before base64")]
    Type,
    /// A close, upgrade or noop packet with data.
    #[error("close, upgrade and noop packets must have no data")]
    UnexpectedData,
    /// Binary data that is not padded base64 of the standard alphabet (RFC 4648 section 4).
    #[error("binary data must be padded base64 of the standard alphabet")]
    Base64,
    /// A payload has more packets than its reader accepts.
    #[error("a payload must have at most {packets_max} packets")]
    TooManyPackets {
        /// How many packets the reader accepts.
        packets_max: usize,
    },
}

impl<'a> Packet<'a> {
    /// Parses a packet from the text of a WebSocket frame, or from one part of a payload. A client without binary
    /// frames sends `b` and base64 over WebSocket too (`forceBase64` of the reference client).
    ///
    /// # Errors
    /// Any [`Malformed`] except [`Malformed::TooManyPackets`].
    pub fn parse(text: &'a str) -> Result<Packet<'a>, Malformed> {
        let mut characters = text.chars();
        let kind = characters.next().ok_or(Malformed::Empty)?;
        let data = characters.as_str();
        let without_data = |packet| if data.is_empty() { Ok(packet) } else { Err(Malformed::UnexpectedData) };
        match kind {
            '0' => Ok(Packet::Open(data.into())),
            '1' => without_data(Packet::Close),
            '2' => Ok(Packet::Ping(data.into())),
            '3' => Ok(Packet::Pong(data.into())),
            '4' => Ok(Packet::Message(data.into())),
            '5' => without_data(Packet::Upgrade),
            '6' => without_data(Packet::Noop),
            'b' => match BASE64.decode(data) {
                Ok(bytes) => Ok(Packet::Binary(bytes.into())),
                Err(_) => Err(Malformed::Base64),
            },
            _ => Err(Malformed::Type),
        }
    }

    /// Appends the packet as text; bytes become `b` and base64. The data must not contain a [`SEPARATOR`], or the
    /// packet would be read as two packets of a payload. JSON never contains one, because it escapes it.
    pub fn write(&self, out: &mut String) {
        let (kind, data) = match self {
            Packet::Open(data) => ('0', data.as_ref()),
            Packet::Close => ('1', ""),
            Packet::Ping(data) => ('2', data.as_ref()),
            Packet::Pong(data) => ('3', data.as_ref()),
            Packet::Message(data) => ('4', data.as_ref()),
            Packet::Binary(bytes) => {
                out.push('b');
                BASE64.encode_string(bytes, out);
                return;
            }
            Packet::Upgrade => ('5', ""),
            Packet::Noop => ('6', ""),
        };
        out.push(kind);
        out.push_str(data);
    }
}

/// Parses the body of a polling request into at most `packets_max` packets; [`crate::limits`] has the limit for
/// clients. The caller limits the size of the body.
///
/// # Errors
/// [`Malformed::TooManyPackets`] if the body has more packets, else the error of the first bad packet.
pub fn parse_payload(body: &str, packets_max: usize) -> Result<Vec<Packet<'_>>, Malformed> {
    let mut packets = Vec::new();
    for text in body.split(SEPARATOR) {
        if packets.len() == packets_max {
            return Err(Malformed::TooManyPackets { packets_max });
        }
        packets.push(Packet::parse(text)?);
    }
    Ok(packets)
}

/// The body of a polling response with `packets`. An empty body is not a valid payload, so a poll without packets must
/// wait.
pub fn payload<'a>(packets: impl IntoIterator<Item = &'a Packet<'a>>) -> String {
    let mut body = String::new();
    for (position, packet) in packets.into_iter().enumerate() {
        if position > 0 {
            body.push(SEPARATOR);
        }
        packet.write(&mut body);
    }
    body
}

/// The data that the server sends when a session opens (Engine.IO protocol v4, "Handshake").
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Handshake<'a> {
    /// The session's id. It is a secret: with it, anyone can use the session.
    pub sid: &'a str,
    /// Transports that the client may move to: `websocket` from polling, none from WebSocket.
    pub upgrades: &'a [&'a str],
    /// How often the server pings, in milliseconds.
    #[serde(rename = "pingInterval")]
    pub ping_interval_ms: u64,
    /// How long each side waits for the other side's part of a heartbeat, in milliseconds.
    #[serde(rename = "pingTimeout")]
    pub ping_timeout_ms: u64,
    /// The largest body of a polling request, in bytes. The client splits larger ones into several requests.
    #[serde(rename = "maxPayload")]
    pub max_payload_bytes: usize,
}

impl Handshake<'_> {
    /// The open packet, as text.
    pub fn packet(&self) -> String {
        // Serializing a struct of text and numbers cannot fail.
        let json = serde_json::to_string(self).unwrap_or_default();
        let mut packet = String::with_capacity(1 + json.len());
        Packet::Open(json.into()).write(&mut packet);
        packet
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
