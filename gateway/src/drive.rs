//! Drives one WebSocket: frames in, one write per wake-up, pings, and the end.
//!
//! Reading and control frames are tungstenite's; events go out as frames that were built once for all
//! (see [`crate::frame`]), written to the TCP stream beneath it, mostly by whoever delivers them. The two never
//! interleave: the library writes only while [`Outgoing::hold`] keeps everybody else from it.

use crate::application::Application;
use crate::core::keepalive::Due;
use crate::core::outbox::Urgency;
use crate::core::rate::Bucket;
use crate::metrics;
use crate::outgoing::{Flushed, Outgoing};
use crate::stream::SharedStream;
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

/// A socket that takes nothing for so long is closed (hazards: slow client).
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Time and bytes for a client to see why it was closed, before the socket is.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Pings that a client may send in a second (hazards: ping floods), as a rate per minute.
const CLIENT_PINGS_PER_MINUTE: u32 = 600;
/// tungstenite's read buffer: allocated for every connection, so as small as a usual frame (hazards:
/// memory per idle connection).
const READ_BUFFER_BYTES: usize = 1024;

/// A WebSocket whose stream others write to as well.
pub type Socket = WebSocketStream<SharedStream>;

/// The library's WebSocket on a stream whose handshake is done; messages have at most `bytes_max` bytes, 0: any.
pub async fn socket(stream: Arc<TcpStream>, leftover: Bytes, bytes_max: usize) -> Socket {
    let bytes_max = (bytes_max > 0).then_some(bytes_max);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(64 * 1024)
        .max_message_size(bytes_max)
        .max_frame_size(bytes_max);
    let first = leftover.to_vec();
    // Mostly nothing, in the 8 KiB buffer of the HTTP request, which would be kept for good.
    drop(leftover);
    WebSocketStream::from_partially_read(SharedStream(stream), first, Role::Server, Some(config)).await
}

/// How a text frame is understood.
pub enum Understood<'a> {
    /// It is for the application.
    Message(&'a str),
    /// It is a binary message in text.
    Binary(Bytes),
    /// It is answered with this frame.
    Answer(Bytes),
    /// It was about the connection.
    Nothing,
    /// The client says goodbye.
    Goodbye,
}

/// What stands between WebSocket frames and the application's messages.
pub trait Framing: Send {
    /// Understands a text frame.
    ///
    /// # Errors
    /// Why the connection must end.
    fn text<'a>(&mut self, text: &'a str) -> Result<Understood<'a>, Close>;
    /// Something came: a sign of life, where any frame is one.
    fn heard(&mut self);
    /// Nobody has listened for signs of life.
    fn deaf(&mut self);
    /// When [`Framing::due`] must be asked.
    fn deadline(&self) -> Instant;
    /// What to do about a client that is silent, and the ping to send.
    fn due(&mut self) -> (Due, Bytes);
}

enum Woken {
    Writable,
    Frames,
    Came(Option<Result<Message, WsError>>),
    Worked,
    Timer,
}

/// Serves an application until the connection ends; returns why it must be closed, if it still can be told.
pub async fn drive<F: Framing, A: Application>(
    socket: &mut Socket,
    outgoing: &Outgoing,
    framing: F,
    application: &mut A,
) -> Option<Close> {
    let mut driver = Driver { socket, outgoing, framing, application, pings: Bucket::default() };
    let close = driver.run().await;
    outgoing.listens(false);
    // What comes behind the end is not the client's any more, however slowly it reads what came before.
    outgoing.seal(true);
    let told = close.is_some() && Box::pin(have_the_stream(outgoing)).await;
    close.filter(|_| told)
}

struct Driver<'a, F, A> {
    socket: &'a mut Socket,
    outgoing: &'a Outgoing,
    framing: F,
    application: &'a mut A,
    pings: Bucket,
}

impl<F: Framing, A: Application> Driver<'_, F, A> {
    async fn run(&mut self) -> Option<Close> {
        if let Err(close) = self.application.due() {
            return Some(close);
        }
        let sleep = tokio::time::sleep_until(self.deadline());
        tokio::pin!(sleep);
        // When a socket that takes nothing is given up.
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
                    self.application.advance();
                    if !self.outgoing.is_empty() {
                        continue;
                    }
                    reads = self.application.reads();
                    self.outgoing.listens(reads);
                    self.idle(sleep.as_mut(), reads).await
                }
            };
            let rang = matches!(woken, Woken::Timer);
            match woken {
                Woken::Writable => stalled_at = None,
                Woken::Frames | Woken::Worked => {}
                Woken::Came(message) => match self.came(message) {
                    Ok(Answer::None) => {}
                    // Boxed, as everything rare is here: a connection is as large as its largest await.
                    Ok(answer) => {
                        if !Box::pin(self.answer(answer)).await {
                            return None;
                        }
                    }
                    Err(close) => return close,
                },
                Woken::Timer => {
                    if let Err(close) = self.rung(reads) {
                        return Some(close);
                    }
                }
            }
            if let Err(close) = self.application.woken() {
                return Some(close);
            }
            // A renewed token or a greeting brings other times with it; signs of life only later ones.
            let deadline = self.deadline();
            if rang || deadline < sleep.deadline() {
                sleep.as_mut().reset(deadline);
            }
        }
    }

    /// Waits while there is nothing to write.
    async fn idle(&mut self, sleep: Pin<&mut Sleep>, reads: bool) -> Woken {
        tokio::select! {
            () = self.outgoing.woken() => Woken::Frames,
            message = self.socket.next(), if reads => Woken::Came(message),
            () = poll_fn(|context| self.application.poll_work(context)) => Woken::Worked,
            () = sleep => Woken::Timer,
        }
    }

    /// Waits while the socket takes nothing. The client is not read meanwhile, and everything else goes on: a client
    /// that reads as slowly as it likes does not outlive its token. `None` at the end.
    async fn blocked(&mut self, sleep: Pin<&mut Sleep>, stalled_at: Instant) -> Option<Woken> {
        tokio::select! {
            biased;
            () = sleep => Some(Woken::Timer),
            writable = writable(self.outgoing) => writable.is_ok().then_some(Woken::Writable),
            () = self.outgoing.woken() => Some(Woken::Frames),
            () = poll_fn(|context| self.application.poll_work(context)) => Some(Woken::Worked),
            () = tokio::time::sleep_until(stalled_at) => None,
        }
    }

    fn deadline(&self) -> Instant {
        let framing = self.framing.deadline();
        self.application.deadline().map_or(framing, |deadline| deadline.min(framing))
    }

    fn rung(&mut self, reads: bool) -> Result<(), Close> {
        self.application.due()?;
        if !reads {
            self.framing.deaf();
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

    /// A message came, or the end: what there is to do about the library's own frames, or `Err` with what to say
    /// to the client, if it can be told.
    fn came(&mut self, message: Option<Result<Message, WsError>>) -> Result<Answer, Option<Close>> {
        self.framing.heard();
        self.outgoing.heard();
        match message {
            Some(Ok(Message::Text(text))) => {
                metrics::FRAMES_IN.inc();
                match self.framing.text(&text).map_err(Some)? {
                    Understood::Message(text) => self.application.text(text).map_err(Some)?,
                    Understood::Binary(bytes) => self.application.binary(bytes).map_err(Some)?,
                    Understood::Answer(frame) => {
                        self.outgoing.offer(&frame, Urgency::Reply);
                    }
                    Understood::Nothing => {}
                    Understood::Goodbye => return Err(None),
                }
            }
            Some(Ok(Message::Binary(bytes))) => {
                metrics::FRAMES_IN.inc();
                self.application.binary(bytes).map_err(Some)?;
            }
            Some(Ok(Message::Ping(_))) => {
                let allowed = self.pings.take(steady_ms(), CLIENT_PINGS_PER_MINUTE).is_ok();
                return if allowed { Ok(Answer::Pong) } else { Err(Some(Close::ProtocolError)) };
            }
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) | None => return Ok(Answer::Close),
            Some(Err(error)) => return Err(reason(&error)),
        }
        Ok(Answer::None)
    }

    /// Sends what the library has queued by itself, while nobody else writes; `false` at the end.
    async fn answer(&mut self, answer: Answer) -> bool {
        let held = have_the_stream(self.outgoing).await;
        let sent = held && matches!(timeout(LINGER, self.socket.flush()).await, Ok(Ok(())));
        if answer == Answer::Pong && sent {
            self.outgoing.release();
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

async fn writable(outgoing: &Outgoing) -> std::io::Result<()> {
    match outgoing.socket() {
        Some(socket) => socket.writable().await,
        None => Err(std::io::ErrorKind::NotConnected.into()),
    }
}

/// Writes what is queued, as far as the client takes it soon, and keeps others from writing; `false` when a frame
/// stays half written, behind which nothing can be said.
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

/// What a client is told of an error in its frames; nothing where the connection is gone.
pub fn reason(error: &WsError) -> Option<Close> {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { .. }) => Some(Close::FrameTooLarge),
        WsError::Utf8(_) => Some(Close::InvalidUtf8),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        WsError::Protocol(_) => Some(Close::ProtocolError),
        _ => None,
    }
}

/// Ends a connection: says why, where that can be told, and reads on for a moment so that it is not lost to a
/// reset.
pub async fn end(socket: Socket, close: Option<Close>, stream: &TcpStream) {
    if let Some(close) = close {
        say_goodbye(socket, close).await;
    }
    // Others may hold the stream for a while yet.
    let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Both);
}

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
#[path = "drive_tests.rs"]
mod tests;
