//! One task per partition publishes commands to the log. While it is idle, it publishes a command at once. While a
//! publish is in flight, commands queue up and form the next entry.

use crate::workers::pending::PendingCommands;
use carillon_proto::code::{ErrorCode, Failure};
use carillon_proto::id::Tag;
use carillon_proto::limits::{ENTRY_BYTES_MAX, ENTRY_COMMANDS_MAX, PUBLISH_QUEUE_COMMANDS_MAX};
use carillon_proto::wire;
use carillon_runtime::bus::{Bus, BusError, LEASE_MS};
use carillon_runtime::metrics::{Stage, observe};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Delay before the gateway repeats a publish that the log did not take, or whose outcome is unknown. Without a
/// connection, the bus refuses within this process. A server that refuses gets at most 20 repeats a second from each
/// partition.
const REPEAT_DELAY: Duration = Duration::from_millis(50);
/// How long commands wait while the log takes nothing, before they are refused. A server that restarts is usually back
/// sooner, and a refused client waits a second before it tries again. The time is that of a lease, because the
/// partition keeps its owner for as long.
const ABSENCE_MAX: Duration = Duration::from_millis(LEASE_MS);
/// How long an entry with an unknown outcome is repeated. The log recognises a repeat by its tag for two minutes; a
/// later one would be another entry. The clients received `timeout` long before.
const REPEATED_MAX: Duration = Duration::from_secs(100);

/// The handle of one partition's publisher.
pub struct Publisher(mpsc::Sender<wire::Command>);

impl Publisher {
    /// Queues a command for the log. Commands of one caller stay in order.
    ///
    /// # Errors
    /// `unavailable` when the queue is full, because then the log is not keeping up.
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

/// The log that one publisher appends to.
pub struct PartitionLog {
    /// The bus that holds the log.
    pub bus: Arc<dyn Bus>,
    /// The commands whose outcomes are awaited.
    pub pending: Arc<PendingCommands>,
    /// The partition of the log.
    pub partition: u32,
}

/// Publishes the queued commands, with one entry in flight at a time, until the gateway ends.
pub async fn run(log: PartitionLog, mut queue: mpsc::Receiver<wire::Command>) {
    let (mut held_back, mut absent_since) = (None, None);
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
        publish_entry(&log, commands, &mut absent_since).await;
    }
}

/// Publishes one entry. If the log does not take it, its commands are refused.
async fn publish_entry(log: &PartitionLog, commands: Vec<wire::Command>, absent_since: &mut Option<Instant>) {
    let PartitionLog { bus, pending, partition } = log;
    let requests: Vec<u64> = commands.iter().map(|command| command.request).collect();
    let payload = bytes::Bytes::from(wire::Entry { commands, version: 0 }.encode_to_vec());
    let tag = Tag(*uuid::Uuid::new_v4().as_bytes());
    pending.published(&requests, tag);
    let started = Instant::now();
    let append = || bus.append(*partition, tag, payload.clone());
    match repeated(*partition, absent_since, append).await {
        Ok(()) => observe(Stage::GatewayPublish, started.elapsed()),
        Err(error) => {
            tracing::warn!(partition, %error, commands = requests.len(), "the log refused commands");
            for request in requests {
                let message = "the message log cannot take it now: try again";
                let failure = Failure::new(ErrorCode::Unavailable, message).retry_after(1_000);
                pending.resolve(request, Err(failure));
            }
        }
    }
}

/// Appends an entry. Repeats it byte for byte, before any later entry: for at most `REPEATED_MAX` while its outcome is
/// unknown, otherwise until the log has taken nothing for `ABSENCE_MAX`. `absent_since`: since when the log has taken
/// nothing.
async fn repeated<F>(
    partition: u32,
    absent_since: &mut Option<Instant>,
    mut append: impl FnMut() -> F,
) -> Result<(), BusError>
where
    F: Future<Output = Result<u64, BusError>>,
{
    let (started, mut unknown) = (Instant::now(), false);
    loop {
        let Err(error) = append().await else {
            *absent_since = None;
            return Ok(());
        };
        let absent = absent_since.get_or_insert_with(Instant::now).elapsed();
        if !unknown && matches!(error, BusError::Timeout(_)) {
            unknown = true;
            tracing::warn!(partition, %error, "a publish has an unknown outcome and is repeated");
        }
        // Once the outcome is unknown, a refusal concerns only that attempt: an earlier one may have succeeded. The
        // clients that wait receive `timeout` meanwhile.
        if !unknown && absent >= ABSENCE_MAX || started.elapsed() >= REPEATED_MAX {
            return Err(error);
        }
        tokio::time::sleep(REPEAT_DELAY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn away() -> BusError {
        BusError::Unavailable("test".into())
    }

    fn lost() -> BusError {
        BusError::Timeout("test".into())
    }

    /// Before the fix, every command was refused at once while a server restarted, and the client sent it again a
    /// second later.
    #[tokio::test(start_paused = true)]
    async fn commands_wait_for_a_log_that_is_back_soon_but_not_for_one_that_stays_away() {
        let (started, mut absent_since) = (Instant::now(), None);
        let back = Cell::new(Duration::from_millis(600));
        let append = async || if started.elapsed() < back.get() { Err(away()) } else { Ok(1) };
        assert_eq!(repeated(0, &mut absent_since, append).await, Ok(()));
        assert!(started.elapsed() <= Duration::from_millis(700), "{:?}", started.elapsed());

        back.set(Duration::from_secs(60));
        let went = Instant::now();
        assert_eq!(repeated(0, &mut absent_since, append).await, Err(away()));
        assert!(went.elapsed() >= ABSENCE_MAX, "{:?}", went.elapsed());
        let later = Instant::now();
        assert_eq!(repeated(0, &mut absent_since, append).await, Err(away()));
        assert_eq!(later.elapsed(), Duration::ZERO, "a call must fail at once until the log is back");
        back.set(Duration::ZERO);
        assert_eq!(repeated(0, &mut absent_since, append).await, Ok(()));
        assert_eq!(absent_since, None);
    }

    /// Guards the repetition: a refusal after an unknown outcome does not mean that the log did not take the entry.
    #[tokio::test(start_paused = true)]
    async fn an_entry_that_the_log_may_have_taken_is_repeated_until_it_is_confirmed() {
        let (started, mut attempts) = (Instant::now(), 0);
        let append = || {
            attempts += 1;
            let (first, back) = (attempts == 1, started.elapsed() > 10 * ABSENCE_MAX);
            std::future::ready(if first {
                Err(lost())
            } else if back {
                Ok(1)
            } else {
                Err(away())
            })
        };
        assert_eq!(repeated(0, &mut None, append).await, Ok(()));
        assert!(started.elapsed() > 10 * ABSENCE_MAX);
    }

    /// Before the fix, an entry was repeated however long the log was away. Once the log had forgotten the tag, it took
    /// the entry a second time, and a backend's command without an actor was applied twice.
    #[tokio::test(start_paused = true)]
    async fn an_entry_is_not_repeated_after_the_log_may_have_forgotten_its_tag() {
        let started = Instant::now();
        let failed = repeated(0, &mut None, async || Err(lost())).await;
        assert_eq!(failed, Err(lost()));
        assert!((100..=101).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    }
}
