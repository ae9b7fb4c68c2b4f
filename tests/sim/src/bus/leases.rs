//! Leases of one kind of worker.

use carillon_proto::id::WorkerId;
use carillon_runtime::bus::LEASE_MS;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Who holds a lease, and until when.
#[derive(Default)]
pub struct Leases {
    number: u64,
    run_out: BTreeMap<WorkerId, Instant>,
}

impl Leases {
    /// Takes or renews a lease; the number rises with each.
    pub fn renew(&mut self, worker: WorkerId) -> u64 {
        self.run_out.insert(worker, Instant::now() + Duration::from_millis(LEASE_MS));
        self.number += 1;
        self.number
    }

    /// Whose leases have not run out.
    pub fn live(&mut self) -> Vec<WorkerId> {
        let now = Instant::now();
        self.run_out.retain(|_, run_out| *run_out > now);
        self.run_out.keys().cloned().collect()
    }

    /// All have run out.
    pub fn lapse(&mut self) {
        self.run_out.clear();
    }

    /// Gives a lease up.
    pub fn release(&mut self, worker: &WorkerId) {
        self.run_out.remove(worker);
    }
}
