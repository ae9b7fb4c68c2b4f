//! The session of a request's token, and the exchange of that token for a WebSocket token.

use super::ErrorResponse;
use super::caller::session;
use super::error::ErrorResponses;
use crate::access::auth::{Identity, TokenError};
use crate::shared::Shared;
use crate::wall;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Json;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::timestamp::rfc3339;
use carillon_runtime::settings::Auth;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// How long an exchanged token lasts, in seconds.
const TOKEN_SECONDS: u64 = 3_600;

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    name: &'a str,
    email: Option<&'a str>,
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    conversations: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    iat: u64,
    exp: u64,
    /// The end of the first token, in seconds since 1970. After it this token cannot be exchanged again.
    session_exp: u64,
}

/// A token for WebSockets.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct WebSocketToken {
    /// A JWT to connect with.
    token: String,
    /// How long the token is valid, in seconds.
    #[schema(example = 3600)]
    expires_in: u64,
}

/// Get a token for a WebSocket
///
/// Exchanges the session's token for a token that is valid for an hour. The new token can be exchanged again, but only
/// until the session's token expires.
#[utoipa::path(
    operation_id = "getWebSocketToken", get, path = "/api/websocket/auth", tag = "Session",
    responses((status = 200, body = WebSocketToken, description = "A token that is valid for an hour."), ErrorResponses), security(("bearer" = [])),
)]
pub(super) async fn websocket_token(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Json<WebSocketToken>, ErrorResponse> {
    let identity = session(&shared, &headers)?;
    let token = exchange(&identity, &shared.settings.auth, wall::token_ms() / 1_000)?;
    Ok(Json(WebSocketToken { token, expires_in: TOKEN_SECONDS }))
}

fn exchange(identity: &Identity, auth: &Auth, now: u64) -> Result<String, Failure> {
    let session_exp = identity.session_expires_ms.or(identity.expires_ms).unwrap_or(0) / 1_000;
    // Without this, a stolen token could be exchanged again for ever.
    if identity.session_expires_ms.is_some() && session_exp <= now {
        return Err(TokenError::Expired.failure());
    }
    let Some(secret) = &auth.secret else {
        return Err(Failure::new(ErrorCode::Internal, "there is no secret to sign with"));
    };
    let known = |text: &'_ String| !text.is_empty();
    let profile = &identity.profile;
    let claims = Claims {
        sub: identity.user.as_str(),
        name: &identity.name,
        email: Some(&profile.email).filter(|text| known(text)).map(String::as_str),
        role: Some(&profile.role).filter(|text| known(text)).map(String::as_str),
        picture: Some(&profile.picture).filter(|text| known(text)).map(String::as_str),
        conversations: &identity.conversations,
        iss: auth.issuer.as_deref(),
        aud: auth.audience.as_deref(),
        iat: now,
        exp: now + TOKEN_SECONDS,
        session_exp,
    };
    encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes()))
        .map_err(|error| Failure::new(ErrorCode::Internal, format!("the token could not be signed: {error}")))
}

/// A session, in the form that Auth.js uses.
#[derive(Serialize, ToSchema)]
pub(super) struct Session {
    /// The user of the token.
    user: SessionUser,
    /// When the token expires.
    #[schema(format = DateTime)]
    expires: String,
}

/// The user of a session, from the claims of the token.
#[derive(Serialize, ToSchema)]
struct SessionUser {
    /// The user's id.
    id: String,
    /// The user's display name.
    name: String,
    /// The user's email address; `null` if the token has none.
    #[schema(required = true)]
    email: Option<String>,
    /// The URL of the user's picture; `null` if the token has none.
    #[schema(required = true)]
    image: Option<String>,
    /// The user's role; `null` if the token has none.
    #[schema(required = true)]
    role: Option<String>,
}

/// Read the session
///
/// Returns the user of the token and when the token expires, or `null` without a valid token.
#[utoipa::path(
    operation_id = "readSession", get, path = "/api/auth/session", tag = "Session",
    responses((status = 200, body = Option<Session>, description = "The session, or `null` without a valid token.")), security((), ("bearer" = [])),
)]
pub(super) async fn current(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Json<Option<Session>> {
    let present = |text: &String| (!text.is_empty()).then(|| text.clone());
    let shown = |identity: Identity| Session {
        user: SessionUser {
            id: identity.user.to_string(),
            name: identity.name.to_string(),
            email: present(&identity.profile.email),
            image: present(&identity.profile.picture),
            role: present(&identity.profile.role),
        },
        expires: rfc3339(identity.expires_ms.unwrap_or(0)),
    };
    Json(session(&shared, &headers).ok().map(shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::auth::Verifier;
    use serde_json::json;

    fn auth() -> Auth {
        let secret = Some("a-secret-of-at-least-thirty-two-bytes".to_owned());
        Auth { secret, issuer: Some("here".into()), ..Auth::default() }
    }

    fn identity(session_seconds: u64) -> Identity {
        let exp = wall::token_ms() / 1_000 + session_seconds;
        let claims = json!({
            "sub": "ann", "exp": exp, "iss": "here", "email": "a@x.org", "conversations": ["a*"]
        });
        let key = EncodingKey::from_secret(auth().secret.expect("a secret").as_bytes());
        let token = encode(&Header::default(), &claims, &key).expect("a token");
        Verifier::new(&auth()).verify(&token).expect("valid")
    }

    #[test]
    fn an_exchanged_token_is_the_same_user_for_an_hour() {
        let now = wall::token_ms() / 1_000;
        let token = exchange(&identity(60), &auth(), now).expect("a token");
        let exchanged = Verifier::new(&auth()).verify(&token).expect("valid here");
        assert_eq!(exchanged.user.as_str(), "ann");
        assert_eq!(exchanged.profile.email, "a@x.org");
        assert_eq!(&*exchanged.conversations, ["a*"]);
        assert_eq!(exchanged.expires_ms, Some((now + 3_600) * 1_000));
    }

    #[test]
    fn exchanging_again_does_not_outlast_the_session() {
        let now = wall::token_ms() / 1_000;
        let first = exchange(&identity(60), &auth(), now).expect("a token");
        let first = Verifier::new(&auth()).verify(&first).expect("valid");
        let second = exchange(&first, &auth(), now + 50).expect("the session lasts");
        let second = Verifier::new(&auth()).verify(&second).expect("valid");
        let refused = exchange(&second, &auth(), now + 61).expect_err("the session is over");
        assert_eq!(refused.code, ErrorCode::TokenExpired);
    }
}
