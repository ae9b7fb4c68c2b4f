//! The contract of seals: the first seal decides which rows of earlier incarnations count, and no read returns the
//! others, however late they are written.

use super::{Place, conversation, row_at, seqs, unique};
use carillon_message_worker::store::{EventRow, SEALED_ROWS_MAX, Seal, Store};
use carillon_proto::id::ConversationId;
use std::sync::Arc;

/// Rows of one bucket, in stores that divide a conversation into buckets.
const BUCKET: u64 = 10_000;
/// The seal's timestamp: earlier incarnations write below it, the seal's own incarnation above it.
const SEALED_US: i64 = 1_000_000;

fn seal(incarnation: u32, seq: u64) -> Seal {
    Seal { incarnation, created: false, seq }
}

/// Rows of an earlier incarnation. The first has the highest timestamp that such a row can have.
fn early(room: &ConversationId, seqs: impl IntoIterator<Item = u64>) -> Vec<EventRow> {
    seqs.into_iter().zip(1..).map(|(seq, nth)| row_at(room, seq, SEALED_US - nth)).collect()
}

/// Rows of the seal's incarnation. The first has the lowest timestamp that such a row can have.
fn present(room: &ConversationId, seqs: impl IntoIterator<Item = u64>) -> Vec<EventRow> {
    seqs.into_iter().zip(1..).map(|(seq, nth)| row_at(room, seq, SEALED_US + nth)).collect()
}

async fn decide(store: &Arc<dyn Store>, room: &ConversationId, previous: Option<Seal>, next: Seal) -> Seal {
    // Repeats a seal whose outcome is unknown, as a worker does.
    for _ in 0..20 {
        if let Ok(in_force) = store.seal(room, previous, next, SEALED_US).await {
            return in_force;
        }
    }
    panic!("no attempt got an outcome");
}

/// Asserts that every kind of read returns exactly these rows.
async fn assert_holds(store: &Arc<dyn Store>, room: &ConversationId, after: u64, expected: &[EventRow]) {
    let limit = expected.len() + 10;
    assert_eq!(store.events_after(room, after, limit).await.expect("read"), expected);
    let newest = store.events_before(room, u64::MAX, expected.len()).await.expect("read");
    assert_eq!(newest, expected, "wrong rows when read from the end");
    let last = expected.last().map_or(0, |row| row.seq);
    for seq in [last + 1, last + 2, last + SEALED_ROWS_MAX / 2] {
        assert_eq!(store.event(room, seq).await.expect("read"), None, "{seq}");
    }
}

/// Guards the lightweight transaction of `Store::seal`: workers that disagree would each serve other rows.
pub async fn the_first_seal_decides(place: Place) {
    let (store, room) = (place.open().await, conversation(&unique("room")));
    let mut previous = None;
    assert_eq!(store.known_seal(&room).await.expect("read"), None);
    for incarnation in 2..5 {
        let wishes: Vec<_> =
            (1..=8).map(|wish| seal(incarnation, u64::from(incarnation) * 100 + wish)).collect();
        let asked: Vec<_> = wishes
            .iter()
            .map(|wish| {
                let (store, room, wish) = (Arc::clone(&store), room.clone(), *wish);
                tokio::spawn(async move { decide(&store, &room, previous, wish).await })
            })
            .collect();
        let mut told = Vec::new();
        for asked in asked {
            told.push(asked.await.expect("no panic"));
        }
        assert!(
            told.iter().all(|in_force| *in_force == told[0]),
            "all callers must get the same seal: {told:?}"
        );
        assert!(wishes.contains(&told[0]), "{told:?}");
        let decided = told[0];
        assert_eq!(
            decide(&store, &room, previous, decided).await,
            decided,
            "a repeated call must get the same seal"
        );
        assert_eq!(
            decide(&store, &room, None, seal(9, 9)).await,
            decided,
            "a caller that expects no seal must not replace it"
        );
        assert_eq!(
            decide(&store, &room, Some(seal(9, 8)), seal(9, 9)).await,
            decided,
            "a caller that expects another seal must not replace it"
        );
        assert_eq!(store.known_seal(&room).await.expect("read"), Some(decided));
        previous = Some(decided);
    }
    drop(store);
    let store = place.open().await;
    assert_eq!(decide(&store, &room, None, seal(9, 9)).await, previous.expect("decided"));
    let other = conversation(&unique("room"));
    assert_eq!(
        decide(&store, &other, previous, seal(9, 9)).await,
        seal(9, 9),
        "a caller whose expected seal was lost must be able to seal"
    );
}

/// A former owner's rows must not appear above the seal, whether they were written before it or are written later
/// (`docs/decisions/0010-a-life-seals-what-came-before.md`).
pub async fn rows_that_a_seal_does_not_count_are_never_read(place: Place) {
    let store = place.open().await;
    // The seal's last row is within a bucket, shortly before its end, and at its end, before an empty bucket.
    for last in [5, BUCKET - 3, BUCKET - 1] {
        let room = conversation(&unique("room"));
        let counted = early(&room, last - 4..=last);
        store.append(counted.clone()).await.expect("appended");
        store.append(early(&room, last + 1..=last + 6)).await.expect("rows are appended before the seal");
        assert_eq!(decide(&store, &room, None, seal(2, last)).await, seal(2, last));
        assert_holds(&store, &room, last - 5, &counted).await;
        store
            .append(early(&room, last + 1..=last + SEALED_ROWS_MAX))
            .await
            .expect("rows are appended after the seal");
        assert_holds(&store, &room, last - 5, &counted).await;
        // Rows of the seal's own incarnation are read, and later writes of earlier ones do not change them.
        let written = [counted, present(&room, last + 1..=last + 3)].concat();
        store.append(written[5..].to_vec()).await.expect("appended");
        store
            .append(early(&room, last + 1..=last + 9))
            .await
            .expect("rows are appended after those of the new incarnation");
        assert_eq!(
            decide(&store, &room, None, seal(2, last + 7)).await,
            seal(2, last),
            "a repeated seal must not change the first one"
        );
        assert_holds(&store, &room, last - 5, &written).await;
        let before = store.events_before(&room, last + 3, 4).await.expect("read");
        assert_eq!(before, written[3..7], "{last}");
    }
}

pub async fn rows_written_while_a_conversation_is_sealed_are_not_read(place: Place) {
    let (store, room) = (place.open().await, conversation(&unique("room")));
    let counted = early(&room, 1..=3);
    store.append(counted.clone()).await.expect("appended");
    let late: Vec<_> = (0..16)
        .map(|_| {
            let (store, rows) = (Arc::clone(&store), early(&room, 4..=40));
            tokio::spawn(async move { store.append(rows).await })
        })
        .collect();
    assert_eq!(decide(&store, &room, None, seal(2, 3)).await, seal(2, 3));
    assert_holds(&store, &room, 0, &counted).await;
    for late in late {
        late.await.expect("no panic").expect("appended");
    }
    assert_holds(&store, &room, 0, &counted).await;
}

/// The creation, at seq 0, is decided apart from the other rows.
pub async fn a_creation_row_counts_only_if_the_seal_includes_it(place: Place) {
    let store = place.open().await;
    let with = |created, seq| Seal { created, ..seal(2, seq) };
    for (sealed, there) in [(with(true, 0), 0), (with(false, 0), 0), (with(true, 2), 2), (with(false, 2), 2)]
    {
        let room = conversation(&unique("room"));
        store.append(early(&room, 0..=4)).await.expect("rows are appended before the seal");
        assert_eq!(decide(&store, &room, None, sealed).await, sealed);
        store.append(early(&room, 0..=4)).await.expect("rows are appended after the seal");
        let creation = store.event(&room, 0).await.expect("read");
        assert_eq!(creation.is_some(), sealed.created, "{sealed:?}");
        let rows = store.events_after(&room, 0, 10).await.expect("read");
        assert_eq!(seqs(&rows), (1..=there).collect::<Vec<_>>(), "{sealed:?}");
        // A creation that the seal's own incarnation writes is read in any case.
        store.append(present(&room, 0..=0)).await.expect("appended");
        assert_eq!(store.event(&room, 0).await.expect("read").as_ref(), present(&room, 0..=0).first());
    }
}

pub async fn reopening_keeps_seals(place: Place) {
    let room = conversation(&unique("room"));
    let counted = early(&room, 1..=3);
    let store = place.open().await;
    store.append(counted.clone()).await.expect("appended");
    assert_eq!(decide(&store, &room, None, seal(2, 3)).await, seal(2, 3));
    drop(store);
    for _ in 0..2 {
        let store = place.open().await;
        store.append(early(&room, 4..=9)).await.expect("appended");
        assert_holds(&store, &room, 0, &counted).await;
    }
}
