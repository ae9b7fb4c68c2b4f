//! Suspensions in CQL: one row for each conversation. Each write replaces the whole row.

use super::{ScyllaStore, failed};
use crate::limits::SUSPENSION_KEPT_DAYS;
use crate::store::{StoreError, Suspension};
use carillon_proto::id::ConversationId;
use carillon_proto::position::Position;

/// The columns of a select: conversation, `from`, `until`, reason.
type Stored = (String, i32, i64, i32, Option<i32>, Option<i64>, Option<i32>, Option<String>);

impl ScyllaStore {
    pub(super) async fn write_suspension(
        &self,
        partition: u32,
        suspension: &Suspension,
        timestamp_us: i64,
    ) -> Result<(), StoreError> {
        let Suspension { conversation, from, until, reason } = suspension;
        let ttl_s = if until.is_some() { SUSPENSION_KEPT_DAYS * 24 * 3_600 } else { 0 };
        let values = (
            partition as i32,
            conversation.as_str(),
            from.incarnation as i32,
            from.sequence as i64,
            from.index as i32,
            until.map(|at| at.incarnation as i32),
            until.map(|at| at.sequence as i64),
            until.map(|at| at.index as i32),
            reason.as_str(),
            timestamp_us,
            ttl_s,
        );
        self.write(&self.statements.insert_suspension, values).await
    }

    pub(super) async fn read_suspensions(&self, partition: u32) -> Result<Vec<Suspension>, StoreError> {
        let rows = self.select(&self.statements.suspensions, (partition as i32,)).await?;
        let rows = rows.rows::<Stored>().map_err(|error| failed(&error))?;
        rows.map(|row| row.map_err(|error| failed(&error)).and_then(of_stored)).collect()
    }
}

fn of_stored(stored: Stored) -> Result<Suspension, StoreError> {
    let (conversation, incarnation, sequence, index, until_incarnation, until_sequence, until_index, reason) =
        stored;
    let position = |incarnation: i32, sequence: i64, index: i32| Position {
        incarnation: incarnation as u32,
        sequence: sequence as u64,
        index: index as u32,
    };
    let until = until_incarnation.zip(until_sequence).zip(until_index);
    Ok(Suspension {
        conversation: ConversationId::parse(&conversation).map_err(|error| failed(&error))?,
        from: position(incarnation, sequence, index),
        until: until.map(|((incarnation, sequence), index)| position(incarnation, sequence, index)),
        reason: reason.unwrap_or_default(),
    })
}
