//! A report on the database's settings that matter for durability.

use std::collections::HashMap;

use scylla::client::session::Session;

use super::{DatabaseError, is_scylla};

/// With this many copies of a row, the loss of one node and of its unsynced writes loses no row.
const COPIES_SAFE: u32 = 3;

/// How durably the database keeps acknowledged writes, as far as its settings can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durability {
    /// The number of copies, how they are synced to disk, and what the crash of a node could lose.
    pub summary: String,
    /// What weakens the promise that an acknowledged message stays, one line each; empty if nothing does.
    pub warnings: Vec<String>,
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.summary)?;
        self.warnings.iter().try_for_each(|warning| write!(f, "; {warning}"))
    }
}

/// Reads how durable the database is.
///
/// The promise assumes three copies in different failure domains, or a commit log that is synced before a write is
/// acknowledged. If neither is true, this warns and refuses nothing.
///
/// # Errors
/// When the database cannot be read.
pub async fn durability(session: &Session, keyspace: &str) -> Result<Durability, DatabaseError> {
    let cql = "SELECT durable_writes, replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let refused = |reason: &dyn std::fmt::Display| DatabaseError::refused(cql, &reason.to_string());
    let result = session.query_unpaged(cql, (keyspace,)).await.map_err(|error| refused(&error))?;
    let rows = result.into_rows_result().map_err(|error| refused(&error))?;
    let row = rows.maybe_first_row::<(bool, HashMap<String, String>)>().map_err(|error| refused(&error))?;
    let Some((durable_writes, replication)) = row else {
        let summary = format!("the database does not tell how it keeps keyspace {keyspace}");
        return Ok(Durability { summary, warnings: Vec::new() });
    };
    let (copies, sync) = (copies(&replication), commitlog_sync(session).await);
    let warnings = judge(keyspace, durable_writes, copies, &sync);
    Ok(Durability { summary: summary(copies, &sync), warnings })
}

/// The number of copies in the data center that has the fewest.
fn copies(replication: &HashMap<String, String>) -> u32 {
    let factors =
        replication.iter().filter(|(name, _)| *name != "class").filter_map(|(_, value)| value.parse().ok());
    factors.min().unwrap_or(0)
}

/// How the commit log is synced.
enum Sync {
    /// The database's value of `commitlog_sync`.
    Known(String),
    /// The database does not show the value.
    Unknown,
}

async fn commitlog_sync(session: &Session) -> Sync {
    // ScyllaDB and Cassandra have their settings in tables of different names.
    let table = if is_scylla(session) { "system.config" } else { "system_views.settings" };
    let cql = format!("SELECT value FROM {table} WHERE name = 'commitlog_sync'");
    let Ok(result) = session.query_unpaged(cql, ()).await else { return Sync::Unknown };
    let value =
        result.into_rows_result().ok().and_then(|rows| rows.maybe_first_row::<(String,)>().ok().flatten());
    value.map_or(Sync::Unknown, |(value,)| Sync::Known(value.trim_matches('"').to_owned()))
}

fn summary(copies: u32, sync: &Sync) -> String {
    let (name, synced) = match sync {
        Sync::Known(sync) => (sync.as_str(), sync == "batch" || sync == "group"),
        Sync::Unknown => ("not told", false),
    };
    let cost = match (copies >= COPIES_SAFE, synced) {
        (_, true) => "the crash of an operating system costs nothing that was acknowledged",
        (true, false) => {
            "the crash of one operating system costs nothing that was acknowledged, of all that keep a row at once the \
             last seconds of it"
        }
        (false, false) => {
            "the crash of an operating system may cost acknowledged messages of the last seconds"
        }
    };
    let rows = if copies == 1 { "1 copy" } else { &format!("{copies} copies") };
    format!("database: {rows} of each row, commitlog_sync {name}: {cost}")
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
        Sync::Known(sync) if sync == "batch" || sync == "group" => {
            lines.push(format!("{few}: losing a node's disk loses acknowledged messages"));
        }
        Sync::Known(sync) => lines.push(format!(
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
    fn only_settings_that_weaken_durability_are_warned_about() {
        let known = |sync: &str| Sync::Known(sync.into());
        assert_eq!(judge("k", true, 3, &known("periodic")), Vec::<String>::new());
        assert!(judge("k", false, 3, &known("batch"))[0].contains("durable_writes"));
        assert!(judge("k", true, 1, &known("batch"))[0].contains("1 of the 3 copies"));
        assert!(judge("k", true, 2, &known("periodic"))[0].contains("commitlog_sync periodic"));
        assert!(judge("k", true, 1, &Sync::Unknown)[0].contains("does not tell"));
    }

    #[test]
    fn the_summary_names_the_cost_of_a_crash() {
        let known = |sync: &str| Sync::Known(sync.into());
        let table = [
            (
                1,
                known("batch"),
                "1 copy of each row, commitlog_sync batch: the crash of an operating system costs nothing",
            ),
            (3, known("group"), "an operating system costs nothing"),
            (3, known("periodic"), "of all that keep a row at once the last seconds"),
            (1, known("periodic"), "may cost acknowledged messages"),
            (2, Sync::Unknown, "commitlog_sync not told: the crash of an operating system may cost"),
        ];
        for (copies, sync, expected) in table {
            let summary = summary(copies, &sync);
            assert!(summary.contains(expected), "{summary}");
        }
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
