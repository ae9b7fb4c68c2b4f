//! The records of sessions that can be recovered: whose they are, and how long they stay.
//!
//! A record belongs to the session that announced it last. What an earlier one still says of it is not heard.

use super::announced::Announced;
use super::gateways::GatewayIndex;
use crate::limits::{RECOVERY_BYTES_MAX, RECOVERY_MS};
use carillon_proto::limits::RECOVERY_PLACES_MAX;
use carillon_proto::wire;
use prost::Message;
use std::collections::{BTreeSet, HashMap};

/// A session of a gateway.
type Owner = (GatewayIndex, u64);

#[derive(Debug)]
struct Kept {
    record: wire::RecoveryRecord,
    owner: Option<Owner>,
    /// Of one without an owner: when it goes.
    until_ms: u64,
    bytes: usize,
}

impl Kept {
    /// The newest base, for a change that must be its next one; `Err(true)` when it was made already.
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
    /// Those without an owner, by when they go.
    ends: BTreeSet<(u64, String)>,
    bytes: usize,
}

impl Records {
    /// Keeps a record as its session announces it; `false` when there is no room.
    pub fn keep(&mut self, gateway: GatewayIndex, kept: wire::RecoveryKept) -> bool {
        let Some(record) = kept.record else { return false };
        let bytes = record.encoded_len() + size_of::<Kept>();
        let before = self.kept.get(&record.pid).map_or(0, |before| before.bytes);
        let too_long = |base: &wire::RecoveryBase| base.subscriptions.len() > RECOVERY_PLACES_MAX;
        if self.bytes - before + bytes > RECOVERY_BYTES_MAX || record.bases.iter().any(too_long) {
            return false;
        }
        self.remove(&record.pid.clone());
        self.bytes += bytes;
        let (pid, owner) = (record.pid.clone(), Some((gateway, kept.session)));
        self.kept.insert(pid, Kept { record, owner, until_ms: 0, bytes });
        true
    }

    fn remove(&mut self, pid: &str) {
        if let Some(kept) = self.kept.remove(pid) {
            self.bytes -= kept.bytes;
            if kept.owner.is_none() {
                self.ends.remove(&(kept.until_ms, pid.to_owned()));
            }
        }
    }

    fn owned(&mut self, pid: &str, owner: Owner) -> Option<&mut Kept> {
        self.kept.get_mut(pid).filter(|kept| kept.owner == Some(owner))
    }

    /// A subscription begins; `false` when it is not in the record.
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

    /// A subscription ends; `false` when the record still has it.
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

    /// A session ends: its record stays for a while, unless it is to be forgotten.
    pub fn end(&mut self, now_ms: u64, gateway: GatewayIndex, ended: &wire::RecoveryEnded) {
        if self.owned(&ended.pid, (gateway, ended.session)).is_none() {
            return;
        }
        if ended.forget {
            self.remove(&ended.pid);
        } else {
            self.orphan(now_ms, &ended.pid);
        }
    }

    fn orphan(&mut self, now_ms: u64, pid: &str) {
        if let Some(kept) = self.kept.get_mut(pid) {
            kept.owner = None;
            kept.until_ms = now_ms + RECOVERY_MS;
            self.ends.insert((kept.until_ms, pid.to_owned()));
        }
    }

    /// The record that a client asks for.
    pub fn find(&self, query: &wire::RecoveryQuery) -> Option<&wire::RecoveryRecord> {
        let record = &self.kept.get(&query.pid)?.record;
        let user = &record.identity.as_ref()?.user;
        (query.user.is_empty() || query.user == *user).then_some(record)
    }

    /// A gateway has announced all it has, which is nothing if it fell silent: the rest has lost its session.
    pub fn sweep(&mut self, now_ms: u64, gateway: GatewayIndex, announced: &Announced) {
        let of_gateway = |kept: &Kept| kept.owner.is_some_and(|(owner, _)| owner == gateway);
        let lost = self.kept.iter().filter(|(pid, kept)| of_gateway(kept) && !announced.has_record(pid));
        let lost: Vec<String> = lost.map(|(pid, _)| pid.clone()).collect();
        for pid in lost {
            self.orphan(now_ms, &pid);
        }
    }

    /// Lets those go whose time is over.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some((_, pid)) = self.ends.first().filter(|(until_ms, _)| *until_ms <= now_ms).cloned() {
            self.remove(&pid);
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.kept.len()
    }
}
