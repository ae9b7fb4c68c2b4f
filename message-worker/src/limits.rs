//! Bounds of a message-worker that clients never see, each with its reason.

use carillon_proto::limits::{BUS_MESSAGE_BYTES_MAX, ENTRY_BYTES_MAX, RESEND_BYTES_MAX};

/// Entries that wait in memory while a group is written: what one read returns, twice.
pub(crate) const QUEUE_ENTRIES_MAX: usize = 256;
/// Bytes of those entries; above it the log keeps them.
pub(crate) const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Commands written in one group: the embedded store gains little above 128, CQL batches above 20 a
/// partition; more would only make the first of a group wait.
pub(crate) const GROUP_COMMANDS_MAX: usize = 1_024;
/// Bytes of entries in one group: two full entries, so that a group never holds up its first for long.
pub(crate) const GROUP_BYTES_MAX: usize = 2 * ENTRY_BYTES_MAX;
/// What a group's preparation has under way or waiting for its turn.
pub(crate) const GROUP_READS_MAX: usize = 64;
/// Reads of all partitions that a store has to do at once: enough to hide the latency of a QUORUM read, and no more
/// than an embedded store has threads for.
pub(crate) const STORE_READS_MAX: usize = 64;
/// Conversations that are loaded at once for registrations; a storm of them leaves the log its share.
pub(crate) const REGISTRATION_READS_MAX: usize = 32;
/// Registrations that wait for conversations to be loaded; above it `unavailable` is answered.
pub(crate) const REGISTRATIONS_PENDING_MAX: usize = 1_024;
/// Late outcomes that a gateway is told in one answer: as many as it asks for at once.
pub(crate) const ASKED_OUTCOMES_MAX: usize = 256;
/// What is read at once for them; the gateway asks again for what was not.
pub(crate) const OUTCOME_READS_MAX: usize = 16;
/// Conversations that all gateways together may listen to in one partition: about 200 MB.
pub(crate) const REGISTERED_MAX: usize = 1_000_000;
/// Gateways that a partition's worker knows; more than a cell has.
pub(crate) const GATEWAYS_MAX: usize = 4_096;
/// Rows that loading a conversation reads first above the head: more than most messages in a second.
pub(crate) const LOAD_ROWS_FIRST: usize = 16;
/// Rows that it reads at a time after that.
pub(crate) const LOAD_ROWS_MAX: usize = 500;
/// Bytes of a batch to a gateway, where one event is not larger: two of them are kept for resending, and
/// small messages do not hold each other up.
pub(crate) const BATCH_BYTES_MAX: usize = RESEND_BYTES_MAX / 2;
/// Bytes of an event: it fits into one message on the bus with everything around it.
pub(crate) const EVENT_BYTES_MAX: usize = BUS_MESSAGE_BYTES_MAX - 8 * 1024;
/// Bytes of an idempotence key: a client's has 64 characters, a gateway's own a prefix more.
pub(crate) const CLIENT_KEY_BYTES_MAX: usize = 128;
/// Projections that wait to be written; above it no further group starts.
pub(crate) const PROJECTIONS_PENDING_MAX: usize = 65_536;
/// Entries worked above the last checkpoint; above it no further group starts. A later life of the log begins
/// its timestamps above all these ([`crate::core::incarnation`]).
pub(crate) const ENTRIES_ABOVE_CHECKPOINT_MAX: u64 = 65_536;
/// Bytes of entries after which a checkpoint is written before its second is over: a log in memory holds 8 MiB and
/// takes nothing more before it is purged.
pub(crate) const CHECKPOINT_BYTES: u64 = 2 * 1024 * 1024;
/// Bytes of conversations in a process's memory, besides their number: a few large ones count as many.
pub(crate) const CONVERSATIONS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How far behind the checkpoint a shared log is kept: a paused worker finds its place again, and operators
/// can look at what was there.
pub(crate) const LOG_KEPT_MS: u64 = 10 * 60 * 1_000;
/// Bytes of log kept behind the checkpoint, however young.
pub(crate) const LOG_KEPT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// A gateway that asked nothing for this long is asked to register again.
pub(crate) const GATEWAY_SILENT_MS: u64 = 10 * 60 * 1_000;
/// And is forgotten if it has not after this much longer.
pub(crate) const GATEWAY_FORGOTTEN_MS: u64 = GATEWAY_SILENT_MS + 60 * 1_000;
/// A gateway that never registered hears beats for this long after its last command.
pub(crate) const GATEWAY_SEEN_MS: u64 = 60 * 1_000;
/// Reads answered at once; above it `unavailable` is answered.
pub(crate) const READS_MAX: usize = 256;
/// Bytes of events or conversations in one answer to a read.
pub(crate) const PAGE_BYTES_MAX: usize = 400 * 1024;
/// Conversations loaded at once for one page of a list.
pub(crate) const LIST_READS_MAX: usize = 16;
/// Conversations looked at for one user's acquaintances: presence is a courtesy, not a search.
pub(crate) const ACQUAINTANCE_CONVERSATIONS_MAX: usize = 1_000;
/// How far an event's time may lie ahead of the log's for the sake of rising times in a conversation: the servers of a
/// log agree better, and one that is wrong by more is not to be believed by everything after it.
pub(crate) const TIME_DRAG_MAX_MS: u64 = 10_000;
/// When to come back after `unavailable`.
pub(crate) const RETRY_AFTER_MS: u64 = 500;
/// How long a partition waits for a conversation that the database cannot read now before it goes on without it: longer
/// than a coordinator's hiccup, shorter than clients wait for an acknowledgement.
pub(crate) const SUSPEND_AFTER_MS: u64 = 2_000;
/// Conversations of a partition that are suspended at one time. Where more cannot be read it is not about conversations,
/// and the partition waits.
pub(crate) const SUSPENDED_MAX: usize = 1_024;
/// Partitions whose state a starting worker reads at one time: they are read once.
pub(crate) const PARTITIONS_READ_MAX: usize = 8;
/// Before an owner appends an entry again that raises the version: the log takes it at once, or an outage lasts.
pub(crate) const RAISE_AGAIN_MS: u64 = 10_000;
/// Between two looks at whether suspended conversations can be read again.
pub(crate) const SUSPENDED_RETRY_MS: u64 = 5_000;
/// Of them, as many at a time: what is broken takes few of the store's turns.
pub(crate) const SUSPENDED_READS_MAX: usize = 8;
/// Days for which it is recorded where a suspension began and ended: a log that is replayed from before its end is younger.
pub(crate) const SUSPENSION_KEPT_DAYS: i32 = 30;
/// Between beats, checks of the log's ground, and writing of projections, heads and checkpoint.
pub(crate) const TICK_MS: u64 = 1_000;
/// How long a process that is told to stop works on while what has gathered is written: a database that takes longer
/// holds up its successors, too.
pub(crate) const LEAVE_MS_MAX: u64 = 1_000;
/// How long who takes a partition over waits for a former owner that is alive to give it back, which takes as long as a
/// group's write.
pub(crate) const HAND_OVER_MS_MAX: u64 = 1_000;
/// Between two looks at whether it has: a serial read is in the way of the transaction that it waits for.
pub(crate) const HAND_OVER_POLL_MS: u64 = 40;
/// How long an owner acknowledges after it has read that the partition still is its own. Whoever displaces it waits as
/// long, so it is a part of how long a partition stands still after a crash.
pub(crate) const TENURE_MS: u64 = 500;
/// Between two such readings: a database that is slow for a moment holds up no acknowledgement.
pub(crate) const CONFIRM_MS: u64 = 150;
/// How long a stopping partition tries to say so.
pub(crate) const GIVE_BACK_MS_MAX: u64 = 1_000;
/// How long a stopping partition takes to finish its group and write its checkpoint: below the time that a
/// drain is given.
pub(crate) const STOP_MS_MAX: u64 = 5_000;

const _: () = assert!(GROUP_BYTES_MAX <= QUEUE_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX <= BUS_MESSAGE_BYTES_MAX / 2);
const _: () = assert!(PAGE_BYTES_MAX + 64 * 1024 <= BUS_MESSAGE_BYTES_MAX);
