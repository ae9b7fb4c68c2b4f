//! The store of users on ScyllaDB, in CQL that Apache Cassandra 5 accepts too.

use std::sync::Arc;

use async_trait::async_trait;
use carillon_proto::id::UserId;
use carillon_runtime::cluster::Mark;
use carillon_runtime::database::{self, DatabaseConfig, DatabaseError, connect, one_line, prepare};
use futures_util::{StreamExt, TryStreamExt, stream};
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;

use super::{StoreError, UserRow, UserStore};

/// Statements of one call that run at once. Each user is a partition, so the statements are separate.
const CONCURRENCY_MAX: usize = 32;

const PUT: &str = "INSERT INTO users (id, name, email, role, picture, last_seen_ms, updated_ms) \
                   VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
const GET: &str = "SELECT name, email, role, picture, last_seen_ms, updated_ms FROM users WHERE id = ?";

/// The columns that `GET` selects.
type Selected = (String, String, String, String, i64, i64);

/// The store of users in a keyspace.
pub struct ScyllaUserStore {
    session: Arc<Session>,
    put: PreparedStatement,
    get: PreparedStatement,
}

fn failed(error: &impl std::fmt::Display) -> StoreError {
    StoreError(one_line(error))
}

impl ScyllaUserStore {
    /// Connects to the keyspace, whose schema `carillon migrate` has created.
    ///
    /// # Errors
    /// When no node replies, or the schema does not exist.
    pub async fn connect(config: &DatabaseConfig) -> Result<Arc<ScyllaUserStore>, DatabaseError> {
        let session = connect(&config.nodes, &config.keyspace).await?;
        let (put, get) = (prepare(&session, PUT).await?, prepare(&session, GET).await?);
        Ok(Arc::new(ScyllaUserStore { session, put, get }))
    }

    /// The cluster mark of the database; `None` before the cluster's first message-worker has written it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn mark(&self) -> Result<Option<Mark>, DatabaseError> {
        database::mark(&self.session).await
    }

    async fn put_one(&self, row: UserRow) -> Result<(), StoreError> {
        let timestamp_us = row.timestamp_us();
        let UserRow { user, name, email, role, picture, last_seen_ms, updated_ms } = row;
        let times = (last_seen_ms as i64, updated_ms as i64);
        let values = (user.as_str(), name, email, role, picture, times.0, times.1, timestamp_us);
        self.session.execute_unpaged(&self.put, values).await.map(|_| ()).map_err(|error| failed(&error))
    }

    async fn get_one(&self, user: UserId) -> Result<Option<UserRow>, StoreError> {
        let result = self.session.execute_unpaged(&self.get, (user.as_str(),)).await;
        let rows =
            result.map_err(|error| failed(&error))?.into_rows_result().map_err(|error| failed(&error))?;
        let row = rows.maybe_first_row::<Selected>().map_err(|error| failed(&error))?;
        Ok(row.map(|(name, email, role, picture, last_seen_ms, updated_ms)| {
            let (last_seen_ms, updated_ms) = (last_seen_ms as u64, updated_ms as u64);
            UserRow { user, name, email, role, picture, last_seen_ms, updated_ms }
        }))
    }
}

#[async_trait]
impl UserStore for ScyllaUserStore {
    async fn put(&self, rows: Vec<UserRow>) -> Result<(), StoreError> {
        let writes = rows.into_iter().map(|row| self.put_one(row));
        stream::iter(writes).buffer_unordered(CONCURRENCY_MAX).try_collect::<()>().await
    }

    async fn get(&self, users: &[UserId]) -> Result<Vec<UserRow>, StoreError> {
        let reads = users.iter().cloned().map(|user| self.get_one(user));
        let rows: Vec<Option<UserRow>> =
            stream::iter(reads).buffer_unordered(CONCURRENCY_MAX).try_collect().await?;
        Ok(rows.into_iter().flatten().collect())
    }

    async fn healthy(&self) -> bool {
        match UserId::parse("nobody") {
            Ok(user) => self.get_one(user).await.is_ok(),
            Err(_) => false,
        }
    }
}
