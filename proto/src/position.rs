//! Positions in a partition's command log, and the write timestamps that follow from them.

use crate::limits::ENTRY_COMMANDS_MAX;
use crate::wire;

/// The place of a command in its partition's log. Rows, deduplication and write timestamps are ordered by positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The incarnation in which the command was applied.
    pub incarnation: u32,
    /// The entry's sequence in the log, from 1.
    pub sequence: u64,
    /// The command's index in its entry, below [`ENTRY_COMMANDS_MAX`].
    pub index: u32,
}

/// An incarnation of a partition's log. A new one starts when the log lost entries or was recreated, and when a worker
/// takes the partition over from an owner whose writes may still be in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation {
    /// Rises by one with every incarnation, from 1.
    pub number: u32,
    /// The first sequence that belongs to this incarnation.
    pub first_sequence: u64,
    /// Write timestamps of this incarnation start here, in microseconds since 1970.
    pub base_us: i64,
    /// The log generation: since when the log has lost no entries.
    pub generation: LogGeneration,
}

/// A log generation: the incarnation that started when the log last lost entries or was recreated. In that incarnation
/// and all later ones of the same generation, a sequence means the same entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogGeneration {
    /// The number of that incarnation.
    pub incarnation: u32,
    /// The first sequence of that incarnation.
    pub first_sequence: u64,
}

/// Write timestamps from one entry to the next: one for each command that an entry can hold.
pub const TIMESTAMPS_PER_ENTRY: i64 = 256;
const _: () = assert!(ENTRY_COMMANDS_MAX as i64 <= TIMESTAMPS_PER_ENTRY);

impl Incarnation {
    /// An incarnation that starts a new log generation: the first one, or one after the log lost entries.
    pub const fn new(number: u32, first_sequence: u64, base_us: i64) -> Incarnation {
        Incarnation {
            number,
            first_sequence,
            base_us,
            generation: LogGeneration { incarnation: number, first_sequence },
        }
    }

    /// The position of the command at `index` of the entry at `sequence`.
    pub fn position(&self, sequence: u64, index: u32) -> Position {
        Position { incarnation: self.number, sequence, index }
    }

    /// The write timestamp of all that the command at `sequence`, `index` writes, in microseconds. A replay or a second
    /// worker uses the same timestamp, so the last writer of a cell does not matter.
    pub fn timestamp_us(&self, sequence: u64, index: u32) -> i64 {
        let offset = sequence.saturating_sub(self.first_sequence) as i64;
        self.base_us + TIMESTAMPS_PER_ENTRY * offset + i64::from(index)
    }

    /// The next incarnation, of a new log generation. `now_us` is the time of detection, and `last_sequence` is the
    /// log's last sequence then.
    pub fn next(&self, last_sequence: u64, now_us: i64) -> Incarnation {
        let above_all_earlier = self.timestamp_us(last_sequence.max(self.first_sequence) + 1, 0) + 1;
        Incarnation::new(self.number + 1, last_sequence + 1, now_us.max(above_all_earlier))
    }

    /// The next incarnation of the same log generation, from `first_sequence` on. `base_us` must be above every
    /// timestamp that this incarnation can have written.
    pub fn taken_over(&self, first_sequence: u64, base_us: i64) -> Incarnation {
        Incarnation { number: self.number + 1, first_sequence, base_us, generation: self.generation }
    }

    /// The first incarnation of a new log.
    pub fn first(now_us: i64) -> Incarnation {
        Incarnation::new(1, 1, now_us)
    }

    /// Whether the sequence of `position` still means the same entry: `position` is of this log generation and not of a
    /// later incarnation than this one.
    pub fn stands_on(&self, position: Position) -> bool {
        (self.generation.incarnation..=self.number).contains(&position.incarnation)
    }
}

impl From<Position> for wire::Position {
    fn from(position: Position) -> Self {
        let Position { incarnation, sequence, index } = position;
        wire::Position { incarnation, sequence, index }
    }
}

impl From<wire::Position> for Position {
    fn from(position: wire::Position) -> Self {
        let wire::Position { incarnation, sequence, index } = position;
        Position { incarnation, sequence, index }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_rise_with_positions_and_over_incarnations() {
        let first = Incarnation::first(1_000_000);
        assert!(first.timestamp_us(1, 255) < first.timestamp_us(2, 0));
        // The clock was set back, and the log grew far ahead of it: the next incarnation's timestamps are still higher.
        let next = first.next(50_000_000, 900_000);
        assert!(next.base_us > first.timestamp_us(50_000_000, 255));
        assert_eq!(next.first_sequence, 50_000_001);
        assert!(next.position(1, 0) > first.position(u64::MAX, 255));
        // A recreated log starts at sequence 1 again.
        assert!(next.next(0, 0).base_us > next.base_us);
    }

    #[test]
    fn incarnations_after_a_takeover_stay_in_the_same_log_generation() {
        let first = Incarnation::new(3, 40, 1_000_000);
        let last = first.taken_over(60, 9_000_000).taken_over(60, 19_000_000);
        assert_eq!((last.number, last.generation), (5, LogGeneration { incarnation: 3, first_sequence: 40 }));
        let position = |incarnation| Position { incarnation, sequence: 50, index: 0 };
        let standing: Vec<u32> = (1..=7).filter(|number| last.stands_on(position(*number))).collect();
        assert_eq!(standing, [3, 4, 5]);
        assert!(
            !last.next(70, 0).stands_on(position(5)),
            "positions of an earlier log generation must not count"
        );
    }
}
