//! WebSocket handshakes over HTTP/1.1 (RFC 6455 §4.2).

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Time limit for a client to finish the upgrade that it requested.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(20);

/// The subprotocols that a client offers.
pub fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn has_token(headers: &HeaderMap, name: impl axum::http::header::AsHeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(token))
}

pub fn is_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, CONNECTION, "upgrade") && has_token(headers, UPGRADE, "websocket")
}

/// The answer to a handshake's key; `None` if there is no key or the version is not 13.
pub fn accept_key(headers: &HeaderMap) -> Option<String> {
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| has_token(headers, SEC_WEBSOCKET_VERSION, "13"));
    key.map(|key| derive_accept_key(key.as_bytes()))
}

/// Switches to the WebSocket protocol. `serve` runs in a task of its own, with the stream and the bytes already read.
pub fn switch<S, R>(mut request: Request, accept: String, subprotocol: Option<&str>, serve: S) -> Response
where
    S: FnOnce(TcpStream, Bytes) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_TIMEOUT, upgraded).await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
            return tracing::error!("an upgraded connection has an unexpected type");
        };
        // A separate allocation, so that the future of `serve` does not enlarge the handshake's task.
        boxed(serve, parts.io.into_inner(), parts.read_buf).await;
    });
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(subprotocol) = subprotocol {
        response = response.header(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    response.body(Body::empty()).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn boxed<S, R>(
    serve: S,
    stream: TcpStream,
    leftover: Bytes,
) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
where
    S: FnOnce(TcpStream, Bytes) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    Box::pin(serve(stream, leftover))
}
