//! One shard of presence: takes requests and ticks, answers, and says whom to tell what.

use super::Moment;
use super::announced::Announced;
use super::changes::{Mode, Results};
use super::gateways::{GatewayIndex, Gateways, Place};
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

/// What one gateway is to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    /// The gateway.
    pub gateway: GatewayId,
    /// What it is told.
    pub news: News,
    /// The shard's version when this was so.
    pub version: u64,
}

/// What a shard holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Gateways heard lately.
    pub gateways: usize,
    /// Users in memory.
    pub users: usize,
    /// Their sessions.
    pub sessions: usize,
    /// Rooms with somebody in them.
    pub rooms: usize,
    /// Users in rooms, counted once per room.
    pub memberships: usize,
    /// Sessions that can be recovered.
    pub records: usize,
}

/// One shard under one ownership.
#[derive(Debug)]
pub struct Shard {
    epoch: u64,
    version: u64,
    pub(super) gateways: Gateways,
    pub(super) roster: Roster,
    pub(super) rooms: Rooms,
    pub(super) records: Records,
    last_tick_ms: u64,
    /// Until then nobody is declared offline.
    amnesty_until_ms: u64,
    /// Not every gateway has had the time to announce itself.
    pub(super) unsettled: bool,
    pub(super) pushes: Pushes,
}

impl Shard {
    /// An ownership begins: nothing is known.
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

    /// Users whose rows are to be read before this request can be answered, at most `limit`.
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

    /// Takes a request, with rows that were read for it. `None` if it is from nobody who can be answered.
    pub fn request(
        &mut self,
        now: Moment,
        request: wire::PresenceRequest,
        rows: Vec<Record>,
    ) -> Option<(Arc<wire::PresenceReply>, Vec<Push>)> {
        self.notice_delay(now);
        self.roster.lend(rows);
        let (gateway, place) = self.gateways.hear(now.steady_ms, &request)?;
        let mode = match place {
            Place::Repeated(Some(reply)) => {
                let pushes = self.finish(now);
                return Some((reply, pushes));
            }
            Place::Query | Place::Repeated(None) => Mode::Known,
            Place::Missed => Mode::Untaken,
            Place::Next => Mode::Live,
            Place::Snapshot | Place::SnapshotPart => Mode::Snapshot,
        };
        let mut results = Results::default();
        for change in request.changes {
            self.take(now, gateway, mode, change.body, &mut results);
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

    /// The worker's own time: silences, graces, and the end of an ownership's first beats.
    pub fn tick(&mut self, now: Moment) -> Vec<Push> {
        self.notice_delay(now);
        self.last_tick_ms = now.steady_ms;
        if now.steady_ms >= self.amnesty_until_ms {
            for gateway in self.gateways.silent(now.steady_ms) {
                self.sweep(now, gateway, &Announced::default());
                self.gateways.forget(gateway);
            }
            if std::mem::take(&mut self.unsettled) {
                self.roster.tell_offline(now, &mut self.pushes);
            }
        }
        self.end_graces(now);
        self.records.expire(now.steady_ms);
        self.finish(now)
    }

    /// When [`Shard::tick`] has something to do apart from the regular ticks.
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

    /// Requests may have been missed: silence proves nothing, and every gateway is asked for a snapshot.
    pub fn distrust(&mut self, now: Moment) {
        self.last_tick_ms = now.steady_ms;
        self.amnesty_until_ms = now.steady_ms + AMNESTY_MS;
        self.gateways.excuse_all(now.steady_ms);
        for gateway in self.gateways.indices() {
            self.pushes.want_snapshot(gateway);
        }
    }

    /// Pushes to a gateway were lost: it announces itself again and learns how things are from the answers.
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

    /// Ends an input: what is to be told, and to whom.
    fn finish(&mut self, now: Moment) -> Vec<Push> {
        self.roster.finish(now, &mut self.pushes);
        self.version += 1;
        let version = self.version;
        let told = std::mem::take(&mut self.pushes).into_news();
        let named = told.filter_map(|(index, news)| {
            let gateway = self.gateways.get(index)?.id.clone();
            Some(Push { gateway, news, version })
        });
        named.collect()
    }

    /// Users whose rows are to be read now; answered by [`Shard::loaded`].
    pub fn take_to_load(&mut self, limit: usize) -> Vec<UserId> {
        self.roster.take_to_load(limit)
    }

    /// Rows came, or (`None`) could not be read.
    pub fn loaded(&mut self, now: Moment, asked: &[UserId], records: Option<Vec<Record>>) -> Vec<Push> {
        self.roster.loaded(asked, records);
        self.finish(now)
    }

    /// Rows to be written now; answered by [`Shard::saved`].
    pub fn take_to_save(&mut self, limit: usize) -> Vec<Record> {
        self.roster.take_to_save(limit)
    }

    /// Rows were written, or not.
    pub fn saved(&mut self, now: Moment, ids: &[UserId], done: bool) -> Vec<Push> {
        self.roster.saved(ids, done);
        self.finish(now)
    }

    /// Rows given up since the last time this was asked: the store was away for too long.
    pub fn take_given_up(&mut self) -> u64 {
        self.roster.take_given_up()
    }

    /// What the shard holds.
    pub fn census(&self) -> Census {
        let (users, sessions) = self.roster.count();
        let (rooms, memberships) = self.rooms.count();
        let records = self.records.count();
        Census { gateways: self.gateways.len(), users, sessions, rooms, memberships, records }
    }
}
