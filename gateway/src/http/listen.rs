//! Accepts TCP connections and serves HTTP/1.1 on them. `axum::serve` has no time limit for a request's headers.

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Time limit for a request's headers, so that slow requests cannot hold connections (slowloris).
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Length of the accept queue. A storm of reconnects fills the usual 128 within milliseconds.
const BACKLOG: i32 = 4_096;
/// How many HTTP connections are allowed in addition to two per client. WebSockets are not counted after their upgrade.
const HTTP_CONNECTIONS_SPARE: usize = 4_096;
/// The total when the settings do not limit the number of clients.
const HTTP_CONNECTIONS_MAX: usize = 65_536;
/// Delay after a failed accept. The usual cause is a lack of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The address of the other end of a request's TCP connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Opens the port.
///
/// # Errors
/// When the port is taken or not allowed.
pub fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The maximum number of HTTP connections. `clients` is the maximum number of clients, 0 for no limit. A polling client
/// has one connection that waits, and another one while it posts.
pub fn http_connections(clients: u32) -> usize {
    match clients {
        0 => HTTP_CONNECTIONS_MAX,
        clients => 2 * clients as usize + HTTP_CONNECTIONS_SPARE,
    }
}

/// Accepts and serves connections until `stop`. Above `http_connections`, new ones wait in the accept queue.
pub async fn serve(listener: TcpListener, router: Router, http_connections: usize, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(http_connections));
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit,
            () = stop.cancelled() => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (router, stop) = (router.clone(), stop.clone());
                tokio::spawn(async move {
                    connection(stream, Peer(peer.ip().to_canonical()), router, stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: Peer, router: Router, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request.map(Body::new))
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}
