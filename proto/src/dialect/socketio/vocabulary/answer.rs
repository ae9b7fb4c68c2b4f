//! Encodes replies to a client's events, as acknowledgements and as events, and the events about the connection itself.

use super::{Verb, Vocabulary};
use crate::code::{ErrorCode, Failure};
use crate::dialect::body::text;
use crate::event::Reply;
use crate::timestamp::rfc3339;
use serde::Serialize;

/// The encoded form of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The data array of the ACK packet, for the client's callback if there is one. `None` for a reply that answers no
    /// event.
    pub ack: Option<String>,
    /// Data arrays of EVENT packets, which are sent with or without a callback. Errors are not among them: for an event
    /// without a callback, [`refusal_event`] encodes the error.
    pub events: Vec<String>,
}

impl Answer {
    fn acknowledged(fields: impl Serialize) -> Answer {
        Answer { ack: Some(text(&[Done { ok: true, fields }])), events: Vec::new() }
    }

    fn and(mut self, name: &str, body: impl Serialize) -> Answer {
        self.events.push(text(&(name, body)));
        self
    }
}

#[derive(Serialize)]
struct Done<T> {
    ok: bool,
    #[serde(flatten)]
    fields: T,
}

#[derive(Serialize)]
struct NotDone<'a> {
    ok: bool,
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(rename = "retryAfterMs", skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

#[derive(Serialize)]
struct ChordMeError<'a> {
    message: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Joined<'a> {
    conversation_id: &'a str,
    head_seq: u64,
    participant_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Left<'a> {
    conversation_id: &'a str,
}

#[derive(Serialize)]
struct RoomJoined<'a> {
    room_id: &'a str,
    participant_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_seq: Option<u64>,
}

#[derive(Serialize)]
struct RoomLeft<'a> {
    room_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent<'a> {
    id: String,
    seq: u64,
    timestamp: String,
    conversation_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Authenticated<'a> {
    user_id: &'a str,
    /// The same id again, under the name that clients of the camelCase vocabularies read.
    #[serde(rename = "userId")]
    user_id_again: &'a str,
    #[serde(rename = "expiresAt")]
    expires_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenExpiring {
    expires_at: String,
}

#[derive(Serialize)]
struct Beat {
    timestamp: u64,
}

/// Encodes `reply` to an event of `vocabulary`. `now_ms` is in milliseconds since 1970.
///
/// A reply that no event of these vocabularies can cause gives an empty answer. So does [`Reply::Reconnect`]: draining
/// closes the transport, and then Socket.IO's clients reconnect by themselves.
pub fn answer(vocabulary: Vocabulary, reply: &Reply, now_ms: u64) -> Answer {
    match reply {
        Reply::Joined { conversation, head_seq, participant_count } => {
            joined(vocabulary, conversation.as_str(), *head_seq, *participant_count)
        }
        Reply::Left { conversation } => left(vocabulary, conversation.as_str()),
        Reply::MessageAck { client_id, conversation, id, seq } => Answer::acknowledged(Sent {
            id: id.to_string(),
            seq: *seq,
            timestamp: rfc3339(id.time_ms()),
            conversation_id: conversation.as_str(),
            client_id: client_id.as_deref(),
        }),
        Reply::Ack => Answer::acknowledged(Nothing {}),
        // A client listens to one of the two, depending on its vocabulary. A ping does not show which, so both are
        // sent.
        Reply::Pong => {
            let beat = || Beat { timestamp: now_ms };
            Answer::acknowledged(beat()).and("heartbeat", beat()).and("pong", beat())
        }
        Reply::Authenticated { user, expires_ms } => {
            let (user_id, expires_at) = (user.as_str(), rfc3339(*expires_ms));
            let body = Authenticated { user_id, user_id_again: user_id, expires_at };
            Answer::acknowledged(&body).and("authenticated", &body)
        }
        Reply::TokenExpiring { expires_ms } => {
            Answer::default().and("token_expiring", TokenExpiring { expires_at: rfc3339(*expires_ms) })
        }
        Reply::Error(failure) => Answer { ack: Some(refusal_ack(failure)), events: Vec::new() },
        Reply::OnlineUsers { .. }
        | Reply::OnlineStatus { .. }
        | Reply::History { .. }
        | Reply::Reconnect { .. } => Answer::default(),
    }
}

fn joined(vocabulary: Vocabulary, id: &str, head_seq: u64, participant_count: u32) -> Answer {
    match vocabulary {
        Vocabulary::Ring | Vocabulary::Guide => {
            Answer::acknowledged(Joined { conversation_id: id, head_seq, participant_count })
        }
        Vocabulary::ChordMe => {
            let room = |head_seq| RoomJoined { room_id: id, participant_count, head_seq };
            Answer::acknowledged(room(Some(head_seq))).and("room_joined", room(None))
        }
    }
}

fn left(vocabulary: Vocabulary, id: &str) -> Answer {
    match vocabulary {
        Vocabulary::Ring | Vocabulary::Guide => Answer::acknowledged(Left { conversation_id: id }),
        Vocabulary::ChordMe => {
            Answer::acknowledged(RoomLeft { room_id: id }).and("room_left", RoomLeft { room_id: id })
        }
    }
}

fn error_fields(failure: &Failure) -> ErrorFields<'_> {
    let Failure { code, message, retry_after_ms } = failure;
    ErrorFields { code: code.as_str(), message, retry_after_ms: *retry_after_ms }
}

fn refusal_ack(failure: &Failure) -> String {
    text(&[NotDone { ok: false, error: error_fields(failure) }])
}

/// The event that reports `failure` if the client gave no callback: `auth_error` if the identity is the reason, or if
/// the event was `authenticate`, else `error` (`docs/protocol.md#answers`).
pub fn refusal_event(vocabulary: Vocabulary, verb: Verb, failure: &Failure) -> String {
    let Failure { code, message, retry_after_ms } = failure;
    let of_identity = matches!(code, ErrorCode::Unauthorized | ErrorCode::TokenExpired);
    let name = if of_identity || verb == Verb::Authenticate { "auth_error" } else { "error" };
    match vocabulary {
        Vocabulary::Ring | Vocabulary::Guide => text(&(name, error_fields(failure))),
        Vocabulary::ChordMe => {
            let (code, retry_after_ms) = (code.as_str(), *retry_after_ms);
            text(&(name, ChordMeError { message, code, retry_after_ms }))
        }
    }
}

#[derive(Serialize)]
struct Greeting<'a> {
    message: &'a str,
}

/// The first event of every connection.
pub fn connected() -> String {
    text(&("connected", Greeting { message: "connected to carillon" }))
}

/// An event that is sent before the answer to a join or leave whose change is not stored in the recovery record yet.
pub fn recovery_pending() -> String {
    text(&("recovery_pending", Greeting { message: "if the connection breaks off now, join again" }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Unsubscribed<'a> {
    channel: String,
    conversation_id: &'a str,
}

/// The event for a subscription that ended because the user may not read the conversation any more. ChordMe has a name
/// for it. The clients of the other vocabularies ignore unknown events, so there it is named after a leave.
pub fn ended(vocabulary: Vocabulary, id: &str) -> String {
    match vocabulary {
        Vocabulary::Ring => text(&("conversation_left", Left { conversation_id: id })),
        Vocabulary::Guide => {
            let channel = format!("conversation:{id}");
            text(&("unsubscribed", Unsubscribed { channel, conversation_id: id }))
        }
        Vocabulary::ChordMe => text(&("room_left", RoomLeft { room_id: id })),
    }
}

/// The last event before the server closes the connection because of `failure` (`docs/protocol.md#socketio-closes`).
pub fn connection_error(failure: &Failure) -> String {
    text(&("connection_error", error_fields(failure)))
}

#[derive(Serialize)]
struct ConnectError<'a> {
    message: &'a str,
    data: ConnectErrorData<'a>,
}

#[derive(Serialize)]
struct ConnectErrorData<'a> {
    code: &'a str,
    #[serde(rename = "retryAfterMs", skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// The payload of the CONNECT_ERROR packet that refuses a connection because of `failure`: an object, not a data array.
/// Ring's clients show the texts about the identity, so these are fixed (`docs/protocol.md#socketio-connecting`).
pub fn connect_error(failure: &Failure, token_given: bool) -> String {
    let message = match failure.code {
        ErrorCode::Unauthorized if !token_given => "No authentication token provided",
        ErrorCode::Unauthorized => "Invalid authentication token",
        ErrorCode::TokenExpired => "Authentication token expired",
        _ => &failure.message,
    };
    let data = ConnectErrorData { code: failure.code.as_str(), retry_after_ms: failure.retry_after_ms };
    text(&ConnectError { message, data })
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
