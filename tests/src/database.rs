//! Keyspaces for tests, in the CQL database that `CARILLON_TEST_CASSANDRA` names (host:port).

use std::time::{Duration, SystemTime};

use carillon_runtime::database::{DatabaseConfig, migrate};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::sync::OnceCell;

use crate::parts::part;

/// The names of keyspaces begin with this and the second in which they were created.
const PREFIX: &str = "carillon_test_";
/// An older keyspace was left behind by an earlier run, and is dropped.
const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(3_600);
/// Time for a statement; a test database needs up to a second to create one table.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The value of [`keyspace`], once it is created.
static SHARED: OnceCell<DatabaseConfig> = OnceCell::const_new();

/// The keyspace that all tests of this process share, with its schema; `None` without a database (see [`part`]). Tests
/// use different ids, so that they do not affect each other.
///
/// # Panics
/// When the database cannot be used.
pub async fn keyspace() -> Option<DatabaseConfig> {
    let config = new_keyspace()?;
    let shared = SHARED.get_or_init(|| async {
        drop_left_behind(&config).await;
        migrate(&config).await.expect("migrated");
        config
    });
    Some(shared.await.clone())
}

/// The name of a keyspace that does not exist yet; `None` without a database (see [`part`]).
pub fn new_keyspace() -> Option<DatabaseConfig> {
    let node = part("database", "CARILLON_TEST_CASSANDRA")?;
    let random = uuid::Uuid::new_v4().as_u64_pair().0 as u32;
    let keyspace = format!("{PREFIX}{}_{random:08x}", now_s());
    Some(DatabaseConfig { nodes: vec![node], keyspace, replication: Some(1) })
}

/// A session for statements that Carillon itself does not send.
///
/// # Panics
/// When the database cannot be reached.
pub async fn session(config: &DatabaseConfig) -> Session {
    let builder =
        SessionBuilder::new().known_nodes(&config.nodes).schema_agreement_timeout(STATEMENT_TIMEOUT);
    builder.build().await.expect("a database")
}

/// Drops a keyspace that a test created with [`new_keyspace`].
///
/// # Panics
/// When it cannot be dropped.
pub async fn drop_keyspace(config: &DatabaseConfig) {
    run(&session(config).await, &format!("DROP KEYSPACE IF EXISTS {}", config.keyspace)).await;
}

/// Runs a statement, for at most 60 s.
///
/// # Panics
/// When it fails.
pub async fn run(session: &Session, cql: &str) {
    let mut statement = scylla::statement::Statement::new(cql);
    statement.set_request_timeout(Some(STATEMENT_TIMEOUT));
    session.query_unpaged(statement, ()).await.unwrap_or_else(|error| panic!("{cql}: {error}"));
}

async fn drop_left_behind(config: &DatabaseConfig) {
    let session = session(config).await;
    let known = session.query_unpaged("SELECT keyspace_name FROM system_schema.keyspaces", ()).await;
    let rows = known.expect("keyspaces").into_rows_result().expect("rows");
    for (name,) in rows.rows::<(String,)>().expect("names").flatten() {
        let made_s = name.strip_prefix(PREFIX).and_then(|rest| rest.split('_').next()?.parse::<u64>().ok());
        if made_s.is_some_and(|made_s| made_s + LEFT_BEHIND_AFTER.as_secs() < now_s()) {
            run(&session, &format!("DROP KEYSPACE IF EXISTS {name}")).await;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "keyspaces are named by when they were made")]
fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}
