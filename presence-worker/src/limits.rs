//! Every bound of the presence-worker, with its reason.

use carillon_proto::limits;

/// A shard's own tick, and the gateways' heartbeat.
pub const TICK_MS: u64 = 1_000;
/// A gateway silent for this long is gone: three heartbeats, and half of one for the bus.
pub const SILENT_AFTER_MS: u64 = 3 * TICK_MS + TICK_MS / 2;
/// Nobody is declared offline for this long after an ownership began or the worker was held up: within
/// three heartbeats every living gateway has announced itself.
pub const AMNESTY_MS: u64 = 3 * TICK_MS;
/// A tick this late means that the worker was held up, and that silence proves nothing.
pub const TICK_LATE_MS: u64 = TICK_MS + 1_000;

/// Gateways known to one shard; a gateway serves 10,000 connections.
pub const GATEWAYS_MAX: usize = 1_024;
/// Users in one shard's memory, watched ones included: 100,000 users with their friends, ten times over.
pub const USERS_MAX: usize = 1_000_000;
/// Sessions of one user where no limit is set: load tests connect as one user.
pub const SESSIONS_PER_USER_MAX: usize = 65_536;
/// Rooms in one shard's memory.
pub const ROOMS_MAX: usize = 1_000_000;
/// Users counted in one room; larger ones get no presence of single members (design).
pub const ROOM_USERS_MAX: usize = 100_000;
/// A room with more users than this gets an index by user; a smaller one is searched.
pub const ROOM_SEARCHED_USERS_MAX: usize = 32;
/// Announcements of one snapshot: ten thousand connections in a hundred rooms of this shard each.
pub const ANNOUNCED_MAX: usize = 1_000_000;

/// A record of connection-state recovery is kept so long after its session's end or its gateway's silence, as by
/// the reference server (its `maxDisconnectionDuration`).
pub const RECOVERY_MS: u64 = 120_000;
/// Bytes of such records in one shard: 50,000 sessions in twenty conversations each. Above it new ones are not
/// kept, and their clients hear that they were not recovered.
pub const RECOVERY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of a reply's results; what goes beyond is pushed or left out. Leaves room in a bus message.
pub const REPLY_BYTES_MAX: usize = limits::BUS_MESSAGE_BYTES_MAX - 64 * 1024;
/// Bytes of one push; more becomes several.
pub const PUSH_BYTES_MAX: usize = limits::BUS_MESSAGE_BYTES_MAX - 64 * 1024;
/// One push to a gateway in this time, so that a storm is told in batches.
pub const PUSH_INTERVAL_MS: u64 = 20;
/// Changes that wait for one gateway; one so far behind announces itself anew instead.
pub const OUTBOX_CHANGES_MAX: usize = 65_536;
/// Requests that wait for rows of the store. Gateways send a shard one at a time.
pub const REQUESTS_WAITING_MAX: usize = 256;

/// Users in one read of the store.
pub const LOAD_USERS_MAX: usize = 512;
/// How long a request waits for the store: below the 500 ms for which gateways wait for the answer.
pub const LOAD_TIMEOUT_MS: u64 = 250;
/// After a read failed, requests are answered without the store for this long.
pub const LOAD_PAUSE_MS: u64 = 2_000;
/// Rows in one write.
pub const SAVE_USERS_MAX: usize = 512;
/// How long one write may take before it is tried again.
pub const SAVE_TIMEOUT_MS: u64 = 5_000;
/// Users whose rows wait to be written while the store is away; above it the oldest are given up.
pub const UNSAVED_USERS_MAX: usize = 65_536;
/// How long a shard that stops writes what is left.
pub const LAST_SAVE_MS: u64 = 2_000;
/// Between two attempts to hear a shard's subject.
pub const RETRY_MS: u64 = 500;

const _: () = assert!(GATEWAYS_MAX <= u16::MAX as usize);
const _: () = assert!(LOAD_TIMEOUT_MS < 500);
const _: () = assert!(AMNESTY_MS < SILENT_AFTER_MS);
