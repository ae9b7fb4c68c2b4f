//! Leases are keys of a JetStream key-value bucket, whose values live as long as a lease.
//!
//! A key that is not renewed leaves the bucket by its age. A lease that is given up is purged, so delete markers are
//! not needed: the live leases are the keys for which the server counts messages.
//!
//! A bucket is in the servers' memory, and is gone when all servers restart. Its leases still count for the time of a
//! lease at most. Otherwise, the first worker that reads the new bucket would find itself alone and take over
//! everything that others work.

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

/// Bytes of a bucket in a server's memory. A lease needs about 200 bytes, so thousands of workers fit.
const BUCKET_BYTES_MAX: i64 = 1024 * 1024;
/// Time for a renewal. A renewal that takes longer is worth little, because the lease counts from before it began.
const RENEW_TIMEOUT: Duration = Duration::from_millis(LEASE_MS / 2);
/// Attempts at one renewal. If the bucket is recreated during every one of them, something is wrong with the cluster.
const ATTEMPTS_MAX: usize = 3;
/// Bits of a lease's number for the revision, below the milliseconds of the bucket's creation. The bucket is in memory,
/// so its revisions start again when the servers restart, but the numbers must rise all the same.
const REVISION_BITS: u32 = 20;

/// All leases of a cluster.
pub(super) struct Leases {
    connection: Arc<Connection>,
    prefix: Prefix,
    replicas: usize,
    /// When each kind's bucket was created, as last seen.
    created: Mutex<HashMap<String, String>>,
    /// The lease holders of each kind, as last read from its bucket.
    read: Mutex<HashMap<String, Holders>>,
}

/// The workers that hold leases, including those in a bucket that was lost.
#[derive(Debug, Default)]
struct Holders {
    /// When the bucket that was read last was created.
    created: String,
    /// The workers whose keys it held.
    held: Vec<WorkerId>,
    /// The workers whose keys were in a lost bucket, and until when their leases may last.
    carried: HashMap<WorkerId, Instant>,
}

impl Holders {
    /// The live workers after a reading of a bucket. A lease of a lost bucket counts until the next bucket holds it,
    /// and for no longer than a lease lasts.
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

    /// Removes a worker that has given up its lease.
    fn forget(&mut self, worker: &WorkerId) {
        self.held.retain(|held| held != worker);
        self.carried.remove(worker);
    }
}

/// The bucket of the leases of one kind of worker.
struct Bucket {
    stream: String,
    /// Ends with a dot.
    key_prefix: String,
}

impl Bucket {
    fn new(prefix: &Prefix, kind: &str) -> Bucket {
        let name = prefix.lease_bucket(kind);
        Bucket { stream: format!("KV_{name}"), key_prefix: format!("$KV.{name}.") }
    }

    /// A filter for all keys.
    fn keys(&self) -> String {
        format!("{}>", self.key_prefix)
    }

    fn key_of(&self, worker: &WorkerId) -> String {
        format!("{}{}", self.key_prefix, subject::lease_key(worker))
    }

    /// The workers whose keys are in the bucket.
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

/// A number that rises with every revision of a bucket, and from one bucket to the next. `None` if `created` is no
/// time.
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

    /// Renews a lease and returns its number. Checks that the bucket is the same one before and after, because only
    /// then do its creation time and the revision belong together.
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

    /// Like [`Leases::live`], but does not create the bucket, and does not count leases of a lost one.
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
    fn numbers_rise_from_one_bucket_to_the_next() {
        let number = |created, revision| number_of(created, revision).expect("a time");
        let first = "2026-11-21T22:00:00.123456789Z";
        assert!(number(first, 2) > number(first, 1));
        // 100,000 renewals, after which the bucket is created again within 100 ms.
        assert!(number("2026-11-21T22:00:00.2Z", 1) > number(first, 100_000));
        assert!(number("2200-01-01T00:00:00Z", u64::from(u32::MAX)) < i64::MAX as u64);
        assert_eq!(number_of("yesterday", 1), None);
    }

    /// Before the fix, the first worker that reconnected took over everything that all others worked. It displaced them
    /// in the store, and they displaced it a moment later.
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
        assert_eq!(
            after("2nd", &["a"], 100),
            workers(&["a", "b", "c"]),
            "b and c must stay until they renew in the new bucket"
        );
        assert_eq!(after("2nd", &["a", "b"], 200), workers(&["a", "b", "c"]));
        assert_eq!(
            after("2nd", &["a"], 300),
            workers(&["a", "c"]),
            "b must be gone, because the new bucket held its lease and lost it"
        );
        assert_eq!(after("2nd", &["a"], 99 + LEASE_MS), workers(&["a", "c"]));
        assert_eq!(after("2nd", &["a"], 100 + LEASE_MS), workers(&["a"]), "the lease of c must have expired");
        assert_eq!(after("3rd", &[], 5_000), workers(&["a"]));
        holders.forget(&worker("a"));
        assert_eq!(holders.after("3rd", Vec::new(), began + Duration::from_secs(6)), []);
    }
}
