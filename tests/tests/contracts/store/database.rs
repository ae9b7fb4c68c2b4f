//! The CQL database: migrations, the cluster's mark, error messages, and the report of its durability.

use carillon_message_worker::store::scylla::ScyllaStore;
use carillon_message_worker::store::{Store, Tenure};
use carillon_presence_worker::store::scylla::ScyllaUserStore;
use carillon_proto::position::Incarnation;
use carillon_runtime::database::{DatabaseConfig, DatabaseError, connect, durability, migrate};
use carillon_tests::database::{drop_keyspace, keyspace, new_keyspace, run, session};

/// The number of migrations of this release.
const MIGRATIONS: usize = 7;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_may_run_twice_and_concurrently() {
    let Some(config) = new_keyspace() else { return };
    let (one, two) = tokio::join!(migrate(&config), migrate(&config));
    let (one, two) = (one.expect("migrated"), two.expect("migrated"));
    let applied = |lines: &[String]| lines.iter().filter(|line| line.starts_with("applied ")).count();
    assert_eq!(
        applied(&one) + applied(&two),
        MIGRATIONS,
        "each migration must be applied once: {one:?} {two:?}"
    );
    assert_eq!(applied(&one) * applied(&two), 0, "{one:?} {two:?}");
    assert_eq!(migrate(&config).await.expect("migrated"), Vec::<String>::new());
    ScyllaStore::connect(&config).await.expect("usable");
    drop_keyspace(&config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_migration_is_finished_by_the_next() {
    let Some(config) = new_keyspace() else { return };
    migrate(&config).await.expect("migrated");
    let session = session(&config).await;
    // The state after `carillon migrate` was killed between two statements.
    run(&session, &format!("DROP TABLE {}.skips", config.keyspace)).await;
    for version in 1..=MIGRATIONS {
        let forget = format!("DELETE FROM {}.schema_migrations WHERE version = {version}", config.keyspace);
        run(&session, &forget).await;
    }
    let behind = connect(&config.nodes, &config.keyspace).await.expect_err("not migrated");
    assert_eq!(
        behind.to_string(),
        format!(
            "keyspace {} is at schema version 0, {MIGRATIONS} is needed: run `carillon migrate`",
            config.keyspace
        )
    );
    assert_eq!(migrate(&config).await.expect("migrated").len(), MIGRATIONS);
    ScyllaStore::connect(&config).await.expect("usable");
    drop_keyspace(&config).await;
}

/// Before the fix, a program accepted a newer schema as its own: after a rollback the older program wrote by its own
/// old rules.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_a_newer_program_is_refused() {
    let Some(config) = new_keyspace() else { return };
    migrate(&config).await.expect("migrated");
    let session = session(&config).await;
    let (keyspace, newer) = (&config.keyspace, MIGRATIONS + 1);
    let insert = format!(
        "INSERT INTO {keyspace}.schema_migrations (version, name, applied_ms) VALUES ({newer}, 'newer', 0)"
    );
    run(&session, &insert).await;
    for refused in [connect(&config.nodes, &config.keyspace).await.err(), migrate(&config).await.err()] {
        let refused = refused.expect("refused");
        assert!(refused.is_final(), "the error must be final: {refused}");
        let said = format!(
            "keyspace {keyspace} is at schema version {newer}, and this carillon knows {MIGRATIONS}: run a newer carillon"
        );
        assert_eq!(refused.to_string(), said);
    }
    drop_keyspace(&config).await;
}

/// The mark stores the cluster's id and number of partitions. Before the fix, the number was not stored, and with
/// another one conversations were assigned to other logs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyspace_is_marked_once_even_by_concurrent_workers() {
    let Some(config) = new_keyspace() else { return };
    migrate(&config).await.expect("migrated");
    let store = ScyllaStore::connect(&config).await.expect("connected");
    let users = ScyllaUserStore::connect(&config).await.expect("connected");
    assert_eq!((store.mark().await.expect("read"), users.mark().await.expect("read")), (None, None));
    let (one, two) = tokio::join!(store.mark_or_make(16), store.mark_or_make(32));
    let (one, two) = (one.expect("marked"), two.expect("marked"));
    assert_eq!(one, two, "both callers must get the same mark");
    assert_eq!(store.mark_or_make(64).await.expect("read"), one);
    assert_eq!(users.mark().await.expect("read"), Some(one));
    drop_keyspace(&config).await;
}

/// A keyspace of a release without marks has no number of partitions. It follows from the highest partition with a
/// tenure, here 7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmarked_keyspace_gets_the_number_of_partitions_that_its_tenures_show() {
    let Some(config) = new_keyspace() else { return };
    migrate(&config).await.expect("migrated");
    let store = ScyllaStore::connect(&config).await.expect("connected");
    for partition in [0, 3, 7] {
        let tenure = Tenure { incarnation: Incarnation::new(1, 1, 1), epoch: 1, owner: None };
        store.change_tenure(partition, None, tenure).await.expect("the tenure is written");
    }
    assert_eq!(store.mark_or_make(16).await.expect("marked").partitions, 8);
    drop_keyspace(&config).await;
}

#[tokio::test]
async fn connecting_to_a_missing_keyspace_fails_with_one_clear_line() {
    let Some(config) = new_keyspace() else { return };
    let error = connect(&config.nodes, &config.keyspace).await.expect_err("the keyspace does not exist");
    let expected = format!(
        "keyspace {} does not exist in the database at {}: run `carillon migrate`",
        config.keyspace, config.nodes[0]
    );
    assert_eq!(error.to_string(), expected);
    let error = connect(&config.nodes, "No Name").await.expect_err("an invalid name");
    assert!(matches!(error, DatabaseError::BadKeyspace { .. }), "{error}");
    let config = DatabaseConfig { keyspace: "x; DROP".into(), ..config };
    assert!(matches!(migrate(&config).await, Err(DatabaseError::BadKeyspace { .. })));
}

#[tokio::test]
async fn the_durability_of_the_database_is_reported() {
    let Some(config) = keyspace().await else { return };
    let session = connect(&config.nodes, &config.keyspace).await.expect("connected");
    let durability = durability(&session, &config.keyspace).await.expect("read");
    assert!(durability.summary.contains("1 copy of each row, commitlog_sync "), "{durability}");
    let lines = durability.warnings;
    // Keyspaces of tests have one copy; the sync mode of the commit log depends on the test database.
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("keeps 1 of the 3 copies"), "{lines:?}");
}
