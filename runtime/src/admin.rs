//! Probes and metrics of processes that serve no clients: `/livez`, `/readyz`, `/metrics`, `/api/v1/health`.

use anyhow::Context;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Probes and scrapes come from a few places. Further connections wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// A request has few bytes. If its headers are not there by then, the connection is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than a scraper's usual interval, so that a scraper can keep its connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Kubernetes gives up on a probe after 3 s. A part that takes longer than this counts as not usable.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed accept. The usual cause is a lack of file descriptors, and trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Reports whether the parts that a process needs can be used.
#[async_trait::async_trait]
pub trait Health: Send + Sync + 'static {
    /// The needed parts by name, such as `bus` and `store`, and whether each can be used now.
    async fn parts(&self) -> Vec<(&'static str, bool)>;
}

/// A bound listener that does not serve yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    role: &'static str,
}

impl Admin {
    /// Opens the port.
    ///
    /// # Errors
    /// When the port is in use or may not be opened.
    pub async fn bind(address: SocketAddr, role: &'static str) -> anyhow::Result<Admin> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address} for probes and metrics: choose another address with --admin-listen")
        })?;
        Ok(Admin { listener, role })
    }

    /// The address of the listener.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`. Once `draining` is cancelled, the process is alive but not ready. When this returns, no
    /// task of it holds `health` any more.
    pub async fn run(self, health: Arc<dyn Health>, draining: CancellationToken, stop: CancellationToken) {
        let answers = Arc::new(Answers { health, draining, role: self.role });
        let mut connections = JoinSet::new();
        tokio::select! {
            () = self.accept(&answers, &mut connections) => {}
            () = stop.cancelled() => {}
        }
        connections.shutdown().await;
    }

    async fn accept(&self, answers: &Arc<Answers>, connections: &mut JoinSet<()>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            while connections.try_join_next().is_some() {}
            // The semaphore is never closed, so this does not fail.
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let answers = answers.clone();
                    connections.spawn(async move {
                        serve(stream, answers).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for probes and metrics was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

struct Answers {
    health: Arc<dyn Health>,
    draining: CancellationToken,
    role: &'static str,
}

async fn serve(stream: TcpStream, answers: Arc<Answers>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answers.answer(request.method(), request.uri().path()).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    // A connection that ends early or lasts too long is closed without a reply.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
}

impl Answers {
    async fn answer(&self, method: &Method, path: &str) -> Response<String> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".into());
        }
        match path {
            "/livez" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" => self.readiness().await,
            "/metrics" => {
                typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", crate::metrics::render())
            }
            "/api/v1/health" => self.report().await,
            _ => {
                text(StatusCode::NOT_FOUND, "here are /livez, /readyz, /metrics and /api/v1/health\n".into())
            }
        }
    }

    async fn readiness(&self) -> Response<String> {
        if self.draining.is_cancelled() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n".into());
        }
        let Some(parts) = self.parts().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n".into());
        };
        let missing: Vec<&str> = parts.iter().filter(|(_, usable)| !usable).map(|(name, _)| *name).collect();
        match missing.is_empty() {
            true => text(StatusCode::OK, "ok\n".into()),
            false => text(StatusCode::SERVICE_UNAVAILABLE, format!("not usable: {}\n", missing.join(", "))),
        }
    }

    async fn report(&self) -> Response<String> {
        let parts = self.parts().await;
        let usable = parts.as_ref().is_some_and(|parts| parts.iter().all(|(_, usable)| *usable));
        let status = match (self.draining.is_cancelled(), usable) {
            (true, _) => "draining",
            (false, true) => "ok",
            (false, false) => "unavailable",
        };
        let mut json = format!(
            r#"{{"status":"{status}","role":"{}","version":"{}""#,
            self.role,
            env!("CARGO_PKG_VERSION")
        );
        for (name, usable) in parts.unwrap_or_default() {
            let state = if usable { "ok" } else { "unavailable" };
            let _ = write!(json, r#","{name}":"{state}""#);
        }
        json.push('}');
        let code = if status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        typed(code, "application/json", json)
    }

    async fn parts(&self) -> Option<Vec<(&'static str, bool)>> {
        tokio::time::timeout(PROBE_TIMEOUT, self.health.parts()).await.ok()
    }
}

fn text(status: StatusCode, body: String) -> Response<String> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Store(Arc<AtomicBool>);

    #[async_trait::async_trait]
    impl Health for Store {
        async fn parts(&self) -> Vec<(&'static str, bool)> {
            vec![("bus", true), ("store", self.0.load(Relaxed))]
        }
    }

    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer
    }

    #[tokio::test]
    async fn probes_report_which_parts_are_usable() {
        let (usable, draining) = (Arc::new(AtomicBool::new(true)), CancellationToken::new());
        let admin =
            Admin::bind(SocketAddr::from(([127, 0, 0, 1], 0)), "message-worker").await.expect("bound");
        let address = admin.local_addr().expect("address");
        let (store, stop) = (Arc::new(Store(usable.clone())), CancellationToken::new());
        let server = tokio::spawn(admin.run(store.clone(), draining.clone(), stop.clone()));

        assert!(get(address, "GET /livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        let health = get(address, "GET /api/v1/health").await;
        assert!(health.contains(r#"{"status":"ok","role":"message-worker","#), "{health}");
        assert!(health.ends_with(r#","bus":"ok","store":"ok"}"#), "{health}");
        assert!(get(address, "GET /metrics").await.contains("\ncarillon_build_info{"));
        assert!(get(address, "GET /other").await.starts_with("HTTP/1.1 404"));
        assert!(get(address, "POST /readyz").await.starts_with("HTTP/1.1 405"));

        usable.store(false, Relaxed);
        let answer = get(address, "GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("not usable: store\n"), "{answer}");
        assert!(get(address, "GET /api/v1/health").await.ends_with(r#""store":"unavailable"}"#));

        usable.store(true, Relaxed);
        draining.cancel();
        assert!(get(address, "GET /readyz").await.starts_with("HTTP/1.1 503"));
        assert!(get(address, "GET /livez").await.starts_with("HTTP/1.1 200"));

        let mut open = TcpStream::connect(address).await.expect("connected");
        open.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
        assert_eq!(open.read(&mut [0; 12]).await.expect("answered"), 12);
        stop.cancel();
        server.await.expect("stopped");
        assert_eq!(Arc::strong_count(&store), 1, "the store is still referenced after the stop");
        drop(open);
    }

    #[tokio::test]
    async fn a_port_in_use_is_one_clear_sentence() {
        let first =
            Admin::bind(SocketAddr::from(([127, 0, 0, 1], 0)), "message-worker").await.expect("bound");
        let address = first.local_addr().expect("address");
        let error = Admin::bind(address, "message-worker").await.expect_err("the port is in use");
        assert!(format!("{error:#}").starts_with(&format!("cannot listen on {address}")), "{error:#}");
    }
}
