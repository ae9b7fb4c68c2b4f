//! Partitions: checkpoints, the lives of a log, and what every replay passes over.

use super::{Place, unique_partition};
use carillon_message_worker::store::{Checkpoint, PartitionState, Store};
use carillon_proto::id::Tag;
use carillon_proto::position::{Incarnation, Position};
use std::sync::Arc;

fn checkpoint(sequence: u64) -> Checkpoint {
    let position = Position { incarnation: 1, sequence, index: 7 };
    Checkpoint { position, tag: Tag([sequence as u8; 16]), timestamp_us: 5_000 + sequence as i64 * 256 }
}

pub async fn a_partition_starts_empty(place: Place) {
    let (store, partition) = (place.open().await, unique_partition());
    let state = store.partition(partition).await.expect("read");
    assert_eq!(state, PartitionState { incarnation: None, checkpoint: None });
    assert_eq!(store.skips(partition, 1).await.expect("read"), []);
}

pub async fn checkpoints_never_move_back(place: Place) {
    let (store, partition) = (place.open().await, unique_partition());
    for (written, expected) in [(5, 5), (9, 9), (7, 9), (9, 9), (1, 9), (10, 10)] {
        store.checkpoint(partition, checkpoint(written)).await.expect("written");
        let state = store.partition(partition).await.expect("read");
        assert_eq!(state.checkpoint, Some(checkpoint(expected)), "after {written}");
    }
    assert_eq!(store.partition(partition ^ 1).await.expect("read").checkpoint, None);
    // The first of a new life lies lower in the log, and higher in time.
    let position = Position { incarnation: 2, sequence: 1, index: 0 };
    let reborn = Checkpoint { position, tag: Tag([99; 16]), timestamp_us: 1 << 50 };
    store.checkpoint(partition, reborn).await.expect("written");
    store.checkpoint(partition, checkpoint(11)).await.expect("written");
    assert_eq!(store.partition(partition).await.expect("read").checkpoint, Some(reborn));
}

/// Lets several begin a life after `previous` at once and returns the one that all were told.
async fn race(store: &Arc<dyn Store>, partition: u32, previous: Option<Incarnation>) -> Incarnation {
    let number = previous.map_or(1, |previous| previous.number + 1);
    let wishes: Vec<_> = (1..=8)
        .map(|wish| Incarnation {
            number,
            first_sequence: u64::from(number) * 100 + wish,
            base_us: wish as i64,
        })
        .collect();
    let begun: Vec<_> = wishes
        .iter()
        .map(|wish| {
            let (store, wish) = (Arc::clone(store), *wish);
            tokio::spawn(async move {
                // An unknown outcome is asked again, as a worker does.
                for _ in 0..20 {
                    if let Ok(begun) = store.begin_incarnation(partition, previous, wish).await {
                        return begun;
                    }
                }
                panic!("no outcome");
            })
        })
        .collect();
    let mut told = Vec::new();
    for begun in begun {
        told.push(begun.await.expect("no panic"));
    }
    assert!(told.iter().all(|life| *life == told[0]), "one winner: {told:?}");
    assert!(wishes.contains(&told[0]), "{told:?}");
    assert_eq!(store.partition(partition).await.expect("read").incarnation, Some(told[0]));
    told[0]
}

pub async fn one_of_many_begins_a_life(place: Place) {
    let (store, partition) = (place.open().await, unique_partition());
    let mut life = None;
    for _ in 0..3 {
        life = Some(race(&store, partition, life).await);
    }
    drop(store);
    assert_eq!(place.open().await.partition(partition).await.expect("read").incarnation, life);
}

pub async fn a_life_begins_only_after_the_one_it_knows(place: Place) {
    let (store, partition) = (place.open().await, unique_partition());
    let first = Incarnation::first(1_000);
    let second = first.next(50, 2_000);
    let other = Incarnation { base_us: 1, ..second };
    let begin =
        async |previous, next| store.begin_incarnation(partition, previous, next).await.expect("an outcome");
    assert_eq!(begin(None, first).await, first);
    assert_eq!(begin(None, first).await, first, "asked again after an unknown outcome");
    assert_eq!(begin(None, other).await, first, "too late");
    assert_eq!(begin(Some(other), second).await, first, "knows another one");
    assert_eq!(begin(Some(first), second).await, second);
    assert_eq!(begin(Some(first), other).await, second, "too late");
    assert_eq!(store.partition(partition).await.expect("read").incarnation, Some(second));
}

pub async fn skips_are_kept_by_life(place: Place) {
    let (store, partition) = (place.open().await, unique_partition());
    let at = |incarnation, sequence, index| Position { incarnation, sequence, index };
    let skipped = [at(1, 5, 0), at(1, 5, 3), at(1, 1 << 40, 255), at(2, 5, 0)];
    for position in skipped.iter().rev().chain(&skipped[..2]) {
        store.record_skip(partition, *position, "it could not be decoded").await.expect("recorded");
    }
    assert_eq!(store.skips(partition, 1).await.expect("read"), skipped[..3]);
    assert_eq!(store.skips(partition, 2).await.expect("read"), skipped[3..]);
    assert_eq!(store.skips(partition, 3).await.expect("read"), []);
    assert_eq!(store.skips(partition ^ 1, 1).await.expect("read"), []);
}

pub async fn a_store_in_use_is_healthy(place: Place) {
    let store = place.open().await;
    store.checkpoint(unique_partition(), checkpoint(1)).await.expect("written");
    assert!(store.healthy().await);
}
