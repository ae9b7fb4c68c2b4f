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

/// An error.
#[derive(Serialize, ToSchema)]
pub struct Error<'a> {
    /// The status in words.
    #[schema(example = "Forbidden")]
    error: &'a str,
    #[schema(value_type = Code)]
    code: &'a str,
    /// For people.
    message: &'a str,
    /// When to try again, milliseconds; the header `Retry-After` says it in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// The error codes, for the description of the API.
pub struct Code;

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let codes = ErrorCode::ALL.map(ErrorCode::as_str);
        let description = "`timeout` means that the outcome is unknown: send again with the same client id.";
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
pub fn refusal(failure: &Failure) -> Response {
    let status =
        StatusCode::from_u16(failure.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    refusal_with_status(failure, status)
}

/// An error as a response, with a status that fits better than the code's own.
pub fn refusal_with_status(failure: &Failure, status: StatusCode) -> Response {
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
pub struct Refused {
    failure: Failure,
    status: Option<StatusCode>,
}

impl Refused {
    /// An error with a status other than its code's.
    pub fn with_status(failure: Failure, status: StatusCode) -> Refused {
        Refused { failure, status: Some(status) }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Refused {
        Refused { failure, status: None }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self.status {
            Some(status) => refusal_with_status(&self.failure, status),
            None => refusal(&self.failure),
        }
    }
}

/// The possible errors of every request with credentials, for the API's description.
pub struct Refusals;

impl utoipa::IntoResponses for Refusals {
    fn responses() -> std::collections::BTreeMap<String, RefOr<utoipa::openapi::response::Response>> {
        let groups = [
            ("400", "`invalid_frame`, `invalid_payload`, `empty_content`"),
            ("401", "`unauthorized`, `token_expired`"),
            ("403", "`forbidden`: the same whether the thing exists or not"),
            ("404", "`not_found`"),
            ("409", "`conflict`"),
            ("413", "`too_large`"),
            ("429", "`rate_limited`, with `Retry-After`"),
            ("500", "`internal`"),
            ("503", "`unavailable`: nothing was done, with `Retry-After`"),
            ("504", "`timeout`: the outcome is unknown"),
        ];
        let response = |description: &str| {
            let error = utoipa::openapi::Ref::from_schema_name(Error::name());
            let content = utoipa::openapi::ContentBuilder::new().schema(Some(error)).build();
            ResponseBuilder::new().description(description).content("application/json", content).build()
        };
        groups.into_iter().map(|(status, text)| (status.to_owned(), response(text).into())).collect()
    }
}
