//! What the database says of itself that matters to the promise "stored durably".

use std::collections::HashMap;

use scylla::client::session::Session;

use super::{DatabaseError, is_scylla};

/// Copies of a row from which the loss of one node, with what it had not written to disk, loses nothing.
const COPIES_SAFE: u32 = 3;

/// What weakens the promise that an acknowledged message stays, a line each; empty when nothing does.
///
/// The promise presumes three copies in different failure domains, or a commit log that is synced before a
/// write is answered. Nothing is refused for want of either.
///
/// # Errors
/// When the database cannot be read.
pub async fn durability_report(session: &Session, keyspace: &str) -> Result<Vec<String>, DatabaseError> {
    let cql = "SELECT durable_writes, replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let refused = |reason: &dyn std::fmt::Display| DatabaseError::refused(cql, &reason.to_string());
    let result = session.query_unpaged(cql, (keyspace,)).await.map_err(|error| refused(&error))?;
    let rows = result.into_rows_result().map_err(|error| refused(&error))?;
    let row = rows.maybe_first_row::<(bool, HashMap<String, String>)>().map_err(|error| refused(&error))?;
    let Some((durable_writes, replication)) = row else { return Ok(Vec::new()) };
    Ok(judge(keyspace, durable_writes, copies(&replication), &commitlog_sync(session).await))
}

/// Copies in the data center that has the fewest.
fn copies(replication: &HashMap<String, String>) -> u32 {
    let factors =
        replication.iter().filter(|(name, _)| *name != "class").filter_map(|(_, value)| value.parse().ok());
    factors.min().unwrap_or(0)
}

/// How the commit log is synced.
enum Sync {
    /// So the database says.
    Said(String),
    /// The database does not say.
    Unknown,
}

async fn commitlog_sync(session: &Session) -> Sync {
    // Each database has a table of its settings, under its own name.
    let table = if is_scylla(session) { "system.config" } else { "system_views.settings" };
    let cql = format!("SELECT value FROM {table} WHERE name = 'commitlog_sync'");
    let Ok(result) = session.query_unpaged(cql, ()).await else { return Sync::Unknown };
    let value =
        result.into_rows_result().ok().and_then(|rows| rows.maybe_first_row::<(String,)>().ok().flatten());
    value.map_or(Sync::Unknown, |(value,)| Sync::Said(value.trim_matches('"').to_owned()))
}

fn judge(keyspace: &str, durable_writes: bool, copies: u32, sync: &Sync) -> Vec<String> {
    let mut lines = Vec::new();
    if !durable_writes {
        lines.push(format!(
            "keyspace {keyspace} has durable_writes off: a node that ends loses what it had in memory"
        ));
    }
    if copies >= COPIES_SAFE {
        return lines;
    }
    let few = format!(
        "keyspace {keyspace} keeps {copies} of the {COPIES_SAFE} copies of each row that are presumed"
    );
    match sync {
        Sync::Said(sync) if sync == "batch" || sync == "group" => {
            lines.push(format!("{few}: losing a node's disk loses acknowledged messages"));
        }
        Sync::Said(sync) => lines.push(format!(
            "{few}, and the database answers writes before they are on disk (commitlog_sync {sync}): a node that is \
             killed loses acknowledged messages; set commitlog_sync to batch or group, or keep {COPIES_SAFE} copies"
        )),
        Sync::Unknown => lines.push(format!(
            "{few}, and the database does not tell its commitlog_sync (periodic unless it was set): a node that is \
             killed may lose acknowledged messages"
        )),
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_weakens_the_promise_and_nothing_else() {
        let said = |sync: &str| Sync::Said(sync.into());
        assert_eq!(judge("k", true, 3, &said("periodic")), Vec::<String>::new());
        assert!(judge("k", false, 3, &said("batch"))[0].contains("durable_writes"));
        assert!(judge("k", true, 1, &said("batch"))[0].contains("1 of the 3 copies"));
        assert!(judge("k", true, 2, &said("periodic"))[0].contains("commitlog_sync periodic"));
        assert!(judge("k", true, 1, &Sync::Unknown)[0].contains("does not tell"));
    }

    #[test]
    fn copies_are_those_of_the_weakest_data_center() {
        let replication = |entries: &[(&str, &str)]| {
            copies(&entries.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
        };
        assert_eq!(replication(&[("class", "SimpleStrategy"), ("replication_factor", "3")]), 3);
        assert_eq!(replication(&[("class", "NetworkTopologyStrategy"), ("east", "3"), ("west", "2")]), 2);
    }
}
