//! Leases as keys of a JetStream key-value bucket whose values live as long as a lease.
//!
//! A key that is not renewed leaves the bucket by its age. Nothing here trusts markers: a lease that is
//! given up is purged, and the keys that are left are what the server counts messages for.
//!
//! A bucket lies in the servers' memory and is gone when all of them start again. The leases in it last all the same:
//! whoever reads the next bucket first would else find itself alone, and take over everything that others work.

use super::api::{ApiError, Done, PutError, StreamInfo, code};
use super::connection::{Connection, NoAnswer};
use crate::bus::{BusError, LEASE_MS};
use async_nats::datetime::parse_rfc3339;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use bytes::Bytes;
use carillon_proto::id::WorkerId;
use carillon_proto::subject::{self, Prefix};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of a bucket in the server's memory: a lease takes about 200, so thousands of workers fit.
const BUCKET_BYTES_MAX: i64 = 1024 * 1024;
/// Time for a renewal: one that takes longer is worth little.
const RENEW_TIMEOUT: Duration = Duration::from_millis(LEASE_MS / 2);
/// A bucket that is made anew under our hands this often is somebody's mistake.
const ATTEMPTS_MAX: usize = 3;
/// Revisions of a bucket that fit between two milliseconds: the bucket lies in memory, its revisions start
/// again when the servers do, and numbers must rise all the same.
const REVISION_BITS: u32 = 20;

/// All leases of a cluster.
pub(super) struct Leases {
    connection: Arc<Connection>,
    prefix: Prefix,
    replicas: usize,
    /// When each kind's bucket was made, as last seen.
    created: Mutex<HashMap<String, String>>,
    /// What was read of each kind's buckets.
    read: Mutex<HashMap<String, Holders>>,
}

/// Whose leases there are, over the loss of a bucket.
#[derive(Debug, Default)]
struct Holders {
    /// When the bucket that was read last was made.
    created: String,
    /// Whose keys it held.
    held: Vec<WorkerId>,
    /// Whose keys a bucket held that is lost, and until when their leases may last.
    carried: HashMap<WorkerId, Instant>,
}

impl Holders {
    /// The live workers after a reading of a bucket. A lease of a lost bucket counts until the next bucket holds it, and
    /// for no longer than a lease lasts.
    fn after(&mut self, created: &str, held: Vec<WorkerId>, now: Instant) -> Vec<WorkerId> {
        if self.created != created {
            let until = now + Duration::from_millis(LEASE_MS);
            self.carried.extend(self.held.drain(..).map(|worker| (worker, until)));
            created.clone_into(&mut self.created);
        }
        self.carried.retain(|worker, until| now < *until && !held.contains(worker));
        self.held.clone_from(&held);
        held.into_iter().chain(self.carried.keys().cloned()).collect()
    }

    /// A worker has given its lease up.
    fn forget(&mut self, worker: &WorkerId) {
        self.held.retain(|held| held != worker);
        self.carried.remove(worker);
    }
}

/// Where the leases of workers of one kind lie.
struct Bucket {
    stream: String,
    /// With a dot at its end.
    key_prefix: String,
}

impl Bucket {
    fn new(prefix: &Prefix, kind: &str) -> Bucket {
        let name = prefix.lease_bucket(kind);
        Bucket { stream: format!("KV_{name}"), key_prefix: format!("$KV.{name}.") }
    }

    /// All keys.
    fn keys(&self) -> String {
        format!("{}>", self.key_prefix)
    }

    fn key_of(&self, worker: &WorkerId) -> String {
        format!("{}{}", self.key_prefix, subject::lease_key(worker))
    }

    /// Whose keys there are.
    fn workers(&self, info: StreamInfo) -> Vec<WorkerId> {
        let keys = info.state.subjects.unwrap_or_default();
        keys.keys().filter_map(|key| WorkerId::parse(key.strip_prefix(&self.key_prefix)?).ok()).collect()
    }

    fn config(&self, replicas: usize) -> Config {
        Config {
            name: self.stream.clone(),
            subjects: vec![self.keys()],
            max_messages_per_subject: 1,
            max_messages: -1,
            max_bytes: BUCKET_BYTES_MAX,
            max_age: Duration::from_millis(LEASE_MS),
            duplicate_window: Duration::from_millis(LEASE_MS),
            discard: DiscardPolicy::New,
            storage: StorageType::Memory,
            num_replicas: replicas,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..Config::default()
        }
    }
}

/// A number that rises with every revision of a bucket, and from one life of the bucket to the next.
fn number_of(created: &str, revision: u64) -> Option<u64> {
    let created = parse_rfc3339(created).ok()?;
    let created_ms = u64::try_from(created.unix_timestamp_nanos() / 1_000_000).ok()?;
    Some((created_ms << REVISION_BITS) + revision)
}

impl Leases {
    pub(super) fn new(connection: Arc<Connection>, prefix: Prefix, replicas: usize) -> Leases {
        Leases { connection, prefix, replicas, created: Mutex::default(), read: Mutex::default() }
    }

    fn bucket_of(&self, kind: &str) -> Bucket {
        Bucket::new(&self.prefix, kind)
    }

    async fn make(&self, bucket: &Bucket) -> Result<StreamInfo, ApiError> {
        let config = bucket.config(self.replicas);
        match self.connection.put_stream("CREATE", &config).await {
            Err(error) if error.is(code::STREAM_NAME_IN_USE) => {
                self.connection.put_stream("UPDATE", &config).await
            }
            made => made,
        }
    }

    async fn info(&self, bucket: &Bucket) -> Result<StreamInfo, ApiError> {
        match self.connection.stream_info(&bucket.stream, Some(&bucket.keys())).await {
            Err(error) if error.is(code::STREAM_NOT_FOUND) => self.make(bucket).await,
            info => info,
        }
    }

    /// Renews, and looks before and after that the bucket is the same one: only then do its time of making
    /// and the revision belong together.
    pub(super) async fn renew(&self, kind: &str, worker: &WorkerId) -> Result<u64, BusError> {
        let bucket = self.bucket_of(kind);
        let mut created = self.created.lock().get(kind).cloned();
        for _ in 0..ATTEMPTS_MAX {
            let before = match created.take() {
                Some(created) => created,
                None => self.info(&bucket).await?.created,
            };
            let put = self.connection.put_message(bucket.key_of(worker), None, Bytes::new(), RENEW_TIMEOUT);
            let revision = match put.await {
                Ok(revision) => revision,
                Err(PutError::NoAnswer(NoAnswer::NoResponders)) => continue,
                Err(error) => return Err(error.into()),
            };
            let after = self.info(&bucket).await?.created;
            self.created.lock().insert(kind.into(), after.clone());
            if before == after {
                return number_of(&after, revision)
                    .ok_or_else(|| BusError::Unavailable(format!("not a time of making: {after}")));
            }
            created = Some(after);
        }
        Err(BusError::Unavailable("the lease bucket is made anew again and again".into()))
    }

    pub(super) async fn live(&self, kind: &str) -> Result<Vec<WorkerId>, BusError> {
        let bucket = self.bucket_of(kind);
        let info = self.info(&bucket).await?;
        let created = info.created.clone();
        let held = bucket.workers(info);
        Ok(self.read.lock().entry(kind.into()).or_default().after(&created, held, Instant::now()))
    }

    /// The same, without making the bucket if there is none.
    pub(super) async fn look(&self, kind: &str) -> Result<Vec<WorkerId>, BusError> {
        let bucket = self.bucket_of(kind);
        match self.connection.stream_info(&bucket.stream, Some(&bucket.keys())).await {
            Err(error) if error.is(code::STREAM_NOT_FOUND) => Ok(Vec::new()),
            info => Ok(bucket.workers(info?)),
        }
    }

    pub(super) async fn release(&self, kind: &str, worker: &WorkerId) -> Result<(), BusError> {
        let bucket = self.bucket_of(kind);
        if let Some(holders) = self.read.lock().get_mut(kind) {
            holders.forget(worker);
        }
        let path = format!("STREAM.PURGE.{}", bucket.stream);
        match self.connection.api(&path, &json!({ "filter": bucket.key_of(worker) })).await {
            Ok(Done {}) => Ok(()),
            Err(error) if error.is(code::STREAM_NOT_FOUND) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_over_lives_of_the_bucket() {
        let number = |created, revision| number_of(created, revision).expect("a time");
        let first = "2026-11-21T22:00:00.123456789Z";
        assert!(number(first, 2) > number(first, 1));
        // A hundred thousand renewals, and made anew within 100 ms.
        assert!(number("2026-11-21T22:00:00.2Z", 1) > number(first, 100_000));
        assert!(number("2200-01-01T00:00:00Z", u64::from(u32::MAX)) < i64::MAX as u64);
        assert_eq!(number_of("yesterday", 1), None);
    }

    /// Before, the first worker that was connected again took over what all others worked, displaced them in the store,
    /// and was displaced by them a moment later.
    #[tokio::test(start_paused = true)]
    async fn leases_outlast_a_bucket_that_is_lost() {
        let worker = |name: &str| WorkerId::parse(name).expect("a worker id");
        let workers = |names: &[&str]| names.iter().map(|name| worker(name)).collect::<Vec<_>>();
        let (mut holders, began) = (Holders::default(), Instant::now());
        let mut after = |created: &str, held: &[&str], ms| {
            let mut live = holders.after(created, workers(held), began + Duration::from_millis(ms));
            live.sort();
            live
        };
        assert_eq!(after("1st", &["a", "b", "c"], 0), workers(&["a", "b", "c"]));
        assert_eq!(after("2nd", &["a"], 100), workers(&["a", "b", "c"]), "b and c come back to it");
        assert_eq!(after("2nd", &["a", "b"], 200), workers(&["a", "b", "c"]));
        assert_eq!(
            after("2nd", &["a"], 300),
            workers(&["a", "c"]),
            "the bucket held b's, and holds it no more"
        );
        assert_eq!(after("2nd", &["a"], 99 + LEASE_MS), workers(&["a", "c"]));
        assert_eq!(after("2nd", &["a"], 100 + LEASE_MS), workers(&["a"]), "c's has run out");
        assert_eq!(after("3rd", &[], 5_000), workers(&["a"]));
        holders.forget(&worker("a"));
        assert_eq!(holders.after("3rd", Vec::new(), began + Duration::from_secs(6)), []);
    }
}
