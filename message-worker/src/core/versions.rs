//! Versions of the state machine: which one a worker's build knows, and which one all live workers know
//! (`docs/decisions/0022-a-version-begins-by-a-log-entry.md`).

use carillon_proto::id::{InvalidId, WorkerId};
use carillon_runtime::bus::LEASE_MS;

/// The version of the state machine that applies a partition's commands when its checkpoint names no version.
pub const FIRST_VERSION: u32 = 1;

/// The newest version of the state machine that this build knows.
pub const VERSION: u32 = BACKENDS_DEDUPLICATED;

/// From this version on, a command that a backend sends for no user is recognized by its client id when it comes again,
/// as users' commands are. Version 1 applies it a second time if the log no longer has its entry's tag.
pub(crate) const BACKENDS_DEDUPLICATED: u32 = 2;

/// The separator between a worker's name and its version. Names consist of letters, digits and `-`.
const MARK: &str = "_v";

/// The characters that a version adds to a worker's id: the separator and any `u32`.
pub const VERSION_MARK_LENGTH_MAX: usize = MARK.len() + 10;

/// A worker's id that contains the version that its build knows.
///
/// # Errors
/// When it is too long for an id.
pub(crate) fn mark(worker: &WorkerId, version: u32) -> Result<WorkerId, InvalidId> {
    WorkerId::parse(&format!("{worker}{MARK}{version}"))
}

/// The newest version that a live worker's build knows.
pub(crate) fn known_by(worker: &WorkerId) -> u32 {
    let marked = worker.as_str().rsplit_once(MARK).and_then(|(_, version)| version.parse().ok());
    marked.unwrap_or(FIRST_VERSION)
}

/// The version that all live workers know, and since when.
#[derive(Debug)]
pub(crate) struct Agreement {
    version: u32,
    since_ms: u64,
}

impl Agreement {
    /// Begins at a steady time, with no worker known.
    pub(crate) fn new(now_ms: u64) -> Agreement {
        Agreement { version: FIRST_VERSION, since_ms: now_ms }
    }

    /// Notes the workers that are live at a steady time. Returns the version that all of them have known for the time
    /// of a lease. After that time, a worker that was missing from the list has no valid lease.
    pub(crate) fn listed(&mut self, live: &[WorkerId], now_ms: u64) -> u32 {
        let version = live.iter().map(known_by).min().unwrap_or(FIRST_VERSION);
        if version != self.version {
            *self = Agreement { version, since_ms: now_ms };
        }
        if now_ms.saturating_sub(self.since_ms) >= LEASE_MS { self.version } else { FIRST_VERSION }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str) -> WorkerId {
        WorkerId::parse(name).expect("valid")
    }

    #[test]
    fn a_worker_id_contains_the_version_that_its_build_knows() {
        for (name, known) in
            [("pod-0-ab12", 1), ("pod-0-ab12_v1", 1), ("pod_v7_v12", 12), ("pod_vx", 1), ("pod_v", 1)]
        {
            assert_eq!(known_by(&worker(name)), known, "{name}");
        }
        assert_eq!(mark(&worker("pod-0"), 3).map(|id| known_by(&id)), Ok(3));
        assert!(mark(&worker(&"x".repeat(96)), 1).is_err());
    }

    #[test]
    fn a_version_is_agreed_on_when_all_have_known_it_for_a_lease() {
        let (old, new, newer) = (worker("a_v1"), worker("b_v2"), worker("c_v3"));
        let mut agreement = Agreement::new(0);
        let steps: [(u64, &[&WorkerId], u32); 10] = [
            (0, &[&new, &newer], 1),
            (1_999, &[&new, &newer], 1),
            (2_000, &[&newer, &new], 2),
            // A worker of an older build started and stopped.
            (3_000, &[&old, &new], 1),
            (4_000, &[&new], 1),
            (5_999, &[&new], 1),
            (6_000, &[&new], 2),
            // Only newer builds are left.
            (7_000, &[&newer], 1),
            (9_000, &[&newer], 3),
            (9_500, &[], 1),
        ];
        for (now_ms, live, agreed) in steps {
            let live: Vec<WorkerId> = live.iter().map(|worker| (*worker).clone()).collect();
            assert_eq!(agreement.listed(&live, now_ms), agreed, "at {now_ms}");
        }
    }
}
