//! Event rows in CQL. They lie in buckets, and the buckets of a page are computed from its seqs.

use bytes::Bytes;
use carillon_proto::id::{ConversationId, Tag};
use carillon_proto::position::Position;
use carillon_proto::wire;
use futures_util::{StreamExt, TryStreamExt, stream};
use prost::Message;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;

use super::{CONCURRENCY_MAX, ScyllaStore, failed};
use crate::store::{EventRow, StoreError};

/// Rows of a conversation in one database partition. With 10 KB each they are 100 MB, the size at which the databases
/// begin to warn.
pub(super) const BUCKET_ROWS: u64 = 10_000;
/// Maximum rows and bytes of one batch. A batch lies in one database partition, so it is one mutation. Its size must
/// not delay others (ScyllaDB warns above 128 KiB).
const BATCH_ROWS_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Rows requested at once. A row has at most about 50 KiB, usually 1 KiB.
const PAGE_ROWS_MAX: usize = 200;

/// The values of `INSERT INTO events`.
type Insert<'a> = (&'a str, i32, i64, i32, i64, i32, &'a [u8], &'a [u8], i64);
/// The columns of a select of events.
type Selected<'a> = (i64, i32, i64, i32, &'a [u8], &'a [u8], i64);

/// The bucket in which a row lies.
pub(super) fn bucket(seq: u64) -> i32 {
    // No real seq is that high, but a caller that reads from the end passes `u64::MAX`.
    i32::try_from(seq / BUCKET_ROWS).unwrap_or(i32::MAX)
}

/// A seq as CQL's `bigint`.
pub(super) fn bigint(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn first_of(bucket: i32) -> u64 {
    bucket as u64 * BUCKET_ROWS
}

fn insert(row: &EventRow) -> Insert<'_> {
    let Position { incarnation, sequence, index } = row.position;
    let place = (row.conversation.as_str(), bucket(row.seq), row.seq as i64);
    let position = (incarnation as i32, sequence as i64, index as i32);
    let (conversation, bucket, seq) = place;
    (conversation, bucket, seq, position.0, position.1, position.2, &row.tag.0, &row.blob, row.timestamp_us)
}

fn event_row(conversation: &ConversationId, selected: Selected<'_>) -> Result<EventRow, StoreError> {
    let (seq, incarnation, sequence, index, tag, blob, timestamp_us) = selected;
    let tag =
        tag.try_into().map_err(|_| StoreError(format!("the tag of {conversation} {seq} is cut off")))?;
    Ok(EventRow {
        conversation: conversation.clone(),
        seq: seq as u64,
        position: Position {
            incarnation: incarnation as u32,
            sequence: sequence as u64,
            index: index as u32,
        },
        tag: Tag(tag),
        timestamp_us,
        // Copied, so that one row in memory does not keep the whole response in memory.
        blob: Bytes::copy_from_slice(blob),
    })
}

/// Splits rows into batches: consecutive rows of one database partition, within the bounds.
fn batches(rows: Vec<EventRow>) -> Vec<Vec<EventRow>> {
    let mut batches: Vec<Vec<EventRow>> = Vec::new();
    let mut bytes = 0;
    for row in rows {
        bytes += row.blob.len();
        match batches.last_mut() {
            Some(batch) if bytes <= BATCH_BYTES_MAX && belongs(batch, &row) => batch.push(row),
            _ => {
                bytes = row.blob.len();
                batches.push(vec![row]);
            }
        }
    }
    batches
}

/// Whether the row lies in the batch's database partition, and the batch has room for it.
fn belongs(batch: &[EventRow], row: &EventRow) -> bool {
    let together =
        |first: &EventRow| first.conversation == row.conversation && bucket(first.seq) == bucket(row.seq);
    batch.len() < BATCH_ROWS_MAX && batch.first().is_some_and(together)
}

impl ScyllaStore {
    pub(super) async fn append_rows(&self, rows: Vec<EventRow>) -> Result<(), StoreError> {
        let writes = batches(rows).into_iter().map(|batch| self.append_batch(batch));
        stream::iter(writes).buffer_unordered(CONCURRENCY_MAX).try_collect::<()>().await
    }

    async fn append_batch(&self, rows: Vec<EventRow>) -> Result<(), StoreError> {
        if let [row] = &rows[..] {
            return self.write(&self.statements.insert_event, insert(row)).await;
        }
        let statements = rows.iter().map(|_| self.statements.insert_event.clone().into()).collect();
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        batch.set_is_idempotent(true);
        let values: Vec<_> = rows.iter().map(insert).collect();
        self.session.batch(&batch, values).await.map(|_| ()).map_err(|error| failed(&error))
    }

    pub(super) async fn select_events(
        &self,
        conversation: &ConversationId,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Vec<EventRow>, StoreError> {
        let result = self.session.execute_unpaged(statement, values).await.map_err(|error| failed(&error))?;
        let rows = result.into_rows_result().map_err(|error| failed(&error))?;
        let rows = rows.rows::<Selected<'_>>().map_err(|error| failed(&error))?;
        rows.map(|row| event_row(conversation, row.map_err(|error| failed(&error))?)).collect()
    }

    /// See [`crate::store::Store::events_after`].
    pub(super) async fn rows_after(
        &self,
        conversation: &ConversationId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        let mut rows: Vec<EventRow> = Vec::new();
        let mut expected = after_seq.saturating_add(1);
        while rows.len() < limit {
            let wanted = (limit - rows.len()).min(PAGE_ROWS_MAX);
            let values = (conversation.as_str(), bucket(expected), bigint(expected), wanted as i32);
            let page = self.select_events(conversation, &self.statements.events_from, values).await?;
            let bucket_end = (expected / BUCKET_ROWS + 1).saturating_mul(BUCKET_ROWS);
            let found = page.len();
            for row in page {
                if row.seq != expected {
                    return Ok(rows);
                }
                rows.push(row);
                expected += 1;
            }
            // There are no more rows if the page is empty, or if it is short and ends before the bucket does.
            if found == 0 || (found < wanted && expected < bucket_end) {
                break;
            }
        }
        Ok(rows)
    }

    /// See [`crate::store::Store::events_before`].
    pub(super) async fn rows_before(
        &self,
        conversation: &ConversationId,
        before_seq: u64,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError> {
        let mut rows: Vec<EventRow> = Vec::new();
        let mut below = before_seq;
        let mut at_the_end = false;
        while rows.len() < limit && below > 1 {
            let wanted = (limit - rows.len()).min(PAGE_ROWS_MAX);
            let bucket = bucket(below - 1);
            let values = (
                conversation.as_str(),
                bucket,
                bigint(first_of(bucket).max(1)),
                bigint(below),
                wanted as i32,
            );
            let page = self.select_events(conversation, &self.statements.events_below, values).await?;
            below = match page.last() {
                Some(lowest) if page.len() == wanted => lowest.seq,
                Some(_) => first_of(bucket),
                // Far above the head any number of buckets may be empty. Skip them, once.
                None if rows.is_empty() && !at_the_end => {
                    at_the_end = true;
                    first_of(self.last_bucket(conversation, bucket).await? + 1).min(first_of(bucket))
                }
                None => first_of(bucket),
            };
            rows.extend(page);
        }
        rows.reverse();
        Ok(rows)
    }

    /// Finds the last bucket below `above` that has rows. The search starts at the bucket of the stored head's seq and
    /// assumes that no empty bucket lies between two that have rows.
    async fn last_bucket(&self, conversation: &ConversationId, above: i32) -> Result<i32, StoreError> {
        let head = self.read_head(conversation).await?;
        let hint = head.and_then(|blob| wire::Head::decode(blob).ok()).map_or(0, |head| head.seq);
        let mut last = bucket(hint);
        // `empty` is the lowest bucket known to be empty. The step doubles while buckets have rows, and is 1 again
        // after an empty bucket.
        let (mut empty, mut step) = (above, 1);
        while last + step < empty {
            if self.has_rows(conversation, last + step).await? {
                last += step;
                step = step.saturating_mul(2);
            } else {
                empty = last + step;
                step = 1;
            }
        }
        Ok(last)
    }

    async fn has_rows(&self, conversation: &ConversationId, bucket: i32) -> Result<bool, StoreError> {
        let values = (conversation.as_str(), bucket);
        let result = self.session.execute_unpaged(&self.statements.any_event, values).await;
        let rows =
            result.map_err(|error| failed(&error))?.into_rows_result().map_err(|error| failed(&error))?;
        Ok(rows.rows_num() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(conversation: &str, seq: u64, bytes: usize) -> EventRow {
        EventRow {
            conversation: ConversationId::parse(conversation).expect("an id"),
            seq,
            position: Position::default(),
            tag: Tag([0; 16]),
            timestamp_us: 0,
            blob: vec![0; bytes].into(),
        }
    }

    #[test]
    fn a_batch_is_in_one_database_partition_and_within_its_bounds() {
        let shape =
            |rows: &[EventRow]| batches(rows.to_vec()).iter().map(|batch| batch.len()).collect::<Vec<_>>();
        assert_eq!(shape(&[]), Vec::<usize>::new());
        assert_eq!(shape(&[row("a", 1, 1), row("a", 2, 1), row("b", 1, 1), row("a", 3, 1)]), [2, 1, 1]);
        assert_eq!(shape(&[row("a", 9_998, 1), row("a", 9_999, 1), row("a", 10_000, 1)]), [2, 1]);
        let many: Vec<_> = (1..=150).map(|seq| row("a", seq, 1)).collect();
        assert_eq!(shape(&many), [64, 64, 22]);
        let large: Vec<_> = (1..=4).map(|seq| row("a", seq, 30 * 1024)).collect();
        assert_eq!(shape(&large), [2, 2]);
        assert_eq!(shape(&[row("a", 1, 100 * 1024), row("a", 2, 1)]), [1, 1]);
    }
}
