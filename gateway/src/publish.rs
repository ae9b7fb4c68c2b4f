//! One task per partition publishes commands to the log, coalesced adaptively: idle, at once; busy, what
//! queued while the last publish was in flight.

use crate::shared::Shared;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::Tag;
use carillon_proto::limits::{ENTRY_BYTES_MAX, ENTRY_COMMANDS_MAX, PUBLISH_QUEUE_COMMANDS_MAX};
use carillon_proto::wire;
use carillon_runtime::bus::BusError;
use carillon_runtime::metrics::{Stage, observe};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Between two repeats of a publish whose outcome is unknown.
const REPEAT_DELAY: Duration = Duration::from_millis(200);

/// The handle of one partition's publisher.
pub struct Publisher(mpsc::Sender<wire::Command>);

impl Publisher {
    /// Queues a command for the log. Commands of one caller stay in order.
    ///
    /// # Errors
    /// `unavailable` when so many wait already that the log cannot be keeping up.
    pub fn publish(&self, command: wire::Command) -> Result<(), Failure> {
        self.0.try_send(command).map_err(|_| overloaded())
    }
}

fn overloaded() -> Failure {
    Failure::new(ErrorCode::Unavailable, "the message log is not keeping up: try again").retry_after(1_000)
}

/// Makes a partition's publisher and the queue that [`run`] serves.
pub fn publisher() -> (Publisher, mpsc::Receiver<wire::Command>) {
    let (sender, receiver) = mpsc::channel(PUBLISH_QUEUE_COMMANDS_MAX);
    (Publisher(sender), receiver)
}

/// Publishes what is queued, one entry in flight, until the gateway ends.
pub async fn run(shared: Arc<Shared>, partition: u32, mut queue: mpsc::Receiver<wire::Command>) {
    let mut held_back = None;
    loop {
        let first = match held_back.take() {
            Some(command) => command,
            None => match queue.recv().await {
                Some(command) => command,
                None => return,
            },
        };
        let mut bytes = first.encoded_len();
        let mut commands = vec![first];
        while commands.len() < ENTRY_COMMANDS_MAX {
            let Ok(command) = queue.try_recv() else { break };
            bytes += command.encoded_len();
            if bytes > ENTRY_BYTES_MAX {
                held_back = Some(command);
                break;
            }
            commands.push(command);
        }
        publish_entry(&shared, partition, commands).await;
    }
}

/// Publishes one entry, and repeats it byte for byte, before anything later, while its outcome is unknown.
async fn publish_entry(shared: &Shared, partition: u32, commands: Vec<wire::Command>) {
    let requests: Vec<u64> = commands.iter().map(|command| command.request).collect();
    let payload = bytes::Bytes::from(wire::Entry { commands, version: 0 }.encode_to_vec());
    let tag = Tag(*uuid::Uuid::new_v4().as_bytes());
    shared.pending.published(&requests, tag);
    let started = Instant::now();
    let mut unknown = false;
    loop {
        match shared.bus.append(partition, tag, payload.clone()).await {
            Ok(_) => return observe(Stage::GatewayPublish, started.elapsed()),
            // Once the outcome is unknown, a refusal speaks of that attempt alone: an earlier one may have come
            // through. The waiters are told `timeout` meanwhile.
            Err(error) if unknown || matches!(error, BusError::Timeout(_)) => {
                unknown = true;
                tracing::warn!(partition, %error, "a publish has an unknown outcome and is repeated");
                tokio::time::sleep(REPEAT_DELAY).await;
            }
            Err(error) => {
                tracing::warn!(partition, %error, commands = requests.len(), "the log refused commands");
                for request in requests {
                    let message = "the message log cannot take it now: try again";
                    let failure = Failure::new(ErrorCode::Unavailable, message).retry_after(1_000);
                    shared.pending.resolve(request, Err(failure));
                }
                return;
            }
        }
    }
}
