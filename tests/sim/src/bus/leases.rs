//! The simulated bus's leases for one kind of worker.

use carillon_proto::id::WorkerId;
use carillon_runtime::bus::LEASE_MS;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Which workers hold a lease, and until when.
#[derive(Default)]
pub struct Leases {
    number: u64,
    run_out: BTreeMap<WorkerId, Instant>,
}

impl Leases {
    /// Acquires or renews a lease for [`LEASE_MS`] and returns its number. The number rises with every call.
    pub fn renew(&mut self, worker: WorkerId) -> u64 {
        self.run_out.insert(worker, Instant::now() + Duration::from_millis(LEASE_MS));
        self.number += 1;
        self.number
    }

    /// Workers whose leases have not run out.
    pub fn live(&mut self) -> Vec<WorkerId> {
        let now = Instant::now();
        self.run_out.retain(|_, run_out| *run_out > now);
        self.run_out.keys().cloned().collect()
    }

    /// Lets all leases run out now.
    pub fn lapse(&mut self) {
        self.run_out.clear();
    }

    /// Releases a worker's lease.
    pub fn release(&mut self, worker: &WorkerId) {
        self.run_out.remove(worker);
    }
}
