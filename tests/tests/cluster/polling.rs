//! Socket.IO by polling over several gateways without sticky sessions: a balancer sends every connection to the next
//! gateway of a real cluster. Two tests use a standalone process.

use carillon_tests::client::Client;
use carillon_tests::cluster::{AUTH_SECRET, Cluster};
use carillon_tests::polling::{Endpoint, PATIENCE, SESSION_UNKNOWN, Session};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};

/// Starts a balancer that forwards each connection to the next gateway, and returns the balancer's address.
async fn balancer(cluster: &Cluster) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let gateways: Vec<String> =
        cluster.gateways.iter().map(|gateway| gateway.http().replace("http://", "")).collect();
    let next = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let gateway = gateways[next.fetch_add(1, Ordering::Relaxed) % gateways.len()].clone();
            tokio::spawn(async move {
                // If the gateway is down, the balancer ends the client's connection.
                let Ok(mut gateway) = TcpStream::connect(gateway).await else { return };
                drop(tokio::io::copy_bidirectional(&mut client, &mut gateway).await);
            });
        }
    });
    address
}

fn token(user: &str) -> String {
    let claims = json!({ "sub": user, "exp": 4_102_444_800_u64 });
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(AUTH_SECRET.as_bytes()))
        .expect("a token")
}

/// The next packet that begins with `prefix`: its JSON behind that. Skips other packets.
async fn expect(session: &mut Session, prefix: &str) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let packet = session.next().await;
        if let Some(rest) = packet.strip_prefix(prefix) {
            return serde_json::from_str(rest).unwrap_or(Value::Null);
        }
        assert!(tokio::time::Instant::now() < deadline, "no packet with {prefix} in time");
    }
}

async fn connect(endpoint: &Endpoint, user: &str) -> Session {
    let mut session = endpoint.open().await;
    session.send(&format!("40{{\"token\":\"{}\"}}", token(user))).await;
    assert!(expect(&mut session, "40").await["sid"].is_string());
    session
}

/// A closed browser tab ends its poll at any moment, also while a join is under way. No member and no room may remain.
#[tokio::test(flavor = "multi_thread")]
async fn a_polling_client_that_disconnects_while_joining_leaves_no_member_and_no_room() {
    let (server, _data) = carillon_tests::server::standalone(&[
        ("AUTH_SECRET", AUTH_SECRET),
        ("CARILLON_LIMITS__CONNECTIONS_PER_USER", "0"),
    ]);
    let endpoint = Endpoint { address: server.http().replace("http://", ""), path: "/socket.io/" };
    for number in 0..60 {
        let session = connect(&endpoint, &format!("ghost-{number}")).await;
        session.send(&format!(r#"42["join_room",{{"room_id":"room-{number}"}}]"#)).await;
        let poll = session.begin_poll().await;
        tokio::time::sleep(std::time::Duration::from_millis(number % 3)).await;
        drop(poll);
        // If the poll was answered before it was dropped, the session is still open: the packet `1` ends it.
        session.post("1").await;
    }
    let deadline = tokio::time::Instant::now() + 3 * PATIENCE;
    loop {
        let metrics = Endpoint { address: endpoint.address.clone(), path: "/metrics" };
        let metrics = metrics.request("GET", "", "").await.body;
        if metrics.lines().any(|line| line == "carillon_rooms 0") {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "rooms are left after the end of all sessions: {metrics}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let mut alice = connect(&endpoint, "alice").await;
    for number in 0..60 {
        alice.send(&format!(r#"42{number}["join_conversation","room-{number}"]"#)).await;
        let joined = expect(&mut alice, &format!("43{number}")).await;
        assert_eq!(joined[0]["participantCount"], 1, "room-{number}");
    }
}

/// The server stops reading posts of a client that does not poll, so that the queued answers stay within the outbox.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_polls_is_not_read_any_more_when_its_outbox_is_full() {
    let (server, _data) = carillon_tests::server::standalone(&[("AUTH_SECRET", AUTH_SECRET)]);
    let endpoint = Endpoint { address: server.http().replace("http://", ""), path: "/socket.io/" };
    let session = connect(&endpoint, "alice").await;
    let pings = vec![r#"42["ping"]"#; 1_000].join("\u{1e}");
    let mut taken = 0;
    // Each is answered by two events of about 40 bytes: the outbox is full long before the last.
    while taken < 100 {
        let post = session.post(&pings);
        match tokio::time::timeout(std::time::Duration::from_secs(2), post).await {
            Ok(answer) => assert_eq!(answer.status, 200),
            Err(_) => break,
        }
        taken += 1;
    }
    assert!(taken < 20, "{taken} posts of 1,000 pings were accepted from a client that does not poll");
}

/// Gateways relay polls and POSTs to the gateway in the session's id, so a balancer may send each request to any
/// gateway (`docs/decisions/0008-polls-are-repeated-posts-are-not.md`).
#[tokio::test(flavor = "multi_thread")]
async fn polling_needs_no_sticky_sessions() {
    let Some(mut cluster) = Cluster::start(3, 1).await else { return };
    let endpoint = Endpoint { address: balancer(&cluster).await, path: "/api/socket/" };
    let mut alice = connect(&endpoint, "alice").await;
    let mut bob = Client::user(&cluster.ws(1), "bob").await;
    bob.join("room").await;
    alice.send(r#"420["join_conversation","room"]"#).await;
    assert_eq!(expect(&mut alice, "430").await[0]["participantCount"], 2);
    both_ways(&mut alice, &mut bob).await;
    a_large_post_goes_in_parts(&mut alice, &mut bob).await;
    a_poll_that_waits_is_answered_late(&mut alice, &mut bob).await;
    a_guessed_sid_is_refused(&endpoint, &alice).await;
    an_upgrade_moves_the_session(&cluster, &endpoint).await;
    a_dead_gateway_takes_its_sessions_with_it(&mut cluster, &endpoint, alice).await;
}

/// Requests go through alternating gateways, and every message arrives once and in order.
async fn both_ways(alice: &mut Session, bob: &mut Client) {
    for number in 1..=12 {
        let event = json!(["send_message", {"conversationId": "room", "content": format!("a{number}")}]);
        alice.send(&format!("42{number}{event}")).await;
        let acknowledged = expect(alice, &format!("43{number}")).await;
        assert_eq!(acknowledged[0]["seq"], 2 * number - 1, "{acknowledged}");
        let content = json!(format!("a{number}"));
        bob.expect_where(|frame| frame["message"]["content"] == content).await;
        bob.send_message("room", &format!("b{number}"), &format!("k{number}")).await;
        loop {
            let heard = expect(alice, "42").await;
            if heard[1]["seq"] == 2 * number {
                assert_eq!(
                    (&heard[0], &heard[1]["content"]),
                    (&json!("message_received"), &json!(format!("b{number}")))
                );
                break;
            }
        }
    }
}

async fn a_large_post_goes_in_parts(alice: &mut Session, bob: &mut Client) {
    let filler = "€".repeat(4_900);
    let events = (100..140).map(|number| {
        let content = format!("{number}{filler}");
        format!("42{number}{}", json!(["send_message", {"conversationId": "room", "content": content}]))
    });
    let body = events.collect::<Vec<_>>().join("\u{1e}");
    assert!(body.len() > 512 * 1024, "the body must be larger than a message on the bus");
    alice.send(&body).await;
    for number in 100..140 {
        let heard = bob.expect_where(|frame| frame["message"]["sender_id"] == "alice").await;
        assert_eq!(heard["message"]["content"], format!("{number}{filler}"), "the messages are not in order");
    }
    // Alice receives her own messages in the same polls as the acknowledgements.
    let (mut acknowledged, mut heard) = (0, 0);
    while acknowledged < 40 || heard < 40 {
        let packet = alice.next().await;
        acknowledged += u32::from(packet.starts_with("431") && packet.contains(r#""ok":true"#));
        heard += u32::from(packet.starts_with(r#"42["message_received""#) && packet.contains(&filler));
    }
}

/// The poll waits for 6 s, longer than the 2 s of one relayed request between gateways, and is still answered.
async fn a_poll_that_waits_is_answered_late(alice: &mut Session, bob: &mut Client) {
    let waiting = alice.begin_poll().await;
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    bob.send_message("room", "late", "late").await;
    let answer = waiting.answer().await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("\"late\""), "{}", answer.body);
}

async fn a_guessed_sid_is_refused(endpoint: &Endpoint, alice: &Session) {
    let (gateway, _) = alice.sid.split_once('.').expect("a sid names its gateway");
    for sid in [
        format!("{gateway}.{}", "0".repeat(32)),
        "g-0000000000000000.x".into(),
        "*.x".into(),
        "%3E.%3E".into(),
    ] {
        for method in ["GET", "POST"] {
            let answer = endpoint.request(method, &format!("EIO=4&transport=polling&sid={sid}"), "3").await;
            assert_eq!((answer.status, answer.body.as_str()), (400, SESSION_UNKNOWN), "{method} {sid}");
        }
    }
}

/// Three sessions open their WebSockets at three gateways, so at least one WebSocket reaches a gateway that does not
/// hold its session.
async fn an_upgrade_moves_the_session(cluster: &Cluster, endpoint: &Endpoint) {
    let upgrades = ["carol", "dave", "erin"].into_iter().enumerate();
    futures_util::future::join_all(upgrades.map(async |(gateway, user)| {
        let mut bob = Client::user(&cluster.ws(0), "bob").await;
        let room = format!("upgrade-{gateway}");
        bob.join(&room).await;
        let mut session = connect(endpoint, user).await;
        session.send(&format!("420{}", json!(["join_conversation", room]))).await;
        expect(&mut session, "430").await;
        let address = cluster.gateways[gateway].http().replace("http://", "");
        let there = Endpoint { address, path: endpoint.path };
        let mut socket = there.websocket(&session.websocket_query()).await.expect("an upgrade");
        let waiting = session.begin_poll().await;
        socket.send("2probe").await;
        assert_eq!(socket.text().await, "3probe", "{user}");
        // The answer is a noop, or a presence update that came first.
        assert_eq!(
            waiting.answer().await.status,
            200,
            "{user}: the waiting poll must be answered at the upgrade"
        );
        // The first five messages are queued at the session's old gateway, the others at its new one.
        for number in 1..=5 {
            bob.send_message(&room, &format!("m{number}"), &format!("m{number}")).await;
        }
        socket.send("5").await;
        for number in 6..=10 {
            bob.send_message(&room, &format!("m{number}"), &format!("m{number}")).await;
        }
        let mut heard = Vec::new();
        while heard.len() < 10 {
            let packet = socket.text().await;
            if let Some(event) = packet.strip_prefix("42").filter(|event| event.contains("message_received"))
            {
                let event: Value = serde_json::from_str(event).expect("an event");
                heard.push((event[1]["seq"].as_u64(), event[1]["content"].as_str().map(str::to_owned)));
            }
        }
        let all: Vec<_> = (1..=10).map(|number| (Some(number), Some(format!("m{number}")))).collect();
        assert_eq!(heard, all, "{user}: messages must arrive once, in order");
        let event = json!(["send_message", {"conversationId": room, "content": "over the socket"}]);
        socket.send(&format!("421{event}")).await;
        while !socket.text().await.starts_with(r#"431[{"ok":true"#) {}
        assert_eq!(session.poll().await.status, 400, "{user}: a poll after the upgrade must be refused");
        // 9 s are longer than the old gateway keeps its part of the session plus the grace of presence. No update may
        // report the user offline.
        let unseen = bob.all_within(std::time::Duration::from_millis(9_000)).await;
        let offline = |frame: &&Value| frame["type"] == "presence_update" && frame["online"] == false;
        assert!(!unseen.iter().any(|frame| offline(&frame)), "{user}: {unseen:?}");
        bob.send_message(&room, "last", "last").await;
        while !socket.text().await.contains("\"last\"") {}
    }))
    .await;
}

async fn a_dead_gateway_takes_its_sessions_with_it(
    cluster: &mut Cluster,
    endpoint: &Endpoint,
    alice: Session,
) {
    // The session may be at any gateway: kills two of the three, one after the other.
    let mut gone = false;
    for gateway in 0..2 {
        cluster.gateways[gateway].kill();
        for _ in 0..6 {
            // A request that the balancer sends to a killed gateway gets no answer.
            if let Some(answer) = endpoint.begin("POST", &alice.query(), "6").await.answer_if_any().await {
                gone |= answer.status == 400;
                assert!(answer.status == 200 || answer.body == SESSION_UNKNOWN, "{answer:?}");
            }
        }
    }
    let survivor =
        Endpoint { address: cluster.gateways[2].http().replace("http://", ""), path: "/api/socket/" };
    let answer = survivor.request("POST", &alice.query(), "6").await;
    assert!(gone || answer.status == 200, "{answer:?}");
    let mut again = connect(&survivor, "alice").await;
    again.send(r#"420["join_conversation",{"conversationId":"room","afterSeq":60}]"#).await;
    expect(&mut again, "430").await;
    for seq in 61..=65 {
        let mut heard = expect(&mut again, "42").await;
        while heard[0] != "message_received" {
            heard = expect(&mut again, "42").await;
        }
        assert_eq!(heard[1]["seq"], seq, "the missed messages must arrive in order");
    }
}
