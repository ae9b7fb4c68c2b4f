//! The cluster mark of the streams: each stream carries it in its metadata from its creation on.
//!
//! The mark is stored in the streams that it protects. A stream lost with a server's disk is created again together
//! with its mark, in one request. If two clusters create one stream at once, JetStream refuses the second, because the
//! configurations differ (`docs/decisions/0014-a-cluster-has-a-mark.md`).

use super::NatsConfig;
use super::api::{ApiError, StreamInfo, code};
use super::connection::Connection;
use crate::bus::BusError;
use crate::cluster::Mark;
use async_nats::jetstream::stream::Config;
use carillon_proto::subject::Prefix;

/// The mark and the names that this process's streams must have.
pub(super) struct Ours {
    pub(super) prefix: Prefix,
    pub(super) mark: Mark,
}

impl Ours {
    /// Reads the mark from the settings. Without a cluster id there, it comes from the first partition's stream.
    pub(super) async fn learn(connection: &Connection, config: &NatsConfig) -> Result<Ours, ApiError> {
        let first = match connection.stream_info(&config.prefix.command_stream(0), None).await {
            Ok(info) => Some(info),
            Err(error) if error.is(code::STREAM_NOT_FOUND) => None,
            Err(error) => return Err(error),
        };
        let marked = first.as_ref().and_then(|info| Mark::of_metadata(&info.config.metadata));
        let id = config.cluster.or(marked.map(|mark| mark.id)).ok_or_else(|| {
            BusError::Unavailable(
                "no message-worker has marked the streams of a cluster there: start one".into(),
            )
        })?;
        let mark = Mark { id, partitions: config.partitions };
        let ours = Ours { prefix: config.prefix.clone(), mark };
        first.map_or(Ok(()), |info| ours.check(&info))?;
        Ok(ours)
    }

    /// Refuses a stream that carries the mark of another cluster. A stream without a mark was created before marks
    /// existed, and is accepted.
    pub(super) fn check(&self, info: &StreamInfo) -> Result<(), ApiError> {
        let found = Mark::of_metadata(&info.config.metadata);
        found.map_or(Ok(()), |found| self.mark.check_bus(self, &found)).map_err(ApiError::Misfit)
    }

    /// Puts the mark into a stream's configuration.
    pub(super) fn mark(&self, config: &mut Config) {
        self.mark.put_into(&mut config.metadata);
    }
}

/// The bus's name in messages about a mark that does not match.
impl std::fmt::Display for Ours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.prefix.as_str() {
            "" => f.write_str("nats"),
            prefix => write!(f, "nats with prefix {prefix}"),
        }
    }
}
