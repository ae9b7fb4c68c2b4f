//! Verifies tokens and makes identities of them. Tokens are signed by HS256 with the current or the previous secret.

use crate::wall;
use carillon_proto::code::{Close, ErrorCode, Failure};
use carillon_proto::id::UserId;
use carillon_proto::limits::NAME_LENGTH_MAX;
use carillon_proto::wire::{MovedIdentity, Profile};
use carillon_runtime::settings::Auth;
use carillon_runtime::time::steady_ms;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;
use std::sync::Arc;

/// Tolerated difference between the clocks of the token's issuer and of this gateway, in seconds.
const LEEWAY_SECONDS: u64 = 5;
/// Maximum length of a token. A thousand conversations in the claims fit.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// A user, and what the user's token allows.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// The user's display name.
    pub name: Arc<str>,
    /// The user's profile.
    pub profile: Profile,
    /// The conversations that the token names, some as `prefix*`.
    pub conversations: Arc<[String]>,
    /// When the token ends, in milliseconds since 1970; `None` without a token.
    pub expires_ms: Option<u64>,
    /// The same time on the steady clock, computed when the token was verified. A wall clock that is set later neither
    /// shortens nor prolongs a session.
    ends_ms: Option<u64>,
    /// For a token that was issued in exchange for another one: when that other token ends.
    pub session_expires_ms: Option<u64>,
}

impl Identity {
    /// An identity without a token, for development only.
    pub fn unverified(user: UserId, name: Option<&str>) -> Identity {
        let name = shown_name(name.filter(|name| !name.trim().is_empty()).unwrap_or(user.as_str()));
        let profile = Profile { user: user.to_string(), name: name.to_string(), ..Profile::default() };
        Identity {
            user,
            name,
            profile,
            conversations: Arc::new([]),
            expires_ms: None,
            ends_ms: None,
            session_expires_ms: None,
        }
    }

    /// Encodes the identity for another gateway, with its profile, which the directory keeps.
    pub fn pack(&self, profile: Profile) -> MovedIdentity {
        MovedIdentity {
            user: self.user.to_string(),
            name: self.name.to_string(),
            profile: Some(profile),
            conversations: self.conversations.to_vec(),
            expires_ms: self.expires_ms,
            session_expires_ms: self.session_expires_ms,
        }
    }

    /// The identity that another gateway verified; `None` if the user id is not valid.
    pub fn moved(moved: MovedIdentity) -> Option<Identity> {
        Some(Identity {
            user: UserId::parse(&moved.user).ok()?,
            name: moved.name.into(),
            profile: moved.profile.unwrap_or_default(),
            conversations: moved.conversations.into(),
            expires_ms: moved.expires_ms,
            ends_ms: moved.expires_ms.map(steadily),
            session_expires_ms: moved.session_expires_ms,
        })
    }

    /// Milliseconds until the token ends; `None` without a token.
    pub fn left_ms(&self) -> Option<u64> {
        self.ends_ms.map(|ends_ms| ends_ms.saturating_sub(steady_ms()))
    }

    /// When the token ends, on the steady clock.
    pub fn ends_ms(&self) -> Option<u64> {
        self.ends_ms
    }
}

/// Converts a time of the wall clock to the steady clock, as the two stand now.
fn steadily(wall_ms: u64) -> u64 {
    steady_ms().saturating_add(wall_ms.saturating_sub(wall::token_ms()))
}

/// A display name: without control characters, and cut to its maximum length.
fn shown_name(name: &str) -> Arc<str> {
    name.chars().filter(|c| !c.is_control()).take(NAME_LENGTH_MAX).collect::<String>().into()
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// It is not valid.
    Invalid,
    /// It has ended.
    Expired,
}

impl TokenError {
    /// The close reason of a WebSocket.
    pub fn close(self) -> Close {
        match self {
            Self::Invalid => Close::InvalidToken,
            Self::Expired => Close::TokenExpired,
        }
    }

    /// The error of a request.
    pub fn failure(self) -> Failure {
        match self {
            Self::Invalid => Failure::new(ErrorCode::Unauthorized, "the token is not valid"),
            Self::Expired => Failure::new(ErrorCode::TokenExpired, "the token's time is over: get a new one"),
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    name: Option<String>,
    email: Option<String>,
    role: Option<String>,
    picture: Option<String>,
    conversations: Option<Vec<String>>,
    session_exp: Option<u64>,
}

/// Verifies tokens.
pub struct Verifier {
    keys: Vec<DecodingKey>,
    validation: Validation,
}

impl Verifier {
    /// A verifier for the secrets in `auth`.
    pub fn new(auth: &Auth) -> Verifier {
        let secrets = auth.secret.iter().chain(&auth.previous_secret);
        let keys = secrets.map(|secret| DecodingKey::from_secret(secret.as_bytes())).collect();
        // The algorithm is fixed. Otherwise the token's header could choose a weaker one.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["sub", "exp"]);
        match &auth.issuer {
            Some(issuer) => validation.set_issuer(&[issuer]),
            None => validation.iss = None,
        }
        match &auth.audience {
            Some(audience) => validation.set_audience(&[audience]),
            None => validation.validate_aud = false,
        }
        Verifier { keys, validation }
    }

    /// The identity behind a token.
    ///
    /// # Errors
    /// When it is expired, or not valid under any key.
    pub fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid);
        }
        let mut reason = TokenError::Invalid;
        for key in &self.keys {
            match decode::<Claims>(token, key, &self.validation) {
                Ok(token) => return identity(token.claims),
                Err(error) if *error.kind() == ErrorKind::ExpiredSignature => reason = TokenError::Expired,
                Err(_) => {}
            }
        }
        Err(reason)
    }
}

fn identity(claims: Claims) -> Result<Identity, TokenError> {
    let user = UserId::parse(&claims.sub).map_err(|_| TokenError::Invalid)?;
    let name = shown_name(claims.name.as_deref().unwrap_or(&claims.sub));
    let profile = Profile {
        user: user.to_string(),
        name: name.to_string(),
        email: claims.email.unwrap_or_default(),
        role: claims.role.unwrap_or_default(),
        picture: claims.picture.unwrap_or_default(),
    };
    let conversations = claims.conversations.unwrap_or_default().into();
    let expires_ms = Some(claims.exp.saturating_mul(1_000));
    let session_expires_ms = claims.session_exp.map(|seconds| seconds.saturating_mul(1_000));
    let ends_ms = expires_ms.map(steadily);
    Ok(Identity { user, name, profile, conversations, expires_ms, ends_ms, session_expires_ms })
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
