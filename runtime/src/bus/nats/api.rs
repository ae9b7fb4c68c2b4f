//! JetStream's API as far as Carillon uses it: requests and replies in JSON.

use super::connection::{Connection, NoAnswer};
use crate::bus::{BusError, LogBounds};
use crate::cluster::Misfit;
use async_nats::jetstream::stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;

/// Time limit for one reply. An election of a leader takes about this long.
const API_TIMEOUT: Duration = Duration::from_secs(3);

/// JetStream's error codes that Carillon handles.
pub(super) mod code {
    /// Not enough servers for the replicas.
    pub const NO_PEERS: u64 = 10_005;
    /// Not enough servers or space.
    pub const INSUFFICIENT_RESOURCES: u64 = 10_023;
    /// No such message.
    pub const MESSAGE_NOT_FOUND: u64 = 10_037;
    /// There is a stream of that name with another configuration.
    pub const STREAM_NAME_IN_USE: u64 = 10_058;
    /// No such stream.
    pub const STREAM_NOT_FOUND: u64 = 10_059;
    /// More than one replica on a server that is not in a cluster.
    pub const REPLICAS_NOT_SUPPORTED: u64 = 10_074;
    /// A message with the same id is being stored. Whether that will succeed is unknown.
    pub const DUPLICATE_IN_PROCESS: u64 = 10_158;
}

/// An error that the API returns.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Refusal {
    #[serde(default)]
    pub err_code: u64,
    #[serde(default)]
    pub description: String,
}

/// Why an API request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// There is no reply, or it cannot be decoded.
    #[error("{0}")]
    Bus(BusError),
    /// JetStream refused.
    #[error("jetstream refuses: {} ({})", .0.description, .0.err_code)]
    Refused(Refusal),
    /// The stream belongs to another cluster.
    #[error("{0}")]
    Misfit(Misfit),
}

impl ApiError {
    pub(super) fn is(&self, code: u64) -> bool {
        matches!(self, ApiError::Refused(refusal) if refusal.err_code == code)
    }
}

impl From<BusError> for ApiError {
    fn from(error: BusError) -> Self {
        ApiError::Bus(error)
    }
}

impl From<NoAnswer> for ApiError {
    fn from(no_answer: NoAnswer) -> Self {
        ApiError::Bus(match no_answer {
            NoAnswer::NoResponders => {
                BusError::Unavailable("jetstream does not answer: is it enabled on the nats server?".into())
            }
            other => other.into(),
        })
    }
}

impl From<ApiError> for BusError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Bus(error) => error,
            ApiError::Refused(_) | ApiError::Misfit(_) => BusError::Unavailable(error.to_string()),
        }
    }
}

#[derive(Deserialize)]
struct Refused {
    error: Option<Refusal>,
}

/// A stream's state.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StreamState {
    pub messages: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    /// Number of messages by subject, if the request had a filter for subjects.
    pub subjects: Option<HashMap<String, u64>>,
}

impl StreamState {
    pub(super) fn bounds(&self) -> LogBounds {
        let first = if self.messages == 0 { self.last_seq + 1 } else { self.first_seq };
        LogBounds { first, last: self.last_seq }
    }
}

/// A stream as the server describes it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StreamInfo {
    pub config: stream::Config,
    /// RFC 3339. A stream that was deleted and created again has another value.
    pub created: String,
    pub state: StreamState,
    /// When the server replied, RFC 3339.
    pub ts: Option<String>,
}

/// JetStream's reply to a publish.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Ack {
    pub seq: Option<u64>,
    pub error: Option<Refusal>,
}

/// A stored message. Payload and headers are base64.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StoredMessage {
    pub message: stream::RawMessage,
}

/// A reply whose content is not used.
#[derive(Deserialize)]
pub(super) struct Done {}

pub(super) fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(payload).map_err(|error| {
        ApiError::Bus(BusError::Unavailable(format!("jetstream's answer is strange: {error}")))
    })
}

impl Connection {
    /// Sends a request to JetStream's API.
    pub(super) async fn api<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, ApiError> {
        let payload = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.request(format!("$JS.API.{path}"), None, payload.into(), API_TIMEOUT).await?;
        let refused: Refused = read(&answer.payload)?;
        match refused.error {
            Some(refusal) => Err(ApiError::Refused(refusal)),
            None => read(&answer.payload),
        }
    }

    /// Reads a stream's state. With `subjects_filter`, its messages are counted by matching subject.
    pub(super) async fn stream_info(
        &self,
        stream: &str,
        subjects_filter: Option<&str>,
    ) -> Result<StreamInfo, ApiError> {
        let body =
            subjects_filter.map_or(Value::Null, |filter| serde_json::json!({ "subjects_filter": filter }));
        self.api(&format!("STREAM.INFO.{stream}"), &body).await
    }

    /// Creates or changes a stream: `verb` is `CREATE` or `UPDATE`.
    pub(super) async fn put_stream(
        &self,
        verb: &str,
        config: &stream::Config,
    ) -> Result<StreamInfo, ApiError> {
        let body = serde_json::to_value(config)
            .map_err(|error| ApiError::Bus(BusError::Unavailable(error.to_string())))?;
        self.api(&format!("STREAM.{verb}.{}", config.name), &body).await
    }

    /// Publishes to a stream and waits for its ack.
    pub(super) async fn put_message(
        &self,
        subject: String,
        headers: Option<async_nats::HeaderMap>,
        payload: bytes::Bytes,
        time: Duration,
    ) -> Result<u64, PutError> {
        let answer = self.request(subject, headers, payload, time).await.map_err(PutError::NoAnswer)?;
        let ack: Ack = serde_json::from_slice(&answer.payload)
            .map_err(|error| PutError::NoAnswer(NoAnswer::Unknown(format!("strange ack: {error}"))))?;
        match (ack.error, ack.seq) {
            (Some(refusal), _) => Err(PutError::Refused(refusal)),
            (None, Some(sequence)) => Ok(sequence),
            (None, None) => Err(PutError::NoAnswer(NoAnswer::Unknown("an ack without sequence".into()))),
        }
    }
}

/// Why it is not certain that a message is in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PutError {
    /// No ack came.
    NoAnswer(NoAnswer),
    /// The stream refused it.
    Refused(Refusal),
}

impl From<PutError> for BusError {
    fn from(error: PutError) -> Self {
        match error {
            PutError::NoAnswer(no_answer) => no_answer.into(),
            PutError::Refused(refusal) if refusal.err_code == code::DUPLICATE_IN_PROCESS => {
                BusError::Timeout(refusal.description)
            }
            PutError::Refused(refusal) => ApiError::Refused(refusal).into(),
        }
    }
}
