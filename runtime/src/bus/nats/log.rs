//! Partition logs as JetStream streams, one stream per partition.

use super::api::{ApiError, Done, StoredMessage, StreamInfo, code};
use super::connection::{Connection, NoAnswer};
use super::mark::Ours;
use super::{NatsConfig, api::PutError, reader};
use crate::bus::{BusError, LogBounds, LogEntry, LogReader};
use async_nats::HeaderMap;
use async_nats::datetime::parse_rfc3339;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType};
use bytes::Bytes;
use carillon_proto::id::Tag;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The header by which JetStream recognises a repeated entry. It carries the entry's tag.
pub(super) const TAG_HEADER: &str = "Nats-Msg-Id";
/// How long JetStream recognises a repeated entry.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Bytes that all logs of a cluster may occupy on each server. JetStream reserves them, so this is half of the 8 GiB
/// that the shipped server configuration allows.
const LOGS_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Least bytes of one log, however many partitions there are: at 1 MiB/s, room for a worker's absence of a minute.
const LOG_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Time limit for an ack. A stream that syncs every entry takes some hundred microseconds, a leader election takes
/// seconds.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// A missing stream is looked for, and created again, at most this often.
const REPAIR_PAUSE: Duration = Duration::from_secs(1);
/// Copies of a stream if the servers form a large enough cluster.
const REPLICAS_IN_CLUSTER: usize = 3;

/// The logs of all partitions.
pub(super) struct Logs {
    connection: Arc<Connection>,
    ours: Ours,
    /// `None`: as many as the servers allow, up to [`REPLICAS_IN_CLUSTER`].
    replicas: Option<usize>,
    repaired: Mutex<HashMap<u32, Instant>>,
}

/// Sets the parts of a partition's stream configuration that Carillon decides. Other parts of an existing configuration
/// stay.
fn configure(config: &mut Config, partition: u32, ours: &Ours, replicas: usize) {
    let share = (LOGS_BYTES_MAX / u64::from(ours.mark.partitions.max(1))).max(LOG_BYTES_MIN);
    config.name = ours.prefix.command_stream(partition);
    config.subjects = vec![ours.prefix.command(partition)];
    ours.mark(config);
    config.retention = RetentionPolicy::Limits;
    config.discard = DiscardPolicy::New;
    config.storage = StorageType::File;
    config.persist_mode = config.persist_mode.filter(|mode| *mode == PersistenceMode::Default);
    config.max_age = Duration::ZERO;
    config.max_messages = -1;
    config.max_messages_per_subject = -1;
    config.duplicate_window = DUPLICATE_WINDOW;
    config.num_replicas = replicas;
    // An operator may set a higher limit, but not a lower one, and not none: a full disk stops all streams of a server.
    config.max_bytes = config.max_bytes.max(share as i64);
}

/// The tag in an entry's header. An entry that another program put into the log has none, and gets zeros.
pub(super) fn tag_of(headers: Option<&HeaderMap>) -> Tag {
    let text = headers.and_then(|headers| headers.get(TAG_HEADER));
    text.and_then(|text| Tag::parse(text.as_str())).unwrap_or(Tag([0; 16]))
}

impl Logs {
    /// Creates or updates the streams of all partitions.
    pub(super) async fn open(connection: Arc<Connection>, config: &NatsConfig) -> Result<Logs, ApiError> {
        let ours = Ours::learn(&connection, config).await?;
        let logs = Logs { connection, ours, replicas: config.replicas, repaired: Mutex::default() };
        for partition in 0..config.partitions {
            logs.ensure(partition).await?;
        }
        Ok(logs)
    }

    fn stream_of(&self, partition: u32) -> String {
        self.ours.prefix.command_stream(partition)
    }

    /// Numbers of copies to try, the best first.
    fn replica_choices(&self) -> Vec<usize> {
        match self.replicas {
            Some(replicas) => vec![replicas],
            None if self.connection.client.server_info().cluster.is_some() => vec![REPLICAS_IN_CLUSTER, 1],
            None => vec![1],
        }
    }

    /// Creates or updates a stream. If another process creates it meanwhile with another configuration, this tries once
    /// more with that stream as the existing one.
    async fn ensure(&self, partition: u32) -> Result<StreamInfo, ApiError> {
        match self.try_ensure(partition).await {
            Err(error) if error.is(code::STREAM_NAME_IN_USE) => self.try_ensure(partition).await,
            done => done,
        }
    }

    async fn try_ensure(&self, partition: u32) -> Result<StreamInfo, ApiError> {
        let mut existing = match self.connection.stream_info(&self.stream_of(partition), None).await {
            Ok(info) => Some(info),
            Err(error) if error.is(code::STREAM_NOT_FOUND) => None,
            Err(error) => return Err(error),
        };
        existing.as_ref().map_or(Ok(()), |info| self.ours.check(info))?;
        let mut refused = None;
        for replicas in self.replica_choices() {
            match self.put(partition, replicas, existing.take()).await {
                Err(error) if is_for_want_of_servers(&error) => refused = Some(error),
                done => return done,
            }
        }
        Err(refused.unwrap_or_else(|| BusError::Unavailable("no replicas to ask for".into()).into()))
    }

    async fn put(
        &self,
        partition: u32,
        replicas: usize,
        existing: Option<StreamInfo>,
    ) -> Result<StreamInfo, ApiError> {
        let Some(info) = existing else {
            let mut config = Config::default();
            configure(&mut config, partition, &self.ours, replicas);
            tracing::info!(stream = config.name, replicas, "making the stream of a partition");
            return self.connection.put_stream("CREATE", &config).await;
        };
        let mut config = info.config.clone();
        // A server that is away for now is no reason to reduce the number of copies.
        let replicas = if self.replicas.is_none() { replicas.max(config.num_replicas) } else { replicas };
        configure(&mut config, partition, &self.ours, replicas);
        if config == info.config {
            return Ok(info);
        }
        tracing::info!(stream = config.name, replicas, "updating the stream of a partition");
        match self.connection.put_stream("UPDATE", &config).await {
            // The stream works as it is, with fewer copies than wanted.
            Err(error) if self.replicas.is_none() && is_for_want_of_servers(&error) => {
                tracing::warn!(
                    stream = config.name,
                    "the servers cannot hold more copies: keeping the present number"
                );
                Ok(info)
            }
            done => done,
        }
    }

    /// Creates a stream again after it was deleted, or lost with a server's disk.
    async fn repair(&self, partition: u32) -> Result<StreamInfo, ApiError> {
        let now = Instant::now();
        let last = self.repaired.lock().insert(partition, now);
        if let Some(last) = last.filter(|last| now.duration_since(*last) < REPAIR_PAUSE) {
            self.repaired.lock().insert(partition, last);
            return Err(BusError::Unavailable("the partition's stream is missing".into()).into());
        }
        self.ensure(partition).await
    }

    /// Reads a stream's state, and checks its mark: another cluster may have created it after ours was lost.
    async fn info(&self, partition: u32) -> Result<StreamInfo, ApiError> {
        match self.connection.stream_info(&self.stream_of(partition), None).await {
            Err(error) if error.is(code::STREAM_NOT_FOUND) => self.repair(partition).await,
            Ok(info) => self.ours.check(&info).map(|()| info),
            refused => refused,
        }
    }

    /// The servers' clock, read from the leader of a log, because the leader sets the time of entries.
    pub(super) async fn clock_ms(&self) -> Result<Option<u64>, BusError> {
        let text = self.info(0).await?.ts;
        let time = text.and_then(|text| parse_rfc3339(&text).ok());
        Ok(time.and_then(|time| u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()))
    }

    pub(super) async fn replicas(&self, partition: u32) -> Result<usize, BusError> {
        Ok(self.info(partition).await?.config.num_replicas)
    }

    fn check_partition(&self, partition: u32) -> Result<(), BusError> {
        if partition < self.ours.mark.partitions {
            return Ok(());
        }
        Err(BusError::Unavailable(format!("there is no partition {partition}")))
    }

    pub(super) async fn append(&self, partition: u32, tag: Tag, payload: Bytes) -> Result<u64, BusError> {
        self.check_partition(partition)?;
        match self.put_entry(partition, tag, payload.clone()).await {
            Err(PutError::NoAnswer(NoAnswer::NoResponders)) => {
                // Whether or not the repair succeeds, the entry was not stored: the stream did not exist.
                self.repair(partition).await.map_err(|error| BusError::Unavailable(error.to_string()))?;
                Ok(self.put_entry(partition, tag, payload).await?)
            }
            done => Ok(done?),
        }
    }

    async fn put_entry(&self, partition: u32, tag: Tag, payload: Bytes) -> Result<u64, PutError> {
        let mut headers = HeaderMap::new();
        headers.insert(TAG_HEADER, tag.to_text());
        let subject = self.ours.prefix.command(partition);
        self.connection.put_message(subject, Some(headers), payload, APPEND_TIMEOUT).await
    }

    pub(super) async fn bounds(&self, partition: u32) -> Result<LogBounds, BusError> {
        self.check_partition(partition)?;
        Ok(self.info(partition).await?.state.bounds())
    }

    /// Reads an entry from the stream's leader, because a follower may lack it or still hold it after a purge.
    pub(super) async fn entry(&self, partition: u32, sequence: u64) -> Result<Option<LogEntry>, BusError> {
        self.check_partition(partition)?;
        if sequence == 0 {
            return Ok(None);
        }
        let path = format!("STREAM.MSG.GET.{}", self.stream_of(partition));
        let stored: StoredMessage = match self.connection.api(&path, &json!({ "seq": sequence })).await {
            Ok(stored) => stored,
            Err(error) if error.is(code::MESSAGE_NOT_FOUND) => return Ok(None),
            Err(error) if error.is(code::STREAM_NOT_FOUND) => {
                self.repair(partition).await?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let message = StreamMessage::try_from(stored.message)
            .map_err(|error| BusError::Unavailable(format!("jetstream's answer is strange: {error}")))?;
        Ok(Some(LogEntry {
            sequence: message.sequence,
            tag: tag_of(Some(&message.headers)),
            time_ms: (message.time.unix_timestamp_nanos() / 1_000_000).max(0) as u64,
            payload: message.payload,
        }))
    }

    pub(super) async fn read(&self, partition: u32, from: u64) -> Result<Box<dyn LogReader>, BusError> {
        let LogBounds { first, last } = self.bounds(partition).await?;
        if from < first || from > last + 1 {
            return Err(BusError::Broken(format!("the log holds {first} to {last}, not {from}")));
        }
        let stream = self.stream_of(partition);
        Ok(Box::new(reader::Reader::open(self.connection.clone(), &stream, from).await?))
    }

    /// Purges at most up to the last entry: JetStream would raise the stream's next sequence to any higher number in
    /// the request.
    pub(super) async fn purge(&self, partition: u32, below: u64) -> Result<(), BusError> {
        let LogBounds { first, last } = self.bounds(partition).await?;
        let below = below.min(last + 1);
        if below <= first {
            return Ok(());
        }
        let path = format!("STREAM.PURGE.{}", self.stream_of(partition));
        let Done {} = self.connection.api(&path, &json!({ "seq": below })).await?;
        Ok(())
    }
}

fn is_for_want_of_servers(error: &ApiError) -> bool {
    let codes = [code::NO_PEERS, code::INSUFFICIENT_RESOURCES, code::REPLICAS_NOT_SUPPORTED];
    codes.into_iter().any(|code| error.is(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Mark;
    use carillon_proto::subject::Prefix;

    fn ours(partitions: u32) -> Ours {
        Ours { prefix: Prefix::default(), mark: Mark::new(partitions) }
    }

    #[test]
    fn a_new_stream_discards_no_entry_and_refuses_when_full() {
        let mut config = Config::default();
        let ours_of_16 = ours(16);
        configure(&mut config, 3, &ours_of_16, 3);
        assert_eq!(Mark::of_metadata(&config.metadata), Some(ours_of_16.mark));
        assert_eq!((config.name.as_str(), config.subjects[0].as_str()), ("CMD_3", "cmd.3"));
        assert_eq!((config.discard, config.storage), (DiscardPolicy::New, StorageType::File));
        assert_eq!((config.max_bytes, config.num_replicas), (256 * 1024 * 1024, 3));
        configure(&mut config, 3, &ours(1_024), 1);
        assert_eq!(config.max_bytes, 256 * 1024 * 1024, "an existing stream is not made smaller");
    }

    #[test]
    fn an_update_leaves_the_operators_own_fields_of_a_stream() {
        let mut config = Config {
            max_bytes: -1,
            max_age: Duration::from_secs(1),
            discard: DiscardPolicy::Old,
            persist_mode: Some(PersistenceMode::Async),
            description: Some("the operator's".into()),
            ..Config::default()
        };
        let ours_of_64 = ours(64);
        configure(&mut config, 0, &ours_of_64, 1);
        assert_eq!((config.max_bytes, config.max_age), (64 * 1024 * 1024, Duration::ZERO));
        assert_eq!((config.discard, config.persist_mode), (DiscardPolicy::New, None));
        assert_eq!(config.description.as_deref(), Some("the operator's"));
        let once = config.clone();
        configure(&mut config, 0, &ours_of_64, 1);
        assert_eq!(config, once);
    }

    #[test]
    fn entries_of_other_programs_get_a_tag_of_zeros() {
        let tag = Tag([7; 16]);
        let mut headers = HeaderMap::new();
        headers.insert(TAG_HEADER, tag.to_text());
        assert_eq!(tag_of(Some(&headers)), tag);
        headers.insert(TAG_HEADER, "mine");
        assert_eq!(tag_of(Some(&headers)), Tag([0; 16]));
        assert_eq!(tag_of(None), Tag([0; 16]));
    }
}
