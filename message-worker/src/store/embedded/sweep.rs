//! Forgets accepted client ids that nobody can send again, a few at every flush, by log time alone.

use redb::{ReadableTable, StorageError};

use super::key::{self, Walked};

/// Age after which an accepted client id is forgotten: beyond [`carillon_proto::limits::DEDUP_AGE_MAX_MS`], as
/// in the CQL store's table.
const AGE_MAX_MS: u64 = 9 * 24 * 3_600 * 1_000;
const _: () = assert!(AGE_MAX_MS > carillon_proto::limits::DEDUP_AGE_MAX_MS);

/// Steps at a flush at the least: about half a millisecond.
const STEPS_MIN: usize = 256;
/// Steps for each row that came in, so that sweeping keeps up with any load.
const STEPS_PER_SENT: usize = 2;

/// Where the walk over all conversations stands.
pub(super) struct Sweep {
    cursor: Vec<u8>,
    /// The newest log time seen since the process started; 0: none yet, and nothing can be told old.
    newest_ms: u64,
    /// The oldest that this walk has left standing.
    oldest_ms: u64,
    /// No row can be too old before this.
    rest_until_ms: u64,
    /// Rows that came in since the last steps.
    sent_rows: usize,
}

impl Sweep {
    pub(super) fn new() -> Sweep {
        Sweep {
            cursor: key::CONVERSATIONS_START.to_vec(),
            newest_ms: 0,
            oldest_ms: u64::MAX,
            rest_until_ms: 0,
            sent_rows: 0,
        }
    }

    /// Takes note of a row that comes in.
    pub(super) fn note(&mut self, key: &[u8], value: &[u8]) {
        if key.starts_with(key::CONVERSATIONS_START)
            && let (Walked::Sent, Some(time_ms)) = (key::walked(key), key::read_sent_time_ms(value))
        {
            self.newest_ms = self.newest_ms.max(time_ms);
            self.oldest_ms = self.oldest_ms.min(time_ms);
            self.sent_rows += 1;
        }
    }

    /// Starts over, after what it removed may not have been.
    pub(super) fn restart(&mut self) {
        *self = Sweep { newest_ms: self.newest_ms, ..Sweep::new() };
    }

    /// Walks on for a few steps and returns the keys of rows to remove.
    pub(super) fn expired(
        &mut self,
        rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    ) -> Result<Vec<Vec<u8>>, StorageError> {
        let mut steps = STEPS_MIN.max(STEPS_PER_SENT * std::mem::take(&mut self.sent_rows));
        let mut expired = Vec::new();
        let Some(keep_from_ms) = self.newest_ms.checked_sub(AGE_MAX_MS) else { return Ok(expired) };
        if self.newest_ms < self.rest_until_ms {
            return Ok(expired);
        }
        'leap: while steps > 0 {
            for row in rows.range::<&[u8]>(self.cursor.as_slice()..key::CONVERSATIONS_END)? {
                let (stored_key, value) = row?;
                let stored_key = stored_key.value();
                if steps == 0 {
                    self.cursor = stored_key.to_vec();
                    return Ok(expired);
                }
                steps -= 1;
                match key::walked(stored_key) {
                    Walked::Sent => match key::read_sent_time_ms(value.value()) {
                        Some(time_ms) if time_ms >= keep_from_ms => {
                            self.oldest_ms = self.oldest_ms.min(time_ms)
                        }
                        _ => expired.push(stored_key.to_vec()),
                    },
                    Walked::Events(end) => {
                        self.cursor = end;
                        continue 'leap;
                    }
                    Walked::Other => {}
                }
            }
            self.finish_walk();
            return Ok(expired);
        }
        Ok(expired)
    }

    fn finish_walk(&mut self) {
        self.rest_until_ms = self.oldest_ms.saturating_add(AGE_MAX_MS);
        self.oldest_ms = u64::MAX;
        self.cursor = key::CONVERSATIONS_START.to_vec();
    }
}
