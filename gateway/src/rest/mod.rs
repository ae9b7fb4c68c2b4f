//! The REST API of protocol §6.

use crate::shared::Shared;
use axum::Router;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use carillon_proto::code::Failure;
use std::sync::Arc;

/// The API's routes.
pub fn router(_shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
}

/// An error as a response (protocol §1).
pub fn refusal(failure: &Failure) -> Response {
    let status =
        StatusCode::from_u16(failure.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::json!({
        "error": status.canonical_reason().unwrap_or("Error"),
        "code": failure.code.as_str(),
        "message": failure.message,
    });
    let mut response = (status, Json(body)).into_response();
    if let Some(retry_after_ms) = failure.retry_after_ms
        && let Ok(seconds) = HeaderValue::from_str(&retry_after_ms.div_ceil(1_000).to_string())
    {
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}
