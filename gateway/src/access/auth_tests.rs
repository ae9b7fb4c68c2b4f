//! Tests valid and forged tokens.

use super::*;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";
const BEFORE: &str = "the-one-before-of-at-least-thirty-two";

fn verifier() -> Verifier {
    Verifier::new(&Auth {
        secret: Some(SECRET.into()),
        previous_secret: Some(BEFORE.into()),
        ..Auth::default()
    })
}

fn token(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).expect("a token")
}

fn soon() -> u64 {
    crate::wall::token_ms() / 1_000 + 60
}

#[test]
fn the_current_and_the_previous_secret_count() {
    let claims = json!({"sub": "alice", "exp": soon(), "name": "Al\u{7}ice", "conversations": ["a", "b*"]});
    for secret in [SECRET, BEFORE] {
        let identity = verifier().verify(&token(secret, Algorithm::HS256, &claims)).expect("valid");
        assert_eq!((identity.user.as_str(), &*identity.name), ("alice", "Alice"));
        assert_eq!(&*identity.conversations, ["a", "b*"]);
        assert_eq!(identity.expires_ms, Some(claims["exp"].as_u64().expect("a number") * 1_000));
    }
    assert_eq!(
        &*verifier()
            .verify(&token(SECRET, Algorithm::HS256, &json!({"sub": "b", "exp": soon()})))
            .expect("valid")
            .name,
        "b"
    );
}

#[test]
fn hostile_tokens_do_not_count() {
    let good = json!({"sub": "alice", "exp": soon()});
    let unsigned = |header: &str| {
        let part = |text: &str| {
            use std::fmt::Write;
            // base64url without padding, written here because a library for a few bytes is not worth it.
            const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let mut out = String::new();
            for chunk in text.as_bytes().chunks(3) {
                let bits = chunk.iter().fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte))
                    << (8 * (3 - chunk.len()));
                for index in 0..=chunk.len() {
                    let symbol = ALPHABET[(bits >> (18 - 6 * index)) as usize & 63] as char;
                    write!(out, "{symbol}").expect("text");
                }
            }
            out
        };
        format!("{}.{}.", part(header), part(&good.to_string()))
    };
    let table = [
        String::new(),
        "a.b.c".into(),
        "x".repeat(20_000),
        unsigned(r#"{"alg":"none","typ":"JWT"}"#),
        unsigned(r#"{"alg":"None"}"#),
        token("another-secret-of-thirty-two-bytes!!", Algorithm::HS256, &good),
        token(SECRET, Algorithm::HS384, &good),
        token(SECRET, Algorithm::HS256, &json!({"sub": "alice"})),
        token(SECRET, Algorithm::HS256, &json!({"exp": soon()})),
        token(SECRET, Algorithm::HS256, &json!({"sub": "alice", "exp": soon().to_string()})),
        token(SECRET, Algorithm::HS256, &json!({"sub": "alice", "exp": -1})),
        token(SECRET, Algorithm::HS256, &json!({"sub": "a b", "exp": soon()})),
        token(SECRET, Algorithm::HS256, &json!({"sub": ["alice"], "exp": soon()})),
        token(SECRET, Algorithm::HS256, &json!({"sub": "alice", "exp": soon(), "nbf": soon()})),
    ];
    for token in table {
        assert_eq!(verifier().verify(&token).err(), Some(TokenError::Invalid), "{token}");
    }
    let late = json!({"sub": "alice", "exp": soon() - 120});
    assert_eq!(verifier().verify(&token(SECRET, Algorithm::HS256, &late)).err(), Some(TokenError::Expired));
    let within_leeway = json!({"sub": "alice", "exp": soon() - 63});
    assert!(verifier().verify(&token(SECRET, Algorithm::HS256, &within_leeway)).is_ok());
}

#[test]
fn without_a_secret_nothing_counts() {
    let claims = json!({"sub": "alice", "exp": soon()});
    assert!(Verifier::new(&Auth::default()).verify(&token("", Algorithm::HS256, &claims)).is_err());
}
