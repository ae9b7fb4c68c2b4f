//! A TCP stream with two writers: the WebSocket library, and the task that delivers frames directly.

use socket2::SockRef;
use std::io::{ErrorKind, Read, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A shared TCP stream. [`crate::connection::outgoing::Outgoing::hold`] decides which of the two may write.
pub struct SharedStream(pub Arc<TcpStream>);

impl SharedStream {
    /// Reads once. If that does not fill the buffer, no more bytes are there, and the stream is reported as empty, so
    /// that the next read waits for bytes instead of trying in vain.
    fn read(&self, buffer: &mut ReadBuf<'_>) -> Result<()> {
        let room = buffer.remaining();
        let read = (&*SockRef::from(&*self.0)).read(buffer.initialize_unfilled())?;
        buffer.advance(read);
        if 0 < read && read < room { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_io(Interest::READABLE, || self.read(buffer)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if buffer.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                }
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        // Nothing is buffered here. The write half is shut down now, even if other tasks still hold the stream.
        Poll::Ready(socket2::SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write))
    }
}
