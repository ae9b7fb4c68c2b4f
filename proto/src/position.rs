//! Positions in a partition's command log, and the write timestamps that follow from them.

use crate::limits::ENTRY_COMMANDS_MAX;
use crate::wire;

/// Where a command stands in its partition's log. Positions order everything that is derived from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The log's life.
    pub incarnation: u32,
    /// The entry's sequence in the log, from 1.
    pub sequence: u64,
    /// The command's place in its entry, below [`ENTRY_COMMANDS_MAX`].
    pub index: u32,
}

/// A life of a partition's log. Another begins when the log lost its tail or was made anew, and when an owner takes
/// over from one whose writes may still be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation {
    /// Rises by one with every life, from 1.
    pub number: u32,
    /// The first sequence that belongs to this life.
    pub first_sequence: u64,
    /// Write timestamps of this life start here, microseconds since 1970.
    pub base_us: i64,
    /// Since when the log has not forgotten anything.
    pub ground: Ground,
}

/// The life that began when a log last forgot something. In it and all that follow it on the same ground a sequence
/// means the same entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ground {
    /// Its number.
    pub incarnation: u32,
    /// Its first sequence.
    pub first_sequence: u64,
}

/// Write timestamps between two neighbouring entries: one for each command an entry can hold.
pub const TIMESTAMPS_PER_ENTRY: i64 = 256;
const _: () = assert!(ENTRY_COMMANDS_MAX as i64 <= TIMESTAMPS_PER_ENTRY);

impl Incarnation {
    /// A life that begins because the log forgot something, or is the first.
    pub const fn new(number: u32, first_sequence: u64, base_us: i64) -> Incarnation {
        Incarnation {
            number,
            first_sequence,
            base_us,
            ground: Ground { incarnation: number, first_sequence },
        }
    }

    /// The position of the command at `index` of the entry at `sequence`.
    pub fn position(&self, sequence: u64, index: u32) -> Position {
        Position { incarnation: self.number, sequence, index }
    }

    /// The write timestamp of what the command at `sequence`, `index` writes, in microseconds. Replay and
    /// a second worker write with the same one, so that a cell has one winner whoever writes last.
    pub fn timestamp_us(&self, sequence: u64, index: u32) -> i64 {
        let offset = sequence.saturating_sub(self.first_sequence) as i64;
        self.base_us + TIMESTAMPS_PER_ENTRY * offset + i64::from(index)
    }

    /// The life that follows this one, detected at `now_us` when the log's last sequence was `last_sequence`.
    pub fn next(&self, last_sequence: u64, now_us: i64) -> Incarnation {
        let above_all_earlier = self.timestamp_us(last_sequence.max(self.first_sequence) + 1, 0) + 1;
        Incarnation::new(self.number + 1, last_sequence + 1, now_us.max(above_all_earlier))
    }

    /// The life that follows this one on the same ground, from `first_sequence` on. `base_us` lies above all that this
    /// one can have written.
    pub fn taken_over(&self, first_sequence: u64, base_us: i64) -> Incarnation {
        Incarnation { number: self.number + 1, first_sequence, base_us, ground: self.ground }
    }

    /// The first life of a log that nobody has worked yet.
    pub fn first(now_us: i64) -> Incarnation {
        Incarnation::new(1, 1, now_us)
    }

    /// Whether a sequence meant the same entry when a position was given, as far as is known.
    pub fn stands_on(&self, position: Position) -> bool {
        (self.ground.incarnation..=self.number).contains(&position.incarnation)
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
        // The clock went back, and the log grew far ahead of it: the next life still lies above.
        let next = first.next(50_000_000, 900_000);
        assert!(next.base_us > first.timestamp_us(50_000_000, 255));
        assert_eq!(next.first_sequence, 50_000_001);
        assert!(next.position(1, 0) > first.position(u64::MAX, 255));
        // A log made anew starts at sequence 1 again.
        assert!(next.next(0, 0).base_us > next.base_us);
    }

    #[test]
    fn lives_that_take_over_stand_on_the_same_ground() {
        let first = Incarnation::new(3, 40, 1_000_000);
        let taken = first.taken_over(60, 9_000_000).taken_over(60, 19_000_000);
        assert_eq!((taken.number, taken.ground), (5, Ground { incarnation: 3, first_sequence: 40 }));
        let life = |incarnation| Position { incarnation, sequence: 50, index: 0 };
        let standing: Vec<u32> = (1..=7).filter(|number| taken.stands_on(life(*number))).collect();
        assert_eq!(standing, [3, 4, 5]);
        assert!(!taken.next(70, 0).stands_on(life(5)), "the log forgot");
    }
}
