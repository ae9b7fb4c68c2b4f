//! The native vocabulary (`docs/protocol.md#native-websocket`) against a real standalone process.

use carillon_tests::client::{Client, Ended};
use carillon_tests::server::standalone;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Longer than a frame takes on a loaded machine, shorter than any timer of the server that sends a frame by itself.
const QUIET: Duration = Duration::from_millis(700);

/// The frames that a client of Gator's chat protocol sends, in its order, get the replies that it expects.
#[tokio::test]
async fn clients_of_gators_chat_protocol_work_unchanged() {
    let (server, _data) = standalone(&[]);
    let mut client = Client::connect(&format!("{}/ws/test-user", server.ws())).await;
    let first = client.next().await;
    assert_eq!((&first["type"], &first["users"]), (&json!("online_users"), &json!(["test-user"])));
    client.send(json!({"type": "join_conversation", "conversation_id": "c1"})).await;
    let joined = client.next().await;
    assert_eq!(joined["type"], "conversation_joined", "{joined}");
    assert_eq!((&joined["head_seq"], &joined["participant_count"]), (&json!(0), &json!(1)));
    let frame =
        json!({"type": "send_message", "conversation_id": "c1", "content": "hello", "persona_id": null});
    client.send(frame).await;
    let message = client.next().await;
    assert_eq!(message["type"], "new_message", "no ack without client_id or ref: {message}");
    assert_eq!((&message["seq"], &message["message"]["content"]), (&json!(1), &json!("hello")));
    assert_eq!(message["message"]["sender_id"], "test-user");
    assert_eq!(message["message"].get("client_id"), None);
    client.send(json!({"type": "typing_start", "conversation_id": "c1"})).await;
    client.send(json!({"type": "typing_stop", "conversation_id": "c1"})).await;
    client.send(json!({"type": "ping", "ref": "p"})).await;
    let pong = client.next().await;
    assert_eq!(
        (&pong["type"], &pong["ref"]),
        (&json!("pong"), &json!("p")),
        "typing must not be sent to the typist"
    );
    client.send(json!({"type": "leave_conversation", "conversation_id": "c1"})).await;
    assert_eq!(client.next().await["type"], "conversation_left");
}

/// Guards the contiguous `seq` and the catch-up of a member behind the head. If applying a command skips every seventh
/// seq, the events above the first gap never arrive here. If `Topic::join` treats a member behind the head as live, the
/// last client receives nothing.
#[tokio::test]
async fn members_and_their_other_devices_receive_messages_in_one_order() {
    let (server, _data) = standalone(&[]);
    let mut alice = Client::user(&server.ws(), "alice").await;
    let mut phone = Client::user(&server.ws(), "alice").await;
    let mut bob = Client::user(&server.ws(), "bob").await;
    for client in [&mut alice, &mut phone, &mut bob] {
        client.join("room").await;
    }
    for number in 0..20 {
        let sender = if number % 2 == 0 { &mut alice } else { &mut bob };
        sender.send_message("room", &format!("message {number}"), &format!("id-{number}")).await;
    }
    let mut later = Client::user(&server.ws(), "carol").await;
    later.send(json!({"type": "join_conversation", "conversation_id": "room", "after_seq": 0})).await;
    assert_eq!(later.expect("conversation_joined").await["head_seq"], 20);
    for seq in 1..=20 {
        let heard = later.expect("new_message").await;
        assert_eq!(
            (&heard["seq"], &heard["message"]["content"]),
            (&json!(seq), &json!(format!("message {}", seq - 1)))
        );
        let phones = phone.expect("new_message").await;
        assert_eq!(phones, heard, "all members must get the same frame");
    }
}

/// Guards deduplication by client id: if `Sender::hit` finds nothing, the second send gets seq 2 and a new id.
#[tokio::test]
async fn sending_again_with_the_same_client_id_stores_one_message() {
    let (server, _data) = standalone(&[]);
    let mut alice = Client::user(&server.ws(), "alice").await;
    let mut bob = Client::user(&server.ws(), "bob").await;
    bob.join("room").await;
    let first = alice.send_message("room", "once", "k1").await;
    let again = alice.send_message("room", "once", "k1").await;
    assert_eq!((&first["seq"], &first["id"]), (&again["seq"], &again["id"]));
    let mut phone = Client::user(&server.ws(), "alice").await;
    let third = phone.send_message("room", "once", "k1").await;
    assert_eq!(first["id"], third["id"], "a client id must count for all devices of its user");
    let heard = bob.all_within(QUIET).await;
    assert_eq!(heard.iter().filter(|frame| frame["type"] == "new_message").count(), 1, "{heard:?}");
    let other = bob.send_message("room", "mine", "k1").await;
    assert_ne!(first["id"], other["id"], "client ids of two senders must not be mixed up");
    // Two sends without waiting in between, so that both commands may share one log entry.
    let frame = json!({"type": "send_message", "conversation_id": "two", "content": "x", "client_id": "double", "ref": "a"});
    alice.text(&frame.to_string()).await;
    alice.text(&frame.to_string()).await;
    let one = alice.expect("message_ack").await;
    let two = alice.expect("message_ack").await;
    assert_eq!((&one["seq"], &one["id"]), (&two["seq"], &two["id"]));
}

/// Guards the bounds of history pages and the catch-up from a cursor. If `Topic::join` treats every member as live,
/// bob's first event is 452. If a seq is missing, history ends before it.
#[tokio::test]
async fn history_pages_are_bounded_and_catching_up_has_no_gap() {
    let (server, _data) = standalone(&[("CARILLON_LIMITS__MESSAGES_PER_MINUTE", "0")]);
    let mut alice = Client::user(&server.ws(), "alice").await;
    for number in 1..=450 {
        let frame =
            json!({"type": "send_message", "conversation_id": "long", "content": format!("m{number}")});
        alice.send(frame).await;
    }
    alice.send_message("long", "m451", "last").await;
    let page = |fields: Value| {
        let mut frame = json!({"type": "history", "conversation_id": "long", "ref": "h"});
        frame.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        frame
    };
    let seqs = |frame: &Value| -> Vec<u64> {
        frame["events"]
            .as_array()
            .expect("events")
            .iter()
            .map(|event| event["seq"].as_u64().expect("a seq"))
            .collect()
    };
    let table = [
        (json!({}), (402..=451).collect::<Vec<u64>>(), true),
        (json!({"limit": 3}), vec![449, 450, 451], true),
        (json!({"before_seq": 4, "limit": 10}), vec![1, 2, 3], false),
        (json!({"before_seq": 0}), vec![], false),
        (json!({"before_seq": 1}), vec![], false),
        (json!({"after_seq": 0, "limit": 2}), vec![1, 2], true),
        (json!({"after_seq": 449}), vec![450, 451], false),
        (json!({"after_seq": 451}), vec![], false),
        (json!({"after_seq": 9999}), vec![], false),
        (json!({"limit": 9999}), (252..=451).collect(), true),
    ];
    for (fields, expected, has_more) in table {
        alice.send(page(fields.clone())).await;
        let reply = alice.expect_where(|frame| frame["ref"] == "h").await;
        assert_eq!((seqs(&reply), &reply["has_more"]), (expected, &json!(has_more)), "{fields}");
    }
    // Catching up needs more events than the gateway keeps in memory and than one page holds, and continues with live
    // events without a gap.
    let mut bob = Client::user(&server.ws(), "bob").await;
    bob.send(json!({"type": "join_conversation", "conversation_id": "long", "after_seq": 5})).await;
    alice.send_message("long", "m452", "more").await;
    for seq in 6..=452u64 {
        let heard = bob.expect("new_message").await;
        assert_eq!((&heard["seq"], &heard["message"]["content"]), (&json!(seq), &json!(format!("m{seq}"))));
    }
}

/// Typing ends after 5 s without renewal, by `typing_stop`, by a message of the typist, and with the connection.
#[tokio::test]
async fn typing_is_sent_to_members_and_ends_by_timeout_stop_message_or_disconnect() {
    let (server, _data) = standalone(&[]);
    let mut alice = Client::user(&server.ws(), "alice").await;
    let mut bob = Client::connect(&format!("{}/ws/bob?name=Bob%20B", server.ws())).await;
    bob.next().await;
    alice.join("room").await;
    bob.join("room").await;
    let typing = |typing: bool| json!({"type": if typing {"typing_start"} else {"typing_stop"}, "conversation_id": "room"});
    let started = Instant::now();
    bob.send(typing(true)).await;
    let shown = alice.expect("typing_indicator").await;
    assert_eq!(
        (&shown["user_id"], &shown["user_name"], &shown["is_typing"]),
        (&json!("bob"), &json!("Bob B"), &json!(true))
    );
    bob.send(typing(true)).await;
    let ended = alice.expect("typing_indicator").await;
    assert_eq!(
        (&ended["is_typing"], &ended["user_name"]),
        (&json!(false), &json!("Bob B")),
        "a renewal within a second must not be passed on"
    );
    assert!(started.elapsed() >= Duration::from_millis(4_900), "{:?}", started.elapsed());
    bob.send(typing(true)).await;
    alice.expect("typing_indicator").await;
    bob.send(typing(false)).await;
    assert_eq!(alice.expect("typing_indicator").await["is_typing"], false);
    bob.send(typing(true)).await;
    alice.expect("typing_indicator").await;
    bob.send_message("room", "done", "k").await;
    assert_eq!(alice.expect("typing_indicator").await["is_typing"], false, "a message must end typing");
    bob.send(typing(true)).await;
    alice.expect_where(|frame| frame["is_typing"] == true).await;
    bob.cut();
    assert_eq!(
        alice.expect("typing_indicator").await["is_typing"],
        false,
        "the end of the connection must end typing"
    );
    alice.send(json!({"type": "typing_start", "conversation_id": "elsewhere", "ref": "t"})).await;
    assert_eq!(alice.expect("error").await["code"], "forbidden");
}

/// A message ends only typing that began before it was sent. Before the fix, a message that was still being stored
/// ended typing that began after it.
#[tokio::test]
async fn a_message_does_not_end_typing_that_began_after_it() {
    let (server, _data) = standalone(&[]);
    let mut alice = Client::user(&server.ws(), "alice").await;
    let mut bob = Client::user(&server.ws(), "bob").await;
    for room in ["one", "two", "three"] {
        alice.join(room).await;
        bob.join(room).await;
        bob.send(json!({"type": "send_message", "conversation_id": room, "content": "x"})).await;
        bob.send(json!({"type": "typing_start", "conversation_id": room})).await;
        let told = alice.all_within(QUIET).await;
        let told: Vec<_> = told.iter().map(|frame| (&frame["type"], &frame["is_typing"])).collect();
        assert!(told.contains(&(&json!("new_message"), &json!(null))), "{told:?}");
        assert!(told.contains(&(&json!("typing_indicator"), &json!(true))), "{told:?}");
        assert!(!told.contains(&(&json!("typing_indicator"), &json!(false))), "{told:?}");
        bob.send_message(room, "the end", room).await;
        assert_eq!(
            alice.expect("typing_indicator").await["is_typing"],
            false,
            "a message sent after typing began must end it"
        );
    }
}

/// Members receive a typist's latest state at most once a second, and typing above its rate is dropped without an
/// error; only cursors report `rate_limited`, once a minute. Before the fix, every typing event was sent to the
/// members, and a client that sent `typing_start` at every key got `rate_limited`.
#[tokio::test]
async fn typing_is_sent_once_a_second_and_its_excess_is_dropped_without_error() {
    let (server, _data) = standalone(&[("CARILLON_LIMITS__CURSORS_PER_MINUTE", "1")]);
    let mut alice = Client::user(&server.ws(), "alice").await;
    let mut bob = Client::user(&server.ws(), "bob").await;
    alice.join("room").await;
    bob.join("room").await;
    alice.all_within(QUIET).await;
    let began = Instant::now();
    for kind in ["typing_start", "typing_stop", "typing_start", "typing_stop"] {
        bob.send(json!({"type": kind, "conversation_id": "room"})).await;
    }
    assert_eq!(alice.next().await["is_typing"], true);
    assert_eq!(alice.next().await["is_typing"], false, "the last state must be sent");
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());
    for _ in 0..100 {
        bob.send(json!({"type": "typing_start", "conversation_id": "room", "ref": "t"})).await;
    }
    for _ in 0..5 {
        bob.send(json!({"type": "move_cursor", "conversation_id": "room", "position": 1, "ref": "c"})).await;
    }
    let refused = bob.expect("error").await;
    assert_eq!((&refused["code"], &refused["ref"]), (&json!("rate_limited"), &json!("c")));
    let more = bob.all_within(QUIET).await;
    assert!(more.iter().all(|frame| frame["type"] != "error"), "more than one error in a minute: {more:?}");
}

/// Only a user's first and last connection change presence, the last one after a grace of 3 s. With `--dev` every user
/// sees every other one. Before the fix, without a shared conversation `online_users` listed only the user itself, and
/// no update was sent when another user connected.
#[tokio::test]
async fn presence_changes_only_with_the_first_and_last_device() {
    let (server, _data) = standalone(&[]);
    let mut alice = Client::user(&server.ws(), "alice").await;
    let mut bob = Client::connect(&format!("{}/ws/bob", server.ws())).await;
    assert_eq!(bob.next().await["users"], json!(["bob", "alice"]), "the list must have all online users");
    let seen = alice.next().await;
    assert_eq!(
        (&seen["type"], &seen["user_id"], &seen["online"]),
        (&json!("presence_update"), &json!("bob"), &json!(true))
    );
    alice.join("room").await;
    bob.join("room").await;
    assert!(
        bob.all_within(QUIET).await.is_empty(),
        "no push is expected, because both users are known already"
    );
    let mut phone = Client::user(&server.ws(), "bob").await;
    assert!(alice.all_within(QUIET).await.is_empty(), "a second device must not be pushed");
    bob.cut();
    assert!(
        alice.all_within(Duration::from_secs(4)).await.is_empty(),
        "the end of one of two devices must not be pushed"
    );
    let gone = Instant::now();
    phone.send(json!({"type": "ping"})).await;
    phone.cut();
    let offline = alice.expect("presence_update").await;
    assert_eq!(
        (&offline["user_id"], &offline["online"], &offline["status"]),
        (&json!("bob"), &json!(false), &json!("offline"))
    );
    assert!(offline["last_seen"].is_string(), "{offline}");
    assert!(
        gone.elapsed() >= Duration::from_millis(2_900),
        "offline before the grace period of 3 s ended: {:?}",
        gone.elapsed()
    );
}

/// Bob's connection is cut and another one begins within the grace of 3 s, so no update reports him offline. A user
/// with the status `invisible` is reported as offline.
#[tokio::test]
async fn watchers_receive_statuses_and_a_return_within_the_grace_is_not_offline() {
    let (server, _data) = standalone(&[]);
    let mut alice = Client::user(&server.ws(), "alice").await;
    alice.send(json!({"type": "watch_presence", "user_ids": ["bob", "carol"], "ref": "w"})).await;
    let status = alice.expect("online_status").await;
    assert_eq!(status["users"]["bob"], json!({"online": false, "status": "offline", "last_seen": null}));
    assert_eq!(status["ref"], "w");
    let mut bob = Client::user(&server.ws(), "bob").await;
    assert_eq!(alice.expect("presence_update").await["user_id"], "bob");
    bob.send(json!({"type": "set_status", "status": "dnd", "text": "in a meeting", "ref": "s"})).await;
    assert_eq!(bob.expect_where(|frame| frame["ref"] == "s").await["type"], "ack");
    let dnd = alice.expect("presence_update").await;
    assert_eq!((&dnd["status"], &dnd["text"]), (&json!("dnd"), &json!("in a meeting")));
    bob.cut();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut bob = Client::user(&server.ws(), "bob").await;
    alice.send(json!({"type": "get_online_status", "user_ids": ["bob", "bob", "nobody"]})).await;
    let status = alice.expect("online_status").await;
    assert_eq!(
        (&status["users"]["bob"]["online"], &status["users"]["nobody"]["online"]),
        (&json!(true), &json!(false))
    );
    bob.send(json!({"type": "set_status", "status": "invisible"})).await;
    assert_eq!(alice.expect_where(|frame| frame["online"] == false).await["user_id"], "bob");
}

#[tokio::test]
async fn broadcasts_and_cursors_reach_members_and_are_not_stored() {
    let (server, _data) = standalone(&[]);
    let mut alice = Client::user(&server.ws(), "alice").await;
    let mut bob = Client::user(&server.ws(), "bob").await;
    alice.join("room").await;
    bob.join("room").await;
    let frame = json!({"type": "broadcast", "conversation_id": "room", "event": "wave", "data": {"n": 1}});
    alice.send(frame).await;
    let heard = bob.expect("broadcast").await;
    assert_eq!(
        (&heard["user_id"], &heard["event"], &heard["data"]),
        (&json!("alice"), &json!("wave"), &json!({"n": 1}))
    );
    alice.send(json!({"type": "move_cursor", "conversation_id": "room", "position": [3, 4]})).await;
    assert_eq!(bob.expect("cursor_moved").await["position"], json!([3, 4]));
    let heard = alice.all_within(QUIET).await;
    assert!(
        heard.iter().all(|frame| frame["type"] == "presence_update"),
        "the sender must not get its own events: {heard:?}"
    );
    alice.send(json!({"type": "history", "conversation_id": "room"})).await;
    assert_eq!(alice.expect("history").await["events"], json!([]));
}

/// On SIGTERM clients get `reconnect` and close code 1001. After the restart the messages and the client ids are known,
/// because both are stored.
#[tokio::test]
async fn a_clean_stop_makes_clients_reconnect_and_keeps_messages_and_client_ids() {
    let (mut server, _data) = standalone(&[]);
    let mut alice = Client::user(&server.ws(), "alice").await;
    let ack = alice.send_message("room", "remember me", "k").await;
    let stopping = tokio::task::spawn_blocking(move || {
        let status = server.terminate();
        (server, status)
    });
    let reconnect = alice.expect("reconnect").await;
    assert!(reconnect["after_ms"].is_u64());
    assert_eq!(alice.ended().await, Ended { code: Some(1001), reason: "draining".into() });
    let (mut server, status) = stopping.await.expect("stopped");
    assert_eq!(status.code(), Some(0), "{}", server.output());
    server.restart();
    let mut alice = Client::user(&server.ws(), "alice").await;
    assert_eq!(alice.join("room").await["head_seq"], 1);
    let again = alice.send_message("room", "remember me", "k").await;
    assert_eq!(again["id"], ack["id"], "client ids must be known after a restart");
    assert_eq!(alice.send_message("room", "and on", "k2").await["seq"], 2);
}
