//! One user: sessions, status, watchers, and the view that others have of the user.

use super::Moment;
use super::gateways::GatewayIndex;
use super::watch::GatewaySet;
use carillon_proto::id::UserId;
use carillon_proto::wire::{self, Status};
use smallvec::SmallVec;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A user's data in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The user.
    pub user: UserId,
    /// The profile. Its own field `user` is empty.
    pub profile: wire::Profile,
    /// When the last session ended, in milliseconds since 1970; 0: the user was never seen.
    pub last_seen_ms: u64,
}

impl Record {
    /// The record of a user without a row.
    pub fn unknown(user: UserId) -> Record {
        Record { user, profile: wire::Profile::default(), last_seen_ms: 0 }
    }
}

/// The status and text that a session set for its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// A later setting has a higher number.
    order: u64,
    status: Status,
    text: String,
}

#[derive(Debug)]
struct Session {
    id: u64,
    gateway: GatewayIndex,
    wish: Option<Box<Wish>>,
    /// The session's place before it moved. The gateway there may still announce it.
    moved_from: Option<Box<wire::SessionPlace>>,
}

/// How others see a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Online, and not invisible.
    pub online: bool,
    status: Status,
    text: String,
    last_seen_ms: u64,
}

impl View {
    /// The view of a user who is offline.
    pub fn offline(last_seen_ms: u64) -> View {
        View { online: false, status: Status::Active, text: String::new(), last_seen_ms }
    }

    /// Whether a watcher who received `before` must receive this view. For an online user, a new `last_seen_ms` is no
    /// news.
    pub fn is_news(&self, before: &View) -> bool {
        let same_time = self.online || self.last_seen_ms == before.last_seen_ms;
        self.online != before.online || self.status != before.status || self.text != before.text || !same_time
    }

    /// The view as a message. An online user was last seen now.
    pub fn into_wire(self, user: &str, now: Moment) -> wire::UserPresence {
        wire::UserPresence {
            user: user.into(),
            online: self.online,
            status: self.status.into(),
            text: self.text,
            last_seen_ms: if self.online { now.wall_ms } else { self.last_seen_ms },
        }
    }
}

/// The state of a user's row between memory and store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowState {
    /// The row was read, or is known not to exist.
    pub loaded: bool,
    /// The row must be read.
    pub loading: bool,
    /// The row must be written.
    pub unsaved: bool,
    /// The row is being written.
    pub saving: bool,
}

/// A user in memory.
#[derive(Debug, Default)]
pub struct User {
    sessions: SmallVec<[Session; 1]>,
    /// The status of the session that ended last, if no current session has set one. It keeps an invisible user
    /// invisible while a page reloads.
    kept_wish: Option<Box<Wish>>,
    /// Gateways that receive this user's changes.
    pub watchers: GatewaySet,
    profile: Option<Box<wire::Profile>>,
    /// Fingerprint of the profile that is in the store, or is being written to it.
    stored_profile: u64,
    /// When the last session ended, in milliseconds since 1970.
    pub last_seen_ms: u64,
    /// When the grace after the last session ends, by the steady clock.
    pub offline_at_ms: Option<u64>,
    /// The state of the user's row.
    pub row: RowState,
}

impl User {
    /// Receives the user's row from the store. Returns whether the memory has newer data, which must be written.
    pub fn load(&mut self, record: Record) -> bool {
        self.row.loaded = true;
        self.row.loading = false;
        self.stored_profile = fingerprint(&record.profile);
        let seen_later = self.last_seen_ms > record.last_seen_ms;
        self.last_seen_ms = self.last_seen_ms.max(record.last_seen_ms);
        match &self.profile {
            Some(profile) => fingerprint(profile) != self.stored_profile || seen_later,
            None => {
                self.profile = Some(Box::new(record.profile));
                seen_later
            }
        }
    }

    /// The number of sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The number of sessions on gateways for which `counts` is true.
    pub fn sessions_where(&self, counts: impl Fn(GatewayIndex) -> bool) -> usize {
        self.sessions.iter().filter(|session| counts(session.gateway)).count()
    }

    /// The gateways of the sessions.
    pub fn gateways(&self) -> impl Iterator<Item = GatewayIndex> + '_ {
        self.sessions.iter().map(|session| session.gateway)
    }

    /// Whether the session is known.
    pub fn has_session(&self, gateway: GatewayIndex, id: u64) -> bool {
        self.sessions.iter().any(|session| session.id == id && session.gateway == gateway)
    }

    /// Adds a session that is not known yet.
    pub fn add_session(&mut self, gateway: GatewayIndex, id: u64, moved_from: Option<wire::SessionPlace>) {
        self.offline_at_ms = None;
        self.sessions.push(Session { id, gateway, wish: None, moved_from: moved_from.map(Box::new) });
    }

    /// Moves a session to another gateway, and remembers its old place, where it may still be announced for a while.
    /// Returns whether the session was known.
    pub fn move_session(
        &mut self,
        from: (GatewayIndex, &wire::SessionPlace),
        to: (GatewayIndex, u64),
    ) -> bool {
        let (gateway, place) = from;
        let mut sessions = self.sessions.iter_mut();
        let known = sessions.find(|one| one.gateway == gateway && one.id == place.session);
        let moved = |session: &mut Session| {
            (session.gateway, session.id) = to;
            session.moved_from = Some(Box::new(place.clone()));
        };
        known.map(moved).is_some()
    }

    /// Whether a session from this place has moved to another gateway.
    pub fn has_moved(&self, gateway: &str, id: u64) -> bool {
        let from = |place: &wire::SessionPlace| place.session == id && place.gateway == gateway;
        self.sessions.iter().any(|session| session.moved_from.as_deref().is_some_and(from))
    }

    /// Sets the profile. Returns whether it must be written to the store.
    pub fn set_profile(&mut self, profile: wire::Profile) -> bool {
        let profile = wire::Profile { user: String::new(), ..profile };
        let changed = self.row.loaded && fingerprint(&profile) != self.stored_profile;
        self.profile = Some(Box::new(profile));
        changed
    }

    /// Ends those sessions of a gateway for which `keep` is false. Returns their number.
    pub fn end_sessions(&mut self, gateway: GatewayIndex, keep: impl Fn(u64) -> bool) -> usize {
        let before = self.sessions.len();
        let mut last_wish = self.kept_wish.take();
        self.sessions.retain(|session| {
            let stays = session.gateway != gateway || keep(session.id);
            if !stays
                && session.wish.as_ref().map(|wish| wish.order) > last_wish.as_ref().map(|wish| wish.order)
            {
                last_wish = session.wish.take();
            }
            stays
        });
        if self.sessions.iter().all(|session| session.wish.is_none()) {
            self.kept_wish = last_wish;
        }
        before - self.sessions.len()
    }

    /// Sets the status that a session chose. With `again`, an unchanged status does not count as set later.
    pub fn set_wish(
        &mut self,
        session: (GatewayIndex, u64),
        order: u64,
        status: Status,
        text: String,
        again: bool,
    ) {
        let (gateway, id) = session;
        let Some(session) = self.sessions.iter_mut().find(|one| one.id == id && one.gateway == gateway)
        else {
            return;
        };
        let same = session.wish.as_ref().is_some_and(|wish| wish.status == status && wish.text == text);
        if !(again && same) {
            session.wish = Some(Box::new(Wish { order, status, text }));
            self.kept_wish = None;
        }
    }

    fn wish(&self) -> Option<&Wish> {
        let wishes = self.sessions.iter().filter_map(|session| session.wish.as_deref());
        wishes.max_by_key(|wish| wish.order).or(self.kept_wish.as_deref())
    }

    /// Whether the user's status is invisible.
    pub fn is_invisible(&self) -> bool {
        self.wish().is_some_and(|wish| wish.status == Status::Invisible)
    }

    /// Whether the user has a session, or is within the grace after the last one.
    pub fn is_present(&self) -> bool {
        !self.sessions.is_empty() || self.offline_at_ms.is_some()
    }

    /// How others see the user now.
    pub fn view(&self) -> View {
        if !self.is_present() || self.is_invisible() {
            return View::offline(self.last_seen_ms);
        }
        let (status, text) =
            self.wish().map_or((Status::Active, String::new()), |wish| (wish.status, wish.text.clone()));
        View { online: true, status, text, last_seen_ms: self.last_seen_ms }
    }

    /// The profile, if it is in memory.
    pub fn profile(&self) -> Option<&wire::Profile> {
        self.profile.as_deref()
    }

    /// The record to write to the store now.
    pub fn record(&mut self, user: &UserId) -> Record {
        let profile = self.profile.as_deref().cloned().unwrap_or_default();
        self.stored_profile = fingerprint(&profile);
        Record { user: user.clone(), profile, last_seen_ms: self.last_seen_ms }
    }

    /// Drops data that only a present user needs. Returns whether the user may leave memory.
    pub fn rest(&mut self) -> bool {
        if self.is_present() || self.row.unsaved || self.row.saving || self.row.loading {
            return false;
        }
        self.kept_wish = None;
        if self.row.loaded {
            self.profile = None;
        }
        self.watchers.is_empty()
    }
}

fn fingerprint(profile: &wire::Profile) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&profile.name, &profile.email, &profile.role, &profile.picture).hash(&mut hasher);
    hasher.finish()
}
