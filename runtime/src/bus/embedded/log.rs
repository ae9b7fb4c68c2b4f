//! One partition's log in memory, and its readers.

use crate::bus::{BusError, LogBounds, LogEntry, LogReader};
use crate::collections::Spare;
use crate::time::wall_ms;
use async_trait::async_trait;
use bytes::Bytes;
use carillon_proto::id::Tag;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;

/// Most bytes of one log: a second of a partition's traffic at the highest rate one process is built for. Further
/// appends are refused until the worker purges the entries below its checkpoint.
pub(super) const LOG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Memory that an entry needs besides its payload.
const ENTRY_OVERHEAD_BYTES: usize = 96;
/// How many tags are remembered to recognise repeated appends. No append to this log has an unknown outcome, and a
/// gateway has one append in flight per log, so only a short burst of repeats has to be recognised. Remembering tags
/// for two minutes, as JetStream does, would need 0.7 MiB per log.
const TAGS_MAX: usize = 512;

#[derive(Default)]
struct State {
    entries: VecDeque<LogEntry>,
    last: u64,
    bytes: usize,
    time_ms: u64,
    sequences: HashMap<Tag, u64>,
    /// The tags in `sequences`, oldest first.
    recent: VecDeque<Tag>,
}

/// A log with any number of writers and readers.
#[derive(Default)]
pub(super) struct Log {
    state: Mutex<State>,
    grown: Notify,
}

fn size_bytes(entry: &LogEntry) -> usize {
    entry.payload.len() + ENTRY_OVERHEAD_BYTES
}

impl State {
    fn bounds(&self) -> LogBounds {
        LogBounds { first: self.last + 1 - self.entries.len() as u64, last: self.last }
    }

    fn index_of(&self, sequence: u64) -> Option<usize> {
        let LogBounds { first, last } = self.bounds();
        (first..=last).contains(&sequence).then(|| (sequence - first) as usize)
    }

    fn remember(&mut self, tag: Tag, sequence: u64) {
        if self.recent.len() == TAGS_MAX
            && let Some(oldest) = self.recent.pop_front()
        {
            self.sequences.remove(&oldest);
        }
        self.sequences.insert(tag, sequence);
        self.recent.push_back(tag);
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the time of an entry is stored, and shown with its messages"
    )]
    fn append(&mut self, tag: Tag, payload: Bytes) -> Result<u64, BusError> {
        if let Some(sequence) = self.sequences.get(&tag) {
            return Ok(*sequence);
        }
        // If the wall clock is set back, a later entry must not look older.
        let time_ms = self.time_ms.max(wall_ms());
        let entry = LogEntry { sequence: self.last + 1, tag, time_ms, payload };
        let bytes = size_bytes(&entry);
        if self.bytes + bytes > LOG_BYTES_MAX {
            return Err(BusError::Unavailable("the log is full: its worker has to purge it".into()));
        }
        (self.last, self.time_ms) = (entry.sequence, time_ms);
        self.bytes += bytes;
        self.entries.push_back(entry);
        self.remember(tag, self.last);
        Ok(self.last)
    }
}

impl Log {
    pub(super) fn append(&self, tag: Tag, payload: Bytes) -> Result<u64, BusError> {
        let appended = self.state.lock().append(tag, payload);
        self.grown.notify_waiters();
        appended
    }

    pub(super) fn bounds(&self) -> LogBounds {
        self.state.lock().bounds()
    }

    pub(super) fn entry(&self, sequence: u64) -> Option<LogEntry> {
        let state = self.state.lock();
        state.index_of(sequence).map(|index| state.entries[index].clone())
    }

    pub(super) fn purge(&self, below: u64) {
        let mut state = self.state.lock();
        while state.entries.front().is_some_and(|entry| entry.sequence < below) {
            let purged = state.entries.pop_front().map_or(0, |entry| size_bytes(&entry));
            state.bytes -= purged;
        }
        state.entries.give_spare_back();
    }
}

/// A reader of a log in memory.
pub(super) struct Reader {
    log: Arc<Log>,
    next: u64,
}

impl Reader {
    pub(super) fn new(log: Arc<Log>, next: u64) -> Result<Reader, BusError> {
        let LogBounds { first, last } = log.bounds();
        if next < first || next > last + 1 {
            return Err(BusError::Broken(format!("the log holds {first} to {last}, not {next}")));
        }
        Ok(Reader { log, next })
    }

    fn read(&mut self, entries_max: usize) -> Result<Vec<LogEntry>, BusError> {
        let state = self.log.state.lock();
        let LogBounds { first, last } = state.bounds();
        if self.next < first {
            return Err(BusError::Broken(format!("the log holds {first} to {last}, not {}", self.next)));
        }
        let from = (self.next - first) as usize;
        let entries: Vec<_> = state.entries.iter().skip(from).take(entries_max.max(1)).cloned().collect();
        self.next += entries.len() as u64;
        Ok(entries)
    }
}

#[async_trait]
impl LogReader for Reader {
    async fn next(&mut self, entries_max: usize) -> Result<Vec<LogEntry>, BusError> {
        consume_budget().await;
        loop {
            let log = self.log.clone();
            // Registered before looking for entries, so that an append between the two wakes this reader.
            let grown = log.grown.notified();
            let entries = self.read(entries_max)?;
            if !entries.is_empty() {
                return Ok(entries);
            }
            grown.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(number: u64) -> Tag {
        Tag(u128::from(number).to_be_bytes())
    }

    #[test]
    fn a_full_log_refuses_until_it_is_purged_and_remembers_its_tags() {
        let log = Log::default();
        let payload = Bytes::from(vec![0; LOG_BYTES_MAX / 4 - ENTRY_OVERHEAD_BYTES]);
        for number in 1..=4 {
            assert_eq!(log.append(tag(number), payload.clone()), Ok(number));
        }
        assert!(matches!(log.append(tag(5), payload.clone()), Err(BusError::Unavailable(_))));
        assert_eq!(
            log.append(tag(2), payload.clone()),
            Ok(2),
            "a repeated entry must be accepted in a full log"
        );
        log.purge(3);
        assert_eq!(log.bounds(), LogBounds { first: 3, last: 4 });
        assert_eq!(log.append(tag(5), payload), Ok(5));
        log.purge(100);
        assert_eq!(log.bounds(), LogBounds { first: 6, last: 5 });
        assert_eq!(log.state.lock().bytes, 0);
    }

    #[test]
    fn remembered_tags_are_bounded_and_times_never_fall() {
        let log = Log::default();
        log.state.lock().time_ms = u64::MAX;
        for number in 1..=TAGS_MAX as u64 + 1 {
            log.append(tag(number), Bytes::new()).expect("room");
        }
        assert_eq!(log.entry(1).expect("held").time_ms, u64::MAX);
        assert_eq!(log.state.lock().recent.len(), TAGS_MAX);
        assert_eq!(log.state.lock().sequences.len(), TAGS_MAX);
        assert_eq!(log.append(tag(2), Bytes::new()), Ok(2), "the oldest remembered tag must be recognised");
        assert_eq!(
            log.append(tag(1), Bytes::new()),
            Ok(TAGS_MAX as u64 + 2),
            "a forgotten tag must be appended as a new entry"
        );
    }
}
