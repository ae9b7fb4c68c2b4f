//! Decides which units a worker owns. It has no clock and no bus, so tests can set every time.

use carillon_proto::id::WorkerId;
use carillon_proto::partition::rendezvous_owner;
use std::collections::BTreeMap;
use std::time::Duration;

/// The units that a worker owns according to its renewals and its reads of the live workers. Times count from any fixed
/// moment.
#[derive(Debug)]
pub(super) struct Core {
    worker: WorkerId,
    units: u32,
    lease: Duration,
    /// When the last successful renewal began, and its number.
    renewed: Option<(Duration, u64)>,
    /// When the last round began that read the live workers.
    listed: Option<Duration>,
    owned: BTreeMap<u32, u64>,
}

impl Core {
    pub(super) fn new(worker: WorkerId, units: u32, lease: Duration) -> Core {
        Core { worker, units, lease, renewed: None, listed: None, owned: BTreeMap::new() }
    }

    pub(super) fn owned(&self) -> &BTreeMap<u32, u64> {
        &self.owned
    }

    /// The end of the lease; zero when there is none.
    pub(super) fn valid_until(&self) -> Duration {
        self.renewed.map_or(Duration::ZERO, |(began, _)| began + self.lease)
    }

    /// How long until everything owned has to be given up, if nothing is renewed or read. `None` if nothing is owned.
    pub(super) fn runs_out_in(&self, now: Duration) -> Option<Duration> {
        if self.owned.is_empty() {
            return None;
        }
        let listed_until = self.listed.map_or(Duration::ZERO, |began| began + self.lease);
        Some(self.valid_until().min(listed_until).saturating_sub(now))
    }

    /// Records a renewal that ran from `began` to `ended` and returned `number`.
    pub(super) fn renewed(&mut self, began: Duration, ended: Duration, number: u64) {
        // Other workers may have owned everything between the end of the last lease and this renewal.
        self.look(ended);
        self.renewed = Some((began, number));
    }

    /// Records the live workers that a round from `began` to `ended` has read.
    pub(super) fn listed(&mut self, began: Duration, ended: Duration, live: &[WorkerId]) {
        self.look(ended);
        self.listed = Some(began);
        // A unit that is taken over gets the number of this round's renewal. An older number could be below that of a
        // worker that came, took over and left meanwhile.
        let number = self.renewed.filter(|(renewed, _)| *renewed == began && ended < self.valid_until());
        let Core { worker, units, owned, .. } = self;
        for unit in 0..*units {
            let owner = rendezvous_owner(unit, live.iter().map(WorkerId::as_str));
            match number {
                _ if owner != Some(worker.as_str()) => drop(owned.remove(&unit)),
                Some((_, number)) => drop(owned.entry(unit).or_insert(number)),
                None => {}
            }
        }
    }

    /// Gives everything up if the lease has run out, or the last read of the live workers is too old.
    pub(super) fn look(&mut self, now: Duration) {
        if self.runs_out_in(now).is_some_and(|left| left.is_zero()) {
            self.owned.clear();
        }
    }

    /// Gives everything up until the next renewal, if there is one.
    pub(super) fn give_up(&mut self) {
        (self.renewed, self.listed) = (None, None);
        self.owned.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(2_000);

    fn worker(name: &str) -> WorkerId {
        WorkerId::parse(name).expect("a worker id")
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    enum Step {
        Renewed { began: u64, ended: u64, number: u64 },
        Listed { began: u64, ended: u64, live: &'static [&'static str] },
        Look(u64),
        GiveUp,
    }
    use Step::{GiveUp, Listed, Look, Renewed};

    fn share_of(name: &str, live: &[&str]) -> Vec<u32> {
        (0..16).filter(|unit| rendezvous_owner(*unit, live.iter().copied()) == Some(name)).collect()
    }

    /// Runs the steps. Returns how many units are owned then and their epochs, or `None` if no unit is owned.
    fn epoch_after(steps: &[Step]) -> Option<(usize, Vec<u64>)> {
        let mut core = Core::new(worker("a"), 16, LEASE);
        for step in steps {
            match step {
                Renewed { began, ended, number } => core.renewed(ms(*began), ms(*ended), *number),
                Listed { began, ended, live } => {
                    let live: Vec<_> = live.iter().map(|name| worker(name)).collect();
                    core.listed(ms(*began), ms(*ended), &live);
                }
                Look(now) => core.look(ms(*now)),
                GiveUp => core.give_up(),
            }
        }
        let mut epochs: Vec<_> = core.owned().values().copied().collect();
        epochs.sort_unstable();
        epochs.dedup();
        (!core.owned().is_empty()).then(|| (core.owned().len(), epochs))
    }

    #[test]
    fn units_are_acquired_lost_and_acquired_again() {
        let both = share_of("a", &["a", "b"]).len();
        assert!((1..16).contains(&both), "each of the two workers must have a share");
        let acquired =
            || vec![Renewed { began: 0, ended: 10, number: 5 }, Listed { began: 0, ended: 20, live: &["a"] }];
        let then = |more: Vec<Step>| epoch_after(&acquired().into_iter().chain(more).collect::<Vec<_>>());
        let renewed = |began, number| Renewed { began, ended: began + 10, number };
        let listed = |began, live| Listed { began, ended: began + 20, live };
        let table = [
            ("the only live worker", then(vec![]), Some((16, vec![5]))),
            ("no reading of the live workers yet", epoch_after(&[renewed(0, 5)]), None),
            ("a reading of the live workers without a lease", epoch_after(&[listed(0, &["a"])]), None),
            ("a reading without this worker", epoch_after(&[renewed(0, 5), listed(0, &["b"])]), None),
            (
                "epochs stay after a renewal",
                then(vec![renewed(500, 9), listed(500, &["a"])]),
                Some((16, vec![5])),
            ),
            (
                "the rest after a new worker got its share",
                then(vec![renewed(500, 9), listed(500, &["a", "b"])]),
                Some((both, vec![5])),
            ),
            (
                "a share comes back with a new epoch",
                then(vec![
                    renewed(500, 9),
                    listed(500, &["a", "b"]),
                    renewed(1_000, 12),
                    listed(1_000, &["a"]),
                ]),
                Some((16, vec![5, 12])),
            ),
            ("the last millisecond of the lease", then(vec![Look(1_999)]), Some((16, vec![5]))),
            ("the end of the lease", then(vec![Look(2_000)]), None),
            (
                "renewals fail: the reading alone does not prolong ownership",
                then(vec![listed(1_500, &["a"]), Look(2_000)]),
                None,
            ),
            (
                "readings fail: the lease alone does not prolong ownership",
                then(vec![renewed(1_500, 9), Look(2_000)]),
                None,
            ),
            (
                "a gap between two leases that no round noticed",
                then(vec![
                    Renewed { began: 1_990, ended: 2_000, number: 9 },
                    Listed { began: 1_990, ended: 2_010, live: &["a"] },
                ]),
                Some((16, vec![9])),
            ),
            (
                "a renewal before the end of the lease",
                then(vec![
                    Renewed { began: 1_980, ended: 1_999, number: 9 },
                    Listed { began: 1_980, ended: 1_999, live: &["a"] },
                ]),
                Some((16, vec![5])),
            ),
            (
                "taking over needs a number of the same round",
                epoch_after(&[renewed(0, 5), listed(0, &["b"]), listed(500, &["a"])]),
                None,
            ),
            (
                "a reading that came too late acquires nothing",
                epoch_after(&[renewed(0, 5), Listed { began: 0, ended: 2_000, live: &["a"] }]),
                None,
            ),
            ("a lease that is given up", then(vec![GiveUp]), None),
        ];
        for (what, epochs, expected) in table {
            assert_eq!(epochs, expected, "{what}");
        }
    }

    #[test]
    fn the_lease_counts_from_before_the_renewal() {
        let mut core = Core::new(worker("a"), 1, LEASE);
        assert_eq!((core.valid_until(), core.runs_out_in(ms(0))), (Duration::ZERO, None));
        core.renewed(ms(100), ms(900), 1);
        assert_eq!(core.valid_until(), ms(2_100));
        core.listed(ms(100), ms(950), &[worker("a")]);
        assert_eq!(core.runs_out_in(ms(1_000)), Some(ms(1_100)));
        core.renewed(ms(600), ms(610), 2);
        assert_eq!(core.valid_until(), ms(2_600));
        assert_eq!(
            core.runs_out_in(ms(1_000)),
            Some(ms(1_100)),
            "the time left must count from the older reading"
        );
    }
}
