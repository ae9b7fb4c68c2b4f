//! What a benchmark says to a server and hears from it: bare contents with the floor, Carillon's native frames.

use crate::content::{Content, shown};
use anyhow::{Context, Result, bail};
use std::fmt::Write;

/// The language of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The path names the room; a frame is a content.
    Floor,
    /// Carillon's native vocabulary, with the identity from the path.
    Native,
}

/// What a frame means.
#[derive(Debug, PartialEq)]
pub enum Heard<'a> {
    /// The connection is a member of its room, in which `head_seq` events lie.
    Joined { head_seq: u64 },
    /// A message that this connection sent is stored.
    Acknowledged { number: u32 },
    /// A message, somewhere in `body`.
    Delivered { seq: Option<u64>, body: &'a [u8] },
    /// Something that no benchmark asked about.
    Other,
}

impl Dialect {
    /// Where user `user` connects for room `room`.
    pub fn path(self, user: u32, room: u32) -> String {
        match self {
            Dialect::Floor => format!("/room-{room}"),
            Dialect::Native => format!("/ws/user-{user}"),
        }
    }

    /// The first frame, by which the connection becomes a member; none where the path does that.
    pub fn join(self, room: u32) -> Option<String> {
        match self {
            Dialect::Floor => None,
            Dialect::Native => {
                Some(format!(r#"{{"type":"join_conversation","conversation_id":"room-{room}"}}"#))
            }
        }
    }

    /// Whether the server tells the sender that a message is stored.
    pub fn acknowledges(self) -> bool {
        self == Dialect::Native
    }

    /// Writes the frame that sends a message.
    pub fn send(self, content: &Content, bytes: usize, out: &mut String) {
        match self {
            Dialect::Floor => content.put(bytes, out),
            Dialect::Native => {
                // A string takes everything.
                let _ = write!(
                    out,
                    r#"{{"type":"send_message","conversation_id":"room-{}","ref":"{}","content":""#,
                    content.room, content.number
                );
                content.put(bytes, out);
                out.push_str("\"}");
            }
        }
    }

    /// What a frame from the server means.
    pub fn hear(self, frame: &[u8]) -> Result<Heard<'_>> {
        if self == Dialect::Floor {
            return Ok(Heard::Delivered { seq: None, body: frame });
        }
        let kind =
            text_after(frame, br#""type":""#).with_context(|| format!("no type in {}", shown(frame)))?;
        Ok(match kind {
            b"new_message" => Heard::Delivered { seq: Some(number_after(frame, br#""seq":"#)?), body: frame },
            b"message_ack" => {
                let number = text_after(frame, br#""ref":""#).and_then(parsed);
                let number = number.with_context(|| format!("no ref of ours in {}", shown(frame)))?;
                Heard::Acknowledged { number: u32::try_from(number)? }
            }
            b"conversation_joined" => Heard::Joined { head_seq: number_after(frame, br#""head_seq":"#)? },
            b"error" | b"reconnect" => bail!("the server says {}", shown(frame)),
            _ => Heard::Other,
        })
    }
}

/// The text between `key`, which ends in a quote, and the next quote: for values that need no escapes.
fn text_after<'a>(frame: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let rest = &frame[memchr::memmem::find(frame, key)? + key.len()..];
    Some(&rest[..memchr::memchr(b'"', rest)?])
}

fn number_after(frame: &[u8], key: &[u8]) -> Result<u64> {
    let rest = memchr::memmem::find(frame, key).map(|at| &frame[at + key.len()..]).unwrap_or_default();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    parsed(&rest[..digits])
        .with_context(|| format!("no number after {} in {}", String::from_utf8_lossy(key), shown(frame)))
}

fn parsed(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::command::Command;
    use carillon_proto::dialect::native;

    #[test]
    fn carillon_understands_what_is_sent() {
        let content = Content { room: 3, number: 12, sent_ns: 5 };
        let (mut text, mut alone) = (String::new(), String::new());
        Dialect::Native.send(&content, 200, &mut text);
        Dialect::Floor.send(&content, 200, &mut alone);
        let frame = native::decode(&text, 5_000).expect("a frame");
        assert_eq!(frame.reference.as_deref(), Some("12"));
        let Command::Send(send) = frame.command else { panic!("no send in {text}") };
        assert_eq!((send.conversation.as_str(), send.content), ("room-3", alone));
        let join = Dialect::Native.join(3).expect("a frame");
        assert!(matches!(native::decode(&join, 5_000).expect("a frame").command, Command::Join { .. }));
    }

    #[test]
    fn frames_are_told_apart() {
        let hear = |text: &'static str| Dialect::Native.hear(text.as_bytes());
        let delivery = r#"{"type":"new_message","conversation_id":"room-3","seq":42,"message":{}}"#;
        assert_eq!(
            hear(delivery).expect("valid"),
            Heard::Delivered { seq: Some(42), body: delivery.as_bytes() }
        );
        let ack = r#"{"type":"message_ack","conversation_id":"room-3","id":"x","seq":9,"ref":"12"}"#;
        assert_eq!(hear(ack).expect("valid"), Heard::Acknowledged { number: 12 });
        let joined = r#"{"type":"conversation_joined","conversation_id":"room-3","head_seq":7}"#;
        assert_eq!(hear(joined).expect("valid"), Heard::Joined { head_seq: 7 });
        assert_eq!(hear(r#"{"type":"presence_update","online":true}"#).expect("valid"), Heard::Other);
        assert!(hear(r#"{"type":"error","code":"rate_limited"}"#).is_err());
        assert!(hear(r#"{"type":"message_ack"}"#).is_err());
        assert!(hear(r#"{"kind":"new_message"}"#).is_err());
    }
}
