//! Server-to-client WebSocket frames, built once and shared by all who hear them (RFC 6455 §5.2).

use bytes::{BufMut, Bytes, BytesMut};

/// A ping without a body.
pub const PING: Bytes = Bytes::from_static(&[0x89, 0]);

const TEXT_FINAL: u8 = 0x81;

/// Appends one unmasked text frame.
pub fn put_text(out: &mut BytesMut, text: &str) {
    out.reserve(text.len() + 10);
    out.put_u8(TEXT_FINAL);
    match text.len() {
        length @ 0..=125 => out.put_u8(length as u8),
        length @ 126..=0xffff => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        length => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
    out.put_slice(text.as_bytes());
}

/// One unmasked text frame.
pub fn text(text: &str) -> Bytes {
    let mut out = BytesMut::new();
    put_text(&mut out, text);
    out.freeze()
}

/// Several text frames behind one another; nothing for none.
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
}
