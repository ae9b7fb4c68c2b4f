//! `carillon token`: prints a token for a user, signed with the server's secret.

use crate::Failure;
use carillon_proto::id::UserId;
use carillon_runtime::settings::{Refused, Settings};
use carillon_runtime::time::wall_ms;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;
use std::time::Duration;

/// The claims of the token to print.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The user's id (`sub`).
    pub sub: String,
    /// The user's name.
    pub name: Option<String>,
    /// The user's e-mail address.
    pub email: Option<String>,
    /// The user's role.
    pub role: Option<String>,
    /// How long it is valid.
    pub ttl: Duration,
    /// Conversations that the token gives access to under the access rule `token`: ids, or prefixes that end in `*`.
    pub conversations: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversations: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    iat: u64,
    exp: u64,
}

/// Prints the token on standard output.
///
/// # Errors
/// When there is no secret, or `sub` is not a valid user id.
#[expect(clippy::disallowed_methods, reason = "a token's end is a time of the wall clock")]
pub fn print(settings: &Settings, wanted: &Wanted) -> Result<(), Failure> {
    println!("{}", sign(settings, wanted, wall_ms() / 1_000)?);
    Ok(())
}

/// Signs the token. `now` is in seconds since 1970.
///
/// # Errors
/// When there is no secret, or `sub` is not a valid user id.
pub fn sign(settings: &Settings, wanted: &Wanted, now: u64) -> Result<String, Failure> {
    let user = UserId::parse(&wanted.sub).map_err(|error| Refused(vec![format!("--sub: {error}")]))?;
    let secret = settings.auth.secret.as_deref();
    let secret =
        secret.ok_or_else(|| Refused(vec!["there is no secret to sign with: set AUTH_SECRET".into()]))?;
    let claims = Claims {
        sub: user.as_str(),
        name: wanted.name.as_deref(),
        email: wanted.email.as_deref(),
        role: wanted.role.as_deref(),
        conversations: wanted.conversations.as_deref(),
        iss: settings.auth.issuer.as_deref(),
        aud: settings.auth.audience.as_deref(),
        iat: now,
        exp: now + wanted.ttl.as_secs(),
    };
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::default(), &claims, &key).map_err(|error| Failure::Running(error.into()))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a token's end is a time of the wall clock")]
mod tests {
    use super::*;
    use carillon_runtime::settings::Role;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn settings() -> Settings {
        let mut settings = Settings::defaults(Role::Token);
        settings.auth.secret = Some(SECRET.into());
        settings
    }

    fn claims(token: &str, validation: &Validation) -> serde_json::Value {
        decode(token, &DecodingKey::from_secret(SECRET.as_bytes()), validation).expect("a valid token").claims
    }

    #[test]
    fn a_token_has_the_requested_claims() {
        let wanted = Wanted {
            sub: "alice".into(),
            name: Some("Alice".into()),
            ttl: Duration::from_secs(60),
            conversations: Some(vec!["a".into(), "b*".into()]),
            ..Wanted::default()
        };
        let now = wall_ms() / 1_000;
        let token = sign(&settings(), &wanted, now).expect("signed");
        assert_eq!(decode_header(&token).expect("header").alg, Algorithm::HS256);
        let expected = serde_json::json!({
            "sub": "alice", "name": "Alice", "conversations": ["a", "b*"], "iat": now, "exp": now + 60
        });
        assert_eq!(claims(&token, &Validation::new(Algorithm::HS256)), expected);
    }

    #[test]
    fn a_token_has_the_issuer_and_audience_of_the_settings() {
        let mut settings = settings();
        settings.auth.issuer = Some("carillon".into());
        settings.auth.audience = Some("chat".into());
        let wanted = Wanted { sub: "alice".into(), ttl: Duration::from_secs(60), ..Wanted::default() };
        let token = sign(&settings, &wanted, wall_ms() / 1_000).expect("signed");
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&["carillon"]);
        validation.set_audience(&["chat"]);
        assert_eq!(claims(&token, &validation)["iss"], "carillon");
    }

    #[test]
    fn an_invalid_user_id_is_wrong_usage() {
        let wanted = Wanted { sub: "a b".into(), ..Wanted::default() };
        assert!(matches!(sign(&settings(), &wanted, 0), Err(Failure::Usage(_))));
    }
}
