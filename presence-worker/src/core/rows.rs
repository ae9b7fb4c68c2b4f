//! The part of the roster that exchanges rows with the store.

use super::roster::Roster;
use super::user::Record;
use crate::limits::UNSAVED_USERS_MAX;
use carillon_proto::id::UserId;

impl Roster {
    /// Whether the user's row must be read to know the user's presence.
    pub fn lacks_row(&self, user: &str) -> bool {
        self.users.get(user).is_none_or(|user| !user.row.loaded && !user.is_present())
    }

    /// Whether the user's row must be read to know the profile.
    pub fn lacks_profile(&self, user: &str) -> bool {
        self.users.get(user).is_none_or(|user| user.profile().is_none())
    }

    /// Receives rows that were read for the next input. Their users need not be in memory.
    pub fn lend(&mut self, records: Vec<Record>) {
        for record in records {
            self.load_known(&record);
            self.lent.insert(record.user.clone(), record);
        }
    }

    /// Removes and returns at most `limit` users whose rows must be read. [`Roster::loaded`] receives the rows.
    pub fn next_to_load(&mut self, limit: usize) -> Vec<UserId> {
        let count = self.to_load.len().min(limit);
        let users = self.to_load.drain(..count);
        users.filter(|id| self.users.get(id).is_some_and(|user| !user.row.loaded)).collect()
    }

    /// Receives the rows that were read; `None` if they could not be read. A user without a row has an unknown
    /// [`Record`].
    pub fn loaded(&mut self, users: &[UserId], records: Option<Vec<Record>>) {
        let failed = records.is_none();
        for record in records.unwrap_or_default() {
            self.load_known(&record);
        }
        for id in users {
            self.touch(id);
            let Some(user) = self.users.get_mut(id) else { continue };
            // While the store is away, the list must not grow without bound for users who have left.
            let again = failed && (user.is_present() || self.to_load.len() < UNSAVED_USERS_MAX);
            user.row.loading = again;
            if again {
                self.to_load.push_back(id.clone());
            }
        }
    }

    fn load_known(&mut self, record: &Record) {
        if self.users.get(&record.user).is_none_or(|user| user.row.loaded) {
            return;
        }
        self.touch(&record.user);
        if self.users.get_mut(&record.user).is_some_and(|user| user.load(record.clone())) {
            self.mark_unsaved(&record.user);
        }
    }

    pub(super) fn mark_unsaved(&mut self, id: &UserId) {
        let Some(user) = self.users.get_mut(id) else { return };
        // Before the row is read, it is unknown what to write: a write replaces the whole row.
        if user.row.unsaved || !user.row.loaded {
            return;
        }
        user.row.unsaved = true;
        self.to_save.push_back(id.clone());
        if self.to_save.len() > UNSAVED_USERS_MAX
            && let Some(oldest) = self.to_save.pop_front()
        {
            self.given_up += 1;
            self.touch(&oldest);
            if let Some(user) = self.users.get_mut(&oldest) {
                user.row.unsaved = false;
            }
        }
    }

    /// Removes and returns at most `limit` rows to write. [`Roster::saved`] receives the outcome.
    pub fn next_to_save(&mut self, limit: usize) -> Vec<Record> {
        let count = self.to_save.len().min(limit);
        let mut records = Vec::with_capacity(count);
        for id in self.to_save.drain(..count) {
            if let Some(user) = self.users.get_mut(&id) {
                user.row.unsaved = false;
                user.row.saving = true;
                records.push(user.record(&id));
            }
        }
        records
    }

    /// Receives the outcome of a write. Rows that may not be written are written again.
    pub fn saved(&mut self, ids: &[UserId], done: bool) {
        for id in ids {
            if let Some(user) = self.users.get_mut(id) {
                user.row.saving = false;
            }
            self.touch(id);
            if !done {
                self.mark_unsaved(id);
            }
        }
    }

    /// How many rows were given up since the last call.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }
}
