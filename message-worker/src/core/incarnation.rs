//! Whether a partition's log still is the one that was worked, and where work begins (design: "When the log
//! forgets").

use crate::limits::{ENTRIES_ABOVE_CHECKPOINT_MAX, QUEUE_ENTRIES_MAX};
use crate::store::PartitionState;
use carillon_proto::id::Tag;
use carillon_proto::position::{Incarnation, TIMESTAMPS_PER_ENTRY};
use carillon_runtime::bus::LogBounds;

/// What is known when a partition's work begins.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// What the store says.
    pub(crate) state: PartitionState,
    /// What the log holds.
    pub(crate) bounds: LogBounds,
    /// The tag of the log's entry at the checkpoint's sequence, if it holds one.
    pub(crate) tag_at_checkpoint: Option<Tag>,
    /// The log belongs to this process and was made with it: unless it holds the checkpoint, nothing in it was
    /// ever worked.
    pub(crate) made_anew: bool,
    /// A row's tag was not the log's at its sequence.
    pub(crate) forgotten: bool,
    /// Another owner has not said that everything it began to write is there.
    pub(crate) held: bool,
    /// The wall clock, microseconds since 1970.
    pub(crate) now_us: i64,
}

/// How a partition's work begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// In this life of the log, with the entry at `from`.
    Continue {
        /// The life.
        incarnation: Incarnation,
        /// The first entry to work.
        from: u64,
    },
    /// With the first life; nobody has worked this log.
    First(Incarnation),
    /// With another life on the same ground, from the entry at its first sequence on: whatever its former owner still
    /// has under way is written with timestamps below this life's.
    TakeOver(Incarnation),
    /// With another life: the log is not what it was.
    Renew {
        /// The life that begins.
        next: Incarnation,
        /// For people.
        reason: &'static str,
    },
}

impl Start {
    /// The life in which work begins, and the first entry to work.
    pub(crate) fn place(&self) -> (Incarnation, u64) {
        match *self {
            Start::Continue { incarnation, from } => (incarnation, from),
            Start::First(next) | Start::TakeOver(next) | Start::Renew { next, .. } => {
                (next, next.first_sequence)
            }
        }
    }
}

/// Decides how work begins.
pub(crate) fn decide(found: &Found) -> Start {
    let Found { state, bounds, tag_at_checkpoint, .. } = found;
    let Some(incarnation) = state.incarnation() else {
        let Incarnation { number, base_us, .. } = Incarnation::first(found.now_us);
        return Start::First(Incarnation::new(number, bounds.first.max(1), base_us));
    };
    let renew = |reason| Start::Renew { next: next_life(found, incarnation), reason };
    let go_on = |from| match found.held {
        true => Start::TakeOver(incarnation.taken_over(from, base_us_after(found, incarnation))),
        false => Start::Continue { incarnation, from },
    };
    if found.forgotten {
        return renew("a row's tag is not the log's");
    }
    match state.checkpoint.filter(|checkpoint| incarnation.stands_on(checkpoint.position)) {
        Some(checkpoint) if *tag_at_checkpoint == Some(checkpoint.tag) => {
            go_on(checkpoint.position.sequence + 1)
        }
        _ if found.made_anew => renew("the log was made anew with this process"),
        Some(checkpoint) if checkpoint.position.sequence > bounds.last => {
            renew("the log ends below the checkpoint")
        }
        Some(_) if tag_at_checkpoint.is_some() => renew("the checkpoint's entry is another one"),
        Some(_) => renew("the log begins above the checkpoint"),
        // There is no checkpoint on this ground yet. Rows that it may have are held against the log when they are loaded.
        None if bounds.last + 1 < incarnation.first_sequence => {
            renew("the log ends below this life's beginning")
        }
        None if bounds.first > incarnation.first_sequence => {
            renew("the log begins above this life's beginning")
        }
        None => go_on(incarnation.first_sequence),
    }
}

/// How far above its checkpoint a worker can have written: to the bound, and two groups that began below it.
const WRITTEN_ABOVE_CHECKPOINT_MAX: u64 = ENTRIES_ABOVE_CHECKPOINT_MAX + 2 * QUEUE_ENTRIES_MAX as u64;

/// The life after `previous`, of a log that forgot something.
fn next_life(found: &Found, previous: Incarnation) -> Incarnation {
    let next = previous.next(found.bounds.last, base_us_after(found, previous));
    // A log of this process holds nothing that an earlier life acknowledged or will not acknowledge.
    let first_sequence = if found.made_anew { found.bounds.first.max(1) } else { next.first_sequence };
    Incarnation::new(next.number, first_sequence, next.base_us)
}

/// Where timestamps begin that lie above whatever `previous` can have written.
fn base_us_after(found: &Found, previous: Incarnation) -> i64 {
    let checkpoint = found.state.checkpoint.filter(|checkpoint| previous.stands_on(checkpoint.position));
    let worked = checkpoint.map_or(0, |checkpoint| checkpoint.position.sequence);
    let from = worked.max(previous.first_sequence);
    found.now_us.max(previous.timestamp_us(from + WRITTEN_ABOVE_CHECKPOINT_MAX + 2, 0))
}

/// The write timestamp of a checkpoint at the entry before a life's first: above all earlier lives', below
/// all of its own.
pub(crate) fn checkpoint_before_us(incarnation: Incarnation) -> i64 {
    incarnation.base_us - 1
}

const _: () = assert!(TIMESTAMPS_PER_ENTRY > 1, "a life's base less one lies above the life before");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Checkpoint, Tenure};

    const TAG: Tag = Tag([7; 16]);
    const LIFE: Incarnation = Incarnation::new(4, 100, 1_000_000);

    fn checkpoint(incarnation: u32, sequence: u64) -> Checkpoint {
        let position = carillon_proto::position::Position { incarnation, sequence, index: 2 };
        Checkpoint { position, tag: TAG, timestamp_us: 1, version: 1 }
    }

    fn found(first: u64, last: u64, checkpoint: Option<Checkpoint>, tag_at_checkpoint: Option<Tag>) -> Found {
        found_in(LIFE, first, last, checkpoint, tag_at_checkpoint)
    }

    fn found_in(
        incarnation: Incarnation,
        first: u64,
        last: u64,
        checkpoint: Option<Checkpoint>,
        tag_at_checkpoint: Option<Tag>,
    ) -> Found {
        let state =
            PartitionState { tenure: Some(Tenure { incarnation, epoch: 0, holder: None }), checkpoint };
        let bounds = LogBounds { first, last };
        let (made_anew, forgotten, held) = (false, false, false);
        Found { state, bounds, tag_at_checkpoint, made_anew, forgotten, held, now_us: 5_000_000 }
    }

    #[test]
    fn work_goes_on_where_the_log_is_still_the_same() {
        let at = |from| Start::Continue { incarnation: LIFE, from };
        assert_eq!(decide(&found(90, 150, Some(checkpoint(4, 120)), Some(TAG))), at(121));
        assert_eq!(decide(&found(120, 120, Some(checkpoint(4, 120)), Some(TAG))), at(121));
        // Nothing was checkpointed in this life; the one before says nothing about it.
        assert_eq!(decide(&found(90, 150, Some(checkpoint(3, 98)), None)), at(100));
        assert_eq!(decide(&found(100, 99, None, None)), at(100));
    }

    #[test]
    fn who_takes_over_from_one_that_may_be_writing_begins_another_life_on_the_same_ground() {
        let taken = LIFE.taken_over(130, 9_000_000);
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
            let life = found.state.incarnation().expect("there is one");
            assert_eq!(decide(&found), Start::Continue { incarnation: life, from }, "{what}: given back");
            let Start::TakeOver(next) = decide(&Found { held: true, ..found.clone() }) else {
                panic!("{what}: no other life")
            };
            let expected = (life.number + 1, from, LIFE.ground);
            assert_eq!((next.number, next.first_sequence, next.ground), expected, "{what}");
            let written_max = life.timestamp_us(from - 1 + WRITTEN_ABOVE_CHECKPOINT_MAX, 255);
            assert!(checkpoint_before_us(next) > written_max, "{what}: timestamps");
            // Whoever held it, the log decides.
            let forgot = Found { held: true, forgotten: true, ..found };
            assert!(
                matches!(decide(&forgot), Start::Renew { next, .. } if next.ground != LIFE.ground),
                "{what}"
            );
        }
    }

    #[test]
    fn another_life_begins_where_it_is_not() {
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
            let Start::Renew { next, .. } = decide(&found) else { panic!("{what}: goes on") };
            assert_eq!((next.number, next.first_sequence), (5, first_sequence), "{what}");
            assert_eq!(next.ground, Incarnation::new(5, first_sequence, 0).ground, "{what}");
        }
    }

    #[test]
    fn a_log_of_this_process_is_worked_from_its_beginning() {
        // A gateway published before the worker had begun: nobody else can have worked it.
        let Start::Renew { next, .. } =
            decide(&Found { made_anew: true, ..found(1, 3, Some(checkpoint(4, 2)), None) })
        else {
            panic!("goes on")
        };
        assert_eq!(next.first_sequence, 1);
        // The worker stops and begins again while the process lives.
        let worked = Found { made_anew: true, ..found(1, 3, Some(checkpoint(4, 2)), Some(TAG)) };
        assert_eq!(decide(&worked), Start::Continue { incarnation: LIFE, from: 3 });
    }

    #[test]
    fn the_first_life_begins_with_what_the_log_holds() {
        let unworked = Found { state: PartitionState::default(), ..found(5, 9, None, None) };
        assert_eq!(decide(&unworked), Start::First(Incarnation::new(1, 5, 5_000_000)));
    }

    #[test]
    fn timestamps_lie_above_everything_earlier_however_fast_the_log_grew() {
        // Written faster than 3,906 entries a second, so that timestamps ran ahead of the clock; then made anew.
        let worked = checkpoint(4, 90_000_000);
        let Start::Renew { next, .. } = decide(&found(1, 0, Some(worked), None)) else { panic!("goes on") };
        let above_checkpoint = 90_000_000 + WRITTEN_ABOVE_CHECKPOINT_MAX;
        assert!(checkpoint_before_us(next) > LIFE.timestamp_us(above_checkpoint, 255));
        // A life without a checkpoint can have been worked as far above its beginning.
        let Start::Renew { next, .. } = decide(&found(1, 0, None, None)) else { panic!("goes on") };
        assert!(checkpoint_before_us(next) > LIFE.timestamp_us(100 + WRITTEN_ABOVE_CHECKPOINT_MAX, 255));
    }
}
