//! Socket.IO packets with binary attachments, put together: the text packet comes first, its attachments
//! follow, each in a binary message, with nothing between (Socket.IO protocol v5, "Format").

use super::packet::{Malformed, Packet};
use crate::limits;
use bytes::Bytes;
use serde_json::Value;

/// Why a message is refused. What was waiting is forgotten, and the connection should be closed: the reader
/// no longer knows which packet the next binary message belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The text is no packet.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Attachments announced on a connection that may not send any yet.
    #[error("authenticate before sending attachments")]
    NotAllowed,
    /// More attachments announced than [`limits::SOCKETIO_ATTACHMENTS_MAX`].
    #[error("a packet must have at most {} attachments", limits::SOCKETIO_ATTACHMENTS_MAX)]
    TooMany,
    /// More bytes together than [`limits::SOCKETIO_ATTACHMENTS_BYTES_MAX`].
    #[error(
        "a packet's attachments must have at most {} bytes together",
        limits::SOCKETIO_ATTACHMENTS_BYTES_MAX
    )]
    TooLarge,
    /// The last attachment came more than [`limits::SOCKETIO_ATTACHMENTS_MS`] after the packet.
    #[error("a packet's attachments must follow within {} ms", limits::SOCKETIO_ATTACHMENTS_MS)]
    Late,
    /// A packet of a binary kind that announces none.
    #[error("a binary packet must announce at least one attachment")]
    NoAttachments,
    /// A placeholder that stands for none of the attachments.
    #[error("a placeholder must name one of the packet's attachments")]
    Placeholder,
    /// Text, while attachments were due.
    #[error("a packet's attachments must follow it before any other packet")]
    UnexpectedText,
    /// A binary message that no packet announced.
    #[error("a binary message must follow the packet that announces it")]
    UnexpectedBinary,
}

/// A packet whose attachments have all come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    text: Box<str>,
    /// The attachments, in the order that the data's placeholders number from 0.
    pub attachments: Vec<Bytes>,
}

impl Assembled {
    /// The packet, its placeholders (`{"_placeholder":true,"num":0}`) as they came.
    ///
    /// # Errors
    /// None in practice: the text was parsed when it came.
    pub fn packet(&self) -> Result<Packet<'_>, Malformed> {
        Packet::parse(&self.text)
    }
}

#[derive(Debug)]
struct Waiting {
    text: Box<str>,
    announced: usize,
    attachments: Vec<Bytes>,
    bytes: usize,
    deadline_ms: u64,
}

/// The packets of one connection. It holds at most one packet's text and
/// [`limits::SOCKETIO_ATTACHMENTS_BYTES_MAX`] bytes of attachments.
#[derive(Debug)]
pub struct Assembly {
    attachments_allowed: bool,
    waiting: Option<Waiting>,
}

impl Assembly {
    /// Of a connection that may send attachments, or may not until [`Assembly::allow_attachments`].
    pub fn new(attachments_allowed: bool) -> Assembly {
        Assembly { attachments_allowed, waiting: None }
    }

    /// The connection may send attachments from now on: it has authenticated.
    pub fn allow_attachments(&mut self) {
        self.attachments_allowed = true;
    }

    /// Takes a message of text, without the Engine.IO `4`. Returns its packet, or none when its attachments
    /// must come first. `now_ms` is of any clock that does not go back.
    ///
    /// # Errors
    /// [`Refused`], as soon as the announcement is over a limit.
    pub fn text<'a>(&mut self, now_ms: u64, text: &'a str) -> Result<Option<Packet<'a>>, Refused> {
        if self.waiting.take().is_some() {
            return Err(Refused::UnexpectedText);
        }
        let packet = Packet::parse(text)?;
        if packet.attachments == 0 {
            return if packet.kind.is_binary() { Err(Refused::NoAttachments) } else { Ok(Some(packet)) };
        }
        if !self.attachments_allowed {
            return Err(Refused::NotAllowed);
        }
        if packet.attachments > limits::SOCKETIO_ATTACHMENTS_MAX {
            return Err(Refused::TooMany);
        }
        // At most 16: it fits everywhere.
        let announced = packet.attachments as usize;
        self.waiting = Some(Waiting {
            text: text.into(),
            announced,
            attachments: Vec::with_capacity(announced),
            bytes: 0,
            deadline_ms: now_ms.saturating_add(limits::SOCKETIO_ATTACHMENTS_MS),
        });
        Ok(None)
    }

    /// Takes a binary message. Returns the packet when this was its last attachment.
    ///
    /// # Errors
    /// [`Refused`] when it was not announced, is too late or too large.
    pub fn binary(&mut self, now_ms: u64, bytes: Bytes) -> Result<Option<Assembled>, Refused> {
        let mut waiting = self.waiting.take().ok_or(Refused::UnexpectedBinary)?;
        if now_ms > waiting.deadline_ms {
            return Err(Refused::Late);
        }
        waiting.bytes = waiting.bytes.saturating_add(bytes.len());
        if waiting.bytes > limits::SOCKETIO_ATTACHMENTS_BYTES_MAX {
            return Err(Refused::TooLarge);
        }
        // A copy: a slice would keep the whole buffer that the socket was read into.
        waiting.attachments.push(Bytes::copy_from_slice(&bytes));
        if waiting.attachments.len() == waiting.announced {
            placeholders_fit(&waiting.text, waiting.announced)?;
            return Ok(Some(Assembled { text: waiting.text, attachments: waiting.attachments }));
        }
        self.waiting = Some(waiting);
        Ok(None)
    }

    /// When the attachments that are due must have come; none is due without it. After this time the
    /// connection should be closed, as if [`Refused::Late`] had been returned.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.waiting.as_ref().map(|waiting| waiting.deadline_ms)
    }

    /// Whether a packet waits for its attachments.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }
}

/// Checks that every placeholder in a packet's arguments stands for one of its attachments.
fn placeholders_fit(text: &str, attachments: usize) -> Result<(), Refused> {
    let packet = Packet::parse(text)?;
    let mut arguments = packet.arguments()?.iter();
    let fit = arguments.all(|argument| {
        serde_json::from_str(argument.get()).is_ok_and(|value: Value| places_fit(&value, attachments))
    });
    if fit { Ok(()) } else { Err(Refused::Placeholder) }
}

/// As deep as a packet may nest, which is not deep.
fn places_fit(value: &Value, attachments: usize) -> bool {
    match value {
        Value::Object(fields) if fields.get("_placeholder") == Some(&Value::Bool(true)) => {
            let number = fields.get("num").and_then(Value::as_u64);
            number.is_some_and(|number| number < attachments as u64)
        }
        Value::Object(fields) => fields.values().all(|value| places_fit(value, attachments)),
        Value::Array(values) => values.iter().all(|value| places_fit(value, attachments)),
        _ => true,
    }
}

#[cfg(test)]
#[path = "assembly_tests.rs"]
mod tests;
