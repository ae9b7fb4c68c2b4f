//! Users, their presence, and sessions.

use super::harness::{Carillon, SECRET, authorization, backend, nobody, token, user, user_with};
use serde_json::{Value, json};

#[tokio::test]
async fn users_see_the_profiles_of_those_who_share_a_conversation() {
    let carillon = Carillon::start();
    let anns = ["--name", "Ann", "--email", "ann@x.org", "--role", "admin"];
    let (ann, ben, eve) = (user_with("ann", &anns), user("ben"), user("eve"));
    carillon.create(&ann, "room", &["ben", "cem"]).await;
    let _online = carillon.connect(&token("ann", &anns)).await;

    let shown = json!({"id": "ann", "name": "Ann", "email": null, "image": null, "role": "admin"});
    let whole = json!({"id": "ann", "name": "Ann", "email": "ann@x.org", "image": null, "role": "admin"});
    let known = |page: &Value| page["users"].as_array().is_some_and(|users| users.len() == 2);
    let shared = carillon.eventually(&ben, "/api/users", known).await;
    assert_eq!(shared["users"][0], shown);
    assert_eq!(
        shared["users"][1],
        json!({"id": "cem", "name": "cem", "email": null, "image": null, "role": null})
    );
    let page = carillon.get(&ben, "/api/users?limit=1").await.ok(200);
    assert_eq!((&page["users"], &page["nextCursor"]), (&json!([shown]), &json!("ann")));
    let page = carillon.get(&ben, "/api/users?limit=1&cursor=ann").await.ok(200);
    assert_eq!((&page["users"][0]["id"], &page["nextCursor"]), (&json!("cem"), &Value::Null));

    for (who, expected) in [(&ann, &whole), (&ben, &shown), (&backend(), &whole)] {
        assert_eq!(carillon.get(who, "/api/users/ann").await.ok(200), *expected);
        assert_eq!(carillon.get(who, "/api/users?ids=ann").await.ok(200)["users"], json!([expected]));
    }
    let (hidden, absent) =
        (carillon.get(&eve, "/api/users/ann").await, carillon.get(&eve, "/api/users/none").await);
    assert_eq!(hidden.error(), (403, "forbidden"));
    assert_eq!(hidden.body, absent.body);
    assert_eq!(carillon.get(&eve, "/api/users?ids=ann,none").await.ok(200)["users"], json!([]));
    assert_eq!(carillon.get(&backend(), "/api/users/none").await.error(), (404, "not_found"));
    assert_eq!(carillon.get(&backend(), "/api/users").await.error(), (400, "invalid_payload"));
    assert_eq!(carillon.get(&ben, "/api/users/a%20b").await.error(), (400, "invalid_payload"));
    let many = (0..201).map(|number| format!("u{number}")).collect::<Vec<_>>().join(",");
    assert_eq!(carillon.get(&ben, &format!("/api/users?ids={many}")).await.error(), (413, "too_large"));
}

/// To other users an online user looks like one that does not exist: offline, never seen.
#[tokio::test]
async fn presence_is_shown_only_to_users_who_share_a_conversation_and_to_backends() {
    let carillon = Carillon::start();
    let (ann, ben, eve) = (user("ann"), user("ben"), user("eve"));
    carillon.create(&ann, "room", &["ben"]).await;
    let mut online = carillon.connect(&token("ann", &[])).await;
    online.send(json!({"type": "set_status", "status": "away", "text": "lunch", "ref": "s"})).await;
    online.expect("ack").await;
    let path = "/api/presence?ids=ann,none,ann";
    let away = |body: &Value| body["users"]["ann"]["status"] == "away";
    for who in [&ben, &ann, &backend()] {
        let users = carillon.eventually(who, path, away).await["users"].clone();
        assert_eq!(
            users.as_object().map(serde_json::Map::len),
            Some(2),
            "the list must have every id once: {users}"
        );
        let seen = &users["ann"];
        assert_eq!((&seen["online"], &seen["text"]), (&json!(true), &json!("lunch")));
        assert!(seen["lastSeen"].as_str().is_some_and(|time| time.ends_with('Z')), "{seen}");
    }
    let hidden = carillon.get(&eve, path).await.ok(200);
    let offline = json!({"online": false, "status": "offline", "lastSeen": null});
    assert_eq!(hidden["users"], json!({"ann": offline, "none": offline}));
    assert_eq!(carillon.get(&ben, "/api/presence").await.error(), (400, "invalid_payload"));
    assert_eq!(carillon.get(&ben, "/api/presence?ids=a+b").await.error(), (400, "invalid_payload"));
    assert_eq!(carillon.get(&ben, "/api/presence?ids=").await.ok(200), json!({"users": {}}));
}

/// An open conversation has no stored participants; its first hundred joined users share presence
/// (`docs/decisions/0005-presence-in-open-conversations.md`).
#[tokio::test]
async fn users_joined_to_an_open_conversation_see_each_others_presence() {
    let carillon = Carillon::start_with(&[("CARILLON_ACCESS__NAMESPACES__OPEN", "open")]);
    let mut ann = carillon.connect(&token("ann", &[])).await;
    let mut ben = carillon.connect(&token("ben", &[])).await;
    ann.join("open:lobby").await;
    ben.join("open:lobby").await;
    let online = |body: &Value| body["users"]["ann"]["online"] == true;
    carillon.eventually(&user("ben"), "/api/presence?ids=ann", online).await;
    let eve = carillon.get(&user("eve"), "/api/presence?ids=ann").await.ok(200);
    assert_eq!(eve["users"]["ann"]["online"], false);
}

/// An expired token cannot be exchanged, and no token or secret is ever logged.
#[tokio::test]
async fn a_session_is_returned_and_exchanged_for_a_websocket_token() {
    let carillon = Carillon::start();
    let ann = user_with("ann", &["--name", "Ann", "--email", "ann@x.org"]);
    let session = carillon.get(&ann, "/api/auth/session").await.ok(200);
    let expected = json!({"id": "ann", "name": "Ann", "email": "ann@x.org", "image": null, "role": null});
    assert_eq!(session["user"], expected);
    assert!(session["expires"].as_str().is_some_and(|time| time.ends_with('Z')), "{session}");
    let stale = user_with("ann", &["--ttl", "1s"]);
    for none in [nobody(), authorization("Bearer nonsense".into()), backend()] {
        let answer = carillon.get(&none, "/api/auth/session").await;
        assert_eq!((answer.status, answer.body), (200, Value::Null));
        let refused = carillon.get(&none, "/api/websocket/auth").await;
        assert_eq!(refused.error(), (401, "unauthorized"));
        assert_eq!(refused.body["error"], "Unauthorized");
    }

    let exchanged = carillon.get(&ann, "/api/websocket/auth").await.ok(200);
    assert_eq!(exchanged["expiresIn"], 3_600);
    let token = exchanged["token"].as_str().expect("a token");
    let mut client = carillon.connect(token).await;
    client.send(json!({"type": "ping"})).await;
    client.expect("pong").await;
    let again = carillon.get(&authorization(format!("Bearer {token}")), "/api/auth/session").await.ok(200);
    assert_eq!(again["user"], expected);
    assert!(!carillon.server.output().contains(token), "a token is in the log output");
    assert!(!carillon.server.output().contains(SECRET));

    // The token of 1 s has expired for good: tokens are accepted for 5 s longer, because clocks differ.
    tokio::time::sleep(std::time::Duration::from_millis(7_200)).await;
    assert_eq!(carillon.get(&stale, "/api/websocket/auth").await.error(), (401, "token_expired"));
    assert_eq!(carillon.get(&stale, "/api/conversations").await.error(), (401, "token_expired"));
    assert_eq!(carillon.get(&stale, "/api/auth/session").await.ok(200), Value::Null);
}
