//! Errors as responses (`docs/protocol.md#errors`): always JSON with a code.

use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use carillon_proto::code::{ErrorCode, Failure};
use serde::Serialize;
use std::borrow::Cow;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{RefOr, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

/// The body of every error.
#[derive(Serialize, ToSchema)]
pub struct Error<'a> {
    /// The name of the HTTP status.
    #[schema(example = "Forbidden")]
    error: &'a str,
    /// The kind of the error, for programs.
    #[schema(value_type = Code)]
    code: &'a str,
    /// A text for people, which may change.
    message: &'a str,
    /// After how many milliseconds to send the request again. The header `Retry-After` has the same time in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// The error codes, for the description of the API.
pub struct Code;

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let codes = ErrorCode::ALL.map(ErrorCode::as_str);
        let description = "The kind of an error. `timeout` with the status 504 means that the outcome is unknown: send \
                           the request again with the same `Idempotency-Key`.";
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(codes))
            .description(Some(description))
            .into()
    }
}

impl ToSchema for Code {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("ErrorCode")
    }
}

/// An error as a response, with the HTTP status of its code.
pub fn error_response(failure: &Failure) -> Response {
    let status =
        StatusCode::from_u16(failure.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    error_response_with_status(failure, status)
}

/// An error as a response, with a status that fits better than the code's own.
pub fn error_response_with_status(failure: &Failure, status: StatusCode) -> Response {
    let body = Error {
        error: status.canonical_reason().unwrap_or("Error"),
        code: failure.code.as_str(),
        message: &failure.message,
        retry_after_ms: failure.retry_after_ms,
    };
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    if let Some(retry_after_ms) = failure.retry_after_ms {
        headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1_000)));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A request that is refused with an error.
#[derive(Debug)]
pub struct ErrorResponse {
    failure: Failure,
    status: Option<StatusCode>,
}

impl ErrorResponse {
    /// An error with a status other than its code's.
    pub fn with_status(failure: Failure, status: StatusCode) -> ErrorResponse {
        ErrorResponse { failure, status: Some(status) }
    }
}

impl From<Failure> for ErrorResponse {
    fn from(failure: Failure) -> ErrorResponse {
        ErrorResponse { failure, status: None }
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        match self.status {
            Some(status) => error_response_with_status(&self.failure, status),
            None => error_response(&self.failure),
        }
    }
}

/// The statuses of errors, each with its codes and their meaning.
const STATUSES: [(&str, &str); 12] = [
    (
        "400",
        "`invalid_frame`: the body is not a JSON object. `invalid_payload`: a field, a parameter or an id is \
         missing or wrong. `empty_content`: the content has only white space.",
    ),
    (
        "401",
        "`unauthorized`: the token or the API key is missing or not valid. `token_expired`: the token has \
         expired.",
    ),
    (
        "403",
        "`forbidden`: the caller may not do this. The answer is the same whether the resource exists or not.",
    ),
    ("404", "`not_found`: the resource does not exist, and the caller may know that."),
    ("408", "`timeout`: the body did not arrive within 10 seconds. Nothing was done."),
    ("409", "`conflict`: the conversation exists already."),
    ("413", "`too_large`: the body, a field or a list is over its limit."),
    ("415", "`invalid_frame`: the body must have the `Content-Type` `application/json`."),
    (
        "429",
        "`rate_limited`: the user sent too many requests in a minute. `Retry-After` has the time to wait, in \
         seconds.",
    ),
    ("500", "`internal`: the server has a bug."),
    (
        "503",
        "`unavailable`: it cannot be done now, and nothing was done. `Retry-After` has the time to wait, in \
         seconds.",
    ),
    (
        "504",
        "`timeout`: the outcome is unknown. Send the request again, a write with the same `Idempotency-Key`.",
    ),
];

/// The possible errors of every request with credentials, for the API's description.
pub struct ErrorResponses;

impl utoipa::IntoResponses for ErrorResponses {
    fn responses() -> std::collections::BTreeMap<String, RefOr<utoipa::openapi::response::Response>> {
        let response = |description: &str| {
            let error = utoipa::openapi::Ref::from_schema_name(Error::name());
            let content = utoipa::openapi::ContentBuilder::new().schema(Some(error)).build();
            ResponseBuilder::new().description(description).content("application/json", content).build()
        };
        STATUSES.into_iter().map(|(status, text)| (status.to_owned(), response(text).into())).collect()
    }
}
