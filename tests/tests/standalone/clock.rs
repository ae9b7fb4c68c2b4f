//! The wall clock is set back and forth while a process runs: no user is locked out, and no span of time gets longer or
//! shorter, because spans are measured by a steady clock.

use carillon_tests::client::{Client, Ended};
use carillon_tests::clock::WallClock;
use carillon_tests::server::{Server, standalone};
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::protocol::Message;

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

fn server(clock: &WallClock) -> (Server, TempDir) {
    let environment = clock.environment();
    let mut environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    environment.push(("AUTH_SECRET", SECRET));
    standalone(&environment)
}

async fn send(client: &mut Client, number: u32) -> Value {
    let reference = number.to_string();
    let frame =
        json!({"type": "send_message", "conversation_id": "room", "content": "x", "ref": reference.as_str()});
    client.send(frame).await;
    client.expect_where(|frame| frame["ref"] == reference.as_str()).await
}

/// Guards rates measured by the steady clock: by the wall clock, a user at the limit would stay refused until that
/// clock has caught up, here for a day.
#[tokio::test]
async fn a_rate_limited_user_waits_no_longer_than_retry_after_says() {
    let Some(clock) = WallClock::new() else { return };
    let (server, _data) = server(&clock);
    let mut alice = Client::user(&server.ws(), "alice").await;
    alice.join("room").await;
    assert_eq!(send(&mut alice, 0).await["type"], "message_ack");
    clock.step(-DAY);
    let (mut number, mut reply) = (0, json!(null));
    while reply["code"] != "rate_limited" && number < 100 {
        number += 1;
        reply = send(&mut alice, number).await;
    }
    let retry_after_ms = reply["retry_after_ms"].as_u64().expect("a time to wait");
    assert!(retry_after_ms <= 1_000, "{reply}");
    sleep(Duration::from_millis(retry_after_ms + 50)).await;
    assert_eq!(send(&mut alice, 1_000).await["type"], "message_ack");
    clock.step(DAY);
    let mut taken = 0;
    while send(&mut alice, 2_000 + taken).await["type"] == "message_ack" {
        taken += 1;
        assert!(taken < 30, "a step of the clock must not raise the rate limit");
    }
}

/// Guards the end of typing by the steady clock: by the wall clock, typing would end only when that has caught up, here
/// after an hour.
#[tokio::test]
async fn typing_ends_in_time_though_the_wall_clock_was_set_back() {
    let Some(clock) = WallClock::new() else { return };
    let (server, _data) = server(&clock);
    let mut alice = Client::user(&server.ws(), "alice").await;
    let mut bob = Client::user(&server.ws(), "bob").await;
    alice.join("room").await;
    bob.join("room").await;
    alice.send(json!({"type": "typing_start", "conversation_id": "room"})).await;
    assert_eq!(bob.expect("typing_indicator").await["is_typing"], true);
    let began = Instant::now();
    clock.step(-HOUR);
    assert_eq!(bob.expect("typing_indicator").await["is_typing"], false);
    let lasted = began.elapsed();
    assert!((4..10).contains(&lasted.as_secs()), "{lasted:?}");
}

/// Guards the limit of pings per second: measured by the wall clock, a client that pings slowly would be closed as a
/// flood.
#[tokio::test]
async fn a_client_that_pings_slowly_stays_connected() {
    let Some(clock) = WallClock::new() else { return };
    let (server, _data) = server(&clock);
    let mut alice = Client::user(&server.ws(), "alice").await;
    let ping = || Message::Ping(vec![1].into());
    alice.message(ping()).await.expect("sent");
    alice.send(json!({"type": "ping"})).await;
    assert_eq!(alice.next().await["type"], "pong");
    clock.step(-HOUR);
    for _ in 0..590 {
        alice.message(ping()).await.expect("sent");
    }
    sleep(Duration::from_secs(3)).await;
    for _ in 0..25 {
        alice.message(ping()).await.expect("sent");
    }
    alice.send(json!({"type": "ping"})).await;
    assert_eq!(alice.next().await["type"], "pong");
}

fn token(ttl: &str) -> String {
    let mut command = carillon_tests::server::command();
    let output = command.args(["token", "--sub", "alice", "--ttl", ttl]).env("AUTH_SECRET", SECRET).output();
    String::from_utf8(output.expect("carillon token runs").stdout).expect("text").trim().to_owned()
}

/// Guards the end of a session by the steady clock: by the wall clock, a session with a token of 6 s would last an
/// hour.
#[tokio::test]
async fn a_session_lasts_as_long_as_its_token_was_valid_at_connecting() {
    let Some(clock) = WallClock::new() else { return };
    let (server, _data) = server(&clock);
    let connect = async |ttl: &str| {
        let mut client = Client::connect(&format!("{}/ws/auth?token={}", server.ws(), token(ttl))).await;
        assert_eq!(client.next().await["type"], "online_users");
        client
    };
    let (mut brief, mut long) = (connect("6s").await, connect("1h").await);
    clock.step(-HOUR);
    assert_eq!(brief.ended().await, Ended { code: Some(1008), reason: "Token expired".into() });
    clock.step(3 * HOUR);
    let soon = long.next_within(Duration::from_secs(1)).await;
    assert_eq!(soon, None, "a token that expires much later must not be announced");
    long.send(json!({"type": "ping"})).await;
    assert_eq!(long.expect("pong").await["type"], "pong");
    let refused = connect_refused(&server, &token("1h")).await;
    assert_eq!(refused.reason, "Token expired", "a new token must be checked against the changed clock");
}

async fn connect_refused(server: &Server, token: &str) -> Ended {
    Client::connect(&format!("{}/ws/auth?token={token}", server.ws())).await.ended().await
}
