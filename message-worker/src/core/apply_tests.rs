//! Tests of applying commands to a conversation.

use super::*;
use crate::core::versions::VERSION;
use carillon_proto::id::ConversationId;

const OWNER: &str = "owner";

fn at(sequence: u64) -> At {
    At {
        position: Position { incarnation: 1, sequence, index: 0 },
        timestamp_us: sequence as i64 * 256,
        time_ms: 1_000 * sequence,
        version: VERSION,
    }
}

fn by(actor: &str, authority: Authority, body: Body) -> wire::Command {
    wire::Command {
        conversation: "room".into(),
        actor: actor.into(),
        authority: authority.into(),
        gateway: "gw-1".into(),
        body: Some(body),
        ..wire::Command::default()
    }
}

fn message(content: &str) -> Body {
    Body::SendMessage(wire::SendMessage { content: content.into(), ..wire::SendMessage::default() })
}

fn create(participants: &[&str]) -> Body {
    let participants = participants.iter().map(|user| (*user).into()).collect();
    Body::CreateConversation(wire::CreateConversation {
        title: "t".into(),
        participants,
        metadata: String::new(),
    })
}

fn add(users: &[&str]) -> Body {
    Body::AddParticipants(wire::AddParticipants { users: users.iter().map(|user| (*user).into()).collect() })
}

fn remove(user: &str) -> Body {
    Body::RemoveParticipant(wire::RemoveParticipant { user: user.into() })
}

fn retitle(title: &str) -> Body {
    let title = Some(title.into());
    Body::UpdateConversation(wire::UpdateConversation { title, ..wire::UpdateConversation::default() })
}

fn nothing() -> Conversation {
    Conversation::new(ConversationId::parse("room").expect("valid"), Vec::new()).loaded()
}

/// Owned by `owner`, with `ann` and `bob`.
fn stored() -> Conversation {
    let mut conversation = nothing();
    let applied =
        conversation.apply(at(1), &by(OWNER, Authority::Participant, create(&["ann", "bob", "ann"])));
    assert!(applied.row.is_some());
    conversation
}

/// Open, with one message of `ann`.
fn open() -> Conversation {
    let mut conversation = nothing();
    assert!(conversation.apply(at(1), &by("ann", Authority::Granted, message("hello"))).row.is_some());
    conversation
}

/// `row N`, `known N` for an accepted command without a row, `repeated N`, or the error's code.
fn described(applied: &Applied) -> String {
    match (&applied.outcome, &applied.row) {
        (Some(outcome::Body::Accepted(accepted)), Some(row)) => {
            assert_eq!((accepted.seq, &accepted.id), (row.seq, &row.id));
            assert_eq!(accepted.time_ms, row.time_ms);
            format!("row {}", row.seq)
        }
        (Some(outcome::Body::Accepted(accepted)), None) if accepted.repeated => {
            format!("repeated {}", accepted.seq)
        }
        (Some(outcome::Body::Accepted(accepted)), None) => format!("known {}", accepted.seq),
        (Some(outcome::Body::Failure(failure)), None) => failure.code.clone(),
        other => panic!("no outcome, or a failure together with a row: {other:?}"),
    }
}

#[test]
fn who_may_do_what() {
    use Authority::{Backend, Granted, Participant};
    let everyone: Vec<String> = (0..PARTICIPANTS_MAX).map(|n| format!("u{n}")).collect();
    let everyone: Vec<&str> = everyone.iter().map(String::as_str).collect();
    type Case<'a> = (&'a str, fn() -> Conversation, &'a str, Authority, Body, &'a str);
    let cases: Vec<Case> = vec![
        ("a participant sends", stored, "ann", Participant, message("x"), "row 1"),
        ("a stranger does not", stored, "eve", Participant, message("x"), "forbidden"),
        ("nor where nothing is", nothing, "eve", Participant, message("x"), "forbidden"),
        ("the gateway decided", stored, "eve", Granted, message("x"), "row 1"),
        ("an open one begins on first use", nothing, "ann", Granted, message("x"), "row 1"),
        ("and goes on", open, "bob", Granted, message("x"), "row 2"),
        ("a backend sends for a user", stored, "bot", Backend, message("x"), "row 1"),
        ("but for somebody", stored, "", Backend, message("x"), "invalid_payload"),
        ("anyone creates", nothing, "eve", Participant, create(&[]), "row 0"),
        ("a backend for nobody", nothing, "", Backend, create(&["ann"]), "row 0"),
        ("but nobody else for nobody", nothing, "", Granted, create(&["ann"]), "forbidden"),
        ("once", stored, "eve", Participant, create(&[]), "conflict"),
        ("not over messages", open, "ann", Granted, create(&[]), "conflict"),
        ("not with bad ids", nothing, "ann", Participant, create(&["a b"]), "invalid_payload"),
        ("not too many", nothing, "ann", Participant, create(&everyone), "too_large"),
        ("the owner retitles", stored, OWNER, Participant, retitle("n"), "row 1"),
        ("others do not", stored, "ann", Participant, retitle("n"), "forbidden"),
        ("even where all may join", stored, "ann", Granted, retitle("n"), "forbidden"),
        ("an open one has no owner", open, "ann", Granted, retitle("n"), "forbidden"),
        ("a backend may", open, "", Backend, retitle("n"), "row 2"),
        ("what is there", nothing, "", Backend, retitle("n"), "not_found"),
        ("a stranger learns nothing", nothing, "eve", Participant, retitle("n"), "forbidden"),
        (
            "nothing to change",
            stored,
            OWNER,
            Participant,
            Body::UpdateConversation(wire::UpdateConversation::default()),
            "invalid_payload",
        ),
        ("the owner adds", stored, OWNER, Participant, add(&["eve", "ann"]), "row 1"),
        ("all known", stored, OWNER, Participant, add(&["ann", "bob"]), "known 0"),
        ("a participant does not add", stored, "ann", Participant, add(&["eve"]), "forbidden"),
        ("a backend adds", stored, "", Backend, add(&["eve"]), "row 1"),
        ("not too many are added", stored, "", Backend, add(&everyone[2..]), "too_large"),
        ("the owner removes", stored, OWNER, Participant, remove("ann"), "row 1"),
        ("anyone removes themself", stored, "ann", Participant, remove("ann"), "row 1"),
        ("but nobody else", stored, "ann", Participant, remove("bob"), "forbidden"),
        ("who is not there is not found", stored, OWNER, Participant, remove("eve"), "not_found"),
        ("a stranger does not learn that", stored, "eve", Participant, remove("eve"), "forbidden"),
        ("nor where nothing is", nothing, "eve", Participant, remove("eve"), "forbidden"),
        ("a backend removes", stored, "", Backend, remove("bob"), "row 1"),
    ];
    for (what, conversation, actor, authority, body, expected) in cases {
        assert_eq!(described(&conversation().apply(at(5), &by(actor, authority, body))), expected, "{what}");
    }
}

#[test]
fn a_command_that_this_build_does_not_know_is_refused() {
    let unknown = wire::Command { body: None, ..by("ann", Authority::Granted, message("x")) };
    assert_eq!(described(&open().apply(at(5), &unknown)), "invalid_payload");
    let powers = wire::Command { authority: 99, ..by("ann", Authority::Granted, message("x")) };
    assert_eq!(described(&open().apply(at(5), &powers)), "forbidden");
}

#[test]
fn a_creation_has_seq_0_and_its_creator_participates() {
    let mut conversation = nothing();
    let applied =
        conversation.apply(at(7), &by(OWNER, Authority::Participant, create(&["ann", OWNER, "ann"])));
    let row = applied.row.expect("created");
    let Some(Kind::Created(created)) = &row.kind else { panic!("not a creation: {row:?}") };
    assert_eq!(created.participants, [OWNER, "ann"]);
    assert_eq!((row.seq, row.time_ms), (0, 7_000));
    let head = conversation.head(1);
    assert_eq!((head.seq, head.created, head.owner.as_str(), head.title.as_str()), (0, true, OWNER, "t"));
    assert_eq!((head.created_ms, head.messages, head.version), (7_000, 0, 1));
    let present: Vec<_> = applied
        .projections
        .iter()
        .map(|projection| match projection {
            Projection::Participant { user, present, .. } => (user.as_str(), *present),
            other => panic!("a command without a client id has only participant projections: {other:?}"),
        })
        .collect();
    assert_eq!(present, [(OWNER, true), ("ann", true)]);
    let sent = conversation.apply(at(8), &by("ann", Authority::Participant, message("first")));
    assert_eq!(described(&sent), "row 1");
}

#[test]
fn only_new_participants_are_in_the_event_and_removal_is_projected() {
    let mut conversation = stored();
    let added = conversation.apply(at(2), &by(OWNER, Authority::Participant, add(&["bob", "eve", "eve"])));
    let Some(Kind::ParticipantsAdded(users)) = &added.row.expect("a row").kind else {
        panic!("not an addition")
    };
    assert_eq!(users.users, ["eve"]);
    let removed = conversation.apply(at(3), &by("eve", Authority::Participant, remove("eve")));
    assert!(
        matches!(&removed.projections[..], [Projection::Participant { user, present: false, timestamp_us: 768, .. }]
        if user.as_str() == "eve")
    );
    assert_eq!(
        described(&conversation.apply(at(4), &by("eve", Authority::Participant, message("x")))),
        "forbidden"
    );
}

#[test]
fn the_head_counts_messages_and_keeps_the_newest() {
    let mut conversation = stored();
    for (sequence, content) in [(2, "one"), (3, "two")] {
        conversation.apply(at(sequence), &by("ann", Authority::Participant, message(content)));
    }
    conversation.apply(at(4), &by(OWNER, Authority::Participant, retitle("new")));
    let head = conversation.head(1);
    assert_eq!((head.seq, head.messages, head.title.as_str(), head.archived), (3, 2, "new", false));
    let newest = head.last_message.expect("a last message");
    assert_eq!((newest.seq, newest.time_ms), (2, 3_000));
    assert_eq!(head.position, Some(at(4).position.into()));
}

#[test]
fn times_do_not_go_back_by_a_little() {
    let mut conversation = open();
    let late = At { time_ms: 10, ..at(2) };
    let row = conversation.apply(late, &by("ann", Authority::Granted, message("x"))).row.expect("a row");
    assert_eq!(row.time_ms, 1_000);
    let id = MessageId::from_slice(&row.id);
    assert_eq!(id, MessageId::new(1_000, 2, "room", late.position));
}

/// Before the fix, one message with a time in 2036 gave all later events a time in 2036, and made all earlier client
/// ids expire.
#[test]
fn a_wrong_time_affects_only_its_own_event() {
    const DECADE_MS: u64 = 3_652 * 86_400_000;
    let mut conversation = nothing();
    let mut send = |sequence: u64, time_ms: u64, client_id: &str| {
        let command = by("ann", Authority::Granted, message("x"));
        let command = wire::Command { client_id: client_id.into(), ..command };
        let applied = conversation.apply(At { time_ms, ..at(sequence) }, &command);
        (described(&applied), applied.row.map(|row| row.time_ms))
    };
    let now_ms = 1_800_000_000_000;
    assert_eq!(send(1, now_ms, "a"), ("row 1".into(), Some(now_ms)));
    assert_eq!(send(2, now_ms + DECADE_MS, "b"), ("row 2".into(), Some(now_ms + DECADE_MS)));
    assert_eq!(send(3, now_ms + 1_000, "c"), ("row 3".into(), Some(now_ms + 1_000)));
    assert_eq!(
        send(4, now_ms + 900, "d"),
        ("row 4".into(), Some(now_ms + 1_000)),
        "a log time that runs slightly back keeps the last event's time"
    );
    assert_eq!(send(5, now_ms + 2_000, "a"), ("repeated 1".into(), None));
}

#[test]
fn a_client_id_counts_once() {
    let named = |client_id: &str| wire::Command {
        client_id: client_id.into(),
        ..by("ann", Authority::Granted, message("x"))
    };
    let mut conversation = nothing();
    let first = conversation.apply(at(1), &named("c-1"));
    assert_eq!(described(&first), "row 1");
    assert!(matches!(&first.projections[..], [Projection::Sent { seq: 1, time_ms: 1_000, .. }]));
    let in_the_same_entry = At { position: Position { index: 1, ..at(1).position }, ..at(1) };
    let again = conversation.apply(in_the_same_entry, &named("c-1"));
    assert_eq!(described(&again), "repeated 1");
    assert!(again.projections.is_empty());
    let Some(outcome::Body::Accepted(accepted)) = again.outcome else { panic!("an accepted outcome") };
    assert_eq!(accepted.id, first.row.expect("a row").id);
    let others = wire::Command { actor: "bob".into(), ..named("c-1") };
    assert_eq!(
        described(&conversation.apply(at(2), &others)),
        "row 2",
        "the client id belongs to another sender, so the command is applied"
    );
    assert_eq!(described(&conversation.apply(at(3), &named("c-2"))), "row 3");
}

/// Before the fix, a backend's addition was applied again when its entry came twice, although the user had been removed
/// in between.
#[test]
fn a_backends_command_counts_once_from_version_2_on() {
    let addition = wire::Command { client_id: "~gw-7".into(), ..by("", Authority::Backend, add(&["eve"])) };
    let outcomes = |version| {
        let mut conversation = stored();
        let added = conversation.apply(At { version, ..at(2) }, &addition);
        conversation.apply(At { version, ..at(3) }, &by(OWNER, Authority::Participant, remove("eve")));
        let again = conversation.apply(At { version, ..at(4) }, &addition);
        let other = wire::Command { client_id: "~gw-8".into(), ..addition.clone() };
        let other = conversation.apply(At { version, ..at(5) }, &other);
        [described(&added), described(&again), described(&other)]
    };
    assert_eq!(outcomes(1), ["row 1", "row 3", "known 3"]);
    assert_eq!(outcomes(2), ["row 1", "repeated 1", "row 3"]);
}

#[test]
fn a_repetition_is_answered_even_after_its_sender_was_removed() {
    let mut conversation = stored();
    let send = wire::Command { client_id: "c".into(), ..by("ann", Authority::Participant, message("x")) };
    assert_eq!(described(&conversation.apply(at(2), &send)), "row 1");
    conversation.apply(at(3), &by(OWNER, Authority::Participant, remove("ann")));
    assert_eq!(described(&conversation.apply(at(4), &send)), "repeated 1");
}

#[test]
fn a_refused_command_is_not_remembered() {
    let mut conversation = stored();
    let send = wire::Command { client_id: "c".into(), ..by("eve", Authority::Participant, message("x")) };
    assert_eq!(described(&conversation.apply(at(2), &send)), "forbidden");
    conversation.apply(at(3), &by(OWNER, Authority::Participant, add(&["eve"])));
    assert_eq!(described(&conversation.apply(at(4), &send)), "row 2");
}

#[test]
fn a_replayed_command_makes_no_second_row() {
    let mut conversation = stored();
    let send = wire::Command { client_id: "c".into(), ..by("ann", Authority::Participant, message("x")) };
    let first = conversation.apply(at(2), &send);
    let again = conversation.apply(at(2), &send);
    assert!(again.row.is_none() && again.projections.is_empty());
    assert_eq!(again.outcome, first.outcome, "a repeated command gets the same outcome");
    let unnamed = conversation.apply(at(1), &by(OWNER, Authority::Participant, create(&[])));
    assert!(unnamed.row.is_none() && unnamed.outcome.is_none());
    // It was refused first and accepted later. The refusal is not known any more.
    let earlier = conversation.apply(at(1), &send);
    assert!(earlier.row.is_none() && earlier.outcome.is_none());
    // Positions of a later incarnation are above, whatever their sequences are.
    let later = At { position: Position { incarnation: 2, sequence: 1, index: 0 }, ..at(1) };
    assert_eq!(
        described(&conversation.apply(later, &by("ann", Authority::Participant, message("y")))),
        "row 2"
    );
}

#[test]
fn only_a_backend_sends_as_an_ai() {
    let body = || Body::SendMessage(wire::SendMessage { is_ai: true, ..wire::SendMessage::default() });
    let is_ai = |authority| {
        let row = stored().apply(at(2), &by("ann", authority, body())).row.expect("a row");
        matches!(&row.kind, Some(Kind::Message(message)) if message.is_ai)
    };
    assert!(is_ai(Authority::Backend));
    assert!(!is_ai(Authority::Participant));
}

#[test]
fn an_event_that_is_too_large_for_the_bus_is_refused() {
    let body = message(&"x".repeat(EVENT_BYTES_MAX));
    assert_eq!(described(&open().apply(at(2), &by("ann", Authority::Granted, body))), "too_large");
    let key = wire::Command { client_id: "k".repeat(129), ..by("ann", Authority::Granted, message("x")) };
    assert_eq!(described(&open().apply(at(2), &key)), "invalid_payload");
}
