//! One client's connection: its socket, its buffers and the frames that it receives.

use crate::content::{Content, shown};
use crate::dialect::{Heard, Stage};
use crate::engine::World;
use crate::member::Member;
use crate::websocket;
use anyhow::{Context, Result, bail};
use mio::net::TcpStream;
use std::io::{ErrorKind, Read, Write};

/// The progress of a connection from its upgrade to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Upgrading,
    Joining,
    Joined,
    /// The client sent its close frame and waits for the server's.
    Closing,
}

pub struct Connection {
    pub stream: TcpStream,
    pub state: State,
    user: u32,
    pub member: Member,
    /// Bytes to write. The first `written` of them are written already.
    out: Vec<u8>,
    written: usize,
    /// The start of a frame that has not arrived completely.
    partial: Vec<u8>,
}

/// Whether a connection stays open.
#[derive(Debug, PartialEq, Eq)]
pub enum Life {
    On,
    Over,
}

impl Connection {
    /// The client of a user. It writes the bytes `first`, its upgrade request, as soon as it is connected.
    pub fn new(stream: TcpStream, user: u32, member: Member, first: Vec<u8>) -> Connection {
        Connection {
            stream,
            state: State::Upgrading,
            user,
            member,
            out: first,
            written: 0,
            partial: Vec::new(),
        }
    }

    /// Queues a frame, and writes as many bytes as the socket accepts.
    pub fn send(&mut self, opcode: u8, payload: &[u8]) -> Result<()> {
        websocket::put_masked(opcode, payload, &mut self.out);
        self.flush()
    }

    /// Writes as many queued bytes as the socket accepts.
    pub fn flush(&mut self) -> Result<()> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The server may have closed the socket before it read the client's close frame.
                Err(_) if self.state == State::Closing => self.written = self.out.len(),
                Err(error) => return Err(error).context("writing"),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads until the socket is empty and handles the complete frames.
    pub fn readable(&mut self, buffer: &mut [u8], world: &mut World) -> Result<Life> {
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return self.ended("the server closed the connection"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Life::On),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return self.ended(&format!("reading: {error}")),
            };
            world.tally.bytes_in += count as u64;
            let now_ns = world.now_ns();
            let life = if self.partial.is_empty() {
                let (used, life) = self.understand(&buffer[..count], now_ns, world)?;
                self.partial.extend_from_slice(&buffer[used..count]);
                life
            } else {
                let mut held = std::mem::take(&mut self.partial);
                held.extend_from_slice(&buffer[..count]);
                let (used, life) = self.understand(&held, now_ns, world)?;
                held.drain(..used);
                self.partial = held;
                life
            };
            // A read that does not fill the buffer emptied the socket. The next byte raises a new event.
            if life == Life::Over || count < buffer.len() {
                return Ok(life);
            }
        }
    }

    fn ended(&self, how: &str) -> Result<Life> {
        if self.state == State::Closing { Ok(Life::Over) } else { bail!("{how}") }
    }

    /// Handles the complete frames in `data` and returns their length in bytes.
    fn understand(&mut self, data: &[u8], now_ns: u64, world: &mut World) -> Result<(usize, Life)> {
        let mut at = 0;
        if self.state == State::Upgrading {
            let Some(end) = websocket::accepted(data)? else { return Ok((0, Life::On)) };
            at = end;
            self.upgraded(world)?;
        }
        while let Some(frame) = websocket::frame(&data[at..])? {
            let body = &data[at + frame.start..at + frame.end];
            at += frame.end;
            match frame.opcode {
                websocket::TEXT => self.hear(body, now_ns, world)?,
                websocket::PING => self.send(websocket::PONG, body)?,
                websocket::PONG => {}
                websocket::CLOSE => {
                    let why =
                        format!("the server said goodbye: {}", shown(body.get(2..).unwrap_or_default()));
                    return Ok((at, self.ended(&why)?));
                }
                other => bail!("a frame of kind {other}"),
            }
        }
        Ok((at, Life::On))
    }

    fn upgraded(&mut self, world: &mut World) -> Result<()> {
        if world.dialect.joins_by_path() {
            self.state = State::Joined;
            world.tally.joined += 1;
            return Ok(());
        }
        self.state = State::Joining;
        self.speak(Stage::Upgraded, world)
    }

    /// Sends the frame that is due at a stage, if there is one.
    fn speak(&mut self, stage: Stage, world: &World) -> Result<()> {
        match world.dialect.at(stage, self.user, self.member.room)? {
            Some(frame) => self.send(websocket::TEXT, frame.as_bytes()),
            None => Ok(()),
        }
    }

    fn hear(&mut self, body: &[u8], now_ns: u64, world: &mut World) -> Result<()> {
        match world.dialect.hear(body)? {
            Heard::Other => {}
            Heard::Turn(stage) => self.speak(stage, world)?,
            Heard::Heartbeat { answer } => self.send(websocket::TEXT, answer.as_bytes())?,
            Heard::Joined { head_seq } => {
                if self.state != State::Joining {
                    bail!("joined, which it had not asked for");
                }
                self.state = State::Joined;
                self.member.joined(head_seq);
                world.tally.joined += 1;
            }
            Heard::Acknowledged { number } => {
                let sent_ns = self.member.acknowledged(number)?;
                world.acknowledged(now_ns.saturating_sub(sent_ns));
            }
            Heard::Delivered { seq, body } => {
                let content = Content::find(body, world.content_bytes)?;
                self.member.delivered(&content, seq)?;
                world.delivered(&content, now_ns);
            }
        }
        Ok(())
    }
}
