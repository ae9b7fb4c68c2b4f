//! The CQL database itself: migrations, what is said when something is missing, and what it says of itself.

use carillon_message_worker::store::scylla::ScyllaStore;
use carillon_runtime::database::{DatabaseConfig, DatabaseError, connect, durability, migrate};
use carillon_tests::database::{drop_keyspace, keyspace, new_keyspace, run, session};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_twice_and_by_two_at_once_is_safe() {
    let Some(config) = new_keyspace() else { return };
    let (one, two) = tokio::join!(migrate(&config), migrate(&config));
    let (one, two) = (one.expect("migrated"), two.expect("migrated"));
    let applied = |lines: &[String]| lines.iter().filter(|line| line.starts_with("applied ")).count();
    assert_eq!(applied(&one) + applied(&two), 4, "each migration by one of them: {one:?} {two:?}");
    assert_eq!(applied(&one) * applied(&two), 0, "{one:?} {two:?}");
    assert_eq!(migrate(&config).await.expect("migrated"), Vec::<String>::new());
    ScyllaStore::connect(&config).await.expect("usable");
    drop_keyspace(&config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_was_cut_off_is_finished() {
    let Some(config) = new_keyspace() else { return };
    migrate(&config).await.expect("migrated");
    let session = session(&config).await;
    // As if it had been killed between its statements.
    run(&session, &format!("DROP TABLE {}.skips", config.keyspace)).await;
    for version in 1..=4 {
        let forget = format!("DELETE FROM {}.schema_migrations WHERE version = {version}", config.keyspace);
        run(&session, &forget).await;
    }
    let behind = connect(&config.nodes, &config.keyspace).await.expect_err("not migrated");
    assert_eq!(
        behind.to_string(),
        format!("keyspace {} is at schema version 0, 4 is needed: run `carillon migrate`", config.keyspace)
    );
    assert_eq!(migrate(&config).await.expect("migrated").len(), 4);
    ScyllaStore::connect(&config).await.expect("usable");
    drop_keyspace(&config).await;
}

#[tokio::test]
async fn a_missing_keyspace_is_one_clear_line() {
    let Some(config) = new_keyspace() else { return };
    let error = connect(&config.nodes, &config.keyspace).await.expect_err("nobody made it");
    let expected = format!(
        "keyspace {} does not exist in the database at {}: run `carillon migrate`",
        config.keyspace, config.nodes[0]
    );
    assert_eq!(error.to_string(), expected);
    let error = connect(&config.nodes, "No Name").await.expect_err("no name");
    assert!(matches!(error, DatabaseError::BadKeyspace { .. }), "{error}");
    let config = DatabaseConfig { keyspace: "x; DROP".into(), ..config };
    assert!(matches!(migrate(&config).await, Err(DatabaseError::BadKeyspace { .. })));
}

#[tokio::test]
async fn the_database_reports_how_durable_it_is() {
    let Some(config) = keyspace().await else { return };
    let session = connect(&config.nodes, &config.keyspace).await.expect("connected");
    let durability = durability(&session, &config.keyspace).await.expect("read");
    assert!(durability.summary.contains("1 copy of each row, commitlog_sync "), "{durability}");
    let lines = durability.warnings;
    // Tests keep one copy; how the log is synced is the test database's choice.
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("keeps 1 of the 3 copies"), "{lines:?}");
}
