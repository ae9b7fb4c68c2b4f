//! WebSocket framing for clients and the floor (RFC 6455): no extensions, no fragments, no I/O.

use anyhow::{Result, bail};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The example key of RFC 6455 §1.3 and its answer. A benchmark does not need a random key.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The mask of the clients' frames. A benchmark does not need a random mask.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x8e];

/// One complete frame at the beginning of a buffer.
pub struct Frame {
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    /// The offsets of the payload's start and of the frame's end.
    pub start: usize,
    pub end: usize,
}

/// Parses the first frame in `buffer`. Returns `None` while it is incomplete.
pub fn frame(buffer: &[u8]) -> Result<Option<Frame>> {
    let [first, second, ..] = *buffer else { return Ok(None) };
    if first & 0xf0 != 0x80 {
        bail!("a fragment or an extended frame (it begins with {first:#04x}), which nobody negotiated");
    }
    let (head, length) = match second & 0x7f {
        126 => match buffer.get(2..4) {
            Some(bytes) => (4, usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))),
            None => return Ok(None),
        },
        127 => bail!("a frame of more than 64 KiB, which nobody sent"),
        short => (2, usize::from(short)),
    };
    let masked = second & 0x80 != 0;
    let start = head + if masked { 4 } else { 0 };
    if buffer.len() < start + length {
        return Ok(None);
    }
    let mask = masked.then(|| [buffer[head], buffer[head + 1], buffer[head + 2], buffer[head + 3]]);
    Ok(Some(Frame { opcode: first & 0x0f, mask, start, end: start + length }))
}

fn header(opcode: u8, length: usize, mask_bit: u8, out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match u16::try_from(length) {
        Ok(length @ 0..=125) => out.push(mask_bit | length as u8),
        Ok(length) => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// Appends a client's frame, which is masked.
pub fn put_masked(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    header(opcode, payload.len(), 0x80, out);
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Appends a server's frame, which is not masked.
pub fn put(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    header(opcode, payload.len(), 0, out);
    out.extend_from_slice(payload);
}

/// Appends the payload of a frame, unmasked.
pub fn unmask(payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// A client's upgrade request.
pub fn request(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// The length of the server's answer to the upgrade request, or `None` while it is incomplete.
pub fn accepted(buffer: &[u8]) -> Result<Option<usize>> {
    let Some(end) = head_end(buffer) else { return Ok(None) };
    let head = String::from_utf8_lossy(&buffer[..end]);
    if !head.starts_with("HTTP/1.1 101") || !head.contains(ACCEPT) {
        bail!("the upgrade was refused: {}", head.lines().next().unwrap_or_default());
    }
    Ok(Some(end))
}

/// Parses a client's upgrade request. Returns (path, answer, length of the request), or `None` while it is
/// incomplete.
pub fn answer(buffer: &[u8]) -> Result<Option<(String, String, usize)>> {
    let Some(end) = head_end(buffer) else { return Ok(None) };
    let head = String::from_utf8_lossy(&buffer[..end]);
    let path = head.strip_prefix("GET ").and_then(|rest| rest.split(' ').next());
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    let (Some(path), Some(key)) = (path, key) else { bail!("no WebSocket handshake") };
    let accept = derive_accept_key(key.trim().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Ok(Some((path.to_owned(), answer, end)))
}

fn head_end(buffer: &[u8]) -> Option<usize> {
    memchr::memmem::find(buffer, b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_answer_completes_the_clients_handshake() {
        let request = request("127.0.0.1:1", "/room-7");
        assert!(answer(&request[..request.len() - 1]).expect("valid so far").is_none());
        let (path, answer, length) = answer(&request).expect("valid").expect("complete");
        assert_eq!((path.as_str(), length), ("/room-7", request.len()));
        assert_eq!(accepted(answer.as_bytes()).expect("valid"), Some(answer.len()));
        assert!(accepted(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").is_err());
    }

    #[test]
    fn frames_of_every_length_are_parsed_once_complete() {
        for length in [0, 1, 125, 126, 200, 65_535] {
            let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let (mut masked, mut plain, mut back) = (Vec::new(), Vec::new(), Vec::new());
            put_masked(TEXT, &payload, &mut masked);
            put(TEXT, &payload, &mut plain);
            let of_client = frame(&masked).expect("valid").expect("complete");
            unmask(&masked[of_client.start..of_client.end], of_client.mask.expect("masked"), &mut back);
            assert_eq!((back, of_client.end, of_client.opcode), (payload.clone(), masked.len(), TEXT));
            let of_server = frame(&plain).expect("valid").expect("complete");
            assert_eq!(plain[of_server.start..of_server.end], payload);
            assert!(of_server.mask.is_none());
            assert!(frame(&masked[..masked.len() - 1]).expect("valid so far").is_none());
        }
    }

    #[test]
    fn fragments_and_frames_over_64_kib_are_refused() {
        assert!(frame(&[TEXT, 0]).is_err());
        assert!(frame(&[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]).is_err());
    }
}
