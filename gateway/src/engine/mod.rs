//! Engine.IO 4: sessions over WebSocket and over polling, and the move from polling to WebSocket.
//!
//! A session that began with a WebSocket has no entry in a registry, because no other request may refer to it. A
//! polling session has an entry in [`Sessions`], through which its requests reach its task.

mod answers;
mod framing;
mod moving;
mod polling;
mod relay;
pub(crate) mod relayed;
mod request;
mod sessions;

pub use framing::PING;
pub use relay::Relay;
pub use request::RequestError;
pub use sessions::Sessions;

use crate::connection::drive;
use crate::connection::frame;
use crate::connection::outgoing::Outgoing;
use crate::core::keepalive::Pings;
use crate::core::outbox::Urgency;
use crate::http::upgrade;
use crate::session::handler::MessageHandler;
use answers::{PollAnswer, PollingRequest};
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use carillon_proto::code::Close;
use carillon_proto::dialect::socketio::engine::Handshake;
use carillon_proto::id::GatewayId;
use carillon_proto::wire::MovedSession;
use framing::EnginePackets;
use request::Query;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// The limits and the timing of an engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of the engine. An engine serves only the polling sessions that it began.
    pub name: &'static str,
    /// When clients are pinged.
    pub pings: Pings,
    /// Bytes of one polling request's body. Clients receive this limit in the handshake.
    pub payload_bytes_max: usize,
    /// Packets in one polling request.
    pub packets_max: usize,
    /// Bytes of one text packet; 0 for no limit.
    pub packet_bytes_max: usize,
    /// Bytes of one WebSocket message, binary ones included; 0 for no limit.
    pub message_bytes_max: usize,
}

/// The service behind an engine: admits sessions, and makes the handler of each.
pub trait Service: Send + Sync + 'static {
    /// Serves one session.
    type Handler: MessageHandler;
    /// The permit that an admitted session holds. Dropping it lets another session in.
    type Permit: Send + Sync + 'static;

    /// Admits a session that begins with this request.
    ///
    /// # Errors
    /// The response that refuses the request.
    fn admit(&self, request: &Request) -> Result<Self::Permit, Box<Response>>;

    /// Makes the handler of an admitted session, whose frames go to `outgoing`.
    fn open(&self, outgoing: &Arc<Outgoing>, permit: &Self::Permit) -> Self::Handler;

    /// Restores the handler of a session from the state that another gateway packed; `None` if that is malformed.
    fn unpack(&self, outgoing: &Arc<Outgoing>, packed: Bytes) -> Option<Self::Handler>;
}

/// Serves Engine.IO on one path.
pub struct Engine<S> {
    config: Config,
    service: S,
    sessions: Arc<Sessions>,
    relay: Option<Relay>,
}

impl<S: Service> Engine<S> {
    /// An engine that keeps its polling sessions in `sessions`. With a relay, requests for sessions of other gateways
    /// are passed on to them.
    pub fn new(config: Config, service: S, sessions: Arc<Sessions>, relay: Option<Relay>) -> Arc<Engine<S>> {
        Arc::new(Engine { config, service, sessions, relay })
    }

    /// Answers a request for the engine's path, whatever its method.
    pub async fn handle(self: Arc<Self>, request: Request) -> Response {
        let query = match Query::parse(request.uri().query().unwrap_or_default()) {
            Ok(query) => query,
            Err(error) => return error.into_response(),
        };
        match &query.sid {
            None => self.start_session(request, &query),
            Some(sid) => self.continue_session(request, &query, sid).await,
        }
    }

    fn start_session(self: Arc<Self>, request: Request, query: &Query) -> Response {
        let is_upgrade = upgrade::is_upgrade(request.headers());
        if request.method() != Method::GET {
            return RequestError::HandshakeMethod.into_response();
        }
        if query.websocket != is_upgrade {
            return RequestError::BadRequest.into_response();
        }
        if !query.is_version_4 {
            return RequestError::Version.into_response();
        }
        let permit = match self.service.admit(&request) {
            Ok(permit) => permit,
            Err(response) => return *response,
        };
        if !query.websocket {
            return self.start_polling(permit);
        }
        let Some(accept) = upgrade::accept_key(request.headers()) else {
            return RequestError::BadRequest.into_response();
        };
        upgrade::switch(request, accept, None, move |stream, leftover| {
            self.serve_websocket(stream, leftover, permit)
        })
    }

    fn sid(&self) -> String {
        // 122 random bits, because the id is all that a request needs to read and write the session.
        let random = uuid::Uuid::new_v4().simple();
        match &self.relay {
            Some(relay) => relay.sid(random),
            None => random.to_string(),
        }
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

    async fn serve_websocket(self: Arc<Self>, stream: TcpStream, leftover: Bytes, permit: S::Permit) {
        let stream = Arc::new(stream);
        let mut socket = drive::socket(stream.clone(), leftover, self.config.message_bytes_max).await;
        let outgoing = Arc::new(Outgoing::to(stream.clone()));
        outgoing.offer(&frame::text(&self.open_packet(&self.sid(), &[])), Urgency::Reply);
        let handler = self.service.open(&outgoing, &permit);
        let close = self.drive_websocket(&mut socket, &outgoing, handler).await;
        Box::pin(drive::end(socket, close, &stream)).await;
        drop(permit);
    }

    fn start_polling(self: Arc<Self>, permit: S::Permit) -> Response {
        let sid = self.sid();
        let (handle, queue) = self.sessions.open(&sid, self.config.name);
        let body = self.open_packet(&sid, &["websocket"]);
        tokio::spawn(async move {
            polling::run(&self, queue, &permit, &handle.upgraded).await;
            self.sessions.forget(&sid);
            drop(permit);
        });
        text(body)
    }

    async fn continue_session(self: Arc<Self>, request: Request, query: &Query, sid: &str) -> Response {
        let is_upgrade = upgrade::is_upgrade(request.headers());
        let Some(handle) = self.sessions.find(sid) else {
            return self.pass_on(request, sid, is_upgrade).await;
        };
        if handle.engine != self.config.name {
            return RequestError::UnknownSession.into_response();
        }
        if query.websocket != is_upgrade {
            return RequestError::BadRequest.into_response();
        }
        if handle.upgraded.load(Ordering::Relaxed) {
            return self.refuse_second(request);
        }
        match *request.method() {
            Method::GET if is_upgrade => self.probe(request, handle.requests),
            Method::GET => polled(handle.poll().await),
            Method::POST => {
                let post = async {
                    let body = self.sessions.read(request, self.config.payload_bytes_max).await?;
                    handle.post(body).await
                };
                posted(handle.alone(post).await)
            }
            _ => RequestError::BadRequest.into_response(),
        }
    }

    /// Refuses a request for a session that has moved to a WebSocket. A second WebSocket is accepted and closed without
    /// a message, as in the reference server.
    fn refuse_second(&self, request: Request) -> Response {
        match upgrade::accept_key(request.headers()) {
            Some(accept) => upgrade::switch(request, accept, None, async |stream, _| drop(stream)),
            None => RequestError::BadRequest.into_response(),
        }
    }

    /// Passes on a request for a session of another gateway.
    async fn pass_on(self: Arc<Self>, request: Request, sid: &str, is_upgrade: bool) -> Response {
        let Some((relay, gateway)) =
            self.relay.as_ref().and_then(|relay| Some((relay, relay.elsewhere(sid)?)))
        else {
            return RequestError::UnknownSession.into_response();
        };
        match *request.method() {
            Method::GET if is_upgrade => {
                let (relay, sid) = (relay.clone(), sid.to_owned());
                self.probe_elsewhere(request, relay, gateway, sid)
            }
            Method::GET => polled(relay.poll(&gateway, sid).await),
            Method::POST => match self.sessions.read(request, self.config.payload_bytes_max).await {
                Ok(body) => posted(relay.post(&gateway, sid, body).await),
                Err(error) => error.into_response(),
            },
            _ => RequestError::BadRequest.into_response(),
        }
    }

    /// Accepts a WebSocket to which a polling session of another gateway may move, and serves the session here if it
    /// does.
    fn probe_elsewhere(
        self: Arc<Self>,
        request: Request,
        relay: Relay,
        gateway: GatewayId,
        sid: String,
    ) -> Response {
        let permit = match self.service.admit(&request) {
            Ok(permit) => permit,
            Err(response) => return *response,
        };
        let Some(accept) = upgrade::accept_key(request.headers()) else {
            return RequestError::BadRequest.into_response();
        };
        upgrade::switch(request, accept, None, async move |stream, leftover| {
            let stream = Arc::new(stream);
            let mut socket = drive::socket(stream.clone(), leftover, self.config.message_bytes_max).await;
            let moved = Box::pin(moving::probe(&mut socket, &relay, &gateway, &sid)).await;
            let outgoing = Arc::new(Outgoing::to(stream.clone()));
            let close = match moved {
                Some(MovedSession { frames, application: packed }) => {
                    // Frames that the client has not yet received go before new ones.
                    for frame in &frames {
                        outgoing.offer(frame, Urgency::Reply);
                    }
                    match self.service.unpack(&outgoing, packed) {
                        Some(handler) => self.drive_websocket(&mut socket, &outgoing, handler).await,
                        None => Some(Close::Internal),
                    }
                }
                None => None,
            };
            Box::pin(drive::end(socket, close, &stream)).await;
            drop(permit);
        })
    }

    /// Drives a handler on a WebSocket that no other session shares. Returns the reason to close it.
    async fn drive_websocket(
        self: Arc<Self>,
        socket: &mut drive::Socket,
        outgoing: &Arc<Outgoing>,
        handler: S::Handler,
    ) -> Option<Close> {
        let framing = EnginePackets::new(self.config.pings, self.config.packet_bytes_max);
        // The session may last for days and does not need the engine.
        drop(self);
        drive_to_the_end(socket, outgoing, framing, handler).await
    }

    /// Passes a WebSocket to the polling session that may move to it.
    fn probe(self: Arc<Self>, request: Request, requests: mpsc::Sender<PollingRequest>) -> Response {
        let Some(accept) = upgrade::accept_key(request.headers()) else {
            return RequestError::BadRequest.into_response();
        };
        upgrade::switch(request, accept, None, async move |stream, leftover| {
            let stream = Arc::new(stream);
            let socket = drive::socket(stream.clone(), leftover, self.config.message_bytes_max).await;
            // If the session has ended meanwhile, this drops the socket.
            let _ = requests.send(PollingRequest::Probe(Box::new(socket), stream)).await;
        })
    }
}

/// Drives a handler on a WebSocket to its end, and ends the handler. Returns the reason to close the
/// WebSocket.
async fn drive_to_the_end<H: MessageHandler>(
    socket: &mut drive::Socket,
    outgoing: &Outgoing,
    framing: EnginePackets,
    mut handler: H,
) -> Option<Close> {
    let close = drive::drive(socket, outgoing, framing, &mut handler).await;
    outgoing.close();
    Box::pin(handler.end()).await;
    close
}

fn polled(polled: PollAnswer) -> Response {
    match polled {
        PollAnswer::Payload(payload) => text(payload),
        PollAnswer::Refused(error) => error.into_response(),
    }
}

fn posted(posted: Result<(), RequestError>) -> Response {
    match posted {
        Ok(()) => text("ok".into()),
        Err(error) => error.into_response(),
    }
}

/// A response with the content type that the reference server uses for payloads.
fn text(payload: String) -> Response {
    let mut response = (StatusCode::OK, Body::from(payload)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    response
}
