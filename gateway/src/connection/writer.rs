//! Writes shared frames to a socket, with one system call for all that are queued.

use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Result};
use tokio::net::TcpStream;

/// Slices for one `writev` call. Linux allows up to 1,024; 64 frames fill several packets.
const SLICES_MAX: usize = 64;

/// Frames that are being written to one socket.
#[derive(Default)]
pub struct Writer(VecDeque<Bytes>);

impl Writer {
    /// Takes frames to write. No frames may be under way.
    pub fn set_frames(&mut self, frames: VecDeque<Bytes>) {
        debug_assert!(self.0.is_empty());
        crate::metrics::FRAMES_OUT.inc_by(frames.len() as u64);
        self.0 = frames;
    }

    /// Whether all frames were written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes one frame and writes as much of it as the socket takes now. Returns `true` if that was all of it. No
    /// frames may be under way. Most deliveries are one frame, for which a plain write costs less than a vectored one.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn write_one(&mut self, socket: &TcpStream, mut frame: Bytes) -> Result<bool> {
        debug_assert!(self.0.is_empty());
        crate::metrics::FRAMES_OUT.inc();
        crate::metrics::WRITES.inc();
        match socket.try_write(&frame) {
            Ok(written) if written == frame.len() => return Ok(true),
            Ok(written) => frame.advance(written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        self.0.push_back(frame);
        Ok(false)
    }

    /// Writes as much as the socket takes now. Returns `true` if that was everything.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn write(&mut self, socket: &TcpStream) -> Result<bool> {
        while !self.0.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.0) {
                *slice = IoSlice::new(frame);
                count += 1;
            }
            crate::metrics::WRITES.inc();
            match socket.try_write_vectored(&slices[..count]) {
                Ok(written) => self.written(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.0 = VecDeque::new();
        Ok(true)
    }

    fn written(&mut self, mut bytes: usize) {
        while let Some(frame) = self.0.front_mut() {
            if frame.len() > bytes {
                frame.advance(bytes);
                return;
            }
            bytes -= frame.len();
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn everything_arrives_in_order_however_the_socket_takes_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (mut server, _) = listener.accept().await.expect("accepted");
        let frames: VecDeque<Bytes> = (0..200u8).map(|n| Bytes::from(vec![n; 40_000])).collect();
        let expected: Vec<u8> = frames.iter().flatten().copied().collect();
        let reading = tokio::spawn(async move {
            let mut all = vec![0; 200 * 40_000];
            server.read_exact(&mut all).await.expect("all bytes arrive");
            all
        });
        let mut writer = Writer::default();
        writer.set_frames(frames);
        let mut blocked = 0;
        while !writer.write(&client).expect("written") {
            blocked += 1;
            client.writable().await.expect("writable");
        }
        assert!(blocked > 0, "8 MB do not fit into a socket's buffer");
        assert!(reading.await.expect("read") == expected);
    }
}
