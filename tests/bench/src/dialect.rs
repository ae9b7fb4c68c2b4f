//! The frames that a benchmark's clients send and receive: bare contents for the floor, Carillon's native frames,
//! and Ring's events over Socket.IO, which the Node server also supports.

use crate::content::{Content, shown};
use anyhow::{Context, Result, bail};
use jsonwebtoken::{EncodingKey, Header};
use std::fmt::Write;

/// The protocol of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The path names the room. Each frame is a bare content.
    Floor,
    /// Carillon's native vocabulary, with the identity from the path.
    Native,
    /// Ring's vocabulary over Socket.IO on a WebSocket, with a token.
    Ring,
}

/// The secret for signing tokens. It need not be secret: the benchmark's servers listen on loopback only.
pub const AUTH_SECRET: &str = "the secret of a benchmark's own servers";
/// When the benchmark's tokens expire, in seconds since 1970: in the year 2100.
const TOKEN_EXPIRES: u64 = 4_102_444_800;
/// The acknowledgement id of Ring's join. Messages use the ids above it.
const JOIN_ACK: u32 = 0;

/// The points before the join at which a client may have to send something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The WebSocket is open.
    Upgraded,
    /// Engine.IO's handshake was received.
    Opened,
    /// The server accepted the client into the Socket.IO namespace. The Node server closes the connection of a client
    /// that sends an event before that.
    Admitted,
}

/// The meaning of a frame from the server.
#[derive(Debug, PartialEq)]
pub enum Heard<'a> {
    /// The client reached a stage, and may have to send something to go on.
    Turn(Stage),
    /// The connection is a member of its room, whose last event has the number `head_seq`.
    Joined { head_seq: u64 },
    /// The server acknowledged a message of this connection.
    Acknowledged { number: u32 },
    /// A message. Its content is somewhere in `body`.
    Delivered { seq: Option<u64>, body: &'a [u8] },
    /// The server checks whether the client is alive, and expects this answer.
    Heartbeat { answer: &'static str },
    /// A frame that the benchmark does not need.
    Other,
}

impl Dialect {
    /// The path at which user `user` connects for room `room`.
    pub fn path(self, user: u32, room: u32) -> String {
        match self {
            Dialect::Floor => format!("/room-{room}"),
            Dialect::Native => format!("/ws/user-{user}"),
            Dialect::Ring => "/api/socket/?EIO=4&transport=websocket".into(),
        }
    }

    /// Whether a client is a member as soon as it is connected, without a join frame.
    pub fn joins_by_path(self) -> bool {
        self == Dialect::Floor
    }

    /// The frame that the client sends at a stage on its way to membership, if any.
    ///
    /// # Errors
    /// When the token cannot be signed.
    pub fn at(self, stage: Stage, user: u32, room: u32) -> Result<Option<String>> {
        Ok(match (self, stage) {
            (Dialect::Native, Stage::Upgraded) => {
                Some(format!(r#"{{"type":"join_conversation","conversation_id":"room-{room}"}}"#))
            }
            (Dialect::Ring, Stage::Opened) => Some(ring_connect(user)?),
            (Dialect::Ring, Stage::Admitted) => Some(ring_join(room)),
            _ => None,
        })
    }

    /// Whether the server acknowledges messages to their sender.
    pub fn acknowledges(self) -> bool {
        self != Dialect::Floor
    }

    /// Writes the frame that sends a message.
    pub fn send(self, content: &Content, bytes: usize, out: &mut String) {
        match self {
            Dialect::Floor => content.put(bytes, out),
            Dialect::Native => {
                // Writing to a string never fails.
                let _ = write!(
                    out,
                    r#"{{"type":"send_message","conversation_id":"room-{}","ref":"{}","content":""#,
                    content.room, content.number
                );
                content.put(bytes, out);
                out.push_str("\"}");
            }
            Dialect::Ring => {
                let _ = write!(
                    out,
                    r#"42{}["send_message",{{"conversationId":"room-{}","content":""#,
                    content.number + JOIN_ACK + 1,
                    content.room
                );
                content.put(bytes, out);
                out.push_str("\"}]");
            }
        }
    }

    /// Interprets a frame from the server.
    ///
    /// # Errors
    /// When the server reports an error, or a field that is needed is missing.
    pub fn hear(self, frame: &[u8]) -> Result<Heard<'_>> {
        match self {
            Dialect::Floor => Ok(Heard::Delivered { seq: None, body: frame }),
            Dialect::Native => native(frame),
            Dialect::Ring => ring(frame),
        }
    }
}

/// The packet by which a client of Ring connects to its Socket.IO namespace, with the user's token.
///
/// # Errors
/// When the token cannot be signed.
pub fn ring_connect(user: u32) -> Result<String> {
    Ok(format!(r#"40{{"token":"{}"}}"#, token(user)?))
}

/// The packet by which a client of Ring joins a room.
pub fn ring_join(room: u32) -> String {
    format!(r#"42{JOIN_ACK}["join_conversation","room-{room}"]"#)
}

fn native(frame: &[u8]) -> Result<Heard<'_>> {
    let kind = text_after(frame, br#""type":""#).with_context(|| format!("no type in {}", shown(frame)))?;
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

/// Interprets a packet from a server of Ring's vocabulary, including Engine.IO's own packets.
///
/// # Errors
/// When the server refuses a request, or a field that is needed is missing.
pub fn ring(frame: &[u8]) -> Result<Heard<'_>> {
    Ok(match frame {
        b"2" => Heard::Heartbeat { answer: "3" },
        [b'0', b'{', ..] => Heard::Turn(Stage::Opened),
        [b'4', b'0', b'{', ..] => Heard::Turn(Stage::Admitted),
        [b'4', b'3', rest @ ..] => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let ack = parsed(&rest[..digits]).with_context(|| format!("no number in {}", shown(frame)))?;
            let ack = u32::try_from(ack)?;
            if !rest[digits..].starts_with(br#"[{"ok":true"#) {
                bail!("the server says {}", shown(frame));
            }
            match ack.checked_sub(JOIN_ACK + 1) {
                Some(number) => Heard::Acknowledged { number },
                None => Heard::Joined { head_seq: number_after(frame, br#""headSeq":"#)? },
            }
        }
        [b'4', b'4', ..] => bail!("the server says {}", shown(frame)),
        [b'4', b'2', rest @ ..] if rest.starts_with(br#"["message_received""#) => {
            Heard::Delivered { seq: Some(number_after(frame, br#""seq":"#)?), body: frame }
        }
        [b'4', b'2', rest @ ..] if rest.starts_with(br#"["error""#) => {
            bail!("the server says {}", shown(frame))
        }
        _ => Heard::Other,
    })
}

/// Signs a token for a user.
fn token(user: u32) -> Result<String> {
    let claims = serde_json::json!({ "sub": format!("user-{user}"), "exp": TOKEN_EXPIRES });
    let key = EncodingKey::from_secret(AUTH_SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).context("no token")
}

/// The text between `key`, which ends in a quote, and the next quote. It is correct only for values without escapes.
pub fn text_after<'a>(frame: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
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
    use carillon_proto::dialect::socketio::packet::{Kind, Packet};
    use carillon_proto::dialect::socketio::vocabulary::{Request, decode};

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
        let join = Dialect::Native.at(Stage::Upgraded, 7, 3).expect("valid").expect("a frame");
        assert!(matches!(native::decode(&join, 5_000).expect("a frame").command, Command::Join { .. }));
    }

    #[test]
    fn carillon_understands_rings_events() {
        let content = Content { room: 3, number: 12, sent_ns: 5 };
        let (mut text, mut alone) = (String::new(), String::new());
        Dialect::Ring.send(&content, 200, &mut text);
        Dialect::Floor.send(&content, 200, &mut alone);
        let packet = Packet::parse(text.strip_prefix('4').expect("a message")).expect("a packet");
        assert_eq!(packet.id, Some(13));
        let (name, arguments) = packet.event().expect("an event");
        let Ok(Request { command: Command::Send(send), .. }) = decode(&name, arguments, 5_000) else {
            panic!("no send in {text}")
        };
        assert_eq!((send.conversation.as_str(), send.content), ("room-3", alone));
        assert_eq!(Dialect::Ring.at(Stage::Upgraded, 7, 3).expect("valid"), None);
        for (stage, kind) in [(Stage::Opened, Kind::Connect), (Stage::Admitted, Kind::Event)] {
            let frame = Dialect::Ring.at(stage, 7, 3).expect("valid").expect("a frame");
            assert_eq!(Packet::parse(&frame[1..]).expect("a packet").kind, kind);
        }
    }

    #[test]
    fn rings_packets_are_told_apart() {
        let hear = |text: &'static str| Dialect::Ring.hear(text.as_bytes());
        let delivery = r#"42["message_received",{"id":"x","conversationId":"room-3","seq":42}]"#;
        assert_eq!(
            hear(delivery).expect("valid"),
            Heard::Delivered { seq: Some(42), body: delivery.as_bytes() }
        );
        let ack = r#"4313[{"ok":true,"id":"x","seq":9}]"#;
        assert_eq!(hear(ack).expect("valid"), Heard::Acknowledged { number: 12 });
        let joined = r#"430[{"ok":true,"conversationId":"room-3","headSeq":7,"participantCount":1}]"#;
        assert_eq!(hear(joined).expect("valid"), Heard::Joined { head_seq: 7 });
        assert_eq!(hear("2").expect("valid"), Heard::Heartbeat { answer: "3" });
        assert_eq!(hear(r#"0{"sid":"x","upgrades":[]}"#).expect("valid"), Heard::Turn(Stage::Opened));
        assert_eq!(hear(r#"40{"sid":"x"}"#).expect("valid"), Heard::Turn(Stage::Admitted));
        assert_eq!(hear(r#"42["connected",{"message":"x"}]"#).expect("valid"), Heard::Other);
        assert!(hear(r#"4313[{"ok":false,"error":{"code":"rate_limited"}}]"#).is_err());
        assert!(hear(r#"44{"message":"no"}"#).is_err());
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
