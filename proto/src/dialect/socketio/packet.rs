//! Socket.IO 5 packets: the text of an Engine.IO message (Socket.IO protocol v5, "Packet encoding"). The parser is as
//! strict as the reference, socket.io-parser 4.2, and stricter where the reference accepts text that no encoder writes.

use crate::command::nests_too_deep;
use crate::limits;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// The namespace of packets that name none.
pub const MAIN_NAMESPACE: &str = "/";

/// Event names that the clients' emitters use themselves. No packet may have one (socket.io-parser, `RESERVED_EVENTS`).
pub const RESERVED_EVENTS: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// The type of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `0`: the client requests a namespace, or the server grants it.
    Connect,
    /// `1`: the sender leaves a namespace.
    Disconnect,
    /// `2`: an event's name and arguments.
    Event,
    /// `3`: the answer to the event with the same id.
    Ack,
    /// `4`: the server refuses a namespace.
    ConnectError,
    /// `5`: an event with attachments.
    BinaryEvent,
    /// `6`: an answer with attachments.
    BinaryAck,
}

impl Kind {
    /// Every kind, at the index of its digit.
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

    /// Whether the packet is an event, with or without attachments.
    pub fn is_event(self) -> bool {
        matches!(self, Kind::Event | Kind::BinaryEvent)
    }

    /// Whether the packet answers an event, with or without attachments.
    pub fn is_ack(self) -> bool {
        matches!(self, Kind::Ack | Kind::BinaryAck)
    }

    fn digit(self) -> char {
        char::from(b'0' + self as u8)
    }

    fn allowed_data(self) -> &'static str {
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

/// Why a text is not a valid Socket.IO packet, or why a packet does not have the part that was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first character is not a packet type.
    #[error("a packet must begin with its type, a digit from 0 to 6")]
    Type,
    /// A binary packet without its number of attachments, or with a number of more than 32 bits or with leading zeros.
    #[error("a binary packet must announce its attachments: a number without leading zeros, and a dash")]
    Attachments,
    /// A namespace with control characters. Answers contain the namespace, and U+001E would end their packet there.
    #[error("a namespace must have no control characters")]
    Namespace,
    /// An id of more than 64 bits, or with leading zeros.
    #[error("an id must be a number below 2^64 without leading zeros")]
    Id,
    /// An answer without the id of an event.
    #[error("{0} must have the id of the event it answers")]
    AckWithoutId(Kind),
    /// Data that is missing, or not allowed, or of the wrong type for the kind of packet.
    #[error("the data of {0} must be {allowed}", allowed = .0.allowed_data())]
    Data(Kind),
    /// Data that is not JSON.
    #[error("the data must be valid JSON")]
    Json,
    /// Data that nests deeper than [`limits::JSON_DEPTH_MAX`].
    #[error("the data must nest at most {} levels", limits::JSON_DEPTH_MAX)]
    Depth,
    /// An event's name that contains half a surrogate pair or, from [`Packet::event`], is a number.
    #[error("an event's name must be text")]
    EventName,
    /// One of [`RESERVED_EVENTS`].
    #[error("an event's name must not be one that Socket.IO itself uses")]
    ReservedEvent,
    /// [`Packet::event`] was called for a packet that is not an event.
    #[error("{0} names no event: look at the packet's kind first")]
    NoEvent(Kind),
    /// [`Packet::arguments`] was called for a packet without an array.
    #[error("{0} has no arguments: look at the packet's kind first")]
    NoArguments(Kind),
}

/// A Socket.IO packet.
#[derive(Debug, Clone)]
pub struct Packet<'a> {
    /// Its type.
    pub kind: Kind,
    /// How many binary messages follow and belong to the packet; 0 unless the kind is binary.
    pub attachments: u32,
    /// The namespace; it begins with `/` and contains neither a comma nor a query.
    pub namespace: &'a str,
    /// With an event: its sender wants an answer with this id. With an answer: the id of the event.
    pub id: Option<u64>,
    /// Valid JSON of the type that the kind requires, nested at most [`limits::JSON_DEPTH_MAX`] levels.
    pub data: Option<&'a str>,
    arguments: Vec<&'a RawValue>,
}

impl<'a> Packet<'a> {
    /// Parses the text of an Engine.IO message without the message's `4`. The caller limits the length of the text; a
    /// packet uses at most 16 bytes of memory for each byte of it.
    ///
    /// It refuses all that socket.io-parser's `isPayloadValid` refuses, and also: events and answers without data,
    /// answers without an id, data after spaces, and numbers that are not plain digits. It accepts two things that the
    /// reference refuses: a binary packet with no attachments, as versions before 4.2.7 did, and a namespace with a
    /// query, which is removed as the reference server does for Engine.IO 3.
    ///
    /// # Errors
    /// Any [`Malformed`] except [`Malformed::NoEvent`] and [`Malformed::NoArguments`].
    pub fn parse(text: &'a str) -> Result<Packet<'a>, Malformed> {
        let mut bytes = text.bytes();
        let kind = bytes
            .next()
            .and_then(|byte| Kind::ALL.get(usize::from(byte.wrapping_sub(b'0'))).copied())
            .ok_or(Malformed::Type)?;
        // The kind is one ASCII character, so the slice cannot split a character.
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
        // The reference accepts JSON's white space after the data.
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

    /// The elements of an event's or answer's array. The first element of an event is its name.
    ///
    /// # Errors
    /// [`Malformed::NoArguments`] if this kind of packet has no array.
    pub fn arguments(&self) -> Result<&[&'a RawValue], Malformed> {
        if self.kind.is_event() || self.kind.is_ack() {
            Ok(&self.arguments)
        } else {
            Err(Malformed::NoArguments(self.kind))
        }
    }

    /// The name of an event and the arguments after it.
    ///
    /// # Errors
    /// [`Malformed::EventName`] if the name is a number, which the protocol allows; [`Malformed::NoEvent`] if the
    /// packet is not an event.
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

/// Parses a number without leading zeros, so that each number has only one form.
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

/// Checks a packet's data and splits an array into its elements, in one pass over the JSON.
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

/// The text of a JSON string, borrowed if it has no escapes.
fn string(json: &RawValue) -> Result<Cow<'_, str>, Malformed> {
    match serde_json::from_str::<&str>(json.get()) {
        Ok(borrowed) => Ok(Cow::Borrowed(borrowed)),
        Err(_) => serde_json::from_str(json.get()).map(Cow::Owned).map_err(|_| Malformed::EventName),
    }
}

/// The Engine.IO message that grants `namespace`. `data_json` is the object for the client, `{"sid":…}`.
pub fn connect(namespace: &str, data_json: &str) -> String {
    message(Kind::Connect, 0, namespace, None, data_json)
}

/// The Engine.IO message that refuses `namespace`. `data_json` is `{"message":…,"data":…}`.
pub fn connect_error(namespace: &str, data_json: &str) -> String {
    message(Kind::ConnectError, 0, namespace, None, data_json)
}

/// The Engine.IO message that ends `namespace`. The reference client does not reconnect after it.
pub fn disconnect(namespace: &str) -> String {
    message(Kind::Disconnect, 0, namespace, None, "")
}

/// The Engine.IO message of an event. With an `id`, the client answers it. `data_json_array` begins with the event's
/// name.
pub fn event(namespace: &str, id: Option<u64>, data_json_array: &str) -> String {
    message(Kind::Event, 0, namespace, id, data_json_array)
}

/// The Engine.IO message that answers the client's event `id`.
pub fn ack(namespace: &str, id: u64, data_json_array: &str) -> String {
    message(Kind::Ack, 0, namespace, Some(id), data_json_array)
}

/// The Engine.IO message of a [`Kind::BinaryEvent`] or [`Kind::BinaryAck`]. Exactly `attachments` binary messages must
/// follow it directly. In `data_json_array`, `{"_placeholder":true,"num":0}` stands for the first of them, and so on.
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
    // 34 bytes are enough for both digits, a dash, a comma, and the longest count and id.
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
