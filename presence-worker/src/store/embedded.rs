//! The embedded store of users: a redb table in the data directory, with one durable transaction per put.
//!
//! Puts are rare and carry many rows, because presence collects them. So this needs neither a queue nor a journal.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use carillon_proto::id::UserId;
use parking_lot::RwLock;
use prost::Message;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::{StoreError, UserRow, UserStore};

const FILE: &str = "presence.redb";
const USERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("users");
/// A small cache: users are read rarely, because the presence of online users is in memory.
const CACHE_BYTES: usize = 512 * 1024;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the directory.
    #[error("data directory {} is in use by another carillon (stop it, or give another with --data-dir)", .dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The file system refused, or the file is damaged.
    #[error("{} cannot be opened: {reason}", .path.display())]
    Refused {
        /// The directory or file.
        path: PathBuf,
        /// The error's text.
        reason: String,
    },
}

/// A user's row as stored in the table.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    email: String,
    #[prost(string, tag = "3")]
    role: String,
    #[prost(string, tag = "4")]
    picture: String,
    #[prost(uint64, tag = "5")]
    last_seen_ms: u64,
    #[prost(uint64, tag = "6")]
    updated_ms: u64,
}

/// The store of users in a file of the data directory, which only one process may use at a time.
pub struct EmbeddedUserStore(Arc<Users>);

struct Users {
    path: PathBuf,
    /// `None` after a failure, such as a full disk. redb does nothing more then, so the file is opened again.
    database: RwLock<Option<Database>>,
}

fn wrong(error: impl std::fmt::Display) -> StoreError {
    StoreError(error.to_string())
}

impl EmbeddedUserStore {
    /// Opens the store in `dir`, or creates it.
    ///
    /// # Errors
    /// When the file cannot be used, or another process uses it.
    pub fn open(dir: &Path) -> Result<Arc<EmbeddedUserStore>, OpenError> {
        let refused = |path: &Path, reason: String| OpenError::Refused { path: path.to_owned(), reason };
        std::fs::create_dir_all(dir).map_err(|error| refused(dir, error.to_string()))?;
        let path = dir.join(FILE);
        let database = open_database(&path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { dir: dir.to_owned() },
            error => refused(&path, error.to_string()),
        })?;
        Ok(Arc::new(EmbeddedUserStore(Arc::new(Users { path, database: RwLock::new(Some(database)) }))))
    }

    /// Runs `work` on a thread that may block on the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Users) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let users = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&users)).await.map_err(wrong)?
    }
}

fn open_database(path: &Path) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path)
}

impl Users {
    /// Runs `work`, and first opens the file again if the last call failed.
    fn with_database<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.database.read().is_none() {
            let mut database = self.database.write();
            if database.is_none() {
                *database = Some(open_database(&self.path).map_err(wrong)?);
            }
        }
        let outcome = match &*self.database.read() {
            Some(database) => work(database),
            None => Err(StoreError("failed a moment ago".into())),
        };
        if outcome.is_err() {
            *self.database.write() = None;
        }
        outcome
    }
}

fn put(database: &Database, rows: Vec<UserRow>) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(wrong)?;
    {
        let mut users = transaction.open_table(USERS).map_err(wrong)?;
        for row in rows {
            let stored = users.get(row.user.as_str()).map_err(wrong)?;
            let stored = stored.and_then(|value| read(&row.user, value.value()));
            if stored.is_none_or(|stored| stored.timestamp_us() <= row.timestamp_us()) {
                let UserRow { user, name, email, role, picture, last_seen_ms, updated_ms } = row;
                let value = Stored { name, email, role, picture, last_seen_ms, updated_ms }.encode_to_vec();
                users.insert(user.as_str(), value.as_slice()).map_err(wrong)?;
            }
        }
    }
    transaction.commit().map_err(wrong)
}

fn get(database: &Database, users: &[UserId]) -> Result<Vec<UserRow>, StoreError> {
    let transaction = database.begin_read().map_err(wrong)?;
    let table = match transaction.open_table(USERS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table.map_err(wrong)?,
    };
    let mut rows = Vec::new();
    for user in users {
        let stored = table.get(user.as_str()).map_err(wrong)?;
        rows.extend(stored.and_then(|value| read(user, value.value())));
    }
    Ok(rows)
}

/// Decodes a row. A damaged row counts as absent, because the user's next token restores the profile.
fn read(user: &UserId, value: &[u8]) -> Option<UserRow> {
    let Stored { name, email, role, picture, last_seen_ms, updated_ms } = Stored::decode(value).ok()?;
    Some(UserRow { user: user.clone(), name, email, role, picture, last_seen_ms, updated_ms })
}

#[async_trait]
impl UserStore for EmbeddedUserStore {
    async fn put(&self, rows: Vec<UserRow>) -> Result<(), StoreError> {
        self.blocking(move |users| users.with_database(|database| put(database, rows))).await
    }

    async fn get(&self, users: &[UserId]) -> Result<Vec<UserRow>, StoreError> {
        let ids = users.to_vec();
        self.blocking(move |users| users.with_database(|database| get(database, &ids))).await
    }

    async fn healthy(&self) -> bool {
        self.get(&[]).await.is_ok()
    }
}
