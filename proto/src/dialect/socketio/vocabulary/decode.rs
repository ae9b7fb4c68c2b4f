//! Decodes a client's event to a command, by one table of event names for each vocabulary and one for the names that
//! all share.

use super::{InvalidEvent, Request, Verb, Vocabulary, chordme, guide, ring};
use crate::code::Failure;
use crate::command::Command;
use crate::dialect::fields::{self, Token, required};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Characters of an unknown event's name in the error text: enough to see a misspelling.
const UNKNOWN_NAME_CHARS_MAX: usize = 64;

/// Decodes the command from an event's arguments.
pub(super) type Read = fn(&Arguments<'_>) -> Result<Command, Failure>;

/// An event of a vocabulary. Without `read`, this version does not serve it.
pub(super) struct Entry {
    name: &'static str,
    verb: Verb,
    read: Option<Read>,
}

/// An event that is served.
pub(super) const fn served(name: &'static str, verb: Verb, read: Read) -> Entry {
    Entry { name, verb, read: Some(read) }
}

/// An event of the vocabulary that this version does not serve. It is refused with an error, never ignored.
pub(super) const fn unserved(name: &'static str, verb: Verb) -> Entry {
    Entry { name, verb, read: None }
}

/// The failure for something of the vocabulary that this version does not serve.
pub(super) fn not_served(name: &str) -> Failure {
    Failure::invalid_payload(format!("{name} is not served by this version"))
}

/// Events that clients of every vocabulary send. They are answered in ChordMe's form
/// (`docs/protocol.md#in-every-vocabulary`).
const SHARED: &[Entry] = &[
    served("authenticate", Verb::Authenticate, authenticate),
    served("ping", Verb::Ping, |_| Ok(Command::Ping)),
];

const TABLES: [(Vocabulary, &[Entry]); 4] = [
    (Vocabulary::Ring, ring::EVENTS),
    (Vocabulary::Guide, guide::EVENTS),
    (Vocabulary::ChordMe, chordme::EVENTS),
    (Vocabulary::ChordMe, SHARED),
];

/// Decodes the event `name` with `arguments` (without the acknowledgement's number). Only the first argument counts.
/// `content_chars_max` limits the code points of a message's content; 0 means no bound.
///
/// # Errors
/// `invalid_payload` for an unknown event, a missing or wrong field or a bad id; `empty_content` or `too_large`
/// (`docs/protocol.md#errors`).
pub fn decode(
    name: &str,
    arguments: &[&RawValue],
    content_chars_max: usize,
) -> Result<Request, InvalidEvent> {
    let Some((vocabulary, entry)) = find(name) else {
        let shown: String = name.chars().take(UNKNOWN_NAME_CHARS_MAX).collect();
        let failure = Failure::invalid_payload(format!("unknown event {shown:?}"));
        return Err(InvalidEvent { vocabulary: Vocabulary::Ring, verb: Verb::Unknown, failure });
    };
    let verb = entry.verb;
    let arguments = Arguments { first: arguments.first().copied(), content_chars_max };
    match entry.read.map_or_else(|| Err(not_served(name)), |read| read(&arguments)) {
        Ok(command) => Ok(Request { vocabulary, verb, command }),
        Err(failure) => Err(InvalidEvent { vocabulary, verb, failure }),
    }
}

fn find(name: &str) -> Option<(Vocabulary, &'static Entry)> {
    TABLES.into_iter().find_map(|(vocabulary, entries)| {
        entries.iter().find(|entry| entry.name == name).map(|entry| (vocabulary, entry))
    })
}

/// An event's arguments, and the limit of the settings for them.
pub(super) struct Arguments<'a> {
    first: Option<&'a RawValue>,
    pub(super) content_chars_max: usize,
}

impl<'a> Arguments<'a> {
    /// Reads the fields of the argument, which must be an object; an absent argument has no fields.
    pub(super) fn fields<T: Deserialize<'a>>(&self) -> Result<T, Failure> {
        let given = self.first.map(RawValue::get).filter(|json| *json != "null");
        fields::fields(given.unwrap_or("{}"))
    }

    /// Like [`Arguments::fields`], but the argument may also be a text, which stands for the main field.
    pub(super) fn fields_or_text<T: Deserialize<'a> + From<Cow<'a, str>>>(&self) -> Result<T, Failure> {
        match self.first {
            Some(raw) if raw.get().starts_with('"') => Ok(T::from(fields::text(raw.get())?.into())),
            _ => self.fields(),
        }
    }
}

impl<'a> From<Cow<'a, str>> for Token<'a> {
    fn from(token: Cow<'a, str>) -> Self {
        Token { token: Some(token) }
    }
}

fn authenticate(arguments: &Arguments<'_>) -> Result<Command, Failure> {
    let Token { token } = arguments.fields_or_text()?;
    let token = required(token, "token")?;
    match bare_token(&token) {
        "" => Err(fields::missing("token")),
        token => Ok(Command::Authenticate { token: token.to_owned() }),
    }
}

/// The token in a handshake's `auth`, without `Bearer`; `None` if `auth` has no token that is text.
pub fn handshake_token(auth: &RawValue) -> Option<String> {
    match authenticate(&Arguments { first: Some(auth), content_chars_max: 0 }) {
        Ok(Command::Authenticate { token }) => Some(token),
        _ => None,
    }
}

/// The fields about connection-state recovery in a handshake's `auth`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HandshakeRecovery {
    /// The application requests recovery.
    pub wanted: bool,
    /// The pid (the client's secret) and the last offset, which the client library returns when it reconnects
    /// (Socket.IO protocol 5, connection state recovery).
    pub back: Option<(String, String)>,
}

/// Reads the fields about recovery in `auth`; fields of another type are ignored.
pub fn handshake_recovery(auth: &RawValue) -> HandshakeRecovery {
    #[derive(Deserialize, Default)]
    struct Auth {
        #[serde(default)]
        recovery: Value,
        #[serde(default)]
        pid: Value,
        #[serde(default)]
        offset: Value,
    }
    let Auth { recovery, pid, offset } = serde_json::from_str(auth.get()).unwrap_or_default();
    let wanted = match recovery {
        Value::Bool(wanted) => wanted,
        Value::Number(number) => number.as_u64() == Some(1),
        Value::String(text) => text == "1" || text == "true",
        _ => false,
    };
    let back = match (pid, offset) {
        (Value::String(pid), Value::String(offset)) => Some((pid, offset)),
        _ => None,
    };
    HandshakeRecovery { wanted, back }
}

/// The token without `Bearer`. Clients send it bare or as in an `Authorization` header
/// (`docs/protocol.md#socketio-connecting`), where the case of the scheme does not matter (RFC 9110 §11.1).
fn bare_token(text: &str) -> &str {
    let text = text.trim();
    match text.split_once(char::is_whitespace) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start(),
        None if text.eq_ignore_ascii_case("bearer") => "",
        _ => text,
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
