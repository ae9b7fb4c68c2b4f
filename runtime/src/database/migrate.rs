//! Applies the schema's migrations: numbered files, statement by statement. It can run twice, and in two processes at
//! once.
//!
//! Two rules make this safe. All statements go through one node, the same for every migrating process, which puts the
//! statements of two processes in an order. And statements that must run only once run under a lock, a row that
//! expires.

use std::sync::Arc;
use std::time::Duration;

use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::{Consistency, SerialConsistency, Statement};

use super::{
    DatabaseConfig, DatabaseError, applied, check_keyspace, connect_anywhere, is_scylla, use_keyspace,
};
use crate::time::wall_ms;

/// A numbered migration file.
struct Step {
    name: &'static str,
    text: &'static str,
    /// Workers from before and after this migration must not run at the same time, because they keep different rules
    /// for the data that it changes.
    alone: bool,
}

const fn step(name: &'static str, text: &'static str) -> Step {
    Step { name, text, alone: false }
}

/// Every migration, in order; the first has version 1. A migration never changes: a new one changes the schema again.
const MIGRATIONS: [Step; 7] = [
    step("0001_conversations", include_str!("../../migrations/0001_conversations.cql")),
    step("0002_users", include_str!("../../migrations/0002_users.cql")),
    step("0003_seals", include_str!("../../migrations/0003_seals.cql")),
    // A worker older than this writes without taking the tenure that keeps other workers out.
    Step { alone: true, ..step("0004_tenures", include_str!("../../migrations/0004_tenures.cql")) },
    step("0005_cluster", include_str!("../../migrations/0005_cluster.cql")),
    // A worker older than this applies commands that newer ones refuse here, and forgets client ids by their age.
    Step { alone: true, ..step("0006_suspensions", include_str!("../../migrations/0006_suspensions.cql")) },
    step("0007_versions", include_str!("../../migrations/0007_versions.cql")),
];

/// Time limit for a statement. Schema changes flush tables on every node.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Lifetime of the lock, renewed before every statement. After a killed migration, the next one waits this long.
const LOCK_SECONDS: u32 = 60;
const _: () = assert!(LOCK_SECONDS as u64 > STATEMENT_TIMEOUT.as_secs());
/// Pause between two attempts to acquire the lock.
const LOCK_RETRY: Duration = Duration::from_millis(250);
/// Attempts to use a keyspace that another migration is creating.
const KEYSPACE_ATTEMPTS: u32 = 20;
/// Attempts to acquire the lock: enough for a killed migration's lock to expire.
const LOCK_ATTEMPTS: u32 = 400;
const _: () = assert!(LOCK_RETRY.as_millis() * LOCK_ATTEMPTS as u128 > LOCK_SECONDS as u128 * 1_000);

/// Creates the keyspace if it does not exist, and applies the missing migrations. Returns a line for each change.
///
/// # Errors
/// When the database cannot be reached or refuses, another migration does not finish in time, or the schema is newer
/// than this program.
pub async fn migrate(config: &DatabaseConfig) -> Result<Vec<String>, DatabaseError> {
    check_keyspace(&config.keyspace)?;
    let session = connect_anywhere(&config.nodes, &config.keyspace).await?;
    let migration = Migration::new(&session, &config.keyspace)?;
    let mut done = Vec::new();
    done.extend(migration.create_keyspace(config.replication).await?);
    use_new_keyspace(&session, config).await?;
    migration.run("CREATE TABLE IF NOT EXISTS schema_lock (name text PRIMARY KEY, holder text)", ()).await?;
    migration
        .run("CREATE TABLE IF NOT EXISTS schema_migrations (version int PRIMARY KEY, name text, applied_ms bigint)", ())
        .await?;
    migration.lock().await?;
    let outcome = migration.apply_missing(&mut done).await;
    migration.unlock().await;
    outcome.map(|()| done)
}

/// The first missing migration for which all workers must be stopped, if the keyspace has been used.
///
/// # Errors
/// When the database cannot be reached or read.
pub async fn pending_alone(config: &DatabaseConfig) -> Result<Option<&'static str>, DatabaseError> {
    check_keyspace(&config.keyspace)?;
    let session = connect_anywhere(&config.nodes, &config.keyspace).await?;
    Ok(first_alone(schema_version(&session, &config.keyspace).await?))
}

fn first_alone(found: i32) -> Option<&'static str> {
    let missing = (1..).zip(&MIGRATIONS).filter(|(version, _)| found > 0 && *version > found);
    missing.map(|(_, step)| step).find(|step| step.alone).map(|step| step.name)
}

/// Uses a keyspace that another migration may be creating: it is listed shortly before it can be used.
async fn use_new_keyspace(session: &Session, config: &DatabaseConfig) -> Result<(), DatabaseError> {
    for _ in 0..KEYSPACE_ATTEMPTS {
        match use_keyspace(session, &config.nodes, &config.keyspace).await {
            Err(DatabaseError::KeyspaceMissing { .. }) => tokio::time::sleep(LOCK_RETRY).await,
            used => return used,
        }
    }
    use_keyspace(session, &config.nodes, &config.keyspace).await
}

/// The version of a keyspace's schema; 0 before the first migration.
///
/// # Errors
/// When the database cannot be read.
pub async fn schema_version(session: &Session, keyspace: &str) -> Result<i32, DatabaseError> {
    let cql = format!("SELECT version FROM {keyspace}.schema_migrations");
    let result = match session.query_unpaged(cql.as_str(), ()).await {
        // The table does not exist.
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Invalid, _))) => {
            return Ok(0);
        }
        result => result.map_err(|error| DatabaseError::refused(&cql, &error))?,
    };
    let rows = result.into_rows_result().map_err(|error| DatabaseError::refused(&cql, &error))?;
    let versions = rows.rows::<(i32,)>().map_err(|error| DatabaseError::refused(&cql, &error))?;
    Ok(versions.flatten().map(|(version,)| version).max().unwrap_or(0))
}

/// The version that this program needs.
pub(super) fn wanted_version() -> i32 {
    MIGRATIONS.len() as i32
}

/// Refuses a schema that is newer than this program, because it may have rules that this program would break.
///
/// # Errors
/// When the schema is newer.
pub(super) fn check_not_ahead(keyspace: &str, found: i32) -> Result<(), DatabaseError> {
    let known = wanted_version();
    if found > known {
        return Err(DatabaseError::SchemaAhead { keyspace: keyspace.into(), found, known });
    }
    Ok(())
}

struct Migration<'a> {
    session: &'a Session,
    keyspace: &'a str,
    profile: ExecutionProfileHandle,
    /// This process's name in the lock.
    holder: String,
}

impl<'a> Migration<'a> {
    fn new(session: &'a Session, keyspace: &'a str) -> Result<Migration<'a>, DatabaseError> {
        let cluster = session.get_cluster_state();
        let connected = cluster.get_nodes_info().iter().filter(|node| node.is_connected());
        let node = connected.min_by_key(|node| node.host_id).ok_or_else(|| DatabaseError::Unreachable {
            nodes: "its nodes".into(),
            reason: "no connection is left".into(),
        })?;
        let target = SingleTargetLoadBalancingPolicy::new(NodeIdentifier::Node(Arc::clone(node)), None);
        let profile = ExecutionProfile::builder()
            .load_balancing_policy(target)
            .consistency(Consistency::Quorum)
            .serial_consistency(Some(SerialConsistency::Serial))
            .request_timeout(Some(STATEMENT_TIMEOUT))
            .build()
            .into_handle();
        Ok(Migration { session, keyspace, profile, holder: uuid::Uuid::new_v4().to_string() })
    }

    /// Runs one statement on the chosen node. After a schema change, the driver waits until all nodes agree on it.
    async fn run(&self, cql: &str, values: impl SerializeRow) -> Result<QueryResult, DatabaseError> {
        self.try_run(cql, values).await.map_err(|error| DatabaseError::refused(first_line(cql), &error))
    }

    async fn try_run(&self, cql: &str, values: impl SerializeRow) -> Result<QueryResult, ExecutionError> {
        let mut statement = Statement::new(cql);
        statement.set_execution_profile_handle(Some(self.profile.clone()));
        self.session.query_unpaged(statement, values).await
    }

    async fn create_keyspace(&self, replication: Option<u32>) -> Result<Option<String>, DatabaseError> {
        let known = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
        let result = self.run(known, (self.keyspace,)).await?;
        let exists = result.into_rows_result().is_ok_and(|rows| rows.rows_num() > 0);
        if exists {
            return Ok(None);
        }
        let nodes = self.session.get_cluster_state().get_nodes_info().len() as u32;
        let copies = replication.unwrap_or(nodes.clamp(1, 3));
        let create = format!(
            "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', 'replication_factor': {copies}}}",
            self.keyspace
        );
        // Early versions of tablets do not support lightweight transactions, so tablets are disabled. Versions without
        // tablets refuse this option, and versions that require tablets support both.
        let without_tablets = format!("{create} AND tablets = {{'enabled': false}}");
        if !is_scylla(self.session) || self.try_run(&without_tablets, ()).await.is_err() {
            self.run(&create, ()).await?;
        }
        Ok(Some(format!("created keyspace {}, replication factor {copies}", self.keyspace)))
    }

    #[expect(clippy::disallowed_methods, reason = "the time at which a migration was applied is stored")]
    async fn apply_missing(&self, done: &mut Vec<String>) -> Result<(), DatabaseError> {
        let found = schema_version(self.session, self.keyspace).await?;
        check_not_ahead(self.keyspace, found)?;
        for (version, Step { name, text, .. }) in (1..).zip(MIGRATIONS) {
            if version <= found {
                continue;
            }
            for statement in statements(text) {
                self.renew_lock().await?;
                if !self.is_done(&statement).await? {
                    self.run(&statement, ()).await?;
                }
            }
            let record = "INSERT INTO schema_migrations (version, name, applied_ms) VALUES (?, ?, ?)";
            self.run(record, (version, name, wall_ms() as i64)).await?;
            done.push(format!("applied {name}"));
        }
        Ok(())
    }

    /// Whether a statement adds a column that exists. ScyllaDB has no `IF NOT EXISTS` for columns.
    async fn is_done(&self, statement: &str) -> Result<bool, DatabaseError> {
        let Some((table, column)) = added_column(statement) else { return Ok(false) };
        let known = "SELECT column_name FROM system_schema.columns \
            WHERE keyspace_name = ? AND table_name = ? AND column_name = ?";
        let result = self.run(known, (self.keyspace, table, column)).await?;
        Ok(result.into_rows_result().is_ok_and(|rows| rows.rows_num() > 0))
    }

    async fn lock(&self) -> Result<(), DatabaseError> {
        let acquire = format!(
            "INSERT INTO schema_lock (name, holder) VALUES ('migrate', ?) IF NOT EXISTS USING TTL {LOCK_SECONDS}"
        );
        for _ in 0..LOCK_ATTEMPTS {
            if applied(self.run(&acquire, (&self.holder,)).await?) {
                return Ok(());
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
        Err(DatabaseError::MigrationUnderWay { keyspace: self.keyspace.into() })
    }

    async fn renew_lock(&self) -> Result<(), DatabaseError> {
        let renew = format!(
            "UPDATE schema_lock USING TTL {LOCK_SECONDS} SET holder = ? WHERE name = 'migrate' IF holder = ?"
        );
        if applied(self.run(&renew, (&self.holder, &self.holder)).await?) {
            return Ok(());
        }
        Err(DatabaseError::MigrationUnderWay { keyspace: self.keyspace.into() })
    }

    async fn unlock(&self) {
        let release = "DELETE FROM schema_lock WHERE name = 'migrate' IF holder = ?";
        if let Err(error) = self.run(release, (&self.holder,)).await {
            tracing::warn!(%error, seconds = LOCK_SECONDS, "the migration's lock was not released: it expires");
        }
    }
}

/// The statements of a file. Each ends with a semicolon; lines that start with `--` are comments.
fn statements(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let code = code.join("\n");
    code.split(';').map(str::trim).filter(|statement| !statement.is_empty()).map(str::to_owned).collect()
}

/// The table and the column of a statement that adds a column.
fn added_column(statement: &str) -> Option<(&str, &str)> {
    let words: Vec<&str> = statement.split_whitespace().collect();
    match words[..] {
        ["ALTER", "TABLE", table, "ADD", column, _type] => Some((table, column)),
        _ => None,
    }
}

fn first_line(cql: &str) -> &str {
    cql.lines().next().unwrap_or(cql).trim_end_matches([' ', '('])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_cut_at_semicolons_and_comments_left_out() {
        let text = "-- one; not a statement\nCREATE a (\n  b int\n);\n\n-- two\nCREATE c;\n";
        assert_eq!(statements(text), ["CREATE a (\n  b int\n)", "CREATE c"]);
    }

    #[test]
    fn workers_are_stopped_only_for_migrations_that_need_it() {
        assert_eq!(first_alone(0), None, "a new keyspace has no workers to stop");
        assert_eq!((first_alone(1), first_alone(3)), (Some("0004_tenures"), Some("0004_tenures")));
        assert_eq!((first_alone(5), first_alone(6)), (Some("0006_suspensions"), None));
    }

    #[test]
    fn migrations_are_numbered_and_can_run_twice() {
        for (number, Step { name, text, .. }) in (1..).zip(MIGRATIONS) {
            assert!(name.starts_with(&format!("{number:04}_")), "{name}");
            let statements = statements(text);
            assert!(!statements.is_empty(), "{name}");
            for statement in statements {
                let is_checked = statement.contains("IF NOT EXISTS") || added_column(&statement).is_some();
                assert!(is_checked, "{name}: {statement}");
            }
        }
    }
}
