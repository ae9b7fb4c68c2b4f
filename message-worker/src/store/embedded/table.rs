//! The table on disk, in redb: what the journal is emptied into, and what reads find besides the overlay.
//!
//! redb refuses everything after an I/O error (a full disk is one), so the database is then opened anew,
//! here, while the process lives on. Commits save redb's allocator state, so that opening after kill -9
//! takes no longer than after a clean end, however large the file has grown.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::RwLock;
use redb::{Database, DatabaseError, TableDefinition, TableError};

use super::OpenError;
use super::journal::Mark;
use super::key;
use super::overlay::{Generation, Row};
use super::sweep::Sweep;
use crate::store::StoreError;

/// What the file is called.
pub(super) const FILE: &str = "messages.redb";
const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
/// What the file is, and how far the journal has been carried over.
const FORMAT: TableDefinition<&str, u64> = TableDefinition::new("format");
/// The format of the rows. A file without a number is of this one, too: it was written before there were numbers.
const VERSION: u64 = 1;

const VERSION_KEY: &str = "version";
const STORE_KEY: &str = "store";
const CARRIED_KEY: &str = "journal-carried";
const IN_USE_KEY: &str = "journal-in-use";

/// Pages kept in memory: the upper levels of the tree. Recent rows are in the overlay, and the kernel caches the file as
/// well, and gives its cache back when memory is short, which this one never does.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// The table, opened anew when it has failed.
pub(super) struct Table {
    path: PathBuf,
    /// `None` from a failure until it could be opened again, and after closing.
    database: RwLock<Option<Database>>,
}

/// Anything that redb complains of, in words.
fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError(error.into().to_string())
}

impl Table {
    /// Opens the file, or makes it, and gives it a number and a format if it has none.
    pub(super) fn open(dir: &Path) -> Result<Table, OpenError> {
        let path = dir.join(FILE);
        let refused = |reason: String| OpenError::Table { path: path.clone(), reason };
        let database = open_database(&path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { dir: dir.to_owned() },
            error => refused(error.to_string()),
        })?;
        let version = identify(&database).map_err(|error| refused(error.0))?;
        if version != VERSION {
            return Err(OpenError::Version { path, version, known: VERSION });
        }
        Ok(Table { path, database: RwLock::new(Some(database)) })
    }

    /// What is known of the journal.
    pub(super) fn mark(&self) -> Result<Mark, StoreError> {
        let database = self.database.read();
        let Some(database) = &*database else { return Err(StoreError("closed".into())) };
        let transaction = redb::ReadableDatabase::begin_read(database).map_err(failed)?;
        let format = transaction.open_table(FORMAT).map_err(failed)?;
        let number =
            |key| Ok::<_, StoreError>(format.get(key).map_err(failed)?.map_or(0, |number| number.value()));
        Ok(Mark {
            store: number(STORE_KEY)?,
            carried: number(CARRIED_KEY)?,
            in_use: number(IN_USE_KEY)? != 0,
        })
    }

    /// Takes note that the generation after those that were carried over has begun, or that none has.
    pub(super) fn journal_in_use(&self, in_use: bool) -> Result<(), StoreError> {
        let database = self.database.read();
        let Some(database) = &*database else { return Err(StoreError("closed".into())) };
        let transaction = begin_write(database)?;
        {
            let mut format = transaction.open_table(FORMAT).map_err(failed)?;
            format.insert(IN_USE_KEY, u64::from(in_use)).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.with_rows(|rows| {
            let value = rows.get(key).map_err(failed)?;
            Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
        })
        .map(Option::flatten)
    }

    /// Merges the rows in `range` with `newer`, which is sorted ascending, and shows each to `visit` until it
    /// says that this was enough. `backward`: descending.
    pub(super) fn merge(
        &self,
        range: &Range<Vec<u8>>,
        backward: bool,
        newer: Vec<Row>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let mut newer = newer.into_iter();
        let mut next_newer = move || if backward { newer.next_back() } else { newer.next() };
        let mut pending = next_newer();
        let before = |a: &[u8], b: &[u8]| if backward { a > b } else { a < b };
        let finished = self.with_rows(|rows| {
            let mut found =
                rows.range::<&[u8]>(range.start.as_slice()..range.end.as_slice()).map_err(failed)?;
            while let Some(row) = if backward { found.next_back() } else { found.next() } {
                let (stored_key, stored_value) = row.map_err(failed)?;
                let (stored_key, stored_value) = (stored_key.value(), stored_value.value());
                let mut shadowed = false;
                while let Some((key, value)) = pending.take_if(|(key, _)| !before(stored_key, key)) {
                    let same = key == stored_key;
                    shadowed |= same && key::timestamp_us(&value) >= key::timestamp_us(stored_value);
                    if (!same || shadowed) && !visit(&key, &value) {
                        return Ok(true);
                    }
                    pending = next_newer();
                }
                if !shadowed && !visit(stored_key, stored_value) {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        if finished == Some(true) {
            return Ok(());
        }
        while let Some((key, value)) = pending {
            if !visit(&key, &value) {
                break;
            }
            pending = next_newer();
        }
        Ok(())
    }

    /// Takes in a generation, in one durable transaction, marks it as carried over, and sweeps a little. After an error nothing of it is
    /// in the table, or all.
    pub(super) fn take_in(&self, generation: &Generation, sweep: &mut Sweep) -> Result<(), StoreError> {
        self.reopen_if_closed()?;
        let outcome = match &*self.database.read() {
            Some(database) => write(database, generation, sweep),
            None => Err(StoreError("closed".into())),
        };
        if outcome.is_err() {
            // What was read with this handle is done: reads hold the lock as long as they last.
            *self.database.write() = None;
            sweep.restart();
        }
        outcome
    }

    /// Opens the table anew after a failure, so that reads work even while writes still fail.
    pub(super) fn reopen_if_closed(&self) -> Result<(), StoreError> {
        let mut database = self.database.write();
        if database.is_none() {
            *database = Some(open_database(&self.path).map_err(failed)?);
        }
        Ok(())
    }

    /// Closes the file, for good.
    pub(super) fn close(&self) {
        *self.database.write() = None;
    }

    /// Runs `read` on the rows as of now; `None` if none were ever written.
    fn with_rows<T>(
        &self,
        read: impl FnOnce(&redb::ReadOnlyTable<&'static [u8], &'static [u8]>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let database = self.database.read();
        let Some(database) = &*database else {
            return Err(StoreError(format!("{} is being opened again after a failure", self.path.display())));
        };
        let transaction = redb::ReadableDatabase::begin_read(database).map_err(failed)?;
        match transaction.open_table(ROWS) {
            Ok(rows) => read(&rows).map(Some),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}

fn open_database(path: &Path) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path)
}

fn begin_write(database: &Database) -> Result<redb::WriteTransaction, StoreError> {
    let mut transaction = database.begin_write().map_err(failed)?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// The file's format; one that has none yet gets one, and the number by which its journal knows it.
fn identify(database: &Database) -> Result<u64, StoreError> {
    let transaction = begin_write(database)?;
    let version = {
        let mut format = transaction.open_table(FORMAT).map_err(failed)?;
        let version =
            redb::ReadableTable::get(&format, VERSION_KEY).map_err(failed)?.map(|version| version.value());
        if version.is_none() {
            format.insert(VERSION_KEY, VERSION).map_err(failed)?;
            format.insert(STORE_KEY, uuid::Uuid::new_v4().as_u64_pair().0).map_err(failed)?;
        }
        version
    };
    match version {
        Some(version) => transaction.abort().map_err(failed).map(|()| version),
        None => transaction.commit().map_err(failed).map(|()| VERSION),
    }
}

fn write(database: &Database, generation: &Generation, sweep: &mut Sweep) -> Result<(), StoreError> {
    let transaction = begin_write(database)?;
    {
        let mut format = transaction.open_table(FORMAT).map_err(failed)?;
        format.insert(CARRIED_KEY, generation.number).map_err(failed)?;
        if generation.last {
            format.insert(IN_USE_KEY, 0).map_err(failed)?;
        }
        let mut rows = transaction.open_table(ROWS).map_err(failed)?;
        for (key, value) in generation.rows() {
            sweep.note(key);
            // One descent in the usual case: only a row that turns out to be the older one is put back.
            let newer = match rows.insert(&**key, &**value).map_err(failed)? {
                Some(old) if key::timestamp_us(old.value()) > key::timestamp_us(value) => {
                    Some(old.value().to_vec())
                }
                _ => None,
            };
            if let Some(newer) = newer {
                rows.insert(&**key, newer.as_slice()).map_err(failed)?;
            }
        }
        for key in sweep.expired(&rows).map_err(failed)? {
            rows.remove(key.as_slice()).map_err(failed)?;
        }
    }
    transaction.commit().map_err(failed)
}
