//! The contract of a partition's records: checkpoints, incarnations and tenures, skipped positions, and suspensions.

use super::{Place, unique_partition};
use carillon_message_worker::store::{Checkpoint, Owner, PartitionState, Store, Suspension, Tenure};
use carillon_proto::id::{ConversationId, Tag, WorkerId};
use carillon_proto::position::{Incarnation, Position};
use std::sync::Arc;

fn checkpoint(sequence: u64) -> Checkpoint {
    let position = Position { incarnation: 1, sequence, index: 7 };
    Checkpoint {
        position,
        tag: Tag([sequence as u8; 16]),
        timestamp_us: 5_000 + sequence as i64 * 256,
        version: sequence as u32,
    }
}

pub async fn a_partition_starts_empty(place: Place) {
    let (store, partition) = (place.open().await, unique_partition());
    let state = store.partition(partition).await.expect("read");
    assert_eq!(state, PartitionState::default());
    assert_eq!(store.skips(partition, 1).await.expect("read"), []);
}

/// A former owner may write its checkpoint late. A lower one would make the next owner apply commands again.
pub async fn checkpoints_never_move_back(place: Place) {
    let (store, partition) = (place.open().await, unique_partition());
    for (written, expected) in [(5, 5), (9, 9), (7, 9), (9, 9), (1, 9), (10, 10)] {
        store.checkpoint(partition, checkpoint(written)).await.expect("written");
        let state = store.partition(partition).await.expect("read");
        assert_eq!(state.checkpoint, Some(checkpoint(expected)), "wrong checkpoint after {written}");
    }
    assert_eq!(store.partition(partition ^ 1).await.expect("read").checkpoint, None);
    // The first checkpoint of a new incarnation has a lower sequence and a higher timestamp.
    let position = Position { incarnation: 2, sequence: 1, index: 0 };
    let reborn = Checkpoint { position, tag: Tag([99; 16]), timestamp_us: 1 << 50, version: 1 };
    store.checkpoint(partition, reborn).await.expect("written");
    store.checkpoint(partition, checkpoint(11)).await.expect("written");
    assert_eq!(store.partition(partition).await.expect("read").checkpoint, Some(reborn));
}

fn owner(number: u64) -> Option<Owner> {
    Some(Owner::new(&WorkerId::parse("worker-1").expect("valid"), 7, number))
}

/// Has eight workers start an incarnation after `previous` at once, and returns the tenure that all of them got.
async fn race(store: &Arc<dyn Store>, partition: u32, previous: Option<&Tenure>) -> Tenure {
    let number = previous.map_or(1, |previous| previous.incarnation.number + 1);
    let wish = |wish: u64| Tenure {
        incarnation: Incarnation::new(number, u64::from(number) * 100 + wish, wish as i64),
        epoch: wish % 3,
        owner: owner(wish).filter(|_| wish != 4),
    };
    let wishes: Vec<Tenure> = (1..=8).map(wish).collect();
    let begun: Vec<_> = wishes
        .iter()
        .map(|wish| {
            let (store, previous, wish) = (Arc::clone(store), previous.cloned(), wish.clone());
            tokio::spawn(async move {
                // Repeats a change whose outcome is unknown, as a worker does.
                for _ in 0..20 {
                    let begun = store.change_tenure(partition, previous.clone(), wish.clone()).await;
                    if let Ok(begun) = begun {
                        let incarnation = store.incarnation(partition).await.expect("read");
                        assert!(
                            incarnation
                                .is_some_and(|incarnation| incarnation.number >= begun.incarnation.number)
                        );
                        return begun;
                    }
                }
                panic!("no attempt got an outcome");
            })
        })
        .collect();
    let mut told = Vec::new();
    for begun in begun {
        told.push(begun.await.expect("no panic"));
    }
    assert!(
        told.iter().all(|incarnation| *incarnation == told[0]),
        "all callers must get the same incarnation: {told:?}"
    );
    assert!(wishes.contains(&told[0]), "{told:?}");
    assert_eq!(store.partition(partition).await.expect("read").tenure.as_ref(), Some(&told[0]));
    told.swap_remove(0)
}

/// Guards the lightweight transaction of `Store::change_tenure`: two winners would both own the partition.
pub async fn of_workers_that_start_an_incarnation_at_once_one_wins(place: Place) {
    let (store, partition) = (place.open().await, unique_partition());
    let mut incarnation = None;
    for _ in 0..3 {
        incarnation = Some(race(&store, partition, incarnation.as_ref()).await);
    }
    drop(store);
    assert_eq!(place.open().await.partition(partition).await.expect("read").tenure, incarnation);
}

/// A worker that expects an outdated tenure changes nothing, and gets the tenure in force.
pub async fn an_incarnation_starts_only_after_the_expected_one(place: Place) {
    let (store, partition) = (place.open().await, unique_partition());
    let free = |incarnation| Tenure { incarnation, epoch: 0, owner: None };
    let first = free(Incarnation::first(1_000));
    let second = free(first.incarnation.next(50, 2_000));
    let other = free(Incarnation { base_us: 1, ..second.incarnation });
    let begin = async |previous: Option<&Tenure>, next: &Tenure| {
        let begun = store.change_tenure(partition, previous.cloned(), next.clone()).await;
        begun.expect("an outcome")
    };
    assert_eq!(begin(None, &first).await, first);
    assert_eq!(begin(None, &first).await, first, "a repeated call must get the same result");
    assert_eq!(begin(None, &other).await, first, "a later call must get the incarnation in force");
    assert_eq!(
        begin(Some(&other), &second).await,
        first,
        "a caller that expects another incarnation must not change it"
    );
    assert_eq!(begin(Some(&first), &second).await, second);
    assert_eq!(begin(Some(&first), &other).await, second, "a later call must get the incarnation in force");
    assert_eq!(store.partition(partition).await.expect("read").tenure, Some(second));
}

/// Only the owner gives a tenure back. A takeover starts an incarnation of the same log generation, after which the
/// former owner's changes have no effect (`docs/decisions/0013-who-takes-over-begins-a-life.md`).
pub async fn a_tenure_has_one_owner_at_a_time(place: Place) {
    let (store, partition) = (place.open().await, unique_partition());
    let incarnation = Incarnation::new(3, 40, 1_000);
    let held = |incarnation, number| Tenure { incarnation, epoch: number, owner: owner(number) };
    let free = Tenure { incarnation, epoch: 1, owner: None };
    let change = async |previous: &Tenure, next: &Tenure| {
        let changed = store.change_tenure(partition, Some(previous.clone()), next.clone()).await;
        changed.expect("an outcome")
    };
    let begun = store.change_tenure(partition, None, held(incarnation, 1)).await.expect("an outcome");
    assert_eq!(begun, held(incarnation, 1));
    assert_eq!(
        change(&free, &held(incarnation, 2)).await,
        held(incarnation, 1),
        "a held tenure must not be taken"
    );
    assert_eq!(
        change(&held(incarnation, 2), &free).await,
        held(incarnation, 1),
        "only the owner may release the tenure"
    );
    assert_eq!(change(&held(incarnation, 1), &free).await, free);
    assert_eq!(change(&held(incarnation, 1), &free).await, free, "a repeated call must get the same result");
    let earlier = Tenure { epoch: 0, ..free.clone() };
    assert_eq!(
        change(&earlier, &held(incarnation, 2)).await,
        free,
        "a tenure that was taken and released since must not be taken from an old state"
    );
    assert_eq!(change(&free, &held(incarnation, 2)).await, held(incarnation, 2));
    assert_eq!(
        change(&held(incarnation, 1), &free).await,
        held(incarnation, 2),
        "a former owner must not release the tenure"
    );
    let taken = incarnation.taken_over(60, 9_000);
    assert_eq!(change(&held(incarnation, 2), &held(taken, 3)).await, held(taken, 3));
    assert_eq!(
        change(&held(incarnation, 2), &free).await,
        held(taken, 3),
        "the tenure of a former incarnation must not be released"
    );
    let state = store.partition(partition).await.expect("read");
    assert_eq!(state.tenure, Some(held(taken, 3)));
    assert_eq!(
        state.incarnation().map(|incarnation| incarnation.generation),
        Some(incarnation.generation),
        "the log generation must be kept"
    );
}

/// Every replay must skip the same positions. A position includes the incarnation, so a skip of one incarnation does
/// not hold in another.
pub async fn skips_are_stored_by_incarnation(place: Place) {
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

/// The write timestamp decides, not the order of the writes, as for all rows
/// (`docs/decisions/0021-what-cannot-be-read-is-suspended.md`).
pub async fn the_latest_record_of_a_suspension_wins(place: Place) {
    let (store, partition) = (place.open().await, unique_partition());
    assert_eq!(store.suspensions(partition).await.expect("read"), []);
    let at = |incarnation, sequence, index| Position { incarnation, sequence, index };
    let suspension = |room: &str, until| Suspension {
        conversation: ConversationId::parse(room).expect("valid"),
        from: at(1, 1 << 40, 255),
        until,
        reason: "row 3 does not decode".into(),
    };
    let said = [
        (suspension("room", None), 10),
        (suspension("room", Some(at(2, 1 << 41, 0))), 20),
        (suspension("room", None), 15),
        (suspension("hall", Some(at(1, 7, 0))), 10),
        (suspension("hall", None), 20),
    ];
    for (suspension, timestamp_us) in &said {
        store.record_suspension(partition, suspension, *timestamp_us).await.expect("recorded");
    }
    drop(store);
    let store = place.open().await;
    let mut found = store.suspensions(partition).await.expect("read");
    found.sort_by(|one, other| one.conversation.cmp(&other.conversation));
    assert_eq!(found, [said[4].0.clone(), said[1].0.clone()]);
    assert_eq!(store.suspensions(partition ^ 1).await.expect("read"), []);
}

pub async fn a_store_in_use_is_healthy(place: Place) {
    let store = place.open().await;
    store.checkpoint(unique_partition(), checkpoint(1)).await.expect("written");
    assert!(store.healthy().await);
}
