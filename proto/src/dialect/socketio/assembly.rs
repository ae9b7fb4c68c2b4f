//! Puts Socket.IO packets and their binary attachments together. The text packet comes first, and its attachments
//! follow directly, each in a binary message (Socket.IO protocol v5, "Format").

use super::packet::{Malformed, Packet};
use crate::limits;
use bytes::Bytes;
use serde_json::Value;

/// Why a message is refused. The waiting packet is dropped, and the caller should close the connection, because it is
/// not known any more which packet the next binary message belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// The text is not a valid packet.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The packet announces attachments on a connection that may not send any yet.
    #[error("authenticate before sending attachments")]
    NotAllowed,
    /// The packet announces more attachments than [`limits::SOCKETIO_ATTACHMENTS_MAX`].
    #[error("a packet must have at most {} attachments", limits::SOCKETIO_ATTACHMENTS_MAX)]
    TooMany,
    /// The attachments have more bytes together than [`limits::SOCKETIO_ATTACHMENTS_BYTES_MAX`].
    #[error(
        "a packet's attachments must have at most {} bytes together",
        limits::SOCKETIO_ATTACHMENTS_BYTES_MAX
    )]
    TooLarge,
    /// The last attachment came more than [`limits::SOCKETIO_ATTACHMENTS_MS`] after the packet.
    #[error("a packet's attachments must follow within {} ms", limits::SOCKETIO_ATTACHMENTS_MS)]
    Late,
    /// A packet of a binary kind announces no attachments.
    #[error("a binary packet must announce at least one attachment")]
    NoAttachments,
    /// A placeholder does not refer to one of the attachments.
    #[error("a placeholder must name one of the packet's attachments")]
    Placeholder,
    /// Text arrived while attachments were expected.
    #[error("a packet's attachments must follow it before any other packet")]
    UnexpectedText,
    /// A binary message arrived that no packet announced.
    #[error("a binary message must follow the packet that announces it")]
    UnexpectedBinary,
}

/// A packet with all its attachments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    text: Box<str>,
    /// The attachments. Placeholder number `n` in the data refers to element `n`.
    pub attachments: Vec<Bytes>,
}

impl Assembled {
    /// The packet, with its placeholders (`{"_placeholder":true,"num":0}`) unchanged.
    ///
    /// # Errors
    /// None in practice, because the text was parsed when it arrived.
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

/// Assembles the packets of one connection. It holds at most one packet's text and
/// [`limits::SOCKETIO_ATTACHMENTS_BYTES_MAX`] bytes of attachments.
#[derive(Debug)]
pub struct Assembly {
    attachments_allowed: bool,
    waiting: Option<Waiting>,
}

impl Assembly {
    /// The state for a new connection. If `attachments_allowed` is false, attachments are refused until
    /// [`Assembly::allow_attachments`].
    pub fn new(attachments_allowed: bool) -> Assembly {
        Assembly { attachments_allowed, waiting: None }
    }

    /// Allows attachments from now on, because the client has authenticated.
    pub fn allow_attachments(&mut self) {
        self.attachments_allowed = true;
    }

    /// Accepts a text message without the Engine.IO `4`. Returns its packet, or `None` if attachments must follow
    /// first. `now_ms` may come from any clock that does not go back.
    ///
    /// # Errors
    /// [`AssemblyError`] for a bad packet, also if it announces more than a limit allows.
    pub fn text<'a>(&mut self, now_ms: u64, text: &'a str) -> Result<Option<Packet<'a>>, AssemblyError> {
        if self.waiting.take().is_some() {
            return Err(AssemblyError::UnexpectedText);
        }
        let packet = Packet::parse(text)?;
        if packet.attachments == 0 {
            return if packet.kind.is_binary() {
                Err(AssemblyError::NoAttachments)
            } else {
                Ok(Some(packet))
            };
        }
        if !self.attachments_allowed {
            return Err(AssemblyError::NotAllowed);
        }
        if packet.attachments > limits::SOCKETIO_ATTACHMENTS_MAX {
            return Err(AssemblyError::TooMany);
        }
        // At most 16, so the cast loses nothing.
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

    /// Accepts a binary message. Returns the packet if this was its last attachment.
    ///
    /// # Errors
    /// [`AssemblyError`] if it was not announced, came too late or is too large.
    pub fn binary(&mut self, now_ms: u64, bytes: Bytes) -> Result<Option<Assembled>, AssemblyError> {
        let mut waiting = self.waiting.take().ok_or(AssemblyError::UnexpectedBinary)?;
        if now_ms > waiting.deadline_ms {
            return Err(AssemblyError::Late);
        }
        waiting.bytes = waiting.bytes.saturating_add(bytes.len());
        if waiting.bytes > limits::SOCKETIO_ATTACHMENTS_BYTES_MAX {
            return Err(AssemblyError::TooLarge);
        }
        // This is copied because a slice would keep the whole receive buffer of the socket in memory.
        waiting.attachments.push(Bytes::copy_from_slice(&bytes));
        if waiting.attachments.len() == waiting.announced {
            placeholders_fit(&waiting.text, waiting.announced)?;
            return Ok(Some(Assembled { text: waiting.text, attachments: waiting.attachments }));
        }
        self.waiting = Some(waiting);
        Ok(None)
    }

    /// The time by which the expected attachments must arrive; `None` if none are expected. After this time the caller
    /// should close the connection, as for [`AssemblyError::Late`].
    pub fn deadline_ms(&self) -> Option<u64> {
        self.waiting.as_ref().map(|waiting| waiting.deadline_ms)
    }

    /// Whether a packet waits for its attachments.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }
}

/// Checks that every placeholder in a packet's arguments refers to one of its attachments.
fn placeholders_fit(text: &str, attachments: usize) -> Result<(), AssemblyError> {
    let packet = Packet::parse(text)?;
    let mut arguments = packet.arguments()?.iter();
    let fit = arguments.all(|argument| {
        serde_json::from_str(argument.get()).is_ok_and(|value: Value| places_fit(&value, attachments))
    });
    if fit { Ok(()) } else { Err(AssemblyError::Placeholder) }
}

/// The recursion is limited, because the parser has limited the nesting of the packet.
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
