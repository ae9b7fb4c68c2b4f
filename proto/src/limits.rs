//! Every bound in Carillon, with its reason. Where a setting can change one, this is its default.

/// Characters of a conversation's or user's id (protocol §7).
pub const ID_LENGTH_MAX: usize = 128;
/// Characters of a client id (protocol §2).
pub const CLIENT_ID_LENGTH_MAX: usize = 64;
/// Characters of a gateway's or worker's id: room for a pod's name and a random part.
pub const SERVICE_ID_LENGTH_MAX: usize = 96;
/// Characters of the prefix of an installation's subjects and streams: it stands in every message on the bus.
pub const PREFIX_LENGTH_MAX: usize = 32;
/// Characters of `ref` (protocol §2).
pub const REF_LENGTH_MAX: usize = 64;
/// Characters of a display name; longer ones are cut. Names ride in every message.
pub const NAME_LENGTH_MAX: usize = 128;
/// Characters of a content type or persona id: a MIME type fits.
pub const CONTENT_TYPE_LENGTH_MAX: usize = 128;
/// Ids in a list that a client sends (protocol §8).
pub const ID_LIST_LENGTH_MAX: usize = 200;
/// Bytes of a message's or conversation's metadata (protocol §8).
pub const METADATA_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a broadcast's data (protocol §8).
pub const DATA_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a ChordMe `broadcast_message`'s message, as JSON (protocol §8).
pub const BROADCAST_MESSAGE_BYTES_MAX: usize = 10 * 1024;
/// Bytes of a cursor's position (protocol §8).
pub const POSITION_BYTES_MAX: usize = 1024;
/// Characters of a broadcast's event name: a name, not a payload.
pub const EVENT_NAME_LENGTH_MAX: usize = 128;
/// Characters of a status text: one line under a name.
pub const STATUS_TEXT_LENGTH_MAX: usize = 140;
/// Characters of a conversation's title.
pub const TITLE_LENGTH_MAX: usize = 200;
/// Nesting of JSON that a client has us pass on: clients in languages with recursive parsers must survive it.
pub const JSON_DEPTH_MAX: usize = 32;
/// Code points of a message's content (protocol §2).
pub const CONTENT_CHARS_MAX: usize = 5_000;
/// Bytes of a client's frame (protocol §8).
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Events in one page of history (protocol §2).
pub const HISTORY_LIMIT_MAX: u32 = 200;
/// Events in a page of history when the client does not say.
pub const HISTORY_LIMIT_DEFAULT: u32 = 50;
/// Stored participants of a conversation: one event carries at most [`ID_LIST_LENGTH_MAX`], state holds them all.
pub const PARTICIPANTS_MAX: usize = 10_000;
/// Above this many participants, a conversation makes nobody's presence visible (protocol §2).
pub const PRESENCE_PARTICIPANTS_MAX: usize = 100;
/// Users whose presence one user sees (protocol §2).
pub const VISIBLE_USERS_MAX: usize = 500;
/// Conversations joined by one connection (protocol §8).
pub const JOINED_CONVERSATIONS_MAX: usize = 1_000;
/// Places in the record of a session that can be recovered: what a connection may join at once, and three times as
/// much that it left since offsets count anew.
pub const RECOVERY_PLACES_MAX: usize = 4 * JOINED_CONVERSATIONS_MAX;
/// Bytes of such a record: two bases with a thousand conversations each. A session with more is not recovered.
pub const RECOVERY_RECORD_BYTES_MAX: usize = 256 * 1024;
/// Connections of one user, over all gateways (protocol §8).
pub const CONNECTIONS_PER_USER: u32 = 5;
/// Connections of a gateway (protocol §8).
pub const CONNECTIONS: u32 = 10_000;
/// New connections from one address in a minute (protocol §8).
pub const CONNECTIONS_PER_IP_PER_MINUTE: u32 = 10;
/// Messages, operations, cursor moves and typing of one user in a minute, each (protocol §8).
pub const PER_MINUTE: u32 = 60;

/// Commands in one log entry: positions leave 256 timestamps to an entry, and JetStream's fsync costs the
/// same for one command as for 256.
pub const ENTRY_COMMANDS_MAX: usize = 256;
/// Bytes of a log entry's commands: half of what the bus takes, so that an entry never fails for its size.
pub const ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Bytes of one message on the bus; NATS refuses above 1 MiB, and large messages hold up small ones.
pub const BUS_MESSAGE_BYTES_MAX: usize = 512 * 1024;
/// Commands that wait in a gateway for one partition's publish; above it `unavailable` is answered. A
/// publish takes 256, so this is 16 publishes behind: about 50 ms at JetStream's slowest measured rate.
pub const PUBLISH_QUEUE_COMMANDS_MAX: usize = 4_096;
/// Partitions of the command log when a cluster is created (design: one writer each).
pub const PARTITIONS: u32 = 16;
/// More partitions than this cost more beats than they bring writers.
pub const PARTITIONS_MAX: u32 = 1_024;
/// Shards of presence.
pub const PRESENCE_SHARDS: u32 = 16;

/// Accepted client ids remembered for a sender in a conversation (protocol §2).
pub const DEDUP_CLIENT_IDS_MAX: usize = 1_000;
/// How long they are remembered at least (protocol §2): a database may forget them later.
pub const DEDUP_AGE_MAX_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// Bytes of sent batches that a worker keeps for a gateway that missed one.
pub const RESEND_BYTES_MAX: usize = 256 * 1024;
/// Bytes of frames that wait for one connection; above it the connection reads on from its cursor.
pub const OUTBOX_BYTES_MAX: usize = 256 * 1024;
/// Sessions that a gateway begins at one time; above it handshakes are answered with 503 and a time to come back,
/// before any work is done for them. Beginning takes about 10 ms over NATS, so that thousands get in within a second.
pub const BEGINNING_MAX: u32 = 512;
/// Who is turned away for that comes back after one to this many milliseconds more.
pub const BEGINNING_RETRY_MS: u64 = 1_000;
/// How long a page that was read for members that are behind serves others: longer than a storm of clients takes to
/// come back after their gateway died.
pub const PAGES_KEPT_MS: u64 = 10_000;
/// Bytes of such pages in a gateway; above it the oldest are read again.
pub const PAGES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Events kept for a conversation with local members: a reconnect after a few seconds finds them.
pub const RING_EVENTS_MAX: usize = 64;
/// Bytes of those events.
pub const RING_BYTES_MAX: usize = 64 * 1024;
/// Unanswered commands of one connection, above which the gateway stops reading its socket (protocol §2).
pub const UNANSWERED_COMMANDS_MAX: usize = 128;
/// Conversations a partition's worker keeps in memory; the least recently used go first.
pub const CONVERSATIONS_IN_MEMORY_MAX: usize = 10_000;
/// Time after which an idle conversation leaves a worker's memory.
pub const CONVERSATION_IDLE_MS: u64 = 60_000;
/// Members served in one turn of the hub, so that a large room does not hold up small ones.
pub const FANOUT_CHUNK: usize = 512;

/// For a user's other connections to answer a ping when a new one finds no place (protocol §8): as long as a phone on a
/// bad network takes, and no longer than somebody waits.
pub const PROBE_MS: u64 = 2_000;

/// How long a typing start lasts without another one (protocol §2).
pub const TYPING_MS: u64 = 5_000;
/// How often a typist's renewed start is passed on (protocol §2).
pub const TYPING_RENEWAL_MS: u64 = 1_000;

const _: () = assert!(ENGINEIO_ANSWER_BYTES_MAX / 3 * 4 < BUS_MESSAGE_BYTES_MAX - 8 * 1024);
const _: () = assert!(RELAY_PART_BYTES_MAX < BUS_MESSAGE_BYTES_MAX - 8 * 1024);
const _: () = assert!(ENTRY_BYTES_MAX < BUS_MESSAGE_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX < ENTRY_BYTES_MAX);
const _: () = assert!(BROADCAST_MESSAGE_BYTES_MAX <= DATA_BYTES_MAX);
const _: () = assert!(CONTENT_CHARS_MAX * 4 < FRAME_BYTES_MAX);
const _: () = assert!(OUTBOX_BYTES_MAX > FRAME_BYTES_MAX);

/// Bytes of one polling request's body (protocol §8).
pub const ENGINEIO_PAYLOAD_BYTES_MAX: usize = 1_000_000;
/// Bytes of one answer to a poll: with base64 and the bus's own fields it fits into one message on the bus.
pub const ENGINEIO_ANSWER_BYTES_MAX: usize = 320 * 1024;
/// Packets in one answer to a poll: python-socketio's clients take no more (their `max_decode_packets`).
pub const ENGINEIO_ANSWER_PACKETS_MAX: usize = 16;
/// Bytes of a polling request's body in one message on the bus.
pub const RELAY_PART_BYTES_MAX: usize = 384 * 1024;
/// Engine.IO packets in one polling POST. The reference takes any number, and POSTs of very many have held up
/// its server (CVE-2020-36048). Its client sends together what gathered during one POST, or in one tick: with 64,
/// 200 messages in a tick ended the session, and the client does not send them again.
pub const ENGINEIO_POST_PACKETS_MAX: usize = 1_000;
/// Binary attachments that one Socket.IO packet may announce. Announced ones are waited for, so a bound on
/// them keeps a silent client from holding memory (CVE-2026-33151).
pub const SOCKETIO_ATTACHMENTS_MAX: u32 = 16;
/// Bytes of a Socket.IO packet's attachments together (protocol §8).
pub const SOCKETIO_ATTACHMENTS_BYTES_MAX: usize = 256 * 1024;
/// Time from a Socket.IO packet to its last attachment: they are sent at once, so only a bad line needs it.
pub const SOCKETIO_ATTACHMENTS_MS: u64 = 5_000;
