//! The store of users: profiles from tokens, and when each user was last seen.
//!
//! Two implementations keep the promises written here, [`embedded`] on redb and [`scylla`] on CQL;
//! `tests/tests/store_contract.rs` holds both to them.

use async_trait::async_trait;
use carillon_proto::id::UserId;
use carillon_proto::partition::stable_hash;

pub mod embedded;
pub mod scylla;

/// Something went wrong. Of a write, the outcome is unknown: the same write again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("store of users: {0}")]
pub struct StoreError(pub String);

/// What is known of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// The user.
    pub user: UserId,
    /// How they are shown.
    pub name: String,
    /// Their address, if their token said it.
    pub email: String,
    /// Their role, if their token said it.
    pub role: String,
    /// Their picture's address, if their token said it.
    pub picture: String,
    /// When their last session ended, milliseconds since 1970; 0: never seen.
    pub last_seen_ms: u64,
    /// When this was so, milliseconds since 1970: of two rows the later wins, whatever the order of writing.
    pub updated_ms: u64,
}

impl UserRow {
    /// The write timestamp: the time, and below a millisecond a hash of the row, so that of two rows of the same
    /// millisecond one wins whole instead of each with some of its cells.
    fn timestamp_us(&self) -> i64 {
        let UserRow { user: _, name, email, role, picture, last_seen_ms, updated_ms } = self;
        let content = [name.as_str(), email, role, picture].join("\0");
        let hash = stable_hash(&content) ^ *last_seen_ms;
        (*updated_ms as i64).saturating_mul(1_000).saturating_add((hash % 1_000) as i64)
    }
}

/// The store of users. The last write wins, by the rows' own time.
#[async_trait]
pub trait UserStore: Send + Sync + 'static {
    /// Writes rows, whole.
    ///
    /// # Errors
    /// Outcome unknown: write the same again.
    async fn put(&self, rows: Vec<UserRow>) -> Result<(), StoreError>;

    /// The rows of those users who have one, in no order.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn get(&self, users: &[UserId]) -> Result<Vec<UserRow>, StoreError>;

    /// Whether the store can be used now, for readiness probes.
    async fn healthy(&self) -> bool;
}
