//! Drives one WebSocket: reads frames, writes once per wake-up, sends pings, and closes.
//!
//! tungstenite reads frames and writes control frames. Events are frames that were built once for all members (see
//! [`crate::connection::frame`]) and are written directly to the TCP stream, mostly by the task that delivers them. The
//! two never interleave: the library writes only while [`Outgoing::hold`] keeps other tasks from writing.

use crate::connection::outgoing::{Flushed, Outgoing};
use crate::connection::stream::SharedStream;
use crate::core::keepalive::Due;
use crate::core::outbox::Urgency;
use crate::core::rate::Bucket;
use crate::metrics;
use crate::session::handler::MessageHandler;
use bytes::Bytes;
use carillon_proto::code::Close;
use carillon_runtime::time::steady_ms;
use futures_util::{SinkExt, StreamExt};
use socket2::SockRef;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

/// A socket that takes no bytes for this long is closed, so that a stuck client does not hold its queue for ever.
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Limits, in time and bytes, for ending a connection: for writing queued frames, and for reading on so that the client
/// can read the close frame.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How many pings a client may send, as a rate per minute (10 a second). Each ping costs a pong.
const CLIENT_PINGS_PER_MINUTE: u32 = 600;
/// tungstenite's read buffer in bytes. It is allocated for every connection, so it is as small as a usual frame.
const READ_BUFFER_BYTES: usize = 1024;

/// A WebSocket whose TCP stream is also written to directly.
pub type Socket = WebSocketStream<SharedStream>;

/// Makes a WebSocket from a stream whose handshake is done. `bytes_max` limits a message; 0 means no limit.
pub async fn socket(stream: Arc<TcpStream>, leftover: Bytes, bytes_max: usize) -> Socket {
    let bytes_max = (bytes_max > 0).then_some(bytes_max);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(64 * 1024)
        .max_message_size(bytes_max)
        .max_frame_size(bytes_max);
    let first = leftover.to_vec();
    // Usually `leftover` is empty but holds the 8 KiB buffer of the HTTP request, which would stay allocated.
    drop(leftover);
    WebSocketStream::from_partially_read(SharedStream(stream), first, Role::Server, Some(config)).await
}

/// The meaning of a text frame.
pub enum Understood<'a> {
    Message(&'a str),
    /// A binary message in a text frame.
    Binary(Bytes),
    /// A frame that concerns only the connection.
    Nothing,
    /// The client ends the connection.
    Close,
}

/// The layer between WebSocket frames and the handler's messages.
pub trait Framing: Send {
    /// Decodes a text frame.
    ///
    /// # Errors
    /// Why the connection must end.
    fn text<'a>(&mut self, text: &'a str) -> Result<Understood<'a>, Close>;
    /// Notes that a frame arrived. It counts as a sign of life if any frame does in this protocol.
    fn note_activity(&mut self);
    /// Notes that no frames were read for a while, so that the client's silence does not count.
    fn note_pause(&mut self);
    /// When [`Framing::due`] must be called.
    fn deadline(&self) -> Instant;
    /// What to do about a client that is silent, and the ping frame for it.
    fn due(&mut self) -> (Due, Bytes);
}

enum Woken {
    Writable,
    Frames,
    Message(Option<Result<Message, WsError>>),
    Worked,
    Timer,
}

/// Drives a handler until the connection ends. Returns the reason to close it, if a close frame can still be sent.
pub async fn drive<F: Framing, H: MessageHandler>(
    socket: &mut Socket,
    outgoing: &Outgoing,
    framing: F,
    handler: &mut H,
) -> Option<Close> {
    let mut driver = Driver { socket, outgoing, framing, handler, pings: Bucket::default() };
    let close = driver.run().await;
    outgoing.set_reading(false);
    // Events are refused from now on, even while the client slowly reads earlier frames.
    outgoing.seal(true);
    let sendable = close.is_some() && Box::pin(have_the_stream(outgoing)).await;
    close.filter(|_| sendable)
}

struct Driver<'a, F, H> {
    socket: &'a mut Socket,
    outgoing: &'a Outgoing,
    framing: F,
    handler: &'a mut H,
    pings: Bucket,
}

impl<F: Framing, H: MessageHandler> Driver<'_, F, H> {
    async fn run(&mut self) -> Option<Close> {
        if let Err(close) = self.handler.due() {
            return Some(close);
        }
        let sleep = tokio::time::sleep_until(self.deadline());
        tokio::pin!(sleep);
        // When to give up a socket that takes no bytes.
        let mut stalled_at = None;
        loop {
            let mut reads = false;
            let woken = match self.outgoing.flush() {
                Flushed::Broken => return None,
                Flushed::Blocked => {
                    let stalled_at = *stalled_at.get_or_insert_with(|| Instant::now() + WRITE_STALL_TIMEOUT);
                    Box::pin(self.blocked(sleep.as_mut(), stalled_at)).await?
                }
                Flushed::Done => {
                    stalled_at = None;
                    self.handler.advance();
                    if !self.outgoing.is_empty() {
                        continue;
                    }
                    reads = self.handler.reads();
                    self.outgoing.set_reading(reads);
                    self.idle(sleep.as_mut(), reads).await
                }
            };
            let timer_fired = matches!(woken, Woken::Timer);
            match woken {
                Woken::Writable => stalled_at = None,
                Woken::Frames | Woken::Worked => {}
                Woken::Message(message) => match self.handle_message(message) {
                    Ok(ControlFrame::None) => {}
                    // Boxed, as all rare steps are here, because the largest future in an await decides the size of a
                    // connection.
                    Ok(answer) => {
                        if !Box::pin(self.answer(answer)).await {
                            return None;
                        }
                    }
                    Err(close) => return close,
                },
                Woken::Timer => {
                    if let Err(close) = self.handle_timer(reads) {
                        return Some(close);
                    }
                }
            }
            if let Err(close) = self.handler.woken() {
                return Some(close);
            }
            // A renewed token or a greeting may bring an earlier deadline. Signs of life only postpone it, so the timer
            // is left until it fires.
            let deadline = self.deadline();
            if timer_fired || deadline < sleep.deadline() {
                sleep.as_mut().reset(deadline);
            }
        }
    }

    /// Waits while there are no frames to write.
    async fn idle(&mut self, sleep: Pin<&mut Sleep>, reads: bool) -> Woken {
        tokio::select! {
            () = self.outgoing.woken() => Woken::Frames,
            message = self.socket.next(), if reads => Woken::Message(message),
            () = poll_fn(|context| self.handler.poll_work(context)) => Woken::Worked,
            () = sleep => Woken::Timer,
        }
    }

    /// Waits while the socket takes no bytes. Frames are not read meanwhile. Timers go on, so that a client that reads
    /// slowly does not stay connected after its token ends. `None` ends the connection.
    async fn blocked(&mut self, sleep: Pin<&mut Sleep>, stalled_at: Instant) -> Option<Woken> {
        tokio::select! {
            biased;
            () = sleep => Some(Woken::Timer),
            writable = writable(self.outgoing) => writable.is_ok().then_some(Woken::Writable),
            () = self.outgoing.woken() => Some(Woken::Frames),
            () = poll_fn(|context| self.handler.poll_work(context)) => Some(Woken::Worked),
            () = tokio::time::sleep_until(stalled_at) => None,
        }
    }

    fn deadline(&self) -> Instant {
        let framing = self.framing.deadline();
        self.handler.deadline().map_or(framing, |deadline| deadline.min(framing))
    }

    fn handle_timer(&mut self, reads: bool) -> Result<(), Close> {
        self.handler.due()?;
        if !reads {
            self.framing.note_pause();
        }
        match self.framing.due() {
            (Due::Nothing, _) => {}
            (Due::Ping, ping) => {
                self.outgoing.offer(&ping, Urgency::Reply);
            }
            (Due::GiveUp, _) => return Err(Close::Unresponsive),
        }
        Ok(())
    }

    /// Handles a frame or the end of the stream. Returns which frame of the library must be written. `Err` holds the
    /// reason for the client, if there is one to send.
    fn handle_message(
        &mut self,
        message: Option<Result<Message, WsError>>,
    ) -> Result<ControlFrame, Option<Close>> {
        self.framing.note_activity();
        self.outgoing.note_activity();
        match message {
            Some(Ok(Message::Text(text))) => {
                metrics::FRAMES_IN.inc();
                match self.framing.text(&text).map_err(Some)? {
                    Understood::Message(text) => self.handler.text(text).map_err(Some)?,
                    Understood::Binary(bytes) => self.handler.binary(bytes).map_err(Some)?,
                    Understood::Nothing => {}
                    Understood::Close => return Err(None),
                }
            }
            Some(Ok(Message::Binary(bytes))) => {
                metrics::FRAMES_IN.inc();
                self.handler.binary(bytes).map_err(Some)?;
            }
            Some(Ok(Message::Ping(_))) => {
                let allowed = self.pings.try_acquire(steady_ms(), CLIENT_PINGS_PER_MINUTE).is_ok();
                return if allowed { Ok(ControlFrame::Pong) } else { Err(Some(Close::ProtocolError)) };
            }
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) | None => return Ok(ControlFrame::Close),
            Some(Err(error)) => return Err(reason(&error)),
        }
        Ok(ControlFrame::None)
    }

    /// Writes a frame that the library has queued, while other tasks do not write. Returns `false` if the connection
    /// ends.
    async fn answer(&mut self, answer: ControlFrame) -> bool {
        let held = have_the_stream(self.outgoing).await;
        let sent = held && matches!(timeout(LINGER, self.socket.flush()).await, Ok(Ok(())));
        if answer == ControlFrame::Pong && sent {
            self.outgoing.release();
        }
        answer == ControlFrame::Pong && sent
    }
}

/// A frame that the library has queued in reaction to a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ControlFrame {
    None,
    Pong,
    Close,
}

async fn writable(outgoing: &Outgoing) -> std::io::Result<()> {
    match outgoing.socket() {
        Some(socket) => socket.writable().await,
        None => Err(std::io::ErrorKind::NotConnected.into()),
    }
}

/// Writes what is queued within [`LINGER`] and then keeps other tasks from writing. Returns `false` if a frame is half
/// written, because no other frame can follow it.
async fn have_the_stream(outgoing: &Outgoing) -> bool {
    let written = timeout(LINGER, async {
        loop {
            match outgoing.flush() {
                Flushed::Done if outgoing.hold() => return true,
                Flushed::Done => {}
                Flushed::Blocked if writable(outgoing).await.is_ok() => {}
                Flushed::Blocked | Flushed::Broken => return false,
            }
        }
    });
    match written.await {
        Ok(done) => done,
        Err(_) => outgoing.hold(),
    }
}

/// The close reason for an error in a client's frames; `None` if the connection is gone.
pub fn reason(error: &WsError) -> Option<Close> {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { .. }) => Some(Close::FrameTooLarge),
        WsError::Utf8(_) => Some(Close::InvalidUtf8),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        WsError::Protocol(_) => Some(Close::ProtocolError),
        _ => None,
    }
}

/// Ends a connection. It sends the reason, if there is one, and reads on for a moment, because closing a socket with
/// unread bytes resets the connection and the client would lose the reason.
pub async fn end(socket: Socket, close: Option<Close>, stream: &TcpStream) {
    if let Some(close) = close {
        send_close(socket, close).await;
    }
    // Other tasks may hold the stream for a moment longer.
    let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Both);
}

async fn send_close(mut socket: Socket, close: Close) {
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
#[path = "drive_tests.rs"]
mod tests;
