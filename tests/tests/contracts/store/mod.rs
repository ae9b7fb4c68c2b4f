//! The contract of the stores, as one suite for every implementation, and tests of faults that only one of them can
//! have.

mod conversations;
mod crash;
mod database;
mod events;
mod full_disk;
mod partitions;
mod seals;
mod users;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use carillon_message_worker::store::embedded::EmbeddedStore;
use carillon_message_worker::store::scylla::ScyllaStore;
use carillon_message_worker::store::{EventRow, Store};
use carillon_presence_worker::store::UserStore;
use carillon_presence_worker::store::embedded::EmbeddedUserStore;
use carillon_presence_worker::store::scylla::ScyllaUserStore;
use carillon_proto::id::{ConversationId, Tag, UserId};
use carillon_proto::position::Position;
use carillon_runtime::database::DatabaseConfig;
use tempfile::TempDir;
use tokio::time::timeout;

/// A case that takes longer counts as hanging.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);

/// The place of a store's rows, so that a test can open the store again.
enum Place {
    Directory(TempDir),
    Keyspace(DatabaseConfig),
}

impl Place {
    fn directory() -> Place {
        Place::Directory(TempDir::with_prefix("carillon-store-").expect("a directory"))
    }

    /// The keyspace of this process; `None` without a database.
    async fn keyspace() -> Option<Place> {
        carillon_tests::database::keyspace().await.map(Place::Keyspace)
    }

    async fn open(&self) -> Arc<dyn Store> {
        match self {
            Place::Directory(directory) => open_embedded(directory.path()),
            Place::Keyspace(config) => ScyllaStore::connect(config).await.expect("connected"),
        }
    }

    async fn open_users(&self) -> Arc<dyn UserStore> {
        match self {
            Place::Directory(directory) => EmbeddedUserStore::open(directory.path()).expect("opened"),
            Place::Keyspace(config) => ScyllaUserStore::connect(config).await.expect("connected"),
        }
    }
}

fn open_embedded(directory: &Path) -> Arc<EmbeddedStore> {
    EmbeddedStore::open(directory).expect("opened")
}

/// An id that no other test uses, because all tests share a keyspace.
fn unique(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::new_v4().simple())
}

fn conversation(name: &str) -> ConversationId {
    ConversationId::parse(name).expect("an id")
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("an id")
}

/// A partition that no other test uses.
fn unique_partition() -> u32 {
    uuid::Uuid::new_v4().as_u64_pair().0 as u32 >> 1
}

/// A row whose fields all differ from those of rows with another seq.
fn row(conversation: &ConversationId, seq: u64) -> EventRow {
    row_at(conversation, seq, 1_000_000 + seq as i64)
}

/// A row with this timestamp. Another timestamp makes another row for the same seq, as another command would.
fn row_at(conversation: &ConversationId, seq: u64, timestamp_us: i64) -> EventRow {
    EventRow {
        conversation: conversation.clone(),
        seq,
        position: Position {
            incarnation: 3,
            sequence: timestamp_us as u64,
            index: (timestamp_us % 256) as u32,
        },
        tag: Tag((timestamp_us as u128).to_be_bytes()),
        timestamp_us,
        blob: Bytes::from(format!("event {seq} of {timestamp_us}")),
    }
}

fn rows(conversation: &ConversationId, seqs: impl IntoIterator<Item = u64>) -> Vec<EventRow> {
    seqs.into_iter().map(|seq| row(conversation, seq)).collect()
}

fn seqs(rows: &[EventRow]) -> Vec<u64> {
    rows.iter().map(|row| row.seq).collect()
}

/// All orders of the items.
fn permutations<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    let Some((first, rest)) = items.split_first() else { return vec![Vec::new()] };
    let shorter = permutations(rest);
    let insert = |order: &Vec<T>, at: usize| {
        let mut order = order.clone();
        order.insert(at, first.clone());
        order
    };
    shorter.iter().flat_map(|order| (0..items.len()).map(|at| insert(order, at))).collect()
}

/// Makes every case a test of its own, once for each implementation.
macro_rules! contract {
    ($($module:ident::$case:ident,)*) => {
        mod embedded {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    timeout(CASE_TIMEOUT, $module::$case(Place::directory())).await.expect("the case ends in time");
                }
            )*
        }

        mod cql {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let Some(place) = Place::keyspace().await else { return };
                    timeout(CASE_TIMEOUT, $module::$case(place)).await.expect("the case ends in time");
                }
            )*
        }
    };
}

contract! {
    events::appended_rows_are_read_back_whole,
    events::appending_a_row_twice_changes_nothing,
    events::the_higher_timestamp_wins_in_every_order_of_writes,
    events::the_higher_timestamp_wins_when_the_store_is_reopened_between_writes,
    events::reading_forward_stops_before_a_gap,
    events::seq_zero_is_only_found_by_its_seq,
    events::pages_cross_buckets,
    events::a_long_conversation_is_read_whole_and_from_its_end,
    events::reading_without_matching_rows_returns_nothing,
    events::conversations_with_similar_ids_are_separate,
    events::concurrent_appends_to_many_conversations_are_read_at_once,
    events::reopening_keeps_all_rows,
    conversations::the_newest_head_wins_in_every_order_of_writes,
    conversations::the_latest_change_of_a_participant_wins_in_every_order,
    conversations::conversations_are_listed_in_pages,
    conversations::participants_are_listed_in_ascending_order,
    conversations::sent_client_ids_are_read_newest_first,
    conversations::sent_client_ids_of_similar_conversations_and_senders_are_separate,
    seals::the_first_seal_decides,
    seals::rows_that_a_seal_does_not_count_are_never_read,
    seals::rows_written_while_a_conversation_is_sealed_are_not_read,
    seals::a_creation_row_counts_only_if_the_seal_includes_it,
    seals::reopening_keeps_seals,
    partitions::a_partition_starts_empty,
    partitions::checkpoints_never_move_back,
    partitions::of_workers_that_start_an_incarnation_at_once_one_wins,
    partitions::an_incarnation_starts_only_after_the_expected_one,
    partitions::a_tenure_has_one_owner_at_a_time,
    partitions::skips_are_stored_by_incarnation,
    partitions::the_latest_record_of_a_suspension_wins,
    partitions::a_store_in_use_is_healthy,
    users::rows_are_read_back_whole,
    users::the_later_row_wins_in_every_order_of_writes,
    users::of_rows_with_equal_times_one_wins_as_a_whole,
    users::many_users_are_written_and_read_in_one_call,
    users::reopening_keeps_users,
}
