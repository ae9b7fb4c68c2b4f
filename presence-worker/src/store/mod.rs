//! The store of users: profiles from tokens, and when each user was last seen.
//!
//! Two implementations keep the promises documented here: [`embedded`] on redb and [`scylla`] on CQL.
//! `tests/tests/contracts/store` runs the same tests against both.

use async_trait::async_trait;
use carillon_proto::id::UserId;
use carillon_proto::partition::stable_hash;

pub mod embedded;
pub mod scylla;

/// A call to the store failed. After a write the outcome is unknown: repeat the same write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("store of users: {0}")]
pub struct StoreError(pub String);

/// The stored data of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// The user's id.
    pub user: UserId,
    /// The name that other users see.
    pub name: String,
    /// The email address from the user's token; empty if it had none.
    pub email: String,
    /// The role from the user's token; empty if it had none.
    pub role: String,
    /// The URL of the picture from the user's token; empty if it had none.
    pub picture: String,
    /// When the user's last session ended, in milliseconds since 1970; 0: the user was never seen.
    pub last_seen_ms: u64,
    /// When this row was current, in milliseconds since 1970. Of two rows the later wins, in whatever order they are
    /// written.
    pub updated_ms: u64,
}

impl UserRow {
    /// The write timestamp: the time, with a hash of the row below the millisecond. Of two rows of the same millisecond
    /// one therefore wins as a whole; equal timestamps would mix their cells.
    fn timestamp_us(&self) -> i64 {
        let UserRow { user: _, name, email, role, picture, last_seen_ms, updated_ms } = self;
        let content = [name.as_str(), email, role, picture].join("\0");
        let hash = stable_hash(&content) ^ *last_seen_ms;
        (*updated_ms as i64).saturating_mul(1_000).saturating_add((hash % 1_000) as i64)
    }
}

/// The store of users. Of two writes, the row with the later time wins.
#[async_trait]
pub trait UserStore: Send + Sync + 'static {
    /// Writes whole rows.
    ///
    /// # Errors
    /// The outcome is unknown: repeat the same write.
    async fn put(&self, rows: Vec<UserRow>) -> Result<(), StoreError>;

    /// Reads the rows of users, in no particular order. Users without a row are left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn get(&self, users: &[UserId]) -> Result<Vec<UserRow>, StoreError>;

    /// Whether the store can be used now, for readiness probes.
    async fn healthy(&self) -> bool;
}
