//! How much of the log behind the checkpoint is kept: enough that a paused worker finds its place again, and bounded in
//! time and bytes. The checkpoint's own entry always stays, because its tag is compared.

use std::collections::VecDeque;

/// What is kept behind the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Milliseconds of steady time since a checkpoint. The entries below a checkpoint are older than the checkpoint.
    pub(crate) time_ms: u64,
    /// Bytes of entries.
    pub(crate) bytes: u64,
}

/// The checkpoints that were written, and how many bytes of entries lie between them.
#[derive(Debug)]
pub(crate) struct Purge {
    kept: Kept,
    marks: VecDeque<Mark>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    sequence: u64,
    time_ms: u64,
    /// Bytes of all entries up to this one since the start.
    bytes: u64,
}

/// The most marks that are kept: one a second for ten minutes, and some more.
const MARKS_MAX: usize = 1_024;

impl Purge {
    pub(crate) fn new(kept: Kept) -> Purge {
        Purge { kept, marks: VecDeque::new() }
    }

    /// Notes that a checkpoint was written at this steady time. `bytes` of entries were applied so far.
    pub(crate) fn checkpointed(&mut self, sequence: u64, time_ms: u64, bytes: u64) {
        if self.marks.len() == MARKS_MAX {
            self.marks.pop_front();
        }
        self.marks.push_back(Mark { sequence, time_ms, bytes });
    }

    /// The sequence below which the log may be purged at this steady time. `None` if that has not risen since the last
    /// call.
    pub(crate) fn due(&mut self, now_ms: u64) -> Option<u64> {
        let newest = *self.marks.back()?;
        let too_much = |mark: &Mark| {
            mark.time_ms + self.kept.time_ms <= now_ms || mark.bytes + self.kept.bytes <= newest.bytes
        };
        let spent = self.marks.iter().take_while(|mark| too_much(mark)).count();
        let below = self.marks.get(spent.checked_sub(1)?)?.sequence;
        self.marks.drain(..spent);
        Some(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_purged_by_time_or_by_bytes_and_the_checkpoint_stays() {
        let mut purge = Purge::new(Kept { time_ms: 1_000, bytes: 100 });
        assert_eq!(purge.due(0), None);
        purge.checkpointed(10, 500, 40);
        purge.checkpointed(20, 900, 80);
        assert_eq!(purge.due(1_499), None);
        assert_eq!(purge.due(1_500), Some(10), "checkpoint 10 is one second old");
        assert_eq!(purge.due(1_500), None, "a bound is returned once");
        purge.checkpointed(30, 1_400, 180);
        assert_eq!(purge.due(1_500), Some(20), "100 bytes lie above checkpoint 20");
        assert_eq!(purge.due(60_000), Some(30), "the bound is the checkpoint that was reported");
    }

    #[test]
    fn a_log_of_this_process_keeps_nothing_behind_the_checkpoint() {
        let mut purge = Purge::new(Kept { time_ms: 0, bytes: 0 });
        purge.checkpointed(7, 900, 10);
        assert_eq!(purge.due(1_000), Some(7));
    }
}
