//! Presence follows changes of membership at once (`docs/protocol.md#presence`), under the access rule `participants`.

use super::harness::{Carillon, backend, token, user};
use carillon_tests::client::Client;
use serde_json::{Value, json};
use std::time::Duration;

/// Longer than an update takes to arrive on a loaded machine, shorter than the grace of 3 s before a user is offline.
const QUIET: Duration = Duration::from_millis(1_500);

async fn connect(carillon: &Carillon, id: &str) -> Client {
    carillon.connect(&token(id, &[])).await
}

/// The user of the next presence update that a client receives, and whether they are online.
async fn seen(client: &mut Client) -> (String, bool) {
    let frame = client.expect("presence_update").await;
    (frame["user_id"].as_str().expect("a user").to_owned(), frame["online"] == true)
}

async fn sees_online(client: &mut Client, others: &[&str]) {
    let mut heard = Vec::new();
    for _ in others {
        heard.push(seen(client).await);
    }
    heard.sort();
    assert_eq!(heard, others.iter().map(|other| ((*other).to_owned(), true)).collect::<Vec<_>>());
}

/// Whether others are online, according to `get_online_status`.
async fn status_of(client: &mut Client, others: &[&str]) -> Vec<bool> {
    client.send(json!({"type": "get_online_status", "user_ids": others, "ref": "status"})).await;
    let status = client.expect_where(|frame| frame["ref"] == "status").await;
    others.iter().map(|other| status["users"][*other]["online"] == true).collect()
}

async fn hears_nothing(client: &mut Client, why: &str) {
    let heard = client.all_within(QUIET).await;
    let presence: Vec<&Value> = heard.iter().filter(|frame| frame["type"] == "presence_update").collect();
    assert!(presence.is_empty(), "{why}: {presence:?}");
}

/// Before the fix, a gateway read a user's acquaintances only once, when the connection began. If a conversation was
/// created, or a participant added, while the users were connected, no presence update was sent, and
/// `get_online_status` reported online users as offline.
#[tokio::test]
async fn connected_users_see_each_other_once_they_share_a_conversation() {
    let carillon = Carillon::start();
    let (mut ann, mut ben) = (connect(&carillon, "ann").await, connect(&carillon, "ben").await);
    let mut cem = connect(&carillon, "cem").await;
    assert_eq!(status_of(&mut ann, &["ben", "cem"]).await, [false, false]);

    carillon.create(&user("ann"), "room", &["ben"]).await;
    assert_eq!(status_of(&mut ann, &["ben", "cem"]).await, [true, false]);
    sees_online(&mut ben, &["ann"]).await;
    assert_eq!(status_of(&mut ben, &["ann"]).await, [true]);

    let cems = json!({"userIds": ["cem"]});
    carillon.post(&user("ann"), "/api/conversations/room/participants", cems).await;
    assert_eq!(status_of(&mut cem, &["ann", "ben"]).await, [true, true]);
    for (client, other) in [(&mut ann, "cem"), (&mut ben, "cem")] {
        sees_online(client, &[other]).await;
        hears_nothing(client, "once").await;
    }
    // A second shared conversation causes no second update.
    carillon.create(&user("ben"), "second", &["ann"]).await;
    ann.send(json!({"type": "set_status", "status": "away"})).await;
    for client in [&mut ben, &mut cem] {
        let away = client.expect("presence_update").await;
        assert_eq!((&away["user_id"], &away["status"]), (&json!("ann"), &json!("away")));
    }
}

/// Before the fix, a removed user saw the other participants, and was seen by them, until the next connection.
#[tokio::test]
async fn a_removed_user_sees_and_is_seen_only_where_a_conversation_is_still_shared() {
    let carillon = Carillon::start();
    for (id, participants) in [("room", ["ben", "cem"]), ("second", ["cem", "dan"])] {
        carillon.create(&user("ann"), id, &participants).await;
    }
    let mut ann = connect(&carillon, "ann").await;
    let mut ben = connect(&carillon, "ben").await;
    let mut cem = connect(&carillon, "cem").await;
    ben.send(json!({"type": "watch_presence", "user_ids": ["ann"]})).await;
    assert_eq!(status_of(&mut ben, &["ann", "cem"]).await, [true, true]);

    for id in ["ben", "cem"] {
        let path = format!("/api/conversations/room/participants/{id}");
        carillon.delete(&backend(), &path).await;
    }
    assert_eq!(status_of(&mut ben, &["ann", "cem"]).await, [false, false]);
    assert_eq!(status_of(&mut ann, &["ben", "cem"]).await, [false, true]);
    assert_eq!(status_of(&mut cem, &["ann", "ben"]).await, [true, false]);
    ann.all_within(QUIET).await;
    cem.all_within(QUIET).await;
    for (client, status) in [(&mut ann, "away"), (&mut ben, "dnd")] {
        client.send(json!({"type": "set_status", "status": status})).await;
    }
    let away = cem.expect("presence_update").await;
    assert_eq!(
        (&away["user_id"], &away["status"]),
        (&json!("ann"), &json!("away")),
        "only ann, who shares the second room, may be pushed"
    );
    hears_nothing(&mut cem, "the first is not").await;
    hears_nothing(&mut ann, "who was removed is not seen").await;
    hears_nothing(&mut ben, "nor do they see").await;

    // `unwatch_presence` ends the updates, but its reply still has the status.
    cem.send(json!({"type": "unwatch_presence", "user_ids": ["ann"], "ref": "unwatched"})).await;
    let status = cem.expect_where(|frame| frame["ref"] == "unwatched").await;
    assert_eq!(status["users"]["ann"]["online"], true);
    ann.send(json!({"type": "set_status", "status": "active"})).await;
    hears_nothing(&mut cem, "no longer watched").await;
}

/// A conversation with more than 100 participants shows no presence; with 100 again, it does.
#[tokio::test]
async fn a_conversation_shows_no_presence_while_it_has_over_a_hundred_participants() {
    let carillon = Carillon::start();
    let crowd: Vec<String> = (0..98).map(|number| format!("u{number}")).collect();
    let crowd: Vec<&str> = crowd.iter().map(String::as_str).chain(["ben"]).collect();
    let (mut ann, mut ben) = (connect(&carillon, "ann").await, connect(&carillon, "ben").await);
    carillon.create(&user("ann"), "hall", &crowd).await;
    sees_online(&mut ann, &["ben"]).await;
    sees_online(&mut ben, &["ann"]).await;
    let one_more = json!({"userIds": ["one-more"]});
    carillon.post(&user("ann"), "/api/conversations/hall/participants", one_more).await;
    // Each user's acquaintances are read again separately.
    assert_eq!(status_of(&mut ann, &["ben"]).await, [false]);
    assert_eq!(status_of(&mut ben, &["ann"]).await, [false]);
    ann.send(json!({"type": "set_status", "status": "away"})).await;
    hears_nothing(&mut ben, "101 participants").await;
    carillon.delete(&user("ann"), "/api/conversations/hall/participants/one-more").await;
    sees_online(&mut ben, &["ann"]).await;
    assert_eq!(status_of(&mut ann, &["ben"]).await, [true]);
}
