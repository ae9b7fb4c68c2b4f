//! One native WebSocket from its upgrade to its end: authentication, then JSON frames.

use crate::access::admission::StartingSession;
use crate::access::auth::{Identity, TokenError};
use crate::connection::ClientProtocol;
use crate::connection::drive::{self, Framing, Socket, Understood};
use crate::connection::frame;
use crate::connection::outgoing::Outgoing;
use crate::core::keepalive::{Due, Keepalive, NATIVE};
use crate::delivery::dialect::CommandOrigin;
use crate::session::handler::{ConnectionHandler, MessageHandler};
use crate::session::running::RunningSession;
use crate::session::start::{Claim, start};
use crate::shared::Shared;
use crate::{metrics, wall};
use bytes::Bytes;
use carillon_proto::code::{Close, ErrorCode, Failure};
use carillon_proto::command::Command;
use carillon_proto::dialect::native;
use carillon_proto::event::Reply;
use futures_util::{SinkExt, StreamExt};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::protocol::Message;

/// Time limit for a first frame with a token (`docs/protocol.md#endpoints`).
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// What is known about the user after a connection's upgrade.
pub enum Authentication {
    /// It had a valid identity.
    Identified(Box<Identity>),
    /// It had no token. The first frame must have one.
    Anonymous,
    /// It had a token that is refused.
    Refused(TokenError),
}

/// Serves a connection from its upgrade to its end. `starting` is set if the upgrade already counted the session as
/// being started.
pub async fn serve(
    shared: Arc<Shared>,
    io: TcpStream,
    leftover: Bytes,
    authentication: Authentication,
    starting: Option<StartingSession>,
) {
    let stream = Arc::new(io);
    let mut socket = drive::socket(stream.clone(), leftover, shared.settings.limits.frame_bytes).await;
    let identified = match authentication {
        Authentication::Identified(identity) => Ok(*identity),
        Authentication::Refused(error) => Err(Some(error.close())),
        Authentication::Anonymous => Box::pin(first_frame(&shared, &mut socket)).await,
    };
    let ended = match identified {
        Ok(identity) => {
            let starting = starting.unwrap_or_else(|| shared.admission.count_starting());
            admitted(shared, &mut socket, identity, &stream, starting).await
        }
        Err(close) => close,
    };
    Box::pin(drive::end(socket, ended, &stream)).await;
}

/// Waits for `authenticate`. Any other command gets an error that requests it.
async fn first_frame(shared: &Shared, socket: &mut Socket) -> Result<Identity, Option<Close>> {
    let deadline = Instant::now() + AUTHENTICATION_TIMEOUT;
    loop {
        let message = tokio::select! {
            message = tokio::time::timeout_at(deadline, socket.next()) => message,
            () = shared.draining.cancelled() => return Err(Some(Close::Draining)),
        };
        let text = match message.map_err(|_| Some(Close::AuthenticationTimeout))? {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_))) => {
                let _ = socket.flush().await;
                continue;
            }
            Some(Ok(Message::Pong(_))) => continue,
            Some(Ok(Message::Close(_))) | None => return Err(None),
            Some(Ok(_)) => return Err(Some(Close::InvalidToken)),
            Some(Err(error)) => return Err(drive::reason(&error)),
        };
        let reply = match native::decode(&text, shared.settings.limits.content_chars) {
            Ok(native::Frame { reference, command: Command::Authenticate { token } }) => {
                let identity = shared.verifier.verify(&token).map_err(|error| Some(error.close()))?;
                let expires_ms = identity.expires_ms.unwrap_or(u64::MAX);
                let reply = Reply::Authenticated { user: identity.user.clone(), expires_ms };
                let text = native::reply(&reply, reference.as_deref(), wall::shown_ms());
                socket.send(Message::text(text)).await.map_err(|_| None)?;
                return Ok(identity);
            }
            Ok(native::Frame { reference, .. }) => {
                let message = "authenticate first: send {\"type\":\"authenticate\",\"token\":…}";
                let failure = Failure::new(ErrorCode::Unauthorized, message);
                native::reply(&Reply::Error(failure), reference.as_deref(), wall::shown_ms())
            }
            Err(refused) => {
                native::reply(&Reply::Error(refused.failure), refused.reference.as_deref(), wall::shown_ms())
            }
        };
        metrics::ERRORS.inc();
        if timeout(AUTHENTICATION_TIMEOUT, socket.send(Message::text(reply))).await.is_err() {
            return Err(None);
        }
    }
}

/// Serves an identified connection. Returns the reason to close it, if a close frame can still be sent.
async fn admitted(
    shared: Arc<Shared>,
    socket: &mut Socket,
    identity: Identity,
    stream: &Arc<TcpStream>,
    starting: StartingSession,
) -> Option<Close> {
    let outgoing = Arc::new(Outgoing::to(stream.clone()));
    let claim = Claim::new(&shared);
    let running =
        match Box::pin(start(shared, identity, ClientProtocol::Native, outgoing.clone(), claim)).await {
            Ok(running) => running,
            Err(close) => return Some(close),
        };
    let mut handler = Native::new(running);
    Box::pin(handler.greet()).await;
    drop(starting);
    let close = drive::drive(socket, &outgoing, JsonFrames::new(), &mut handler).await;
    outgoing.close();
    Box::pin(handler.end()).await;
    close
}

/// A session in the native vocabulary.
pub struct Native {
    running: RunningSession,
}

impl Native {
    /// The handler for a session that [`start`] has started.
    pub fn new(running: RunningSession) -> Native {
        Native { running }
    }

    /// Sends the list of online users, which is the first frame that a client gets.
    pub async fn greet(&mut self) {
        self.running.session.greet().await;
    }
}

impl MessageHandler for Native {
    fn text(&mut self, text: &str) -> Result<(), Close> {
        let chars_max = self.running.session.content_chars_max();
        match native::decode(text, chars_max) {
            Ok(native::Frame { reference, command }) => {
                let origin = CommandOrigin::Native { reference: reference.map(Into::into) };
                let work = self.running.session.handle_command(command, &origin);
                self.running.start_work(work);
            }
            Err(native::InvalidFrame { reference, failure }) => {
                let origin = CommandOrigin::Native { reference: reference.map(Into::into) };
                self.running.session.refuse(failure, &origin);
            }
        }
        Ok(())
    }

    fn binary(&mut self, _: Bytes) -> Result<(), Close> {
        let failure = Failure::new(ErrorCode::InvalidFrame, "frames must be text");
        self.running.session.refuse(failure, &CommandOrigin::NATIVE);
        Ok(())
    }
}

impl ConnectionHandler for Native {
    fn reads(&self) -> bool {
        self.running.reads()
    }

    fn advance(&mut self) {
        self.running.advance();
    }

    fn poll_work(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.running.poll(context)
    }

    fn woken(&mut self) -> Result<(), Close> {
        self.running.woken()
    }

    fn deadline(&self) -> Option<Instant> {
        self.running.deadline()
    }

    fn due(&mut self) -> Result<(), Close> {
        self.running.due()
    }

    async fn end(self) {
        self.running.end().await;
    }
}

/// Each native text frame is a message. Pings are WebSocket's own.
struct JsonFrames {
    keepalive: Keepalive,
}

impl JsonFrames {
    fn new() -> JsonFrames {
        JsonFrames { keepalive: Keepalive::new(NATIVE, Instant::now().into_std()) }
    }
}

impl Framing for JsonFrames {
    fn text<'a>(&mut self, text: &'a str) -> Result<Understood<'a>, Close> {
        Ok(Understood::Message(text))
    }

    fn note_activity(&mut self) {
        self.keepalive.handle_activity(Instant::now().into_std());
    }

    fn note_pause(&mut self) {
        self.note_activity();
    }

    fn deadline(&self) -> Instant {
        Instant::from_std(self.keepalive.poll_timeout())
    }

    fn due(&mut self) -> (Due, Bytes) {
        (self.keepalive.handle_timeout(Instant::now().into_std()), frame::PING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, C, D, E, F>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    /// Every idle connection holds this future. Rare steps are boxed, so that they take memory only while they run.
    #[test]
    fn an_idle_connection_is_small() {
        let bytes = future_bytes(serve);
        assert!(bytes <= 3_072, "a connection's future has {bytes} bytes");
    }
}
