//! The cluster mark of a keyspace, stored in one row.

use scylla::client::session::Session;
use scylla::statement::{Consistency, Statement};

use super::{DatabaseError, applied};
use crate::cluster::{ClusterId, Mark};

/// The key of the one row.
const ROW: &str = "cluster";

/// Reads the keyspace's mark; `None` before a process has written it.
///
/// # Errors
/// When the database cannot be read, or the row is invalid.
pub async fn mark(session: &Session) -> Result<Option<Mark>, DatabaseError> {
    let cql = "SELECT id, partitions FROM cluster WHERE name = ?";
    let mut statement = Statement::new(cql);
    // A serial read completes an undecided transaction and returns its result.
    statement.set_consistency(Consistency::Serial);
    let result = session.query_unpaged(statement, (ROW,)).await;
    let rows = result.map_err(|error| DatabaseError::refused(cql, &error))?.into_rows_result();
    let rows = rows.map_err(|error| DatabaseError::refused(cql, &error))?;
    let row = rows.maybe_first_row::<(String, i32)>().map_err(|error| DatabaseError::refused(cql, &error))?;
    let Some((id, partitions)) = row else { return Ok(None) };
    let id = ClusterId::parse(&id).ok_or_else(|| DatabaseError::refused(cql, &"the id is no UUID"))?;
    Ok(Some(Mark { id, partitions: partitions.unsigned_abs() }))
}

/// Writes the mark unless the keyspace has one. Returns the mark that the keyspace has then.
///
/// # Errors
/// When the database refuses. It is then unknown whether the mark was written, so this has to be tried again.
pub async fn put_mark(session: &Session, proposed: Mark) -> Result<Mark, DatabaseError> {
    let cql = "INSERT INTO cluster (name, id, partitions) VALUES (?, ?, ?) IF NOT EXISTS";
    let values = (ROW, proposed.id.to_string(), proposed.partitions as i32);
    let result = session.query_unpaged(cql, values).await;
    if applied(result.map_err(|error| DatabaseError::refused(cql, &error))?) {
        return Ok(proposed);
    }
    let found = mark(session).await?;
    found.ok_or_else(|| DatabaseError::refused(cql, &"the row is there and cannot be read"))
}
