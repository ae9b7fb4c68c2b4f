//! The records of sessions that can be recovered: which session owns each, and how long it is kept.
//!
//! A record belongs to its client's newest session. That is the session whose bases have the highest number, because
//! each session begins with a base of its own. An earlier session, whose end was not noticed yet, cannot change the
//! record.

use super::announced::Announced;
use super::gateways::GatewayIndex;
use crate::limits::{RECOVERY_BYTES_MAX, RECOVERY_MS};
use carillon_proto::limits::RECOVERY_PLACES_MAX;
use carillon_proto::wire;
use prost::Message;
use std::collections::{BTreeSet, HashMap};

/// A session: its gateway, and its number there.
pub type Owner = (GatewayIndex, u64);

#[derive(Debug)]
struct Kept {
    record: wire::RecoveryRecord,
    /// The session that announced the record last.
    owner: Owner,
    /// When the record expires, if that session has ended.
    until_ms: Option<u64>,
    bytes: usize,
}

/// The number of a record's newest base, which is last.
fn number(record: &wire::RecoveryRecord) -> Option<u32> {
    record.bases.last().map(|newest| newest.number)
}

impl Kept {
    /// Whether the announced record of this session replaces this one.
    fn goes_to(&self, owner: Owner, record: &wire::RecoveryRecord) -> bool {
        self.owner == owner || number(record) > number(&self.record)
    }

    /// The newest base, if the change is the next one to it. `Err(true)`: the change was applied before; `Err(false)`:
    /// it does not follow.
    fn next_change(&mut self, base: u32, changes: u32) -> Result<&mut wire::RecoveryBase, bool> {
        let newest = self.record.bases.last_mut().filter(|newest| newest.number == base).ok_or(false)?;
        if changes <= newest.changes {
            return Err(true);
        }
        if changes != newest.changes + 1 {
            return Err(false);
        }
        Ok(newest)
    }
}

/// The records of a shard.
#[derive(Debug, Default)]
pub struct Records {
    kept: HashMap<String, Kept>,
    /// Records whose session has ended, ordered by expiry.
    ends: BTreeSet<(u64, String)>,
    bytes: usize,
}

impl Records {
    /// Stores a record that its session announces. `false` if there is no room, or the record belongs to a newer
    /// session.
    pub fn keep(&mut self, gateway: GatewayIndex, kept: wire::RecoveryKept) -> bool {
        let Some(record) = kept.record else { return false };
        let bytes = record.encoded_len() + size_of::<Kept>();
        let owner = (gateway, kept.session);
        let before = self.kept.get(&record.pid);
        if before.is_some_and(|before| !before.goes_to(owner, &record)) {
            return false;
        }
        let before = before.map_or(0, |before| before.bytes);
        let too_long = |base: &wire::RecoveryBase| base.subscriptions.len() > RECOVERY_PLACES_MAX;
        if self.bytes - before + bytes > RECOVERY_BYTES_MAX || record.bases.iter().any(too_long) {
            return false;
        }
        self.remove(&record.pid.clone());
        self.bytes += bytes;
        self.kept.insert(record.pid.clone(), Kept { record, owner, until_ms: None, bytes });
        true
    }

    fn remove(&mut self, pid: &str) {
        if let Some(kept) = self.kept.remove(pid) {
            self.bytes -= kept.bytes;
            if let Some(until_ms) = kept.until_ms {
                self.ends.remove(&(until_ms, pid.to_owned()));
            }
        }
    }

    fn owned(&mut self, pid: &str, owner: Owner) -> Option<&mut Kept> {
        self.kept.get_mut(pid).filter(|kept| kept.owner == owner && kept.until_ms.is_none())
    }

    /// Adds a subscription to a record. Returns whether the record has it now.
    pub fn subscribe(&mut self, gateway: GatewayIndex, made: wire::RecoverySubscribed) -> bool {
        let Some(subscription) = made.subscription else { return false };
        let bytes = subscription.encoded_len() + size_of::<wire::RecoverySubscription>();
        if self.bytes + bytes > RECOVERY_BYTES_MAX {
            return false;
        }
        let Some(kept) = self.owned(&made.pid, (gateway, made.session)) else { return false };
        let newest = match kept.next_change(made.base, made.changes) {
            Ok(newest) => newest,
            Err(already) => return already,
        };
        let (place, places) = (made.place as usize, newest.subscriptions.len());
        match newest.subscriptions.get_mut(place) {
            Some(ended) if ended.ended => *ended = subscription,
            None if place == places && place < RECOVERY_PLACES_MAX => {
                newest.subscriptions.push(subscription);
            }
            _ => return false,
        }
        newest.changes = made.changes;
        kept.bytes += bytes;
        self.bytes += bytes;
        true
    }

    /// Ends a subscription of a record. Returns whether the record has it as ended now.
    pub fn unsubscribe(&mut self, gateway: GatewayIndex, ended: &wire::RecoveryUnsubscribed) -> bool {
        let Some(kept) = self.owned(&ended.pid, (gateway, ended.session)) else { return false };
        let newest = match kept.next_change(ended.base, ended.changes) {
            Ok(newest) => newest,
            Err(already) => return already,
        };
        let Some(subscription) = newest.subscriptions.get_mut(ended.place as usize) else { return false };
        subscription.ended = true;
        newest.changes = ended.changes;
        true
    }

    /// Ends a session. Its record expires after [`RECOVERY_MS`], or is removed at once if `forget` is set. `false` if
    /// the session has no record.
    pub fn end(&mut self, now_ms: u64, gateway: GatewayIndex, ended: &wire::RecoveryEnded) -> bool {
        if self.owned(&ended.pid, (gateway, ended.session)).is_none() {
            return false;
        }
        if ended.forget {
            self.remove(&ended.pid);
        } else {
            self.orphan(now_ms, &ended.pid);
        }
        true
    }

    fn orphan(&mut self, now_ms: u64, pid: &str) {
        if let Some(kept) = self.kept.get_mut(pid) {
            let until_ms = now_ms + RECOVERY_MS;
            kept.until_ms = Some(until_ms);
            self.ends.insert((until_ms, pid.to_owned()));
        }
    }

    /// The record that a query names, and the session that owns it if that has not ended.
    pub fn find(&self, query: &wire::RecoveryQuery) -> Option<(&wire::RecoveryRecord, Option<Owner>)> {
        let Kept { record, owner, until_ms, .. } = self.kept.get(&query.pid)?;
        let user = &record.identity.as_ref()?.user;
        let owner = until_ms.is_none().then_some(*owner);
        (query.user.is_empty() || query.user == *user).then_some((record, owner))
    }

    /// A gateway has announced everything it has, or fell silent and has nothing. The session of each of its other
    /// records counts as ended.
    pub fn sweep(&mut self, now_ms: u64, gateway: GatewayIndex, announced: &Announced) {
        let of_gateway = |kept: &Kept| kept.owner.0 == gateway && kept.until_ms.is_none();
        let lost = self.kept.iter().filter(|(pid, kept)| of_gateway(kept) && !announced.has_record(pid));
        let lost: Vec<String> = lost.map(|(pid, _)| pid.clone()).collect();
        for pid in lost {
            self.orphan(now_ms, &pid);
        }
    }

    /// Removes the expired records.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some((_, pid)) = self.ends.first().filter(|(until_ms, _)| *until_ms <= now_ms).cloned() {
            self.remove(&pid);
        }
    }

    /// The number of records.
    pub fn count(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: GatewayIndex = GatewayIndex(0);
    const OTHER: GatewayIndex = GatewayIndex(1);

    fn kept(session: u64, number: u32) -> wire::RecoveryKept {
        let base = wire::RecoveryBase { number, ..wire::RecoveryBase::default() };
        let record = wire::RecoveryRecord {
            pid: "pid".into(),
            identity: Some(wire::MovedIdentity { user: "alice".into(), ..wire::MovedIdentity::default() }),
            bases: vec![base],
            ..wire::RecoveryRecord::default()
        };
        wire::RecoveryKept { session, record: Some(record) }
    }

    fn ended(session: u64) -> wire::RecoveryEnded {
        wire::RecoveryEnded { pid: "pid".into(), session, forget: false }
    }

    fn newest(records: &Records) -> Option<u32> {
        let query = wire::RecoveryQuery { pid: "pid".into(), user: "alice".into() };
        records.find(&query).and_then(|(record, _)| number(record))
    }

    #[test]
    fn a_dead_predecessor_cannot_reclaim_a_record() {
        let mut records = Records::default();
        assert!(records.keep(GATEWAY, kept(1, 7)));
        assert!(
            records.keep(GATEWAY, kept(1, 7)),
            "a session may keep its own record again, as a snapshot does"
        );
        assert!(records.keep(GATEWAY, kept(2, 8)), "the successor of the session must own the record");
        assert!(
            !records.keep(GATEWAY, kept(1, 7)),
            "a former session must not reclaim the record with a snapshot"
        );
        assert!(!records.keep(GATEWAY, kept(1, 8)), "a former session must not keep a newer record");
        assert!(
            !records.keep(OTHER, kept(2, 8)),
            "only one of two concurrent successors may keep the record"
        );
        assert!(!records.end(0, GATEWAY, &ended(1)));
        records.expire(RECOVERY_MS);
        assert_eq!(newest(&records), Some(8));
        assert!(records.keep(GATEWAY, kept(2, 9)), "the successor may keep a newer record");
        assert_eq!(newest(&records), Some(9));
    }

    /// Before the fix, a client that came back through another gateway was counted twice until its dead session was
    /// noticed.
    #[test]
    fn a_record_names_its_session_until_that_ends() {
        let mut records = Records::default();
        let query = wire::RecoveryQuery { pid: "pid".into(), user: "alice".into() };
        records.keep(GATEWAY, kept(1, 7));
        assert_eq!(records.find(&query).map(|(_, owner)| owner), Some(Some((GATEWAY, 1))));
        records.keep(OTHER, kept(5, 8));
        assert_eq!(records.find(&query).map(|(_, owner)| owner), Some(Some((OTHER, 5))));
        records.end(0, OTHER, &ended(5));
        assert_eq!(records.find(&query).map(|(_, owner)| owner), Some(None));
    }

    #[test]
    fn a_record_outlives_its_session_and_a_new_session_takes_it_over() {
        let mut records = Records::default();
        assert!(records.keep(GATEWAY, kept(1, 7)));
        assert!(records.end(1_000, GATEWAY, &ended(1)));
        assert!(!records.end(2_000, GATEWAY, &ended(1)), "a record ends only once");
        records.expire(999 + RECOVERY_MS);
        assert_eq!(newest(&records), Some(7));
        assert!(records.keep(OTHER, kept(5, 8)));
        records.expire(1_000 + RECOVERY_MS);
        assert_eq!(newest(&records), Some(8), "a record that a session keeps must not expire");
        records.sweep(5_000, GATEWAY, &Announced::default());
        records.sweep(6_000, OTHER, &Announced::default());
        assert!(
            records.keep(OTHER, kept(5, 8)),
            "a session of a gateway that was silent may keep its record again"
        );
        assert!(records.end(7_000, OTHER, &ended(5)));
        records.expire(7_000 + RECOVERY_MS);
        assert_eq!((newest(&records), records.count(), records.bytes), (None, 0, 0));
    }
}
