//! Reads find the values with the highest timestamps, in whichever order the rows were written and however many of them
//! are in the table. Old accepted client ids are removed.

use std::collections::BTreeMap;
use std::ops::Range;

use carillon_proto::id::ConversationId;
use proptest::prelude::*;

use super::key;
use super::row::{self, Rows};
use super::shared::Shared;
use super::sweep::Sweep;
use super::table::Table;
use crate::store::{Author, Projection};

/// One step of a random test.
#[derive(Debug, Clone)]
enum Step {
    /// Shows rows to readers. There are few keys and timestamps, so that rows collide.
    Show(Vec<(u8, i64)>),
    /// Freezes the active generation, if none is frozen.
    Freeze,
    /// Writes the frozen generation into the table.
    TakeIn,
    /// Reads a key.
    Get(u8),
    /// Reads a range.
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

/// The body follows from key and timestamp, as it does for rows that are written from the log.
fn body(key: u8, timestamp_us: i64) -> [u8; 2] {
    [key, timestamp_us as u8]
}

/// The store without its threads, and a model of what it should hold.
struct Pair {
    shared: Shared,
    sweep: Sweep,
    model: BTreeMap<u8, i64>,
}

impl Pair {
    fn run_step(&mut self, step: Step) {
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
                assert_eq!(found.map(|value| (row::timestamp_us(&value), value[8..].to_vec())), expected);
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
                found.push((key[0], row::timestamp_us(value)));
                true
            })
            .expect("read");
        assert_eq!(found, expected.into_iter().map(|(key, at)| (*key, *at)).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn reads_find_the_newest_value_of_each_key(steps in prop::collection::vec(step(), 1..60)) {
        let directory = tempfile::tempdir().expect("a directory");
        let table = Table::open(directory.path()).expect("opened");
        let mut pair = Pair { shared: Shared::new(table), sweep: Sweep::new(), model: BTreeMap::new() };
        for step in steps {
            pair.run_step(step);
        }
        pair.scan(0..u8::MAX, false, usize::MAX);
    }
}

fn room(number: usize) -> ConversationId {
    ConversationId::parse(&format!("room-{number}")).expect("an id")
}

fn ann() -> Author {
    Author::parse("ann").expect("a user's id")
}

/// Writes accepted client ids of user ann into the table: one in each of the rooms for every seq.
fn send(shared: &Shared, sweep: &mut Sweep, rooms: Range<usize>, seqs: Range<u64>) {
    let mut rows = Rows::default();
    for (number, seq) in rooms.flat_map(|number| seqs.clone().map(move |seq| (number, seq))) {
        let (conversation, sender) = (room(number), ann());
        // Every seventh time is far in the future, as from a wrong clock.
        let time_ms = if seq % 7 == 0 { u64::MAX / 2 } else { 1_000 };
        let (timestamp_us, client_id) = (seq as i64, format!("of-{seq}"));
        rows.put_projection(&Projection::Sent {
            conversation,
            sender,
            timestamp_us,
            time_ms,
            client_id,
            seq,
        });
        // An event, which the sweep skips.
        rows.put(&key::event(&room(number), seq), timestamp_us, &[b"event"]);
    }
    let mut state = shared.state.lock();
    state.show(&rows.into_bytes());
    state.freeze(0);
    let frozen = state.overlay.frozen.take().expect("frozen");
    drop(state);
    shared.table.take_in(&frozen, sweep).expect("taken in");
}

fn seqs_left(shared: &Shared, number: usize) -> Vec<u64> {
    let prefix = key::sent(&room(number), &ann());
    let mut seqs = Vec::new();
    let range = prefix.clone()..key::above(&prefix);
    let visit = |_: &[u8], value: &[u8]| {
        seqs.extend(row::read_sent(value).map(|row| row.seq));
        true
    };
    shared.scan(range, false, usize::MAX, visit).expect("read");
    seqs
}

/// Before the fix, one entry whose time was ten days ahead made the store remove all client ids.
#[test]
fn the_newest_client_ids_are_kept_whatever_their_time_and_older_ones_are_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let shared = Shared::new(Table::open(directory.path()).expect("opened"));
    let mut sweep = Sweep::new();
    let kept = carillon_proto::limits::DEDUP_CLIENT_IDS_MAX as u64;
    send(&shared, &mut sweep, 0..40, 1..4);
    send(&shared, &mut sweep, 7..8, 4..kept + 21);
    // Writes to other rooms let the sweep remove the surplus ids, a few at a time.
    for seq in 0..40 {
        send(&shared, &mut sweep, 50..90, seq..seq + 1);
    }
    assert_eq!(seqs_left(&shared, 7), (21..=kept + 20).rev().collect::<Vec<_>>());
    for number in [0, 8, 39] {
        assert_eq!(seqs_left(&shared, number), [3, 2, 1], "room {number}");
    }
    let event = shared.get(&key::event(&room(7), 1)).expect("read");
    assert!(event.is_some(), "the event of the trimmed room is kept");
}
