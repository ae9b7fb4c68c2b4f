//! What the stores promise, asked of every implementation, and what only one of them can suffer.

#[path = "store_contract/conversations.rs"]
mod conversations;
#[path = "store_contract/crash.rs"]
mod crash;
#[path = "store_contract/database.rs"]
mod database;
#[path = "store_contract/events.rs"]
mod events;
#[path = "store_contract/full_disk.rs"]
mod full_disk;
#[path = "store_contract/partitions.rs"]
mod partitions;
#[path = "store_contract/seals.rs"]
mod seals;
#[path = "store_contract/users.rs"]
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

/// A case that takes longer hangs.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);

/// Where a store keeps its rows. Opening it again finds them.
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

/// An id that no other test has: tests share a keyspace.
fn unique(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::new_v4().simple())
}

fn conversation(name: &str) -> ConversationId {
    ConversationId::parse(name).expect("an id")
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("an id")
}

/// A partition that no other test has.
fn unique_partition() -> u32 {
    uuid::Uuid::new_v4().as_u64_pair().0 as u32 >> 1
}

/// A row of which every field is its own.
fn row(conversation: &ConversationId, seq: u64) -> EventRow {
    row_at(conversation, seq, 1_000_000 + seq as i64)
}

/// The row that another command made of the same seq: everything follows from the timestamp.
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

/// Every order of some items.
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

/// Every case as a test of its own, once for each implementation.
macro_rules! contract {
    ($($module:ident::$case:ident,)*) => {
        mod embedded {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    timeout(CASE_TIMEOUT, $module::$case(Place::directory())).await.expect("an end");
                }
            )*
        }

        mod cql {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let Some(place) = Place::keyspace().await else { return };
                    timeout(CASE_TIMEOUT, $module::$case(place)).await.expect("an end");
                }
            )*
        }
    };
}

contract! {
    events::appended_rows_are_read_back_whole,
    events::appending_twice_is_harmless,
    events::the_higher_timestamp_wins_whatever_the_order,
    events::the_higher_timestamp_wins_over_reopening,
    events::reading_on_stops_before_a_gap,
    events::seq_zero_is_only_found_by_its_seq,
    events::pages_cross_buckets,
    events::a_long_conversation_is_read_whole_and_from_its_end,
    events::nothing_is_where_nothing_was_written,
    events::conversations_with_similar_ids_are_apart,
    events::many_conversations_at_once,
    events::reopening_keeps_everything,
    conversations::the_newest_head_wins_whatever_the_order,
    conversations::participants_are_what_was_said_last,
    conversations::conversations_are_listed_in_pages,
    conversations::participants_are_listed_ascending,
    conversations::sent_ids_come_newest_first,
    conversations::sent_ids_of_others_are_apart,
    seals::the_first_seal_decides,
    seals::what_a_seal_does_not_count_is_not_there,
    seals::rows_that_are_written_while_it_is_sealed_are_not_there,
    seals::a_creation_counts_if_the_seal_says_so,
    seals::reopening_keeps_seals,
    partitions::a_partition_starts_empty,
    partitions::checkpoints_never_move_back,
    partitions::one_of_many_begins_a_life,
    partitions::a_life_begins_only_after_the_one_it_knows,
    partitions::a_life_is_held_by_one_at_a_time,
    partitions::skips_are_kept_by_life,
    partitions::suspensions_are_what_was_said_last,
    partitions::a_store_in_use_is_healthy,
    users::rows_are_read_back_whole,
    users::the_later_row_wins_whatever_the_order,
    users::of_two_rows_of_one_moment_one_wins_whole,
    users::many_users_at_once,
    users::reopening_keeps_users,
}
