//! The table on disk, in redb. The journal is emptied into it, and reads merge its rows with the overlay's.
//!
//! redb rejects every call after an I/O error, such as a full disk. So the database is then reopened here, while the
//! process goes on. Commits save redb's allocator state, so opening after kill -9 takes no longer than after a clean
//! end, however large the file is.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::RwLock;
use redb::{Database, DatabaseError, TableDefinition, TableError};

use super::OpenError;
use super::journal::Mark;
use super::overlay::{Generation, Row};
use super::row;
use super::sweep::Sweep;
use crate::store::StoreError;

/// The name of the file.
pub(super) const FILE: &str = "messages.redb";
const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
/// The file's format, and how far the journal has been moved into the table.
const FORMAT: TableDefinition<&str, u64> = TableDefinition::new("format");
/// The format of the rows. A file without a format number has this format too: it was written before format numbers
/// existed.
const VERSION: u64 = 1;

const VERSION_KEY: &str = "version";
const STORE_KEY: &str = "store";
const CARRIED_KEY: &str = "journal-carried";
const IN_USE_KEY: &str = "journal-in-use";

/// Memory for pages: enough for the upper levels of the tree. Recent rows are in the overlay. The kernel caches the
/// file as well, and unlike this cache its cache shrinks when memory is short.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// The table. It is reopened after a failure.
pub(super) struct Table {
    path: PathBuf,
    /// `None` from a failure until the file is open again, and after closing.
    database: RwLock<Option<Database>>,
}

/// Any error of redb, as a store error.
fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError(error.into().to_string())
}

impl Table {
    /// Opens the file or creates it. A file without a format gets one, and a random store number.
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

    /// Reads what the table has recorded about the journal.
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

    /// Records whether a journal generation follows those that are in the table.
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

    /// Merges the rows in `range` with `newer`, which is in ascending order, and calls `visit` with each row until it
    /// returns false. The order is ascending, or descending if `backward`.
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
                    shadowed |= same && row::timestamp_us(&value) >= row::timestamp_us(stored_value);
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

    /// Writes a generation's rows in one durable transaction, records that the generation is in the table, and sweeps a
    /// little. After an error either all of it is in the table or nothing.
    pub(super) fn take_in(&self, generation: &Generation, sweep: &mut Sweep) -> Result<(), StoreError> {
        self.reopen_if_closed()?;
        let outcome = match &*self.database.read() {
            Some(database) => write(database, generation, sweep),
            None => Err(StoreError("closed".into())),
        };
        if outcome.is_err() {
            // This waits for all reads that use the failed handle, because a read holds the lock until it ends.
            *self.database.write() = None;
            sweep.restart();
        }
        outcome
    }

    /// Reopens the table after a failure, so that reads work even while writes still fail.
    pub(super) fn reopen_if_closed(&self) -> Result<(), StoreError> {
        let mut database = self.database.write();
        if database.is_none() {
            *database = Some(open_database(&self.path).map_err(failed)?);
        }
        Ok(())
    }

    /// Closes the file for good.
    pub(super) fn close(&self) {
        *self.database.write() = None;
    }

    /// Runs `read` on a snapshot of the rows. Returns `None` if no row was ever written.
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

/// Returns the file's format. A file without a format gets the current one, and a random store number by which it and
/// its journal are recognised as belonging together.
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
            // Usually this is the only lookup. If the stored row turns out to be the newer one, it is put back.
            let newer = match rows.insert(&**key, &**value).map_err(failed)? {
                Some(old) if row::timestamp_us(old.value()) > row::timestamp_us(value) => {
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
