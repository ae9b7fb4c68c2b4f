//! Engine.IO 4: sessions over WebSocket and over polling, and the move from one to the other.
//!
//! A session that began with a WebSocket is known to its own task only. One that polls has a place in the
//! registry, through which its requests reach its task.

mod framing;
mod polling;
mod request;

pub use request::Refusal;

use crate::application::Application;
use crate::core::keepalive::Pings;
use crate::core::outbox::Urgency;
use crate::drive;
use crate::frame;
use crate::outgoing::Outgoing;
use crate::upgrade;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use carillon_proto::dialect::socketio::engine::Handshake;
use framing::EnginePackets;
use parking_lot::Mutex;
use polling::{Asked, Polled};
use request::Query;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

/// Requests of one polling session that wait for its task: a poll, a post and an upgrade, and a few that will be
/// refused.
const REQUESTS_MAX: usize = 8;

/// How an engine behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// When clients are pinged.
    pub pings: Pings,
    /// Bytes of one polling request's body, which clients are told; answers are kept below it, too.
    pub payload_bytes_max: usize,
    /// Packets in one polling request.
    pub packets_max: usize,
    /// Bytes of one text packet; 0: any.
    pub packet_bytes_max: usize,
    /// Bytes of one WebSocket message, binary ones included; 0: any.
    pub message_bytes_max: usize,
    /// What every session id of this engine begins with.
    pub sid_prefix: String,
}

/// A post under way, until it is answered or its client hangs up.
struct Posting<'a>(&'a AtomicBool);

impl Drop for Posting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What an engine serves.
pub trait Service: Send + Sync + 'static {
    /// What one session is served by.
    type Application: Application;
    /// A place among the connections, given back when dropped.
    type Place: Send + 'static;

    /// Admits a session that begins with this request.
    ///
    /// # Errors
    /// The answer that says why not.
    fn admit(&self, request: &Request) -> Result<Self::Place, Box<Response>>;

    /// Begins to serve a session whose frames go to `outgoing`.
    fn open(&self, outgoing: &Arc<Outgoing>) -> Self::Application;
}

/// A polling session as requests find it.
#[derive(Clone)]
struct Handle {
    requests: mpsc::Sender<Asked>,
    /// It has moved to a WebSocket: it polls no more.
    upgraded: Arc<AtomicBool>,
    /// A post is under way.
    posting: Arc<AtomicBool>,
}

/// Serves Engine.IO on one path.
pub struct Engine<S> {
    config: Config,
    service: S,
    polling: Mutex<HashMap<Box<str>, Handle>>,
}

impl<S: Service> Engine<S> {
    /// An engine without sessions.
    pub fn new(config: Config, service: S) -> Arc<Engine<S>> {
        Arc::new(Engine { config, service, polling: Mutex::default() })
    }

    /// Answers a request for the engine's path, whatever its method.
    pub async fn handle(self: Arc<Self>, request: Request) -> Response {
        let query = match Query::parse(request.uri().query().unwrap_or_default()) {
            Ok(query) => query,
            Err(refusal) => return refusal.into_response(),
        };
        match &query.sid {
            None => self.begin(request, &query),
            Some(sid) => self.go_on(request, &query, sid).await,
        }
    }

    fn begin(self: Arc<Self>, request: Request, query: &Query) -> Response {
        let is_upgrade = upgrade::is_upgrade(request.headers());
        if request.method() != Method::GET {
            return Refusal::HandshakeMethod.into_response();
        }
        if query.websocket != is_upgrade {
            return Refusal::BadRequest.into_response();
        }
        if !query.is_version_4 {
            return Refusal::Version.into_response();
        }
        let place = match self.service.admit(&request) {
            Ok(place) => place,
            Err(response) => return *response,
        };
        if !query.websocket {
            return self.begin_polling(place);
        }
        let Some(accept) = upgrade::accept_key(request.headers()) else {
            return Refusal::BadRequest.into_response();
        };
        upgrade::switch(request, accept, None, move |stream, leftover| {
            self.serve_websocket(stream, leftover, place)
        })
    }

    fn sid(&self) -> String {
        // 122 random bits: a session's id is all that its polls are recognised by (hazards: sid hijack).
        format!("{}{}", self.config.sid_prefix, uuid::Uuid::new_v4().simple())
    }

    fn open_packet(&self, sid: &str, upgrades: &[&str]) -> String {
        let milliseconds = |time: std::time::Duration| time.as_millis() as u64;
        Handshake {
            sid,
            upgrades,
            ping_interval_ms: milliseconds(self.config.pings.interval),
            ping_timeout_ms: milliseconds(self.config.pings.timeout),
            max_payload_bytes: self.config.payload_bytes_max,
        }
        .packet()
    }

    async fn serve_websocket(self: Arc<Self>, stream: TcpStream, leftover: Bytes, place: S::Place) {
        let stream = Arc::new(stream);
        let mut socket = drive::socket(stream.clone(), leftover, self.config.message_bytes_max).await;
        let outgoing = Arc::new(Outgoing::to(stream.clone()));
        outgoing.offer(&frame::text(&self.open_packet(&self.sid(), &[])), Urgency::Reply);
        let mut application = self.service.open(&outgoing);
        let framing = EnginePackets::new(self.config.pings, self.config.packet_bytes_max);
        // The rest of the engine is not needed by a session that has its socket.
        drop(self);
        let close = drive::drive(&mut socket, &outgoing, framing, &mut application).await;
        outgoing.close();
        Box::pin(application.end()).await;
        Box::pin(drive::end(socket, close, &stream)).await;
        drop(place);
    }

    fn begin_polling(self: Arc<Self>, place: S::Place) -> Response {
        let sid = self.sid();
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let upgraded = Arc::new(AtomicBool::new(false));
        let handle = Handle { requests, upgraded: upgraded.clone(), posting: Arc::default() };
        self.polling.lock().insert(sid.as_str().into(), handle);
        let body = self.open_packet(&sid, &["websocket"]);
        tokio::spawn(async move {
            polling::run(&self, queue, &upgraded).await;
            self.forget(&sid);
            drop(place);
        });
        text(body)
    }

    fn forget(&self, sid: &str) {
        let mut polling = self.polling.lock();
        polling.remove(sid);
        if polling.capacity() > 1_024 && polling.len() * 8 < polling.capacity() {
            polling.shrink_to_fit();
        }
    }

    async fn go_on(self: Arc<Self>, request: Request, query: &Query, sid: &str) -> Response {
        let Some(Handle { requests, upgraded, posting }) = self.polling.lock().get(sid).cloned() else {
            return Refusal::UnknownSession.into_response();
        };
        let is_upgrade = upgrade::is_upgrade(request.headers());
        if upgraded.load(Ordering::Relaxed) || query.websocket != is_upgrade {
            return Refusal::BadRequest.into_response();
        }
        match *request.method() {
            Method::GET if is_upgrade => self.probe(request, requests),
            Method::GET => poll(requests).await,
            Method::POST => self.post_alone(request, requests, &posting).await,
            _ => Refusal::BadRequest.into_response(),
        }
    }

    /// A session that polls wants to move to a WebSocket.
    fn probe(self: Arc<Self>, request: Request, requests: mpsc::Sender<Asked>) -> Response {
        let Some(accept) = upgrade::accept_key(request.headers()) else {
            return Refusal::BadRequest.into_response();
        };
        upgrade::switch(request, accept, None, async move |stream, leftover| {
            let stream = Arc::new(stream);
            let socket = drive::socket(stream.clone(), leftover, self.config.message_bytes_max).await;
            // A session that has ended meanwhile lets the socket go.
            let _ = requests.send(Asked::Probe(Box::new(socket), stream)).await;
        })
    }

    /// Posts one at a time: a second one ends the session, as it would come to the client's packets in any order.
    async fn post_alone(
        &self,
        request: Request,
        requests: mpsc::Sender<Asked>,
        posting: &AtomicBool,
    ) -> Response {
        if posting.swap(true, Ordering::AcqRel) {
            let _ = requests.send(Asked::Overlap).await;
            return Refusal::BadRequest.into_response();
        }
        let _posting = Posting(posting);
        self.post(request, requests).await
    }

    async fn post(&self, request: Request, requests: mpsc::Sender<Asked>) -> Response {
        let bytes_max = self.config.payload_bytes_max;
        let Ok(body) = axum::body::to_bytes(request.into_body(), bytes_max).await else {
            // It may also have been cut off, in which case nobody hears this.
            return Refusal::TooLarge.into_response();
        };
        let Ok(body) = String::from_utf8(body.into()) else {
            return Refusal::BadRequest.into_response();
        };
        let (answer, answered) = oneshot::channel();
        if requests.send(Asked::Post(body, answer)).await.is_err() {
            return Refusal::UnknownSession.into_response();
        }
        match answered.await {
            Ok(Ok(())) => text("ok".into()),
            Ok(Err(refusal)) => refusal.into_response(),
            Err(_) => Refusal::UnknownSession.into_response(),
        }
    }
}

async fn poll(requests: mpsc::Sender<Asked>) -> Response {
    let (answer, answered) = oneshot::channel();
    if requests.send(Asked::Poll(answer)).await.is_err() {
        return Refusal::UnknownSession.into_response();
    }
    match answered.await {
        Ok(Polled::Payload(payload)) => text(payload),
        Ok(Polled::Refused(refusal)) => refusal.into_response(),
        Err(_) => Refusal::UnknownSession.into_response(),
    }
}

/// A payload, as the reference server labels it.
fn text(payload: String) -> Response {
    let mut response = (StatusCode::OK, Body::from(payload)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    response
}
