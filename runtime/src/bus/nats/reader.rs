//! Reads a partition's stream in order, by its own pull requests.
//!
//! The client library's ordered consumer skips gaps silently and is slow to notice a silent server. This reader
//! requests a heartbeat every second, checks that the sequences have no gap, and breaks off as soon as entries may be
//! missing.

use super::connection::{Connection, hand_over, listen};
use super::progress::{ConsumerEvent, Progress, interpret};
use crate::bus::{BusError, LogEntry, LogReader};
use async_nats::{Message, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Entries per pull request: enough to hide the round trip at 100,000 entries a second.
const PULL_ENTRIES: usize = 256;
/// Bytes per pull request. At most two requests' worth waits in memory.
const PULL_BYTES: usize = 8 * 1024 * 1024;
/// How long a pull request waits at the server.
const PULL_TIME: Duration = Duration::from_secs(30);
/// The server sends a heartbeat at this interval while it has no entries to send.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A server that sent nothing for this long counts as silent: two and a half heartbeats.
const SILENCE_MAX: Duration = Duration::from_millis(2_500);
/// The server deletes a consumer that had no pull request for this long.
const INACTIVE_TIME: Duration = Duration::from_secs(10);

const _: () = assert!(PULL_ENTRIES * 2 < super::connection::SUBSCRIPTION_MESSAGES_MAX);

/// The server's reply to the creation of a consumer.
#[derive(Deserialize)]
struct Consumer {
    name: String,
}

/// Reads one stream.
pub(super) struct Reader {
    connection: Arc<Connection>,
    incoming: Subscriber,
    inbox: String,
    next_subject: String,
    progress: Progress,
    silent_at: Instant,
    losses: watch::Receiver<u64>,
}

impl Reader {
    pub(super) async fn open(
        connection: Arc<Connection>,
        stream: &str,
        from: u64,
    ) -> Result<Reader, BusError> {
        let losses = connection.losses();
        connection.check_connected()?;
        let inbox = connection.client.new_inbox();
        let incoming = listen(connection.client.subscribe(inbox.clone())).await?;
        let consumer: Consumer =
            connection.api(&format!("CONSUMER.CREATE.{stream}"), &consumer_config(stream, from)).await?;
        Ok(Reader {
            next_subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", consumer.name),
            connection,
            incoming,
            inbox,
            progress: Progress::new(from),
            silent_at: Instant::now() + SILENCE_MAX,
            losses,
        })
    }

    /// Keeps between half and one and a half pull requests ahead of the entries returned to the caller.
    async fn pull(&mut self) -> Result<(), BusError> {
        if self.progress.ahead() > PULL_ENTRIES / 2 {
            return Ok(());
        }
        let request = json!({
            "batch": PULL_ENTRIES,
            "max_bytes": PULL_BYTES,
            "expires": PULL_TIME.as_nanos() as u64,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        let client = &self.connection.client;
        let payload = Bytes::from(request.to_string());
        hand_over(client.publish_with_reply(self.next_subject.clone(), self.inbox.clone(), payload))
            .await
            .map_err(|error| BusError::Broken(error.to_string()))?;
        self.progress.pulled(PULL_ENTRIES);
        self.silent_at = Instant::now() + SILENCE_MAX;
        Ok(())
    }

    fn receive(&mut self, message: Option<Message>) {
        self.silent_at = Instant::now() + SILENCE_MAX;
        self.progress.receive(match message {
            Some(message) => interpret(message),
            None => ConsumerEvent::Gone("the connection was closed".into()),
        });
    }

    fn receive_available(&mut self) {
        while self.progress.broken().is_none() {
            match self.incoming.next().now_or_never() {
                Some(message) => self.receive(message),
                None => return,
            }
        }
    }
}

#[async_trait]
impl LogReader for Reader {
    async fn next(&mut self, entries_max: usize) -> Result<Vec<LogEntry>, BusError> {
        loop {
            self.receive_available();
            let broken = self.progress.broken().map(str::to_owned);
            if broken.is_none() {
                self.pull().await?;
            }
            let entries = self.progress.drain(entries_max);
            if !entries.is_empty() {
                return Ok(entries);
            }
            if let Some(why) = broken {
                return Err(BusError::Broken(why));
            }
            tokio::select! {
                biased;
                message = self.incoming.next() => self.receive(message),
                // Entries in flight when the connection was lost are lost, and the server does not send them again.
                _ = self.losses.changed() => self.progress.break_off("the connection was lost"),
                () = sleep_until(self.silent_at) => self.progress.break_off("the server fell silent"),
            }
        }
    }
}

fn consumer_config(stream: &str, from: u64) -> serde_json::Value {
    json!({
        "stream_name": stream,
        "config": {
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": from,
            "replay_policy": "instant",
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": INACTIVE_TIME.as_nanos() as u64,
        },
    })
}
