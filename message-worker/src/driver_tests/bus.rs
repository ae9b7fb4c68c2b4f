//! A wrapper around the embedded bus that can forget its log, break its readers and lose messages.

use async_trait::async_trait;
use bytes::Bytes;
use carillon_proto::id::{Tag, WorkerId};
use carillon_runtime::bus::embedded::EmbeddedBus;
use carillon_runtime::bus::{Bus, BusError, LogBounds, LogEntry, LogReader, Subscription};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// A bus that fails on demand.
pub(super) struct TestBus {
    inner: Arc<EmbeddedBus>,
    /// Looking up a log entry finds nothing.
    pub(super) forgetful: AtomicBool,
    /// How many of the next published messages are rejected.
    pub(super) refusing: AtomicUsize,
    /// How many of the next log readers break after one read.
    pub(super) breaking: AtomicUsize,
    /// How many of the next log readers leave out the first entry of a read.
    pub(super) gapping: AtomicUsize,
    /// Log readers return one entry at a time, with times that follow from the sequences, so that two runs can be
    /// compared.
    pub(super) sipping: AtomicBool,
    /// How far this process's clock is ahead of the bus's, in milliseconds.
    pub(super) clock_ahead_ms: AtomicU64,
}

impl TestBus {
    pub(super) fn new(partitions: u32) -> Arc<TestBus> {
        Arc::new(TestBus {
            inner: EmbeddedBus::new(partitions),
            forgetful: AtomicBool::new(false),
            refusing: AtomicUsize::new(0),
            breaking: AtomicUsize::new(0),
            gapping: AtomicUsize::new(0),
            sipping: AtomicBool::new(false),
            clock_ahead_ms: AtomicU64::new(0),
        })
    }
}

fn count_down(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

struct Breaking(Box<dyn LogReader>, bool);

#[async_trait]
impl LogReader for Breaking {
    async fn next(&mut self, entries_max: usize) -> Result<Vec<LogEntry>, BusError> {
        if self.1 {
            return Err(BusError::Broken("the test wants it".into()));
        }
        let entries = self.0.next(entries_max).await;
        self.1 = true;
        entries
    }
}

struct Gapping(Box<dyn LogReader>);

#[async_trait]
impl LogReader for Gapping {
    async fn next(&mut self, entries_max: usize) -> Result<Vec<LogEntry>, BusError> {
        let mut entries = self.0.next(entries_max).await?;
        entries.remove(0);
        if entries.is_empty() { self.0.next(entries_max).await } else { Ok(entries) }
    }
}

struct Sipping(Box<dyn LogReader>);

#[async_trait]
impl LogReader for Sipping {
    async fn next(&mut self, _entries_max: usize) -> Result<Vec<LogEntry>, BusError> {
        let entries = self.0.next(1).await?;
        Ok(entries
            .into_iter()
            .map(|entry| LogEntry { time_ms: 1_700_000_000_000 + entry.sequence, ..entry })
            .collect())
    }
}

#[async_trait]
impl Bus for TestBus {
    async fn append(&self, partition: u32, tag: Tag, payload: Bytes) -> Result<u64, BusError> {
        self.inner.append(partition, tag, payload).await
    }

    async fn log_bounds(&self, partition: u32) -> Result<LogBounds, BusError> {
        self.inner.log_bounds(partition).await
    }

    async fn log_entry(&self, partition: u32, sequence: u64) -> Result<Option<LogEntry>, BusError> {
        if self.forgetful.load(Ordering::SeqCst) {
            return Ok(None);
        }
        self.inner.log_entry(partition, sequence).await
    }

    async fn read_log(&self, partition: u32, from_sequence: u64) -> Result<Box<dyn LogReader>, BusError> {
        let reader = self.inner.read_log(partition, from_sequence).await?;
        Ok(if count_down(&self.breaking) {
            Box::new(Breaking(reader, false))
        } else if count_down(&self.gapping) {
            Box::new(Gapping(reader))
        } else if self.sipping.load(Ordering::SeqCst) {
            Box::new(Sipping(reader))
        } else {
            reader
        })
    }

    async fn purge_log(&self, partition: u32, below: u64) -> Result<(), BusError> {
        self.inner.purge_log(partition, below).await
    }

    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        if count_down(&self.refusing) {
            return Err(BusError::Unavailable("the test wants it".into()));
        }
        self.inner.publish(subject, payload).await
    }

    async fn subscribe(&self, subject: &str, group: Option<&str>) -> Result<Subscription, BusError> {
        self.inner.subscribe(subject, group).await
    }

    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
        self.inner.request(subject, payload, timeout).await
    }

    async fn renew_lease(&self, kind: &str, worker: &WorkerId) -> Result<u64, BusError> {
        self.inner.renew_lease(kind, worker).await
    }

    async fn live_leases(&self, kind: &str) -> Result<Vec<WorkerId>, BusError> {
        self.inner.live_leases(kind).await
    }

    async fn release_lease(&self, kind: &str, worker: &WorkerId) -> Result<(), BusError> {
        self.inner.release_lease(kind, worker).await
    }

    #[expect(clippy::disallowed_methods, reason = "it is the wall clock that is compared")]
    async fn clock_ms(&self) -> Result<Option<u64>, BusError> {
        Ok(Some(carillon_runtime::time::wall_ms() - self.clock_ahead_ms.load(Ordering::SeqCst)))
    }

    async fn healthy(&self) -> bool {
        true
    }
}
