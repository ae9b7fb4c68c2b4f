//! Extracts JSON bodies, queries and ids from requests. Every refusal is JSON with a code.

use super::ErrorResponse;
use super::caller::user_id;
use crate::shared::Shared;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::command::too_large;
use carillon_proto::id::{ConversationId, UserId};
use carillon_proto::limits::{HISTORY_LIMIT_DEFAULT, HISTORY_LIMIT_MAX, ID_LIST_LENGTH_MAX};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use std::sync::Arc;
use std::time::Duration;

/// Time limit for receiving a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Added to the maximum size of a frame, because the same content has longer field names here.
const BODY_OVERHEAD_BYTES: usize = 4 * 1024;
/// How much of a too large body is read and dropped, so that the client reads the error instead of a broken connection.
const SURPLUS_BYTES_MAX: usize = 1024 * 1024;

/// A JSON object as the request's body.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for JsonBody<T> {
    type Rejection = ErrorResponse;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, ErrorResponse> {
        if !is_json(request.headers()) {
            let failure = Failure::new(ErrorCode::InvalidFrame, "send Content-Type: application/json");
            return Err(ErrorResponse::with_status(failure, StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let bytes_max = bytes_max(shared.settings.limits.frame_bytes);
        match tokio::time::timeout(BODY_TIMEOUT, read(request, bytes_max)).await {
            Ok(body) => Ok(JsonBody(parse(&body?)?)),
            Err(_) => {
                let failure = Failure::new(ErrorCode::Timeout, "the body did not come: send it again");
                Err(ErrorResponse::with_status(failure, StatusCode::REQUEST_TIMEOUT))
            }
        }
    }
}

fn bytes_max(frame_bytes: usize) -> usize {
    let frame_bytes = match frame_bytes {
        0 => carillon_runtime::settings::list::FRAME_BYTES_BOUND,
        limited => limited,
    };
    frame_bytes + BODY_OVERHEAD_BYTES
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

async fn read(request: Request, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut stream = request.into_body().into_data_stream();
    let (mut body, mut bytes) = (Vec::new(), 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| invalid_frame("the body broke off"))?;
        bytes += chunk.len();
        if bytes <= bytes_max {
            body.extend_from_slice(&chunk);
        } else if bytes > bytes_max + SURPLUS_BYTES_MAX {
            break;
        }
    }
    match bytes > bytes_max {
        true => Err(too_large("the body", bytes_max, "bytes")),
        false => Ok(body),
    }
}

fn invalid_frame(message: &str) -> Failure {
    Failure::new(ErrorCode::InvalidFrame, message)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    // Derived decoders would accept an array as an object.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(invalid_frame("the body must be a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => Failure::invalid_fields(&error),
        _ => invalid_frame("the body must be a JSON object"),
    })
}

/// The request's query.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Shared>> for Params<T> {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, ErrorResponse> {
        let Query(params) = Query::try_from_uri(&parts.uri).map_err(|error| {
            let text = error.body_text();
            let what = text.rsplit_once("query string: ").map_or(text.as_str(), |(_, what)| what);
            Failure::invalid_payload(format!("the query is wrong: {what}"))
        })?;
        Ok(Params(params))
    }
}

/// The conversation in the path.
pub struct InConversation(pub ConversationId);

impl FromRequestParts<Arc<Shared>> for InConversation {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ErrorResponse> {
        Ok(InConversation(conversation_id(&segment(parts, shared, "id").await?)?))
    }
}

/// The user in the path: the segment `userId` if `NESTED`, otherwise `id`.
pub struct OfUser<const NESTED: bool>(pub UserId);

impl<const NESTED: bool> FromRequestParts<Arc<Shared>> for OfUser<NESTED> {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ErrorResponse> {
        let name = if NESTED { "userId" } else { "id" };
        Ok(OfUser(user_id(&segment(parts, shared, name).await?)?))
    }
}

async fn segment(parts: &mut Parts, shared: &Arc<Shared>, name: &str) -> Result<String, Failure> {
    let params = RawPathParams::from_request_parts(parts, shared).await;
    let params = params.map_err(|_| Failure::invalid_payload("the path must be UTF-8"))?;
    let found = params.iter().find(|(param, _)| *param == name).map(|(_, value)| value.to_owned());
    found.ok_or_else(|| Failure::new(ErrorCode::Internal, format!("this path has no {name}")))
}

/// Parses a conversation's id.
///
/// # Errors
/// `invalid_payload`.
pub fn conversation_id(text: &str) -> Result<ConversationId, Failure> {
    ConversationId::parse(text).map_err(|error| Failure::invalid_payload(error.to_string()))
}

/// Parses a list of ids separated by commas. Repeated ids are dropped.
///
/// # Errors
/// `too_large` or `invalid_payload`.
pub fn user_ids(list: &str) -> Result<Vec<UserId>, Failure> {
    let parts: Vec<&str> = list.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    checked_users(parts.iter().copied())
}

/// Checks user ids and drops repeated ones. The order stays.
///
/// # Errors
/// `too_large` or `invalid_payload`.
pub fn checked_users<'a>(ids: impl ExactSizeIterator<Item = &'a str>) -> Result<Vec<UserId>, Failure> {
    if ids.len() > ID_LIST_LENGTH_MAX {
        return Err(too_large("a list of users", ID_LIST_LENGTH_MAX, "ids"));
    }
    let mut seen = std::collections::HashSet::new();
    let mut users = Vec::with_capacity(ids.len());
    for id in ids {
        let user = user_id(id)?;
        if seen.insert(user.clone()) {
            users.push(user);
        }
    }
    Ok(users)
}

/// The number of items in a page, within its limits.
pub fn page_limit(requested: Option<u32>) -> u32 {
    requested.unwrap_or(HISTORY_LIMIT_DEFAULT).clamp(1, HISTORY_LIMIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Thing {
        title: Option<String>,
    }

    #[test]
    fn bodies_that_are_not_valid_objects_are_refused_with_a_code() {
        assert_eq!(parse(b" {\"title\":\"a\",\"more\":1} "), Ok(Thing { title: Some("a".into()) }));
        assert_eq!(parse(b"{\"title\":null}"), Ok(Thing { title: None }));
        for (body, code) in [
            (&b""[..], ErrorCode::InvalidFrame),
            (b"{", ErrorCode::InvalidFrame),
            (b"[\"a\"]", ErrorCode::InvalidFrame),
            (b"{\"title\":\"\xff\"}", ErrorCode::InvalidFrame),
            (b"{\"title\":1}", ErrorCode::InvalidPayload),
        ] {
            assert_eq!(parse::<Thing>(body).expect_err("refused").code, code, "{body:?}");
        }
    }

    #[test]
    fn lists_are_bounded_and_hold_each_id_once() {
        let users = user_ids("b, a,b,,a+c@x.org").expect("valid");
        assert_eq!(users.iter().map(UserId::as_str).collect::<Vec<_>>(), ["b", "a", "a+c@x.org"]);
        assert_eq!(user_ids("").expect("valid"), []);
        assert_eq!(user_ids("a,b c").expect_err("no id").code, ErrorCode::InvalidPayload);
        let long = |length| (0..length).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(user_ids(&long(200)).expect("valid").len(), 200);
        assert_eq!(user_ids(&long(201)).expect_err("long").code, ErrorCode::TooLarge);
    }

    #[test]
    fn json_is_recognised_by_its_content_type() {
        let typed =
            |value: &str| is_json(&HeaderMap::from_iter([(CONTENT_TYPE, value.parse().expect("text"))]));
        assert!(typed("application/json") && typed("Application/JSON; charset=utf-8"));
        assert!(typed("application/merge-patch+json"));
        assert!(!typed("text/plain") && !typed("application/jsonx") && !is_json(&HeaderMap::new()));
    }
}
