//! The floor: the least that fan-out over WebSockets can cost, which is the kernel's work and one epoll loop.
//!
//! The path names a room. Each frame from a client is parsed, built once as a server's frame, and written to every
//! member of the room. There is no JSON, no identity, no storage, no ping and no limit, so its figures are the
//! reference for the figures of real servers.

use crate::websocket;
use anyhow::{Context, Result};
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

const LISTENER: Token = Token(usize::MAX);

struct Client {
    stream: TcpStream,
    room: Option<usize>,
    partial: Vec<u8>,
    /// Bytes that the socket did not accept yet.
    pending: Vec<u8>,
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    rooms: Vec<Vec<usize>>,
    names: HashMap<String, usize>,
    buffer: Vec<u8>,
    body: Vec<u8>,
    frame: Vec<u8>,
}

/// Serves at `address` until the process is ended.
pub fn serve(address: SocketAddr) -> Result<()> {
    let socket =
        std::net::TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    socket.set_nonblocking(true)?;
    let mut floor = Floor {
        poll: Poll::new()?,
        listener: TcpListener::from_std(socket),
        clients: Vec::new(),
        free: Vec::new(),
        rooms: Vec::new(),
        names: HashMap::new(),
        buffer: vec![0; 64 * 1024],
        body: Vec::new(),
        frame: Vec::new(),
    };
    floor.poll.registry().register(&mut floor.listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    loop {
        match floor.poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            floor.handle(event)?;
        }
    }
}

impl Floor {
    fn handle(&mut self, event: &Event) -> Result<()> {
        if event.token() == LISTENER {
            return self.accept();
        }
        let id = event.token().0;
        let Some(client) = self.clients[id].as_mut() else { return Ok(()) };
        if event.is_writable() && !client.pending.is_empty() {
            let pending = std::mem::take(&mut client.pending);
            client.write(&pending);
        }
        // A client with a protocol error is dropped.
        if event.is_readable() && !matches!(self.read(id), Ok(true)) {
            self.forget(id);
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accepting"),
            };
            stream.set_nodelay(true)?;
            let id = self.free.pop().unwrap_or(self.clients.len());
            self.poll.registry().register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)?;
            let client = Some(Client { stream, room: None, partial: Vec::new(), pending: Vec::new() });
            match self.clients.get_mut(id) {
                Some(slot) => *slot = client,
                None => self.clients.push(client),
            }
        }
    }

    fn forget(&mut self, id: usize) {
        let Some(client) = self.clients[id].take() else { return };
        if let Some(room) = client.room {
            self.rooms[room].retain(|member| *member != id);
        }
        self.free.push(id);
    }

    /// Reads until the socket is empty. Returns `false` if the client is gone.
    fn read(&mut self, id: usize) -> Result<bool> {
        loop {
            let Some(client) = self.clients[id].as_mut() else { return Ok(false) };
            let count = match client.stream.read(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            let mut held = std::mem::take(&mut client.partial);
            held.extend_from_slice(&self.buffer[..count]);
            let used = self.understand(id, &held)?;
            let Some(used) = used else { return Ok(false) };
            if let Some(client) = self.clients[id].as_mut() {
                held.drain(..used);
                client.partial = held;
            }
            if count < self.buffer.len() {
                return Ok(true);
            }
        }
    }

    /// Handles the complete frames in `held` and returns their length in bytes, or `None` after a close frame.
    fn understand(&mut self, id: usize, held: &[u8]) -> Result<Option<usize>> {
        let mut at = 0;
        let room = match self.clients[id].as_ref().and_then(|client| client.room) {
            Some(room) => room,
            None => {
                let Some((path, answer, end)) = websocket::answer(held)? else { return Ok(Some(0)) };
                at = end;
                self.enter(id, path, &answer)
            }
        };
        while let Some(frame) = websocket::frame(&held[at..])? {
            if frame.opcode == websocket::CLOSE {
                return Ok(None);
            }
            self.body.clear();
            let payload = &held[at + frame.start..at + frame.end];
            websocket::unmask(payload, frame.mask.context("a client masks its frames")?, &mut self.body);
            self.frame.clear();
            websocket::put(frame.opcode, &self.body, &mut self.frame);
            for member in &self.rooms[room] {
                if let Some(client) = self.clients[*member].as_mut() {
                    client.write(&self.frame);
                }
            }
            at += frame.end;
        }
        Ok(Some(at))
    }

    fn enter(&mut self, id: usize, path: String, answer: &str) -> usize {
        let next = self.rooms.len();
        let room = *self.names.entry(path).or_insert(next);
        if room == next {
            self.rooms.push(Vec::new());
        }
        self.rooms[room].push(id);
        if let Some(client) = self.clients[id].as_mut() {
            client.room = Some(room);
            client.write(answer.as_bytes());
        }
        room
    }
}

impl Client {
    fn write(&mut self, bytes: &[u8]) {
        let mut written = 0;
        while self.pending.is_empty() && written < bytes.len() {
            match self.stream.write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The next read reports the error.
                Err(_) => return,
            }
        }
        self.pending.extend_from_slice(&bytes[written..]);
    }
}
