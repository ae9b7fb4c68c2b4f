//! Processes whose settings do not fit their NATS or database: another number of partitions, another cluster's NATS, a
//! migration under running workers. Each is refused with one line, and the running processes continue.

use carillon_proto::id::WorkerId;
use carillon_proto::subject::Prefix;
use carillon_runtime::bus::Bus;
use carillon_runtime::bus::nats::{NatsBus, NatsConfig};
use carillon_runtime::cluster::ClusterId;
use carillon_runtime::database::DatabaseConfig;
use carillon_tests::client::Client;
use carillon_tests::database::{drop_keyspace, new_keyspace, run, session};
use carillon_tests::parts::{NatsOptions, NatsServer, free_port};
use carillon_tests::server::{Server, command};
use std::process::Output;
use std::time::Duration;
use tempfile::TempDir;

/// Environment variables of a process.
type Environment = Vec<(&'static str, String)>;

fn on_nats(nats: &NatsServer) -> Environment {
    vec![
        ("NATS_URL", nats.url()),
        ("CARILLON_DEV", "true".into()),
        ("AUTH_SECRET", "a-secret-of-at-least-thirty-two-bytes".into()),
        ("CARILLON_LOG", "off".into()),
    ]
}

fn with(environment: &Environment, more: &[(&'static str, &str)]) -> Environment {
    let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
    environment.iter().cloned().chain(more).collect()
}

fn output(arguments: &[&str], environment: &Environment) -> Output {
    command().args(arguments).envs(environment.clone()).output().expect("carillon runs")
}

#[track_caller]
fn refused(output: &Output, code: i32, said: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(said) && stderr.trim_end().lines().count() == 1, "no {said} in {stderr}");
}

fn serve(arguments: &[&str], listens: &str, environment: &Environment) -> Server {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let arguments = arguments.iter().copied().chain([listens, address.as_str()]).map(String::from).collect();
    let pairs: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Server::start(port, arguments, &pairs)
}

fn directory() -> (TempDir, String) {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().display().to_string();
    (directory, path)
}

/// Before the fix, the second process was accepted: both applied one log, each into its own directory, and clients
/// found only half of their messages when they read.
#[tokio::test(flavor = "multi_thread")]
async fn two_standalone_processes_on_one_nats_need_a_prefix() {
    let Some(nats) = NatsServer::start(NatsOptions::default()).await else { return };
    let environment = on_nats(&nats);
    let ((_first, first), (_second, second)) = (directory(), directory());
    let one = serve(&["standalone", "--data-dir", &first], "--listen", &environment);
    let arguments = ["standalone", "--listen", "127.0.0.1:0", "--data-dir", &second];
    refused(&output(&arguments, &environment), 64, "carillon: nats belongs to cluster ");
    refused(
        &output(&arguments, &environment),
        64,
        "set nats.prefix to a name that no other cluster there has",
    );

    let blue = with(&environment, &[("CARILLON_NATS__PREFIX", "blue")]);
    let two = serve(&["standalone", "--data-dir", &second], "--listen", &blue);
    for server in [&one, &two] {
        let mut alice = Client::user(&server.ws(), "alice").await;
        for number in 1..=20u64 {
            assert_eq!(alice.send_message("room", "hello", &format!("k{number}")).await["seq"], number);
        }
    }
}

struct System {
    nats: NatsServer,
    database: DatabaseConfig,
    environment: Environment,
}

impl System {
    async fn migrated() -> Option<System> {
        let database = new_keyspace()?;
        let nats = NatsServer::start(NatsOptions::default()).await?;
        let more =
            [("SCYLLA_NODES", database.nodes.join(",")), ("SCYLLA_KEYSPACE", database.keyspace.clone())];
        let environment = on_nats(&nats).into_iter().chain(more).collect();
        let system = System { nats, database, environment };
        assert!(output(&["migrate"], &system.environment).status.success());
        Some(system)
    }
}

/// Before the fix, every role accepted any number of partitions, and conversations were assigned to other logs from
/// then on, even after the number was changed back.
#[tokio::test(flavor = "multi_thread")]
async fn every_role_refuses_another_number_of_partitions_and_another_cluster() {
    let Some(system) = System::migrated().await else { return };
    let worker = serve(&["message-worker"], "--admin-listen", &system.environment);
    for partitions in ["8", "32"] {
        let wrong = with(&system.environment, &[("CARILLON_PARTITIONS", partitions)]);
        for role in ["message-worker", "presence-worker", "gateway", "standalone", "audit", "migrate"] {
            let place = match role {
                "gateway" => "nats".to_owned(),
                _ => format!("keyspace {}", system.database.keyspace),
            };
            let listens =
                if role == "gateway" || role == "standalone" { "--listen" } else { "--admin-listen" };
            let said = format!(
                "carillon: {place} has 16 partitions, and the settings say {partitions}: set partitions to 16, "
            );
            refused(&output(&[role, listens, "127.0.0.1:0"], &wrong), 64, &said);
        }
    }

    let other = new_keyspace().expect("a second database");
    let elsewhere = with(&system.environment, &[("SCYLLA_KEYSPACE", &other.keyspace)]);
    assert!(output(&["migrate"], &elsewhere).status.success());
    let wrong = output(&["message-worker", "--admin-listen", "127.0.0.1:0"], &elsewhere);
    refused(&wrong, 64, "carillon: nats belongs to cluster ");
    let own = with(&elsewhere, &[("CARILLON_NATS__PREFIX", "green")]);
    let neighbour = serve(&["message-worker"], "--admin-listen", &own);
    drop((worker, neighbour));
    drop_keyspace(&other).await;
    drop_keyspace(&system.database).await;
}

/// NATS lost its data while no Carillon process ran. The first worker marks it again with the id from the database.
#[tokio::test(flavor = "multi_thread")]
async fn a_nats_that_lost_its_data_is_marked_again_from_the_database() {
    let Some(mut system) = System::migrated().await else { return };
    drop(serve(&["message-worker"], "--admin-listen", &system.environment));
    system.nats.kill();
    system.nats.lose_disk();
    system.nats.start_again().await;
    let _worker = serve(&["message-worker"], "--admin-listen", &system.environment);
    let _presence = serve(&["presence-worker"], "--admin-listen", &system.environment);
    let gateway = serve(&["gateway"], "--listen", &system.environment);
    let mut alice = Client::user(&gateway.ws(), "alice").await;
    assert_eq!(alice.send_message("room", "hello", "k1").await["seq"], 1);
    drop_keyspace(&system.database).await;
}

/// The migration `0004_tenures` changes rows that message-workers rely on, so `migrate` refuses while one has a lease.
/// Before the fix, a Helm chart that rolled its pods migrated while workers of the previous release ran, which must not
/// run beside new ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_changes_what_workers_rely_on_is_refused_while_they_run() {
    let Some(system) = System::migrated().await else { return };
    let session = session(&system.database).await;
    for version in 4..100 {
        let keyspace = &system.database.keyspace;
        run(&session, &format!("DELETE FROM {keyspace}.schema_migrations WHERE version = {version}")).await;
    }
    let bus = NatsBus::connect(NatsConfig {
        url: system.nats.url(),
        prefix: Prefix::default(),
        cluster: Some(ClusterId::random()),
        replicas: None,
        partitions: 1,
        name: "an old worker".into(),
    });
    let (bus, worker) = (bus.await.expect("connected"), WorkerId::parse("old").expect("an id"));
    bus.renew_lease("message-worker", &worker).await.expect("renewed");
    let (working, named) = (bus.clone(), worker.clone());
    let working = tokio::spawn(async move {
        while working.renew_lease("message-worker", &named).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let said =
        "carillon: 0004_tenures changes what message-workers rely on, and 1 are at work: stop them all";
    refused(&output(&["migrate"], &system.environment), 1, said);
    working.abort();
    bus.release_lease("message-worker", &worker).await.expect("released");
    assert!(output(&["migrate"], &system.environment).status.success());
    drop_keyspace(&system.database).await;
}
