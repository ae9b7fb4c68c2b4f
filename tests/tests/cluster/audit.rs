//! `carillon audit` on a real cluster: it finds nothing while messages are sent and a worker dies, it finds a row that
//! was deleted in the database, and it reports that in its metrics.

use carillon_runtime::database::DatabaseConfig;
use carillon_tests::client::Client;
use carillon_tests::database::{drop_keyspace, new_keyspace, run, session};
use carillon_tests::parts::{NatsOptions, NatsServer, free_port};
use carillon_tests::server::{Server, command};
use serde_json::{Value, json};
use std::process::Output;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const MESSAGES: u64 = 30;
/// Time until every worker has written a checkpoint, on a loaded machine; they write one every second.
const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway and a worker of each kind, with the environment that the audit gets too; ended in the order of the fields.
struct System {
    gateway: Server,
    message_worker: Server,
    _presence_worker: Server,
    _nats: NatsServer,
    environment: Vec<(&'static str, String)>,
    database: DatabaseConfig,
}

impl System {
    async fn start() -> Option<System> {
        let database = new_keyspace()?;
        let nats = NatsServer::start(NatsOptions::default()).await?;
        let environment = vec![
            ("NATS_URL", nats.url()),
            ("SCYLLA_NODES", database.nodes.join(",")),
            ("SCYLLA_KEYSPACE", database.keyspace.clone()),
            ("CARILLON_DEV", "true".into()),
            ("AUTH_SECRET", "a-secret-of-at-least-thirty-two-bytes".into()),
            ("CARILLON_LIMITS__MESSAGES_PER_MINUTE", "0".into()),
            ("CARILLON_LIMITS__OPERATIONS_PER_MINUTE", "0".into()),
        ];
        let migrated = command().arg("migrate").envs(environment.clone()).output().expect("migrate runs");
        assert!(migrated.status.success(), "{migrated:?}");
        let serve = |role: &str, listens: &str| {
            let port = free_port();
            let arguments = [role, listens, &format!("127.0.0.1:{port}")].map(String::from).into();
            Server::start(port, arguments, &pairs(&environment))
        };
        Some(System {
            message_worker: serve("message-worker", "--admin-listen"),
            _presence_worker: serve("presence-worker", "--admin-listen"),
            gateway: serve("gateway", "--listen"),
            _nats: nats,
            environment,
            database,
        })
    }

    fn audit(&self, arguments: &[&str]) -> Output {
        let mut audit = command();
        audit.arg("audit").args(arguments).envs(self.environment.clone()).env("CARILLON_LOG", "warn");
        audit.output().expect("carillon audit runs")
    }

    /// Repeats the audit until no command is pending, so that it counts all messages.
    async fn settled(&self) -> (Output, Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.audit(&["--json"]);
            let report = report_of(&output);
            if report["total"]["pending"] == 0 {
                return (output, report);
            }
            assert!(report["ok"] == true && Instant::now() < deadline, "{report}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn delete_row(&self, conversation: &str, seq: u64) {
        let keyspace = &self.database.keyspace;
        let row = format!("conversation = '{conversation}' AND bucket = 0 AND seq = {seq}");
        let delete = format!("DELETE FROM {keyspace}.events WHERE {row}");
        run(&session(&self.database).await, &delete).await;
    }
}

fn pairs<'a>(environment: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn report_of(output: &Output) -> Value {
    let stdout = text(&output.stdout);
    serde_json::from_str(stdout).unwrap_or_else(|_| panic!("not JSON: {stdout}{}", text(&output.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_finds_a_deleted_row_and_nothing_in_a_sound_cluster() {
    let Some(mut system) = System::start().await else { return };
    let mut alice = Client::user(&system.gateway.ws(), "alice").await;
    for room in ["one", "two"] {
        alice.join(room).await;
        for number in 1..=MESSAGES {
            assert_eq!(
                alice.send_message(room, &format!("m{number}"), &format!("k{number}")).await["seq"],
                number
            );
        }
        alice.send_message(room, "m7", "k7").await;
    }
    let (output, report) = system.settled().await;
    assert_eq!(output.status.code(), Some(0), "{report}");
    let total = &report["total"];
    assert_eq!((&total["conversations"], &total["rows"]), (&2.into(), &(2 * MESSAGES).into()), "{total}");
    assert_eq!(total["commands"], 2 * (MESSAGES + 1), "{total}");
    let output = system.audit(&["--rows", "5"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let line = "acknowledged-but-missing 0, duplicate 0, out of order 0, holes 0, heads ahead 0, foreign rows 0; \
                2 conversations, 60 rows, ";
    assert!(said.lines().last().is_some_and(|last| last.starts_with(line)), "{said}");

    a_worker_dies_while_it_is_looked_at(&mut system).await;

    system.delete_row("one", 12).await;
    let output = system.audit(&[]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("missing: conversation one, seq 12, position 2."), "{said}");
    assert!(said.contains("\nacknowledged-but-missing 1, duplicate 0, out of order 0, holes 1,"), "{said}");
    assert!(text(&output.stderr).contains("the audit found 2, and could not read 0"));
    it_goes_on_and_counts(&system).await;
    wrong_partitions_are_refused(&system);
    drop_keyspace(&system.database).await;
}

/// Sends messages until `stop`, each again until it is acknowledged, and returns the number of acknowledged ones.
async fn talk(url: String, stop: CancellationToken) -> u64 {
    let mut bob = Client::user(&url, "bob").await;
    let mut acknowledged = 0;
    while !stop.is_cancelled() {
        let client_id = format!("b{acknowledged}");
        let frame = json!({"type": "send_message", "conversation_id": format!("busy-{}", acknowledged % 10),
                           "content": "hello", "client_id": client_id, "ref": client_id});
        bob.send(frame).await;
        let reply = bob.expect_where(|frame| frame["ref"] == *client_id).await;
        acknowledged += u64::from(reply["type"] == "message_ack");
    }
    acknowledged
}

async fn a_worker_dies_while_it_is_looked_at(system: &mut System) {
    let stop = CancellationToken::new();
    let talking = tokio::spawn(talk(system.gateway.ws(), stop.clone()));
    for round in 0..8 {
        match round {
            2 => system.message_worker.kill(),
            4 => system.message_worker.restart(),
            _ => {}
        }
        let output = tokio::task::block_in_place(|| system.audit(&["--json", "--rows", "50"]));
        let report = report_of(&output);
        assert!(report["ok"] == true && output.status.success(), "round {round}: {report}");
    }
    stop.cancel();
    let acknowledged = talking.await.expect("the sender does not panic");
    assert!(acknowledged > 50, "too few messages were acknowledged: {acknowledged}");
    let (_, report) = system.settled().await;
    let total = &report["total"];
    assert!(report["ok"] == true && total["rows"] == acknowledged + 2 * MESSAGES, "{acknowledged}: {total}");
}

async fn it_goes_on_and_counts(system: &System) {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let arguments = ["audit", "--every", "1s", "--conversation", "three", "--admin-listen", &address];
    let mut auditor = Server::start(port, arguments.map(String::from).into(), &pairs(&system.environment));
    let client = reqwest::Client::builder().timeout(PATIENCE).build().expect("a client");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = client.get(format!("{}/metrics", auditor.http())).send().await.expect("answered");
        let metrics = metrics.text().await.expect("text");
        let has = |line: &str| metrics.lines().any(|found| found == line);
        if has("carillon_audit_missing 1") {
            assert!(has("carillon_audit_holes 1") && has("carillon_audit_last_run_ok 0"), "{metrics}");
            assert!(has("carillon_audit_conversations 13"), "{metrics}");
            break;
        }
        assert!(Instant::now() < deadline, "{metrics}{}", auditor.output());
        sleep(Duration::from_millis(100)).await;
    }
    assert!(auditor.terminate().success(), "{}", auditor.output());
}

fn wrong_partitions_are_refused(system: &System) {
    for partitions in ["8", "32"] {
        let mut audit = command();
        audit.arg("audit").envs(system.environment.clone()).env("CARILLON_PARTITIONS", partitions);
        let output = audit.output().expect("carillon audit runs");
        assert_eq!(output.status.code(), Some(64), "{partitions}");
        let said = format!("has 16 partitions, and the settings say {partitions}: set partitions to 16");
        assert!(text(&output.stderr).contains(&said), "{}", text(&output.stderr));
    }
}

#[test]
fn an_audit_without_a_bus_and_a_database_is_refused() {
    for arguments in [&[] as &[&str], &["--nats", "nats://127.0.0.1:4222"]] {
        let output = command().arg("audit").args(arguments).output().expect("carillon audit runs");
        assert_eq!(output.status.code(), Some(64));
        let said = text(&output.stderr);
        assert!(
            said.starts_with("carillon: an audit needs both --nats and --scylla")
                && said.lines().count() == 1
        );
    }
}
