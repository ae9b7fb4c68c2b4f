//! What a message-worker counts.

use prometheus::{
    IntCounter, IntCounterVec, IntGaugeVec, register_int_counter, register_int_counter_vec,
    register_int_gauge_vec,
};
use std::sync::LazyLock;

/// Commands by what became of them: `accepted`, `unchanged`, `repeated`, `refused`, `replayed`.
pub(crate) static COMMANDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("carillon_commands_total", "commands by what became of them", &["outcome"])
        .expect("registered once, under a valid name")
});

/// Attempts that failed and were made again.
pub(crate) static RETRIES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "carillon_worker_retries_total",
        "attempts that failed and were made again",
        &["what"]
    )
    .expect("registered once, under a valid name")
});

/// Messages to gateways that could not be handed to the bus.
pub(crate) static UNSENT: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("carillon_fanout_unsent_total", "messages to gateways that the bus did not take")
        .expect("registered once, under a valid name")
});

/// Poison commands and entries, passed over for good. Worth an alarm.
pub(crate) static POISON: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "carillon_poison_commands_total",
        "poison commands and entries that were passed over"
    )
    .expect("registered once, under a valid name")
});

/// Lives of logs that were begun because a log had forgotten. Worth an alarm.
pub(crate) static INCARNATIONS: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("carillon_incarnations_total", "lives of logs begun because a log had forgotten")
        .expect("registered once, under a valid name")
});

/// Reads by what became of them: `answered`, `failed`, `refused`.
pub(crate) static READS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("carillon_reads_total", "reads by what became of them", &["outcome"])
        .expect("registered once, under a valid name")
});

/// How far a partition's worker is behind its log.
pub(crate) static LAG_MS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "carillon_partition_lag_ms",
        "age of the oldest entry not yet worked",
        &["partition"]
    )
    .expect("registered once, under a valid name")
});

/// Conversations in memory, by partition.
pub(crate) static CONVERSATIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "carillon_partition_conversations_count",
        "conversations in memory",
        &["partition"]
    )
    .expect("registered once, under a valid name")
});

/// A partition is no longer worked here.
pub(crate) fn forget_partition(partition: &str) {
    // Absent if the partition was not worked for a second.
    let _absent = LAG_MS.remove_label_values(&[partition]);
    let _absent = CONVERSATIONS.remove_label_values(&[partition]);
}
