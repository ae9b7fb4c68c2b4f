//! Users who are added to a conversation while they are connected to different gateways see each other's presence
//! (`docs/protocol.md#presence`): a standalone process and a second gateway on one nats-server.

use carillon_tests::client::Client;
use carillon_tests::parts::{NatsOptions, NatsServer, free_port};
use carillon_tests::server::{Server, command};
use serde_json::json;
use std::time::Duration;
use tempfile::TempDir;

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";

fn token(user: &str) -> String {
    let arguments = ["token", "--sub", user];
    let output = command().args(arguments).env("AUTH_SECRET", SECRET).output().expect("carillon token runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn start(role: &str, data: &TempDir, nats: &str) -> Server {
    let port = free_port();
    let (address, data_dir) = (format!("127.0.0.1:{port}"), data.path().display().to_string());
    let arguments = [role, "--listen", &address, "--data-dir", &data_dir].map(String::from);
    Server::start(port, arguments.into(), &[("AUTH_SECRET", SECRET), ("NATS_URL", nats)])
}

async fn connect(server: &Server, user: &str) -> Client {
    let mut client = Client::connect(&format!("{}/ws/auth?token={}", server.ws(), token(user))).await;
    client.expect("online_users").await;
    client
}

async fn sees(client: &mut Client, user: &str) {
    client.expect_where(|frame| frame["type"] == "presence_update" && frame["user_id"] == user).await;
}

/// Before the fix, the users received no presence of each other until they connected again.
#[tokio::test(flavor = "multi_thread")]
async fn users_in_a_new_conversation_see_each_other_on_every_gateway() {
    let Some(nats) = NatsServer::start(NatsOptions::default()).await else { return };
    let data = TempDir::new().expect("a directory");
    let first = start("standalone", &data, &nats.url());
    let second = start("gateway", &data, &nats.url());
    let (mut ann, mut ben) = (connect(&first, "ann").await, connect(&second, "ben").await);
    let mut cem = connect(&second, "cem").await;
    // The request goes to the second gateway, but the conversation's owner is connected to the first.
    let body = json!({"id": "room", "participants": ["ben", "cem"]});
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().expect("a client");
    let request = client.post(format!("{}/api/conversations", second.http()));
    let answer = request.bearer_auth(token("ann")).json(&body).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 201);
    for user in ["ben", "cem"] {
        sees(&mut ann, user).await;
    }
    for client in [&mut ben, &mut cem] {
        sees(client, "ann").await;
    }
    cem.send(json!({"type": "get_online_status", "user_ids": ["ann", "ben"]})).await;
    let status = cem.expect("online_status").await;
    assert_eq!(
        (&status["users"]["ann"]["online"], &status["users"]["ben"]["online"]),
        (&json!(true), &json!(true))
    );
}
