//! Tests of answers, errors and the events about connections, as exact strings.

use super::super::samples::conversation;
use super::*;
use crate::id::{MessageId, UserId};
use crate::position::Position;

const NOW_MS: u64 = 1_700_000_000_009;

fn ring(reply: &Reply) -> Answer {
    answer(Vocabulary::Ring, reply, NOW_MS)
}

fn answer_of(ack: &str, events: &[&str]) -> Answer {
    Answer { ack: Some(ack.into()), events: events.iter().map(ToString::to_string).collect() }
}

#[test]
fn the_end_of_a_subscription_has_a_name_in_each_vocabulary() {
    assert_eq!(ended(Vocabulary::Ring, "c1"), r#"["conversation_left",{"conversationId":"c1"}]"#);
    assert_eq!(
        ended(Vocabulary::Guide, "c1"),
        r#"["unsubscribed",{"channel":"conversation:c1","conversationId":"c1"}]"#
    );
    assert_eq!(ended(Vocabulary::ChordMe, "c1"), r#"["room_left",{"room_id":"c1"}]"#);
}

#[test]
fn joins_and_leaves_are_answered_in_their_vocabulary() {
    let joined = Reply::Joined { conversation: conversation("c1"), head_seq: 9, participant_count: 2 };
    let left = Reply::Left { conversation: conversation("c1") };
    for vocabulary in [Vocabulary::Ring, Vocabulary::Guide] {
        assert_eq!(
            answer(vocabulary, &joined, NOW_MS),
            answer_of(r#"[{"ok":true,"conversationId":"c1","headSeq":9,"participantCount":2}]"#, &[])
        );
        assert_eq!(
            answer(vocabulary, &left, NOW_MS),
            answer_of(r#"[{"ok":true,"conversationId":"c1"}]"#, &[])
        );
    }
    assert_eq!(
        answer(Vocabulary::ChordMe, &joined, NOW_MS),
        answer_of(
            r#"[{"ok":true,"room_id":"c1","participant_count":2,"head_seq":9}]"#,
            &[r#"["room_joined",{"room_id":"c1","participant_count":2}]"#]
        )
    );
    assert_eq!(
        answer(Vocabulary::ChordMe, &left, NOW_MS),
        answer_of(r#"[{"ok":true,"room_id":"c1"}]"#, &[r#"["room_left",{"room_id":"c1"}]"#])
    );
}

#[test]
fn a_send_is_answered_with_the_time_of_the_message() {
    let position = Position { incarnation: 1, sequence: 5, index: 0 };
    let id = MessageId::new(1_700_000_000_007, 3, "c1", position);
    let ack = |client_id| Reply::MessageAck { client_id, conversation: conversation("c1"), id, seq: 3 };
    let start = format!(r#"[{{"ok":true,"id":"{id}","seq":3,"timestamp":"2023-11-14T22:13:20.007Z","#);
    assert_eq!(ring(&ack(None)), answer_of(&format!(r#"{start}"conversationId":"c1"}}]"#), &[]));
    assert_eq!(
        answer(Vocabulary::Guide, &ack(Some("k1".into())), NOW_MS),
        answer_of(&format!(r#"{start}"conversationId":"c1","clientId":"k1"}}]"#), &[])
    );
}

#[test]
fn a_ping_is_answered_with_heartbeat_and_pong() {
    for vocabulary in Vocabulary::ALL {
        assert_eq!(
            answer(vocabulary, &Reply::Pong, NOW_MS),
            answer_of(
                r#"[{"ok":true,"timestamp":1700000000009}]"#,
                &[r#"["heartbeat",{"timestamp":1700000000009}]"#, r#"["pong",{"timestamp":1700000000009}]"#]
            )
        );
    }
}

#[test]
fn an_identity_is_encoded_in_snake_case_and_camel_case() {
    let user = UserId::parse("auth0|a").expect("valid");
    let fields = r#""user_id":"auth0|a","userId":"auth0|a","expiresAt":"2023-11-14T22:13:20.007Z""#;
    assert_eq!(
        answer(Vocabulary::ChordMe, &Reply::Authenticated { user, expires_ms: 1_700_000_000_007 }, NOW_MS),
        answer_of(&format!(r#"[{{"ok":true,{fields}}}]"#), &[&format!(r#"["authenticated",{{{fields}}}]"#)])
    );
    assert_eq!(
        ring(&Reply::TokenExpiring { expires_ms: 1_700_000_000_007 }),
        Answer {
            ack: None,
            events: vec![r#"["token_expiring",{"expiresAt":"2023-11-14T22:13:20.007Z"}]"#.into()]
        }
    );
}

#[test]
fn an_ack_is_ok_and_native_replies_give_empty_answers() {
    assert_eq!(ring(&Reply::Ack), answer_of(r#"[{"ok":true}]"#, &[]));
    let history = Reply::History { conversation: conversation("c1"), events: Vec::new(), has_more: false };
    for reply in [
        Reply::OnlineUsers { users: vec!["a".into()] },
        Reply::OnlineStatus { users: Vec::new() },
        history,
        Reply::Reconnect { after_ms: 5 },
    ] {
        assert_eq!(ring(&reply), Answer::default(), "{reply:?}");
    }
}

#[test]
fn errors_are_acknowledgements_without_an_event() {
    let busy = Failure::new(ErrorCode::RateLimited, "slow \"down\"").retry_after(250);
    for vocabulary in Vocabulary::ALL {
        assert_eq!(
            answer(vocabulary, &Reply::Error(busy.clone()), NOW_MS),
            answer_of(
                concat!(
                    r#"[{"ok":false,"error":{"code":"rate_limited","message":"slow \"down\"","#,
                    r#""retryAfterMs":250}}]"#
                ),
                &[]
            )
        );
    }
    assert_eq!(
        ring(&Reply::Error(Failure::new(ErrorCode::EmptyContent, "empty"))),
        answer_of(r#"[{"ok":false,"error":{"code":"empty_content","message":"empty"}}]"#, &[])
    );
}

#[test]
fn refusals_without_a_callback_are_events() {
    let busy = Failure::new(ErrorCode::Unavailable, "later").retry_after(250);
    let bad = Failure::invalid_payload("missing token");
    let expired = Failure::new(ErrorCode::TokenExpired, "renew it");
    let unauthorized = Failure::new(ErrorCode::Unauthorized, "authenticate first");
    use Vocabulary::{ChordMe, Guide, Ring};
    let table = [
        (Ring, Verb::Send, &bad, r#"["error",{"code":"invalid_payload","message":"missing token"}]"#),
        (
            Guide,
            Verb::Join,
            &busy,
            r#"["error",{"code":"unavailable","message":"later","retryAfterMs":250}]"#,
        ),
        (ChordMe, Verb::Join, &bad, r#"["error",{"message":"missing token","code":"invalid_payload"}]"#),
        (
            ChordMe,
            Verb::Broadcast,
            &busy,
            r#"["error",{"message":"later","code":"unavailable","retry_after_ms":250}]"#,
        ),
        (
            ChordMe,
            Verb::Authenticate,
            &bad,
            r#"["auth_error",{"message":"missing token","code":"invalid_payload"}]"#,
        ),
        (
            ChordMe,
            Verb::Cursor,
            &unauthorized,
            r#"["auth_error",{"message":"authenticate first","code":"unauthorized"}]"#,
        ),
        (Ring, Verb::Send, &expired, r#"["auth_error",{"code":"token_expired","message":"renew it"}]"#),
        (
            Guide,
            Verb::Unknown,
            &unauthorized,
            r#"["auth_error",{"code":"unauthorized","message":"authenticate first"}]"#,
        ),
    ];
    for (vocabulary, verb, failure, expected) in table {
        assert_eq!(refusal_event(vocabulary, verb, failure), expected);
    }
}

#[test]
fn connections_begin_and_end_with_an_event() {
    assert_eq!(connected(), r#"["connected",{"message":"connected to carillon"}]"#);
    let full = Failure::new(ErrorCode::TooManyConnections, "close another one");
    assert_eq!(
        connection_error(&full),
        r#"["connection_error",{"code":"too_many_connections","message":"close another one"}]"#
    );
    let unauthorized = Failure::new(ErrorCode::Unauthorized, "no");
    let table = [
        (
            &unauthorized,
            false,
            r#"{"message":"No authentication token provided","data":{"code":"unauthorized"}}"#,
        ),
        (&unauthorized, true, r#"{"message":"Invalid authentication token","data":{"code":"unauthorized"}}"#),
        (
            &Failure::new(ErrorCode::TokenExpired, "no"),
            true,
            r#"{"message":"Authentication token expired","data":{"code":"token_expired"}}"#,
        ),
        (
            &Failure::new(ErrorCode::Unavailable, "later").retry_after(5),
            true,
            r#"{"message":"later","data":{"code":"unavailable","retryAfterMs":5}}"#,
        ),
    ];
    for (failure, token_given, expected) in table {
        assert_eq!(connect_error(failure, token_given), expected);
    }
}

/// Gateways send the index of a vocabulary to each other and to presence-workers, also those of another release.
#[test]
fn every_vocabulary_keeps_its_index() {
    assert_eq!(Vocabulary::ALL, [Vocabulary::Ring, Vocabulary::Guide, Vocabulary::ChordMe]);
    assert!(Vocabulary::ALL.iter().enumerate().all(|(index, vocabulary)| *vocabulary as usize == index));
}
