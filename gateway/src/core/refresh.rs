//! Decides whose acquaintances are read again, and when: at once after a change, but each user's at most once a second.
//! When changes may have been missed, all users' acquaintances are read, spread over time.

use carillon_proto::id::UserId;
use std::collections::{BTreeSet, HashMap};

/// Time between two reads of one user's acquaintances. A user who is invited to many conversations at once is read
/// twice.
pub const SPACING_MS: u64 = 1_000;
/// Time before a failed read is repeated.
pub const RETRY_MS: u64 = 2_000;
/// Reads under way at once. Enough to read a conversation of 100 participants within a few round trips, and few enough
/// that workers can answer other reads meanwhile.
pub const UNDER_WAY_MAX: usize = 8;
/// Reads in a second when changes may have been missed. A read costs a worker one row for each conversation of the
/// user, and all gateways may read at the same time.
pub const SWEPT_PER_SECOND: u64 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<U> {
    /// Read this user's acquaintances, then call [`Refresh::handle_read`].
    Read(U),
    /// Nothing before this time, milliseconds.
    At(u64),
    /// Nothing until something changes or is done.
    Nothing,
}

#[derive(Debug, Default)]
struct ReadState {
    /// When the user is due: to be read, or to be removed.
    at_ms: Option<u64>,
    wanted: bool,
    reading: bool,
    not_before_ms: u64,
}

/// The users whose acquaintances are to be read or were read within the last second. Bounded by the number of users
/// that are connected when they are named.
#[derive(Debug, Default)]
pub struct Refresh {
    users: HashMap<UserId, ReadState>,
    /// The due time of each user.
    due: BTreeSet<(u64, UserId)>,
    under_way: usize,
}

impl Refresh {
    /// A user's acquaintances may have changed.
    pub fn handle_change(&mut self, now_ms: u64, user: &UserId) {
        self.want(user, now_ms);
    }

    /// The acquaintances of any of these users may have changed.
    pub fn handle_missed_changes<'a>(&mut self, now_ms: u64, users: impl Iterator<Item = &'a UserId>) {
        for (index, user) in (0..).zip(users) {
            self.want(user, now_ms + index * 1_000 / SWEPT_PER_SECOND);
        }
    }

    fn want(&mut self, user: &UserId, at_ms: u64) {
        let state = self.users.entry(user.clone()).or_default();
        let before_ms = state.at_ms.filter(|_| state.wanted).unwrap_or(u64::MAX);
        state.wanted = true;
        if !state.reading {
            let at_ms = at_ms.max(state.not_before_ms).min(before_ms);
            self.schedule(user, at_ms);
        }
    }

    fn schedule(&mut self, user: &UserId, at_ms: u64) {
        let Some(state) = self.users.get_mut(user) else { return };
        if let Some(before_ms) = state.at_ms.replace(at_ms) {
            self.due.remove(&(before_ms, user.clone()));
        }
        self.due.insert((at_ms, user.clone()));
    }

    pub fn poll_next(&mut self, now_ms: u64) -> Next<UserId> {
        while let Some((at_ms, user)) = self.due.first().cloned() {
            if at_ms > now_ms {
                return Next::At(at_ms);
            }
            let Some(state) = self.users.get_mut(&user) else { return Next::Nothing };
            if state.wanted && self.under_way >= UNDER_WAY_MAX {
                return Next::Nothing;
            }
            self.due.pop_first();
            state.at_ms = None;
            if !state.wanted {
                self.users.remove(&user);
                continue;
            }
            (state.wanted, state.reading, state.not_before_ms) = (false, true, now_ms + SPACING_MS);
            self.under_way += 1;
            return Next::Read(user);
        }
        Next::Nothing
    }

    /// A read is done, or failed and is to be repeated (`read` is `false`).
    pub fn handle_read(&mut self, now_ms: u64, user: &UserId, read: bool) {
        let Some(state) = self.users.get_mut(user).filter(|state| state.reading) else { return };
        self.under_way -= 1;
        state.reading = false;
        if !read {
            state.wanted = true;
            state.not_before_ms = now_ms + RETRY_MS;
        }
        let at_ms = state.not_before_ms.max(now_ms);
        self.schedule(user, at_ms);
    }

    /// Whether a user's acquaintances are being read, or will be within the spacing of reads.
    pub fn is_pending(&self, now_ms: u64, user: &UserId) -> bool {
        let soon = |state: &ReadState| state.at_ms.is_some_and(|at_ms| at_ms <= now_ms + SPACING_MS);
        self.users.get(user).is_some_and(|state| state.reading || (state.wanted && soon(state)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> UserId {
        UserId::parse(id).expect("valid")
    }

    #[test]
    fn a_change_is_read_at_once_and_later_changes_a_second_later() {
        let (mut refresh, ann) = (Refresh::default(), user("ann"));
        assert_eq!(refresh.poll_next(0), Next::Nothing);
        refresh.handle_change(5, &ann);
        assert!(refresh.is_pending(5, &ann));
        assert_eq!(refresh.poll_next(5), Next::Read(ann.clone()));
        // The read under way may not include a change that comes meanwhile.
        refresh.handle_change(6, &ann);
        refresh.handle_change(7, &ann);
        assert_eq!(refresh.poll_next(7), Next::Nothing);
        refresh.handle_read(20, &ann, true);
        assert_eq!(refresh.poll_next(20), Next::At(5 + SPACING_MS));
        assert!(refresh.is_pending(20, &ann));
        assert_eq!(refresh.poll_next(5 + SPACING_MS), Next::Read(ann.clone()));
        refresh.handle_read(1_100, &ann, true);
        assert!(!refresh.is_pending(1_100, &ann));
        assert_eq!(refresh.poll_next(5 + 2 * SPACING_MS), Next::Nothing);
        assert!(
            refresh.users.is_empty() && refresh.due.is_empty(),
            "a quiet user must not be kept in memory"
        );
    }

    #[test]
    fn a_read_that_failed_is_tried_again() {
        let (mut refresh, ann) = (Refresh::default(), user("ann"));
        refresh.handle_change(0, &ann);
        assert_eq!(refresh.poll_next(0), Next::Read(ann.clone()));
        refresh.handle_read(10, &ann, false);
        assert_eq!(refresh.poll_next(10), Next::At(10 + RETRY_MS));
        assert_eq!(refresh.poll_next(10 + RETRY_MS), Next::Read(ann));
    }

    #[test]
    fn few_are_read_at_once_and_reported_changes_come_first() {
        let mut refresh = Refresh::default();
        let crowd: Vec<UserId> = (0..100).map(|number| user(&format!("u{number}"))).collect();
        refresh.handle_missed_changes(0, crowd.iter());
        assert_eq!(refresh.poll_next(0), Next::Read(crowd[0].clone()));
        assert_eq!(refresh.poll_next(0), Next::At(1_000 / SWEPT_PER_SECOND));
        refresh.handle_change(1, &crowd[99]);
        assert_eq!(refresh.poll_next(1), Next::Read(crowd[99].clone()));
        // A later request does not delay a read that is already due.
        refresh.handle_missed_changes(1, crowd[2..3].iter());
        assert_eq!(refresh.poll_next(1), Next::Read(crowd[2].clone()));
        let mut reads = 3;
        while let Next::Read(_) = refresh.poll_next(60_000) {
            reads += 1;
        }
        assert_eq!(reads, UNDER_WAY_MAX);
        refresh.handle_read(60_000, &crowd[0], true);
        assert!(matches!(refresh.poll_next(60_000), Next::Read(_)));
    }
}
