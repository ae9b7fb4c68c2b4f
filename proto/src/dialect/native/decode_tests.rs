//! Tests of the native decoder: tables of accepted and refused frames with their codes, and property tests that no
//! input makes it panic.

use super::*;
use proptest::prelude::*;

fn ok(text: &str) -> Command {
    decode(text, limits::CONTENT_CHARS_MAX).unwrap_or_else(|refused| panic!("{text}: {refused:?}")).command
}

fn code(text: &str) -> &'static str {
    decode(text, limits::CONTENT_CHARS_MAX).expect_err(text).failure.code.as_str()
}

#[test]
fn frames_of_gator_clients_are_decoded() {
    let Command::Send(send) =
        ok(r#"{"type":"send_message","conversation_id":"c1","content":"hi","persona_id":null}"#)
    else {
        panic!("not a send");
    };
    assert_eq!((send.content.as_str(), send.content_type.as_str(), send.client_id), ("hi", "text", None));
    let conversation = ConversationId::parse("c1").expect("valid");
    assert_eq!(
        ok(r#"{"type":"join_conversation","conversation_id":"c1"}"#),
        Command::Join { conversation: conversation.clone(), after_seq: None }
    );
    assert_eq!(
        ok(r#"{"conversation_id":"c1","extra":[1,{"a":2}],"type":"typing_start"}"#),
        Command::Typing { conversation, typing: true }
    );
    assert_eq!(ok(r#"{"type":"ping"}"#), Command::Ping);
}

#[test]
fn wrong_frames_are_refused_with_their_codes() {
    let long =
        format!(r#"{{"type":"send_message","conversation_id":"c","content":"{}"}}"#, "x".repeat(5_001));
    let deep = format!(
        r#"{{"type":"send_message","conversation_id":"c","content":"x","metadata":{{"a":{}{}}}}}"#,
        "[".repeat(40),
        "]".repeat(40)
    );
    let wide = format!(r#"{{"type":"watch_presence","user_ids":[{}]}}"#, vec!["\"u\""; 201].join(","));
    let table = [
        ("", "invalid_frame"),
        ("nope", "invalid_frame"),
        ("[]", "invalid_frame"),
        (r#"["ping",null]"#, "invalid_frame"),
        ("1", "invalid_frame"),
        ("null", "invalid_frame"),
        ("{}", "invalid_frame"),
        (r#"{"type":7}"#, "invalid_frame"),
        (r#"{"type":null}"#, "invalid_frame"),
        (r#"{"type":"ping""#, "invalid_frame"),
        (r#"{"type":"no_such"}"#, "invalid_payload"),
        (r#"{"type":"ping","ref":7}"#, "invalid_payload"),
        (r#"{"type":"join_conversation"}"#, "invalid_payload"),
        (r#"{"type":"join_conversation","conversation_id":7}"#, "invalid_payload"),
        (r#"{"type":"join_conversation","conversation_id":"a b"}"#, "invalid_payload"),
        (r#"{"type":"join_conversation","conversation_id":"a.*"}"#, "invalid_payload"),
        (r#"{"type":"join_conversation","conversation_id":">"}"#, "invalid_payload"),
        (r#"{"type":"join_conversation","conversation_id":"a\nb"}"#, "invalid_payload"),
        (r#"{"type":"join_conversation","conversation_id":"c","after_seq":-1}"#, "invalid_payload"),
        (r#"{"type":"join_conversation","conversation_id":"c","after_seq":1.5}"#, "invalid_payload"),
        (r#"{"type":"send_message","conversation_id":"c"}"#, "invalid_payload"),
        (r#"{"type":"send_message","conversation_id":"c","content":" \n\u0000 "}"#, "empty_content"),
        (
            r#"{"type":"send_message","conversation_id":"c","content":"x","client_id":"~x"}"#,
            "invalid_payload",
        ),
        (r#"{"type":"send_message","conversation_id":"c","content":"x","client_id":""}"#, "invalid_payload"),
        (r#"{"type":"send_message","conversation_id":"c","content":"x","metadata":[1]}"#, "invalid_payload"),
        (r#"{"type":"send_message","conversation_id":"c","content":"x","reply_to":"y"}"#, "invalid_payload"),
        (r#"{"type":"history","conversation_id":"c","before_seq":1,"after_seq":1}"#, "invalid_payload"),
        (r#"{"type":"set_status","status":"gone"}"#, "invalid_payload"),
        (r#"{"type":"broadcast","conversation_id":"c"}"#, "invalid_payload"),
        (long.as_str(), "too_large"),
        (deep.as_str(), "too_large"),
        (wide.as_str(), "too_large"),
    ];
    for (text, expected) in table {
        assert_eq!(code(text), expected, "{text}");
    }
}

#[test]
fn errors_echo_the_reference() {
    let refused = decode(r#"{"type":"no_such","ref":"r1"}"#, 5_000).expect_err("unknown");
    assert_eq!(refused.reference.as_deref(), Some("r1"));
    assert_eq!(decode(r#"{"type":"ping","ref":"r2"}"#, 0).expect("ping").reference.as_deref(), Some("r2"));
    assert_eq!(decode(r#"{"type":"ping","ref":null}"#, 0).expect("ping").reference, None);
    let long = format!(r#"{{"type":"ping","ref":"{}"}}"#, "r".repeat(65));
    assert_eq!(code(&long), "invalid_payload");
}

#[test]
fn bounds_hold_exactly() {
    let send = |chars: usize| {
        format!(r#"{{"type":"send_message","conversation_id":"c","content":"{}"}}"#, "ü".repeat(chars))
    };
    assert!(decode(&send(5_000), 5_000).is_ok());
    assert_eq!(code(&send(5_001)), "too_large");
    assert!(decode(&send(6_000), 0).is_ok(), "a maximum of 0 must mean no maximum");
    let Command::History { limit, .. } = ok(r#"{"type":"history","conversation_id":"c","limit":100000}"#)
    else {
        panic!("not a history request");
    };
    assert_eq!(limit, limits::HISTORY_LIMIT_MAX);
}

/// Frames that are almost valid: a valid frame with a few characters replaced.
fn mutated() -> impl Strategy<Value = String> {
    let seeds = prop::sample::select(vec![
        r#"{"type":"send_message","conversation_id":"c1","content":"hi \ud83d\ude00","client_id":"a","metadata":{"k":[1]},"ref":"r"}"#,
        r#"{"type":"join_conversation","conversation_id":"c1","after_seq":18446744073709551615}"#,
        r#"{"type":"history","conversation_id":"c1","before_seq":0,"limit":1}"#,
        r#"{"type":"watch_presence","user_ids":["a","auth0|b"]}"#,
        r#"{"type":"broadcast","conversation_id":"c","event":"e","data":{"x":null}}"#,
    ]);
    (seeds, any::<prop::sample::Index>(), any::<prop::sample::Index>(), ".{0,6}").prop_map(
        |(seed, a, b, with)| {
            let chars: Vec<char> = seed.chars().collect();
            let (a, b) = (a.index(chars.len()), b.index(chars.len()));
            let (from, to) = (a.min(b), a.max(b).min(a.min(b) + 8));
            chars[..from].iter().collect::<String>() + &with + &chars[to..].iter().collect::<String>()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_decoder_panic(text in prop_oneof![".{0,200}", mutated(), r#"[\[\]{}",:a-z0-9\\ ]{0,120}"#]) {
        if let Err(refused) = decode(&text, limits::CONTENT_CHARS_MAX) {
            prop_assert!(!refused.failure.message.is_empty());
            prop_assert!(refused.failure.message.chars().count() < 400);
        }
    }

    #[test]
    fn accepted_sends_are_within_the_limits(text in mutated()) {
        if let Ok(Frame { command: Command::Send(send), reference }) = decode(&text, limits::CONTENT_CHARS_MAX) {
            prop_assert!(!send.content.trim().is_empty());
            prop_assert!(send.content.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
            prop_assert!(ConversationId::parse(send.conversation.as_str()).is_ok());
            prop_assert!(reference.is_none_or(|r| r.chars().count() <= limits::REF_LENGTH_MAX));
        }
    }
}

#[test]
fn nesting_without_end_is_refused_and_not_followed() {
    let deep = format!(r#"{{"type":"ping","x":{}"#, "[".repeat(60_000));
    assert_eq!(code(&deep), "invalid_frame");
    let closed = format!(r#"{{"type":"ping","x":{}{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
    assert!(decode(&closed, 5_000).is_ok() || code(&closed) == "invalid_frame");
}
