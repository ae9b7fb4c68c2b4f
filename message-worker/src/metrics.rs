//! The metrics of a message-worker.

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_int_counter, register_int_counter_vec,
    register_int_gauge, register_int_gauge_vec,
};
use std::sync::LazyLock;

/// Commands by outcome: `accepted`, `unchanged`, `repeated`, `refused`, `replayed`.
pub(crate) static COMMANDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("carillon_commands_total", "commands by outcome", &["outcome"])
        .expect("registered once, under a valid name")
});

/// Attempts that failed and were repeated.
pub(crate) static RETRIES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "carillon_worker_retries_total",
        "attempts that failed and were repeated, by operation",
        &["what"]
    )
    .expect("registered once, under a valid name")
});

/// Messages to gateways that could not be published on the bus.
pub(crate) static UNSENT: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "carillon_fanout_unsent_total",
        "messages to gateways that could not be published on the bus"
    )
    .expect("registered once, under a valid name")
});

/// Poison commands and entries, which are skipped for good. Worth an alarm.
pub(crate) static POISON: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("carillon_poison_commands_total", "poison commands and entries that were skipped")
        .expect("registered once, under a valid name")
});

/// Conversations that could not be read and were suspended. Worth an alarm.
pub(crate) static SUSPENSIONS: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "carillon_suspensions_total",
        "conversations suspended because they could not be read; their commands are refused"
    )
    .expect("registered once, under a valid name")
});

/// Conversations that are suspended now, by partition. Worth an alarm above 0.
pub(crate) static SUSPENDED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "carillon_partition_suspended_count",
        "conversations suspended now because they cannot be read; their commands are refused",
        &["partition"]
    )
    .expect("registered once, under a valid name")
});

/// Conversations that lists left out because they could not be read.
pub(crate) static LEFT_OUT: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "carillon_reads_left_out_total",
        "conversations left out of lists because they could not be read"
    )
    .expect("registered once, under a valid name")
});

/// Tasks of partitions that panicked and were started again. Worth an alarm.
pub(crate) static PANICS: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "carillon_partition_panics_total",
        "tasks of partitions that panicked and were started again"
    )
    .expect("registered once, under a valid name")
});

/// Incarnations that began because a log had lost entries. Worth an alarm.
pub(crate) static INCARNATIONS: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "carillon_incarnations_total",
        "incarnations started because a log had lost entries"
    )
    .expect("registered once, under a valid name")
});

/// Partitions that were taken over from an owner that had not given back its tenure, because it was killed or stood
/// still.
pub(crate) static TAKEOVERS: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "carillon_takeovers_total",
        "partitions taken over from owners that did not hand them over"
    )
    .expect("registered once, under a valid name")
});

/// Rows whose position is not above that of the row before; loading a conversation ends at such a row. Worth an alarm.
pub(crate) static ROWS_OUT_OF_ORDER: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "carillon_rows_out_of_order_total",
        "rows found out of order; a conversation is loaded only up to such a row"
    )
    .expect("registered once, under a valid name")
});

/// Reads by result: `answered`, `failed`, `refused`.
pub(crate) static READS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("carillon_reads_total", "read requests of gateways by outcome", &["outcome"])
        .expect("registered once, under a valid name")
});

/// How far this worker's clock is ahead of another one.
pub(crate) static CLOCK_AHEAD_MS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "carillon_worker_clock_ahead_ms",
        "milliseconds by which this worker's clock is ahead of the log's or database's; negative if behind",
        &["of"]
    )
    .expect("registered once, under a valid name")
});

/// How far a partition's owner lags behind the log.
pub(crate) static LAG_MS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "carillon_partition_lag_ms",
        "age in milliseconds of the oldest log entry whose results were not yet sent; 0 if there is none",
        &["partition"]
    )
    .expect("registered once, under a valid name")
});

/// The version of the state machine of a partition.
pub(crate) static VERSION: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "carillon_partition_version",
        "version of the state machine that applies the partition's commands",
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

/// The results of the last audit. The metrics appear after the first one.
pub(crate) struct Audit {
    /// Findings by kind, in the order of [`crate::audit::Kind::ALL`]. Worth an alarm above 0.
    pub(crate) found: [IntGauge; 6],
    pub(crate) conversations: IntGauge,
    pub(crate) rows: IntGauge,
    pub(crate) entries: IntGauge,
    pub(crate) pending: IntGauge,
    pub(crate) last_run_timestamp_seconds: IntGauge,
    /// 1 if everything was read and nothing was found.
    pub(crate) last_run_ok: IntGauge,
}

/// The results of the last audit in this process.
pub(crate) static AUDIT: LazyLock<Audit> = LazyLock::new(|| {
    let gauge = |name, help| register_int_gauge!(name, help).expect("registered once, under a valid name");
    Audit {
        found: [
            gauge("carillon_audit_missing", "applied commands whose row is missing"),
            gauge("carillon_audit_duplicate", "commands or client ids that have two rows"),
            gauge("carillon_audit_out_of_order", "rows in another order than their commands in the log"),
            gauge("carillon_audit_holes", "ranges of seqs that have no rows, with rows above them"),
            gauge("carillon_audit_heads_ahead", "conversations whose head is above their last row"),
            gauge("carillon_audit_foreign_rows", "rows that differ from what their command in the log makes"),
        ],
        conversations: gauge("carillon_audit_conversations", "conversations that were audited"),
        rows: gauge("carillon_audit_rows", "rows that were read"),
        entries: gauge("carillon_audit_entries", "log entries that were compared with the rows"),
        pending: gauge("carillon_audit_pending", "log entries above the checkpoints, still being applied"),
        last_run_timestamp_seconds: gauge(
            "carillon_audit_last_run_timestamp_seconds",
            "when the last audit ended, in seconds since 1970",
        ),
        last_run_ok: gauge("carillon_audit_last_run_ok", "1 if all was read and nothing was found, else 0"),
    }
});

/// Removes the metrics of a partition that this worker no longer works.
pub(crate) fn forget_partition(partition: &str) {
    // Absent if the partition was worked for less than a second.
    let _absent = LAG_MS.remove_label_values(&[partition]);
    let _absent = CONVERSATIONS.remove_label_values(&[partition]);
    let _absent = SUSPENDED.remove_label_values(&[partition]);
    let _absent = VERSION.remove_label_values(&[partition]);
}
