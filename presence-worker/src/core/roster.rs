//! The users in a shard's memory: online, watched, or with a row to be read or written.

use super::Moment;
use super::announced::Announced;
use super::gateways::{GatewayIndex, Gateways};
use super::user::{Record, RowState, User, View};
use super::watch::Pushes;
use crate::limits::{SESSIONS_PER_USER_MAX, USERS_MAX};
use carillon_proto::event::unknown_presence;
use carillon_proto::id::UserId;
use carillon_proto::wire::{self, Status};
use carillon_runtime::collections::Spare;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Whether a new session must be within a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Admitted without the user's limit, as part of a snapshot.
    Always,
    /// Admitted if the user has fewer sessions than this on gateways that are not silent.
    Below(usize),
}

/// The users of a shard.
#[derive(Debug, Default)]
pub struct Roster {
    grace_ms: u64,
    pub(super) users: HashMap<UserId, User>,
    sessions: usize,
    /// The graces that run, by the time at which they end.
    graces: BTreeSet<(u64, UserId)>,
    /// The users that the current input touched, as others saw them before it.
    touched: BTreeMap<UserId, View>,
    /// Rows read for the current input.
    pub(super) lent: HashMap<UserId, Record>,
    /// Number of statuses set so far: it orders them.
    wishes: u64,
    /// Users whose rows wait to be read.
    pub(super) to_load: VecDeque<UserId>,
    /// Users whose rows wait to be written.
    pub(super) to_save: VecDeque<UserId>,
    /// Rows given up since the last call of [`Roster::take_given_up`].
    pub(super) given_up: u64,
}

impl Roster {
    /// An empty roster. Users go offline `grace_ms` after their last session.
    pub fn new(grace_ms: u64) -> Roster {
        Roster { grace_ms, ..Roster::default() }
    }

    /// Adds a user to memory. `None` if the id is invalid or memory is full.
    fn open(&mut self, user: &str) -> Option<UserId> {
        if let Some((known, _)) = self.users.get_key_value(user) {
            let known = known.clone();
            self.touch(&known);
            return Some(known);
        }
        let id = UserId::parse(user).ok()?;
        if self.users.len() >= USERS_MAX {
            return None;
        }
        let mut new = User::default();
        match self.lent.get(user) {
            Some(record) => {
                new.load(record.clone());
            }
            None => {
                new.row.loading = true;
                self.to_load.push_back(id.clone());
            }
        }
        self.users.insert(id.clone(), new);
        self.touch(&id);
        Some(id)
    }

    pub(super) fn touch(&mut self, user: &UserId) {
        if !self.touched.contains_key(user)
            && let Some(known) = self.users.get(user)
        {
            self.touched.insert(user.clone(), known.view());
        }
    }

    /// Starts a session. Returns its user, or `None` if it is refused. A session that moved from another gateway takes
    /// over its old place, in whichever order the two gateways announce it. A session that is known already stays.
    pub fn start(
        &mut self,
        gateways: &Gateways,
        now: Moment,
        gateway: GatewayIndex,
        mut started: wire::SessionStarted,
        admission: Admission,
    ) -> Option<UserId> {
        let id = self.open(&started.user)?;
        let user = self.users.get_mut(&id)?;
        let name = gateways.get(gateway).map_or("", |known| known.id.as_str());
        if user.has_moved(name, started.session) {
            return Some(id);
        }
        let place = (gateway, started.session);
        let from = started.moved_from.as_ref();
        let from = from.and_then(|from| Some((gateways.index(&from.gateway)?, from)));
        let known =
            user.has_session(place.0, place.1) || from.is_some_and(|from| user.move_session(from, place));
        let status = started.status.is_some().then(|| (started.status(), std::mem::take(&mut started.text)));
        if !known {
            let is_live = |other| gateways.is_live(other, now.steady_ms);
            let admitted = match admission {
                Admission::Always => true,
                Admission::Below(limit) => user.sessions_where(is_live) < limit,
            };
            if !admitted || user.sessions() >= SESSIONS_PER_USER_MAX {
                return None;
            }
            self.add(&id, gateway, started);
        }
        if let Some((status, text)) = status {
            self.wish(&id, place, status, text, true);
        }
        Some(id)
    }

    fn add(&mut self, id: &UserId, gateway: GatewayIndex, started: wire::SessionStarted) {
        let Some(user) = self.users.get_mut(id) else { return };
        if let Some(at_ms) = user.offline_at_ms {
            self.graces.remove(&(at_ms, id.clone()));
        }
        user.add_session(gateway, started.session, started.moved_from);
        self.sessions += 1;
        let bare = started.profile.is_none() && user.profile().is_none();
        if bare && !user.row.loading {
            // The row is written whole with a new time of the last visit, so its profile must be read first.
            user.row = RowState { loaded: false, loading: true, ..user.row };
            self.to_load.push_back(id.clone());
        }
        if started.profile.is_some_and(|profile| user.set_profile(profile)) {
            self.mark_unsaved(id);
        }
    }

    fn wish(&mut self, id: &UserId, session: (GatewayIndex, u64), status: Status, text: String, again: bool) {
        self.wishes += 1;
        if let Some(user) = self.users.get_mut(id) {
            user.set_wish(session, self.wishes, status, text, again);
        }
    }

    /// The gateways of a user's sessions. A gateway with several sessions comes several times.
    pub fn gateways_of(&self, user: &str) -> impl Iterator<Item = GatewayIndex> + '_ {
        self.users.get(user).into_iter().flat_map(User::gateways)
    }

    /// Whether a new session of the user would be admitted.
    pub fn would_admit(&self, user: &str, limit: usize, is_live: impl Fn(GatewayIndex) -> bool) -> bool {
        self.users.get(user).is_none_or(|user| user.sessions_where(is_live) < limit)
    }

    /// Whether a session is known.
    pub fn has_session(&self, user: &str, gateway: GatewayIndex, session: u64) -> bool {
        self.users.get(user).is_some_and(|user| user.has_session(gateway, session))
    }

    /// Ends a session.
    pub fn end(&mut self, now: Moment, gateway: GatewayIndex, user: &str, session: u64) {
        if self.has_session(user, gateway, session)
            && let Some(id) = self.open(user)
        {
            self.end_where(now, gateway, &id, |other| other != session);
        }
    }

    fn end_where(&mut self, now: Moment, gateway: GatewayIndex, id: &UserId, keep: impl Fn(u64) -> bool) {
        let Some(user) = self.users.get_mut(id) else { return };
        let ended = user.end_sessions(gateway, keep);
        self.sessions -= ended;
        if ended == 0 || user.sessions() > 0 {
            return;
        }
        let offline_at_ms = now.steady_ms + self.grace_ms;
        user.offline_at_ms = Some(offline_at_ms);
        let hidden = user.is_invisible();
        if !hidden {
            user.last_seen_ms = now.wall_ms;
        }
        self.graces.insert((offline_at_ms, id.clone()));
        if !hidden {
            self.mark_unsaved(id);
        }
    }

    /// Sets the status that a session chose for its user.
    pub fn set_status(&mut self, gateway: GatewayIndex, set: wire::StatusSet) {
        if self.has_session(&set.user, gateway, set.session)
            && let Some(id) = self.open(&set.user)
        {
            let status = set.status();
            self.wish(&id, (gateway, set.session), status, set.text, false);
        }
    }

    /// Adds a gateway to a user's watchers. `None` if the id is invalid or memory is full.
    pub fn watch(&mut self, gateway: GatewayIndex, user: &str) -> Option<UserId> {
        let id = self.open(user)?;
        self.users.get_mut(&id)?.watchers.add(gateway);
        Some(id)
    }

    /// Removes a gateway from a user's watchers.
    pub fn unwatch(&mut self, gateway: GatewayIndex, user: &str) {
        if self.users.contains_key(user)
            && let Some(id) = self.open(user)
            && let Some(user) = self.users.get_mut(&id)
        {
            user.watchers.remove(gateway);
        }
    }

    /// Ends everything of a gateway that its snapshot does not announce.
    pub fn sweep(&mut self, now: Moment, gateway: GatewayIndex, announced: &Announced) {
        let concerned = |user: &User| {
            user.watchers.contains(gateway) || user.sessions_where(|other| other == gateway) > 0
        };
        let found = self.users.iter().filter(|(_, user)| concerned(user));
        let mut ids: Vec<UserId> = found.map(|(id, _)| id.clone()).collect();
        ids.sort_unstable();
        for id in ids {
            self.touch(&id);
            self.end_where(now, gateway, &id, |session| announced.has_session(&id, session));
            if let Some(user) = self.users.get_mut(&id)
                && !announced.has_watch(&id)
            {
                user.watchers.remove(gateway);
            }
        }
    }

    /// A user's presence as others see it now.
    pub fn presence(&self, now: Moment, user: &str) -> wire::UserPresence {
        match (self.users.get(user), self.lent.get(user)) {
            (Some(known), _) => known.view().into_wire(user, now),
            (None, Some(record)) => View::offline(record.last_seen_ms).into_wire(user, now),
            (None, None) => unknown_presence(user),
        }
    }

    /// A user's profile; empty if none is known.
    pub fn profile(&self, user: &str) -> wire::Profile {
        let known = self.users.get(user).and_then(User::profile);
        let profile =
            known.or_else(|| self.lent.get(user).map(|record| &record.profile)).cloned().unwrap_or_default();
        wire::Profile { user: user.into(), ..profile }
    }

    /// When the next grace ends.
    pub fn next_grace_ms(&self) -> Option<u64> {
        self.graces.first().map(|(at_ms, _)| *at_ms)
    }

    /// Shows the users offline whose grace is over.
    pub fn end_graces(&mut self, now_ms: u64) {
        while let Some((at_ms, id)) = self.graces.pop_first() {
            if at_ms > now_ms {
                self.graces.insert((at_ms, id));
                return;
            }
            self.touch(&id);
            if let Some(user) = self.users.get_mut(&id) {
                user.offline_at_ms = None;
            }
        }
    }

    /// Ends an input: pushes changes to watchers, and removes users who are not needed any more from memory.
    pub fn finish(&mut self, now: Moment, pushes: &mut Pushes) {
        self.lent.clear();
        for (id, before) in std::mem::take(&mut self.touched) {
            let Some(user) = self.users.get_mut(&id) else { continue };
            // Turning invisible must look like going offline at this moment.
            let hides = before.online && user.is_present() && user.is_invisible();
            if hides {
                user.last_seen_ms = now.wall_ms;
            }
            let view = user.view();
            if view.is_news(&before) {
                let presence = view.into_wire(id.as_str(), now);
                user.watchers.iter().for_each(|gateway| pushes.user(gateway, presence.clone()));
            }
            if hides {
                self.mark_unsaved(&id);
            }
            self.release(&id);
        }
    }

    fn release(&mut self, id: &UserId) {
        if self.users.get_mut(id).is_some_and(User::rest) {
            self.users.remove(id);
            self.users.give_spare_back();
        }
    }

    /// Pushes every watched user who is not online. At the end of an ownership's amnesty that is certain.
    pub fn push_offline(&self, now: Moment, pushes: &mut Pushes) {
        let offline = |user: &User| !user.watchers.is_empty() && !user.view().online;
        let mut found: Vec<_> = self.users.iter().filter(|(_, user)| offline(user)).collect();
        found.sort_unstable_by_key(|(id, _)| *id);
        for (id, user) in found {
            let presence = user.view().into_wire(id.as_str(), now);
            user.watchers.iter().for_each(|gateway| pushes.user(gateway, presence.clone()));
        }
    }

    /// The numbers of users in memory and of their sessions.
    pub fn count(&self) -> (usize, usize) {
        (self.users.len(), self.sessions)
    }
}
