//! The REST API (`docs/rest.md`): conversations, messages, users and presence as camelCase JSON, for users with a token
//! and for backends with an API key.
//!
//! A write becomes a command of the log and is answered when its outcome is known. A read is answered by any
//! message-worker. The gateway checks the form of a request and the caller's access; the partition's owner decides what
//! a command comes to.

mod body;
mod caller;
mod conversations;
mod describe;
mod error;
mod guard;
mod health;
mod messages;
mod participants;
mod session;
mod shapes;
#[cfg(test)]
mod tests;
mod users;
mod visible;
mod write;

pub use error::{ErrorResponse, error_response, error_response_with_status};
pub use guard::across_origins;
pub use health::RecentHealth;

use crate::shared::Shared;
use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::any;
use carillon_proto::code::{ErrorCode, Failure};
use std::sync::Arc;

/// The API's routes.
pub fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    let (described, _) = describe::routes().split_for_parts();
    described
        .merge(describe::page())
        .method_not_allowed_fallback(method_not_allowed)
        .route("/api/{*rest}", any(not_found))
        .layer(from_fn_with_state(shared.clone(), guard::guard))
}

/// The response for a path that does not exist.
pub async fn not_found() -> Response {
    error_response(&Failure::new(ErrorCode::NotFound, "there is nothing here"))
}

/// The response for a method that the path does not support.
pub async fn method_not_allowed() -> Response {
    let failure = Failure::invalid_payload("this takes other methods: see the header Allow");
    error_response_with_status(&failure, StatusCode::METHOD_NOT_ALLOWED)
}
