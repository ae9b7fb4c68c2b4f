//! The CQL database (ScyllaDB or Apache Cassandra 5): sessions, the schema, and a report on durability.
//!
//! The tables' contents belong to the services; this module only connects.

use std::sync::Arc;
use std::time::Duration;

use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, RequestAttemptError, UseKeyspaceError};
use scylla::response::query_result::QueryResult;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency, Statement};
use scylla::value::{CqlValue, Row};

use crate::settings::Settings;

mod cluster;
mod migrate;
mod report;

pub use cluster::{mark, put_mark};
pub use migrate::{migrate, pending_alone, schema_version};
pub use report::{Durability, durability};

/// Time limit for one connection to one node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for connecting at all. A stopped node delays a new session at several places in turn.
const SESSION_TIMEOUT: Duration = Duration::from_secs(12);
/// After this time a request's outcome counts as unknown, including the driver's own repetitions. It is longer than the
/// two seconds after which the database itself gives up a write.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which an idle connection is probed, and time limit for the reply. A node that died silently is noticed
/// within the sum of both.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// The address of the database, and the keyspace in it.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// Some of its nodes, each as `host:port`.
    pub nodes: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// Copies of each row if the keyspace is created; `None`: one per node, at most 3.
    pub replication: Option<u32>,
}

impl From<&Settings> for DatabaseConfig {
    fn from(settings: &Settings) -> Self {
        DatabaseConfig {
            nodes: settings.scylla_nodes.clone(),
            keyspace: settings.scylla_keyspace.clone(),
            replication: settings.scylla_replication,
        }
    }
}

/// Why the database cannot be used. Each text is one line.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatabaseError {
    /// No node replied.
    #[error("the database at {nodes} cannot be reached: {reason}")]
    Unreachable {
        /// The nodes tried.
        nodes: String,
        /// The driver's error.
        reason: String,
    },
    /// The name is not a valid keyspace name.
    #[error("{keyspace:?} cannot be a keyspace's name: 1 to 48 of a-z 0-9 _, the first a letter")]
    BadKeyspace {
        /// The name.
        keyspace: String,
    },
    /// The keyspace has not been created.
    #[error("keyspace {keyspace} does not exist in the database at {nodes}: run `carillon migrate`")]
    KeyspaceMissing {
        /// The keyspace.
        keyspace: String,
        /// The nodes.
        nodes: String,
    },
    /// The schema is older than this program needs.
    #[error("keyspace {keyspace} is at schema version {found}, {wanted} is needed: run `carillon migrate`")]
    SchemaBehind {
        /// The keyspace.
        keyspace: String,
        /// The version it has.
        found: i32,
        /// The version it must have.
        wanted: i32,
    },
    /// A newer program has changed the schema, and may rely on rules that this program does not know.
    #[error(
        "keyspace {keyspace} is at schema version {found}, and this carillon knows {known}: run a newer carillon"
    )]
    SchemaAhead {
        /// The keyspace.
        keyspace: String,
        /// The version it has.
        found: i32,
        /// The newest version that this program knows.
        known: i32,
    },
    /// Another process is migrating the keyspace, and has not finished in time.
    #[error(
        "another migration of keyspace {keyspace} is under way: wait for it, or a minute after it was killed"
    )]
    MigrationUnderWay {
        /// The keyspace.
        keyspace: String,
    },
    /// The database refused a statement.
    #[error("the database refused {what}: {reason}")]
    Refused {
        /// The refused statement.
        what: String,
        /// The database's reason.
        reason: String,
    },
}

impl DatabaseError {
    fn refused(what: impl Into<String>, reason: &impl std::fmt::Display) -> DatabaseError {
        DatabaseError::Refused { what: what.into(), reason: one_line(reason) }
    }

    /// Whether trying again cannot help, because this program or its settings are wrong for the database.
    pub fn is_final(&self) -> bool {
        matches!(self, DatabaseError::BadKeyspace { .. } | DatabaseError::SchemaAhead { .. })
    }
}

/// The driver's error on one line, at most 400 characters.
pub fn one_line(error: &impl std::fmt::Display) -> String {
    const CHARS_MAX: usize = 400;
    let text = error.to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(CHARS_MAX).collect()
}

/// Connects to the keyspace and checks that its schema has the version that this program needs.
///
/// # Errors
/// When no node replies, or the schema is older or newer.
pub async fn connect(nodes: &[String], keyspace: &str) -> Result<Arc<Session>, DatabaseError> {
    check_keyspace(keyspace)?;
    let session = connect_anywhere(nodes, keyspace).await?;
    use_keyspace(&session, nodes, keyspace).await?;
    let (found, wanted) = (migrate::schema_version(&session, keyspace).await?, migrate::wanted_version());
    if found < wanted {
        return Err(DatabaseError::SchemaBehind { keyspace: keyspace.into(), found, wanted });
    }
    migrate::check_not_ahead(keyspace, found)?;
    Ok(Arc::new(session))
}

/// Prepares a statement that is idempotent, so that the driver may repeat it.
///
/// # Errors
/// When the database refuses the statement.
pub async fn prepare(session: &Session, cql: &str) -> Result<PreparedStatement, DatabaseError> {
    let mut statement = Statement::new(cql);
    statement.set_is_idempotent(true);
    session.prepare(statement).await.map_err(|error| DatabaseError::refused(cql, &error))
}

/// Whether a lightweight transaction took effect. It reads the column by name, because the other columns of the result
/// differ between the databases.
pub fn applied(result: QueryResult) -> bool {
    let Ok(rows) = result.into_rows_result() else { return false };
    let column = rows.column_specs().get_by_name("[applied]").map(|(index, _)| index);
    let row = rows.maybe_first_row::<Row>().ok().flatten();
    let value = column.zip(row).and_then(|(index, row)| row.columns.into_iter().nth(index).flatten());
    matches!(value, Some(CqlValue::Boolean(true)))
}

/// Opens a session without a keyspace. The driver fetches metadata of `keyspace` only.
async fn connect_anywhere(nodes: &[String], keyspace: &str) -> Result<Session, DatabaseError> {
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::Quorum)
        .serial_consistency(Some(SerialConsistency::Serial))
        .request_timeout(Some(REQUEST_TIMEOUT))
        .build();
    let builder = SessionBuilder::new()
        .known_nodes(nodes)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(CONNECT_TIMEOUT)
        .hostname_resolution_timeout(Some(CONNECT_TIMEOUT))
        .metadata_request_clientside_timeout(REQUEST_TIMEOUT)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .keyspaces_to_fetch([keyspace])
        .fetch_full_schema_metadata(false);
    let unreachable = |reason| DatabaseError::Unreachable { nodes: nodes.join(","), reason };
    match tokio::time::timeout(SESSION_TIMEOUT, builder.build()).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(error)) => Err(unreachable(one_line(&error))),
        Err(_) => Err(unreachable(format!("no answer within {} s", SESSION_TIMEOUT.as_secs()))),
    }
}

async fn use_keyspace(session: &Session, nodes: &[String], keyspace: &str) -> Result<(), DatabaseError> {
    session.use_keyspace(keyspace, false).await.map_err(|error| match error {
        UseKeyspaceError::RequestError(RequestAttemptError::DbError(DbError::Invalid, _)) => {
            DatabaseError::KeyspaceMissing { keyspace: keyspace.into(), nodes: nodes.join(",") }
        }
        error => DatabaseError::refused(format!("the use of keyspace {keyspace}"), &error),
    })
}

/// Checks a keyspace's name. It becomes part of statements, so only names that need no quotes are allowed.
fn check_keyspace(keyspace: &str) -> Result<(), DatabaseError> {
    let first_is_letter = keyspace.starts_with(|first: char| first.is_ascii_lowercase());
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if first_is_letter && keyspace.len() <= 48 && keyspace.chars().all(allowed) {
        return Ok(());
    }
    Err(DatabaseError::BadKeyspace { keyspace: keyspace.into() })
}

/// Whether the database is ScyllaDB: only ScyllaDB reports its shards.
fn is_scylla(session: &Session) -> bool {
    session.get_cluster_state().get_nodes_info().iter().any(|node| node.sharder().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyspace_is_a_plain_name() {
        for good in ["carillon", "a", "k_2", &"k".repeat(48)] {
            assert!(check_keyspace(good).is_ok(), "{good}");
        }
        for bad in ["", "2k", "_k", "Carillon", "a-b", "a b", "a;", "a\"", &"k".repeat(49)] {
            assert!(check_keyspace(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_unreachable_database_is_reported_in_one_line() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let node = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let error = connect(std::slice::from_ref(&node), "carillon").await.expect_err("no server listens");
        let text = error.to_string();
        assert!(matches!(error, DatabaseError::Unreachable { .. }), "{text}");
        assert!(text.contains(&node) && !text.contains('\n'), "{text}");
    }
}
