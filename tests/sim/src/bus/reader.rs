//! Reads a log in order, by sequence, as a JetStream pull consumer does. Recreating the log always breaks the reader. A
//! log that loses its tail breaks only half of the readers (`watchful`): the others read on once the log has grown past
//! their position again.

use crate::gate::Cut;
use crate::node::Node;
use async_trait::async_trait;
use carillon_runtime::bus::{BusError, LogEntry, LogReader};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// Time between two checks of a log without new entries: it may have lost entries or be out of reach.
const LOOK: Duration = Duration::from_millis(250);
/// Time without contact after which the server counts as silent and the reader breaks.
const SILENCE: Duration = Duration::from_secs(2);

/// Reads one partition's log for one process.
pub(super) struct Reader {
    node: Node,
    partition: u32,
    next: u64,
    losses: u64,
    renewals: u64,
    /// Whether this reader notices that its log lost its tail.
    watchful: bool,
    /// Since when the reader has had no contact with its server.
    silent_since: Option<Instant>,
    /// When the entries that are already in the log reach the reader.
    coming: Option<Instant>,
    broken: bool,
}

impl Reader {
    pub(super) fn new(node: Node, partition: u32, next: u64) -> Reader {
        let (losses, renewals) = {
            let log = node.world.logs[partition as usize].lock();
            (log.losses, log.renewals)
        };
        let watchful = node.world.dice(|random| random.below(2) == 0);
        let (silent_since, coming, broken) = (None, None, false);
        Reader { node, partition, next, losses, renewals, watchful, silent_since, coming, broken }
    }

    /// Why the reader can no longer be used, if it cannot.
    fn trouble(&mut self) -> Option<&'static str> {
        let (first, losses, renewals) = {
            let log = self.node.world.logs[self.partition as usize].lock();
            (log.bounds().first, log.losses, log.renewals)
        };
        if self.broken {
            return Some("it broke before");
        }
        if self.node.gate.is_cut(Cut::Bus) {
            let since = *self.silent_since.get_or_insert_with(Instant::now);
            return (since.elapsed() > SILENCE).then_some("the server fell silent");
        }
        self.silent_since = None;
        if self.next < first {
            return Some("the log begins above");
        }
        if renewals != self.renewals {
            return Some("the log was made anew");
        }
        if self.watchful && losses != self.losses {
            return Some("the log lost its tail");
        }
        None
    }
}

#[async_trait]
impl LogReader for Reader {
    /// Removes no entries before the last await, so cancelling this call loses none.
    async fn next(&mut self, entries_max: usize) -> Result<Vec<LogEntry>, BusError> {
        loop {
            self.node.gate.running().await;
            let world = self.node.world.clone();
            // Created before the log is checked, so that an append after the check wakes this reader.
            let grown = world.grown[self.partition as usize].notified();
            if let Some(trouble) = self.trouble() {
                self.broken = true;
                self.node.note(format_args!("reader {} breaks: {trouble}", self.partition));
                return Err(BusError::Broken(trouble.into()));
            }
            let is_cut = self.node.gate.is_cut(Cut::Bus);
            let there = self.node.world.logs[self.partition as usize].lock().bounds().last >= self.next;
            if is_cut || !there {
                drop(timeout(LOOK, grown).await);
                continue;
            }
            let coming = *self.coming.get_or_insert_with(|| Instant::now() + self.node.world.latency());
            if Instant::now() < coming {
                sleep_until(coming).await;
                continue;
            }
            self.coming = None;
            if self.node.world.strikes(|weather| weather.reader_broken) {
                self.broken = true;
                continue;
            }
            let most = self.node.world.dice(|random| random.between(1..=32)) as usize;
            let entries = {
                let log = self.node.world.logs[self.partition as usize].lock();
                log.from(self.next, most.min(entries_max.max(1)))
            };
            if entries.is_empty() {
                continue;
            }
            self.next += entries.len() as u64;
            self.node.note(format_args!("reads log {} to {}", self.partition, self.next - 1));
            return Ok(entries);
        }
    }
}
