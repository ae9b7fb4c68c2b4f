//! The bus: an ordered command log per partition, and core messaging between services.
//!
//! Two implementations keep the promises documented here: [`embedded`] in one process and [`nats`] over JetStream.
//! `tests/tests/contracts/bus` runs the same tests against both. All subjects come from [`carillon_proto::subject`].

use async_trait::async_trait;
use bytes::Bytes;
use carillon_proto::id::{Tag, WorkerId};
use std::time::Duration;

pub mod embedded;
mod mailbox;
pub mod nats;

pub use mailbox::Filler;

/// Why a call to the bus failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The call had no effect: the bus cannot be reached, the log is full, or the subject has no subscriber.
    #[error("bus unavailable: {0}")]
    Unavailable(String),
    /// The outcome is unknown. Send the same bytes with the same tag again before anything later.
    #[error("bus timed out: {0}")]
    Timeout(String),
    /// The log may have changed under the reader (a gap, a truncated or new log, or a silent server). Check the
    /// checkpoint's tag and open a new reader.
    #[error("log reader broken: {0}")]
    Broken(String),
}

/// An entry of a partition's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Contiguous within a log generation, from 1.
    pub sequence: u64,
    /// The random tag that the publisher gave the entry.
    pub tag: Tag,
    /// When the log stored the entry, in milliseconds since 1970. It is stored with the entry, so every read returns
    /// the same time.
    pub time_ms: u64,
    /// The published bytes.
    pub payload: Bytes,
}

/// The range of sequences that a log holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// The oldest sequence still held; `last + 1` when nothing is held.
    pub first: u64,
    /// The newest sequence ever stored in this log generation; 0 before the first.
    pub last: u64,
}

/// Reads one partition's log in order.
#[async_trait]
pub trait LogReader: Send {
    /// Waits for entries and returns 1 to `entries_max` of them, each with the sequence after the previous one.
    /// Cancelling loses nothing: the next call returns the entries that this call did not return.
    ///
    /// # Errors
    /// [`BusError::Broken`] when the next entry does not have the next sequence, the log was created again, or the
    /// server fell silent. The reader cannot be used after that.
    async fn next(&mut self, entries_max: usize) -> Result<Vec<LogEntry>, BusError>;
}

/// A core message.
#[derive(Debug)]
pub struct Message {
    /// The bytes that were sent.
    pub payload: Bytes,
    /// Where to send the reply, if the sender waits for one.
    pub reply: Option<ReplyHandle>,
}

/// An item of a subscription.
#[derive(Debug)]
pub enum Incoming {
    /// A message.
    Message(Message),
    /// Messages may be missing here: the connection was lost, or the queue was full.
    Lost,
}

/// Sends the reply to one request.
#[derive(Debug)]
pub enum ReplyHandle {
    /// The request came from this process.
    Local(tokio::sync::oneshot::Sender<Bytes>),
    /// The request came over NATS.
    Nats(nats::NatsReply),
}

impl ReplyHandle {
    /// Sends the reply. It is dropped if the requester no longer waits for it.
    pub fn send(self, payload: Bytes) {
        match self {
            Self::Local(sender) => drop(sender.send(payload)),
            Self::Nats(reply) => reply.send(payload),
        }
    }
}

/// A stream of messages on one subject, in the order in which each sender sent them. Dropping it unsubscribes.
///
/// It holds a bounded number of messages and bytes. A full subscription never blocks a publisher: messages that do not
/// fit are dropped, and [`Incoming::Lost`] marks their place.
pub struct Subscription {
    mailbox: mailbox::Mailbox,
    /// Stops filling `mailbox` when it is dropped.
    _feed: Box<dyn std::any::Any + Send>,
}

impl Subscription {
    /// A subscription that is filled through the returned [`Filler`], for bus implementations outside this crate.
    /// `feed` is dropped with the subscription.
    pub fn fed(feed: impl std::any::Any + Send) -> (Filler, Subscription) {
        let (filler, mailbox) = mailbox::mailbox();
        (filler, Subscription { mailbox, _feed: Box::new(feed) })
    }

    /// Waits for the next message; `None` when the bus has ended. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Incoming> {
        self.mailbox.next().await
    }

    /// The next message, if one has already arrived.
    pub fn try_next(&mut self) -> Option<Incoming> {
        self.mailbox.try_next()
    }
}

/// The bus. Every call has its own timeout and ends within seconds.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Appends an entry to a partition's log and returns its sequence. A repeated tag means the same entry: nothing is
    /// added, and the first append's sequence is returned. NATS recognises tags for two minutes. The embedded bus
    /// recognises a log's last 512 tags, which is enough because none of its outcomes is unknown.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the entry was refused (log full, no server), [`BusError::Timeout`] when it is
    /// unknown whether the entry was stored.
    async fn append(&self, partition: u32, tag: Tag, payload: Bytes) -> Result<u64, BusError>;

    /// What the partition's log holds.
    ///
    /// # Errors
    /// When the bus cannot be reached, or refuses.
    async fn log_bounds(&self, partition: u32) -> Result<LogBounds, BusError>;

    /// The entry at `sequence`, if the log holds it.
    ///
    /// # Errors
    /// When the bus cannot be reached, or refuses.
    async fn log_entry(&self, partition: u32, sequence: u64) -> Result<Option<LogEntry>, BusError>;

    /// Opens a reader whose first entry is `from_sequence`, which may be the next one to be appended.
    ///
    /// # Errors
    /// [`BusError::Broken`] when the log no longer holds that sequence or has not reached it, and other errors when the
    /// bus cannot be reached.
    async fn read_log(&self, partition: u32, from_sequence: u64) -> Result<Box<dyn LogReader>, BusError>;

    /// Deletes the entries of a log below the sequence `below`.
    ///
    /// # Errors
    /// When the bus cannot be reached. This is harmless: a later purge deletes the same entries.
    async fn purge_log(&self, partition: u32, below: u64) -> Result<(), BusError>;

    /// Sends a message to the current subscribers of `subject`, at most once. Messages of one sender stay in order.
    ///
    /// # Errors
    /// When the message could not be handed over to the bus.
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError>;

    /// Subscribes to a subject. With a `group`, one member of the group receives each message. When this returns, the
    /// subscription receives everything that is published afterwards.
    ///
    /// # Errors
    /// When the bus cannot be reached.
    async fn subscribe(&self, subject: &str, group: Option<&str>) -> Result<Subscription, BusError>;

    /// Sends a request and waits for one reply.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] at once when the subject has no subscriber, [`BusError::Timeout`] after `timeout`.
    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, BusError>;

    /// Acquires or renews a worker's lease. Returns a number that rises with every renewal of any worker of this kind.
    ///
    /// # Errors
    /// When the bus cannot be reached. The lease then expires.
    async fn renew_lease(&self, kind: &str, worker: &WorkerId) -> Result<u64, BusError>;

    /// The workers of this kind whose leases have not expired.
    ///
    /// # Errors
    /// When the bus cannot be reached.
    async fn live_leases(&self, kind: &str) -> Result<Vec<WorkerId>, BusError>;

    /// Releases a lease. Other workers see that at once.
    ///
    /// # Errors
    /// When the bus cannot be reached. The lease then expires.
    async fn release_lease(&self, kind: &str, worker: &WorkerId) -> Result<(), BusError>;

    /// The clock of the log's servers in milliseconds since 1970; `None` if they use this process's clock.
    ///
    /// # Errors
    /// When the bus cannot be reached.
    async fn clock_ms(&self) -> Result<Option<u64>, BusError> {
        Ok(None)
    }

    /// Whether the bus can be reached now, for readiness probes.
    async fn healthy(&self) -> bool;
}

/// How long a lease lasts without renewal. Workers renew at a quarter of it. After `kill -9` of a worker, this is how
/// long it takes until another worker can take over.
pub const LEASE_MS: u64 = 2_000;

/// Refuses messages larger than every bus carries, so that both implementations refuse the same ones.
fn check_size(payload_bytes: usize) -> Result<(), BusError> {
    use carillon_proto::limits::BUS_MESSAGE_BYTES_MAX;
    if payload_bytes > BUS_MESSAGE_BYTES_MAX {
        let refused = format!("{payload_bytes} bytes are above {BUS_MESSAGE_BYTES_MAX}: cut the message");
        return Err(BusError::Unavailable(refused));
    }
    Ok(())
}
