//! Tests how a connection ends when its client reads slowly.

use super::*;
use crate::core::keepalive::{Keepalive, NATIVE};
use crate::session::handler::ConnectionHandler;
use std::time::Instant as Monotonic;
use tokio::net::TcpListener;

/// Bytes that wait for the client: more than it reads during the test.
const BACKLOG_BYTES: usize = 64 * 1024 * 1024;
const FRAME_BYTES: usize = 64 * 1024;

/// A handler that only has a token's end.
struct Expiring(Instant);

impl ConnectionHandler for Expiring {
    fn deadline(&self) -> Option<Instant> {
        Some(self.0)
    }
    fn due(&mut self) -> Result<(), Close> {
        if Instant::now() < self.0 { Ok(()) } else { Err(Close::TokenExpired) }
    }
    async fn end(self) {}
}

impl MessageHandler for Expiring {
    fn text(&mut self, _: &str) -> Result<(), Close> {
        Ok(())
    }
    fn binary(&mut self, _: Bytes) -> Result<(), Close> {
        Ok(())
    }
}

struct Frames(Keepalive);

impl Framing for Frames {
    fn text<'a>(&mut self, text: &'a str) -> Result<Understood<'a>, Close> {
        Ok(Understood::Message(text))
    }
    fn note_activity(&mut self) {
        self.0.handle_activity(Monotonic::now());
    }
    fn note_pause(&mut self) {
        self.note_activity();
    }
    fn deadline(&self) -> Instant {
        Instant::from_std(self.0.poll_timeout())
    }
    fn due(&mut self) -> (Due, Bytes) {
        (self.0.handle_timeout(Monotonic::now()), Bytes::from_static(&[0x89, 0]))
    }
}

/// Drives a connection with a backlog. Its token ends after `token`, and its client reads `read_bytes` every 5 ms.
/// Returns how long the connection lasted, and its close reason.
async fn driven(token: Duration, read_bytes: usize) -> (Duration, Option<Close>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    let (server, _) = listener.accept().await.expect("accepted");
    let stream = Arc::new(server);
    let mut socket = socket(stream.clone(), Bytes::new(), 0).await;
    let outgoing = Outgoing::to(stream);
    let frame = Bytes::from(vec![0; FRAME_BYTES]);
    for _ in 0..BACKLOG_BYTES / FRAME_BYTES {
        outgoing.offer(&frame, Urgency::Reply);
    }
    let reading = tokio::spawn(async move {
        let mut client = client;
        let mut scrap = vec![0; read_bytes.max(1)];
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if read_bytes > 0 && client.read_exact(&mut scrap).await.is_err() {
                return;
            }
        }
    });
    let started = Instant::now();
    let mut handler = Expiring(started + token);
    let frames = Frames(Keepalive::new(NATIVE, Monotonic::now()));
    let close = timeout(Duration::from_secs(20), drive(&mut socket, &outgoing, frames, &mut handler));
    let close = close.await.expect("the connection ends");
    reading.abort();
    (started.elapsed(), close)
}

/// Before the fix, a blocked write did not watch the token's end. The connection outlived its token while there were
/// frames to write, and while nothing could be written until the stall timeout of 30 s.
#[tokio::test]
async fn a_token_ends_while_its_client_reads_slowly_or_not_at_all() {
    let token = Duration::from_millis(300);
    for read_bytes in [0, 16 * 1024] {
        let (took, _) = driven(token, read_bytes).await;
        let late = token + LINGER + Duration::from_secs(2);
        assert!(took >= token && took < late, "{took:?} with {read_bytes} bytes read at a time");
    }
}
