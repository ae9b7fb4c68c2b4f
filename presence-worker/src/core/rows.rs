//! The roster's rows on their way from and to the store.

use super::roster::Roster;
use super::user::Record;
use crate::limits::UNSAVED_USERS_MAX;
use carillon_proto::id::UserId;

impl Roster {
    /// Whether the store must be asked before this user's presence can be told.
    pub fn lacks_row(&self, user: &str) -> bool {
        self.users.get(user).is_none_or(|user| !user.row.loaded && !user.is_present())
    }

    /// Whether the store must be asked before this user's profile can be told.
    pub fn lacks_profile(&self, user: &str) -> bool {
        self.users.get(user).is_none_or(|user| user.profile().is_none())
    }

    /// Rows read for the next input, of users who may not be in memory.
    pub fn lend(&mut self, records: Vec<Record>) {
        for record in records {
            self.load_known(&record);
            self.lent.insert(record.user.clone(), record);
        }
    }

    /// Users whose rows are to be read now, at most `limit`; answered by [`Roster::loaded`].
    pub fn take_to_load(&mut self, limit: usize) -> Vec<UserId> {
        let count = self.to_load.len().min(limit);
        let asked = self.to_load.drain(..count);
        asked.filter(|id| self.users.get(id).is_some_and(|user| !user.row.loaded)).collect()
    }

    /// Rows came, or (`None`) could not be read. A user without a row has an unknown [`Record`].
    pub fn loaded(&mut self, asked: &[UserId], records: Option<Vec<Record>>) {
        let failed = records.is_none();
        for record in records.unwrap_or_default() {
            self.load_known(&record);
        }
        for id in asked {
            self.touch(id);
            let Some(user) = self.users.get_mut(id) else { continue };
            // Somebody who left while the store is away is not worth unbounded memory.
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
        // Before its row is read, it is not known what to write: reading comes first.
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

    /// Rows to be written now, at most `limit`; answered by [`Roster::saved`].
    pub fn take_to_save(&mut self, limit: usize) -> Vec<Record> {
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

    /// Rows were written, or not.
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

    /// How many rows were given up since the last time this was asked.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }
}
