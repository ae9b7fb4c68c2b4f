//! The web pages that are part of the binary: the demo chat at `/`, only under `dev`, and the page for reading and
//! trying the REST API.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};

/// Allows only the gateway's own files, no inline scripts, and connections to the gateway.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; style-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The demo page's files: path, content type and content.
pub const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("../../page/index.html")),
    ("/assets/style.css", "text/css; charset=utf-8", include_str!("../../page/style.css")),
    ("/assets/app.js", "text/javascript; charset=utf-8", include_str!("../../page/app.js")),
    ("/assets/client.js", "text/javascript; charset=utf-8", include_str!("../../page/client.js")),
    ("/assets/conversation.js", "text/javascript; charset=utf-8", include_str!("../../page/conversation.js")),
    ("/assets/icon.svg", "image/svg+xml", include_str!("../../page/icon.svg")),
];

/// Allows only the page's own files, and requests to the API.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                           connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page for reading and trying the REST API.
pub const DOCS: &str = include_str!("../../page/docs.html");

/// The files that [`DOCS`] uses: path, content type and content.
pub const DOCS_FILES: &[(&str, &str, &str)] = &[
    ("/api/docs/style.css", "text/css; charset=utf-8", include_str!("../../page/style.css")),
    ("/api/docs/docs.css", "text/css; charset=utf-8", include_str!("../../page/docs.css")),
    ("/api/docs/docs.js", "text/javascript; charset=utf-8", include_str!("../../page/docs.js")),
    ("/api/docs/icon.svg", "image/svg+xml", include_str!("../../page/icon.svg")),
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
