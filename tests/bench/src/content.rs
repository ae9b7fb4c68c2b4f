//! The content of a benchmark's message. It holds the message's number and the time at which it was sent, and any
//! damage to it is detected.

use anyhow::{Result, bail, ensure};
use std::fmt::Write;

/// The first and the last characters of a content. They occur nowhere else in a frame.
const BEGIN: &str = "~M";
const END: &str = "~E";
/// `BEGIN`, then room, number and time in hexadecimal digits, which JSON never escapes.
const HEAD_BYTES: usize = BEGIN.len() + 8 + 8 + 16;
/// The shortest content.
pub const BYTES_MIN: usize = HEAD_BYTES + END.len();
/// The longest content. A delivery that contains it still fits a frame with a 16-bit length.
pub const BYTES_MAX: usize = 5_000;

/// The facts that a content carries about its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    pub room: u32,
    /// The message's number in its room, from 0.
    pub number: u32,
    /// When it was sent, in nanoseconds since the engine started.
    pub sent_ns: u64,
}

impl Content {
    /// Appends the content, padded to `bytes`.
    pub fn put(&self, bytes: usize, out: &mut String) {
        // Writing to a string never fails.
        let _ = write!(out, "{BEGIN}{:08x}{:08x}{:016x}", self.room, self.number, self.sent_ns);
        out.extend(padding(bytes).iter().copied().map(char::from));
        out.push_str(END);
    }

    /// Finds the content of `bytes` in `frame`.
    ///
    /// # Errors
    /// When there is no content in the frame, or a byte of it is damaged.
    pub fn find(frame: &[u8], bytes: usize) -> Result<Content> {
        let found = memchr::memmem::find(frame, BEGIN.as_bytes()).and_then(|at| frame.get(at..at + bytes));
        let Some(found) = found else { bail!("no content in {}", shown(frame)) };
        let (head, rest) = found.split_at(HEAD_BYTES);
        let (fill, end) = rest.split_at(bytes - BYTES_MIN);
        ensure!(end == END.as_bytes() && fill == padding(bytes), "a damaged content in {}", shown(frame));
        let (room, number) = (digits(&head[2..10])?, digits(&head[10..18])?);
        Ok(Content { room: room as u32, number: number as u32, sent_ns: digits(&head[18..])? })
    }
}

/// The padding differs from place to place, so that shifted or missing bytes are detected.
static PADDING: [u8; BYTES_MAX] = {
    let mut bytes = [0; BYTES_MAX];
    let mut at = 0;
    while at < BYTES_MAX {
        bytes[at] = b'a' + (at % 23) as u8;
        at += 1;
    }
    bytes
};

/// The padding of a content of `bytes`.
fn padding(bytes: usize) -> &'static [u8] {
    &PADDING[..bytes - BYTES_MIN]
}

fn digits(text: &[u8]) -> Result<u64> {
    text.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'9' => Ok(number << 4 | u64::from(digit - b'0')),
        b'a'..=b'f' => Ok(number << 4 | u64::from(digit - b'a' + 10)),
        _ => bail!("a damaged number: {}", shown(text)),
    })
}

/// The start of a frame, for an error text: at most 300 bytes.
pub fn shown(frame: &[u8]) -> String {
    String::from_utf8_lossy(&frame[..frame.len().min(300)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_survives_and_every_damage_shows() {
        let content = Content { room: 7, number: 0xfeed, sent_ns: 1 << 40 };
        for bytes in [BYTES_MIN, BYTES_MIN + 1, 200] {
            let mut text = String::from("{\"content\":\"");
            content.put(bytes, &mut text);
            assert_eq!(text.len(), 12 + bytes);
            assert_eq!(Content::find(text.as_bytes(), bytes).expect("whole"), content);
            for at in 12..text.len() {
                let mut damaged = text.clone().into_bytes();
                damaged[at] = b'?';
                assert!(Content::find(&damaged, bytes).is_err(), "byte {at} of {bytes}");
                damaged.remove(at);
                assert!(Content::find(&damaged, bytes).is_err(), "without byte {at} of {bytes}");
            }
        }
    }
}
