//! Offsets: a client whose connection breaks at any packet continues with exactly what it missed.

use super::*;
use proptest::prelude::*;

fn room(name: u32) -> ConversationId {
    ConversationId::parse(&format!("room-{name}")).expect("a valid id")
}

fn event(seq: u64, packets: u64) -> Bytes {
    let texts = (0..packets).map(|packet| format!(r#"42["message",{{"seq":{seq},"packet":{packet}}}]"#));
    frame::texts(&texts.collect::<Vec<_>>())
}

/// The texts of frames, each with its offset cut off.
fn received(frames: &Bytes) -> Vec<(String, Option<String>)> {
    let text = |frame: Bytes| match frame::body(&frame) {
        Some(Body::Text(text)) => text.to_owned(),
        other => panic!("not a text frame: {other:?}"),
    };
    let cut = |text: String| match text.strip_suffix("\"]").and_then(|text| text.rsplit_once(",\"")) {
        Some((event, offset)) => (format!("{event}]"), Some(offset.to_owned())),
        None => (text, None),
    };
    frame::single(frames).map(text).map(cut).collect()
}

#[test]
fn every_event_and_nothing_else_is_stamped() {
    let mut tracker = Tracker::default();
    for (frame, stamped) in [
        (r#"42["connected",{"message":"hello"}]"#, r#"42["connected",{"message":"hello"},"AAAA"]"#),
        (r#"42/api/socket,["a",{}]"#, r#"42/api/socket,["a",{},"AAAA"]"#),
        (r#"4312["ok",{}]"#, r#"4312["ok",{}]"#),
        (r#"40{"sid":"x"}"#, r#"40{"sid":"x"}"#),
        ("2", "2"),
        ("3probe", "3probe"),
    ] {
        assert_eq!(tracker.stamp(&frame::text(frame), 0), frame::text(stamped));
    }
    let both = frame::texts(&[r#"42["a",{}]"#.into(), r#"431[{}]"#.into()]);
    assert_eq!(
        tracker.stamp(&both, 0),
        frame::texts(&[r#"42["a",{},"AAAA"]"#.into(), r#"431[{}]"#.into()]),
        "the events of an answer are in the same frames as its acknowledgement"
    );
    let binary = frame::binary(b"42[]");
    assert_eq!(tracker.stamp(&binary, 0), binary);
}

#[test]
fn an_offset_counts_the_events_of_each_subscription() {
    let mut tracker = Tracker::default();
    assert_eq!(tracker.subscribe(room(1), Vocabulary::Ring, 10), Some(0));
    assert_eq!(tracker.subscribe(room(2), Vocabulary::Guide, 0), Some(1));
    tracker.stamp_event(1, 3, &event(3, 1), 0);
    let (stamped, _) = tracker.stamp_event(0, 11, &event(11, 1), 0);
    let offset = received(&stamped)[0].1.clone().expect("stamped");
    let offset = Offset::parse(&offset).expect("an offset");
    assert_eq!(offset.moved, [(0, 1), (1, 3)]);

    let restored = Tracker::restored(&tracker.bases(), &offset).expect("known");
    let reached: Vec<_> =
        restored.reached().iter().map(|it| (it.conversation.to_string(), it.cursor)).collect();
    assert_eq!(reached, [("room-1".to_owned(), 11), ("room-2".to_owned(), 3)]);
}

#[test]
fn a_record_that_misses_a_change_is_rejected() {
    let mut tracker = Tracker::default();
    tracker.subscribe(room(1), Vocabulary::Ring, 0);
    let stored = tracker.bases();
    let old = tracker.offset();
    tracker.subscribe(room(2), Vocabulary::Ring, 0);
    assert!(
        Tracker::restored(&stored, &tracker.offset()).is_none(),
        "the stored base lacks room 2, so the offset must be refused"
    );
    assert!(Tracker::restored(&stored, &old).is_some());
    tracker.unsubscribe(1);
    assert!(
        Tracker::restored(&stored, &tracker.offset()).is_none(),
        "the stored base still has the room that was left, so the offset must be refused"
    );
    assert_eq!(Tracker::restored(&tracker.bases(), &tracker.offset()).expect("known").reached().len(), 1);
    assert!(Tracker::restored(&[], &old).is_none());
    assert!(Tracker::restored(&stored, &Offset { base: 1, ..old }).is_none());
}

#[test]
fn an_event_that_was_not_queued_leaves_the_offset_unchanged() {
    let mut tracker = Tracker::default();
    tracker.subscribe(room(1), Vocabulary::Ring, 0);
    tracker.stamp_event(0, 1, &event(1, 1), 0);
    let before = tracker.offset();
    let (_, moved) = tracker.stamp_event(0, 2, &event(2, 3), 0);
    tracker.roll_back(&moved);
    assert_eq!(tracker.offset(), before);
}

#[test]
fn a_new_base_waits_until_the_client_has_an_offset_of_the_last() {
    let mut tracker = Tracker::default();
    for number in 0..60 {
        tracker.subscribe(room(number), Vocabulary::Ring, 0);
    }
    assert!(!tracker.wants_base(1_000_000, 85_000), "no offset was given out yet, so no new base is needed");
    for place in 0..60 {
        tracker.stamp_event(place, 200, &event(200, 1), 1_000);
    }
    assert!(!tracker.wants_base(85_999, 85_000));
    assert!(tracker.wants_base(86_000, 85_000));
    let long = tracker.offset().text().len();
    let bases = tracker.propose_base();
    assert!(!tracker.wants_base(86_000, 85_000), "a second base must not start while one is being stored");
    tracker.stamp_event(7, 201, &event(201, 1), 86_000);
    assert!(tracker.adopt_base(true));
    let short = tracker.offset();
    assert!(short.text().len() < 10 && long > 100);
    assert_eq!(
        short.moved,
        [(7, 1)],
        "the new offset must count the event that came while the base was stored"
    );
    assert_eq!(tracker.bases(), bases);
    assert!(!tracker.wants_base(u64::MAX, 85_000));

    tracker.propose_base();
    tracker.unsubscribe(3);
    assert!(!tracker.adopt_base(true), "a base must be dropped when the list of rooms has changed since");
    tracker.propose_base();
    assert!(!tracker.adopt_base(false), "a base that was not stored must not be adopted");
    assert_eq!(tracker.next_place(), Some(60), "place 3 is still named by offsets of this base");
    tracker.propose_base();
    assert!(tracker.adopt_base(true));
    assert_eq!(tracker.next_place(), Some(3));
}

#[test]
fn places_are_bounded() {
    let mut tracker = Tracker::default();
    for number in 0..RECOVERY_PLACES_MAX as u32 {
        assert_eq!(tracker.subscribe(room(number), Vocabulary::Ring, 0), Some(number));
        tracker.unsubscribe(number);
    }
    assert_eq!((tracker.next_place(), tracker.subscribe(room(1), Vocabulary::Ring, 0)), (None, None));
    tracker.stamp(&frame::text(r#"42["a",{}]"#), 0);
    assert!(tracker.wants_base(0, 0));
    tracker.propose_base();
    assert!(tracker.adopt_base(true) && tracker.next_place().is_some());
}

/// A random step of a session.
#[derive(Debug, Clone)]
enum Step {
    Join(u32),
    Leave(u32),
    /// An event of so many packets in a room; 0 if the vocabulary has no form for it.
    Event(u32, u64),
    Ephemeral,
    Rebase,
    /// The connection breaks. The client has received all but the last so many packets, and recovers its session.
    Break(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4u32).prop_map(Step::Join),
        1 => (0..4u32).prop_map(Step::Leave),
        8 => (0..4u32, prop_oneof![Just(0), Just(1), Just(1), Just(1), Just(3)]).prop_map(|(room, packets)| Step::Event(room, packets)),
        2 => Just(Step::Ephemeral),
        1 => Just(Step::Rebase),
        2 => (0..6usize).prop_map(Step::Break),
    ]
}

/// A server with rooms, and a client that receives packets.
#[derive(Default)]
struct World {
    tracker: Tracker,
    stored: Vec<RecoveryBase>,
    logs: [Vec<u64>; 4],
    /// The packets that the client must have received at the end, and those that it received.
    expected: Vec<String>,
    wire: Vec<(String, Option<String>)>,
    client: Vec<String>,
    last_offset: String,
    now_ms: u64,
}

impl World {
    fn place(&self, number: u32) -> Option<u32> {
        self.tracker.find(&room(number), Vocabulary::Ring)
    }

    fn deliver(&mut self, number: u32, seq: u64) {
        let Some(place) = self.place(number) else { return };
        let packets = self.logs[number as usize][seq as usize - 1];
        if packets == 0 {
            return;
        }
        let texts: Vec<String> =
            (0..packets).map(|packet| format!(r#"42["m",{{"at":"{number}/{seq}/{packet}"}}]"#)).collect();
        let (stamped, _) = self.tracker.stamp_event(place, seq, &frame::texts(&texts), self.now_ms);
        self.wire.extend(received(&stamped));
    }

    /// The client receives the packets on the wire, except the last `but`.
    fn receive(&mut self, but: usize) {
        let whole = self.wire.len().saturating_sub(but);
        for (text, offset) in self.wire.drain(..).take(whole) {
            if let Some(offset) = offset {
                self.last_offset = offset;
            }
            self.client.push(text);
        }
    }

    fn step(&mut self, step: &Step) {
        self.now_ms += 1_000;
        match *step {
            Step::Join(number) if self.place(number).is_none() => {
                let head = self.logs[number as usize].len() as u64;
                self.tracker.subscribe(room(number), Vocabulary::Ring, head);
                self.stored = self.tracker.bases();
                self.answer();
            }
            Step::Leave(number) => {
                if let Some(place) = self.place(number) {
                    self.tracker.unsubscribe(place);
                    self.stored = self.tracker.bases();
                    self.answer();
                }
            }
            Step::Event(number, packets) => {
                self.logs[number as usize].push(packets);
                let seq = self.logs[number as usize].len() as u64;
                if self.place(number).is_some() {
                    let texts =
                        (0..packets).map(|packet| format!(r#"42["m",{{"at":"{number}/{seq}/{packet}"}}]"#));
                    self.expected.extend(texts);
                }
                self.deliver(number, seq);
            }
            Step::Ephemeral => self.answer(),
            // A base may be replaced only once the client has an offset that counts from it.
            Step::Rebase => {
                self.receive(0);
                if self.last_base_is_received() {
                    self.stored = self.tracker.propose_base();
                    assert!(self.tracker.adopt_base(true));
                }
            }
            Step::Break(but) => self.break_off(but),
            Step::Join(_) => {}
        }
    }

    fn last_base_is_received(&self) -> bool {
        Offset::parse(&self.last_offset).is_some_and(|offset| offset.base == self.tracker.version().0)
    }

    /// Sends an event of no log. From then on the client's offset counts the latest change of the list.
    fn answer(&mut self) {
        let stamped = self.tracker.stamp(&frame::text(r#"42["answer",{}]"#), self.now_ms);
        let answer = received(&stamped);
        self.wire.extend(answer);
        // The property is about logs, so the answers to joins and leaves always arrive before a break.
        self.receive(0);
        self.client.retain(|text| !text.contains("answer"));
    }

    fn break_off(&mut self, but: usize) {
        self.receive(but);
        let Some(offset) = Offset::parse(&self.last_offset) else { return };
        self.tracker = Tracker::restored(&self.stored, &offset).expect("all bases are stored");
        self.stored = self.tracker.bases();
        for reached in self.tracker.reached() {
            let number: u32 = reached.conversation.as_str()["room-".len()..].parse().expect("a number");
            for seq in reached.cursor + 1..=self.logs[number as usize].len() as u64 {
                self.deliver(number, seq);
            }
        }
    }

    fn of_room(texts: &[String], number: u32) -> Vec<&String> {
        texts.iter().filter(|text| text.contains(&format!("\"{number}/"))).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn every_event_is_received_once_and_in_order_across_breaks(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::default();
        world.stored = world.tracker.bases();
        world.answer();
        for step in &steps {
            world.step(step);
        }
        world.break_off(0);
        world.receive(0);
        for number in 0..4 {
            prop_assert_eq!(World::of_room(&world.client, number), World::of_room(&world.expected, number));
        }
    }
}

#[test]
fn a_base_that_is_refused_is_not_proposed_again_at_once() {
    let mut tracker = Tracker::new(5);
    for name in 0..100 {
        tracker.subscribe(room(name), Vocabulary::Ring, 0);
    }
    (0..100).for_each(|place| drop(tracker.stamp_event(place, 1, &event(1, 1), 0)));
    assert!(tracker.wants_base(10, 10));
    assert_eq!(tracker.propose_base().iter().map(|base| base.number).collect::<Vec<_>>(), [5, 6]);
    assert!(!tracker.adopt_base(false));
    assert!(!tracker.wants_base(10, 10), "a refused base must not be proposed again at once");
    tracker.stamp_event(0, 2, &event(2, 1), 20);
    assert!(!tracker.wants_base(29, 10));
    assert!(tracker.wants_base(30, 10));
}
