//! The query of a request to an engine, and the responses that refuse a request.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a request is refused, with the reference server's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// No such transport.
    Transport,
    /// There is no session with this id.
    UnknownSession,
    /// A session can begin with GET only.
    HandshakeMethod,
    /// The request is malformed, or not possible in the session's present state.
    BadRequest,
    /// The client uses another protocol version.
    Version,
    /// The body is over the limit.
    TooLarge,
}

impl RequestError {
    const ALL: [RequestError; 6] = [
        Self::Transport,
        Self::UnknownSession,
        Self::HandshakeMethod,
        Self::BadRequest,
        Self::Version,
        Self::TooLarge,
    ];

    /// The number that stands for the error on the bus.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The error for a number from the bus. An unknown number, from another version, is [`RequestError::BadRequest`].
    pub fn of_number(number: u32) -> RequestError {
        Self::ALL.into_iter().find(|error| error.number() == number).unwrap_or(Self::BadRequest)
    }

    fn parts(self) -> (StatusCode, u8, &'static str) {
        let bad = StatusCode::BAD_REQUEST;
        match self {
            Self::Transport => (bad, 0, "Transport unknown"),
            Self::UnknownSession => (bad, 1, "Session ID unknown"),
            Self::HandshakeMethod => (bad, 2, "Bad handshake method"),
            Self::BadRequest => (bad, 3, "Bad request"),
            Self::Version => (bad, 5, "Unsupported protocol version"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 3, "Payload too large"),
        }
    }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        let (status, code, message) = self.parts();
        (status, Json(json!({ "code": code, "message": message }))).into_response()
    }
}

/// The query of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Query {
    /// The session's id; `None` to begin a session.
    pub sid: Option<String>,
    /// The transport is WebSocket, not polling.
    pub websocket: bool,
    /// The protocol version is 4: `EIO=4`.
    pub is_version_4: bool,
}

impl Query {
    /// Parses a query.
    ///
    /// # Errors
    /// If it names no known transport.
    pub fn parse(query: &str) -> Result<Query, RequestError> {
        let (mut sid, mut transport, mut version) = (None, None, None);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "sid" => sid = Some(value.to_owned()),
                "transport" => transport = Some(value),
                "EIO" => version = Some(value),
                _ => {}
            }
        }
        let websocket = match transport {
            Some("websocket") => true,
            Some("polling") => false,
            _ => return Err(RequestError::Transport),
        };
        Ok(Query { sid, websocket, is_version_4: version == Some("4") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_transport_session_and_version() {
        assert_eq!(Query::parse(""), Err(RequestError::Transport));
        assert_eq!(Query::parse("transport=flash&EIO=4"), Err(RequestError::Transport));
        assert_eq!(
            Query::parse("EIO=4&transport=polling&t=abc"),
            Ok(Query { sid: None, websocket: false, is_version_4: true })
        );
        assert_eq!(
            Query::parse("transport=websocket&EIO=3&sid=x"),
            Ok(Query { sid: Some("x".into()), websocket: true, is_version_4: false })
        );
    }
}
