//! Middleware for all routes of the API: the origin check, CORS, and headers that all responses have.

use super::error_response;
use crate::metrics;
use crate::shared::Shared;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use carillon_proto::code::{ErrorCode, Failure};
use std::sync::Arc;

/// How long a browser may cache the answer to a preflight, in seconds.
const PREFLIGHT_SECONDS: u32 = 600;

/// Answers preflights, refuses foreign origins, and passes all other requests on.
pub async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    metrics::REST_REQUESTS.inc();
    across_origins(State(shared), request, next).await
}

/// Like [`guard`], for routes outside the API.
pub async fn across_origins(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    let allowed = shared.admission.origin_allowed(request.headers());
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (allowed, preflight) {
        (false, _) => {
            error_response(&Failure::new(ErrorCode::Forbidden, "pages of this origin may not use the API"))
        }
        (true, true) => preflight_answer(),
        (true, false) => next.run(request).await,
    };
    if response.status().is_client_error() || response.status().is_server_error() {
        metrics::ERRORS.inc();
    }
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Origin"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let (true, Some(origin)) = (allowed, origin) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if shared.admission.trusts_origins() {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("location, retry-after"));
    }
    response
}

fn preflight_answer() -> Response {
    let headers = [
        (ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE")),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("authorization, content-type, idempotency-key"),
        ),
        (ACCESS_CONTROL_MAX_AGE, HeaderValue::from(PREFLIGHT_SECONDS)),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}
