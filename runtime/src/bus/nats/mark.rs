//! Whose streams these are: each carries the mark of its cluster in its metadata, from its making on.
//!
//! The mark lies with what it protects: streams that are lost with a server's disk are made again by whoever misses
//! them, with their mark, and of two clusters that make one stream at once JetStream refuses the second.

use super::NatsConfig;
use super::api::{ApiError, StreamInfo, code};
use super::connection::Connection;
use crate::bus::BusError;
use crate::cluster::Mark;
use async_nats::jetstream::stream::Config;
use carillon_proto::subject::Prefix;

/// Whose the streams are to be, and what they are called.
pub(super) struct Ours {
    pub(super) prefix: Prefix,
    pub(super) mark: Mark,
}

impl Ours {
    /// What the settings say, with the cluster's id from the first partition's stream where the settings have none.
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

    /// Refuses a stream that carries the mark of another cluster. One without a mark was made before there were marks.
    pub(super) fn check(&self, info: &StreamInfo) -> Result<(), ApiError> {
        let found = Mark::of_metadata(&info.config.metadata);
        found.map_or(Ok(()), |found| self.mark.check_bus(self, &found)).map_err(ApiError::Misfit)
    }

    /// Marks a stream.
    pub(super) fn mark(&self, config: &mut Config) {
        self.mark.put_into(&mut config.metadata);
    }
}

/// The bus in words.
impl std::fmt::Display for Ours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.prefix.as_str() {
            "" => f.write_str("nats"),
            prefix => write!(f, "nats with prefix {prefix}"),
        }
    }
}
