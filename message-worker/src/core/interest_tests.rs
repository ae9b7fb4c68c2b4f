//! Tests of gateways' interest.

use super::*;
use carillon_proto::wire::partition_reply;

fn gateway(name: &str) -> GatewayId {
    GatewayId::parse(name).expect("valid")
}

fn conversation(name: &str) -> ConversationId {
    ConversationId::parse(name).expect("valid")
}

fn rooms(names: &[&str]) -> Vec<ConversationId> {
    names.iter().map(|name| conversation(name)).collect()
}

fn interest(registered: &[(&str, &[&str])]) -> Interest {
    let mut interest = Interest::new(3, 7);
    for (name, conversations) in registered {
        interest.admit(&gateway(name), 1, 0).expect("new");
        interest.register(&gateway(name), false, &rooms(conversations), &[]).expect("room for it");
    }
    interest
}

fn event(name: &str, seq: u64, padding: usize) -> (ConversationId, Bytes) {
    let message = wire::SendMessage { content: "x".repeat(padding), ..wire::SendMessage::default() };
    let kind = Some(wire::event::Kind::Message(message));
    let event = wire::Event { conversation: name.into(), seq, kind, ..wire::Event::default() };
    (conversation(name), event.encode_to_vec().into())
}

fn batches(outgoing: &[Outgoing]) -> Vec<(String, wire::Batch)> {
    let batch = |outgoing: &Outgoing| match wire::ToGateway::decode(outgoing.message.clone())
        .expect("decodes")
        .body
    {
        Some(to_gateway::Body::Batch(batch)) => (outgoing.gateway.to_string(), batch),
        other => panic!("not a batch: {other:?}"),
    };
    outgoing.iter().map(batch).collect()
}

fn beats(interest: &Interest, now_ms: u64) -> BTreeMap<String, wire::Beat> {
    let beat = |outgoing: Outgoing| match wire::ToGateway::decode(outgoing.message).expect("decodes").body {
        Some(to_gateway::Body::Beat(beat)) => (outgoing.gateway.to_string(), beat),
        other => panic!("not a beat: {other:?}"),
    };
    interest.beats(now_ms, 5).into_iter().map(beat).collect()
}

fn resent(reply: Bytes) -> Vec<wire::Batch> {
    match wire::PartitionReply::decode(reply).expect("decodes").body {
        Some(partition_reply::Body::Resent(resent)) => resent.batches,
        other => panic!("not a resent reply: {other:?}"),
    }
}

fn hash(names: &[&str]) -> u64 {
    names.iter().fold(0, |hash, name| hash ^ stable_hash(name))
}

#[test]
fn a_group_is_one_numbered_batch_for_each_registered_or_waiting_gateway() {
    let mut interest = interest(&[("gw-1", &["a", "b"]), ("gw-2", &["b"]), ("gw-3", &["c"])]);
    let outcomes = vec![(gateway("gw-4"), wire::Outcome { request: 9, body: None })];
    let sent = batches(&interest.batches(&[event("a", 1, 1), event("b", 5, 1)], outcomes));
    let seqs = |batch: &wire::Batch| batch.events.iter().map(|event| event.seq).collect::<Vec<_>>();
    let summary: Vec<_> = sent.iter().map(|(to, batch)| (to.as_str(), batch.number, seqs(batch))).collect();
    assert_eq!(summary, [("gw-1", 1, vec![1, 5]), ("gw-2", 1, vec![5]), ("gw-4", 1, vec![])]);
    assert_eq!(sent[2].1.outcomes[0].request, 9, "a gateway without registrations still gets its outcomes");
    assert!(sent.iter().all(|(_, batch)| batch.partition == 3 && batch.epoch == 7));

    let again = batches(&interest.batches(&[event("b", 6, 1)], Vec::new()));
    assert_eq!(
        again.iter().map(|(to, batch)| (to.as_str(), batch.number)).collect::<Vec<_>>(),
        [("gw-1", 2), ("gw-2", 2)]
    );
}

#[test]
fn a_group_that_is_too_large_is_cut_and_keeps_its_order() {
    let mut interest = interest(&[("gw-1", &["a"])]);
    let events: Vec<_> = (1..=40).map(|seq| event("a", seq, 10_000)).collect();
    let outgoing = interest.batches(&events, Vec::new());
    assert!(outgoing.len() > 2);
    assert!(outgoing.iter().all(|outgoing| outgoing.message.len() < BATCH_BYTES_MAX + 64));
    let sent = batches(&outgoing);
    let seqs: Vec<u64> =
        sent.iter().flat_map(|(_, batch)| batch.events.iter().map(|event| event.seq)).collect();
    assert_eq!(seqs, (1..=40).collect::<Vec<_>>());
    assert_eq!(
        sent.iter().map(|(_, batch)| batch.number).collect::<Vec<_>>(),
        (1..=sent.len() as u64).collect::<Vec<_>>()
    );
}

#[test]
fn missed_batches_are_sent_again_while_they_are_kept() {
    let mut interest = interest(&[("gw-1", &["a"])]);
    for seq in 1..=5 {
        interest.batches(&[event("a", seq, 60_000)], Vec::new());
    }
    let request = |from, epoch| resent(interest.resend(&gateway("gw-1"), &wire::Resend { epoch, from }));
    assert_eq!(request(3, 7).iter().map(|batch| batch.number).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(request(1, 7), [], "batch 1 is beyond the 256 KiB that are kept");
    assert_eq!(request(3, 6), [], "batches of another epoch are not resent");
    assert_eq!(resent(interest.resend(&gateway("gw-9"), &wire::Resend { epoch: 7, from: 1 })), []);
}

#[test]
fn the_beat_contains_the_hash_of_the_registrations() {
    let mut interest = interest(&[("gw-1", &["a", "b", "a"])]);
    assert_eq!(
        beats(&interest, 1)["gw-1"],
        wire::Beat {
            partition: 3,
            epoch: 7,
            number: 0,
            interest_hash: hash(&["a", "b"]),
            lag_ms: 5,
            counter: 1
        }
    );
    interest.register(&gateway("gw-1"), false, &rooms(&["c"]), &rooms(&["a", "never"])).expect("room");
    assert_eq!(beats(&interest, 1)["gw-1"].interest_hash, hash(&["b", "c"]));
    interest.register(&gateway("gw-1"), true, &rooms(&["d"]), &[]).expect("room");
    assert_eq!(beats(&interest, 1)["gw-1"].interest_hash, hash(&["d"]));
    assert!(
        interest.batches(&[event("b", 1, 1)], Vec::new()).is_empty(),
        "a full registration must replace the old one"
    );
    interest.forget_registrations();
    assert_eq!(beats(&interest, 1)["gw-1"].interest_hash, 0);
    assert!(interest.batches(&[event("d", 1, 1)], Vec::new()).is_empty());
}

#[test]
fn older_requests_are_refused() {
    let mut interest = interest(&[("gw-1", &["a"])]);
    interest.admit(&gateway("gw-1"), 5, 0).expect("newer");
    assert_eq!(interest.admit(&gateway("gw-1"), 5, 0), Err(Refusal::Old));
    assert_eq!(interest.admit(&gateway("gw-1"), 4, 0), Err(Refusal::Old));
    interest.admit(&gateway("gw-2"), 1, 0).expect("each gateway has its own counter");
}

#[test]
fn a_gateway_that_only_sent_commands_gets_beats_for_a_minute() {
    let mut interest = Interest::new(3, 7);
    interest.received_from(&gateway("gw-1"), 1_000);
    assert_eq!(beats(&interest, 1_000)["gw-1"].interest_hash, 0);
    assert!(beats(&interest, 1_000 + GATEWAY_SEEN_MS).is_empty());
}

#[test]
fn a_silent_gateway_shall_register_again_and_is_then_forgotten_except_for_its_number() {
    let mut interest = interest(&[("gw-1", &["a"]), ("gw-2", &[])]);
    interest.batches(&[event("a", 1, 1)], Vec::new());
    let silent = beats(&interest, GATEWAY_SILENT_MS);
    assert_ne!(silent["gw-1"].interest_hash, hash(&["a"]), "a silent gateway gets a deliberately wrong hash");
    assert!(!silent.contains_key("gw-2"), "a silent gateway without registrations gets no beat");
    interest.forget_silent(GATEWAY_FORGOTTEN_MS - 1);
    assert!(
        !interest.batches(&[event("a", 2, 1)], Vec::new()).is_empty(),
        "a gateway is kept until GATEWAY_FORGOTTEN_MS has passed"
    );
    interest.forget_silent(GATEWAY_FORGOTTEN_MS);
    assert!(interest.batches(&[event("a", 3, 1)], Vec::new()).is_empty());
    assert_eq!((interest.registered, interest.listeners.len()), (0, 0));
    // A gateway that comes back gets batches with the next number. With numbers from 1 it would take them for old ones.
    interest.register(&gateway("gw-1"), true, &rooms(&["a"]), &[]).expect("room");
    assert_eq!(batches(&interest.batches(&[event("a", 4, 1)], Vec::new()))[0].1.number, 3);
}

#[test]
fn ephemeral_events_go_to_the_other_registered_gateways() {
    let interest = interest(&[("gw-1", &["a"]), ("gw-2", &["a", "b"]), ("gw-3", &["c"])]);
    let typing = |name: &str| wire::Ephemeral {
        conversation: name.into(),
        user: "ann".into(),
        kind: Some(wire::ephemeral::Kind::Typing(true)),
        ..wire::Ephemeral::default()
    };
    let events = vec![typing("a"), typing("b"), typing("nowhere")];
    let outgoing = interest.ephemeral(&wire::EphemeralBatch { gateway: "gw-1".into(), events });
    assert_eq!(outgoing.len(), 1);
    assert_eq!(outgoing[0].gateway, gateway("gw-2"));
    let expected = wire::EphemeralBatch { gateway: "gw-1".into(), events: vec![typing("a"), typing("b")] };
    let body = wire::ToGateway::decode(outgoing[0].message.clone()).expect("decodes").body;
    assert_eq!(body, Some(to_gateway::Body::Ephemeral(expected)));
}

#[test]
fn gateways_are_bounded_and_the_longest_silent_one_is_removed() {
    let mut interest = interest(&[("gw-0", &["a"])]);
    for n in 1..=GATEWAYS_MAX {
        interest.received_from(&gateway(&format!("gw-{n}")), 10 + n as u64);
    }
    assert_eq!(interest.gateways.len(), GATEWAYS_MAX);
    assert!(!interest.gateways.contains_key(&gateway("gw-0")));
    assert_eq!(interest.registered, 0);
}
