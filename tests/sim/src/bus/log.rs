//! A partition's log. It can lose its tail and use the same sequences again.

use bytes::Bytes;
use carillon_proto::id::Tag;
use carillon_runtime::bus::{LogBounds, LogEntry};
use carillon_runtime::time::wall_ms;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// How long a log recognises a repeated tag, as the `Bus` trait promises.
pub const TAGS_KEPT: Duration = Duration::from_secs(120);

/// One partition's log.
#[derive(Default)]
pub struct Log {
    entries: VecDeque<LogEntry>,
    last: u64,
    time_ms: u64,
    /// Sequence and arrival time of recent entries by tag, to recognise repeated appends.
    tags: BTreeMap<[u8; 16], (u64, Instant)>,
    /// How often the log lost entries, including renewals.
    pub losses: u64,
    /// How often the log was recreated empty.
    pub renewals: u64,
}

impl Log {
    /// Appends an entry and returns its sequence. If an entry with this tag was appended less than `tags_kept` ago (at
    /// most [`TAGS_KEPT`]), it appends nothing and returns that entry's sequence.
    #[expect(
        clippy::disallowed_methods,
        reason = "the time of an entry is stored, and shown with its messages"
    )]
    pub fn append(&mut self, tag: Tag, payload: Bytes, tags_kept: Duration) -> u64 {
        let now = Instant::now();
        self.tags.retain(|_, (_, at)| now.duration_since(*at) < TAGS_KEPT);
        if let Some((sequence, at)) = self.tags.get(&tag.0)
            && now.duration_since(*at) < tags_kept
        {
            return *sequence;
        }
        self.time_ms = self.time_ms.max(wall_ms());
        self.last += 1;
        self.entries.push_back(LogEntry { sequence: self.last, tag, time_ms: self.time_ms, payload });
        self.tags.insert(tag.0, (self.last, now));
        self.last
    }

    /// The first and last sequence in the log.
    pub fn bounds(&self) -> LogBounds {
        LogBounds { first: self.last + 1 - self.entries.len() as u64, last: self.last }
    }

    /// The entry with this sequence, if the log holds it.
    pub fn entry(&self, sequence: u64) -> Option<LogEntry> {
        let LogBounds { first, last } = self.bounds();
        (first..=last).contains(&sequence).then(|| self.entries[(sequence - first) as usize].clone())
    }

    /// At most `entries_max` entries, from this sequence on.
    pub fn from(&self, sequence: u64, entries_max: usize) -> Vec<LogEntry> {
        let from = sequence.saturating_sub(self.bounds().first) as usize;
        self.entries.iter().skip(from).take(entries_max).cloned().collect()
    }

    /// Removes all entries below this sequence.
    pub fn purge(&mut self, below: u64) {
        while self.entries.front().is_some_and(|entry| entry.sequence < below) {
            self.entries.pop_front();
        }
    }

    /// Loses all entries above this sequence and their tags, as if an older copy of the log took over.
    pub fn roll_back(&mut self, to: u64) {
        self.losses += 1;
        while self.entries.back().is_some_and(|entry| entry.sequence > to) {
            self.entries.pop_back();
        }
        self.last = self.last.min(to);
        self.tags.retain(|_, (sequence, _)| *sequence <= to);
    }

    /// Replaces the log by an empty one.
    pub fn recreate(&mut self) {
        *self = Log { losses: self.losses + 1, renewals: self.renewals + 1, ..Log::default() };
    }
}
