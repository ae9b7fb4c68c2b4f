//! The rows that are newer than the table: the rows of up to two journal generations, in memory. No I/O.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;

use super::row;

/// A key, and its value with the highest timestamp.
pub(super) type Row = (Bytes, Bytes);

/// The rows of one generation.
#[derive(Default)]
pub(super) struct Generation {
    /// The number of the journal generation that holds these rows. Earlier generations are in the table already.
    pub(super) number: u64,
    /// After this generation no journal is in use, until the next generation begins.
    pub(super) last: bool,
    rows: BTreeMap<Bytes, Bytes>,
    /// Bytes of all rows ever put. Replaced rows count too: they share buffers with rows that are still used, so their
    /// memory may not be free.
    bytes: usize,
}

impl Generation {
    /// An empty generation, after which no journal is in use until the next one begins.
    pub(super) fn last(number: u64) -> Generation {
        Generation { number, last: true, ..Generation::default() }
    }

    /// Puts every row of a buffer. Of two values for one key the higher timestamp wins; with equal timestamps the later
    /// put wins.
    pub(super) fn put_all(&mut self, buffer: &Bytes) {
        self.bytes += buffer.len();
        for (key, value) in row::rows_of(buffer.clone()) {
            put(&mut self.rows, key, value);
        }
    }

    /// Puts one row, by the same rule as [`Generation::put_all`].
    pub(super) fn put_row(&mut self, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        put(&mut self.rows, key, value);
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.rows.get(key).cloned()
    }

    /// Reads the rows in a range, in ascending order.
    pub(super) fn range(&self, range: &Range<Vec<u8>>) -> Vec<Row> {
        let rows = self.rows.range::<[u8], _>(bounds(range));
        rows.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All rows, in ascending order of their keys.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.rows.iter()
    }
}

fn put(rows: &mut BTreeMap<Bytes, Bytes>, key: Bytes, value: Bytes) {
    match rows.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(value);
        }
        Entry::Occupied(mut entry) => {
            if row::timestamp_us(&value) >= row::timestamp_us(entry.get()) {
                entry.insert(value);
            }
        }
    }
}

/// The generation that is being written, and the generation that is being moved into the table.
#[derive(Default)]
pub(super) struct Overlay {
    pub(super) active: Generation,
    pub(super) frozen: Option<Arc<Generation>>,
}

impl Overlay {
    /// Whether all rows are in the table.
    pub(super) fn is_empty(&self) -> bool {
        self.frozen.is_none() && self.active.is_empty()
    }

    /// Reads the newest value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<Bytes> {
        let active = self.active.rows.get(key);
        let frozen = self.frozen.as_ref().and_then(|frozen| frozen.rows.get(key));
        [frozen, active].into_iter().flatten().max_by_key(|value| row::timestamp_us(value)).cloned()
    }

    /// Reads rows in a range, in ascending order. The result has at least the first `at_most` rows of the range
    /// (`backward`: the last).
    pub(super) fn rows(&self, range: &Range<Vec<u8>>, backward: bool, at_most: usize) -> Vec<Row> {
        let mut rows = BTreeMap::new();
        let generations = self.frozen.iter().map(|frozen| &**frozen).chain([&self.active]);
        for generation in generations {
            let found = generation.rows.range::<[u8], _>(bounds(range));
            let pick = |(key, value): (&Bytes, &Bytes)| put(&mut rows, key.clone(), value.clone());
            if backward {
                found.rev().take(at_most).for_each(pick);
            } else {
                found.take(at_most).for_each(pick);
            }
        }
        rows.into_iter().collect()
    }
}

/// A range whose end is below its start is empty. Without this, `BTreeMap::range` would panic.
fn bounds(range: &Range<Vec<u8>>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(&range.start), Bound::Excluded((&range.end).max(&range.start)))
}
