//! A session's current token decides which conversations it receives, against a real standalone process with the access
//! rule `token` (`docs/protocol.md#endpoints`).

use carillon_tests::client::Client;
use carillon_tests::parts::free_port;
use carillon_tests::server::{Server, command};
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";
/// Longer than a frame takes on a loaded machine, shorter than any timer of the server that sends a frame by itself.
const QUIET: Duration = Duration::from_millis(700);

fn token(user: &str, conversations: &str) -> String {
    let arguments = ["token", "--sub", user, "--conversations", conversations];
    let output = command().args(arguments).env("AUTH_SECRET", SECRET).output().expect("carillon token runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// A server without `--dev`.
fn start() -> (Server, TempDir) {
    let (port, data) = (free_port(), TempDir::new().expect("a directory"));
    let data_dir = data.path().display().to_string();
    let arguments = ["standalone", "--listen", &format!("127.0.0.1:{port}"), "--data-dir", &data_dir];
    let environment = [("AUTH_SECRET", SECRET), ("CARILLON_ACCESS__DEFAULT", "token")];
    (Server::start(port, arguments.map(String::from).into(), &environment), data)
}

async fn connect(server: &Server, user: &str, conversations: &str) -> Client {
    let url = format!("{}/ws/auth?token={}", server.ws(), token(user, conversations));
    let mut client = Client::connect(&url).await;
    client.expect("online_users").await;
    client
}

async fn ask(client: &mut Client, mut frame: Value, reference: &str) -> Value {
    frame["ref"] = json!(reference);
    client.send(frame).await;
    client.expect_where(|answer| answer["ref"] == reference).await
}

/// Before the fix, a renewed token applied only to later joins and messages: a session kept receiving, typing and
/// broadcasting in conversations that it had joined earlier, for as long as it renewed its token.
#[tokio::test]
async fn a_renewed_token_ends_subscriptions_that_it_does_not_name() {
    let (server, _data) = start();
    let mut eve = connect(&server, "eve", "team:*,hall").await;
    let mut bob = connect(&server, "bob", "team:*,hall").await;
    for client in [&mut eve, &mut bob] {
        client.join("team:a").await;
        client.join("hall").await;
    }
    eve.send(json!({"type": "typing_start", "conversation_id": "team:a"})).await;
    assert_eq!(bob.expect("typing_indicator").await["is_typing"], true);

    let renewal = json!({"type": "authenticate", "token": token("eve", "hall")});
    assert_eq!(ask(&mut eve, renewal, "renewed").await["type"], "authenticated");
    let ended = bob.expect("typing_indicator").await;
    assert_eq!((&ended["user_id"], &ended["is_typing"]), (&json!("eve"), &json!(false)));
    for (kind, more) in [
        ("typing_start", json!({})),
        ("broadcast", json!({"event": "e", "data": 1})),
        ("move_cursor", json!({"position": 1})),
        ("send_message", json!({"content": "may I"})),
        ("history", json!({})),
        ("join_conversation", json!({})),
    ] {
        let mut frame = more;
        frame["type"] = json!(kind);
        frame["conversation_id"] = json!("team:a");
        assert_eq!(ask(&mut eve, frame, kind).await["code"], "forbidden", "{kind}");
    }
    bob.send_message("team:a", "not for eve", "k1").await;
    bob.send_message("hall", "for all", "k2").await;
    let heard = eve.expect("new_message").await;
    assert_eq!(heard["message"]["content"], "for all", "{heard}");
    assert_eq!(eve.all_within(QUIET).await, Vec::<Value>::new());
    let silent = bob.all_within(QUIET).await;
    assert!(silent.iter().all(|frame| frame["type"] == "new_message"), "{silent:?}");

    // The first subscription left no trace: with a token that names the conversation again, a new join works as usual.
    let renewal = json!({"type": "authenticate", "token": token("eve", "team:a")});
    ask(&mut eve, renewal, "again").await;
    let join = json!({"type": "join_conversation", "conversation_id": "team:a", "after_seq": 0});
    let joined = ask(&mut eve, join, "rejoined").await;
    assert_eq!((&joined["type"], &joined["participant_count"]), (&json!("conversation_joined"), &json!(2)));
    assert_eq!(eve.expect("new_message").await["message"]["content"], "not for eve");
    bob.send_message("hall", "not for eve either", "k3").await;
    assert_eq!(eve.all_within(QUIET).await, Vec::<Value>::new());
}
