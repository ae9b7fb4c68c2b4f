//! One shard of presence: it receives requests and ticks, and returns replies and pushes.

use super::Moment;
use super::announced::Announced;
use super::changes::{Mode, Results};
use super::gateways::{GatewayIndex, Gateways, RequestKind};
use super::recovery::Records;
use super::rooms::Rooms;
use super::roster::Roster;
use super::user::Record;
use super::watch::{News, Pushes};
use crate::limits::{AMNESTY_MS, TICK_LATE_MS};
use carillon_proto::id::{GatewayId, UserId};
use carillon_proto::wire::{self, presence_change::Body as Change};
use std::collections::HashSet;
use std::sync::Arc;

/// The changes to push to one gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    /// The gateway.
    pub gateway: GatewayId,
    /// The changes.
    pub news: News,
    /// The shard's version that includes these changes.
    pub version: u64,
}

/// Numbers of what a shard holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Gateways that are not silent.
    pub gateways: usize,
    /// Users in memory.
    pub users: usize,
    /// Sessions of these users.
    pub sessions: usize,
    /// Rooms with at least one user.
    pub rooms: usize,
    /// Users in rooms, counted once per room.
    pub memberships: usize,
    /// Sessions that can be recovered.
    pub records: usize,
}

/// One shard during one ownership.
#[derive(Debug)]
pub struct Shard {
    epoch: u64,
    version: u64,
    pub(super) gateways: Gateways,
    pub(super) roster: Roster,
    pub(super) rooms: Rooms,
    pub(super) records: Records,
    last_tick_ms: u64,
    /// Until then, no user is declared offline.
    amnesty_until_ms: u64,
    /// Set while some gateways may not have announced themselves to this owner.
    pub(super) unsettled: bool,
    pub(super) pushes: Pushes,
}

impl Shard {
    /// A shard at the start of an ownership, with nothing announced yet.
    pub fn new(now: Moment, epoch: u64, grace_ms: u64) -> Shard {
        Shard {
            epoch,
            version: 0,
            gateways: Gateways::default(),
            roster: Roster::new(grace_ms),
            rooms: Rooms::default(),
            records: Records::default(),
            last_tick_ms: now.steady_ms,
            amnesty_until_ms: now.steady_ms + AMNESTY_MS,
            unsettled: true,
            pushes: Pushes::default(),
        }
    }

    /// Returns at most `limit` users whose rows must be read before this request can be answered.
    pub fn missing(&self, request: &wire::PresenceRequest, limit: usize) -> Vec<UserId> {
        let mut seen = HashSet::new();
        let lacking = request.changes.iter().filter_map(|change| match &change.body {
            Some(Change::Watch(wire::Watch { user }) | Change::StatusQuery(wire::StatusQuery { user })) => {
                self.roster.lacks_row(user).then_some(user)
            }
            Some(Change::ProfileQuery(wire::ProfileQuery { user })) => {
                self.roster.lacks_profile(user).then_some(user)
            }
            _ => None,
        });
        let distinct = lacking.filter(|user| seen.insert(user.as_str()));
        distinct.filter_map(|user| UserId::parse(user).ok()).take(limit).collect()
    }

    /// Applies a request, with the rows read for it. `None` if its gateway has no valid name, or memory is full.
    pub fn request(
        &mut self,
        now: Moment,
        request: wire::PresenceRequest,
        rows: Vec<Record>,
    ) -> Option<(Arc<wire::PresenceReply>, Vec<Push>)> {
        self.notice_delay(now);
        self.roster.lend(rows);
        let (gateway, kind) = self.gateways.receive(now.steady_ms, &request)?;
        let mode = match kind {
            RequestKind::Repeated(Some(reply)) => {
                let pushes = self.finish(now);
                return Some((reply, pushes));
            }
            RequestKind::Query | RequestKind::Repeated(None) => Mode::Known,
            RequestKind::AfterGap => Mode::AfterGap,
            RequestKind::Next => Mode::Live,
            RequestKind::Snapshot | RequestKind::SnapshotPart => Mode::Snapshot,
        };
        let mut results = Results::default();
        for change in request.changes {
            self.apply(now, gateway, mode, change.body, &mut results);
        }
        if mode == Mode::Snapshot {
            self.end_snapshot(now, gateway);
        }
        self.end_graces(now);
        let results = results.complete(now, &self.roster, gateway, &mut self.pushes);
        let pushes = self.finish(now);
        let known = self.gateways.get_mut(gateway)?;
        let (epoch, version, unsettled) = (self.epoch, self.version, self.unsettled);
        let reply = Arc::new(wire::PresenceReply {
            epoch,
            snapshot_wanted: known.wanted,
            results,
            unsettled,
            version,
        });
        if mode == Mode::Live {
            known.keep_reply(&reply);
        }
        Some((reply, pushes))
    }

    fn end_snapshot(&mut self, now: Moment, gateway: GatewayIndex) {
        let Some(known) = self.gateways.get_mut(gateway) else { return };
        if known.announced.as_ref().is_some_and(Announced::is_too_large) {
            known.announced = None;
            known.miss();
        } else if let Some(announced) = known.take_complete() {
            self.sweep(now, gateway, &announced);
        }
    }

    fn sweep(&mut self, now: Moment, gateway: GatewayIndex, announced: &Announced) {
        self.roster.sweep(now, gateway, announced);
        self.rooms.sweep(gateway, announced, &mut self.pushes);
        self.records.sweep(now.steady_ms, gateway, announced);
    }

    /// Applies the passing of time: silent gateways, graces that end, and the end of the amnesty.
    pub fn tick(&mut self, now: Moment) -> Vec<Push> {
        self.notice_delay(now);
        self.last_tick_ms = now.steady_ms;
        if now.steady_ms >= self.amnesty_until_ms {
            for gateway in self.gateways.silent(now.steady_ms) {
                self.sweep(now, gateway, &Announced::default());
                self.gateways.forget(gateway);
            }
            if std::mem::take(&mut self.unsettled) {
                self.roster.push_offline(now, &mut self.pushes);
            }
        }
        self.end_graces(now);
        self.records.expire(now.steady_ms);
        self.finish(now)
    }

    /// When [`Shard::tick`] has something to do before the next regular tick.
    pub fn next_due_ms(&self) -> Option<u64> {
        let settles = self.unsettled.then_some(self.amnesty_until_ms);
        let grace = self.roster.next_grace_ms().map(|at_ms| at_ms.max(self.amnesty_until_ms));
        settles.into_iter().chain(grace).min()
    }

    fn notice_delay(&mut self, now: Moment) {
        if now.steady_ms > self.last_tick_ms + TICK_LATE_MS {
            self.distrust(now);
        }
    }

    /// Requests may have been missed, so silence proves nothing and every gateway must send a snapshot.
    pub fn distrust(&mut self, now: Moment) {
        self.last_tick_ms = now.steady_ms;
        self.amnesty_until_ms = now.steady_ms + AMNESTY_MS;
        self.gateways.excuse_all(now.steady_ms);
        for gateway in self.gateways.indices() {
            self.pushes.want_snapshot(gateway);
        }
    }

    /// Pushes to a gateway were lost. It must send a snapshot, and learns the current state from the replies.
    pub fn lost_pushes(&mut self, gateway: &GatewayId) {
        if let Some(known) = self.gateways.find(gateway) {
            known.miss();
        }
    }

    fn end_graces(&mut self, now: Moment) {
        if now.steady_ms >= self.amnesty_until_ms {
            self.roster.end_graces(now.steady_ms);
        }
    }

    /// Ends an input, and returns the pushes it caused.
    fn finish(&mut self, now: Moment) -> Vec<Push> {
        self.roster.finish(now, &mut self.pushes);
        self.version += 1;
        let version = self.version;
        let news = std::mem::take(&mut self.pushes).into_news();
        let named = news.filter_map(|(index, news)| {
            let gateway = self.gateways.get(index)?.id.clone();
            Some(Push { gateway, news, version })
        });
        named.collect()
    }

    /// Removes and returns at most `limit` users whose rows must be read. [`Shard::loaded`] receives the rows.
    pub fn next_to_load(&mut self, limit: usize) -> Vec<UserId> {
        self.roster.next_to_load(limit)
    }

    /// Receives the rows that were read; `None` if they could not be read.
    pub fn loaded(&mut self, now: Moment, users: &[UserId], records: Option<Vec<Record>>) -> Vec<Push> {
        self.roster.loaded(users, records);
        self.finish(now)
    }

    /// Removes and returns at most `limit` rows to write. [`Shard::saved`] receives the outcome.
    pub fn next_to_save(&mut self, limit: usize) -> Vec<Record> {
        self.roster.next_to_save(limit)
    }

    /// Receives the outcome of a write.
    pub fn saved(&mut self, now: Moment, ids: &[UserId], done: bool) -> Vec<Push> {
        self.roster.saved(ids, done);
        self.finish(now)
    }

    /// How many rows were given up since the last call, because the store was away for too long.
    pub fn take_given_up(&mut self) -> u64 {
        self.roster.take_given_up()
    }

    /// Counts what the shard holds.
    pub fn census(&self) -> Census {
        let (users, sessions) = self.roster.count();
        let (rooms, memberships) = self.rooms.count();
        let records = self.records.count();
        Census { gateways: self.gateways.len(), users, sessions, rooms, memberships, records }
    }
}
