//! One HTTP/1.1 connection that is kept alive. It has one request at a time, and every answer has to be a 200.

use crate::content::shown;
use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

/// An upper bound for the head of an answer.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// An upper bound for the body of an answer.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A connection, with the request that is waiting for its answer.
pub struct Exchange {
    stream: TcpStream,
    server: SocketAddr,
    /// Bytes to write. The first `written` of them are written already.
    out: Vec<u8>,
    written: usize,
    /// The part of the answer that has arrived.
    held: Vec<u8>,
    asked: bool,
}

impl Exchange {
    /// Connects, and registers for socket events under `token`.
    ///
    /// # Errors
    /// When the connection is refused.
    pub fn connect(server: SocketAddr, registry: &Registry, token: Token) -> Result<Exchange> {
        let stream = std::net::TcpStream::connect(server).context("connecting")?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut stream = TcpStream::from_std(stream);
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Exchange { stream, server, out: Vec::new(), written: 0, held: Vec::new(), asked: false })
    }

    /// Sends a GET request for `target`, a path with its query.
    ///
    /// # Errors
    /// When a request is still waiting for its answer, or writing fails.
    pub fn get(&mut self, target: &str) -> Result<()> {
        let server = self.server;
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: {server}\r\nAccept: */*\r\n\r\n"))
    }

    /// Posts a text to `target`.
    ///
    /// # Errors
    /// When a request is still waiting for its answer, or writing fails.
    pub fn post(&mut self, target: &str, body: &str) -> Result<()> {
        let (server, length) = (self.server, body.len());
        self.ask(&format!(
            "POST {target} HTTP/1.1\r\nHost: {server}\r\nAccept: */*\r\n\
             Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    fn ask(&mut self, request: &str) -> Result<()> {
        ensure!(!self.asked, "a second request before the answer to the first");
        self.asked = true;
        self.out.extend_from_slice(request.as_bytes());
        self.flush()
    }

    /// Writes as many queued bytes as the socket accepts.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn flush(&mut self) -> Result<()> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("writing"),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads until the socket is empty. Returns the answer's body once it is complete.
    ///
    /// # Errors
    /// When the answer is not a 200, when no request was waiting for one, or when the server closes the connection.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Option<String>> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => bail!("the server closed a connection that was to be kept alive"),
                Ok(count) => {
                    self.held.extend_from_slice(&buffer[..count]);
                    // A read that does not fill the buffer emptied the socket. The next byte raises a new event.
                    if count < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("reading"),
            }
        }
        if self.held.is_empty() {
            return Ok(None);
        }
        ensure!(self.asked, "the server says what nobody asked: {}", shown(&self.held));
        let Some((start, end)) = body_of(&self.held)? else { return Ok(None) };
        ensure!(end == self.held.len(), "more than an answer: {}", shown(&self.held[end..]));
        let body = std::str::from_utf8(&self.held[start..end]).context("an answer that is no text")?;
        let body = body.to_owned();
        self.held.clear();
        self.asked = false;
        Ok(Some(body))
    }
}

/// The start and the end of an answer's body, once the answer is complete (RFC 9112). It accepts only the kind of
/// answer that the benchmark's servers send: a 200 with a `Content-Length` that keeps the connection open.
fn body_of(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let Some(head_end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        ensure!(bytes.len() <= HEAD_BYTES_MAX, "an answer without an end of its head: {}", shown(bytes));
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..head_end]).context("an answer that is no HTTP")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200 ") {
        bail!("the server answers {}", shown(bytes));
    }
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(':').with_context(|| format!("a header like {line}"))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            ensure!(length.is_none(), "an answer with two lengths: {head}");
            length = Some(value.parse::<usize>().with_context(|| format!("a length of {value}"))?);
        } else if name.eq_ignore_ascii_case("connection") {
            ensure!(!value.eq_ignore_ascii_case("close"), "the connection was to be kept alive: {head}");
        }
    }
    let length = length.with_context(|| format!("an answer that does not tell its length: {head}"))?;
    ensure!(length <= BODY_BYTES_MAX, "an answer of {length} bytes");
    let start = head_end + 4;
    let end = start + length;
    Ok((bytes.len() >= end).then_some((start, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\ncontent-length: 2\r\n\
        Connection: keep-alive\r\n\r\nok";

    #[test]
    fn a_body_is_found_once_it_is_complete() {
        for end in 0..OK.len() {
            assert_eq!(body_of(&OK[..end]).expect("valid so far"), None, "{end}");
        }
        assert_eq!(body_of(OK).expect("valid"), Some((OK.len() - 2, OK.len())));
        let more = [OK, b"HTTP"].concat();
        assert_eq!(body_of(&more).expect("valid"), Some((OK.len() - 2, OK.len())));
        let empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(body_of(empty).expect("valid"), Some((empty.len(), empty.len())));
    }

    #[test]
    fn other_answers_are_refused() {
        for answer in [
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length\r\n\r\n",
            &format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD_BYTES_MAX)),
        ] {
            assert!(body_of(answer.as_bytes()).is_err(), "{answer}");
        }
    }

    #[test]
    fn a_connection_serves_one_request_after_another() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let poll = mio::Poll::new().expect("epoll");
        let server = listener.local_addr().expect("an address");
        let mut exchange = Exchange::connect(server, poll.registry(), Token(0)).expect("it listens");
        let (mut peer, _) = listener.accept().expect("a client");
        let mut buffer = [0; 64];
        for _ in 0..2 {
            exchange.post("/x?a=1", "40{}").expect("the first request");
            assert!(exchange.get("/").is_err(), "a second at once");
            let mut request = [0; 1_024];
            let count = peer.read(&mut request).expect("a request");
            let request = String::from_utf8_lossy(&request[..count]).into_owned();
            assert!(request.starts_with("POST /x?a=1 HTTP/1.1\r\n"), "{request}");
            assert!(request.ends_with("Content-Length: 4\r\n\r\n40{}"), "{request}");
            assert_eq!(exchange.read(&mut buffer).expect("nothing yet"), None);
            peer.write_all(OK).expect("a reader");
            let mut body = None;
            while body.is_none() {
                body = exchange.read(&mut buffer).expect("an answer");
            }
            assert_eq!(body.as_deref(), Some("ok"));
        }
        peer.write_all(OK).expect("a reader");
        let unasked = loop {
            match exchange.read(&mut buffer) {
                Ok(None) => {}
                other => break other,
            }
        };
        assert!(unasked.is_err(), "{unasked:?}");
    }
}
