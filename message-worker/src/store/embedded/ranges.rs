//! Ranges of keys, and a scan for the ids under a prefix.

use super::key;
use super::row;
use super::shared::Shared;
use crate::store::StoreError;
use std::ops::Range;

/// The range of all keys that start with `prefix`.
pub(super) fn starting_with(prefix: Vec<u8>) -> Range<Vec<u8>> {
    let end = key::above(&prefix);
    prefix..end
}

/// Reads the ids that end the keys under `prefix`, above `cursor`, at most `limit`. Only rows that are marked as
/// present count.
pub(super) fn present<T>(
    shared: &Shared,
    prefix: Vec<u8>,
    cursor: Option<&str>,
    limit: usize,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, StoreError> {
    let mut range = starting_with(prefix.clone());
    if let Some(cursor) = cursor {
        range.start.extend_from_slice(cursor.as_bytes());
        range.start.push(0);
    }
    let mut ids = Vec::new();
    if limit == 0 {
        return Ok(ids);
    }
    shared.scan(range, false, usize::MAX, |key, value| {
        if row::read_present(value) {
            ids.extend(std::str::from_utf8(&key[prefix.len()..]).ok().and_then(&parse));
        }
        ids.len() < limit
    })?;
    Ok(ids)
}
