//! A partition's log, which can lose its tail and reuse the sequences.

use bytes::Bytes;
use carillon_proto::id::Tag;
use carillon_runtime::bus::{LogBounds, LogEntry};
use carillon_runtime::time::wall_ms;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// How long a log recognises a tag, by the trait's promise.
pub const TAGS_KEPT: Duration = Duration::from_secs(120);

/// One partition's log.
#[derive(Default)]
pub struct Log {
    entries: VecDeque<LogEntry>,
    last: u64,
    time_ms: u64,
    /// Tags by which repeated appends are recognised, with when they came.
    tags: BTreeMap<[u8; 16], (u64, Instant)>,
    /// How often it lost something.
    pub losses: u64,
    /// How often it was made anew.
    pub renewals: u64,
}

impl Log {
    /// Takes an entry, unless its tag was taken within this time, at most [`TAGS_KEPT`].
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

    /// What it holds.
    pub fn bounds(&self) -> LogBounds {
        LogBounds { first: self.last + 1 - self.entries.len() as u64, last: self.last }
    }

    /// The entry of this sequence.
    pub fn entry(&self, sequence: u64) -> Option<LogEntry> {
        let LogBounds { first, last } = self.bounds();
        (first..=last).contains(&sequence).then(|| self.entries[(sequence - first) as usize].clone())
    }

    /// Entries from this sequence on.
    pub fn from(&self, sequence: u64, entries_max: usize) -> Vec<LogEntry> {
        let from = sequence.saturating_sub(self.bounds().first) as usize;
        self.entries.iter().skip(from).take(entries_max).cloned().collect()
    }

    /// Forgets what lies below.
    pub fn purge(&mut self, below: u64) {
        while self.entries.front().is_some_and(|entry| entry.sequence < below) {
            self.entries.pop_front();
        }
    }

    /// Loses everything above this sequence, with its memory of tags: an older copy took over.
    pub fn roll_back(&mut self, to: u64) {
        self.losses += 1;
        while self.entries.back().is_some_and(|entry| entry.sequence > to) {
            self.entries.pop_back();
        }
        self.last = self.last.min(to);
        self.tags.retain(|_, (sequence, _)| *sequence <= to);
    }

    /// Is made anew, empty.
    pub fn recreate(&mut self) {
        *self = Log { losses: self.losses + 1, renewals: self.renewals + 1, ..Log::default() };
    }
}
