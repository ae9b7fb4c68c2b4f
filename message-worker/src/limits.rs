//! Bounds of a message-worker that clients never see, each with its reason.

use carillon_proto::limits::{BUS_MESSAGE_BYTES_MAX, ENTRY_BYTES_MAX, RESEND_BYTES_MAX};

/// Entries that wait in memory while a group is written: the results of two reads.
pub(crate) const QUEUE_ENTRIES_MAX: usize = 256;
/// Bytes of those entries. Above it no further entries are read.
pub(crate) const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Commands written in one group. The embedded store gains little above 128, and batches in CQL above 20 for each
/// partition; more commands would only delay the first of a group.
pub(crate) const GROUP_COMMANDS_MAX: usize = 1_024;
/// Bytes of entries in one group: two full entries, so that the first one never waits long for the group.
pub(crate) const GROUP_BYTES_MAX: usize = 2 * ENTRY_BYTES_MAX;
/// Needs of a group that jobs read at once, running or waiting for a permit.
pub(crate) const GROUP_READS_MAX: usize = 64;
/// Reads of the store that all partitions together do at once: enough to hide the latency of a QUORUM read, and no more
/// than an embedded store has threads for.
pub(crate) const STORE_READS_MAX: usize = 64;
/// Conversations that are loaded at once for registrations, so that the log keeps its share of the reads.
pub(crate) const REGISTRATION_READS_MAX: usize = 32;
/// Registrations that wait for conversations to be loaded. Above it a registration is refused with `unavailable`.
pub(crate) const REGISTRATIONS_PENDING_MAX: usize = 1_024;
/// Outcomes in one reply to a gateway: as many as it requests at once.
pub(crate) const REQUESTED_OUTCOMES_MAX: usize = 256;
/// Reads at once for such a reply. The gateway requests the remaining outcomes again.
pub(crate) const OUTCOME_READS_MAX: usize = 16;
/// Conversations that all gateways together may register in one partition: about 200 MB.
pub(crate) const REGISTERED_MAX: usize = 1_000_000;
/// Gateways that a partition's owner knows: more than an installation has.
pub(crate) const GATEWAYS_MAX: usize = 4_096;
/// Rows that loading a conversation reads first above its head: more than most conversations get in a second.
pub(crate) const LOAD_ROWS_FIRST: usize = 16;
/// Rows that it reads at a time after that.
pub(crate) const LOAD_ROWS_MAX: usize = 500;
/// Bytes of a batch to a gateway, unless a single event is larger. Two such batches are kept for resending, and small
/// messages do not wait long behind a batch of this size.
pub(crate) const BATCH_BYTES_MAX: usize = RESEND_BYTES_MAX / 2;
/// Bytes of an event, so that it fits into one message on the bus with everything around it.
pub(crate) const EVENT_BYTES_MAX: usize = BUS_MESSAGE_BYTES_MAX - 8 * 1024;
/// Bytes of a client id: a client's has at most 64 characters, and a gateway's own has a prefix in addition.
pub(crate) const CLIENT_KEY_BYTES_MAX: usize = 128;
/// Projections that wait to be written. Above it no further group begins.
pub(crate) const PROJECTIONS_PENDING_MAX: usize = 65_536;
/// Entries applied above the last checkpoint. Above it no further group begins. A later incarnation begins its
/// timestamps above those of all these entries ([`crate::core::incarnation`]).
pub(crate) const ENTRIES_ABOVE_CHECKPOINT_MAX: u64 = 65_536;
/// Bytes of entries after which a checkpoint is written before its second is over: a log in memory holds 8 MiB, and
/// takes no further entries until it is purged.
pub(crate) const CHECKPOINT_BYTES: u64 = 2 * 1024 * 1024;
/// Bytes of conversations in a process's memory, in addition to the limit of their number: a few of them may be large.
pub(crate) const CONVERSATIONS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How far behind the checkpoint a shared log is kept, so that a paused worker finds its place again, and operators can
/// look at the entries.
pub(crate) const LOG_KEPT_MS: u64 = 10 * 60 * 1_000;
/// Bytes of log that are kept behind the checkpoint, however young the entries are.
pub(crate) const LOG_KEPT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// After this time without a request, a gateway gets a wrong hash in its beats, so that it registers again.
pub(crate) const GATEWAY_SILENT_MS: u64 = 10 * 60 * 1_000;
/// After this time without a request, a gateway's registrations are removed.
pub(crate) const GATEWAY_FORGOTTEN_MS: u64 = GATEWAY_SILENT_MS + 60 * 1_000;
/// How long a gateway that never registered gets beats after its last command.
pub(crate) const GATEWAY_SEEN_MS: u64 = 60 * 1_000;
/// Reads that are answered at once. Above it a read is refused with `unavailable`.
pub(crate) const READS_MAX: usize = 256;
/// Bytes of events or conversations in one reply to a read.
pub(crate) const PAGE_BYTES_MAX: usize = 400 * 1024;
/// Conversations that are loaded at once for one page of a list.
pub(crate) const LIST_READS_MAX: usize = 16;
/// Conversations that are read to find one user's acquaintances. Presence may be incomplete above that.
pub(crate) const ACQUAINTANCE_CONVERSATIONS_MAX: usize = 1_000;
/// How far an event's time may be ahead of the log's time so that times in a conversation rise. The clocks of a log's
/// servers agree better than that, and an event whose time is further ahead must not change the times of later events.
pub(crate) const TIME_DRAG_MAX_MS: u64 = 10_000;
/// The delay after which a request that was refused with `unavailable` may be repeated.
pub(crate) const RETRY_AFTER_MS: u64 = 500;
/// How long a partition waits for a conversation that the database cannot read now, before the conversation is
/// suspended: longer than a short delay of a coordinator, and shorter than clients wait for an acknowledgement.
pub(crate) const SUSPEND_AFTER_MS: u64 = 2_000;
/// Conversations of a partition that are suspended at one time. Where more cannot be read, the cause is not in single
/// conversations, and the partition waits.
pub(crate) const SUSPENDED_MAX: usize = 1_024;
/// Partitions whose state a starting worker reads at one time. It reads each once.
pub(crate) const PARTITIONS_READ_MAX: usize = 8;
/// The delay before an owner appends an entry that raises the version again. The log takes it at once, unless there is
/// an outage.
pub(crate) const RAISE_AGAIN_MS: u64 = 10_000;
/// Time between two attempts to read suspended conversations again.
pub(crate) const SUSPENDED_RETRY_MS: u64 = 5_000;
/// Suspended conversations that are read at one time, so that they take few of the store's reads.
pub(crate) const SUSPENDED_READS_MAX: usize = 8;
/// Days for which the record of an ended suspension is kept. A log that is replayed from before that end is younger.
pub(crate) const SUSPENSION_KEPT_DAYS: i32 = 30;
/// Time between beats, between comparisons of the log with what was read from it, and between flushes.
pub(crate) const TICK_MS: u64 = 1_000;
/// How long a stopping process works on while it writes what is pending. With a database that takes longer, its
/// successors are slow as well.
pub(crate) const LEAVE_MS_MAX: u64 = 1_000;
/// How long a worker that takes a partition over waits for a live former owner to give it back. That takes as long as
/// the write of a group.
pub(crate) const HAND_OVER_MS_MAX: u64 = 1_000;
/// Time between two reads of the tenure meanwhile: a serial read slows the transaction that it waits for.
pub(crate) const HAND_OVER_POLL_MS: u64 = 40;
/// How long an owner acknowledges after it has read that it still holds the tenure. A successor that displaces it waits
/// for an eighth longer, so this is a part of the time that a partition stands still after a crash.
pub(crate) const TENURE_MS: u64 = 500;
/// Time between two such reads: more than three fit into `TENURE_MS`, so a database that is slow for a moment delays no
/// acknowledgement.
pub(crate) const CONFIRM_MS: u64 = 150;
/// How long a stopping partition tries to give its tenure back.
pub(crate) const GIVE_BACK_MS_MAX: u64 = 1_000;
/// How long a stopping partition may take to finish its group and write its checkpoint: less than a drain is given.
pub(crate) const STOP_MS_MAX: u64 = 5_000;

const _: () = assert!(GROUP_BYTES_MAX <= QUEUE_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX <= BUS_MESSAGE_BYTES_MAX / 2);
const _: () = assert!(PAGE_BYTES_MAX + 64 * 1024 <= BUS_MESSAGE_BYTES_MAX);
