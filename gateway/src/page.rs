//! The demo chat page, served at `/` under `dev`; its files are part of the binary.

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

/// One of [`FILES`] as a response.
pub fn response(content_type: &'static str, content: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, content).into_response()
}
