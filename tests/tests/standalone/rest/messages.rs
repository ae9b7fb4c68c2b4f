//! Messages: sending, sending again, reading pages, and the events that connected members receive.

use super::harness::{Carillon, backend, token, user, user_with};
use reqwest::Method;
use serde_json::{Value, json};

const MESSAGES: &str = "/api/conversations/room/messages";

fn seqs(page: &Value) -> Vec<u64> {
    let messages = page["messages"].as_array().expect("a list");
    messages.iter().map(|message| message["seq"].as_u64().expect("a seq")).collect()
}

#[tokio::test]
async fn a_message_is_stored_sent_to_members_and_read_back() {
    let carillon = Carillon::start();
    let ann = user_with("ann", &["--name", "Ann"]);
    carillon.create(&ann, "room", &["ben"]).await;
    let mut ben = carillon.connect(&token("ben", &["--name", "Ben"])).await;
    ben.join("room").await;
    let body = json!({
        "content": " a\u{0}b\n<b> ", "type": "markdown", "clientId": "c-1", "metadata": {"n": 1.50},
        "replyTo": null, "unknown": true
    });
    let sent = carillon.post(&ann, MESSAGES, body).await.ok(201);
    let expected = json!({
        "id": sent["id"], "conversationId": "room", "seq": 1, "senderId": "ann", "senderName": "Ann",
        "content": " ab\n<b> ", "type": "markdown", "timestamp": sent["timestamp"], "isAi": false,
        "clientId": "c-1", "metadata": {"n": 1.50}
    });
    assert_eq!(sent, expected);
    let heard = ben.expect("new_message").await;
    assert_eq!((&heard["seq"], &heard["message"]["id"]), (&sent["seq"], &sent["id"]));
    assert_eq!(heard["message"]["content"], sent["content"]);

    let answer = json!({"type": "send_message", "conversation_id": "room", "content": "yes", "ref": "r",
                        "reply_to": sent["id"]});
    ben.send(answer).await;
    let ack = ben.expect("message_ack").await;
    let page = carillon.get(&ann, MESSAGES).await.ok(200);
    assert_eq!(page["messages"][0], sent);
    let reply = &page["messages"][1];
    assert_eq!((&reply["id"], &reply["senderName"]), (&ack["id"], &json!("Ben")));
    assert_eq!((&reply["replyTo"], reply.get("clientId")), (&sent["id"], None));
    assert_eq!((&page["hasMore"], page.get("nextSeq")), (&json!(false), None));
}

/// The header `Idempotency-Key` and the field `clientId` are the same key, and each user has their own keys.
#[tokio::test]
async fn sending_again_with_the_same_key_returns_the_first_message() {
    let carillon = Carillon::start();
    let (ann, ben) = (user("ann"), user("ben"));
    carillon.create(&ann, "room", &["ben"]).await;
    let key = [("idempotency-key", "k-1")];
    let send = async |who, content: &str| {
        carillon.ask(who, Method::POST, MESSAGES, Some(json!({"content": content})), &key).await
    };
    let first = send(&ann, "first").await.ok(201);
    assert_eq!(send(&ann, "changed").await.ok(200), first);
    assert_eq!(
        carillon.post(&ann, MESSAGES, json!({"content": "c", "clientId": "k-1"})).await.ok(200),
        first
    );
    assert_eq!(send(&ben, "bens").await.ok(201)["seq"], 2, "an idempotency key must count only for its user");
    let both = carillon
        .ask(&ann, Method::POST, MESSAGES, Some(json!({"content": "c", "clientId": "k-2"})), &key)
        .await;
    assert_eq!(both.error(), (400, "invalid_payload"));
    assert_eq!(seqs(&carillon.get(&ann, MESSAGES).await.ok(200)), [1, 2]);
}

/// Before the fix, a WebSocket client received an empty page below seq 0 of every conversation, and the API refused it.
#[tokio::test]
async fn only_participants_read_pages_on_either_door_also_empty_ones() {
    let carillon = Carillon::start();
    let (ann, eve) = (user("ann"), user("eve"));
    carillon.create(&ann, "room", &[]).await;
    let mut inside = carillon.connect(&token("ann", &[])).await;
    let mut outside = carillon.connect(&token("eve", &[])).await;
    for (query, field, seq) in
        [("beforeSeq=0", "before_seq", 0), ("beforeSeq=1", "before_seq", 1), ("afterSeq=0", "after_seq", 0)]
    {
        assert_eq!(
            carillon.get(&eve, &format!("{MESSAGES}?{query}")).await.error(),
            (403, "forbidden"),
            "{query}"
        );
        assert_eq!(
            seqs(&carillon.get(&ann, &format!("{MESSAGES}?{query}")).await.ok(200)),
            [0; 0],
            "{query}"
        );
        let history = json!({"type": "history", "conversation_id": "room", field: seq});
        outside.send(history.clone()).await;
        assert_eq!(outside.expect("error").await["code"], "forbidden", "{query}");
        inside.send(history).await;
        assert_eq!(inside.expect("history").await["events"], json!([]), "{query}");
    }
}

#[tokio::test]
async fn pages_contain_only_messages_and_continue_without_gaps() {
    let carillon = Carillon::start();
    let ann = user("ann");
    carillon.create(&ann, "room", &[]).await;
    // Messages have odd seqs, changes of the title the even ones.
    for number in 0..6 {
        carillon.say(&ann, "room", &format!("message {number}")).await;
        let title = json!({"title": format!("title {number}")});
        carillon.patch(&ann, "/api/conversations/room", title).await.ok(200);
    }
    let page = async |query: &str| carillon.get(&ann, &format!("{MESSAGES}?{query}")).await.ok(200);
    assert_eq!(seqs(&page("").await), [1, 3, 5, 7, 9, 11]);
    let newest = page("limit=2").await;
    assert_eq!(
        (seqs(&newest), &newest["hasMore"], &newest["nextSeq"]),
        (vec![9, 11], &json!(true), &json!(9))
    );
    let before = page("limit=3&beforeSeq=9").await;
    assert_eq!((seqs(&before), &before["hasMore"]), (vec![3, 5, 7], &json!(true)));
    let oldest = page("limit=3&beforeSeq=3").await;
    assert_eq!((seqs(&oldest), &oldest["hasMore"]), (vec![1], &json!(false)));
    let after = page("limit=2&afterSeq=0").await;
    assert_eq!((seqs(&after), &after["hasMore"], &after["nextSeq"]), (vec![1, 3], &json!(true), &json!(3)));
    let after = page("afterSeq=7").await;
    assert_eq!((seqs(&after), &after["hasMore"]), (vec![9, 11], &json!(false)));
    for nothing in ["afterSeq=12", "beforeSeq=1", "beforeSeq=0"] {
        let page = page(nothing).await;
        assert_eq!((seqs(&page), &page["hasMore"]), (vec![], &json!(false)), "{nothing}");
    }
    assert_eq!(seqs(&page("limit=100000").await).len(), 6, "a limit above 200 must be accepted");
    let both = carillon.get(&ann, &format!("{MESSAGES}?afterSeq=1&beforeSeq=3")).await;
    assert_eq!(both.error(), (400, "invalid_payload"));
    // A page of one message is still found when the newest 24 events are all changes.
    for number in 0..24 {
        let title = json!({"title": format!("again {number}")});
        carillon.patch(&backend(), "/api/conversations/room", title).await.ok(200);
    }
    let (mut walked, mut query, mut pages) = (Vec::new(), String::from("limit=1"), 0);
    while walked.len() < 6 {
        let page = page(&query).await;
        walked.extend(seqs(&page));
        query = format!("limit=1&beforeSeq={}", page["nextSeq"]);
        pages += 1;
        assert!(pages < 20 && (page["hasMore"] == true || walked.len() == 6), "{walked:?}");
    }
    assert_eq!(walked, [11, 9, 7, 5, 3, 1]);
}

#[tokio::test]
async fn a_backend_sends_as_any_user() {
    let carillon = Carillon::start();
    carillon.create(&user("ann"), "room", &[]).await;
    let named =
        json!({"content": "a", "senderId": "bot", "senderName": "Bot", "isAi": true, "personaId": "p"});
    let sent = carillon.post(&backend(), MESSAGES, named).await.ok(201);
    assert_eq!(
        (&sent["senderId"], &sent["senderName"], &sent["isAi"]),
        (&json!("bot"), &json!("Bot"), &json!(true))
    );
    let unnamed =
        carillon.post(&backend(), MESSAGES, json!({"content": "a", "senderId": "bot"})).await.ok(201);
    assert_eq!((&unnamed["senderName"], &unnamed["isAi"]), (&json!("bot"), &json!(false)));
    // A user's name is known after their first connection.
    drop(carillon.connect(&token("cem", &["--name", "Cem"])).await);
    let known = carillon.post(&backend(), MESSAGES, json!({"content": "a", "senderId": "cem"})).await.ok(201);
    assert_eq!(known["senderName"], "Cem");
    assert_eq!(carillon.get(&backend(), MESSAGES).await.ok(200)["messages"][0], sent);
    let nobody = carillon.post(&backend(), MESSAGES, json!({"content": "a"})).await;
    assert_eq!(nobody.error(), (400, "invalid_payload"));
    let own = json!({"content": "a", "senderId": "ann"});
    assert_eq!(carillon.post(&user("ann"), MESSAGES, own).await.ok(201)["senderId"], "ann");
}

#[tokio::test]
async fn users_are_rate_limited_and_backends_are_not() {
    let carillon = Carillon::start_with(&[
        ("CARILLON_LIMITS__MESSAGES_PER_MINUTE", "2"),
        ("CARILLON_LIMITS__OPERATIONS_PER_MINUTE", "2"),
    ]);
    let ann = user("ann");
    carillon.create(&ann, "room", &[]).await;
    for _ in 0..2 {
        carillon.say(&ann, "room", "hi").await;
    }
    let refused = carillon.post(&ann, MESSAGES, json!({"content": "hi"})).await;
    assert_eq!(refused.error(), (429, "rate_limited"));
    let seconds: u64 = refused.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=30).contains(&seconds), "{seconds}");
    assert!(refused.body["retry_after_ms"].as_u64().is_some_and(|wait_ms| wait_ms <= 30_000));
    for _ in 0..4 {
        carillon.post(&backend(), MESSAGES, json!({"content": "hi", "senderId": "ann"})).await.ok(201);
    }
    carillon.patch(&ann, "/api/conversations/room", json!({"title": "a"})).await.ok(200);
    let refused = carillon.patch(&ann, "/api/conversations/room", json!({"title": "b"})).await;
    assert_eq!(refused.error(), (429, "rate_limited"));
}

#[tokio::test]
async fn an_open_conversation_is_created_by_its_first_message() {
    let carillon = Carillon::start_with(&[("CARILLON_ACCESS__NAMESPACES__OPEN", "open")]);
    let (ann, path) = (user("ann"), "/api/conversations/open:lobby");
    assert_eq!(carillon.get(&ann, path).await.error(), (404, "not_found"));
    assert_eq!(seqs(&carillon.get(&ann, &format!("{path}/messages")).await.ok(200)), Vec::<u64>::new());
    carillon.say(&ann, "open:lobby", "first").await;
    let lobby = carillon.get(&user("ben"), path).await.ok(200);
    assert_eq!((&lobby["headSeq"], &lobby["participants"]), (&json!(1), &json!([])));
    assert_eq!(lobby["ownerId"], Value::Null);
    assert_eq!(carillon.patch(&ann, path, json!({"title": "mine"})).await.error(), (403, "forbidden"));
}
