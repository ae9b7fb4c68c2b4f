//! The HTTP routes: WebSocket upgrades, probes, metrics, web pages and the REST API.

use crate::access::admission::{AdmissionError, ConnectionPermit};
use crate::access::auth::{Identity, TokenError};
use crate::http::listen::Peer;
use crate::http::upgrade::{self, accept_key, is_upgrade, protocols};
use crate::native::{self, Authentication};
use crate::shared::Shared;
use crate::socketio::{self, Path};
use crate::{http::page, metrics, rest};
use axum::Router;
use axum::extract::{Path as UrlPath, Query, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::UserId;
use carillon_proto::limits::BEGINNING_RETRY_MS;
use serde::Deserialize;
use std::sync::Arc;

/// The subprotocol that a browser offers together with its token.
const SUBPROTOCOL: &str = "carillon.v1";
/// The prefix of a subprotocol that carries a token.
const TOKEN_PROTOCOL: &str = "bearer.";

/// The router with all routes of this gateway.
pub fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route("/ws", get(native))
        .route("/ws/auth", get(native_with_token))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus));
    if shared.settings.dev {
        router = router.route("/ws/{user_id}", get(native_as));
        for (path, content_type, content) in &page::FILES[1..] {
            router = router.route(path, get(move || async move { page::response(content_type, content) }));
        }
    }
    router
        .merge(socketio_routes(&shared))
        .route("/", get(root))
        .method_not_allowed_fallback(rest::method_not_allowed)
        .merge(rest::router(&shared))
        .fallback(rest::not_found)
        .with_state(shared)
}

/// Socket.IO on both its paths, each with and without the trailing slash.
fn socketio_routes(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    let mut router = Router::new();
    for (path, names) in
        [(Path::Api, ["/api/socket", "/api/socket/"]), (Path::SocketIo, ["/socket.io", "/socket.io/"])]
    {
        let engine = socketio::engine(shared.clone(), path);
        for name in names {
            let engine = engine.clone();
            router = router.route(name, any(move |request| engine.clone().handle(request)));
        }
    }
    router.layer(from_fn_with_state(shared.clone(), rest::across_origins))
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    if !shared.bus.healthy().await {
        return (StatusCode::SERVICE_UNAVAILABLE, "the bus cannot be reached\n").into_response();
    }
    "ok\n".into_response()
}

async fn prometheus(State(shared): State<Arc<Shared>>) -> Response {
    metrics::ROOMS.set(shared.delivery.hub.count() as i64);
    let text = carillon_runtime::metrics::render();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// The demo page, or a WebSocket like on `/ws`.
async fn root(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if is_upgrade(request.headers()) {
        return native(State(shared), request).await;
    }
    if !shared.settings.dev {
        return rest::not_found().await;
    }
    let (_, content_type, content) = page::FILES[0];
    page::response(content_type, content)
}

#[derive(Deserialize)]
struct TokenQuery {
    token: Option<String>,
}

async fn native_with_token(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<TokenQuery>,
    request: Request,
) -> Response {
    let token = query.token.unwrap_or_default();
    upgrade(shared, request, |shared| verified(shared, &token))
}

async fn native(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let token = bearer(request.headers()).or_else(|| protocol_token(request.headers()));
    upgrade(shared, request, |shared| {
        token.map_or(Authentication::Anonymous, |token| verified(shared, &token))
    })
}

#[derive(Deserialize)]
struct NameQuery {
    name: Option<String>,
}

async fn native_as(
    State(shared): State<Arc<Shared>>,
    UrlPath(user): UrlPath<String>,
    Query(query): Query<NameQuery>,
    request: Request,
) -> Response {
    let user = match UserId::parse(&user) {
        Ok(user) => user,
        Err(error) => return rest::error_response(&Failure::invalid_payload(error.to_string())),
    };
    upgrade(shared, request, |_| {
        Authentication::Identified(Box::new(Identity::unverified(user, query.name.as_deref())))
    })
}

fn verified(shared: &Shared, token: &str) -> Authentication {
    match shared.verifier.verify(token) {
        Ok(identity) => Authentication::Identified(Box::new(identity)),
        Err(error) => Authentication::Refused(error),
    }
}

/// The token of an `Authorization: Bearer` header.
pub fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

fn protocol_token(headers: &HeaderMap) -> Option<String> {
    protocols(headers).find_map(|protocol| protocol.strip_prefix(TOKEN_PROTOCOL)).map(str::to_owned)
}

/// Answers a WebSocket handshake and serves the connection in a task of its own.
fn upgrade(
    shared: Arc<Shared>,
    request: Request,
    authentication: impl FnOnce(&Shared) -> Authentication,
) -> Response {
    let headers = request.headers();
    if !is_upgrade(headers) {
        let mut response = rest::error_response(&Failure::invalid_payload(
            "this is a WebSocket: connect with ws:// or wss://",
        ));
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        response.headers_mut().insert(UPGRADE, axum::http::HeaderValue::from_static("websocket"));
        return response;
    }
    let Some(accept) = accept_key(headers) else {
        return rest::error_response(&Failure::invalid_payload(
            "a WebSocket handshake of version 13 needs its key",
        ));
    };
    let subprotocol = protocols(headers).any(|protocol| protocol == SUBPROTOCOL).then_some(SUBPROTOCOL);
    let permit = match admit(&shared, &request) {
        Ok(permit) => permit,
        Err(response) => return *response,
    };
    let authentication = authentication(&shared);
    let starting =
        matches!(authentication, Authentication::Identified(_)).then(|| shared.admission.count_starting());
    if matches!(authentication, Authentication::Refused(TokenError::Invalid | TokenError::Expired)) {
        metrics::REFUSED.inc();
    }
    upgrade::switch(request, accept, subprotocol, async move |stream, leftover| {
        native::serve(shared, stream, leftover, authentication, starting).await;
        drop(permit);
    })
}

/// Admits a connection that begins with this request.
///
/// # Errors
/// The response that refuses it.
pub fn admit(shared: &Shared, request: &Request) -> Result<ConnectionPermit, Box<Response>> {
    let unavailable = |message: &str, retry_after_ms| {
        Failure::new(ErrorCode::Unavailable, message).retry_after(retry_after_ms)
    };
    if shared.draining.is_cancelled() {
        return Err(Box::new(rest::error_response(&unavailable(
            "this gateway is going away: connect again",
            500,
        ))));
    }
    let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() else {
        return Err(Box::new(StatusCode::INTERNAL_SERVER_ERROR.into_response()));
    };
    shared.admission.admit(request.headers(), peer).map_err(|error| {
        metrics::REFUSED.inc();
        let failure = match error {
            AdmissionError::Origin => {
                Failure::new(ErrorCode::Forbidden, "pages of this origin may not connect")
            }
            AdmissionError::Address(wait_ms) => {
                Failure::new(ErrorCode::RateLimited, "too many connections from this address")
                    .retry_after(wait_ms)
            }
            AdmissionError::Busy => {
                let after_ms = BEGINNING_RETRY_MS + crate::random_below(BEGINNING_RETRY_MS);
                unavailable("many clients connect to this gateway now: try again", after_ms)
            }
            AdmissionError::Full => unavailable("this gateway has as many connections as it takes", 5_000),
        };
        let mut response = rest::error_response(&failure);
        if error == AdmissionError::Full {
            response.headers_mut().entry(RETRY_AFTER).or_insert(axum::http::HeaderValue::from_static("5"));
        }
        Box::new(response)
    })
}
