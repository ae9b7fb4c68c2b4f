//! The bus inside one process: logs, subjects and leases in memory.
//!
//! The logs do not survive the process: a command counts once the store has it, and a worker that finds a new log
//! starts a new incarnation (`docs/decisions/0001-the-embedded-log-is-memory.md`). No call here waits for a disk or a
//! network, so calls yield by tokio's task budget, as a socket would make them.

use super::{Bus, BusError, LEASE_MS, LogBounds, LogEntry, LogReader, Subscription, check_size};
use async_trait::async_trait;
use bytes::Bytes;
use carillon_proto::id::{Tag, WorkerId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

mod log;
mod subjects;

/// The workers of one kind.
#[derive(Default)]
struct Leases {
    number: u64,
    run_out: HashMap<WorkerId, Instant>,
}

impl Leases {
    fn forget_run_out(&mut self, now: Instant) {
        self.run_out.retain(|_, run_out| *run_out > now);
    }
}

/// The bus inside one process.
pub struct EmbeddedBus {
    logs: Vec<Arc<log::Log>>,
    subjects: Arc<subjects::Subjects>,
    leases: Mutex<HashMap<String, Leases>>,
}

impl EmbeddedBus {
    /// A bus with empty logs for `partitions` partitions.
    pub fn new(partitions: u32) -> Arc<EmbeddedBus> {
        Arc::new(EmbeddedBus {
            logs: (0..partitions).map(|_| Arc::default()).collect(),
            subjects: Arc::default(),
            leases: Mutex::default(),
        })
    }

    fn log(&self, partition: u32) -> Result<&Arc<log::Log>, BusError> {
        let absent = || BusError::Unavailable(format!("there is no partition {partition}"));
        self.logs.get(partition as usize).ok_or_else(absent)
    }
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn append(&self, partition: u32, tag: Tag, payload: Bytes) -> Result<u64, BusError> {
        consume_budget().await;
        check_size(payload.len())?;
        self.log(partition)?.append(tag, payload)
    }

    async fn log_bounds(&self, partition: u32) -> Result<LogBounds, BusError> {
        Ok(self.log(partition)?.bounds())
    }

    async fn log_entry(&self, partition: u32, sequence: u64) -> Result<Option<LogEntry>, BusError> {
        Ok(self.log(partition)?.entry(sequence))
    }

    async fn read_log(&self, partition: u32, from_sequence: u64) -> Result<Box<dyn LogReader>, BusError> {
        Ok(Box::new(log::Reader::new(self.log(partition)?.clone(), from_sequence)?))
    }

    async fn purge_log(&self, partition: u32, below: u64) -> Result<(), BusError> {
        self.log(partition)?.purge(below);
        Ok(())
    }

    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        consume_budget().await;
        check_size(payload.len())?;
        self.subjects.publish(subject, &payload);
        Ok(())
    }

    async fn subscribe(&self, subject: &str, group: Option<&str>) -> Result<Subscription, BusError> {
        Ok(self.subjects.subscribe(subject, group))
    }

    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError> {
        check_size(payload.len())?;
        self.subjects.request(subject, &payload, timeout).await
    }

    async fn renew_lease(&self, kind: &str, worker: &WorkerId) -> Result<u64, BusError> {
        let now = Instant::now();
        let mut leases = self.leases.lock();
        let leases = leases.entry(kind.into()).or_default();
        leases.forget_run_out(now);
        leases.run_out.insert(worker.clone(), now + Duration::from_millis(LEASE_MS));
        leases.number += 1;
        Ok(leases.number)
    }

    async fn live_leases(&self, kind: &str) -> Result<Vec<WorkerId>, BusError> {
        let mut leases = self.leases.lock();
        let Some(leases) = leases.get_mut(kind) else { return Ok(Vec::new()) };
        leases.forget_run_out(Instant::now());
        Ok(leases.run_out.keys().cloned().collect())
    }

    async fn release_lease(&self, kind: &str, worker: &WorkerId) -> Result<(), BusError> {
        if let Some(leases) = self.leases.lock().get_mut(kind) {
            leases.run_out.remove(worker);
        }
        Ok(())
    }

    async fn healthy(&self) -> bool {
        true
    }
}
