//! Conversations and their participants.

use super::harness::{Carillon, backend, token, user, user_with};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn a_conversation_is_created_read_and_changed_by_its_owner() {
    let carillon = Carillon::start();
    let (ann, ben, eve) = (user("ann"), user("ben"), user("eve"));
    let body =
        json!({"id": "team:plan", "title": "Plan\n", "participants": ["ben", "ann"], "metadata": {"a": [1]}});
    let answer = carillon.post(&ann, "/api/conversations", body.clone()).await;
    assert_eq!(answer.headers["location"], "/api/conversations/team:plan");
    let created = answer.ok(201);
    let expected = json!({
        "id": "team:plan", "title": "Plan", "participants": ["ann", "ben"], "ownerId": "ann",
        "createdAt": created["createdAt"], "lastMessage": null, "headSeq": 0, "unreadCount": 0,
        "archived": false, "metadata": {"a": [1]}
    });
    assert_eq!(created, expected);
    let path = "/api/conversations/team:plan";
    for who in [&ann, &ben, &backend()] {
        assert_eq!(carillon.get(who, path).await.ok(200), created);
    }
    assert_eq!(carillon.post(&ben, "/api/conversations", body).await.error(), (409, "conflict"));

    let changed = carillon
        .patch(&ann, path, json!({"title": "Plans", "archived": true, "metadata": null}))
        .await
        .ok(200);
    assert_eq!((&changed["title"], &changed["archived"]), (&json!("Plans"), &json!(true)));
    assert_eq!((&changed["metadata"], &changed["headSeq"]), (&json!({"a": [1]}), &json!(1)));
    let cleared = carillon.patch(&backend(), path, json!({"title": "", "metadata": {}})).await.ok(200);
    assert_eq!((&cleared["title"], &cleared["metadata"]), (&Value::Null, &json!({})));
    for who in [&ben, &eve] {
        assert_eq!(carillon.patch(who, path, json!({"title": "mine"})).await.error(), (403, "forbidden"));
    }
    for (change, refused) in [
        (json!({}), (400, "invalid_payload")),
        (json!({"title": "x".repeat(201)}), (413, "too_large")),
        (json!({"metadata": {"a": "x".repeat(4_096)}}), (413, "too_large")),
        (json!({"archived": "yes"}), (400, "invalid_payload")),
    ] {
        assert_eq!(carillon.patch(&ann, path, change).await.error(), refused);
    }
}

/// A different answer would reveal to a stranger which conversations exist.
#[tokio::test]
async fn a_refusal_is_identical_whether_the_conversation_exists_or_not() {
    let carillon = Carillon::start_with(&[("CARILLON_ACCESS__NAMESPACES__TEAM", "token")]);
    let (ann, eve) = (user("ann"), user("eve"));
    carillon.create(&ann, "there", &["ben"]).await;
    let lead = user_with("lead", &["--conversations", "team:*"]);
    carillon.create(&lead, "team:there", &[]).await;
    for (there, absent) in [("there", "absent"), ("team:there", "team:absent")] {
        let there = format!("/api/conversations/{there}");
        let absent = format!("/api/conversations/{absent}");
        for (one, other) in [
            (carillon.get(&eve, &there).await, carillon.get(&eve, &absent).await),
            (
                carillon.patch(&eve, &there, json!({"title": "a"})).await,
                carillon.patch(&eve, &absent, json!({"title": "a"})).await,
            ),
            (
                carillon.post(&eve, &format!("{there}/participants"), json!({"userIds": ["eve"]})).await,
                carillon.post(&eve, &format!("{absent}/participants"), json!({"userIds": ["eve"]})).await,
            ),
            (
                carillon.delete(&eve, &format!("{there}/participants/ann")).await,
                carillon.delete(&eve, &format!("{absent}/participants/ann")).await,
            ),
            (
                carillon.get(&eve, &format!("{there}/messages")).await,
                carillon.get(&eve, &format!("{absent}/messages")).await,
            ),
            (
                carillon.post(&eve, &format!("{there}/messages"), json!({"content": "a"})).await,
                carillon.post(&eve, &format!("{absent}/messages"), json!({"content": "a"})).await,
            ),
        ] {
            assert_eq!(one.error(), (403, "forbidden"));
            assert_eq!(one.body, other.body, "{there}");
        }
    }
    // Without a token that names the namespace, eve cannot create a conversation there either; lead can read its own.
    let taken = carillon.post(&eve, "/api/conversations", json!({"id": "team:mine"})).await;
    assert_eq!(taken.error(), (403, "forbidden"));
    assert_eq!(carillon.get(&lead, "/api/conversations/team:there").await.ok(200)["ownerId"], "lead");
    // A backend learns that a conversation does not exist.
    assert_eq!(carillon.get(&backend(), "/api/conversations/absent").await.error(), (404, "not_found"));
    let patched = carillon.patch(&backend(), "/api/conversations/absent", json!({"title": "a"})).await;
    assert_eq!(patched.error(), (404, "not_found"));
}

#[tokio::test]
async fn creating_again_with_the_same_idempotency_key_returns_the_first_conversation() {
    let carillon = Carillon::start();
    let (ann, ben) = (user("ann"), user("ben"));
    let create = async |who, key, title: &str| {
        let body = Some(json!({"title": title}));
        let headers = [("idempotency-key", key)];
        carillon.ask(who, reqwest::Method::POST, "/api/conversations", body, &headers).await
    };
    let first = create(&ann, "key-1", "first").await.ok(201);
    let again = create(&ann, "\"key-1\"", "second").await.ok(200);
    assert_eq!(again, first);
    // Keys of conversations and client ids of messages are independent, even if equal.
    let path = format!("/api/conversations/{}/messages", first["id"].as_str().expect("an id"));
    let message = carillon.post(&ann, &path, json!({"content": "hi", "clientId": "key-1"})).await.ok(201);
    assert_eq!((&message["seq"], &message["clientId"]), (&json!(1), &json!("key-1")));
    let other = create(&ann, "key-2", "other").await.ok(201);
    let bens = create(&ben, "key-1", "bens").await.ok(201);
    assert!(other["id"] != first["id"] && bens["id"] != first["id"]);
    assert_eq!(create(&ann, "not a key", "x").await.error(), (400, "invalid_payload"));
}

/// The list of each user is derived from events, so it follows a message within a second. Pages contain every
/// conversation once.
#[tokio::test]
async fn lists_are_sorted_by_activity_and_come_in_pages() {
    let carillon = Carillon::start();
    let ann = user("ann");
    for id in ["a", "b", "c"] {
        carillon.create(&ann, id, &[]).await;
    }
    carillon.create(&user("ben"), "not-hers", &[]).await;
    carillon.say(&ann, "b", "the newest").await;
    let ids = |page: &Value| -> Vec<String> {
        let list = page["conversations"].as_array().expect("a list");
        list.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
    };
    let listed = |page: &Value| ids(page).len() == 3 && page["conversations"][0]["id"] == "b";
    let page = carillon.eventually(&ann, "/api/conversations", listed).await;
    assert_eq!(page["nextCursor"], Value::Null);
    let newest = &page["conversations"][0];
    assert_eq!((&newest["lastMessage"]["content"], &newest["headSeq"]), (&json!("the newest"), &json!(1)));
    assert_eq!(newest["unreadCount"], 1);
    let mut walked = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = carillon.get(&ann, &format!("/api/conversations?limit=2&cursor={cursor}")).await.ok(200);
        assert!(ids(&page).len() <= 2);
        walked.extend(ids(&page));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    walked.sort();
    assert_eq!(walked, ["a", "b", "c"]);
    let of_ann = carillon.get(&backend(), "/api/conversations?userId=ann").await.ok(200);
    assert_eq!(ids(&of_ann), ids(&page));
    assert_eq!(carillon.get(&backend(), "/api/conversations").await.error(), (400, "invalid_payload"));
    assert_eq!(carillon.get(&ann, "/api/conversations?userId=ben").await.error(), (403, "forbidden"));
    assert_eq!(carillon.get(&ann, "/api/conversations?cursor=a%20b").await.error(), (400, "invalid_payload"));
}

#[tokio::test]
async fn a_backend_creates_conversations_with_an_owner_or_without() {
    let carillon = Carillon::start();
    let body = json!({"id": "given", "ownerId": "ann", "participants": ["ben"]});
    let given = carillon.post(&backend(), "/api/conversations", body).await.ok(201);
    assert_eq!((&given["ownerId"], &given["participants"]), (&json!("ann"), &json!(["ann", "ben"])));
    carillon.patch(&user("ann"), "/api/conversations/given", json!({"title": "mine"})).await.ok(200);
    let nobodys =
        carillon.post(&backend(), "/api/conversations", json!({"participants": ["ben"]})).await.ok(201);
    assert_eq!((&nobodys["ownerId"], &nobodys["participants"]), (&Value::Null, &json!(["ben"])));
    let path = format!("/api/conversations/{}", nobodys["id"].as_str().expect("an id"));
    carillon.get(&user("ben"), &path).await.ok(200);
    let many: Vec<String> = (0..201).map(|number| format!("u{number}")).collect();
    let many = carillon.post(&backend(), "/api/conversations", json!({"participants": many})).await;
    assert_eq!(many.error(), (413, "too_large"));
}

#[tokio::test]
async fn participants_are_added_and_removed_by_the_owner_a_backend_or_themselves() {
    let carillon = Carillon::start();
    let (ann, ben, cem) = (user("ann"), user("ben"), user("cem"));
    carillon.create(&ann, "room", &["ben"]).await;
    let path = "/api/conversations/room/participants";
    assert_eq!(carillon.post(&ben, path, json!({"userIds": ["cem"]})).await.error(), (403, "forbidden"));
    let grown = carillon.post(&ann, path, json!({"userIds": ["cem", "ben", "cem"]})).await.ok(200);
    assert_eq!((&grown["participants"], &grown["headSeq"]), (&json!(["ann", "ben", "cem"]), &json!(1)));
    let again = carillon.post(&ann, path, json!({"userIds": ["cem"]})).await.ok(200);
    assert_eq!(again["headSeq"], 1, "adding a participant again must not make an event");
    let by_key = carillon.post(&backend(), path, json!({"userIds": ["a+b@x.org"]})).await.ok(200);
    assert_eq!(by_key["participants"], json!(["a+b@x.org", "ann", "ben", "cem"]));
    carillon.get(&cem, "/api/conversations/room").await.ok(200);

    assert_eq!(carillon.delete(&ben, &format!("{path}/cem")).await.error(), (403, "forbidden"));
    carillon.delete(&cem, &format!("{path}/cem")).await.ok(204);
    assert_eq!(carillon.get(&cem, "/api/conversations/room").await.error(), (403, "forbidden"));
    assert_eq!(carillon.delete(&ann, &format!("{path}/cem")).await.error(), (404, "not_found"));
    carillon.delete(&backend(), &format!("{path}/a%2Bb@x.org")).await.ok(204);
    carillon.delete(&ann, &format!("{path}/ben")).await.ok(204);
    let left = carillon.get(&ann, "/api/conversations/room").await.ok(200);
    assert_eq!((&left["participants"], &left["headSeq"]), (&json!(["ann"]), &json!(5)));
}

/// The removed user receives everything up to their removal, then `conversation_left`, and nothing after it.
#[tokio::test]
async fn members_receive_every_change_and_a_removed_user_nothing_after_the_removal() {
    let carillon = Carillon::start();
    let ann = user("ann");
    carillon.create(&ann, "room", &["ben"]).await;
    let mut watching = carillon.connect(&token("ann", &[])).await;
    let mut removed = carillon.connect(&token("ben", &[])).await;
    watching.join("room").await;
    removed.join("room").await;
    let path = "/api/conversations/room";
    carillon.patch(&ann, path, json!({"title": "New"})).await.ok(200);
    carillon.post(&ann, &format!("{path}/participants"), json!({"userIds": ["cem"]})).await.ok(200);
    carillon.delete(&ann, &format!("{path}/participants/ben")).await.ok(204);
    carillon.say(&ann, "room", "without ben").await;
    let updated = watching.expect("conversation_updated").await;
    assert_eq!((&updated["seq"], &updated["changes"]), (&json!(1), &json!({"title": "New"})));
    assert_eq!(watching.expect("participant_joined").await["user_id"], "cem");
    assert_eq!(watching.expect("participant_left").await["user_id"], "ben");
    assert_eq!(watching.expect("new_message").await["seq"], 4);
    assert_eq!(removed.expect("participant_left").await["seq"], 3);
    assert_eq!(removed.next().await["type"], "conversation_left");
    let later = removed.all_within(Duration::from_millis(700)).await;
    assert!(later.iter().all(|frame| frame["conversation_id"] != "room"), "{later:?}");
}
