//! A native WebSocket client for tests: every frame is JSON, and every wait is bounded.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::{Error, handshake::client::Request};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Longer than the wait for any frame or end that a test expects, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connected client.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// The end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The code of the close frame; `None` if the connection ended without one.
    pub code: Option<u16>,
    /// The reason of the close frame; empty without one.
    pub reason: String,
}

impl Client {
    /// Connects to a URL such as `ws://127.0.0.1:8000/ws/alice`.
    ///
    /// # Panics
    /// When that fails.
    pub async fn connect(url: &str) -> Client {
        let request = url.into_client_request().expect("a request");
        Self::request(request).await.unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// Connects with a request whose URL and headers the test has set.
    ///
    /// # Errors
    /// When the handshake is refused.
    pub async fn request(request: Request) -> Result<Client, Box<Error>> {
        let connecting =
            tokio::time::timeout(PATIENCE, connect_async(request)).await.expect("connected in time");
        connecting.map(|(socket, _)| Client { socket }).map_err(Box::new)
    }

    /// Connects as a user and reads the first frame, `online_users`.
    ///
    /// # Panics
    /// When that fails.
    pub async fn user(base: &str, user: &str) -> Client {
        let mut client = Self::connect(&format!("{base}/ws/{user}")).await;
        let first = client.next().await;
        assert_eq!(first["type"], "online_users", "{first}");
        client
    }

    /// Sends a frame.
    ///
    /// # Panics
    /// When the connection is gone.
    pub async fn send(&mut self, frame: Value) {
        self.text(&frame.to_string()).await;
    }

    /// Sends text that need not be JSON.
    ///
    /// # Panics
    /// When the connection is gone.
    pub async fn text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("sent");
    }

    /// Sends any message.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn message(&mut self, message: Message) -> Result<(), Box<Error>> {
        self.socket.send(message).await.map_err(Box::new)
    }

    /// The next frame.
    ///
    /// # Panics
    /// When none comes in time, or the connection ends.
    pub async fn next(&mut self) -> Value {
        match self.next_within(PATIENCE).await {
            Some(Ok(frame)) => frame,
            Some(Err(ended)) => panic!("the connection ended: {ended:?}"),
            None => panic!("no frame within {PATIENCE:?}"),
        }
    }

    /// The next frame, or the connection's end, or `None` if neither comes within `wait`.
    pub async fn next_within(&mut self, wait: Duration) -> Option<Result<Value, Ended>> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let message = tokio::time::timeout_at(deadline, self.socket.next()).await.ok()?;
            match message {
                Some(Ok(Message::Text(text))) => {
                    return Some(Ok(serde_json::from_str(&text).expect("frames are JSON")));
                }
                Some(Ok(Message::Close(close))) => {
                    let code = close.as_ref().map(|close| close.code.into());
                    let reason = close.map(|close| close.reason.to_string()).unwrap_or_default();
                    return Some(Err(Ended { code, reason }));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Some(Err(Ended { code: None, reason: String::new() })),
            }
        }
    }

    /// The next frame of a type; skips others.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn expect(&mut self, kind: &str) -> Value {
        self.expect_where(|frame| frame["type"] == kind).await
    }

    /// The next frame that fits; skips others.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn expect_where(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut others = Vec::new();
        while let Some(left) = deadline.checked_duration_since(tokio::time::Instant::now()) {
            match self.next_within(left).await {
                Some(Ok(frame)) if fits(&frame) => return frame,
                Some(Ok(frame)) => others.push(frame),
                Some(Err(ended)) => panic!("the connection ended: {ended:?}, after {others:?}"),
                None => break,
            }
        }
        panic!("the frame did not come; others were {others:?}");
    }

    /// Waits for the connection's end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&mut self) -> Ended {
        loop {
            match self.next_within(PATIENCE).await {
                Some(Ok(_)) => {}
                Some(Err(ended)) => return ended,
                None => panic!("the connection did not end"),
            }
        }
    }

    /// All frames that come within `wait`, or until the connection ends.
    pub async fn all_within(&mut self, wait: Duration) -> Vec<Value> {
        let deadline = tokio::time::Instant::now() + wait;
        let mut frames = Vec::new();
        while let Some(left) = deadline.checked_duration_since(tokio::time::Instant::now()) {
            match self.next_within(left).await {
                Some(Ok(frame)) => frames.push(frame),
                _ => break,
            }
        }
        frames
    }

    /// Joins a conversation and returns the reply.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn join(&mut self, conversation: &str) -> Value {
        self.send(json!({"type": "join_conversation", "conversation_id": conversation, "ref": "join"})).await;
        let reply = self.expect_where(|frame| frame["ref"] == "join").await;
        assert_eq!(reply["type"], "conversation_joined", "{reply}");
        reply
    }

    /// Sends a message and returns its ack.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn send_message(&mut self, conversation: &str, content: &str, client_id: &str) -> Value {
        let frame = json!({"type": "send_message", "conversation_id": conversation, "content": content,
                           "client_id": client_id, "ref": client_id});
        self.send(frame).await;
        let reply = self.expect_where(|frame| frame["ref"] == client_id).await;
        assert_eq!(reply["type"], "message_ack", "{reply}");
        reply
    }

    /// Drops the TCP connection without a close frame.
    pub fn cut(self) {
        drop(self.socket);
    }
}
