//! The contract of event rows: appended, replaced by a higher timestamp, and read by seq in both directions.

use super::{Place, conversation, permutations, row, row_at, rows, seqs, unique};
use carillon_message_worker::store::{EventRow, Store};
use carillon_proto::id::ConversationId;
use std::sync::Arc;

/// Rows of one bucket, in stores that divide a conversation into buckets.
const BUCKET: u64 = 10_000;

pub async fn appended_rows_are_read_back_whole(place: Place) {
    let (store, room) = (place.open().await, conversation(&unique("room")));
    let written = rows(&room, 1..=5);
    store.append(written.clone()).await.expect("appended");
    assert_eq!(store.events_after(&room, 0, 10).await.expect("read"), written);
    assert_eq!(store.events_after(&room, 2, 2).await.expect("read"), written[2..4]);
    assert_eq!(store.events_before(&room, 6, 10).await.expect("read"), written);
    assert_eq!(store.events_before(&room, 4, 2).await.expect("read"), written[1..3]);
    assert_eq!(store.event(&room, 3).await.expect("read"), Some(written[2].clone()));
    // Blobs of several sizes, the larger ones with every byte value.
    for (seq, bytes) in [(6, 0), (7, 1), (8, 300), (9, 70_000)] {
        let blob = (0..bytes).map(|at| at as u8).collect::<Vec<_>>().into();
        let row = EventRow { blob, ..row(&room, seq) };
        store.append(vec![row.clone()]).await.expect("appended");
        assert_eq!(store.event(&room, seq).await.expect("read"), Some(row), "{bytes} bytes");
    }
}

/// A write whose outcome is unknown is repeated, so every write must be idempotent.
pub async fn appending_a_row_twice_changes_nothing(place: Place) {
    let (store, room) = (place.open().await, conversation(&unique("room")));
    let written = rows(&room, 1..=100);
    store.append(written.clone()).await.expect("appended");
    store.append(written[40..60].to_vec()).await.expect("appended");
    store.append(written.clone()).await.expect("appended");
    store.append(Vec::new()).await.expect("nothing to do");
    assert_eq!(store.events_after(&room, 0, 1_000).await.expect("read"), written);
}

/// A former owner may write late. The write timestamp, which follows from the log position, decides instead of the
/// order.
pub async fn the_higher_timestamp_wins_in_every_order_of_writes(place: Place) {
    let store = place.open().await;
    for order in permutations(&[10, 20, 30]) {
        let room = conversation(&unique("room"));
        for timestamp_us in &order {
            store.append(vec![row_at(&room, 1, *timestamp_us)]).await.expect("appended");
        }
        let expected = row_at(&room, 1, 30);
        assert_eq!(store.event(&room, 1).await.expect("read"), Some(expected.clone()), "{order:?}");
        assert_eq!(store.events_after(&room, 0, 5).await.expect("read"), [expected], "{order:?}");
    }
}

/// The embedded store must also compare a new row with rows that it wrote before it was opened.
pub async fn the_higher_timestamp_wins_when_the_store_is_reopened_between_writes(place: Place) {
    for order in permutations(&[10, 20, 30]) {
        let room = conversation(&unique("room"));
        for timestamp_us in &order {
            let store = place.open().await;
            store.append(vec![row_at(&room, 1, *timestamp_us)]).await.expect("appended");
        }
        let store = place.open().await;
        assert_eq!(store.event(&room, 1).await.expect("read"), Some(row_at(&room, 1, 30)), "{order:?}");
        assert_eq!(store.events_after(&room, 0, 5).await.expect("read"), [row_at(&room, 1, 30)], "{order:?}");
    }
}

/// Seqs are contiguous, so a missing row is not committed yet, and a reader must not pass it.
pub async fn reading_forward_stops_before_a_gap(place: Place) {
    let (store, room) = (place.open().await, conversation(&unique("room")));
    store.append(rows(&room, [1, 2, 3, 5, 6])).await.expect("appended");
    let after = async |seq| seqs(&store.events_after(&room, seq, 100).await.expect("read"));
    assert_eq!(after(0).await, [1, 2, 3]);
    assert_eq!(after(2).await, [3]);
    assert_eq!(after(3).await, Vec::<u64>::new());
    assert_eq!(after(4).await, [5, 6]);
    store.append(rows(&room, [4])).await.expect("appended");
    assert_eq!(after(0).await, [1, 2, 3, 4, 5, 6]);
}

/// The row at seq 0 is the conversation's creation, which is no event of its history.
pub async fn seq_zero_is_only_found_by_its_seq(place: Place) {
    let (store, room) = (place.open().await, conversation(&unique("room")));
    let written = rows(&room, [0, 1]);
    store.append(written.clone()).await.expect("appended");
    assert_eq!(store.event(&room, 0).await.expect("read"), Some(written[0].clone()));
    assert_eq!(seqs(&store.events_after(&room, 0, 10).await.expect("read")), [1]);
    assert_eq!(seqs(&store.events_before(&room, 2, 10).await.expect("read")), [1]);
    assert_eq!(seqs(&store.events_before(&room, u64::MAX, 10).await.expect("read")), [1]);
    for before_seq in [0, 1] {
        assert_eq!(store.events_before(&room, before_seq, 10).await.expect("read"), []);
    }
}

pub async fn pages_cross_buckets(place: Place) {
    let (store, room) = (place.open().await, conversation(&unique("room")));
    let written = rows(&room, BUCKET - 10..=BUCKET + 20);
    store.append(written.clone()).await.expect("appended");
    assert_eq!(store.events_after(&room, BUCKET - 11, 100).await.expect("read"), written);
    assert_eq!(store.events_after(&room, BUCKET - 1, 1).await.expect("read"), written[10..11]);
    assert_eq!(store.events_after(&room, BUCKET - 3, 4).await.expect("read"), written[8..12]);
    assert_eq!(store.events_before(&room, BUCKET + 5, 10).await.expect("read"), written[5..15]);
    assert_eq!(store.events_before(&room, BUCKET, 3).await.expect("read"), written[7..10]);
    assert_eq!(store.events_before(&room, BUCKET + 21, 1_000).await.expect("read"), written);
}

pub async fn a_long_conversation_is_read_whole_and_from_its_end(place: Place) {
    let (store, room) = (place.open().await, conversation(&unique("room")));
    let last = 2 * BUCKET + 5;
    let written = rows(&room, 1..=last);
    for chunk in written.chunks(2_000) {
        store.append(chunk.to_vec()).await.expect("appended");
    }
    let read = store.events_after(&room, 0, usize::MAX).await.expect("read");
    assert!(read == written, "{} of {} rows", read.len(), written.len());
    // Reads the newest rows without a stored head, from seqs up to far above the end.
    for before_seq in [last + 1, 3 * BUCKET, 1 << 40, u64::MAX] {
        let newest = store.events_before(&room, before_seq, 10).await.expect("read");
        assert_eq!(seqs(&newest), (last - 9..=last).collect::<Vec<_>>(), "wrong rows before {before_seq}");
    }
    let across = store.events_before(&room, 2 * BUCKET + 2, 300).await.expect("read");
    assert_eq!(seqs(&across), (2 * BUCKET - 298..2 * BUCKET + 2).collect::<Vec<_>>());
}

pub async fn reading_without_matching_rows_returns_nothing(place: Place) {
    let (store, room) = (place.open().await, conversation(&unique("room")));
    for after_seq in [0, BUCKET, u64::MAX] {
        assert_eq!(store.events_after(&room, after_seq, 10).await.expect("read"), []);
        assert_eq!(store.events_before(&room, after_seq, 10).await.expect("read"), []);
        assert_eq!(store.event(&room, after_seq).await.expect("read"), None);
    }
    store.append(rows(&room, 1..=3)).await.expect("appended");
    assert_eq!(store.events_after(&room, 0, 0).await.expect("read"), []);
    assert_eq!(store.events_before(&room, 4, 0).await.expect("read"), []);
    assert_eq!(store.events_after(&room, 3, 10).await.expect("read"), []);
}

/// Guards the embedded store's keys: an id that is another one's prefix must not share its range.
pub async fn conversations_with_similar_ids_are_separate(place: Place) {
    let (store, base) = (place.open().await, unique("room"));
    let rooms: Vec<ConversationId> = ["", ":", "a", ":h", "p", "s", "t", "tt"]
        .iter()
        .map(|end| conversation(&format!("{base}{end}")))
        .collect();
    for (count, room) in (1..).zip(&rooms) {
        store.append(rows(room, 0..=count)).await.expect("appended");
    }
    for (count, room) in (1..).zip(&rooms) {
        assert_eq!(store.events_after(room, 0, 100).await.expect("read"), rows(room, 1..=count), "{room}");
        assert_eq!(
            store.events_before(room, u64::MAX, 100).await.expect("read"),
            rows(room, 1..=count),
            "{room}"
        );
    }
}

pub async fn concurrent_appends_to_many_conversations_are_read_at_once(place: Place) {
    const ROOMS: usize = 64;
    const ROWS: u64 = 20;
    let store = place.open().await;
    let rooms: Vec<_> = (0..ROOMS).map(|number| conversation(&unique(&format!("room-{number}")))).collect();
    let writers: Vec<_> =
        rooms.iter().map(|room| tokio::spawn(write_all(Arc::clone(&store), room.clone(), ROWS))).collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    for room in &rooms {
        assert_eq!(store.events_after(room, 0, 1_000).await.expect("read"), rows(room, 1..=ROWS));
    }
}

/// Appends one row after the other, and reads each after its acknowledgement.
async fn write_all(store: Arc<dyn Store>, room: ConversationId, count: u64) {
    for seq in 1..=count {
        store.append(rows(&room, [seq])).await.expect("appended");
        assert_eq!(store.event(&room, seq).await.expect("read"), Some(row(&room, seq)), "{room} {seq}");
        let newest = store.events_before(&room, u64::MAX, 3).await.expect("read");
        assert_eq!(seqs(&newest).last(), Some(&seq), "{room}");
    }
}

pub async fn reopening_keeps_all_rows(place: Place) {
    let room = conversation(&unique("room"));
    for round in 0..4 {
        let store = place.open().await;
        let expected = rows(&room, 1..=round * 10);
        assert_eq!(store.events_after(&room, 0, 1_000).await.expect("read"), expected);
        store.append(rows(&room, round * 10 + 1..=round * 10 + 10)).await.expect("appended");
    }
}
