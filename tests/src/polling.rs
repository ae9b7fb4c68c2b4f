//! A raw Engine.IO client for tests, with hand-written requests, packets as text, and a bound on every wait. It does
//! not interpret packets, except that it can answer pings.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::{Error, protocol::Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Longer than a correct server needs for any answer, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The separator of packets in a polling payload (Engine.IO protocol 4, "Payload").
pub const SEPARATOR: char = '\u{1e}';
/// The body of the answer 400 to a request with an unknown session id.
pub const SESSION_UNKNOWN: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

/// One path on one server.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Host and port.
    pub address: String,
    /// The path, with its slashes.
    pub path: &'static str,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Status line and header lines, in lower case.
    pub head: String,
    /// The body, without the transfer coding.
    pub body: String,
}

/// A request that was sent and whose answer is not read yet. Dropping it ends its connection.
pub struct Pending {
    stream: TcpStream,
}

impl Endpoint {
    /// Sends a request with these header lines and this body, besides `Host` and `Connection: close`.
    async fn write(&self, method: &str, query: &str, headers: &str, body: &[u8]) -> Pending {
        let (address, path) = (&self.address, self.path);
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        let head = format!(
            "{method} {path}?{query} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"
        );
        let bytes = [head.as_bytes(), body].concat();
        // A write error is ignored: the server may answer and close before it has read the whole request.
        drop(timeout(PATIENCE, stream.write_all(&bytes)).await);
        Pending { stream }
    }

    /// Sends a request with a text body.
    pub async fn begin(&self, method: &str, query: &str, body: &str) -> Pending {
        let length = body.len();
        let headers = format!("Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {length}\r\n");
        let headers = if method == "GET" { "" } else { &headers };
        self.write(method, query, headers, body.as_bytes()).await
    }

    /// Sends a POST whose `Content-Length` is `announced`, but only the bytes of `body`.
    pub async fn begin_partial(&self, query: &str, announced: usize, body: &str) -> Pending {
        let headers = format!("Content-Type: text/plain\r\nContent-Length: {announced}\r\n");
        self.write("POST", query, &headers, body.as_bytes()).await
    }

    /// Sends a chunked POST, so that no header has its length.
    pub async fn begin_chunked(&self, query: &str, chunks: &[&str]) -> Pending {
        let chunks = chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len()));
        let body = chunks.collect::<String>() + "0\r\n\r\n";
        let headers = "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n";
        self.write("POST", query, headers, body.as_bytes()).await
    }

    /// Sends a request and waits for its answer.
    pub async fn request(&self, method: &str, query: &str, body: &str) -> Answer {
        self.begin(method, query, body).await.answer().await
    }

    /// Opens a session by polling.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn open(&self) -> Session {
        let answer = self.request("GET", "EIO=4&transport=polling", "").await;
        let handshake = answer.body.strip_prefix('0').unwrap_or_else(|| panic!("no handshake: {answer:?}"));
        let handshake: Value = serde_json::from_str(handshake).expect("a handshake is JSON");
        let sid = handshake["sid"].as_str().expect("a sid").to_owned();
        Session { endpoint: self.clone(), sid, received: Vec::new() }
    }

    /// Connects a WebSocket.
    ///
    /// # Errors
    /// When the upgrade is refused, with the HTTP status if there is one.
    pub async fn websocket(&self, query: &str) -> Result<WebSocket, Option<u16>> {
        let url = format!("ws://{}{}?{query}", self.address, self.path);
        match timeout(PATIENCE, connect_async(url)).await.expect("an answer to the upgrade in time") {
            Ok((stream, _)) => Ok(WebSocket { stream }),
            Err(Error::Http(response)) => Err(Some(response.status().as_u16())),
            Err(_) => Err(None),
        }
    }

    /// Opens a session by WebSocket and returns its handshake too.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn open_websocket(&self) -> (WebSocket, Value) {
        let mut socket = self.websocket("EIO=4&transport=websocket").await.expect("an upgrade");
        let handshake = socket.text().await;
        let handshake = handshake.strip_prefix('0').expect("a handshake comes first");
        (socket, serde_json::from_str(handshake).expect("a handshake is JSON"))
    }

    /// Asserts that a WebSocket is refused: either by an HTTP status, which is returned, or by ending without any
    /// message, even after a probe.
    ///
    /// # Panics
    /// When it is not.
    pub async fn refuses_websocket(&self, query: &str) -> Option<u16> {
        match self.websocket(query).await {
            Err(status) => status,
            Ok(mut socket) => {
                socket.send("2probe").await;
                assert_eq!(socket.ended().await, [], "{query}: a refused connection must receive nothing");
                None
            }
        }
    }
}

impl Pending {
    /// The answer, or `None` when the connection ended without one.
    ///
    /// # Panics
    /// When neither comes in time.
    pub async fn answer_if_any(&mut self) -> Option<Answer> {
        let mut bytes = Vec::new();
        let reading = timeout(PATIENCE, self.stream.read_to_end(&mut bytes)).await;
        // A read error is ignored: the bytes before a reset are the answer.
        drop(reading.unwrap_or_else(|_| panic!("no answer in time: {:?}", String::from_utf8_lossy(&bytes))));
        let text = String::from_utf8(bytes).expect("answers are text");
        let (head, body) = text.split_once("\r\n\r\n")?;
        let head = head.to_lowercase();
        let status = head.split(' ').nth(1)?.parse().expect("a status");
        let chunked = head.contains("transfer-encoding: chunked");
        let body = if chunked { without_chunks(body) } else { body.to_owned() };
        Some(Answer { status, head, body })
    }

    /// Waits for the answer.
    ///
    /// # Panics
    /// When none comes.
    pub async fn answer(mut self) -> Answer {
        self.answer_if_any().await.expect("an answer before the connection's end")
    }
}

/// A body without the chunked transfer coding (RFC 9112, section 7.1).
fn without_chunks(mut coded: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = coded.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a chunk's length");
        body.push_str(&rest[..length]);
        coded = rest[length..].trim_start_matches("\r\n");
    }
    body
}

/// A session that began by polling.
pub struct Session {
    endpoint: Endpoint,
    /// The session's id.
    pub sid: String,
    received: Vec<String>,
}

impl Session {
    /// The query of the session's polls and POSTs.
    pub fn query(&self) -> String {
        format!("EIO=4&transport=polling&sid={}", self.sid)
    }

    /// The query of a WebSocket that upgrades the session.
    pub fn websocket_query(&self) -> String {
        format!("EIO=4&transport=websocket&sid={}", self.sid)
    }

    /// Sends a poll without waiting for its answer.
    pub async fn begin_poll(&self) -> Pending {
        self.endpoint.begin("GET", &self.query(), "").await
    }

    /// Sends a poll and waits for its answer.
    pub async fn poll(&self) -> Answer {
        self.begin_poll().await.answer().await
    }

    /// Sends a POST and waits for its answer.
    pub async fn post(&self, body: &str) -> Answer {
        self.endpoint.request("POST", &self.query(), body).await
    }

    /// Sends a POST that must be answered `ok`.
    ///
    /// # Panics
    /// When it is not.
    pub async fn send(&self, body: &str) {
        let answer = self.post(body).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "ok"),
            "{:?}",
            body.get(..100).unwrap_or(body)
        );
    }

    /// The packets of a payload, without noops and pings. Answers the pings.
    async fn sorted(&self, payload: &str) -> Vec<String> {
        let (pings, packets): (Vec<&str>, Vec<&str>) =
            payload.split(SEPARATOR).filter(|packet| *packet != "6").partition(|packet| *packet == "2");
        if !pings.is_empty() {
            // An error is ignored: if the session is already gone, the next poll fails.
            drop(self.endpoint.begin("POST", &self.query(), "3").await.answer_if_any().await);
        }
        packets.into_iter().map(String::from).collect()
    }

    /// The next packet that is neither noop nor ping. Answers pings.
    ///
    /// # Panics
    /// When none comes in time, or a poll is refused.
    pub async fn next(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        while self.received.is_empty() {
            assert!(Instant::now() < deadline, "no packet in time");
            let answer = self.poll().await;
            assert_eq!(answer.status, 200, "{answer:?}");
            self.received = self.sorted(&answer.body).await;
        }
        self.received.remove(0)
    }

    /// Polls until the server does not know the session any more, and returns the packets that came before. Answers
    /// pings.
    ///
    /// # Panics
    /// When that does not come in time.
    pub async fn gone(&self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut packets = Vec::new();
        while Instant::now() < deadline {
            let answer = self.poll().await;
            match answer.status {
                200 => packets.extend(self.sorted(&answer.body).await),
                400 if answer.body == SESSION_UNKNOWN => return packets,
                // The server has not yet noticed the end of the previous poll, so the two count as concurrent.
                400 => {}
                _ => panic!("{answer:?}"),
            }
        }
        panic!("the session did not end: {packets:?}");
    }

    /// Opens a WebSocket on this session and exchanges the probe.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn probe(&self) -> WebSocket {
        let mut socket = self.endpoint.websocket(&self.websocket_query()).await.expect("an upgrade");
        socket.send("2probe").await;
        assert_eq!(socket.text().await, "3probe");
        socket
    }
}

/// A WebSocket with Engine.IO packets.
pub struct WebSocket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl WebSocket {
    /// Sends a text message. If the connection is gone, only the next receive reports it.
    pub async fn send(&mut self, packet: &str) {
        self.send_message(Message::text(packet)).await;
    }

    /// Sends a binary message, with errors as in [`WebSocket::send`].
    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.send_message(Message::binary(bytes.to_vec())).await;
    }

    /// Sends any message, with errors as in [`WebSocket::send`].
    pub async fn send_message(&mut self, message: Message) {
        drop(self.stream.send(message).await);
    }

    async fn message(&mut self) -> Option<Message> {
        loop {
            match self.stream.next().await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => return Some(message),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    async fn message_with_pongs(&mut self) -> Option<Message> {
        loop {
            let message = self.message().await?;
            if message != Message::text("2") {
                return Some(message);
            }
            self.send("3").await;
        }
    }

    /// The next message, including pings of Engine.IO, or `None` when the connection ended.
    ///
    /// # Panics
    /// When neither comes in time.
    pub async fn receive(&mut self) -> Option<Message> {
        timeout(PATIENCE, self.message()).await.expect("a message or the end in time")
    }

    /// The next message that is no ping. Answers pings.
    ///
    /// # Panics
    /// When none comes in time, or the connection ends.
    pub async fn next(&mut self) -> Message {
        let message = timeout(PATIENCE, self.message_with_pongs()).await.expect("a message in time");
        message.expect("a message before the end")
    }

    /// The next message that is no ping, and that must be text. Answers pings.
    ///
    /// # Panics
    /// When it is not text, none comes in time, or the connection ends.
    pub async fn text(&mut self) -> String {
        match self.next().await {
            Message::Text(text) => text.to_string(),
            other => panic!("not text: {other:?}"),
        }
    }

    /// The messages before the connection's end, or `None` when it does not end within `wait`. Answers pings.
    pub async fn ended_within(&mut self, wait: Duration) -> Option<Vec<Message>> {
        let mut messages = Vec::new();
        let ending = async {
            while let Some(message) = self.message_with_pongs().await {
                messages.push(message);
            }
        };
        timeout(wait, ending).await.ok()?;
        Some(messages)
    }

    /// The messages before the connection's end. Answers pings.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&mut self) -> Vec<Message> {
        self.ended_within(PATIENCE).await.expect("the connection's end in time")
    }
}
