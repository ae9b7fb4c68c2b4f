//! Core subscriptions and replies over NATS, with a mark where messages may be missing.

use super::connection::{AbortOnDrop, Connection, HAND_OVER_TIMEOUT, SUBSCRIPTION_MESSAGES_MAX, listen};
use crate::bus::mailbox::{Filler, mailbox};
use crate::bus::{BusError, Message, ReplyHandle, Subscription};
use async_nats::{Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use std::fmt;
use std::sync::{Arc, LazyLock};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// Most replies that wait for the client library to accept them. The library accepts at once unless it is disconnected,
/// and then the requesters have stopped waiting.
const REPLIES_WAITING_MAX: usize = 1_024;

static REPLIES_WAITING: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(REPLIES_WAITING_MAX)));

/// Sends the reply to one request that came over NATS.
pub struct NatsReply {
    connection: Arc<Connection>,
    subject: Subject,
}

impl NatsReply {
    /// Sends the reply. It is dropped if the client library does not accept it within a second.
    pub fn send(self, payload: Bytes) {
        let mut sent = Box::pin(async move { self.connection.client.publish(self.subject, payload).await });
        if let Some(done) = (&mut sent).now_or_never() {
            if let Err(error) = done {
                tracing::warn!(%error, "a reply could not be sent");
            }
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let Ok(permit) = REPLIES_WAITING.clone().try_acquire_owned() else { return };
        runtime.spawn(async move {
            drop(timeout(HAND_OVER_TIMEOUT, sent).await);
            drop(permit);
        });
    }
}

impl fmt::Debug for NatsReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NatsReply").field(&self.subject).finish()
    }
}

/// Subscribes, and waits until the server has the subscription.
pub(super) async fn subscribe(
    connection: &Arc<Connection>,
    subject: String,
    group: Option<String>,
) -> Result<Subscription, BusError> {
    connection.check_connected()?;
    // Read before subscribing, so that no gap is missed in between.
    let gaps = connection.gaps();
    let client = &connection.client;
    let subscriber = match group {
        Some(group) => listen(client.queue_subscribe(subject, group)).await?,
        None => listen(client.subscribe(subject)).await?,
    };
    connection.round_trip().await.map_err(|no_answer| BusError::Unavailable(no_answer.to_string()))?;
    let (filler, mailbox) = mailbox();
    let filling = tokio::spawn(fill(subscriber, filler, gaps, connection.clone()));
    Ok(Subscription { mailbox, _feed: Box::new(AbortOnDrop(filling)) })
}

/// Decides where in a subscription a gap is marked: after the messages that were queued when it was noticed.
struct Gaps {
    changes: watch::Receiver<u64>,
    /// Messages to pass on before the mark.
    due: Option<usize>,
}

impl Gaps {
    /// Called for every message. Returns whether the mark must follow it.
    fn is_due(&mut self) -> bool {
        if self.due.is_none() && self.changes.has_changed().unwrap_or(false) {
            self.changes.mark_unchanged();
            self.due = Some(SUBSCRIPTION_MESSAGES_MAX);
        }
        self.due = self.due.map(|left| left.saturating_sub(1));
        self.due.take_if(|left| *left == 0).is_some()
    }

    /// Waits for a gap. Returns at once if a noticed gap is not marked yet.
    async fn noticed(&mut self) {
        if self.due.take().is_none() && self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn fill(
    mut subscriber: Subscriber,
    filler: Filler,
    changes: watch::Receiver<u64>,
    connection: Arc<Connection>,
) {
    let mut gaps = Gaps { changes, due: None };
    loop {
        tokio::select! {
            biased;
            message = subscriber.next() => {
                let Some(message) = message else { return };
                let reply = message.reply.map(|subject| {
                    ReplyHandle::Nats(NatsReply { connection: connection.clone(), subject })
                });
                filler.push(Message { payload: message.payload, reply });
                if gaps.is_due() {
                    filler.lost();
                }
            }
            // The queue is empty, so the mark belongs here.
            () = gaps.noticed() => filler.lost(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gap_is_marked_after_the_messages_queued_before_it() {
        let changes = watch::Sender::new(0);
        let mut gaps = Gaps { changes: changes.subscribe(), due: None };
        assert!(!gaps.is_due());
        changes.send_modify(|count| *count += 1);
        let marked: Vec<usize> = (1..=2 * SUBSCRIPTION_MESSAGES_MAX).filter(|_| gaps.is_due()).collect();
        assert_eq!(marked, [SUBSCRIPTION_MESSAGES_MAX]);
        changes.send_modify(|count| *count += 1);
        assert!(!gaps.is_due());
        gaps.noticed().await;
        assert!(gaps.noticed().now_or_never().is_none(), "one gap must cause one mark");
    }
}
