//! Socket.IO 5 packets: the text of an Engine.IO message (Socket.IO protocol v5, "Packet encoding"). As
//! strict as the reference, socket.io-parser 4.2, or stricter where it takes what no encoder writes.

use crate::command::nests_too_deep;
use crate::limits;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// The namespace of packets that name none.
pub const MAIN_NAMESPACE: &str = "/";

/// Event names that mean something to the clients' emitters; no packet may carry one (socket.io-parser,
/// `RESERVED_EVENTS`).
pub const RESERVED_EVENTS: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// The type of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `0`: asks for a namespace, or grants it.
    Connect,
    /// `1`: leaves a namespace.
    Disconnect,
    /// `2`: an event's name and arguments.
    Event,
    /// `3`: the answer to the event with the same id.
    Ack,
    /// `4`: a namespace is refused.
    ConnectError,
    /// `5`: an event with attachments.
    BinaryEvent,
    /// `6`: an answer with attachments.
    BinaryAck,
}

impl Kind {
    /// Every kind, each at the place of its digit.
    pub const ALL: [Kind; 7] = [
        Kind::Connect,
        Kind::Disconnect,
        Kind::Event,
        Kind::Ack,
        Kind::ConnectError,
        Kind::BinaryEvent,
        Kind::BinaryAck,
    ];

    /// Whether packets of this kind announce attachments.
    pub fn is_binary(self) -> bool {
        matches!(self, Kind::BinaryEvent | Kind::BinaryAck)
    }

    /// Whether it is an event, with attachments or without.
    pub fn is_event(self) -> bool {
        matches!(self, Kind::Event | Kind::BinaryEvent)
    }

    /// Whether it answers an event, with attachments or without.
    pub fn is_ack(self) -> bool {
        matches!(self, Kind::Ack | Kind::BinaryAck)
    }

    fn digit(self) -> char {
        char::from(b'0' + self as u8)
    }

    fn data_taken(self) -> &'static str {
        match self {
            Kind::Connect => "an object, or nothing",
            Kind::Disconnect => "nothing",
            Kind::Event | Kind::BinaryEvent => "an array that begins with the event's name",
            Kind::Ack | Kind::BinaryAck => "an array",
            Kind::ConnectError => "an object or a string",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Kind::Connect => "CONNECT",
            Kind::Disconnect => "DISCONNECT",
            Kind::Event => "EVENT",
            Kind::Ack => "ACK",
            Kind::ConnectError => "CONNECT_ERROR",
            Kind::BinaryEvent => "BINARY_EVENT",
            Kind::BinaryAck => "BINARY_ACK",
        })
    }
}

/// Why text is no Socket.IO packet, or a packet not what its reader asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first character is no packet type.
    #[error("a packet must begin with its type, a digit from 0 to 6")]
    Type,
    /// A binary packet without its count, or with more than 32 bits or leading zeros in it.
    #[error("a binary packet must announce its attachments: a number without leading zeros, and a dash")]
    Attachments,
    /// A namespace with control characters: it is sent back in answers, where U+001E would end a packet.
    #[error("a namespace must have no control characters")]
    Namespace,
    /// An id of more than 64 bits, or with leading zeros.
    #[error("an id must be a number below 2^64 without leading zeros")]
    Id,
    /// An answer to no event.
    #[error("{0} must have the id of the event it answers")]
    AckWithoutId(Kind),
    /// Data that is absent, present or of another type than the packet takes.
    #[error("the data of {0} must be {taken}", taken = .0.data_taken())]
    Data(Kind),
    /// Data that is not JSON.
    #[error("the data must be valid JSON")]
    Json,
    /// Data that nests deeper than [`limits::JSON_DEPTH_MAX`].
    #[error("the data must nest at most {} levels", limits::JSON_DEPTH_MAX)]
    Depth,
    /// An event's name that is text with half a surrogate pair or, for [`Packet::event`], a number.
    #[error("an event's name must be text")]
    EventName,
    /// One of [`RESERVED_EVENTS`].
    #[error("an event's name must not be one that Socket.IO itself uses")]
    ReservedEvent,
    /// [`Packet::event`] of a packet that is none.
    #[error("{0} names no event: look at the packet's kind first")]
    NoEvent(Kind),
    /// [`Packet::arguments`] of a packet without an array.
    #[error("{0} has no arguments: look at the packet's kind first")]
    NoArguments(Kind),
}

/// A Socket.IO packet.
#[derive(Debug, Clone)]
pub struct Packet<'a> {
    /// Its type.
    pub kind: Kind,
    /// How many binary messages belong to it and follow; 0 unless the kind is binary.
    pub attachments: u32,
    /// What it is addressed to: begins with `/`, and has neither comma nor query.
    pub namespace: &'a str,
    /// With an event: an answer is wanted, under this id. With an answer: the event's id.
    pub id: Option<u64>,
    /// Valid JSON of the type that the kind takes, nested at most [`limits::JSON_DEPTH_MAX`] deep.
    pub data: Option<&'a str>,
    arguments: Vec<&'a RawValue>,
}

impl<'a> Packet<'a> {
    /// The packet in the text of an Engine.IO message, which is without the message's own `4`. The text's
    /// bytes are for the caller to bound; the packet holds at most 16 for each while it lives.
    ///
    /// What socket.io-parser's `isPayloadValid` refuses is refused, and more: events and answers without data,
    /// answers without an id, data after spaces, numbers in any form but plain digits. Taken beyond it are a
    /// binary packet of no attachments, as its versions before 4.2.7 did, and a namespace with a query,
    /// which is cut off as the reference server does for Engine.IO 3.
    ///
    /// # Errors
    /// [`Malformed`], but never [`Malformed::NoEvent`] or [`Malformed::NoArguments`].
    pub fn parse(text: &'a str) -> Result<Packet<'a>, Malformed> {
        let mut bytes = text.bytes();
        let kind = bytes
            .next()
            .and_then(|byte| Kind::ALL.get(usize::from(byte.wrapping_sub(b'0'))).copied())
            .ok_or(Malformed::Type)?;
        // The kind is one ASCII character.
        let rest = &text[1..];
        let (attachments, rest) = if kind.is_binary() {
            let (number, rest) = split_digits(rest);
            let rest = rest.strip_prefix('-').ok_or(Malformed::Attachments)?;
            (plain_number(number).ok_or(Malformed::Attachments)?, rest)
        } else {
            (0, rest)
        };
        let (namespace, rest) = split_namespace(rest)?;
        let (number, data) = split_digits(rest);
        // What JSON calls white space, at the end: the reference takes it after data.
        let data = data.trim_end_matches([' ', '\t', '\n', '\r']);
        let id = match number {
            "" => None,
            number => Some(plain_number(number).ok_or(Malformed::Id)?),
        };
        if kind.is_ack() && id.is_none() {
            return Err(Malformed::AckWithoutId(kind));
        }
        let arguments = check_data(kind, data)?;
        Ok(Packet { kind, attachments, namespace, id, data: (!data.is_empty()).then_some(data), arguments })
    }

    /// The elements of an event's or answer's array; an event's first is its name.
    ///
    /// # Errors
    /// [`Malformed::NoArguments`] where the kind takes no array.
    pub fn arguments(&self) -> Result<&[&'a RawValue], Malformed> {
        if self.kind.is_event() || self.kind.is_ack() {
            Ok(&self.arguments)
        } else {
            Err(Malformed::NoArguments(self.kind))
        }
    }

    /// An event's name and the arguments after it.
    ///
    /// # Errors
    /// [`Malformed::EventName`] when the name is a number, which the protocol allows;
    /// [`Malformed::NoEvent`] where the packet is no event.
    pub fn event(&self) -> Result<(Cow<'a, str>, &[&'a RawValue]), Malformed> {
        match self.arguments.split_first() {
            Some((name, rest)) if self.kind.is_event() => Ok((string(name)?, rest)),
            _ => Err(Malformed::NoEvent(self.kind)),
        }
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// A number that has one spelling only, so that what is read is what would be written.
fn plain_number<T: std::str::FromStr>(digits: &str) -> Option<T> {
    if digits.len() > 1 && digits.starts_with('0') { None } else { digits.parse().ok() }
}

fn split_namespace(text: &str) -> Result<(&str, &str), Malformed> {
    if !text.starts_with('/') {
        return Ok((MAIN_NAMESPACE, text));
    }
    let (namespace, rest) = text.split_once(',').unwrap_or((text, ""));
    let namespace = namespace.split_once('?').map_or(namespace, |(path, _query)| path);
    if namespace.chars().any(char::is_control) {
        return Err(Malformed::Namespace);
    }
    Ok((namespace, rest))
}

/// Checks a packet's data, and splits it where it is an array, in one pass over the JSON.
fn check_data(kind: Kind, data: &str) -> Result<Vec<&RawValue>, Malformed> {
    let refused = Err(Malformed::Data(kind));
    let arguments: Vec<&RawValue> = match (kind, data.as_bytes().first()) {
        (Kind::Connect | Kind::Disconnect, None) => return Ok(Vec::new()),
        (Kind::Connect | Kind::ConnectError, Some(b'{')) | (Kind::ConnectError, Some(b'"')) => {
            serde_json::from_str::<&RawValue>(data).map_err(|_| Malformed::Json)?;
            Vec::new()
        }
        (Kind::Event | Kind::BinaryEvent | Kind::Ack | Kind::BinaryAck, Some(b'[')) => {
            serde_json::from_str(data).map_err(|_| Malformed::Json)?
        }
        _ => return refused,
    };
    if nests_too_deep(data) {
        return Err(Malformed::Depth);
    }
    if kind.is_event() {
        let Some(name) = arguments.first() else { return refused };
        match name.get().as_bytes() {
            [b'"', ..] if RESERVED_EVENTS.contains(&&*string(name)?) => {
                return Err(Malformed::ReservedEvent);
            }
            [b'"' | b'-' | b'0'..=b'9', ..] => {}
            _ => return refused,
        }
    }
    Ok(arguments)
}

/// A JSON string's text, borrowed where it has no escapes.
fn string(json: &RawValue) -> Result<Cow<'_, str>, Malformed> {
    match serde_json::from_str::<&str>(json.get()) {
        Ok(borrowed) => Ok(Cow::Borrowed(borrowed)),
        Err(_) => serde_json::from_str(json.get()).map(Cow::Owned).map_err(|_| Malformed::EventName),
    }
}

/// The Engine.IO message that grants `namespace`; `data_json` is the object for the client, `{"sid":…}`.
pub fn connect(namespace: &str, data_json: &str) -> String {
    message(Kind::Connect, 0, namespace, None, data_json)
}

/// The Engine.IO message that refuses `namespace`; `data_json` is `{"message":…,"data":…}`.
pub fn connect_error(namespace: &str, data_json: &str) -> String {
    message(Kind::ConnectError, 0, namespace, None, data_json)
}

/// The Engine.IO message that ends `namespace`; the reference client does not reconnect after it.
pub fn disconnect(namespace: &str) -> String {
    message(Kind::Disconnect, 0, namespace, None, "")
}

/// The Engine.IO message of an event; with an `id`, the client answers. `data_json_array` begins with the
/// event's name.
pub fn event(namespace: &str, id: Option<u64>, data_json_array: &str) -> String {
    message(Kind::Event, 0, namespace, id, data_json_array)
}

/// The Engine.IO message that answers the client's event `id`.
pub fn ack(namespace: &str, id: u64, data_json_array: &str) -> String {
    message(Kind::Ack, 0, namespace, Some(id), data_json_array)
}

/// The Engine.IO message of [`Kind::BinaryEvent`] or [`Kind::BinaryAck`], after which `attachments` binary
/// messages must follow with nothing between. `data_json_array` has `{"_placeholder":true,"num":0}` where
/// the first of them belongs, and so on.
pub fn binary(
    kind: Kind,
    attachments: u32,
    namespace: &str,
    id: Option<u64>,
    data_json_array: &str,
) -> String {
    message(kind, attachments, namespace, id, data_json_array)
}

fn message(kind: Kind, attachments: u32, namespace: &str, id: Option<u64>, data: &str) -> String {
    // The message's digit, the kind's, a dash, a comma, and the longest count and id.
    let mut out = String::with_capacity(34 + namespace.len() + data.len());
    out.push('4');
    out.push(kind.digit());
    // Writing to a String cannot fail.
    if kind.is_binary() {
        let _ = write!(out, "{attachments}-");
    }
    if namespace != MAIN_NAMESPACE {
        let _ = write!(out, "{namespace},");
    }
    if let Some(id) = id {
        let _ = write!(out, "{id}");
    }
    out.push_str(data);
    out
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "packet_reference_tests.rs"]
mod reference_tests;
