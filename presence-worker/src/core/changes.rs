//! How a shard applies each change of a request, and what it replies.

use super::Moment;
use super::announced::Announced;
use super::gateways::GatewayIndex;
use super::roster::{Admission, Roster};
use super::shard::Shard;
use super::watch::Pushes;
use crate::limits::REPLY_BYTES_MAX;
use carillon_proto::wire::{self, presence_change::Body as Change, presence_result::Body as Outcome};
use prost::Message;

/// Bytes in a reply for the frame of one result.
const RESULT_FRAME_BYTES: usize = 12;

/// How the changes of a request are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Applied as changes that happen now: limits hold, and changes are pushed.
    Live,
    /// Applied as part of a snapshot: sessions are admitted without a limit, and repeated facts cause no pushes.
    Snapshot,
    /// Not applied. The results describe the current state, for a query or a request that was applied before.
    Known,
    /// Not applied. The results describe what the state would be, for a request that came after a gap.
    AfterGap,
}

impl Mode {
    fn applies(self) -> bool {
        matches!(self, Mode::Live | Mode::Snapshot)
    }
}

/// The results of a request, with bounded size.
#[derive(Default)]
pub(super) struct Results {
    results: Vec<wire::PresenceResult>,
    bytes: usize,
    /// Users whose presence is a result, with the result's index. It is filled in after the whole request, so that the
    /// reply agrees with the pushes.
    presences: Vec<(usize, String)>,
}

impl Results {
    fn fits(&self, bytes: usize) -> bool {
        self.bytes + bytes + RESULT_FRAME_BYTES <= REPLY_BYTES_MAX
    }

    fn push(&mut self, body: Option<Outcome>) {
        self.bytes += body.as_ref().map_or(0, Outcome::encoded_len) + RESULT_FRAME_BYTES;
        self.results.push(wire::PresenceResult { body });
    }

    fn push_presence(&mut self, user: String) {
        self.presences.push((self.results.len(), user));
        self.results.push(wire::PresenceResult { body: None });
    }

    /// Fills in the presences and returns the results. Presences that do not fit are pushed to the requesting gateway.
    pub(super) fn complete(
        mut self,
        now: Moment,
        roster: &Roster,
        gateway: GatewayIndex,
        pushes: &mut Pushes,
    ) -> Vec<wire::PresenceResult> {
        for (index, user) in std::mem::take(&mut self.presences) {
            let presence = roster.presence(now, &user);
            let bytes = presence.encoded_len();
            if self.fits(bytes) {
                self.bytes += bytes + RESULT_FRAME_BYTES;
                self.results[index].body = Some(Outcome::User(presence));
            } else {
                pushes.user(gateway, presence);
            }
        }
        self.results
    }
}

impl Shard {
    pub(super) fn apply(
        &mut self,
        now: Moment,
        gateway: GatewayIndex,
        mode: Mode,
        change: Option<Change>,
        results: &mut Results,
    ) {
        let outcome = match change {
            None => Outcome::Done(false),
            Some(Change::SessionStarted(started)) => Outcome::Done(self.start(now, gateway, mode, started)),
            Some(Change::SessionEnded(ended)) => Outcome::Done(self.end(now, gateway, mode, &ended)),
            Some(Change::StatusSet(set)) => Outcome::Done(self.set_status(gateway, mode, set)),
            Some(Change::Watch(watch)) => {
                self.watch(gateway, mode, &watch.user);
                return results.push_presence(watch.user);
            }
            Some(Change::Unwatch(unwatch)) => Outcome::Done(self.unwatch(gateway, mode, &unwatch.user)),
            Some(Change::StatusQuery(query)) => return results.push_presence(query.user),
            Some(Change::ProfileQuery(query)) => Outcome::Profile(self.roster.profile(&query.user)),
            Some(Change::RoomJoined(joined)) => Outcome::Room(self.join(gateway, mode, &joined, results)),
            Some(Change::RoomLeft(left)) => Outcome::Room(self.leave(gateway, mode, &left)),
            Some(Change::RecoveryKept(kept)) => Outcome::Done(self.keep_record(gateway, mode, kept)),
            Some(Change::RecoverySubscribed(made)) => {
                Outcome::Done(mode.applies() && self.records.subscribe(gateway, made))
            }
            Some(Change::RecoveryUnsubscribed(ended)) => {
                Outcome::Done(mode.applies() && self.records.unsubscribe(gateway, &ended))
            }
            Some(Change::RecoveryEnded(ended)) => Outcome::Done(self.end_record(now, gateway, mode, &ended)),
            Some(Change::RecoveryQuery(query)) => Outcome::Recovery(self.find_record(&query, results)),
        };
        results.push(Some(outcome));
    }

    fn start(
        &mut self,
        now: Moment,
        gateway: GatewayIndex,
        mode: Mode,
        started: wire::SessionStarted,
    ) -> bool {
        let limit = if started.limit == 0 { usize::MAX } else { started.limit as usize };
        let session = started.session;
        let is_known = |roster: &Roster| roster.has_session(&started.user, gateway, session);
        let (gateways, roster) = (&self.gateways, &mut self.roster);
        match mode {
            Mode::Known => is_known(roster),
            Mode::AfterGap => {
                let is_live = |other| gateways.is_live(other, now.steady_ms);
                is_known(roster) || roster.would_admit(&started.user, limit, is_live)
            }
            Mode::Live => {
                let user = started.user.clone();
                let admitted =
                    roster.start(gateways, now, gateway, started, Admission::Below(limit)).is_some();
                if !admitted {
                    // Some of the user's other sessions may be dead without their gateways having noticed.
                    let others = roster.gateways_of(&user);
                    others.for_each(|gateway| self.pushes.crowded(gateway, &user));
                }
                admitted
            }
            Mode::Snapshot => {
                let Some(user) = roster.start(gateways, now, gateway, started, Admission::Always) else {
                    return false;
                };
                self.announce(gateway, |announced| announced.add_session(&user, session));
                true
            }
        }
    }

    fn end(&mut self, now: Moment, gateway: GatewayIndex, mode: Mode, ended: &wire::SessionEnded) -> bool {
        if mode.applies() {
            self.roster.end(now, gateway, &ended.user, ended.session);
            self.announce(gateway, |announced| announced.remove_session(&ended.user, ended.session));
        }
        true
    }

    fn set_status(&mut self, gateway: GatewayIndex, mode: Mode, set: wire::StatusSet) -> bool {
        if mode.applies() {
            self.roster.set_status(gateway, set);
        }
        true
    }

    fn watch(&mut self, gateway: GatewayIndex, mode: Mode, user: &str) {
        if mode.applies()
            && let Some(user) = self.roster.watch(gateway, user)
        {
            self.announce(gateway, |announced| announced.add_watch(&user));
        }
    }

    fn unwatch(&mut self, gateway: GatewayIndex, mode: Mode, user: &str) -> bool {
        if mode.applies() {
            self.roster.unwatch(gateway, user);
            self.announce(gateway, |announced| announced.remove_watch(user));
        }
        true
    }

    fn join(
        &mut self,
        gateway: GatewayIndex,
        mode: Mode,
        joined: &wire::RoomJoined,
        results: &Results,
    ) -> wire::RoomState {
        // A user whom a gateway announces to a new owner was in the room before, so this is no news.
        let silent = mode == Mode::Snapshot && self.unsettled;
        let pushes = if silent { None } else { Some(&mut self.pushes) };
        let member = if mode.applies() { self.rooms.join(gateway, joined, pushes) } else { None };
        let changed = member.as_ref().is_some_and(|(_, _, new)| *new);
        if let Some((conversation, user, _)) = member {
            self.announce(gateway, |announced| announced.add_room(&conversation, &user));
        }
        if mode == Mode::Snapshot {
            let participants = self.rooms.participants(&joined.conversation);
            return wire::RoomState { participants, visible: Vec::new(), changed };
        }
        let state = wire::RoomState { changed, ..self.rooms.state(&joined.conversation, &joined.user) };
        if results.fits(state.encoded_len()) {
            state
        } else {
            wire::RoomState { visible: Vec::new(), ..state }
        }
    }

    fn leave(&mut self, gateway: GatewayIndex, mode: Mode, left: &wire::RoomLeft) -> wire::RoomState {
        let changed = mode.applies() && self.rooms.leave(gateway, left, &mut self.pushes);
        if mode.applies() {
            self.announce(gateway, |announced| announced.remove_room(&left.conversation, &left.user));
        }
        wire::RoomState {
            participants: self.rooms.participants(&left.conversation),
            visible: Vec::new(),
            changed,
        }
    }

    fn keep_record(&mut self, gateway: GatewayIndex, mode: Mode, kept: wire::RecoveryKept) -> bool {
        let pid = kept.record.as_ref().map(|record| record.pid.clone()).unwrap_or_default();
        let accepted = mode.applies() && self.records.keep(gateway, kept);
        if accepted {
            self.announce(gateway, |announced| announced.add_record(pid));
        }
        accepted
    }

    fn end_record(
        &mut self,
        now: Moment,
        gateway: GatewayIndex,
        mode: Mode,
        ended: &wire::RecoveryEnded,
    ) -> bool {
        if mode.applies() {
            let owned = self.records.end(now.steady_ms, gateway, ended);
            if owned {
                self.announce(gateway, |announced| announced.remove_record(&ended.pid));
            }
        }
        mode.applies()
    }

    /// Finds a record. The reply is `again` if a gateway may still announce it, or if it does not fit into this reply.
    fn find_record(&self, query: &wire::RecoveryQuery, results: &Results) -> wire::RecoveryFound {
        match self.records.find(query) {
            None => wire::RecoveryFound { again: self.unsettled, ..wire::RecoveryFound::default() },
            Some((record, _)) if !results.fits(record.encoded_len()) => {
                wire::RecoveryFound { again: true, ..wire::RecoveryFound::default() }
            }
            Some((record, owner)) => {
                let place = |(gateway, session): (GatewayIndex, u64)| {
                    let gateway = self.gateways.get(gateway)?.id.to_string();
                    Some(wire::SessionPlace { gateway, session })
                };
                let owner = owner.and_then(place);
                wire::RecoveryFound { record: Some(record.clone()), again: false, owner }
            }
        }
    }

    /// Applies a change to the gateway's unfinished snapshot, if there is one.
    fn announce(&mut self, gateway: GatewayIndex, note: impl FnOnce(&mut Announced)) {
        if let Some(announced) = self.gateways.get_mut(gateway).and_then(|known| known.announced.as_mut()) {
            note(announced);
        }
    }
}
