//! Server-to-client WebSocket frames, built once and shared by all their receivers (RFC 6455 §5.2).

use bytes::{BufMut, Bytes, BytesMut};

/// A ping without a body.
pub const PING: Bytes = Bytes::from_static(&[0x89, 0]);

const TEXT_FINAL: u8 = 0x81;
const BINARY_FINAL: u8 = 0x82;

/// Appends one unmasked text frame.
pub fn put_text(out: &mut BytesMut, text: &str) {
    put(out, TEXT_FINAL, text.as_bytes());
}

/// Appends one unmasked text frame of several parts.
pub fn put_parts(out: &mut BytesMut, parts: &[&[u8]]) {
    put_head(out, TEXT_FINAL, parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.put_slice(part);
    }
}

fn put(out: &mut BytesMut, kind: u8, body: &[u8]) {
    put_head(out, kind, body.len());
    out.put_slice(body);
}

fn put_head(out: &mut BytesMut, kind: u8, length: usize) {
    out.reserve(length + 10);
    out.put_u8(kind);
    match length {
        0..=125 => out.put_u8(length as u8),
        126..=0xffff => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
}

/// One unmasked binary frame.
pub fn binary(body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    put(&mut out, BINARY_FINAL, body);
    out.freeze()
}

/// The body of a frame that this gateway built.
#[derive(Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

/// The length of the first frame with and without its body; `None` if the frame is not complete.
fn lengths(frames: &[u8]) -> Option<(usize, usize)> {
    let (head, body) = match frames {
        [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        [_, 127, rest @ ..] => (10, u64::from_be_bytes(*rest.first_chunk()?) as usize),
        [_, length, ..] => (2, usize::from(*length)),
        _ => return None,
    };
    (frames.len() >= head + body).then_some((head + body, head))
}

/// The body of a text or binary frame that was built here, for a client that does not use a WebSocket, as while it
/// polls.
pub fn body(frame: &[u8]) -> Option<Body<'_>> {
    let (whole, head) = lengths(frame)?;
    let body = &frame[head..whole];
    match frame[0] {
        TEXT_FINAL => std::str::from_utf8(body).ok().map(Body::Text),
        BINARY_FINAL => Some(Body::Binary(body)),
        _ => None,
    }
}

/// Splits buffers of frames that were built here into single frames.
pub fn split(frames: &[Bytes]) -> Vec<Bytes> {
    frames.iter().flat_map(single).collect()
}

/// The single frames of a buffer that was built here.
pub fn single(frames: &Bytes) -> impl Iterator<Item = Bytes> {
    let mut rest = frames.clone();
    std::iter::from_fn(move || lengths(&rest).map(|(length, _)| rest.split_to(length)))
}

/// One unmasked text frame.
pub fn text(text: &str) -> Bytes {
    let mut out = BytesMut::new();
    put_text(&mut out, text);
    out.freeze()
}

/// Several text frames one after another; empty for none.
pub fn texts(texts: &[String]) -> Bytes {
    let mut out = BytesMut::new();
    for text in texts {
        put_text(&mut out, text);
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

    #[test]
    fn the_library_reads_our_frames_back() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 70_000] {
            let built = text(&"x".repeat(length));
            let mut cursor = std::io::Cursor::new(&built[..]);
            let (header, body) = FrameHeader::parse(&mut cursor).expect("parses").expect("complete");
            assert_eq!((header.opcode, header.is_final, header.mask), (OpCode::Data(Data::Text), true, None));
            assert_eq!(body as usize, length);
            assert_eq!(built.len() - cursor.position() as usize, length);
        }
        assert_eq!(texts(&["a".into(), "b".into()]), Bytes::from_static(b"\x81\x01a\x81\x01b"));
    }

    #[test]
    fn bodies_come_out_as_they_went_in() {
        let long = "é".repeat(40_000);
        let mut frames = BytesMut::new();
        for length in [0, 1, 125, 126, 65_535, 65_536, 80_000] {
            put_text(&mut frames, &long[..length & !1]);
            frames.extend_from_slice(&binary(&long.as_bytes()[..length]));
        }
        let all = split(&[frames.freeze(), text("more")]);
        assert_eq!(all.len(), 15);
        assert_eq!(body(&all[14]), Some(Body::Text("more")));
        for (pair, length) in all.chunks(2).zip([0, 1, 125, 126, 65_535, 65_536, 80_000]) {
            assert_eq!(body(&pair[0]), Some(Body::Text(&long[..length & !1])));
            assert_eq!(body(&pair[1]), Some(Body::Binary(&long.as_bytes()[..length])));
        }
        assert!(split(&[Bytes::from_static(b"\x81\x05abc"), Bytes::from_static(b"\x81")]).is_empty());
    }
}
