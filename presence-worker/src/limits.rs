//! Every bound of the presence-worker, with its reason.

use carillon_proto::limits;

/// Interval of a shard's ticks and of the gateways' heartbeats.
pub const TICK_MS: u64 = 1_000;
/// A gateway that was silent for this long counts as gone: three heartbeats, and half of one for the bus.
pub const SILENT_AFTER_MS: u64 = 3 * TICK_MS + TICK_MS / 2;
/// No user is declared offline for this long after an ownership began or the worker was delayed. Within three
/// heartbeats every live gateway has announced itself.
pub const AMNESTY_MS: u64 = 3 * TICK_MS;
/// A tick later than this means that the worker was delayed, so that a gateway's silence proves nothing.
pub const TICK_LATE_MS: u64 = TICK_MS + 1_000;

/// Gateways known to one shard. A gateway serves 10,000 connections.
pub const GATEWAYS_MAX: usize = 1_024;
/// Users in one shard's memory, including watched ones: ten times 100,000 users with their friends.
pub const USERS_MAX: usize = 1_000_000;
/// Sessions of one user if no limit is set. Load tests connect all their clients as one user.
pub const SESSIONS_PER_USER_MAX: usize = 65_536;
/// Rooms in one shard's memory.
pub const ROOMS_MAX: usize = 1_000_000;
/// Users counted in one room. Further users who join are not counted.
pub const ROOM_USERS_MAX: usize = 100_000;
/// A room with more users than this gets an index by user. A smaller room is searched.
pub const ROOM_SEARCHED_USERS_MAX: usize = 32;
/// Announcements in one snapshot: 10,000 connections, each in 100 rooms of this shard.
pub const ANNOUNCED_MAX: usize = 1_000_000;

/// A record of connection-state recovery is kept for this long after its session ended or its gateway fell silent. It
/// is the reference server's default for `maxDisconnectionDuration`.
pub const RECOVERY_MS: u64 = 120_000;
/// Bytes of such records in one shard: 50,000 sessions with 20 conversations each. Above it, new records are refused,
/// and their clients receive `recovered: false`.
pub const RECOVERY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of a reply's results. Results beyond it are pushed or left out, so that the reply fits a bus message.
pub const REPLY_BYTES_MAX: usize = limits::BUS_MESSAGE_BYTES_MAX - 64 * 1024;
/// Bytes of one push. A larger push is split.
pub const PUSH_BYTES_MAX: usize = limits::BUS_MESSAGE_BYTES_MAX - 64 * 1024;
/// At most one push per gateway in this time, so that many changes leave in batches.
pub const PUSH_INTERVAL_MS: u64 = 20;
/// Changes that wait for one gateway. Above it they are dropped, and the gateway announces everything again.
pub const OUTBOX_CHANGES_MAX: usize = 65_536;
/// Requests that wait for rows of the store. Each gateway has one request to a shard in flight.
pub const REQUESTS_WAITING_MAX: usize = 256;

/// Users in one read of the store.
pub const LOAD_USERS_MAX: usize = 512;
/// How long a request waits for the store: less than the 500 ms for which gateways wait for the reply.
pub const LOAD_TIMEOUT_MS: u64 = 250;
/// After a failed call, requests are answered without the store for this long.
pub const LOAD_PAUSE_MS: u64 = 2_000;
/// Rows in one write.
pub const SAVE_USERS_MAX: usize = 512;
/// Time limit for one write. After it, the write is repeated.
pub const SAVE_TIMEOUT_MS: u64 = 5_000;
/// Users whose rows wait to be written while the store is away. Above it, the oldest are given up.
pub const UNSAVED_USERS_MAX: usize = 65_536;
/// How long a stopping shard may take to write its remaining rows.
pub const LAST_SAVE_MS: u64 = 2_000;
/// Pause between two attempts to subscribe to a shard's subject.
pub const RETRY_MS: u64 = 500;

const _: () = assert!(GATEWAYS_MAX <= u16::MAX as usize);
const _: () = assert!(LOAD_TIMEOUT_MS < 500);
const _: () = assert!(AMNESTY_MS < SILENT_AFTER_MS);
