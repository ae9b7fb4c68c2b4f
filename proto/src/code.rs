//! The numbered tables of what can go wrong: error codes, their HTTP statuses, and close codes.

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
    /// No identity, or one that does not hold.
    Unauthorized,
    /// The token's time is over.
    TokenExpired,
    /// The identity may not do this. Looks the same whether the thing exists or not.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// Too many in too short a time; carries `retry_after_ms`.
    RateLimited,
    /// Too many connections of one user.
    TooManyConnections,
    /// It exists already, or has moved on.
    Conflict,
    /// Cannot be done now, and was not done; carries `retry_after_ms`.
    Unavailable,
    /// Outcome unknown: send again with the same client id.
    Timeout,
    /// A bug.
    Internal,
}

impl ErrorCode {
    /// Every code, in the order of the protocol's list.
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

    /// The code as it stands in a frame.
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

    /// The code that `text` names; an unknown one from a newer peer is [`ErrorCode::Internal`].
    pub fn parse(text: &str) -> ErrorCode {
        Self::ALL.into_iter().find(|code| code.as_str() == text).unwrap_or(Self::Internal)
    }

    /// The HTTP status that goes with the code (protocol §1).
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

    /// Whether the same request may succeed later, unchanged.
    pub fn may_retry(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable | Self::Timeout | Self::TooManyConnections)
    }
}

/// An error on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Failure {
    /// What kind of error it is.
    pub code: ErrorCode,
    /// For people: lower case, says what to do.
    pub message: String,
    /// With `rate_limited` and `unavailable`: when to try again, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// An error without a time to retry.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), retry_after_ms: None }
    }

    /// The same error, with the time after which to try again.
    pub fn retry_after(self, retry_after_ms: u64) -> Failure {
        Failure { retry_after_ms: Some(retry_after_ms), ..self }
    }

    /// A missing or wrong field, an unknown type or a bad id.
    pub fn invalid_payload(message: impl Into<String>) -> Failure {
        Failure::new(ErrorCode::InvalidPayload, message)
    }

    /// A refusal that looks the same whether the conversation exists or not (protocol §7).
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

/// Why the server closes a native WebSocket (protocol §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The token is not valid. Do not come back with it.
    InvalidToken,
    /// The token's time is over. Come back with a new one.
    TokenExpired,
    /// No token within the time for it.
    AuthenticationTimeout,
    /// The user has as many connections as allowed.
    TooManyConnections,
    /// A frame over the limit.
    FrameTooLarge,
    /// Not WebSocket as RFC 6455 has it.
    ProtocolError,
    /// Text that is not UTF-8 (RFC 6455 §8.1).
    InvalidUtf8,
    /// The server shuts down. Come back, to another one.
    Draining,
    /// The client did not answer pings, or could not be written to.
    Unresponsive,
    /// What the session goes on with cannot be had now. Come back soon.
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

    /// The reason that goes with the code.
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
