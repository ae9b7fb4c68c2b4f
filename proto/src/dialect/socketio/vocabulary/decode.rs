//! A client's event to a command: one table of names per vocabulary, and the names that all share.

use super::{Refused, Request, Verb, Vocabulary, chordme, guide, ring};
use crate::code::Failure;
use crate::command::Command;
use crate::dialect::fields::{self, Token, required};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Characters of an unknown event's name that its refusal shows: enough to see a misspelling.
const UNKNOWN_NAME_CHARS_MAX: usize = 64;

/// Reads the command out of an event's arguments.
pub(super) type Read = fn(&Arguments<'_>) -> Result<Command, Failure>;

/// An event of a vocabulary.
pub(super) struct Entry {
    name: &'static str,
    verb: Verb,
    read: Option<Read>,
}

/// An event that is served.
pub(super) const fn served(name: &'static str, verb: Verb, read: Read) -> Entry {
    Entry { name, verb, read: Some(read) }
}

/// An event that the vocabulary names and this version has no command for: refused with a code, never
/// ignored.
pub(super) const fn unserved(name: &'static str, verb: Verb) -> Entry {
    Entry { name, verb, read: None }
}

/// The refusal of what the vocabulary names and this version does not do.
pub(super) fn not_served(name: &str) -> Failure {
    Failure::invalid_payload(format!("{name} is not served by this version"))
}

/// Events of every vocabulary, answered in ChordMe's form (protocol §5).
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

/// What the event `name` with `arguments` (without the acknowledgement's number) asks for. Arguments behind
/// the first are ignored. `content_chars_max` bounds a message's content in code points; 0: no bound.
///
/// # Errors
/// `invalid_payload` for an unknown event, a missing or wrong field or a bad id; `empty_content` or
/// `too_large` (protocol §1).
pub fn decode(name: &str, arguments: &[&RawValue], content_chars_max: usize) -> Result<Request, Refused> {
    let Some((vocabulary, entry)) = find(name) else {
        let shown: String = name.chars().take(UNKNOWN_NAME_CHARS_MAX).collect();
        let failure = Failure::invalid_payload(format!("unknown event {shown:?}"));
        return Err(Refused { vocabulary: Vocabulary::Ring, verb: Verb::Unknown, failure });
    };
    let verb = entry.verb;
    let arguments = Arguments { first: arguments.first().copied(), content_chars_max };
    match entry.read.map_or_else(|| Err(not_served(name)), |read| read(&arguments)) {
        Ok(command) => Ok(Request { vocabulary, verb, command }),
        Err(failure) => Err(Refused { vocabulary, verb, failure }),
    }
}

fn find(name: &str) -> Option<(Vocabulary, &'static Entry)> {
    TABLES.into_iter().find_map(|(vocabulary, entries)| {
        entries.iter().find(|entry| entry.name == name).map(|entry| (vocabulary, entry))
    })
}

/// An event's arguments, and the bound that settings give them.
pub(super) struct Arguments<'a> {
    first: Option<&'a RawValue>,
    pub(super) content_chars_max: usize,
}

impl<'a> Arguments<'a> {
    /// The fields of the object that the argument is; of an absent one, none.
    pub(super) fn fields<T: Deserialize<'a>>(&self) -> Result<T, Failure> {
        let given = self.first.map(RawValue::get).filter(|json| *json != "null");
        fields::fields(given.unwrap_or("{}"))
    }

    /// The same, where a bare text may stand for its main field.
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

/// The token that a handshake's `auth` carries, without `Bearer`; none when it has none that is text.
pub fn handshake_token(auth: &RawValue) -> Option<String> {
    match authenticate(&Arguments { first: Some(auth), content_chars_max: 0 }) {
        Ok(Command::Authenticate { token }) => Some(token),
        _ => None,
    }
}

/// What a handshake's `auth` says of connection-state recovery.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HandshakeRecovery {
    /// The application asks for it.
    pub wanted: bool,
    /// The secret and the last offset that the client library gives back (protocol 5, connection state recovery).
    pub back: Option<(String, String)>,
}

/// Reads what `auth` says of recovery; what has another form says nothing.
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

/// Clients give the token bare or as an `Authorization` header has it (protocol §5); the scheme's case does
/// not matter (RFC 9110 §11.1).
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
