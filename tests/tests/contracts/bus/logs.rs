//! The contract of a partition's log.

use super::{append_all, bytes, eventually, next_one, random_tag, read_some};
use bytes::Bytes;
use carillon_proto::limits::BUS_MESSAGE_BYTES_MAX;
use carillon_runtime::bus::{Bus, BusError, LogBounds};
use carillon_runtime::time::wall_ms;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

fn payloads(count: u64) -> impl Iterator<Item = String> {
    (1..=count).map(|number| format!("entry {number}"))
}

/// Positions follow from sequences, and a replay must find the same entries with the same times.
#[expect(clippy::disallowed_methods, reason = "entries have the wall clock's time")]
pub async fn appends_get_contiguous_sequences(bus: Arc<dyn Bus>) {
    assert_eq!(bus.log_bounds(1).await, Ok(LogBounds { first: 1, last: 0 }));
    let began_ms = wall_ms();
    assert_eq!(append_all(&*bus, 1, payloads(50)).await, (1..=50).collect::<Vec<_>>());
    assert_eq!(bus.log_bounds(1).await, Ok(LogBounds { first: 1, last: 50 }));
    assert_eq!(
        bus.log_bounds(2).await,
        Ok(LogBounds { first: 1, last: 0 }),
        "another partition must have an empty log"
    );

    let mut reader = bus.read_log(1, 1).await.expect("a reader");
    let entries = read_some(&mut *reader, 50, 50).await;
    assert!(entries.iter().map(|entry| entry.sequence).eq(1..=50));
    assert!(entries.iter().zip(payloads(50)).all(|(entry, payload)| entry.payload == bytes(payload)));
    assert!(entries.is_sorted_by_key(|entry| entry.time_ms));
    assert!(entries.iter().all(|entry| (began_ms..=wall_ms()).contains(&entry.time_ms)));
    let mut again = bus.read_log(1, 1).await.expect("a reader");
    assert_eq!(read_some(&mut *again, 50, 7).await, entries, "a second reader must read the same entries");
}

/// A gateway repeats an append whose outcome is unknown, byte for byte and with the same tag. The log must not contain
/// it twice.
pub async fn a_repeated_tag_is_the_same_entry(bus: Arc<dyn Bus>) {
    let (first, second) = (random_tag(), random_tag());
    assert_eq!(bus.append(0, first, bytes("first")).await, Ok(1));
    assert_eq!(bus.append(0, second, bytes("second")).await, Ok(2));
    assert_eq!(bus.append(0, first, bytes("first")).await, Ok(1));
    assert_eq!(
        bus.append(1, first, bytes("first")).await,
        Ok(1),
        "a tag must not count in another partition"
    );
    assert_eq!(bus.append(0, random_tag(), bytes("first")).await, Ok(3));
    assert_eq!(bus.append(0, first, bytes("first")).await, Ok(1));
    let mut reader = bus.read_log(0, 1).await.expect("a reader");
    let tags: Vec<_> = read_some(&mut *reader, 3, 10).await.into_iter().map(|entry| entry.tag).collect();
    assert_eq!(tags[..2], [first, second]);
}

/// A worker that takes a partition over reads on from the checkpoint, anywhere in the log.
pub async fn readers_start_at_any_entry(bus: Arc<dyn Bus>) {
    append_all(&*bus, 3, payloads(20)).await;
    for from in [1, 2, 11, 20, 21] {
        let mut reader = bus.read_log(3, from).await.expect("a reader");
        let held = (21 - from) as usize;
        let entries = read_some(&mut *reader, held, 100).await;
        assert!(entries.iter().map(|entry| entry.sequence).eq(from..=20), "wrong entries from {from}");
        let more = timeout(Duration::from_millis(100), reader.next(1)).await;
        assert!(more.is_err(), "a reader from {from} must wait at the end: {more:?}");
    }
}

pub async fn an_append_wakes_waiting_readers(bus: Arc<dyn Bus>) {
    let mut readers = Vec::new();
    for _ in 0..2 {
        readers.push(bus.read_log(0, 1).await.expect("a reader"));
    }
    let waiting: Vec<_> = readers
        .into_iter()
        .map(|mut reader| tokio::spawn(async move { read_some(&mut *reader, 3, 100).await }))
        .collect();
    sleep(Duration::from_millis(200)).await;
    append_all(&*bus, 0, payloads(1)).await;
    sleep(Duration::from_millis(50)).await;
    append_all(&*bus, 0, payloads(2)).await;
    for reader in waiting {
        let entries = reader.await.expect("both readers wake");
        assert!(entries.iter().map(|entry| entry.sequence).eq(1..=3));
    }
}

pub async fn concurrent_appends_lose_no_entry_in_any_partition(bus: Arc<dyn Bus>) {
    const EACH: u64 = 50;
    let mut writers = Vec::new();
    for partition in 0..4_u32 {
        for writer in 0..4 {
            let bus = bus.clone();
            writers.push(tokio::spawn(async move {
                let payloads = (0..EACH).map(|number| format!("{writer} {number}"));
                (
                    partition,
                    append_all(&*bus, partition, payloads.clone()).await,
                    payloads.collect::<Vec<_>>(),
                )
            }));
        }
    }
    let mut expected = vec![BTreeMap::new(); 4];
    for writer in writers {
        let (partition, sequences, payloads) = writer.await.expect("appended");
        assert!(sequences.is_sorted(), "the entries of a writer must keep their order");
        expected[partition as usize].extend(sequences.into_iter().zip(payloads));
    }
    for (partition, expected) in (0..).zip(expected) {
        let mut reader = bus.read_log(partition, 1).await.expect("a reader");
        let entries = read_some(&mut *reader, 4 * EACH as usize, 33).await;
        let held = entries.into_iter().map(|entry| (entry.sequence, entry.payload));
        assert!(held.eq(expected.into_iter().map(|(sequence, payload)| (sequence, bytes(payload)))));
    }
}

pub async fn long_logs_are_read_without_gaps(bus: Arc<dyn Bus>) {
    const COUNT: usize = 2_000;
    let writing = bus.clone();
    let writer = tokio::spawn(async move { append_all(&*writing, 2, payloads(COUNT as u64)).await });
    // The log grows while readers take entries one at a time, in small groups, and in large ones.
    for entries_max in [1, 7, 1_000] {
        let mut reader = bus.read_log(2, 1).await.expect("a reader");
        let entries = read_some(&mut *reader, COUNT, entries_max).await;
        assert!(
            entries.iter().map(|entry| entry.sequence).eq(1..=COUNT as u64),
            "wrong entries with at most {entries_max} at a time"
        );
    }
    writer.await.expect("appended");
}

/// Guards the promise of `LogReader::next`: entries that a cancelled call did not return come with the next call.
pub async fn a_cancelled_read_loses_no_entry(bus: Arc<dyn Bus>) {
    const COUNT: u64 = 300;
    let writing = bus.clone();
    let writer = tokio::spawn(async move {
        for number in 0..COUNT {
            append_all(&*writing, 0, [number.to_string()]).await;
            if number % 10 == 0 {
                sleep(Duration::from_millis(3)).await;
            }
        }
    });
    let mut reader = bus.read_log(0, 1).await.expect("a reader");
    let mut sequences = Vec::new();
    let (mut rounds, mut cancelled) = (0_u64, 0);
    while sequences.len() < COUNT as usize {
        rounds += 1;
        let patience = Duration::from_micros(rounds % 7 * 300);
        match timeout(patience, reader.next(5)).await {
            Ok(entries) => sequences.extend(entries.expect("log intact").iter().map(|entry| entry.sequence)),
            Err(_) => cancelled += 1,
        }
    }
    writer.await.expect("appended");
    assert!(cancelled > 0, "no read was cancelled");
    assert!(sequences.into_iter().eq(1..=COUNT));
}

/// Workers purge old entries below their checkpoint. Sequences never restart, not even in an empty log.
pub async fn purging_moves_only_the_first_sequence(bus: Arc<dyn Bus>) {
    append_all(&*bus, 0, payloads(10)).await;
    let mut tail = bus.read_log(0, 11).await.expect("a reader at the end");
    let bounds = |first, last| Ok(LogBounds { first, last });
    for (below, first) in [(0, 1), (1, 1), (4, 4), (4, 4), (2, 4), (10, 10), (11, 11), (11, 11)] {
        assert_eq!(bus.purge_log(0, below).await, Ok(()), "below {below}");
        assert_eq!(bus.log_bounds(0).await, bounds(first, 10), "below {below}");
    }
    assert_eq!(
        append_all(&*bus, 0, payloads(2)).await,
        [11, 12],
        "sequences must go on after the log was emptied"
    );
    assert_eq!(bus.log_bounds(0).await, bounds(11, 12));
    assert_eq!(read_some(&mut *tail, 2, 10).await.len(), 2, "a reader above the purged entries must go on");
    assert_eq!(bus.purge_log(0, 1_000_000).await, Ok(()));
    assert_eq!(bus.log_bounds(0).await, bounds(13, 12), "a purge must stop at the end of the log");
    assert_eq!(append_all(&*bus, 0, payloads(1)).await, [13]);
    assert_eq!(next_one(&mut *tail).await.expect("log intact").sequence, 13);
    assert_eq!(bus.purge_log(1, 5).await, Ok(()), "purging a log without entries must succeed");
    assert_eq!(bus.log_bounds(1).await, bounds(1, 0));
    assert_eq!(append_all(&*bus, 1, payloads(1)).await, [1]);
}

/// A worker compares the tag of its checkpoint with that of the log's entry at the same sequence, to detect a log that
/// lost entries.
pub async fn single_entries_are_found_by_sequence(bus: Arc<dyn Bus>) {
    append_all(&*bus, 0, payloads(5)).await;
    let mut reader = bus.read_log(0, 1).await.expect("a reader");
    for entry in read_some(&mut *reader, 5, 5).await {
        assert_eq!(
            bus.log_entry(0, entry.sequence).await,
            Ok(Some(entry)),
            "the single entry must equal the one from the reader"
        );
    }
    bus.purge_log(0, 4).await.expect("purged");
    for (sequence, held) in
        [(0, false), (1, false), (3, false), (4, true), (5, true), (6, false), (99, false)]
    {
        let entry = bus.log_entry(0, sequence).await.expect("an answer");
        assert_eq!(entry.is_some(), held, "{sequence}");
    }
    assert_eq!(bus.log_entry(1, 1).await, Ok(None), "a log without entries has no entry 1");
}

/// `BusError::Broken` makes the worker check its checkpoint's tag. A reader that silently started elsewhere would skip
/// entries.
pub async fn reading_outside_the_log_fails_as_broken(bus: Arc<dyn Bus>) {
    append_all(&*bus, 0, payloads(10)).await;
    let mut caught = bus.read_log(0, 2).await.expect("a reader");
    bus.purge_log(0, 6).await.expect("purged");
    for from in [0, 1, 5, 12, 1_000] {
        let reader = bus.read_log(0, from).await.map(drop);
        assert!(matches!(reader, Err(BusError::Broken(_))), "{from}: {reader:?}");
    }
    for from in [6, 10, 11] {
        bus.read_log(0, from).await.expect("a position in the log or right after its end is accepted");
    }
    // This reader was created before the purge, which removed its first entry before it read.
    let broken = next_one(&mut *caught).await;
    assert!(matches!(broken, Err(BusError::Broken(_))), "{broken:?}");
}

pub async fn payloads_up_to_the_size_limit_are_stored_and_larger_ones_are_refused(bus: Arc<dyn Bus>) {
    let sizes = [0, 1, 1_000, 64 * 1024, 256 * 1024, BUS_MESSAGE_BYTES_MAX];
    let payload = |size: usize| Bytes::from_iter((0..size).map(|at| (at % 251) as u8));
    for size in sizes {
        bus.append(0, random_tag(), payload(size)).await.expect("appended");
    }
    let mut reader = bus.read_log(0, 1).await.expect("a reader");
    for (sequence, size) in (1..).zip(sizes) {
        assert_eq!(next_one(&mut *reader).await.expect("log intact").payload, payload(size));
        let entry = bus.log_entry(0, sequence).await.expect("an answer").expect("held");
        assert_eq!(entry.payload, payload(size));
    }
    let refused = bus.append(0, random_tag(), payload(BUS_MESSAGE_BYTES_MAX + 1)).await;
    assert!(matches!(refused, Err(BusError::Unavailable(_))), "{refused:?}");
    let last = eventually("bounds", || async { bus.log_bounds(0).await.ok() }).await.last;
    assert_eq!(last, sizes.len() as u64, "a refused entry must not be in the log");
}

pub async fn absent_partitions_are_refused(bus: Arc<dyn Bus>) {
    let absent = super::PARTITIONS;
    assert!(matches!(bus.append(absent, random_tag(), bytes("x")).await, Err(BusError::Unavailable(_))));
    assert!(matches!(bus.log_bounds(absent).await, Err(BusError::Unavailable(_))));
    assert!(matches!(bus.log_entry(absent, 1).await, Err(BusError::Unavailable(_))));
    assert!(matches!(bus.read_log(absent, 1).await.map(drop), Err(BusError::Unavailable(_))));
    assert!(matches!(bus.purge_log(absent, 1).await, Err(BusError::Unavailable(_))));
}
