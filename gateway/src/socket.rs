//! Drives one native WebSocket: authentication, frames in, one write per wake-up, pings, and the end.
//!
//! Reading and control frames are tungstenite's; events go out as frames that were built once for all
//! (see [`crate::frame`]), written to the TCP stream beneath it, mostly by whoever delivers them. The two never
//! interleave: the library writes only while [`Connection::hold`] keeps everybody else from it.

use crate::auth::{Identity, Refusal};
use crate::connection::{Connection, Flushed};
use crate::core::keepalive::{Due, Keepalive};
use crate::core::outbox::Urgency;
use crate::core::rate::Bucket;
use crate::presence::Admission;
use crate::session::{Session, Work};
use crate::shared::Shared;
use crate::stream::SharedStream;
use crate::{frame, metrics};
use bytes::Bytes;
use carillon_proto::code::{Close, ErrorCode, Failure};
use carillon_proto::command::Command;
use carillon_proto::dialect::native;
use carillon_proto::event::Reply;
use carillon_runtime::time::now_ms;
use futures_util::{FutureExt, SinkExt, StreamExt};
use socket2::SockRef;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

/// For a first frame with a token (protocol §8).
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);
/// A socket that takes nothing for so long is closed (hazards: slow client).
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Time and bytes for a client to see why it was closed, before the socket is.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Pings that a client may send in a second (hazards: ping floods), as a rate per minute.
const CLIENT_PINGS_PER_MINUTE: u32 = 600;
/// A token's end is announced this long before (protocol §2), milliseconds.
const EXPIRY_NOTICE_MS: u64 = 60_000;
/// tungstenite's read buffer: allocated for every connection, so as small as a usual frame (hazards:
/// memory per idle connection).
const READ_BUFFER_BYTES: usize = 1024;

/// How a connection arrived.
pub enum Arrival {
    /// With an identity.
    Identified(Identity),
    /// It will say who it is with its first frame.
    Anonymous,
    /// With a token that does not count.
    Refused(Refusal),
}

type Socket = WebSocketStream<SharedStream>;

/// Serves a connection from its upgrade to its end.
pub async fn serve(shared: Arc<Shared>, io: TcpStream, leftover: Bytes, arrival: Arrival) {
    let bytes_max = match shared.settings.limits.frame_bytes {
        0 => None,
        bytes => Some(bytes),
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(64 * 1024)
        .max_message_size(bytes_max)
        .max_frame_size(bytes_max);
    let stream = Arc::new(io);
    let beneath = SharedStream(stream.clone());
    let first = leftover.to_vec();
    // Mostly nothing, in the 8 KiB buffer of the HTTP request, which would be kept for good.
    drop(leftover);
    let mut socket = WebSocketStream::from_partially_read(beneath, first, Role::Server, Some(config)).await;
    let identified = match arrival {
        Arrival::Identified(identity) => Ok(identity),
        Arrival::Refused(refusal) => Err(Some(refusal.close())),
        Arrival::Anonymous => Box::pin(first_frame(&shared, &mut socket)).await,
    };
    let ended = match identified {
        Ok(identity) => admitted(shared, &mut socket, identity, &stream).await,
        Err(close) => close,
    };
    if let Some(close) = ended {
        Box::pin(say_goodbye(socket, close)).await;
    }
    // Others may hold the stream for a while yet.
    let _ = SockRef::from(&*stream).shutdown(std::net::Shutdown::Both);
}

/// Waits for `authenticate`; anything else is told what is missing.
async fn first_frame(shared: &Shared, socket: &mut Socket) -> Result<Identity, Option<Close>> {
    let deadline = Instant::now() + AUTHENTICATION_TIMEOUT;
    loop {
        let message = tokio::time::timeout_at(deadline, socket.next()).await;
        let text = match message.map_err(|_| Some(Close::AuthenticationTimeout))? {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_))) => {
                let _ = socket.flush().await;
                continue;
            }
            Some(Ok(Message::Pong(_))) => continue,
            Some(Ok(Message::Close(_))) | None => return Err(None),
            Some(Ok(_)) => return Err(Some(Close::InvalidToken)),
            Some(Err(error)) => return Err(reason(&error)),
        };
        let reply = match native::decode(&text, shared.settings.limits.content_chars) {
            Ok(native::Frame { reference, command: Command::Authenticate { token } }) => {
                let identity = shared.verifier.verify(&token).map_err(|refusal| Some(refusal.close()))?;
                let expires_ms = identity.expires_ms.unwrap_or(u64::MAX);
                let reply = Reply::Authenticated { user: identity.user.clone(), expires_ms };
                let text = native::reply(&reply, reference.as_deref(), now_ms());
                socket.send(Message::text(text)).await.map_err(|_| None)?;
                return Ok(identity);
            }
            Ok(native::Frame { reference, .. }) => {
                let message = "authenticate first: send {\"type\":\"authenticate\",\"token\":…}";
                let failure = Failure::new(ErrorCode::Unauthorized, message);
                native::reply(&Reply::Error(failure), reference.as_deref(), now_ms())
            }
            Err(refused) => {
                native::reply(&Reply::Error(refused.failure), refused.reference.as_deref(), now_ms())
            }
        };
        metrics::ERRORS.inc();
        if timeout(AUTHENTICATION_TIMEOUT, socket.send(Message::text(reply))).await.is_err() {
            return Err(None);
        }
    }
}

/// Serves an identified connection; returns why it must be closed, if it still can be told.
async fn admitted(
    shared: Arc<Shared>,
    socket: &mut Socket,
    mut identity: Identity,
    stream: &Arc<TcpStream>,
) -> Option<Close> {
    // The directory keeps it: once is enough.
    let profile = std::mem::take(&mut identity.profile);
    let session = shared.next_connection.fetch_add(1, Ordering::Relaxed) + 1;
    let connection =
        Arc::new(Connection::new(session, identity.user.clone(), identity.name.clone(), stream.clone()));
    shared.directory.add(&connection, profile.clone());
    let limit = shared.settings.limits.connections_per_user;
    let admission = Box::pin(shared.start_session(profile, session, limit)).await;
    if admission == Admission::TooMany {
        shared.directory.remove(&connection);
        metrics::REFUSED.inc();
        return Some(Close::TooManyConnections);
    }
    metrics::ACCEPTED.inc();
    let mut session = Session::new(shared, connection, identity);
    Box::pin(session.greet()).await;
    let mut driver = Driver { socket, session, work: None, page: None, pings: Bucket::default() };
    let close = driver.run().await;
    let told = close.is_some() && Box::pin(have_the_stream(&driver.session.connection)).await;
    Box::pin(driver.session.end()).await;
    close.filter(|_| told)
}

struct Driver<'a> {
    socket: &'a mut Socket,
    session: Session,
    /// The command that waits for an answer; the next one is read when it is done.
    work: Option<Work>,
    /// What is being read for a member that is behind.
    page: Option<Work>,
    pings: Bucket,
}

enum Woken {
    Frames,
    Worked(crate::session::Done),
    Paged(crate::session::Done),
    Came(Option<Result<Message, WsError>>),
    Timer,
}

impl Driver<'_> {
    async fn run(&mut self) -> Option<Close> {
        let connection = self.session.connection.clone();
        let mut keepalive = Keepalive::new(std::time::Instant::now());
        let mut expiry_told = None;
        let mut expires_ms = self.session.identity.expires_ms;
        if self.token_is_over(&mut expiry_told) {
            return Some(Close::TokenExpired);
        }
        let sleep = tokio::time::sleep_until(self.next_timer(&keepalive));
        tokio::pin!(sleep);
        loop {
            match connection.flush() {
                Flushed::Done => {}
                Flushed::Blocked => match Box::pin(timeout(WRITE_STALL_TIMEOUT, connection.writable())).await
                {
                    Ok(Ok(())) => continue,
                    _ => return None,
                },
                Flushed::Broken => return None,
            }
            if self.page.is_none() {
                self.page = self.session.catch_up();
            }
            let reads = self.work.is_none() && !connection.is_busy();
            let woken = tokio::select! {
                () = connection.woken() => Woken::Frames,
                message = self.socket.next(), if reads => Woken::Came(message),
                done = wait(&mut self.work), if self.work.is_some() => Woken::Worked(done),
                done = wait(&mut self.page), if self.page.is_some() => Woken::Paged(done),
                () = &mut sleep => Woken::Timer,
            };
            match woken {
                Woken::Frames => {}
                Woken::Came(message) => {
                    keepalive.heard(std::time::Instant::now());
                    match self.came(message) {
                        Ok(Answer::None) => {}
                        // Boxed, as everything rare is here: a connection is as large as its largest await.
                        Ok(answer) => {
                            if !Box::pin(self.answer(answer)).await {
                                return None;
                            }
                        }
                        Err(close) => return close,
                    }
                    if self.session.identity.expires_ms != expires_ms {
                        expires_ms = self.session.identity.expires_ms;
                        self.token_is_over(&mut expiry_told);
                        sleep.as_mut().reset(self.next_timer(&keepalive));
                    }
                }
                Woken::Worked(done) => {
                    self.work = None;
                    self.session.done(done);
                }
                Woken::Paged(done) => {
                    self.page = None;
                    self.session.done(done);
                }
                Woken::Timer => {
                    if self.token_is_over(&mut expiry_told) {
                        return Some(Close::TokenExpired);
                    }
                    let now = std::time::Instant::now();
                    if !reads {
                        keepalive.heard(now);
                    }
                    match keepalive.due(now) {
                        Due::Nothing => {}
                        Due::Ping => {
                            connection.offer(&frame::PING, Urgency::Reply);
                        }
                        Due::GiveUp => return Some(Close::Unresponsive),
                    }
                    sleep.as_mut().reset(self.next_timer(&keepalive));
                }
            }
            let signals = connection.signals();
            let close = if signals.is_empty() { None } else { self.session.signalled(signals) };
            if close.is_some() {
                return close;
            }
        }
    }

    /// When the timer must ring next: for a ping, or for the token.
    fn next_timer(&self, keepalive: &Keepalive) -> Instant {
        let ping = Instant::from_std(keepalive.next());
        let Some(expires_ms) = self.session.identity.expires_ms else { return ping };
        let left_ms = expires_ms.saturating_sub(now_ms());
        let until_ms = if left_ms > EXPIRY_NOTICE_MS { left_ms - EXPIRY_NOTICE_MS } else { left_ms };
        ping.min(Instant::now() + Duration::from_millis(until_ms + 1))
    }

    /// Whether the token's time is over; its coming is told once.
    fn token_is_over(&self, told: &mut Option<u64>) -> bool {
        let Some(expires_ms) = self.session.identity.expires_ms else { return false };
        let now_ms = now_ms();
        if now_ms + EXPIRY_NOTICE_MS >= expires_ms && *told != Some(expires_ms) {
            *told = Some(expires_ms);
            self.session.reply(&Reply::TokenExpiring { expires_ms }, None);
        }
        now_ms >= expires_ms
    }

    /// A message came, or the end: what there is to do about the library's own frames, or `Err` with what to say
    /// to the client, if it can be told.
    fn came(&mut self, message: Option<Result<Message, WsError>>) -> Result<Answer, Option<Close>> {
        match message {
            Some(Ok(Message::Text(text))) => self.work = self.session.text(&text),
            Some(Ok(Message::Binary(_))) => self.session.binary(),
            Some(Ok(Message::Ping(_))) => {
                let allowed = self.pings.take(now_ms(), CLIENT_PINGS_PER_MINUTE).is_ok();
                return if allowed { Ok(Answer::Pong) } else { Err(Some(Close::ProtocolError)) };
            }
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) | None => return Ok(Answer::Close),
            Some(Err(error)) => return Err(reason(&error)),
        }
        // Short work, like a join of a conversation that is known, is often done at once.
        if let Some(work) = &mut self.work
            && let Some(done) = work.now_or_never()
        {
            self.work = None;
            self.session.done(done);
        }
        Ok(Answer::None)
    }

    /// Sends what the library has queued by itself, while nobody else writes; `false` at the end.
    async fn answer(&mut self, answer: Answer) -> bool {
        let held = have_the_stream(&self.session.connection).await;
        let sent = held && matches!(timeout(LINGER, self.socket.flush()).await, Ok(Ok(())));
        if answer == Answer::Pong && sent {
            self.session.connection.release();
        }
        answer == Answer::Pong && sent
    }
}

/// What the library has queued by itself after a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    None,
    Pong,
    Close,
}

/// Writes what is queued, as far as the client takes it soon, and keeps others from writing; `false` when a frame
/// stays half written, behind which nothing can be said.
async fn have_the_stream(connection: &Connection) -> bool {
    let written = timeout(LINGER, async {
        loop {
            match connection.flush() {
                Flushed::Done if connection.hold() => return true,
                Flushed::Done => {}
                Flushed::Blocked if connection.writable().await.is_ok() => {}
                Flushed::Blocked | Flushed::Broken => return false,
            }
        }
    });
    match written.await {
        Ok(done) => done,
        Err(_) => connection.hold(),
    }
}

async fn wait(work: &mut Option<Work>) -> crate::session::Done {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// What a client is told of an error in its frames; nothing where the connection is gone.
fn reason(error: &WsError) -> Option<Close> {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { .. }) => Some(Close::FrameTooLarge),
        WsError::Utf8(_) => Some(Close::InvalidUtf8),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        WsError::Protocol(_) => Some(Close::ProtocolError),
        _ => None,
    }
}

/// Closes with a reason, and reads on for a moment so that the reason is not lost to a reset.
async fn say_goodbye(mut socket: Socket, close: Close) {
    let reason = CloseFrame { code: close.code().into(), reason: close.reason().into() };
    let _ = timeout(LINGER, async {
        if socket.close(Some(reason)).await.is_err() {
            return;
        }
        let _ = socket.flush().await;
        let stream = socket.get_mut();
        let _ = tokio::io::AsyncWriteExt::shutdown(stream).await;
        let mut scrap = [0; 4096];
        let mut left = LINGER_BYTES_MAX;
        while let Ok(read) = stream.read(&mut scrap).await {
            if read == 0 || read > left {
                return;
            }
            left -= read;
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Every idle connection holds this future: what is rare is boxed, so that it is paid for when it happens.
    #[test]
    fn an_idle_connection_is_small() {
        let bytes = future_bytes(serve);
        assert!(bytes <= 3_072, "a connection's future has {bytes} bytes");
    }
}
