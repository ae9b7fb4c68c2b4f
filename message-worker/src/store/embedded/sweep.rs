//! Removes accepted client ids that are never read any more, a few at every flush. Deduplication reads only the newest
//! [`DEDUP_CLIENT_IDS_MAX`] of each sender in a conversation.
//!
//! Ids are removed by their number and not by their age: a clock that was wrong for a moment must not make all ids look
//! old.

use carillon_proto::limits::DEDUP_CLIENT_IDS_MAX;
use redb::{ReadableTable, StorageError};

use super::key::{self, Walked};

/// Minimum steps at a flush. They take about half a millisecond.
const STEPS_MIN: usize = 256;
/// Steps for each client id that came in, so that sweeping keeps up with any load.
const STEPS_PER_SENT: usize = 2;
/// Client ids that must come in after one walk before the next walk begins. So no sender has more than twice as many as
/// are kept.
const REST_ROWS: usize = DEDUP_CLIENT_IDS_MAX;

/// The state of the walk over all conversations.
pub(super) struct Sweep {
    cursor: Vec<u8>,
    /// The key prefix of the sender whose rows are being walked, newest first. `passed` counts the rows walked so far.
    sender: Vec<u8>,
    passed: usize,
    /// Client ids that came in since the last steps.
    sent_rows: usize,
    /// Client ids still to come in before the next walk begins.
    rest_rows: usize,
}

impl Sweep {
    pub(super) fn new() -> Sweep {
        Sweep {
            cursor: key::CONVERSATIONS_START.to_vec(),
            sender: Vec::new(),
            passed: 0,
            sent_rows: 0,
            rest_rows: 0,
        }
    }

    /// Counts a row that comes in, if it is a client id.
    pub(super) fn note(&mut self, key: &[u8]) {
        if key.starts_with(key::CONVERSATIONS_START) && matches!(key::walked(key), Walked::Sent(_)) {
            self.sent_rows += 1;
            self.rest_rows = self.rest_rows.saturating_sub(1);
        }
    }

    /// Starts the walk again. Needed after a failed transaction, because its removals may not have been stored.
    pub(super) fn restart(&mut self) {
        *self = Sweep::new();
    }

    /// Walks a few steps further and returns the keys of rows to remove.
    pub(super) fn expired(
        &mut self,
        rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    ) -> Result<Vec<Vec<u8>>, StorageError> {
        let mut steps = STEPS_MIN.max(STEPS_PER_SENT * std::mem::take(&mut self.sent_rows));
        let mut expired = Vec::new();
        if self.rest_rows > 0 {
            return Ok(expired);
        }
        'leap: while steps > 0 {
            for row in rows.range::<&[u8]>(self.cursor.as_slice()..key::CONVERSATIONS_END)? {
                let (stored_key, _) = row?;
                let stored_key = stored_key.value();
                if steps == 0 {
                    self.cursor = stored_key.to_vec();
                    return Ok(expired);
                }
                steps -= 1;
                match key::walked(stored_key) {
                    Walked::Sent(sender) if self.is_surplus(sender) => expired.push(stored_key.to_vec()),
                    Walked::Sent(_) | Walked::Other => {}
                    Walked::Events(end) => {
                        self.cursor = end;
                        continue 'leap;
                    }
                }
            }
            *self = Sweep { rest_rows: REST_ROWS, ..Sweep::new() };
            return Ok(expired);
        }
        Ok(expired)
    }

    /// Counts the next row of this sender. Returns whether it comes after the rows that are kept.
    fn is_surplus(&mut self, sender: &[u8]) -> bool {
        if self.sender != sender {
            (self.sender, self.passed) = (sender.to_vec(), 0);
        }
        self.passed += 1;
        self.passed > DEDUP_CLIENT_IDS_MAX
    }
}
