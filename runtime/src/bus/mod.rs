//! The bus: an ordered command log per partition, and core messaging between services.
//!
//! Two implementations keep the promises written here, [`embedded`] in one process and [`nats`] over
//! JetStream; `tests/tests/bus_contract.rs` holds both to them. Subjects come from
//! [`carillon_proto::subject`] and nowhere else.

use async_trait::async_trait;
use bytes::Bytes;
use carillon_proto::id::{Tag, WorkerId};
use std::time::Duration;

pub mod embedded;
mod mailbox;
pub mod nats;

pub use mailbox::Filler;

/// What can go wrong on the bus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// It was not done: the bus cannot be reached, the log is full, or nobody listens.
    #[error("bus unavailable: {0}")]
    Unavailable(String),
    /// Outcome unknown. Repeat the same bytes with the same tag before anything later.
    #[error("bus timed out: {0}")]
    Timeout(String),
    /// The log reader's ground has moved (gap, truncated or new log, silence): check the checkpoint's tag
    /// and make a new reader.
    #[error("log reader broken: {0}")]
    Broken(String),
}

/// An entry of a partition's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Contiguous in a log's life, from 1.
    pub sequence: u64,
    /// What the publisher marked it with.
    pub tag: Tag,
    /// When the log took it, milliseconds since 1970; stored with the entry, the same at every reading.
    pub time_ms: u64,
    /// What was published.
    pub payload: Bytes,
}

/// What a log holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// The oldest sequence still held; `last + 1` when nothing is held.
    pub first: u64,
    /// The newest sequence ever taken in this life; 0 before the first.
    pub last: u64,
}

/// Reads one partition's log in order.
#[async_trait]
pub trait LogReader: Send {
    /// Waits for entries and returns 1 to `entries_max` of them, each with the sequence after the one before.
    /// Cancelling loses nothing: what was not returned comes next.
    ///
    /// # Errors
    /// [`BusError::Broken`] when the next entry is not the next sequence, the log was made anew, or the
    /// server fell silent. The reader is then of no more use.
    async fn next(&mut self, entries_max: usize) -> Result<Vec<LogEntry>, BusError>;
}

/// A core message.
#[derive(Debug)]
pub struct Message {
    /// What was sent.
    pub payload: Bytes,
    /// Where the answer goes, if one is awaited.
    pub reply: Option<ReplyHandle>,
}

/// What a subscription yields.
#[derive(Debug)]
pub enum Incoming {
    /// A message.
    Message(Message),
    /// Messages may have been missed here: the connection was lost, or the queue was full.
    Lost,
}

/// Answers one request.
#[derive(Debug)]
pub enum ReplyHandle {
    /// In this process.
    Local(tokio::sync::oneshot::Sender<Bytes>),
    /// Over NATS.
    Nats(nats::NatsReply),
}

impl ReplyHandle {
    /// Sends the answer. One that nobody waits for any more is dropped.
    pub fn send(self, payload: Bytes) {
        match self {
            Self::Local(sender) => drop(sender.send(payload)),
            Self::Nats(reply) => reply.send(payload),
        }
    }
}

/// A stream of messages on one subject, in the order in which each sender sent them. Dropping it ends it.
///
/// It holds a bounded number of messages and bytes. One that is full never holds up who publishes: what
/// finds no room is dropped, and [`Incoming::Lost`] stands in its place.
pub struct Subscription {
    mailbox: mailbox::Mailbox,
    /// Ends what feeds `mailbox`.
    _feed: Box<dyn std::any::Any + Send>,
}

impl Subscription {
    /// A subscription that whoever has the [`Filler`] fills, for a bus that is made elsewhere. `feed` is dropped
    /// with the subscription.
    pub fn fed(feed: impl std::any::Any + Send) -> (Filler, Subscription) {
        let (filler, mailbox) = mailbox::mailbox();
        (filler, Subscription { mailbox, _feed: Box::new(feed) })
    }

    /// The next message; `None` when the bus has ended. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Incoming> {
        self.mailbox.next().await
    }

    /// A message that is there already.
    pub fn try_next(&mut self) -> Option<Incoming> {
        self.mailbox.try_next()
    }
}

/// The bus. Every call has its own timeout inside and ends within seconds.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Appends an entry to a partition's log and returns its sequence. The same tag again is the same entry, within
    /// two minutes, or 512 entries in one process, where no outcome is unknown: its sequence is returned and nothing
    /// is added.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when it was refused (log full, no server), [`BusError::Timeout`] when it is
    /// unknown whether it was taken.
    async fn append(&self, partition: u32, tag: Tag, payload: Bytes) -> Result<u64, BusError>;

    /// What the partition's log holds.
    ///
    /// # Errors
    /// When the bus cannot tell.
    async fn log_bounds(&self, partition: u32) -> Result<LogBounds, BusError>;

    /// The entry at `sequence`, if the log holds it.
    ///
    /// # Errors
    /// When the bus cannot tell.
    async fn log_entry(&self, partition: u32, sequence: u64) -> Result<Option<LogEntry>, BusError>;

    /// A reader whose first entry is `from_sequence`, or [`BusError::Broken`] if that is below the oldest held.
    ///
    /// # Errors
    /// When the bus cannot be reached or the log does not reach back so far.
    async fn read_log(&self, partition: u32, from_sequence: u64) -> Result<Box<dyn LogReader>, BusError>;

    /// Lets the log forget what lies below `below`.
    ///
    /// # Errors
    /// When the bus cannot be reached; harmless, it is tried again later.
    async fn purge_log(&self, partition: u32, below: u64) -> Result<(), BusError>;

    /// Sends to whoever subscribes to `subject` now; at most once, in order for one sender.
    ///
    /// # Errors
    /// When it could not be handed over.
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError>;

    /// Hears a subject; with a `group`, one of the group's members hears each message. When it returns,
    /// the subscription is in force for all who publish afterwards.
    ///
    /// # Errors
    /// When the bus cannot be reached.
    async fn subscribe(&self, subject: &str, group: Option<&str>) -> Result<Subscription, BusError>;

    /// Sends and waits for one answer.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] at once when nobody listens, [`BusError::Timeout`] after `timeout`.
    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError>;

    /// Takes or renews a worker's lease and returns a number that rises with every renewal of any worker
    /// of this kind.
    ///
    /// # Errors
    /// When the bus cannot be reached: the lease runs out.
    async fn renew_lease(&self, kind: &str, worker: &WorkerId) -> Result<u64, BusError>;

    /// The workers of this kind whose leases have not run out.
    ///
    /// # Errors
    /// When the bus cannot be reached.
    async fn live_leases(&self, kind: &str) -> Result<Vec<WorkerId>, BusError>;

    /// Gives a lease up, at once for all.
    ///
    /// # Errors
    /// When the bus cannot be reached: the lease runs out.
    async fn release_lease(&self, kind: &str, worker: &WorkerId) -> Result<(), BusError>;

    /// What time the log's servers have, milliseconds since 1970; `None` where they have this process's own clock.
    ///
    /// # Errors
    /// When the bus cannot be reached.
    async fn clock_ms(&self) -> Result<Option<u64>, BusError> {
        Ok(None)
    }

    /// Whether the bus can be reached now, for readiness probes.
    async fn healthy(&self) -> bool;
}

/// How long a lease lasts without renewal. Renewed at a quarter of it; kill -9 of a worker costs this
/// much until another takes over.
pub const LEASE_MS: u64 = 2_000;

/// Refuses what is larger than the bus carries, the same way on every bus.
fn check_size(payload_bytes: usize) -> Result<(), BusError> {
    use carillon_proto::limits::BUS_MESSAGE_BYTES_MAX;
    if payload_bytes > BUS_MESSAGE_BYTES_MAX {
        let refused = format!("{payload_bytes} bytes are above {BUS_MESSAGE_BYTES_MAX}: cut the message");
        return Err(BusError::Unavailable(refused));
    }
    Ok(())
}
