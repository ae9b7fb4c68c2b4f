//! A topic's members get every event above their cursors once and in order, whatever arrives when.

use super::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;

struct Numbered(u64);

impl Numbered {
    fn new(seq: u64) -> Arc<Self> {
        Arc::new(Numbered(seq))
    }
}

impl Event for Numbered {
    fn seq(&self) -> u64 {
        self.0
    }
    fn weight(&self) -> usize {
        8
    }
}

/// Hears seqs up to a number that may be raised.
#[derive(Clone, Default)]
struct Ear(Rc<RefCell<(Vec<u64>, usize)>>);

impl Ear {
    fn with_room(room: usize) -> Ear {
        Ear(Rc::new(RefCell::new((Vec::new(), room))))
    }
    fn heard(&self) -> Vec<u64> {
        self.0.borrow().0.clone()
    }
    fn make_room(&self, room: usize) {
        self.0.borrow_mut().1 += room;
    }
}

impl Hearer<Numbered> for Ear {
    fn hear(&self, event: &Numbered) -> bool {
        let mut ear = self.0.borrow_mut();
        if ear.1 == 0 {
            return false;
        }
        ear.1 -= 1;
        ear.0.push(event.0);
        true
    }
}

fn events(from: u64, to: u64) -> Vec<Arc<Numbered>> {
    (from..=to).map(Numbered::new).collect()
}

#[test]
fn live_members_hear_at_once_and_repeats_are_nothing() {
    let mut topic = Topic::default();
    assert_eq!(topic.announce(4), Wants::default());
    let ear = Ear::with_room(9);
    assert!(!topic.join(ear.clone(), 4).1);
    for seq in [5, 5, 4, 6, 5] {
        assert_eq!(topic.deliver(Numbered::new(seq)), Wants::default());
    }
    assert_eq!(ear.heard(), [5, 6]);
}

/// Breaking it: without the `seq == head + 1` condition of `advance`, members hear 8 before 6 and 7.
#[test]
fn a_gap_is_fetched_once_before_the_topic_moves_on() {
    let mut topic = Topic::default();
    topic.announce(5);
    let ear = Ear::with_room(99);
    topic.join(ear.clone(), 5);
    assert_eq!(topic.deliver(Numbered::new(8)).fetch, Some((5, 7)));
    assert_eq!(topic.deliver(Numbered::new(9)), Wants::default(), "one fetch at a time");
    assert_eq!(ear.heard(), Vec::<u64>::new());
    assert_eq!(topic.fetched(events(6, 6)).fetch, Some((6, 7)), "what is still missing is asked for again");
    assert_eq!(topic.fetched(events(7, 7)), Wants::default());
    assert_eq!(ear.heard(), [6, 7, 8, 9]);
}

/// Before, members heard 7, which nobody had said to be committed, and never what became seq 7.
#[test]
fn what_nobody_has_told_is_not_served() {
    let mut topic = Topic::default();
    topic.announce(5);
    let ear = Ear::with_room(99);
    topic.join(ear.clone(), 5);
    assert_eq!(topic.announce(6).fetch, Some((5, 6)));
    assert_eq!(topic.fetched(events(6, 7)), Wants::default());
    assert_eq!((ear.heard(), topic.head()), (vec![6], Some(6)));
    topic.deliver(Numbered::new(7));
    assert_eq!(ear.heard(), [6, 7]);
}

#[test]
fn events_that_come_before_the_head_is_known_wait() {
    let mut topic = Topic::<Ear, Numbered>::default();
    topic.deliver(Numbered::new(3));
    topic.deliver(Numbered::new(4));
    assert_eq!(topic.head(), None);
    assert_eq!(topic.announce(2), Wants::default());
    assert_eq!(topic.head(), Some(4));
    assert_eq!(topic.announce(6).fetch, Some((4, 6)), "a higher head means that something was missed");
}

#[test]
fn a_full_member_falls_behind_alone_and_reads_on_from_its_cursor() {
    let mut topic = Topic::default();
    topic.announce(0);
    let (slow, quick) = (Ear::with_room(1), Ear::with_room(99));
    let (slot, _) = topic.join(slow.clone(), 0);
    topic.join(quick.clone(), 0);
    assert_eq!(topic.deliver(Numbered::new(1)), Wants::default());
    assert_eq!(topic.deliver(Numbered::new(2)).behind, [slot]);
    assert_eq!(topic.deliver(Numbered::new(3)), Wants::default(), "it is said once");
    assert_eq!(quick.heard(), [1, 2, 3]);
    slow.make_room(1);
    assert!(matches!(topic.catch_up(slot), CatchUp::Events(served) if served.len() == 1));
    slow.make_room(9);
    assert!(matches!(topic.catch_up(slot), CatchUp::Events(served) if served.len() == 1));
    assert!(matches!(topic.catch_up(slot), CatchUp::Live));
    topic.deliver(Numbered::new(4));
    assert_eq!(slow.heard(), [1, 2, 3, 4]);
}

#[test]
fn what_the_ring_has_forgotten_is_read_from_the_store() {
    let mut topic = Topic::default();
    topic.announce(0);
    let watcher = Ear::with_room(999);
    topic.join(watcher, 0);
    for event in events(1, 100) {
        topic.deliver(event);
    }
    let late = Ear::with_room(999);
    let (slot, behind) = topic.join(late.clone(), 10);
    assert!(behind);
    assert!(matches!(topic.catch_up(slot), CatchUp::Read { after_seq: 10, up_to_seq: 100 }));
    for event in events(11, 60) {
        assert!(late.hear(&event));
    }
    topic.caught_up_to(slot, 60);
    assert!(matches!(topic.catch_up(slot), CatchUp::Events(served) if served.len() == 40));
    assert_eq!(late.heard(), (11..=100).collect::<Vec<_>>());
}

#[test]
fn a_cursor_from_the_future_hears_only_what_is_above_it() {
    let mut topic = Topic::default();
    topic.announce(3);
    let ear = Ear::with_room(9);
    assert!(!topic.join(ear.clone(), 5).1);
    for event in events(4, 7) {
        topic.deliver(event);
    }
    assert_eq!(ear.heard(), [6, 7]);
}

#[test]
fn slots_are_used_again_and_an_empty_topic_is_idle() {
    let mut topic = Topic::<Ear, Numbered>::default();
    topic.announce(0);
    let (first, _) = topic.join(Ear::default(), 0);
    let (second, _) = topic.join(Ear::default(), 0);
    assert!(topic.leave(first).is_some());
    assert!(topic.leave(first).is_none());
    assert_eq!(topic.join(Ear::default(), 0).0, first);
    assert_eq!(topic.member_count(), 2);
    topic.leave(first);
    topic.leave(second);
    assert!(topic.is_idle());
}

proptest! {
    /// Events lost, doubled and out of order, slow members, failing fetches: everyone ends complete.
    #[test]
    fn whatever_happens_all_hear_all(
        steps in prop::collection::vec((1u64..60, 0u8..6, 0usize..4), 1..200),
        starts in prop::collection::vec(0u64..60, 1..5),
    ) {
        let mut topic = Topic::default();
        let mut wanted = topic.announce(0).fetch;
        let ears: Vec<_> = starts.iter().map(|_| Ear::with_room(2)).collect();
        let slots: Vec<_> = ears.iter().zip(&starts).map(|(ear, start)| topic.join(ear.clone(), *start).0).collect();
        for (seq, action, who) in steps {
            match action {
                0..=2 => wanted = topic.deliver(Numbered::new(seq)).fetch.or(wanted),
                3 => if wanted.take().is_some() { wanted = topic.fetched(Vec::new()).fetch },
                4 => if let Some((from, to)) = wanted.take() { wanted = topic.fetched(events(from + 1, to.min(from + 3))).fetch },
                _ => { ears[who % ears.len()].make_room(3); let _ = topic.catch_up(slots[who % ears.len()]); }
            }
        }
        wanted = topic.announce(60).fetch.or(wanted);
        while let Some((from, to)) = wanted.take() {
            wanted = topic.fetched(events(from + 1, to)).fetch;
        }
        prop_assert_eq!(topic.head(), Some(60));
        for ((ear, slot), start) in ears.iter().zip(slots).zip(starts) {
            ear.make_room(1_000);
            loop {
                match topic.catch_up(slot) {
                    CatchUp::Live => break,
                    CatchUp::Events(_) => {}
                    CatchUp::Read { after_seq, up_to_seq } => {
                        for event in events(after_seq + 1, up_to_seq) { ear.hear(&event); }
                        topic.caught_up_to(slot, up_to_seq);
                    }
                }
            }
            prop_assert_eq!(ear.heard(), (start + 1..=60).collect::<Vec<_>>());
        }
    }
}
