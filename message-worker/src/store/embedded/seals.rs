//! Seals in the embedded store. A seal overwrites each row that it does not count with a row that marks the seq as
//! absent.

use std::sync::Arc;

use carillon_proto::id::ConversationId;

use super::key;
use super::row::{self, Rows};
use super::shared::{Shared, closed};
use super::{EmbeddedStore, write};
use crate::store::{EventRow, SEALED_ROWS_MAX, Seal, StoreError};

impl EmbeddedStore {
    /// See [`crate::store::Store::seal`].
    pub(super) async fn seal_rows(
        &self,
        conversation: ConversationId,
        previous: Option<Seal>,
        next: Seal,
        timestamp_us: i64,
    ) -> Result<Seal, StoreError> {
        let (shared, queue_space, sealing) =
            (Arc::clone(&self.shared), Arc::clone(&self.queue_space), Arc::clone(&self.sealing));
        // This runs in its own task: the caller may be cancelled, and the next seal must not be decided before this one
        // is written.
        let decided = tokio::spawn(async move {
            let _turn = sealing.lock().await;
            let stored = shared.get(&key::seal(&conversation))?.as_deref().and_then(row::read_seal);
            if let Some(in_force) = stored
                && Some(in_force) != previous
            {
                return Ok(in_force);
            }
            // All rows are in one journal record, so a seal is never stored without the rows that it makes void.
            write(&shared, &queue_space, rows(&conversation, next, timestamp_us).into_bytes())
                .await
                .map(|()| next)
        });
        decided.await.unwrap_or_else(|_| Err(closed()))
    }
}

fn rows(conversation: &ConversationId, seal: Seal, timestamp_us: i64) -> Rows {
    let mut rows = Rows::default();
    rows.put_seal(conversation, &seal);
    if !seal.created {
        rows.put_no_event(conversation, 0, timestamp_us);
    }
    for seq in seal.seq + 1..=seal.seq + SEALED_ROWS_MAX {
        rows.put_no_event(conversation, seq, timestamp_us);
    }
    rows
}

/// Reads the newest `limit` rows of a conversation with `1 <= seq < before_seq`, in ascending order.
pub(super) fn newest_events(
    shared: &Shared,
    conversation: &ConversationId,
    before_seq: u64,
    limit: usize,
) -> Result<Vec<EventRow>, StoreError> {
    let (mut rows, mut below) = (Vec::new(), before_seq);
    loop {
        let range = key::event(conversation, 1)..key::event(conversation, below);
        let (wanted, mut visited) = (limit - rows.len(), 0);
        shared.scan(range, true, wanted, |key, value| {
            visited += 1;
            below = key::read_seq(key).unwrap_or(0);
            rows.extend(row::read_event(conversation, key, value));
            true
        })?;
        // Some of the visited rows may have been marked as absent; then read further down.
        if rows.len() == limit || visited < wanted {
            rows.reverse();
            return Ok(rows);
        }
    }
}
