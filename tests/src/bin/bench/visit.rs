//! A polling session from its handshake to its goodbye, as engine.io-client leads it; no I/O.
//!
//! The handshake, then one poll after another until the client leaves, with posts beside them, one at a time. It
//! enters the namespace, joins a room, and leaves when it is told that it joined.

use crate::dialect::{self, Heard, Stage as Turn};
use anyhow::{Context, Result, bail, ensure};

/// Between the packets of a payload (Engine.IO protocol 4, "Payload").
const SEPARATOR: char = '\u{1e}';
/// Engine.IO's packets that carry no data.
const CLOSE: &str = "1";
const NOOP: &str = "6";
/// What a post is answered with.
const TAKEN: &str = "ok";

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It waits for its id.
    Opening,
    /// It waits to be let in.
    Entering,
    /// It waits to have joined.
    Joining,
    /// It waits for its goodbye to be taken.
    Leaving,
}

/// Who comes: the same client session after session.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// Both the user's number and its room's.
    number: u32,
    connect: String,
}

impl Visitor {
    /// A user, in a room that nobody else enters.
    ///
    /// # Errors
    /// When no token can be made.
    pub fn new(number: u32) -> Result<Visitor> {
        Ok(Visitor { number, connect: dialect::ring_connect(number)? })
    }
}

/// One session.
#[derive(Debug)]
pub struct Visit {
    stage: Stage,
    /// Empty until the server has told it.
    sid: String,
    polling: bool,
    posting: bool,
    /// Packets that the next post takes.
    outbox: Vec<String>,
}

impl Visit {
    /// A session of which nothing has happened.
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

    /// Whether a poll has to begin, which then has begun.
    pub fn begin_poll(&mut self) -> bool {
        let due = !self.polling && self.stage != Stage::Leaving;
        self.polling |= due;
        due
    }

    /// The body of a post that has to begin, which then has begun.
    pub fn begin_post(&mut self) -> Option<String> {
        if self.posting || self.outbox.is_empty() {
            return None;
        }
        self.posting = true;
        let packets = std::mem::take(&mut self.outbox);
        Some(packets.join(SEPARATOR.encode_utf8(&mut [0; 4])))
    }

    /// A poll was answered.
    ///
    /// # Errors
    /// When the answer is not what the session waits for.
    pub fn polled(&mut self, payload: &str, visitor: &Visitor) -> Result<()> {
        ensure!(self.polling, "an answer to no poll: {payload}");
        self.polling = false;
        payload.split(SEPARATOR).try_for_each(|packet| self.hear(packet, visitor))
    }

    /// A post was answered.
    ///
    /// # Errors
    /// When it was not taken.
    pub fn posted(&mut self, answer: &str) -> Result<()> {
        ensure!(self.posting, "an answer to no post: {answer}");
        ensure!(answer == TAKEN, "a post was answered with {answer}");
        self.posting = false;
        Ok(())
    }

    /// Whether the server has taken the goodbye.
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
            // Events that nobody asked about may come with those that somebody did, and after them.
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

    /// A session in which these polls were answered, and every post.
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
        assert!(!visit.begin_poll(), "who leaves polls no more");
        visit.posted("ok").expect("taken");
        assert!(!visit.is_over(), "the goodbye is not sent");
        assert_eq!(visit.begin_post().as_deref(), Some("1"));
        assert!(!visit.is_over(), "the goodbye is not taken");
        visit.posted("ok").expect("taken");
        assert!(visit.is_over());
    }

    #[test]
    fn packets_that_wait_go_in_one_payload() {
        let mut visit = visit(&[OPEN, "40{\"sid\":\"x\"}"]).expect("valid");
        assert!(visit.begin_poll());
        visit.polled(&format!("2\u{1e}{JOINED}\u{1e}6\u{1e}42[\"x\"]"), &visitor()).expect("valid");
        assert_eq!(visit.begin_post().as_deref(), Some("3\u{1e}1"));
    }

    #[test]
    fn what_is_not_due_fails_the_session() {
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
        assert!(visit.polled(OPEN, &visitor()).is_err(), "nobody polled");
        assert!(visit.posted("ok").is_err(), "nobody posted");
        visit.posting = true;
        assert!(visit.posted("no").is_err());
    }
}
