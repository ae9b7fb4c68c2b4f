//! Whatever was written, in whichever order and however far it has come on its way into the table, reads find
//! the values with the highest timestamps; and accepted client ids are forgotten when they are old.

use std::collections::BTreeMap;
use std::ops::Range;

use carillon_proto::id::{ConversationId, UserId};
use proptest::prelude::*;

use super::key::{self, Rows};
use super::shared::Shared;
use super::sweep::Sweep;
use super::table::Table;
use crate::store::Projection;

/// What may happen to a store.
#[derive(Debug, Clone)]
enum Step {
    /// Rows are shown: few keys and timestamps, so that they meet.
    Show(Vec<(u8, i64)>),
    /// The active generation is frozen, if none is.
    Freeze,
    /// The frozen one goes into the table.
    TakeIn,
    /// A key is read.
    Get(u8),
    /// A range is read.
    Scan { range: Range<u8>, backward: bool, at_most: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let rows = prop::collection::vec((0..20u8, 0..6i64), 1..8);
    prop_oneof![
        4 => rows.prop_map(Step::Show),
        1 => Just(Step::Freeze),
        1 => Just(Step::TakeIn),
        2 => (0..20u8).prop_map(Step::Get),
        4 => (0..22u8, 0..22u8, any::<bool>(), 0..25usize)
            .prop_map(|(start, end, backward, at_most)| Step::Scan { range: start..end, backward, at_most }),
    ]
}

/// The body follows from key and timestamp, as it does in the log.
fn body(key: u8, timestamp_us: i64) -> [u8; 2] {
    [key, timestamp_us as u8]
}

/// The store without its threads, beside what it should hold.
struct Pair {
    shared: Shared,
    sweep: Sweep,
    model: BTreeMap<u8, i64>,
}

impl Pair {
    fn take(&mut self, step: Step) {
        match step {
            Step::Show(rows) => self.show(rows),
            Step::Freeze => {
                let mut state = self.shared.state.lock();
                if state.overlay.frozen.is_none() {
                    state.freeze(0);
                }
            }
            Step::TakeIn => {
                let frozen = self.shared.state.lock().overlay.frozen.clone();
                if let Some(frozen) = frozen {
                    self.shared.table.take_in(&frozen, &mut self.sweep).expect("taken in");
                    self.shared.state.lock().overlay.frozen = None;
                }
            }
            Step::Get(key) => {
                let found = self.shared.get(&[key]).expect("read");
                let expected = self
                    .model
                    .get(&key)
                    .map(|timestamp_us| (*timestamp_us, body(key, *timestamp_us).to_vec()));
                assert_eq!(found.map(|value| (key::timestamp_us(&value), value[8..].to_vec())), expected);
            }
            Step::Scan { range, backward, at_most } => self.scan(range, backward, at_most),
        }
    }

    fn show(&mut self, rows: Vec<(u8, i64)>) {
        let mut encoded = Rows::default();
        for (key, timestamp_us) in rows {
            encoded.put(&[key], timestamp_us, &[&body(key, timestamp_us)]);
            let newest = self.model.entry(key).or_insert(timestamp_us);
            *newest = timestamp_us.max(*newest);
        }
        self.shared.state.lock().show(&encoded.into_bytes());
    }

    fn scan(&self, range: Range<u8>, backward: bool, at_most: usize) {
        let mut expected: Vec<_> = self.model.iter().filter(|(key, _)| range.contains(key)).collect();
        if backward {
            expected.reverse();
        }
        expected.truncate(at_most);
        let mut found = Vec::new();
        self.shared
            .scan(vec![range.start]..vec![range.end], backward, at_most, |key, value| {
                found.push((key[0], key::timestamp_us(value)));
                true
            })
            .expect("read");
        assert_eq!(found, expected.into_iter().map(|(key, at)| (*key, *at)).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn reads_find_the_newest_of_everything(steps in prop::collection::vec(step(), 1..60)) {
        let directory = tempfile::tempdir().expect("a directory");
        let table = Table::open(directory.path()).expect("opened");
        let mut pair = Pair { shared: Shared::new(table), sweep: Sweep::new(), model: BTreeMap::new() };
        for step in steps {
            pair.take(step);
        }
        pair.scan(0..u8::MAX, false, usize::MAX);
    }
}

const DAY_MS: u64 = 24 * 3_600 * 1_000;

fn room(number: usize) -> ConversationId {
    ConversationId::parse(&format!("room-{number}")).expect("an id")
}

fn ann() -> UserId {
    UserId::parse("ann").expect("an id")
}

/// Takes in one accepted client id in each of some rooms, at a day.
fn send(shared: &Shared, sweep: &mut Sweep, rooms: Range<usize>, day: u64) {
    let mut rows = Rows::default();
    for number in rooms {
        let (conversation, sender) = (room(number), ann());
        let (time_ms, client_id) = (day * DAY_MS, format!("on-day-{day}"));
        let timestamp_us = time_ms as i64 * 1_000;
        rows.put_projection(&Projection::Sent {
            conversation,
            sender,
            timestamp_us,
            time_ms,
            client_id,
            seq: day,
        });
        // An event, which the walk leaps over.
        rows.put(&key::event(&room(number), day), timestamp_us, &[b"event"]);
    }
    let mut state = shared.state.lock();
    state.show(&rows.into_bytes());
    state.freeze(0);
    let frozen = state.overlay.frozen.take().expect("frozen");
    drop(state);
    shared.table.take_in(&frozen, sweep).expect("taken in");
}

fn days_left(shared: &Shared, number: usize) -> Vec<u64> {
    let prefix = key::sent(&room(number), &ann());
    let mut days = Vec::new();
    let range = prefix.clone()..key::above(&prefix);
    let visit = |_: &[u8], value: &[u8]| {
        days.extend(key::read_sent_time_ms(value).map(|time_ms| time_ms / DAY_MS));
        true
    };
    shared.scan(range, false, usize::MAX, visit).expect("read");
    days
}

#[test]
fn old_client_ids_are_forgotten_in_time_and_no_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let shared = Shared::new(Table::open(directory.path()).expect("opened"));
    let mut sweep = Sweep::new();
    for day in [100, 101, 108, 109] {
        send(&shared, &mut sweep, 0..1_000, day);
    }
    assert_eq!(days_left(&shared, 7), [109, 108, 101, 100], "none is older than nine days");
    // A little traffic elsewhere, two days on: what is older than nine days goes, bit by bit.
    for _ in 0..40 {
        send(&shared, &mut sweep, 5_000..5_002, 111);
    }
    for number in [0, 7, 999] {
        assert_eq!(days_left(&shared, number), [109, 108], "room {number}");
        let event = shared.get(&key::event(&room(number), 100)).expect("read");
        assert!(event.is_some(), "events stay");
    }
    // Started anew, the walk begins again.
    let mut sweep = Sweep::new();
    for _ in 0..40 {
        send(&shared, &mut sweep, 5_000..5_002, 120);
    }
    assert_eq!(days_left(&shared, 7), Vec::<u64>::new());
    assert_eq!(days_left(&shared, 5_000), [120, 111]);
}
