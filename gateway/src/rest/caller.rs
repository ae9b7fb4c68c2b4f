//! The caller of a request: a user with a token, or a backend with an API key (`docs/rest.md`).

use super::ErrorResponse;
use crate::access::auth::Identity;
use crate::http::routes::bearer;
use crate::shared::Shared;
use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::wire::Authority;
use std::sync::Arc;

/// The caller of a request.
pub enum Caller {
    /// A user, with the token's identity.
    User(Box<Identity>),
    /// A backend, which may act for any user.
    Backend,
}

/// A caller's right to one conversation.
pub struct Right {
    /// The authority that commands carry.
    pub authority: Authority,
    /// The user that reads carry and that must be a stored participant; empty if none is required.
    pub check: String,
}

impl Caller {
    /// What entitles the caller to use the conversation, by the gateway's access rules.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn right(&self, shared: &Shared, conversation: &ConversationId) -> Result<Right, Failure> {
        let Caller::User(identity) = self else {
            return Ok(Right { authority: Authority::Backend, check: String::new() });
        };
        let authority = shared.access.authority(identity, conversation).ok_or_else(Failure::forbidden)?;
        let check = match authority {
            Authority::Participant => identity.user.to_string(),
            Authority::Granted | Authority::Backend => String::new(),
        };
        Ok(Right { authority, check })
    }

    /// The user that the caller acts for: the calling user, or the one that a backend names in the field `name`.
    ///
    /// # Errors
    /// `invalid_payload` when a backend names no user, `forbidden` when a user names another user.
    pub fn acts_for(&self, named: Option<&str>, name: &str) -> Result<UserId, Failure> {
        match (self, named) {
            (Caller::User(identity), None) => Ok(identity.user.clone()),
            (Caller::User(identity), Some(named)) if named == identity.user.as_str() => {
                Ok(identity.user.clone())
            }
            (Caller::User(_), Some(_)) => Err(only_with_a_key(name)),
            (Caller::Backend, Some(named)) => user_id(named),
            (Caller::Backend, None) => Err(Failure::invalid_payload(format!("missing {name}"))),
        }
    }

    /// The display name of the caller; empty for a backend.
    pub fn shown_name(&self) -> &str {
        match self {
            Caller::User(identity) => &identity.name,
            Caller::Backend => "",
        }
    }

    /// The calling user; `None` for a backend.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Caller::User(identity) => Some(&identity.user),
            Caller::Backend => None,
        }
    }
}

/// Parses a user's id.
///
/// # Errors
/// `invalid_payload`.
pub fn user_id(text: &str) -> Result<UserId, Failure> {
    UserId::parse(text).map_err(|error| Failure::invalid_payload(error.to_string()))
}

/// The error for a field that only a backend may set.
pub fn only_with_a_key(name: &str) -> Failure {
    Failure::new(ErrorCode::Forbidden, format!("{name} needs an API key"))
}

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ErrorResponse> {
        if let Some(key) = api_key(&parts.headers) {
            return match is_one_of(key, &shared.settings.api_keys) {
                true => Ok(Caller::Backend),
                false => Err(Failure::new(ErrorCode::Unauthorized, "the API key is not valid").into()),
            };
        }
        Ok(Caller::User(Box::new(session(shared, &parts.headers)?)))
    }
}

/// The identity of a request's token.
///
/// # Errors
/// `unauthorized` or `token_expired`.
pub fn session(shared: &Shared, headers: &HeaderMap) -> Result<Identity, Failure> {
    let Some(token) = bearer(headers) else {
        return Err(Failure::new(ErrorCode::Unauthorized, "send a token: Authorization: Bearer TOKEN"));
    };
    shared.verifier.verify(&token).map_err(crate::access::auth::TokenError::failure)
}

fn api_key(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("apikey").then(|| key.trim())
}

/// Compares with every key. The time that it takes depends only on lengths, so it does not reveal a key.
fn is_one_of(given: &str, keys: &[String]) -> bool {
    let same = |key: &String| {
        let differences = key.bytes().zip(given.bytes()).fold(0, |all, (one, other)| all | (one ^ other));
        (key.len() == given.len()) & (std::hint::black_box(differences) == 0)
    };
    keys.iter().fold(false, |found, key| found | same(key)) && !given.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_configured_key_is_valid() {
        let keys = ["first-key", "second-key"].map(String::from);
        assert!(is_one_of("first-key", &keys) && is_one_of("second-key", &keys));
        for wrong in ["", "first-ke", "first-keys", "first-kez", "First-key"] {
            assert!(!is_one_of(wrong, &keys), "{wrong}");
        }
        assert!(!is_one_of("", &[]) && !is_one_of("", &[String::new()]));
    }
}
