//! The state of a polling session from its handshake to its close packet, as in engine.io-client; no I/O.
//!
//! After the handshake the session sends one poll after another, and at most one post at the same time. It connects to
//! the namespace, joins a room, and closes when the join is answered.

use crate::dialect::{self, Heard, Stage as Turn};
use anyhow::{Context, Result, bail, ensure};

/// Separates the packets of a payload (Engine.IO protocol 4, "Payload").
const SEPARATOR: char = '\u{1e}';
/// Engine.IO's packets that carry no data.
const CLOSE: &str = "1";
const NOOP: &str = "6";
/// The server's answer to a post.
const TAKEN: &str = "ok";

/// The answer that a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The handshake with the session's id.
    Opening,
    /// The acceptance into the namespace.
    Entering,
    /// The answer to the join.
    Joining,
    /// The answer to the post with the close packet.
    Leaving,
}

/// The user of a client, the same in all its sessions.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// The number of the user and of the room.
    number: u32,
    connect: String,
}

impl Visitor {
    /// A user with a room of its own.
    ///
    /// # Errors
    /// When the token cannot be signed.
    pub fn new(number: u32) -> Result<Visitor> {
        Ok(Visitor { number, connect: dialect::ring_connect(number)? })
    }
}

#[derive(Debug)]
pub struct Visit {
    stage: Stage,
    /// Empty until the handshake is answered.
    sid: String,
    polling: bool,
    posting: bool,
    /// Packets for the next post.
    outbox: Vec<String>,
}

impl Visit {
    /// A session before its handshake.
    pub fn new() -> Visit {
        Visit {
            stage: Stage::Opening,
            sid: String::new(),
            polling: false,
            posting: false,
            outbox: Vec::new(),
        }
    }

    /// The session's id; empty before the handshake.
    pub fn sid(&self) -> &str {
        &self.sid
    }

    /// Returns whether a poll is due, and records it as started.
    pub fn begin_poll(&mut self) -> bool {
        let due = !self.polling && self.stage != Stage::Leaving;
        self.polling |= due;
        due
    }

    /// Returns the body of the post that is due, if any, and records it as started.
    pub fn begin_post(&mut self) -> Option<String> {
        if self.posting || self.outbox.is_empty() {
            return None;
        }
        self.posting = true;
        let packets = std::mem::take(&mut self.outbox);
        Some(packets.join(SEPARATOR.encode_utf8(&mut [0; 4])))
    }

    /// Handles the answer to a poll.
    ///
    /// # Errors
    /// When a packet in it is not expected at this stage.
    pub fn polled(&mut self, payload: &str, visitor: &Visitor) -> Result<()> {
        ensure!(self.polling, "an answer to no poll: {payload}");
        self.polling = false;
        payload.split(SEPARATOR).try_for_each(|packet| self.hear(packet, visitor))
    }

    /// Handles the answer to a post.
    ///
    /// # Errors
    /// When the answer is not `ok`.
    pub fn posted(&mut self, answer: &str) -> Result<()> {
        ensure!(self.posting, "an answer to no post: {answer}");
        ensure!(answer == TAKEN, "a post was answered with {answer}");
        self.posting = false;
        Ok(())
    }

    /// Whether the server has accepted the close packet.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Leaving && self.outbox.is_empty() && !self.posting
    }

    fn hear(&mut self, packet: &str, visitor: &Visitor) -> Result<()> {
        let (bytes, number) = (packet.as_bytes(), visitor.number);
        match (dialect::ring(bytes)?, self.stage) {
            (Heard::Turn(Turn::Opened), Stage::Opening) => {
                let sid = dialect::text_after(bytes, br#""sid":""#).filter(|sid| !sid.is_empty());
                let sid = sid.with_context(|| format!("no sid in {packet}"))?;
                self.sid = std::str::from_utf8(sid)?.to_owned();
                self.stage = Stage::Entering;
                self.outbox.push(visitor.connect.clone());
            }
            (Heard::Turn(Turn::Admitted), Stage::Entering) => {
                self.stage = Stage::Joining;
                self.outbox.push(dialect::ring_join(number));
            }
            (Heard::Joined { .. }, Stage::Joining) => {
                let room = dialect::text_after(bytes, br#""conversationId":""#);
                ensure!(room == Some(format!("room-{number}").as_bytes()), "another room in {packet}");
                self.stage = Stage::Leaving;
                self.outbox.push(CLOSE.into());
            }
            (Heard::Heartbeat { answer }, Stage::Entering | Stage::Joining) => {
                self.outbox.push(answer.into());
            }
            // The server may send further events, such as presence, between the expected packets and after them.
            (Heard::Other, Stage::Entering | Stage::Joining | Stage::Leaving)
                if packet == NOOP || packet.starts_with("42[") => {}
            (_, stage) => bail!("{packet:?} came in the stage of {stage:?}"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: &str = r#"0{"sid":"abc","upgrades":["websocket"],"pingInterval":25000}"#;
    const JOINED: &str = r#"430[{"ok":true,"conversationId":"room-7","headSeq":0,"participantCount":1}]"#;

    fn visitor() -> Visitor {
        Visitor::new(7).expect("a token")
    }

    /// A session whose polls got these answers, and whose posts all got `ok`.
    fn visit(payloads: &[&str]) -> Result<Visit> {
        let (mut visit, visitor) = (Visit::new(), visitor());
        for payload in payloads {
            assert!(visit.begin_poll());
            visit.polled(payload, &visitor)?;
            if visit.stage != Stage::Leaving && visit.begin_post().is_some() {
                visit.posted("ok")?;
            }
        }
        Ok(visit)
    }

    #[test]
    fn a_session_enters_joins_and_leaves() {
        let (mut visit, visitor) = (Visit::new(), visitor());
        assert!(visit.begin_poll() && !visit.begin_poll(), "one at a time");
        assert_eq!(visit.begin_post(), None);
        visit.polled(OPEN, &visitor).expect("a handshake");
        assert_eq!(visit.sid(), "abc");
        assert!(visit.begin_post().expect("a packet").starts_with(r#"40{"token":""#));
        assert!(visit.begin_poll());
        visit.polled("40{\"sid\":\"x\"}\u{1e}42[\"connected\",{}]", &visitor).expect("a namespace");
        assert_eq!(visit.begin_post(), None, "the first post is not answered");
        visit.posted("ok").expect("taken");
        assert_eq!(visit.begin_post().as_deref(), Some(r#"420["join_conversation","room-7"]"#));
        assert!(visit.begin_poll());
        visit.posted("ok").expect("taken");
        visit.polled("2", &visitor).expect("a ping");
        assert_eq!(visit.begin_post().as_deref(), Some("3"));
        assert!(visit.begin_poll() && !visit.is_over());
        visit.polled(JOINED, &visitor).expect("joined");
        assert!(!visit.begin_poll(), "no poll after the close packet");
        visit.posted("ok").expect("taken");
        assert!(!visit.is_over(), "the goodbye is not sent");
        assert_eq!(visit.begin_post().as_deref(), Some("1"));
        assert!(!visit.is_over(), "the goodbye is not taken");
        visit.posted("ok").expect("taken");
        assert!(visit.is_over());
    }

    #[test]
    fn waiting_packets_are_sent_in_one_payload() {
        let mut visit = visit(&[OPEN, "40{\"sid\":\"x\"}"]).expect("valid");
        assert!(visit.begin_poll());
        visit.polled(&format!("2\u{1e}{JOINED}\u{1e}6\u{1e}42[\"x\"]"), &visitor()).expect("valid");
        assert_eq!(visit.begin_post().as_deref(), Some("3\u{1e}1"));
    }

    #[test]
    fn an_unexpected_packet_fails_the_session() {
        let admitted = r#"40{"sid":"x"}"#;
        for payloads in [
            &["ok"][..],
            &[""],
            &["0{}"],
            &[admitted],
            &[OPEN, OPEN],
            &[OPEN, "1"],
            &[OPEN, ""],
            &[OPEN, r#"44{"message":"no"}"#],
            &[OPEN, JOINED],
            &[OPEN, admitted, admitted],
            &[OPEN, admitted, r#"430[{"ok":false}]"#],
            &[OPEN, admitted, r#"430[{"ok":true,"conversationId":"room-8","headSeq":0}]"#],
            &[OPEN, admitted, r#"431[{"ok":true,"conversationId":"room-7","headSeq":0}]"#],
            &[OPEN, admitted, "41"],
        ] {
            assert!(visit(payloads).is_err(), "{payloads:?}");
        }
        let mut visit = Visit::new();
        assert!(visit.polled(OPEN, &visitor()).is_err(), "no poll was started");
        assert!(visit.posted("ok").is_err(), "no post was started");
        visit.posting = true;
        assert!(visit.posted("no").is_err());
    }
}
