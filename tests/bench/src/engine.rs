//! All clients of a run on one thread: an epoll loop, and the counts that show whether everything arrived.

use crate::connection::{Connection, Life, State};
use crate::content::Content;
use crate::dialect::Dialect;
use crate::histogram::Histogram;
use crate::member::Member;
use crate::{interrupt, websocket};
use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The number of loopback addresses that clients connect from. One address has too few ports for many clients.
const SOURCES: usize = 16;
/// A run fails if nothing arrives for this long: then something is lost.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long a run waits for duplicates after everything has arrived.
const DUPLICATES_SHOW: Duration = Duration::from_millis(300);
/// The size of the read buffer.
const READ_BYTES: usize = 64 * 1024;

/// The counts of a room.
#[derive(Debug, Default, Clone)]
pub struct Room {
    /// Messages sent to the room.
    pub published: u32,
    /// Connections that receive its messages.
    pub members: u32,
    /// Deliveries of its messages.
    pub delivered: u64,
}

/// Sums over all rooms and connections.
#[derive(Default)]
pub struct Tally {
    pub joined: u32,
    pub closed: u32,
    pub published: u64,
    pub acknowledged: u64,
    pub delivered: u64,
    /// The deliveries that the published messages must cause in all.
    pub due: u64,
    pub bytes_in: u64,
    /// Microseconds from sending to delivery, and to acknowledgement. Values are recorded only while `measuring`.
    pub delivery_us: Histogram,
    pub acknowledgement_us: Histogram,
    pub measuring: bool,
    /// The rooms of the deliveries since the last pump, one entry for each delivery.
    pub touched: Vec<u32>,
}

/// The state that all connections share.
pub struct World {
    pub dialect: Dialect,
    pub content_bytes: usize,
    pub rooms: Vec<Room>,
    pub tally: Tally,
    began: Instant,
}

impl World {
    /// Nanoseconds since the engine started.
    pub fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Counts an acknowledgement that arrived `after_ns` after the send.
    pub fn acknowledged(&mut self, after_ns: u64) {
        self.tally.acknowledged += 1;
        if self.tally.measuring {
            self.tally.acknowledgement_us.record(after_ns / 1_000);
        }
    }

    /// Counts a delivery.
    pub fn delivered(&mut self, content: &Content, now_ns: u64) {
        let tally = &mut self.tally;
        tally.delivered += 1;
        tally.touched.push(content.room);
        self.rooms[content.room as usize].delivered += 1;
        if tally.measuring {
            tally.delivery_us.record(now_ns.saturating_sub(content.sent_ns) / 1_000);
        }
    }
}

/// The clients of a run. Each client has a slot.
pub struct Engine {
    pub world: World,
    server: SocketAddr,
    connections: Vec<Option<Connection>>,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    text: String,
}

impl Engine {
    /// An engine for clients of `server` in `rooms` rooms, without any connection yet.
    pub fn new(server: SocketAddr, dialect: Dialect, rooms: u32, content_bytes: usize) -> Result<Engine> {
        Ok(Engine {
            world: World {
                dialect,
                content_bytes,
                rooms: vec![Room::default(); rooms as usize],
                tally: Tally::default(),
                began: Instant::now(),
            },
            server,
            connections: Vec::new(),
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            buffer: vec![0; READ_BYTES],
            text: String::new(),
        })
    }

    /// Opens one connection for each of `slots` and waits until all have joined. At most `at_once` connections are
    /// joining at a time. The slot is also the number of the user, and the members of a room have consecutive slots.
    pub fn connect(&mut self, slots: std::ops::Range<u32>, room_size: u32, at_once: u32) -> Result<()> {
        let (before, mut opened) = (self.world.tally.joined, 0);
        let wanted = slots.end - slots.start;
        let mut progress = Progress::new(PATIENCE);
        loop {
            let joined = self.world.tally.joined - before;
            if joined == wanted {
                return Ok(());
            }
            while opened < wanted.min(joined + at_once) {
                let slot = slots.start + opened;
                self.open(slot as usize, slot, slot / room_size)?;
                opened += 1;
            }
            self.pump(Duration::from_millis(100))?;
            progress
                .made(self.world.tally.joined)
                .with_context(|| format!("{joined} of {wanted} connections joined"))?;
        }
    }

    /// Opens a connection for a user and a room in `slot`, which must be free.
    pub fn open(&mut self, slot: usize, user: u32, room: u32) -> Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let source = Ipv4Addr::new(127, 0, 0, 2 + (slot % SOURCES) as u8);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        match socket.connect(&self.server.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error).context("connecting");
            }
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        self.poll.registry().register(&mut stream, Token(slot), Interest::READABLE | Interest::WRITABLE)?;
        let request = websocket::request(&self.server.to_string(), &self.world.dialect.path(user, room));
        let books = &mut self.world.rooms[room as usize];
        books.members += 1;
        let member = Member::new(room, books.published);
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        ensure!(self.connections[slot].is_none(), "slot {slot} is taken");
        self.connections[slot] = Some(Connection::new(stream, user, member, request));
        Ok(())
    }

    /// Sends a close frame on the connection in `slot`. The slot is free when the server has answered.
    pub fn close(&mut self, slot: usize) -> Result<()> {
        let connection = self.connections[slot].as_mut().context("nobody to close")?;
        connection.state = State::Closing;
        self.world.rooms[connection.member.room as usize].members -= 1;
        // 1000: normal closure.
        connection.send(websocket::CLOSE, &1_000_u16.to_be_bytes())
    }

    /// The state of `slot`, or `None` if it is free.
    pub fn state(&self, slot: usize) -> Option<State> {
        self.connections.get(slot)?.as_ref().map(|connection| connection.state)
    }

    /// The counts of the connection in `slot`.
    pub fn member(&self, slot: usize) -> Option<&Member> {
        self.connections.get(slot)?.as_ref().map(|connection| &connection.member)
    }

    /// Sends the room's next message on the connection in `slot`.
    pub fn publish(&mut self, slot: usize) -> Result<()> {
        let connection = self.connections.get_mut(slot).and_then(Option::as_mut).context("nobody to send")?;
        let world = &mut self.world;
        let (room, sent_ns) = (connection.member.room, world.now_ns());
        let books = &mut world.rooms[room as usize];
        let content = Content { room, number: books.published, sent_ns };
        books.published += 1;
        world.tally.published += 1;
        world.tally.due += u64::from(books.members);
        if world.dialect.acknowledges() {
            connection.member.sent(content.number, sent_ns);
        }
        self.text.clear();
        world.dialect.send(&content, world.content_bytes, &mut self.text);
        connection.send(websocket::TEXT, self.text.as_bytes()).with_context(|| format!("connection {slot}"))
    }

    /// Waits up to `timeout` for socket events, and handles them.
    pub fn pump(&mut self, timeout: Duration) -> Result<()> {
        if interrupt::requested() {
            bail!("interrupted");
        }
        self.world.tally.touched.clear();
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &self.events {
            let slot = event.token().0;
            let Some(connection) = self.connections[slot].as_mut() else { continue };
            let mut life = Ok(Life::On);
            if event.is_writable() {
                life = connection.flush().map(|()| Life::On);
            }
            if event.is_readable() && life.is_ok() {
                life = connection.readable(&mut self.buffer, &mut self.world);
            }
            if life.with_context(|| format!("connection {slot}"))? == Life::Over {
                self.connections[slot] = None;
                self.world.tally.closed += 1;
            }
        }
        Ok(())
    }

    /// Handles socket events for the duration `time`.
    pub fn pump_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.pump(left.min(Duration::from_millis(500)))?;
        }
        Ok(())
    }

    /// Waits until every message is acknowledged and delivered to every member.
    ///
    /// # Errors
    /// When a message or an acknowledgement is missing, or when one arrived twice.
    pub fn settle(&mut self) -> Result<()> {
        let mut progress = Progress::new(PATIENCE);
        while !self.is_settled() {
            self.pump(Duration::from_millis(20))?;
            let tally = &self.world.tally;
            progress.made(tally.delivered + tally.acknowledged).with_context(|| {
                format!(
                    "{} of {} deliveries, and {} of {} messages acknowledged",
                    tally.delivered, tally.due, tally.acknowledged, tally.published
                )
            })?;
        }
        self.pump_for(DUPLICATES_SHOW)?;
        for (slot, connection) in self.connections.iter().enumerate() {
            let Some(Connection { member, .. }) = connection else { continue };
            let published = self.world.rooms[member.room as usize].published;
            member.check(published).with_context(|| format!("connection {slot}"))?;
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        let tally = &self.world.tally;
        let acknowledged = !self.world.dialect.acknowledges() || tally.acknowledged == tally.published;
        acknowledged && tally.delivered == tally.due
    }
}

/// Fails when a number has not changed for too long.
pub struct Progress {
    patience: Duration,
    last: u64,
    since: Instant,
}

impl Progress {
    /// A watch that fails after `patience` without a change.
    pub fn new(patience: Duration) -> Progress {
        Progress { patience, last: 0, since: Instant::now() }
    }

    /// Reports the current count.
    ///
    /// # Errors
    /// When the count has not changed for too long.
    pub fn made(&mut self, count: impl Into<u64>) -> Result<()> {
        let count = count.into();
        if count != self.last {
            (self.last, self.since) = (count, Instant::now());
        }
        ensure!(self.since.elapsed() < self.patience, "nothing happened for {:?}", self.patience);
        Ok(())
    }
}
