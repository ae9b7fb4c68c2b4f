//! The connection to NATS: its events, and requests with an inbox of their own.
//!
//! Replies are matched to requests here and not by the client library. So the requests under way end at once when the
//! connection is lost, and requests that time out leave nothing behind.

use crate::bus::{BusError, LEASE_MS};
use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Messages that wait in the client library for one subscription. This process empties its subscriptions at once, and a
/// log reader requests fewer than this.
pub(super) const SUBSCRIPTION_MESSAGES_MAX: usize = 4_096;
/// Commands that wait in the client library for the socket.
const COMMANDS_MAX: usize = 2_048;
/// Requests under way in one process. A gateway that sends one to every partition and shard at once has dozens.
const REQUESTS_MAX: usize = 16_384;
/// Time in which a server must answer a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between pings. Two unanswered pings end the connection, so a silent network is noticed in 6 s.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Longest pause between attempts to reconnect: an eighth of a lease. So, if servers are back within the time of a
/// lease, this process finds them before the leases run out.
const RECONNECT_PAUSE_MS_MAX: u64 = LEASE_MS / 8;
/// Time for passing a message to the client library, which blocks while it is disconnected.
pub(super) const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for a round trip to the server.
const ROUND_TRIP_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAnswer {
    /// The request was not sent.
    #[error("{0}")]
    NotSent(String),
    /// No process is subscribed to the subject.
    #[error("nobody listens there")]
    NoResponders,
    /// The request was sent, but its outcome is unknown.
    #[error("{0}")]
    Unknown(String),
}

impl From<NoAnswer> for BusError {
    fn from(no_answer: NoAnswer) -> Self {
        match no_answer {
            NoAnswer::NotSent(_) | NoAnswer::NoResponders => BusError::Unavailable(no_answer.to_string()),
            NoAnswer::Unknown(_) => BusError::Timeout(no_answer.to_string()),
        }
    }
}

/// The state that the client library's events change.
struct Shared {
    /// Rises when the connection is lost.
    losses: watch::Sender<u64>,
    /// Rises when subscriptions may have missed messages and work again.
    gaps: watch::Sender<u64>,
    disconnected: AtomicBool,
    waiting: Mutex<HashMap<u64, oneshot::Sender<async_nats::Message>>>,
}

impl Shared {
    fn handle(&self, event: &Event) {
        match event {
            Event::Disconnected => {
                self.disconnected.store(true, Ordering::Relaxed);
                self.losses.send_modify(|losses| *losses += 1);
                // Dropping the senders ends the requests that are under way.
                let under_way = std::mem::take(&mut *self.waiting.lock());
                tracing::warn!(requests = under_way.len(), "connection to nats lost");
            }
            Event::Connected if self.disconnected.swap(false, Ordering::Relaxed) => {
                tracing::info!("connected to nats again");
                self.gaps.send_modify(|gaps| *gaps += 1);
            }
            Event::SlowConsumer(_) => {
                tracing::warn!("messages from nats were dropped: this process is overloaded");
                self.gaps.send_modify(|gaps| *gaps += 1);
            }
            Event::ServerError(error) => tracing::warn!(%error, "nats server reports an error"),
            Event::ClientError(error) => tracing::warn!(%error, "nats client reports an error"),
            Event::LameDuckMode => tracing::info!("nats server is about to shut down"),
            Event::Connected | Event::Draining | Event::Closed => {}
        }
    }
}

/// Aborts a task when this value is dropped.
pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection to NATS.
pub(super) struct Connection {
    pub(super) client: Client,
    shared: Arc<Shared>,
    /// Ends with a dot.
    inbox: String,
    next_token: AtomicU64,
    _answers: AbortOnDrop,
}

/// Removes a request when its caller no longer waits for a reply.
struct Waiting<'a> {
    shared: &'a Shared,
    token: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.waiting.lock().remove(&self.token);
    }
}

async fn pass_on_answers(mut inbox: Subscriber, prefix_length: usize, shared: Arc<Shared>) {
    while let Some(message) = inbox.next().await {
        let token = message.subject.get(prefix_length..).and_then(|token| token.parse::<u64>().ok());
        if let Some(waiting) = token.and_then(|token| shared.waiting.lock().remove(&token)) {
            drop(waiting.send(message));
        }
    }
}

impl Connection {
    /// Connects to one of the servers in `url`, which are separated by commas.
    pub(super) async fn open(url: &str, name: &str) -> Result<Connection, BusError> {
        let shared = Arc::new(Shared {
            losses: watch::Sender::new(0),
            gaps: watch::Sender::new(0),
            disconnected: AtomicBool::new(false),
            waiting: Mutex::default(),
        });
        let handler = shared.clone();
        let options = ConnectOptions::new()
            .name(name)
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
            .client_capacity(COMMANDS_MAX)
            .reconnect_delay_callback(reconnect_pause)
            .event_callback(move |event| {
                handler.handle(&event);
                std::future::ready(())
            });
        let servers: Vec<&str> = url.split(',').map(str::trim).collect();
        // The URL may hold a password: it is never part of a message.
        let client = options
            .connect(servers)
            .await
            .map_err(|error| BusError::Unavailable(format!("cannot connect to nats: {error}")))?;
        let inbox = format!("{}.", client.new_inbox());
        let answers = listen(client.subscribe(format!("{inbox}*"))).await?;
        let passing_on = tokio::spawn(pass_on_answers(answers, inbox.len(), shared.clone()));
        Ok(Connection {
            client,
            shared,
            inbox,
            next_token: AtomicU64::new(0),
            _answers: AbortOnDrop(passing_on),
        })
    }

    /// Changes when the connection is lost.
    pub(super) fn losses(&self) -> watch::Receiver<u64> {
        self.shared.losses.subscribe()
    }

    /// Changes when subscriptions may have missed messages.
    pub(super) fn gaps(&self) -> watch::Receiver<u64> {
        self.shared.gaps.subscribe()
    }

    /// Refuses at once while there is no connection, instead of queueing the call until there is one.
    pub(super) fn check_connected(&self) -> Result<(), NoAnswer> {
        match self.client.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err(NoAnswer::NotSent("not connected to nats".into())),
        }
    }

    fn wait_for(&self) -> Result<(Waiting<'_>, oneshot::Receiver<async_nats::Message>), NoAnswer> {
        self.check_connected()?;
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.shared.waiting.lock();
        if waiting.len() >= REQUESTS_MAX {
            return Err(NoAnswer::NotSent("too many requests are under way".into()));
        }
        waiting.insert(token, sender);
        drop(waiting);
        Ok((Waiting { shared: &self.shared, token }, receiver))
    }

    /// Sends a request and waits for its only reply.
    pub(super) async fn request(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
        time: Duration,
    ) -> Result<async_nats::Message, NoAnswer> {
        let (waiting, answer) = self.wait_for()?;
        let reply = format!("{}{}", self.inbox, waiting.token);
        let sent = async {
            match headers {
                Some(headers) => {
                    self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await
                }
                None => self.client.publish_with_reply(subject, reply, payload).await,
            }
        };
        hand_over(sent).await?;
        let message = answered(answer, time).await?;
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(NoAnswer::NoResponders);
        }
        Ok(message)
    }

    /// Waits until the server has processed everything that was sent before.
    pub(super) async fn round_trip(&self) -> Result<(), NoAnswer> {
        let (waiting, answer) = self.wait_for()?;
        hand_over(self.client.publish(format!("{}{}", self.inbox, waiting.token), Bytes::new())).await?;
        answered(answer, ROUND_TRIP_TIMEOUT).await.map(drop)
    }
}

/// Waits until the client library has accepted a subscription.
pub(super) async fn listen<E: std::fmt::Display>(
    subscribed: impl Future<Output = Result<Subscriber, E>>,
) -> Result<Subscriber, NoAnswer> {
    match timeout(HAND_OVER_TIMEOUT, subscribed).await {
        Ok(Ok(subscriber)) => Ok(subscriber),
        Ok(Err(error)) => Err(NoAnswer::NotSent(error.to_string())),
        Err(_) => Err(NoAnswer::NotSent("nats client is blocked".into())),
    }
}

/// Waits until the client library has accepted a message to send. It does so at once unless it is disconnected.
pub(super) async fn hand_over<E: std::fmt::Display>(
    sent: impl Future<Output = Result<(), E>>,
) -> Result<(), NoAnswer> {
    match timeout(HAND_OVER_TIMEOUT, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(NoAnswer::NotSent(error.to_string())),
        Err(_) => Err(NoAnswer::NotSent("nats client is blocked".into())),
    }
}

async fn answered(
    answer: oneshot::Receiver<async_nats::Message>,
    time: Duration,
) -> Result<async_nats::Message, NoAnswer> {
    match timeout(time, answer).await {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(_)) => Err(NoAnswer::Unknown("connection to nats lost".into())),
        Err(_) => Err(NoAnswer::Unknown(format!("no answer within {time:?}"))),
    }
}

fn reconnect_pause(attempts: usize) -> Duration {
    let doubled = 1_u64 << attempts.min(20);
    Duration::from_millis(if attempts <= 1 { 0 } else { doubled.min(RECONNECT_PAUSE_MS_MAX) })
}
