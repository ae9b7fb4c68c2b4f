//! Reads and writes of users' rows, with time limits, so that presence never waits long for the store.

use crate::core::user::Record;
use crate::limits::{LOAD_PAUSE_MS, LOAD_TIMEOUT_MS, SAVE_TIMEOUT_MS};
use crate::metrics;
use crate::store::{UserRow, UserStore};
use carillon_proto::id::UserId;
use carillon_proto::wire;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// The users' rows in the store.
pub struct Rows {
    store: Arc<dyn UserStore>,
    /// Set after a failed call: until then, reads return at once without the store.
    away_until: Mutex<Option<Instant>>,
}

impl Rows {
    /// Wraps a store.
    pub fn new(store: Arc<dyn UserStore>) -> Arc<Rows> {
        Arc::new(Rows { store, away_until: Mutex::new(None) })
    }

    /// Reads the rows of users; a user without a row gets an empty one. `None` if the store did not reply in time.
    pub async fn load(&self, users: &[UserId]) -> Option<Vec<Record>> {
        if self.away_until.lock().is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let read = timeout(Duration::from_millis(LOAD_TIMEOUT_MS), self.store.get(users)).await;
        let rows = match read {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => return self.fail("users not read", &error.to_string()),
            Err(_) => return self.fail("users not read", "no answer in time"),
        };
        let mut found: HashMap<UserId, Record> =
            rows.into_iter().map(|row| (row.user.clone(), record(row))).collect();
        let record = |user: &UserId| found.remove(user).unwrap_or_else(|| Record::unknown(user.clone()));
        Some(users.iter().map(record).collect())
    }

    fn fail<T>(&self, what: &'static str, error: &str) -> Option<T> {
        *self.away_until.lock() = Some(Instant::now() + Duration::from_millis(LOAD_PAUSE_MS));
        metrics::STORE_FAILURES.inc();
        tracing::warn!(error, "{what}");
        None
    }

    /// Writes rows; `false` if it is unknown whether they were written.
    pub async fn save(&self, records: Vec<Record>) -> bool {
        let count = records.len() as u64;
        let rows = records.into_iter().map(row).collect();
        match timeout(Duration::from_millis(SAVE_TIMEOUT_MS), self.store.put(rows)).await {
            Ok(Ok(())) => {
                metrics::ROWS_WRITTEN.inc_by(count);
                true
            }
            Ok(Err(error)) => self.fail::<()>("users not written", &error.to_string()).is_some(),
            Err(_) => self.fail::<()>("users not written", "no answer in time").is_some(),
        }
    }
}

fn record(row: UserRow) -> Record {
    let UserRow { user, name, email, role, picture, last_seen_ms, updated_ms: _ } = row;
    Record { user, profile: wire::Profile { user: String::new(), name, email, role, picture }, last_seen_ms }
}

#[expect(clippy::disallowed_methods, reason = "the time of the update is stored")]
fn row(record: Record) -> UserRow {
    let wire::Profile { name, email, role, picture, .. } = record.profile;
    let (user, last_seen_ms) = (record.user, record.last_seen_ms);
    UserRow { user, name, email, role, picture, last_seen_ms, updated_ms: carillon_runtime::time::wall_ms() }
}
