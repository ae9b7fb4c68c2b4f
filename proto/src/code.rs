//! Error codes with their HTTP statuses, and the close codes of native WebSockets.

use crate::wire;

/// An error code as clients see it, in every vocabulary and over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Not JSON, not an object, binary, or without a `type`.
    InvalidFrame,
    /// Unknown type, missing or wrong field, bad id.
    InvalidPayload,
    /// Nothing is left of the content after trimming.
    EmptyContent,
    /// Over a size limit.
    TooLarge,
    /// No identity was given, or it is not valid.
    Unauthorized,
    /// The token has expired.
    TokenExpired,
    /// The user may not do this. The answer is the same whether the conversation exists or not.
    Forbidden,
    /// What the request names does not exist.
    NotFound,
    /// Too many requests in too short a time; carries `retry_after_ms`.
    RateLimited,
    /// Too many connections of one user.
    TooManyConnections,
    /// The conversation exists already, or a later request was processed first.
    Conflict,
    /// It cannot be done now, and was not done; carries `retry_after_ms`.
    Unavailable,
    /// Outcome unknown: send again with the same client id.
    Timeout,
    /// A bug.
    Internal,
}

impl ErrorCode {
    /// Every code, in the order of declaration.
    pub const ALL: [ErrorCode; 14] = [
        Self::InvalidFrame,
        Self::InvalidPayload,
        Self::EmptyContent,
        Self::TooLarge,
        Self::Unauthorized,
        Self::TokenExpired,
        Self::Forbidden,
        Self::NotFound,
        Self::RateLimited,
        Self::TooManyConnections,
        Self::Conflict,
        Self::Unavailable,
        Self::Timeout,
        Self::Internal,
    ];

    /// The code as text, as frames and HTTP bodies carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidFrame => "invalid_frame",
            Self::InvalidPayload => "invalid_payload",
            Self::EmptyContent => "empty_content",
            Self::TooLarge => "too_large",
            Self::Unauthorized => "unauthorized",
            Self::TokenExpired => "token_expired",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
            Self::TooManyConnections => "too_many_connections",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }

    /// The code with this text. A newer peer may send an unknown one, which becomes [`ErrorCode::Internal`].
    pub fn parse(text: &str) -> ErrorCode {
        Self::ALL.into_iter().find(|code| code.as_str() == text).unwrap_or(Self::Internal)
    }

    /// The HTTP status of the code (`docs/rest.md#errors`).
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidFrame | Self::InvalidPayload | Self::EmptyContent => 400,
            Self::Unauthorized | Self::TokenExpired => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::RateLimited | Self::TooManyConnections => 429,
            Self::Unavailable => 503,
            Self::Timeout => 504,
            Self::Internal => 500,
        }
    }

    /// Whether the same request may succeed if it is repeated later.
    pub fn may_retry(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable | Self::Timeout | Self::TooManyConnections)
    }
}

/// An error as it is sent to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Failure {
    /// What kind of error it is.
    pub code: ErrorCode,
    /// A text for people, in lower case, that names what to do.
    pub message: String,
    /// With `rate_limited` and `unavailable`: after how many milliseconds to try again.
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// An error without `retry_after_ms`.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), retry_after_ms: None }
    }

    /// The same error with the time after which to try again, in milliseconds.
    pub fn retry_after(self, retry_after_ms: u64) -> Failure {
        Failure { retry_after_ms: Some(retry_after_ms), ..self }
    }

    /// A missing or wrong field, an unknown type or a bad id.
    pub fn invalid_payload(message: impl Into<String>) -> Failure {
        Failure::new(ErrorCode::InvalidPayload, message)
    }

    /// JSON whose fields have the wrong names or types: what serde reports, without its place in the text, at most 200
    /// characters.
    pub fn invalid_fields(error: &serde_json::Error) -> Failure {
        let error = error.to_string();
        let what = error.split(" at line").next().unwrap_or_default();
        Failure::invalid_payload(what.chars().take(200).collect::<String>())
    }

    /// A refusal that is the same whether the conversation exists or not, so that clients cannot probe for
    /// conversations.
    pub fn forbidden() -> Failure {
        Failure::new(ErrorCode::Forbidden, "you may not do this in this conversation")
    }
}

impl From<Failure> for wire::Failure {
    fn from(failure: Failure) -> Self {
        wire::Failure {
            code: failure.code.as_str().into(),
            message: failure.message,
            retry_after_ms: failure.retry_after_ms.unwrap_or(0),
        }
    }
}

impl From<wire::Failure> for Failure {
    fn from(failure: wire::Failure) -> Self {
        Failure {
            code: ErrorCode::parse(&failure.code),
            message: failure.message,
            retry_after_ms: (failure.retry_after_ms > 0).then_some(failure.retry_after_ms),
        }
    }
}

/// Why the server closes a native WebSocket (`docs/protocol.md#closes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The token is not valid. The client must not reconnect with it.
    InvalidToken,
    /// The token has expired. The client reconnects with a new one.
    TokenExpired,
    /// The client gave no token in time.
    AuthenticationTimeout,
    /// The user has as many connections as allowed.
    TooManyConnections,
    /// A frame was larger than allowed.
    FrameTooLarge,
    /// The client did not follow RFC 6455.
    ProtocolError,
    /// A text frame was not UTF-8 (RFC 6455 §8.1).
    InvalidUtf8,
    /// The gateway shuts down. The client reconnects to another one.
    Draining,
    /// The client did not answer pings, or frames could not be written to it.
    Unresponsive,
    /// State that the session needs cannot be read now. The client reconnects soon.
    Unavailable,
    /// A bug.
    Internal,
}

impl Close {
    /// The WebSocket close code.
    pub fn code(self) -> u16 {
        match self {
            Self::InvalidToken
            | Self::TokenExpired
            | Self::AuthenticationTimeout
            | Self::TooManyConnections => 1008,
            Self::FrameTooLarge => 1009,
            Self::ProtocolError => 1002,
            Self::InvalidUtf8 => 1007,
            Self::Draining | Self::Unresponsive => 1001,
            Self::Internal => 1011,
            Self::Unavailable => 1013,
        }
    }

    /// The reason text of the close frame.
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidToken => "Invalid token",
            Self::TokenExpired => "Token expired",
            Self::AuthenticationTimeout => "Authentication timeout",
            Self::TooManyConnections => "Too many connections",
            Self::FrameTooLarge => "frame too large",
            Self::ProtocolError => "protocol error",
            Self::InvalidUtf8 => "invalid utf-8",
            Self::Draining => "draining",
            Self::Unresponsive => "unresponsive",
            Self::Unavailable => "try again later",
            Self::Internal => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_parse_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), code);
        }
        assert_eq!(ErrorCode::parse("from_the_future"), ErrorCode::Internal);
    }

    #[test]
    fn failures_survive_the_bus() {
        let failure = Failure::new(ErrorCode::Unavailable, "later").retry_after(500);
        assert_eq!(Failure::from(wire::Failure::from(failure.clone())), failure);
        assert_eq!(Failure::from(wire::Failure::from(Failure::forbidden())), Failure::forbidden());
    }
}
