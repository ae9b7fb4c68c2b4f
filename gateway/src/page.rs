//! The pages: the demo chat, served at `/` under `dev`, and the one to read and try the REST API. Their files
//! are part of the binary.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};

/// Nothing from elsewhere, nothing inline.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; style-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The page's files: path, type, content.
pub const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("/assets/style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("/assets/app.js", "text/javascript; charset=utf-8", include_str!("../page/app.js")),
    ("/assets/client.js", "text/javascript; charset=utf-8", include_str!("../page/client.js")),
    ("/assets/conversation.js", "text/javascript; charset=utf-8", include_str!("../page/conversation.js")),
    ("/assets/icon.svg", "image/svg+xml", include_str!("../page/icon.svg")),
];

/// Only what belongs to the page, and requests to the API beside it.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                           connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page to read and try the REST API.
pub const DOCS: &str = include_str!("../page/docs.html");

/// What [`DOCS`] needs: path, type, content.
pub const DOCS_FILES: &[(&str, &str, &str)] = &[
    ("/api/docs/style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("/api/docs/docs.css", "text/css; charset=utf-8", include_str!("../page/docs.css")),
    ("/api/docs/docs.js", "text/javascript; charset=utf-8", include_str!("../page/docs.js")),
    ("/api/docs/icon.svg", "image/svg+xml", include_str!("../page/icon.svg")),
];

/// One of [`FILES`] as a response.
pub fn response(content_type: &'static str, content: &'static str) -> Response {
    with_policy(POLICY, content_type, content)
}

/// [`DOCS`] or one of [`DOCS_FILES`] as a response.
pub fn docs_response(content_type: &'static str, content: &'static str) -> Response {
    with_policy(DOCS_POLICY, content_type, content)
}

fn with_policy(policy: &'static str, content_type: &'static str, content: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, policy),
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, content).into_response()
}
