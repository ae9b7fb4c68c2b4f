//! One task for each presence shard announces this gateway's changes in numbered batches, with one batch in flight.

use crate::shared::Shared;
use carillon_proto::limits::{ENTRY_BYTES_MAX, ENTRY_COMMANDS_MAX};
use carillon_proto::subject;
use carillon_proto::wire::{self, presence_change::Body as Change, presence_result::Body as Outcome};
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Changes that wait for a shard's task. Above this bound changes are dropped, and a snapshot replaces them. Each
/// connection has a few under way at once.
const CHANGES_MAX: usize = 65_536;
/// Time for one request. Presence is best effort, and joins wait for it, so the timeout is short.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// Attempts to send one batch before its callers are answered without a result.
const TRIES_MAX: u32 = 2;
/// Interval of heartbeats. A heartbeat carries the number of the last batch, so that the worker notices a missed batch.
const HEARTBEAT: Duration = Duration::from_secs(1);

struct Announced {
    change: Change,
    answer: Option<oneshot::Sender<Option<Outcome>>>,
}

pub struct ShardHandle {
    changes: mpsc::Sender<Announced>,
    snapshot_wanted: Arc<AtomicBool>,
}

impl ShardHandle {
    /// Announces a change and waits for its result; `None` when no presence-worker answers, or the queue is full.
    pub async fn request(&self, change: Change) -> Option<Outcome> {
        let (answer, answered) = oneshot::channel();
        self.changes.try_send(Announced { change, answer: Some(answer) }).ok()?;
        answered.await.ok().flatten()
    }

    /// Announces a change. If the queue is full, a snapshot is sent instead.
    pub fn announce(&self, change: Change) {
        if self.changes.try_send(Announced { change, answer: None }).is_err() {
            self.snapshot();
        }
    }

    /// Requests that everything be announced anew before the next batch.
    pub fn snapshot(&self) {
        self.snapshot_wanted.store(true, Ordering::Relaxed);
    }
}

/// The receiving side of a [`ShardHandle`], for [`ShardTask::run`].
pub struct ShardTask {
    changes: mpsc::Receiver<Announced>,
    snapshot_wanted: Arc<AtomicBool>,
}

/// Makes a shard's handle and its task.
pub fn shard() -> (ShardHandle, ShardTask) {
    let (sender, changes) = mpsc::channel(CHANGES_MAX);
    let snapshot_wanted = Arc::new(AtomicBool::new(false));
    (
        ShardHandle { changes: sender, snapshot_wanted: snapshot_wanted.clone() },
        ShardTask { changes, snapshot_wanted },
    )
}

impl ShardTask {
    /// Announces the changes of one shard until the gateway ends.
    pub async fn run(mut self, shared: Arc<Shared>, shard: u32) {
        let mut number = 0;
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let first = tokio::select! {
                biased;
                change = self.changes.recv() => match change {
                    Some(change) => Some(change),
                    None => return,
                },
                _ = heartbeat.tick() => None,
            };
            let mut batch: Vec<Announced> = first.into_iter().collect();
            let mut bytes = batch.iter().map(|first| first.change.encoded_len()).sum::<usize>();
            while !batch.is_empty() && batch.len() < ENTRY_COMMANDS_MAX && bytes < ENTRY_BYTES_MAX {
                let Ok(change) = self.changes.try_recv() else { break };
                bytes += change.change.encoded_len();
                batch.push(change);
            }
            if self.snapshot_wanted.swap(false, Ordering::Relaxed) {
                number = self.send_snapshot(&shared, shard, number).await;
            }
            // A change that ends something may be outdated, because the same thing has begun again meanwhile.
            batch.retain(|announced| shared.still_holds(&announced.change));
            let last_number = number;
            if !batch.is_empty() {
                number += 1;
            }
            let request = wire::PresenceRequest {
                gateway: shared.id.to_string(),
                number: if batch.is_empty() { 0 } else { number },
                last_number,
                snapshot: false,
                changes: batch
                    .iter()
                    .map(|one| wire::PresenceChange { body: Some(one.change.clone()) })
                    .collect(),
            };
            let results = self.send(&shared, shard, request).await;
            let mut results = results.into_iter();
            for announced in batch {
                let outcome = results.next().and_then(|result| result.body);
                if let Some(Outcome::Room(state)) = &outcome {
                    shared.handle_room_state(&announced.change, state);
                }
                if let Some(answer) = announced.answer {
                    let _ = answer.send(outcome);
                }
            }
        }
    }

    /// Sends everything that this gateway announces, in parts that fit into a message on the bus. Returns the number of
    /// the last part.
    async fn send_snapshot(&self, shared: &Shared, shard: u32, number: u64) -> u64 {
        let parts = cut(shared.presence_snapshot(shard));
        let last_number = number + parts.len() as u64;
        for (part, changes) in (number + 1..).zip(parts) {
            let request = wire::PresenceRequest {
                gateway: shared.id.to_string(),
                number: part,
                last_number,
                snapshot: part == number + 1,
                changes,
            };
            self.send(shared, shard, request).await;
        }
        last_number
    }

    async fn send(
        &self,
        shared: &Shared,
        shard: u32,
        request: wire::PresenceRequest,
    ) -> Vec<wire::PresenceResult> {
        let payload = bytes::Bytes::from(request.encode_to_vec());
        for _ in 0..TRIES_MAX {
            match shared.bus.request(&subject::presence(shard), payload.clone(), REQUEST_TIMEOUT).await {
                Ok(reply) => match wire::PresenceReply::decode(reply) {
                    Ok(reply) => {
                        if reply.snapshot_wanted {
                            self.snapshot_wanted.store(true, Ordering::Relaxed);
                        }
                        return reply.results;
                    }
                    Err(error) => tracing::warn!(shard, %error, "a presence reply could not be read"),
                },
                Err(error) => tracing::debug!(shard, %error, "presence did not answer"),
            }
        }
        if request.number > 0 {
            self.snapshot_wanted.store(true, Ordering::Relaxed);
        }
        Vec::new()
    }
}

/// Divides a snapshot into parts of at most [`ENTRY_BYTES_MAX`], and into at least one part.
fn cut(changes: Vec<wire::PresenceChange>) -> Vec<Vec<wire::PresenceChange>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for change in changes {
        bytes += change.encoded_len();
        if bytes > ENTRY_BYTES_MAX {
            parts.push(Vec::new());
            bytes = change.encoded_len();
        }
        if let Some(part) = parts.last_mut() {
            part.push(change);
        }
    }
    parts
}
