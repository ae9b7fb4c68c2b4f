//! The limits of Carillon that clients, services or several crates share, with their reasons. If a setting can change a
//! limit, the constant is the setting's default.

/// Characters of a conversation's or user's id.
pub const ID_LENGTH_MAX: usize = 128;
/// Characters of a client id (`docs/protocol.md#promises`).
pub const CLIENT_ID_LENGTH_MAX: usize = 64;
/// Characters of a gateway's or worker's id: room for a pod's name and a random part.
pub const SERVICE_ID_LENGTH_MAX: usize = 96;
/// Characters of an installation's prefix of subjects and streams. Every message on the bus carries it.
pub const PREFIX_LENGTH_MAX: usize = 32;
/// Characters of `ref` (`docs/protocol.md#commands`).
pub const REF_LENGTH_MAX: usize = 64;
/// Characters of a display name; longer ones are cut. Every message carries a name.
pub const NAME_LENGTH_MAX: usize = 128;
/// Characters of a content type or persona id; enough for a MIME type.
pub const CONTENT_TYPE_LENGTH_MAX: usize = 128;
/// Ids in a list that a client sends (`docs/rest.md#limits`).
pub const ID_LIST_LENGTH_MAX: usize = 200;
/// Bytes of a message's or conversation's metadata (`docs/rest.md#limits`).
pub const METADATA_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a broadcast's data, as JSON.
pub const DATA_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the message of a ChordMe `broadcast_message`, as JSON (`docs/protocol.md#chordme`).
pub const BROADCAST_MESSAGE_BYTES_MAX: usize = 10 * 1024;
/// Bytes of a cursor's position, as JSON (`docs/protocol.md#chordme`).
pub const POSITION_BYTES_MAX: usize = 1024;
/// Characters of a broadcast's event name. It is a name, not a place for data.
pub const EVENT_NAME_LENGTH_MAX: usize = 128;
/// Characters of a status text: one line under a name.
pub const STATUS_TEXT_LENGTH_MAX: usize = 140;
/// Characters of a conversation's title.
pub const TITLE_LENGTH_MAX: usize = 200;
/// Levels of nesting in JSON that is passed on from client to client. Clients with recursive parsers must survive it.
pub const JSON_DEPTH_MAX: usize = 32;
/// Code points of a message's content (`docs/rest.md#limits`).
pub const CONTENT_CHARS_MAX: usize = 5_000;
/// Bytes of a client's frame (`docs/protocol.md#closes`).
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Events in one page of history (`docs/protocol.md#details`).
pub const HISTORY_LIMIT_MAX: u32 = 200;
/// Events in a page of history if the client gives no limit.
pub const HISTORY_LIMIT_DEFAULT: u32 = 50;
/// Stored participants of a conversation. The worker holds all of them in memory; one event adds at most
/// [`ID_LIST_LENGTH_MAX`].
pub const PARTICIPANTS_MAX: usize = 10_000;
/// Participants of a conversation up to which they see each other's presence (`docs/protocol.md#presence`).
pub const PRESENCE_PARTICIPANTS_MAX: usize = 100;
/// Users whose presence one user sees (`docs/protocol.md#presence`).
pub const VISIBLE_USERS_MAX: usize = 500;
/// Conversations that one connection may join.
pub const JOINED_CONVERSATIONS_MAX: usize = 1_000;
/// Places in the recovery record of a session: as many conversations as a connection may join, and three times as many
/// that it has left since the newest base was made.
pub const RECOVERY_PLACES_MAX: usize = 4 * JOINED_CONVERSATIONS_MAX;
/// Bytes of such a record: enough for two bases with a thousand conversations each. A session with a larger record
/// cannot be recovered.
pub const RECOVERY_RECORD_BYTES_MAX: usize = 256 * 1024;
/// Connections of one user, over all gateways (`docs/protocol.md#closes`).
pub const CONNECTIONS_PER_USER: u32 = 5;
/// Connections of one gateway.
pub const CONNECTIONS: u32 = 10_000;
/// New connections from one IP address in a minute.
pub const CONNECTIONS_PER_IP_PER_MINUTE: u32 = 10;
/// Messages of one user in a minute. The same limit holds for operations, for cursor moves and for typing, each by
/// itself.
pub const PER_MINUTE: u32 = 60;

/// Commands in one log entry. A position has 256 write timestamps for an entry, and a JetStream fsync takes as long for
/// one command as for 256.
pub const ENTRY_COMMANDS_MAX: usize = 256;
/// Bytes of a log entry's commands: half of what one bus message can carry, so that a publish never fails because of
/// its size.
pub const ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Bytes of one message on the bus. NATS refuses messages above 1 MiB, and large messages delay small ones.
pub const BUS_MESSAGE_BYTES_MAX: usize = 512 * 1024;
/// Commands that wait in a gateway for publishing to one partition; above it the gateway answers `unavailable`. A
/// publish carries 256 commands, so this is 16 publishes: about 50 ms at JetStream's slowest measured rate.
pub const PUBLISH_QUEUE_COMMANDS_MAX: usize = 4_096;
/// Partitions of the command log when a cluster is created. Each partition has one owner, which applies its commands.
pub const PARTITIONS: u32 = 16;
/// Partitions at most. Beyond this number, the beats of further partitions cost more than their owners help.
pub const PARTITIONS_MAX: u32 = 1_024;
/// Shards of presence.
pub const PRESENCE_SHARDS: u32 = 16;

/// Accepted client ids that are remembered for a sender in a conversation (`docs/protocol.md#promises`).
pub const DEDUP_CLIENT_IDS_MAX: usize = 1_000;
/// How long they are remembered at least (`docs/protocol.md#promises`). A database may delete them later than that.
pub const DEDUP_AGE_MAX_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// Bytes of sent batches that a worker keeps for each gateway, so that it can send a missed one again.
pub const RESEND_BYTES_MAX: usize = 256 * 1024;
/// Bytes of frames that wait for one connection. Above it, the connection later reads the events from its cursor on.
pub const OUTBOX_BYTES_MAX: usize = 256 * 1024;
/// Sessions that a gateway begins at the same time. Further handshakes are answered with 503 and a time to retry,
/// before any work is done for them. Beginning a session takes about 10 ms over NATS, so thousands of clients get in
/// within a second.
pub const BEGINNING_MAX: u32 = 512;
/// Clients that got that 503 are requested to come back after this many milliseconds, plus a random time up to as many
/// again.
pub const BEGINNING_RETRY_MS: u64 = 1_000;
/// How long a page that was read for a member is reused for other members: longer than clients take to reconnect after
/// their gateway died.
pub const PAGES_KEPT_MS: u64 = 10_000;
/// Bytes of such pages in a gateway; above it the oldest are dropped.
pub const PAGES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Events that a gateway keeps for a conversation with local members. They are enough for a reconnect after a few
/// seconds.
pub const RING_EVENTS_MAX: usize = 64;
/// Bytes of those events.
pub const RING_BYTES_MAX: usize = 64 * 1024;
/// Unanswered commands of one connection. Above it the gateway stops reading the connection's socket.
pub const UNANSWERED_COMMANDS_MAX: usize = 128;
/// Conversations of a partition that its owner keeps in memory; the least recently used one is dropped first.
pub const CONVERSATIONS_IN_MEMORY_MAX: usize = 10_000;
/// After how many milliseconds an idle conversation is dropped from a worker's memory.
pub const CONVERSATION_IDLE_MS: u64 = 60_000;
/// Members that one turn of the hub delivers to, so that a large room does not delay small ones.
pub const FANOUT_CHUNK: usize = 512;

/// How long a user's other connections have to answer a ping when there is no place for a new one: long enough for a
/// phone on a bad network, and short enough for a user who waits (`docs/protocol.md#details`).
pub const PROBE_MS: u64 = 2_000;

/// How long a start of typing is valid if it is not repeated.
pub const TYPING_MS: u64 = 5_000;
/// The shortest time between two typing states of a user that members receive
/// (`docs/protocol.md#details`).
pub const TYPING_RENEWAL_MS: u64 = 1_000;

const _: () = assert!(ENGINEIO_ANSWER_BYTES_MAX / 3 * 4 < BUS_MESSAGE_BYTES_MAX - 8 * 1024);
const _: () = assert!(RELAY_PART_BYTES_MAX < BUS_MESSAGE_BYTES_MAX - 8 * 1024);
const _: () = assert!(ENTRY_BYTES_MAX < BUS_MESSAGE_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX < ENTRY_BYTES_MAX);
const _: () = assert!(BROADCAST_MESSAGE_BYTES_MAX <= DATA_BYTES_MAX);
const _: () = assert!(CONTENT_CHARS_MAX * 4 < FRAME_BYTES_MAX);
const _: () = assert!(OUTBOX_BYTES_MAX > FRAME_BYTES_MAX);

/// Bytes of the body of one polling request (`docs/protocol.md#polling`).
pub const ENGINEIO_PAYLOAD_BYTES_MAX: usize = 1_000_000;
/// Bytes of one answer to a poll: with base64 and the fields around it, it fits into one message on the bus.
pub const ENGINEIO_ANSWER_BYTES_MAX: usize = 320 * 1024;
/// Packets in one answer to a poll: python-socketio's clients accept no more (their `max_decode_packets`).
pub const ENGINEIO_ANSWER_PACKETS_MAX: usize = 16;
/// Bytes of a polling request's body that one message on the bus carries.
pub const RELAY_PART_BYTES_MAX: usize = 384 * 1024;
/// Engine.IO packets in one polling POST. The reference server accepts any number, and POSTs with very many packets
/// have blocked it (CVE-2020-36048). The reference client sends everything that collected during one POST, or in one
/// tick, together. With a limit of 64, 200 messages in a tick ended the session, and the client does not send them
/// again.
pub const ENGINEIO_POST_PACKETS_MAX: usize = 1_000;
/// Binary attachments that one Socket.IO packet may announce. The server waits for announced attachments, so without a
/// limit a client could make it hold memory by sending nothing (CVE-2026-33151).
pub const SOCKETIO_ATTACHMENTS_MAX: u32 = 16;
/// Bytes of all attachments of one Socket.IO packet (`docs/protocol.md#limits`).
pub const SOCKETIO_ATTACHMENTS_BYTES_MAX: usize = 256 * 1024;
/// Time from a Socket.IO packet to its last attachment. Clients send them at once, so only a slow network needs it.
pub const SOCKETIO_ATTACHMENTS_MS: u64 = 5_000;
