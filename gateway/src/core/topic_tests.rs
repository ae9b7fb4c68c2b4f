//! A topic's members receive every event above their cursors once and in order, in whatever order events arrive.

use super::*;
use parking_lot::Mutex;
use proptest::prelude::*;

/// An event with this seq, which may end the subscriptions of one ear.
struct Numbered(u64, Option<Recorder>);

impl Numbered {
    fn new(seq: u64) -> Arc<Self> {
        Arc::new(Numbered(seq, None))
    }

    fn removing(seq: u64, recorder: &Recorder) -> Arc<Self> {
        Arc::new(Numbered(seq, Some(recorder.clone())))
    }
}

impl Event for Numbered {
    fn seq(&self) -> u64 {
        self.0
    }
    fn weight(&self) -> usize {
        8
    }
    fn may_end(&self) -> bool {
        self.1.is_some()
    }
}

/// Records the seqs that it receives, as long as it has room, which a test may add.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<(Vec<u64>, usize)>>);

impl Recorder {
    fn with_room(room: usize) -> Recorder {
        Recorder(Arc::new(Mutex::new((Vec::new(), room))))
    }
    fn received(&self) -> Vec<u64> {
        self.0.lock().0.clone()
    }
    fn make_room(&self, room: usize) {
        self.0.lock().1 += room;
    }
}

impl Subscriber<Numbered> for Recorder {
    fn try_queue(&self, event: &Numbered) -> bool {
        let mut recorder = self.0.lock();
        if recorder.1 == 0 {
            return false;
        }
        recorder.1 -= 1;
        recorder.0.push(event.0);
        true
    }

    fn ends_with(&self, event: &Numbered) -> bool {
        event.1.as_ref().is_some_and(|recorder| Arc::ptr_eq(&recorder.0, &self.0))
    }
}

fn events(from: u64, to: u64) -> Vec<Arc<Numbered>> {
    (from..=to).map(Numbered::new).collect()
}

#[test]
fn live_members_receive_at_once_and_repeats_are_ignored() {
    let mut topic = Topic::default();
    assert_eq!(topic.handle_head(4), Wants::default());
    let recorder = Recorder::with_room(9);
    assert!(!topic.join(recorder.clone(), 4, 99).1);
    for seq in [5, 5, 4, 6, 5] {
        assert_eq!(topic.handle_event(Numbered::new(seq)), Wants::default());
    }
    assert_eq!(recorder.received(), [5, 6]);
}

/// This test fails without the `seq == head + 1` condition of `advance`: members then receive 8 before 6 and 7.
#[test]
fn a_gap_is_fetched_once_before_the_topic_moves_on() {
    let mut topic = Topic::default();
    topic.handle_head(5);
    let recorder = Recorder::with_room(99);
    topic.join(recorder.clone(), 5, 99);
    assert_eq!(topic.handle_event(Numbered::new(8)).fetch, Some((5, 7)));
    assert_eq!(
        topic.handle_event(Numbered::new(9)),
        Wants::default(),
        "a second fetch must not start while one is running"
    );
    assert_eq!(recorder.received(), Vec::<u64>::new());
    assert_eq!(
        topic.handle_fetched(events(6, 6)).fetch,
        Some((6, 7)),
        "events that are still missing are fetched again"
    );
    assert_eq!(topic.handle_fetched(events(7, 7)), Wants::default());
    assert_eq!(recorder.received(), [6, 7, 8, 9]);
}

/// Before the fix, members received row 7, which no worker had reported as committed, and never the event that became
/// seq 7.
#[test]
fn rows_above_every_reported_head_are_not_served() {
    let mut topic = Topic::default();
    topic.handle_head(5);
    let recorder = Recorder::with_room(99);
    topic.join(recorder.clone(), 5, 99);
    assert_eq!(topic.handle_head(6).fetch, Some((5, 6)));
    assert_eq!(topic.handle_fetched(events(6, 7)), Wants::default());
    assert_eq!((recorder.received(), topic.head()), (vec![6], Some(6)));
    topic.handle_event(Numbered::new(7));
    assert_eq!(recorder.received(), [6, 7]);
}

#[test]
fn events_that_come_before_the_head_is_known_wait() {
    let mut topic = Topic::<Recorder, Numbered>::default();
    topic.handle_event(Numbered::new(3));
    topic.handle_event(Numbered::new(4));
    assert_eq!(topic.head(), None);
    assert_eq!(topic.handle_head(2), Wants::default());
    assert_eq!(topic.head(), Some(4));
    assert_eq!(topic.handle_head(6).fetch, Some((4, 6)), "events up to a higher head must be fetched");
}

#[test]
fn a_full_member_falls_behind_alone_and_reads_on_from_its_cursor() {
    let mut topic = Topic::default();
    topic.handle_head(0);
    let (slow, quick) = (Recorder::with_room(1), Recorder::with_room(99));
    let (slot, _) = topic.join(slow.clone(), 0, 99);
    topic.join(quick.clone(), 0, 99);
    assert_eq!(topic.handle_event(Numbered::new(1)), Wants::default());
    assert_eq!(topic.handle_event(Numbered::new(2)).behind, [slot]);
    assert_eq!(
        topic.handle_event(Numbered::new(3)),
        Wants::default(),
        "a member that falls behind is reported once"
    );
    assert_eq!(quick.received(), [1, 2, 3]);
    slow.make_room(1);
    assert!(matches!(topic.poll_catch_up(slot), CatchUp::Events(served) if served.len() == 1));
    slow.make_room(9);
    assert!(matches!(topic.poll_catch_up(slot), CatchUp::Events(served) if served.len() == 1));
    assert!(matches!(topic.poll_catch_up(slot), CatchUp::Live));
    topic.handle_event(Numbered::new(4));
    assert_eq!(slow.received(), [1, 2, 3, 4]);
}

#[test]
fn events_that_left_the_ring_are_read_from_the_store() {
    let mut topic = Topic::default();
    topic.handle_head(0);
    let watcher = Recorder::with_room(999);
    topic.join(watcher, 0, 99);
    for event in events(1, 100) {
        topic.handle_event(event);
    }
    let late = Recorder::with_room(999);
    let (slot, behind) = topic.join(late.clone(), 10, 99);
    assert!(behind);
    assert!(matches!(topic.poll_catch_up(slot), CatchUp::Read { after_seq: 10, up_to_seq: 100 }));
    topic.handle_page(slot, &events(11, 60), |recorder, event| assert!(recorder.try_queue(event)));
    assert!(matches!(topic.poll_catch_up(slot), CatchUp::Events(served) if served.len() == 40));
    assert_eq!(late.received(), (11..=100).collect::<Vec<_>>());
}

#[test]
fn a_cursor_above_the_head_receives_only_events_above_it() {
    let mut topic = Topic::default();
    topic.handle_head(3);
    let recorder = Recorder::with_room(9);
    assert!(!topic.join(recorder.clone(), 5, 99).1);
    for event in events(4, 7) {
        topic.handle_event(event);
    }
    assert_eq!(recorder.received(), [6, 7]);
}

#[test]
fn slots_are_used_again_and_an_empty_topic_is_idle() {
    let mut topic = Topic::<Recorder, Numbered>::default();
    topic.handle_head(0);
    let (first, _) = topic.join(Recorder::default(), 0, 99);
    let (second, _) = topic.join(Recorder::default(), 0, 99);
    assert!(topic.leave(first).is_some());
    assert!(topic.leave(first).is_none());
    assert_eq!(topic.join(Recorder::default(), 0, 99).0, first);
    assert_eq!(topic.member_count(), 2);
    topic.leave(first);
    topic.leave(second);
    assert!(topic.is_idle());
}

/// Before the fix, a removal took effect when it arrived. Behind a gap, its user missed the events below it, and the
/// removal.
#[test]
fn a_removal_behind_a_gap_takes_effect_at_its_seq() {
    let mut topic = Topic::default();
    topic.handle_head(0);
    let (ann, bob) = (Recorder::with_room(9), Recorder::with_room(9));
    topic.join(ann.clone(), 0, 0);
    let (slot, _) = topic.join(bob.clone(), 0, 0);
    let wants = topic.handle_event(Numbered::removing(3, &bob));
    assert_eq!((wants.fetch, wants.ended), (Some((0, 2)), vec![]));
    assert_eq!(topic.handle_event(Numbered::new(4)), Wants::default());
    assert_eq!(
        topic.handle_fetched(events(1, 2)).ended,
        [slot],
        "the removal above the fetched events must apply in the same step"
    );
    assert_eq!(bob.received(), [1, 2, 3]);
    topic.leave(slot);
    assert_eq!((ann.received(), bob.received()), (vec![1, 2, 3, 4], vec![1, 2, 3]));
}

/// Before the fix, a repeated removal, resent or in a page, ended the subscription of a user who had been added since.
#[test]
fn a_repeated_removal_ends_nothing() {
    let mut topic = Topic::default();
    topic.handle_head(0);
    let bob = Recorder::with_room(9);
    let (before, _) = topic.join(bob.clone(), 0, 0);
    let removal = Numbered::removing(1, &bob);
    assert_eq!(topic.handle_event(removal.clone()).ended, [before]);
    topic.leave(before);
    topic.handle_event(Numbered::new(2));
    let (again, _) = topic.join(bob.clone(), 2, 2);
    assert_eq!(topic.handle_event(removal.clone()), Wants::default());
    assert_eq!(topic.handle_fetched(vec![removal]), Wants::default());
    topic.handle_event(Numbered::new(3));
    topic.rejoin(again, Some(0), 2);
    while let CatchUp::Events(_) = topic.poll_catch_up(again) {}
    assert_eq!(
        bob.received(),
        [1, 3, 1, 2, 3],
        "a removal from before the join is delivered like any other event"
    );
    assert!(topic.subscriber(again).is_some());
}

/// Before the fix, a member that was behind read events above its user's removal, from the ring and from the store.
#[test]
fn a_member_that_is_behind_reads_up_to_its_removal() {
    let mut topic = Topic::default();
    topic.handle_head(0);
    let (bob, watcher) = (Recorder::with_room(1), Recorder::with_room(999));
    let (slot, _) = topic.join(bob.clone(), 0, 0);
    topic.join(watcher, 0, 0);
    topic.handle_event(Numbered::new(1));
    topic.handle_event(Numbered::new(2));
    let wants = topic.handle_event(Numbered::removing(3, &bob));
    assert_eq!(
        wants,
        Wants::default(),
        "a member that is behind must first receive the events below its removal"
    );
    for event in events(4, 200) {
        topic.handle_event(event);
    }
    bob.make_room(99);
    assert!(matches!(topic.poll_catch_up(slot), CatchUp::Read { after_seq: 1, up_to_seq: 200 }));
    let mut page = events(2, 50);
    page[1] = Numbered::removing(3, &bob);
    topic.handle_page(slot, &page, |recorder, event| assert!(recorder.try_queue(event)));
    assert!(matches!(topic.poll_catch_up(slot), CatchUp::Ended));
    assert_eq!(bob.received(), [1, 2, 3]);
}

#[test]
fn a_member_that_is_behind_in_the_ring_reads_up_to_its_removal() {
    let mut topic = Topic::default();
    topic.handle_head(0);
    let (bob, full) = (Recorder::with_room(9), Recorder::with_room(1));
    topic.handle_event(Numbered::new(1));
    topic.handle_event(Numbered::removing(2, &bob));
    topic.handle_event(Numbered::removing(3, &full));
    topic.handle_event(Numbered::new(4));
    let (early, _) = topic.join(bob.clone(), 0, 1);
    let (later, _) = topic.join(full.clone(), 0, 1);
    assert!(matches!(topic.poll_catch_up(early), CatchUp::Events(served) if served.len() == 2));
    assert!(matches!(topic.poll_catch_up(early), CatchUp::Ended));
    assert!(matches!(topic.poll_catch_up(later), CatchUp::Events(served) if served.len() == 1));
    topic.rejoin(later, None, 3);
    full.make_room(9);
    while let CatchUp::Events(_) = topic.poll_catch_up(later) {}
    assert!(matches!(topic.poll_catch_up(later), CatchUp::Live), "the member joined again above the removal");
    assert_eq!((bob.received(), full.received()), (vec![1, 2], vec![1, 2, 3, 4]));
}

/// Before the fix, a removal after the owner's answer and before the member was added had no effect on the member.
#[test]
fn a_removal_during_a_join_ends_the_right_to_join() {
    let mut topic = Topic::default();
    topic.handle_head(4);
    let (bob, ann) = (Recorder::default(), Recorder::default());
    topic.start_join();
    topic.handle_event(Numbered::removing(5, &bob));
    assert_eq!(topic.right(&bob, 4), RightCheck::Ended);
    assert_eq!(topic.right(&ann, 4), RightCheck::Holds);
    assert_eq!(
        topic.right(&bob, 5),
        RightCheck::Holds,
        "a user who was added again above the removal keeps the right to join"
    );
    assert!(!topic.is_idle());
    for seq in 6..6 + ENDS_KEPT_MAX as u64 {
        topic.handle_event(Numbered::removing(seq, &ann));
    }
    assert_eq!(topic.ends.len(), ENDS_KEPT_MAX);
    assert_eq!(topic.right(&bob, 4), RightCheck::Unknown);
    assert_eq!(topic.right(&bob, 5), RightCheck::Holds);
    topic.end_join();
    assert!(topic.is_idle() && topic.ends.is_empty());
}

proptest! {
    /// With events lost, repeated and out of order, slow members, and failing fetches, each member receives everything.
    #[test]
    fn every_member_receives_every_event(
        steps in prop::collection::vec((1u64..60, 0u8..6, 0usize..4), 1..200),
        starts in prop::collection::vec(0u64..60, 1..5),
    ) {
        let mut topic = Topic::default();
        let mut wanted = topic.handle_head(0).fetch;
        let recorders: Vec<_> = starts.iter().map(|_| Recorder::with_room(2)).collect();
        let slots: Vec<_> = recorders.iter().zip(&starts).map(|(recorder, start)| topic.join(recorder.clone(), *start, 99).0).collect();
        for (seq, action, who) in steps {
            match action {
                0..=2 => wanted = topic.handle_event(Numbered::new(seq)).fetch.or(wanted),
                3 => if wanted.take().is_some() { wanted = topic.handle_fetched(Vec::new()).fetch },
                4 => if let Some((from, to)) = wanted.take() { wanted = topic.handle_fetched(events(from + 1, to.min(from + 3))).fetch },
                _ => { recorders[who % recorders.len()].make_room(3); let _ = topic.poll_catch_up(slots[who % recorders.len()]); }
            }
        }
        wanted = topic.handle_head(60).fetch.or(wanted);
        while let Some((from, to)) = wanted.take() {
            wanted = topic.handle_fetched(events(from + 1, to)).fetch;
        }
        prop_assert_eq!(topic.head(), Some(60));
        for ((recorder, slot), start) in recorders.iter().zip(slots).zip(starts) {
            recorder.make_room(1_000);
            loop {
                match topic.poll_catch_up(slot) {
                    CatchUp::Live | CatchUp::Ended => break,
                    CatchUp::Events(_) => {}
                    CatchUp::Read { after_seq, up_to_seq } => {
                        topic.handle_page(slot, &events(after_seq + 1, up_to_seq), |recorder, event| { recorder.try_queue(event); });
                    }
                }
            }
            prop_assert_eq!(recorder.received(), (start + 1..=60).collect::<Vec<_>>());
        }
    }
}
