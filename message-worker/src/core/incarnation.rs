//! Decides whether a partition's log still is the one that was worked before, and where work begins. A log that has
//! lost entries needs a new incarnation, so that its new entries are not taken for the lost ones.

use super::partition_state::PartitionState;
use crate::limits::{ENTRIES_ABOVE_CHECKPOINT_MAX, QUEUE_ENTRIES_MAX};
use carillon_proto::id::Tag;
use carillon_proto::position::{Incarnation, TIMESTAMPS_PER_ENTRY};
use carillon_runtime::bus::LogBounds;

/// What is known when the work on a partition begins.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The partition's state in the store.
    pub(crate) state: PartitionState,
    /// The first and last sequence that the log holds.
    pub(crate) bounds: LogBounds,
    /// The tag of the log's entry at the checkpoint's sequence, if it holds one.
    pub(crate) tag_at_checkpoint: Option<Tag>,
    /// The log belongs to this process and was made with it: unless it holds the checkpoint's entry, none of its
    /// entries was ever applied.
    pub(crate) made_anew: bool,
    /// The present incarnation is known to be over, because the log no longer holds what was read from it.
    pub(crate) forgotten: bool,
    /// The tenure names another owner, which may still be writing.
    pub(crate) has_other_owner: bool,
    /// The wall clock, microseconds since 1970.
    pub(crate) now_us: i64,
}

/// How the work on a partition begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// In the present incarnation, with the entry at `from`.
    Continue {
        incarnation: Incarnation,
        /// The first entry to apply.
        from: u64,
    },
    /// With the first incarnation: the partition was never worked.
    First(Incarnation),
    /// With another incarnation in the same log generation, from the entry at its first sequence on. Writes that the
    /// former owner still has under way have timestamps below those of this incarnation.
    TakeOver(Incarnation),
    /// With another incarnation in a new log generation, because the log has lost entries.
    Renew {
        /// The incarnation that begins.
        next: Incarnation,
        /// The reason, as the log shows it.
        reason: &'static str,
    },
}

impl Start {
    /// The incarnation in which work begins, and the first entry to apply.
    pub(crate) fn begins_at(&self) -> (Incarnation, u64) {
        match *self {
            Start::Continue { incarnation, from } => (incarnation, from),
            Start::First(next) | Start::TakeOver(next) | Start::Renew { next, .. } => {
                (next, next.first_sequence)
            }
        }
    }
}

/// Decides how the work begins.
pub(crate) fn decide(found: &Found) -> Start {
    let Found { state, bounds, tag_at_checkpoint, .. } = found;
    let Some(incarnation) = state.incarnation() else {
        let Incarnation { number, base_us, .. } = Incarnation::first(found.now_us);
        return Start::First(Incarnation::new(number, bounds.first.max(1), base_us));
    };
    let renew = |reason| Start::Renew { next: next_incarnation(found, incarnation), reason };
    let go_on = |from| match found.has_other_owner {
        true => Start::TakeOver(incarnation.taken_over(from, base_us_after(found, incarnation))),
        false => Start::Continue { incarnation, from },
    };
    if found.forgotten {
        return renew("the log does not hold an entry that was read from it");
    }
    match state.checkpoint.filter(|checkpoint| incarnation.stands_on(checkpoint.position)) {
        Some(checkpoint) if *tag_at_checkpoint == Some(checkpoint.tag) => {
            go_on(checkpoint.position.sequence + 1)
        }
        _ if found.made_anew => renew("the log was created when this process started"),
        Some(checkpoint) if checkpoint.position.sequence > bounds.last => {
            renew("the log ends below the checkpoint")
        }
        Some(_) if tag_at_checkpoint.is_some() => renew("the log holds another entry at the checkpoint"),
        Some(_) => renew("the log begins above the checkpoint"),
        // This log generation has no checkpoint yet. Its rows, if there are any, are compared with the log when they
        // are loaded.
        None if bounds.last + 1 < incarnation.first_sequence => {
            renew("the log ends below the first entry of this incarnation")
        }
        None if bounds.first > incarnation.first_sequence => {
            renew("the log begins above the first entry of this incarnation")
        }
        None => go_on(incarnation.first_sequence),
    }
}

/// How many entries above its checkpoint a worker can have written: up to the bound, and two groups that began below
/// it.
const WRITTEN_ABOVE_CHECKPOINT_MAX: u64 = ENTRIES_ABOVE_CHECKPOINT_MAX + 2 * QUEUE_ENTRIES_MAX as u64;

/// The incarnation after `previous`, for a log that has lost entries.
fn next_incarnation(found: &Found, previous: Incarnation) -> Incarnation {
    let next = previous.next(found.bounds.last, base_us_after(found, previous));
    // No entry of a log of this process was acknowledged in an earlier incarnation, so all of them are applied.
    let first_sequence = if found.made_anew { found.bounds.first.max(1) } else { next.first_sequence };
    Incarnation::new(next.number, first_sequence, next.base_us)
}

/// The first timestamp for the next incarnation, above every timestamp that `previous` can have written.
fn base_us_after(found: &Found, previous: Incarnation) -> i64 {
    let checkpoint = found.state.checkpoint.filter(|checkpoint| previous.stands_on(checkpoint.position));
    let worked = checkpoint.map_or(0, |checkpoint| checkpoint.position.sequence);
    let from = worked.max(previous.first_sequence);
    found.now_us.max(previous.timestamp_us(from + WRITTEN_ABOVE_CHECKPOINT_MAX + 2, 0))
}

/// The write timestamp of a checkpoint at the entry before an incarnation's first: above all timestamps of earlier
/// incarnations, and below all of its own.
pub(crate) fn checkpoint_before_us(incarnation: Incarnation) -> i64 {
    incarnation.base_us - 1
}

const _: () =
    assert!(TIMESTAMPS_PER_ENTRY > 1, "base_us - 1 must be above all timestamps of the incarnation before");

#[cfg(test)]
mod tests {
    use super::super::partition_state::{Checkpoint, Tenure};
    use super::*;

    const TAG: Tag = Tag([7; 16]);
    const INCARNATION: Incarnation = Incarnation::new(4, 100, 1_000_000);

    fn checkpoint(incarnation: u32, sequence: u64) -> Checkpoint {
        let position = carillon_proto::position::Position { incarnation, sequence, index: 2 };
        Checkpoint { position, tag: TAG, timestamp_us: 1, version: 1 }
    }

    fn found(first: u64, last: u64, checkpoint: Option<Checkpoint>, tag_at_checkpoint: Option<Tag>) -> Found {
        found_in(INCARNATION, first, last, checkpoint, tag_at_checkpoint)
    }

    fn found_in(
        incarnation: Incarnation,
        first: u64,
        last: u64,
        checkpoint: Option<Checkpoint>,
        tag_at_checkpoint: Option<Tag>,
    ) -> Found {
        let state =
            PartitionState { tenure: Some(Tenure { incarnation, epoch: 0, owner: None }), checkpoint };
        let bounds = LogBounds { first, last };
        let (made_anew, forgotten, has_other_owner) = (false, false, false);
        Found { state, bounds, tag_at_checkpoint, made_anew, forgotten, has_other_owner, now_us: 5_000_000 }
    }

    #[test]
    fn work_goes_on_where_the_log_is_still_the_same() {
        let at = |from| Start::Continue { incarnation: INCARNATION, from };
        assert_eq!(decide(&found(90, 150, Some(checkpoint(4, 120)), Some(TAG))), at(121));
        assert_eq!(decide(&found(120, 120, Some(checkpoint(4, 120)), Some(TAG))), at(121));
        // There is no checkpoint of this incarnation. The previous incarnation's checkpoint does not matter.
        assert_eq!(decide(&found(90, 150, Some(checkpoint(3, 98)), None)), at(100));
        assert_eq!(decide(&found(100, 99, None, None)), at(100));
    }

    #[test]
    fn taking_over_from_an_owner_that_may_be_writing_starts_an_incarnation_in_the_same_log_generation() {
        let taken = INCARNATION.taken_over(130, 9_000_000);
        let cases = [
            ("checkpointed", found(90, 150, Some(checkpoint(4, 120)), Some(TAG)), 121),
            ("nothing checkpointed", found(90, 150, Some(checkpoint(3, 98)), None), 100),
            (
                "taken over before, and nothing checkpointed since",
                { found_in(taken, 90, 150, Some(checkpoint(4, 129)), Some(TAG)) },
                130,
            ),
            (
                "a former owner went on for a moment",
                { found_in(taken, 90, 150, Some(checkpoint(4, 133)), Some(TAG)) },
                134,
            ),
        ];
        for (what, found, from) in cases {
            let incarnation = found.state.incarnation().expect("an incarnation");
            assert_eq!(
                decide(&found),
                Start::Continue { incarnation, from },
                "{what}: a released tenure continues its incarnation"
            );
            let Start::TakeOver(next) = decide(&Found { has_other_owner: true, ..found.clone() }) else {
                panic!("{what}: a held tenure must be taken over with a new incarnation")
            };
            let expected = (incarnation.number + 1, from, INCARNATION.generation);
            assert_eq!((next.number, next.first_sequence, next.generation), expected, "{what}");
            let written_max = incarnation.timestamp_us(from - 1 + WRITTEN_ABOVE_CHECKPOINT_MAX, 255);
            assert!(
                checkpoint_before_us(next) > written_max,
                "{what}: timestamps of the new incarnation must be above all written ones"
            );
            // The log decides, whether the tenure names an owner or not.
            let forgot = Found { has_other_owner: true, forgotten: true, ..found };
            assert!(
                matches!(decide(&forgot), Start::Renew { next, .. } if next.generation != INCARNATION.generation),
                "{what}"
            );
        }
    }

    #[test]
    fn a_log_that_lost_entries_starts_another_log_generation() {
        let other = Some(Tag([8; 16]));
        let forgotten = Found { forgotten: true, ..found(90, 150, Some(checkpoint(4, 120)), Some(TAG)) };
        let made_anew = Found { made_anew: true, ..found(100, 99, None, None) };
        let cases = [
            ("another entry", found(90, 150, Some(checkpoint(4, 120)), other), 151),
            ("made anew and empty", found(1, 0, Some(checkpoint(4, 120)), None), 1),
            ("lost its tail", found(90, 119, Some(checkpoint(4, 120)), None), 120),
            ("purged past the checkpoint", found(130, 150, Some(checkpoint(4, 120)), None), 151),
            ("no checkpoint, lost its tail", found(1, 98, None, None), 99),
            ("no checkpoint, purged", found(101, 150, None, None), 151),
            ("a row was not in it", forgotten, 151),
            ("of this process", made_anew, 100),
        ];
        for (what, found, first_sequence) in cases {
            let Start::Renew { next, .. } = decide(&found) else {
                panic!("{what}: a new log generation was expected")
            };
            assert_eq!((next.number, next.first_sequence), (5, first_sequence), "{what}");
            assert_eq!(next.generation, Incarnation::new(5, first_sequence, 0).generation, "{what}");
        }
    }

    #[test]
    fn a_log_of_this_process_is_applied_from_its_first_entry() {
        // A gateway published before the worker began, and no other worker can have applied the entries.
        let Start::Renew { next, .. } =
            decide(&Found { made_anew: true, ..found(1, 3, Some(checkpoint(4, 2)), None) })
        else {
            panic!("a new log generation was expected")
        };
        assert_eq!(next.first_sequence, 1);
        // The worker stops and begins again in the same process.
        let worked = Found { made_anew: true, ..found(1, 3, Some(checkpoint(4, 2)), Some(TAG)) };
        assert_eq!(decide(&worked), Start::Continue { incarnation: INCARNATION, from: 3 });
    }

    #[test]
    fn the_first_incarnation_begins_at_the_first_entry_of_the_log() {
        let unworked = Found { state: PartitionState::default(), ..found(5, 9, None, None) };
        assert_eq!(decide(&unworked), Start::First(Incarnation::new(1, 5, 5_000_000)));
    }

    #[test]
    fn timestamps_of_an_incarnation_are_above_all_earlier_ones_however_fast_the_log_grew() {
        // More than 3,906 entries a second were written, so timestamps ran ahead of the clock. Then the log was made
        // anew.
        let worked = checkpoint(4, 90_000_000);
        let Start::Renew { next, .. } = decide(&found(1, 0, Some(worked), None)) else {
            panic!("a new log generation was expected")
        };
        let above_checkpoint = 90_000_000 + WRITTEN_ABOVE_CHECKPOINT_MAX;
        assert!(checkpoint_before_us(next) > INCARNATION.timestamp_us(above_checkpoint, 255));
        // An incarnation without a checkpoint can have been worked equally far above its first sequence.
        let Start::Renew { next, .. } = decide(&found(1, 0, None, None)) else {
            panic!("a new log generation was expected")
        };
        assert!(
            checkpoint_before_us(next) > INCARNATION.timestamp_us(100 + WRITTEN_ABOVE_CHECKPOINT_MAX, 255)
        );
    }
}
