//! The contract of the bus, as one suite for both implementations, and tests of faults that only the NATS bus can have.

mod faults;
mod leases;
mod logs;
mod messages;
mod neighbours;

use bytes::Bytes;
use carillon_proto::id::Tag;
use carillon_proto::subject::Prefix;
use carillon_runtime::bus::nats::{ConnectError, NatsBus, NatsConfig};
use carillon_runtime::bus::{Bus, BusError, LogEntry, LogReader};
use carillon_runtime::cluster::ClusterId;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Partitions of every bus in this suite.
const PARTITIONS: u32 = 4;
/// A case that takes longer counts as hanging.
const CASE_TIMEOUT: Duration = Duration::from_secs(60);
/// Enough for every expected reaction, on a loaded machine.
const SOON: Duration = Duration::from_secs(10);

fn random_tag() -> Tag {
    Tag(uuid::Uuid::new_v4().into_bytes())
}

fn bytes(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

/// The cluster id of every bus in this suite, except in `neighbours`, which has several clusters.
static CLUSTER: LazyLock<ClusterId> = LazyLock::new(ClusterId::random);

fn config(url: &str) -> NatsConfig {
    NatsConfig {
        url: url.into(),
        prefix: Prefix::default(),
        cluster: Some(*CLUSTER),
        replicas: None,
        partitions: PARTITIONS,
        name: "test".into(),
    }
}

async fn connect(url: &str) -> Result<Arc<NatsBus>, ConnectError> {
    NatsBus::connect(config(url)).await
}

/// Repeats `attempt` until it returns a value, at most for [`SOON`].
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, attempt: impl FnMut() -> F) -> T {
    eventually_within(SOON, what, attempt).await
}

async fn eventually_within<T, F: Future<Output = Option<T>>>(
    time: Duration,
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(done) = attempt().await {
            return done;
        }
        assert!(began.elapsed() < time, "not within {time:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Appends entries with these payloads and returns their sequences.
async fn append_all(bus: &dyn Bus, partition: u32, payloads: impl IntoIterator<Item = String>) -> Vec<u64> {
    let mut sequences = Vec::new();
    for payload in payloads {
        sequences.push(bus.append(partition, random_tag(), bytes(payload)).await.expect("appended"));
    }
    sequences
}

/// The reader's next entry, which must come within [`SOON`].
async fn next_one(reader: &mut dyn LogReader) -> Result<LogEntry, BusError> {
    let mut entries = timeout(SOON, reader.next(1)).await.expect("an entry arrives in time")?;
    assert_eq!(entries.len(), 1, "more entries than requested");
    Ok(entries.remove(0))
}

/// Reads `count` entries, `entries_max` at a time.
async fn read_some(reader: &mut dyn LogReader, count: usize, entries_max: usize) -> Vec<LogEntry> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let entries = timeout(SOON, reader.next(entries_max.min(count - all.len()))).await.expect("in time");
        let entries = entries.expect("log intact");
        assert!((1..=entries_max).contains(&entries.len()), "{} entries at once", entries.len());
        all.extend(entries);
    }
    all
}

/// The payloads of all entries of a log.
async fn entries_of(bus: &dyn Bus, partition: u32) -> Vec<String> {
    let bounds = bus.log_bounds(partition).await.expect("an answer");
    let mut reader = bus.read_log(partition, bounds.first).await.expect("a reader");
    let entries = read_some(&mut *reader, (bounds.last + 1 - bounds.first) as usize, 100).await;
    entries.iter().map(|entry| String::from_utf8_lossy(&entry.payload).into_owned()).collect()
}

/// Makes every case a test of its own, once for each implementation.
macro_rules! contract {
    ($($module:ident::$case:ident,)*) => {
        mod embedded {
            use super::*;
            use carillon_runtime::bus::embedded::EmbeddedBus;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let case = $module::$case(EmbeddedBus::new(PARTITIONS));
                    timeout(CASE_TIMEOUT, case).await.expect("the case ends in time");
                }
            )*
        }

        mod nats {
            use super::*;
            use carillon_tests::parts::{NatsOptions, NatsServer};
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let Some(server) = NatsServer::start(NatsOptions::default()).await else { return };
                    let bus = connect(&server.url()).await.expect("connected");
                    timeout(CASE_TIMEOUT, $module::$case(bus)).await.expect("the case ends in time");
                }
            )*
        }
    };
}

contract! {
    logs::appends_get_contiguous_sequences,
    logs::a_repeated_tag_is_the_same_entry,
    logs::readers_start_at_any_entry,
    logs::an_append_wakes_waiting_readers,
    logs::concurrent_appends_lose_no_entry_in_any_partition,
    logs::long_logs_are_read_without_gaps,
    logs::a_cancelled_read_loses_no_entry,
    logs::purging_moves_only_the_first_sequence,
    logs::single_entries_are_found_by_sequence,
    logs::reading_outside_the_log_fails_as_broken,
    logs::payloads_up_to_the_size_limit_are_stored_and_larger_ones_are_refused,
    logs::absent_partitions_are_refused,
    messages::every_subscriber_receives_all_messages_in_order,
    messages::one_subscriber_of_a_group_receives_each_message,
    messages::requests_are_answered,
    messages::concurrent_requests_get_their_own_answers,
    messages::a_request_without_a_subscriber_fails_at_once,
    messages::a_request_without_an_answer_times_out,
    messages::a_dropped_subscription_receives_no_more_messages,
    messages::a_slow_subscriber_loses_messages_and_delays_no_other,
    messages::messages_up_to_the_size_limit_arrive_whole_and_larger_ones_are_refused,
    leases::each_renewal_returns_a_higher_number_and_makes_the_lease_live,
    leases::leases_expire_unless_renewed,
    leases::a_released_lease_ends_at_once,
    leases::workers_with_leases_share_all_units,
    leases::a_healthy_bus_reports_it,
}
