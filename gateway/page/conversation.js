// The page's state of one conversation: a window of its messages, ordered by seq, each message once, and the messages
// that wait to be sent.

export const PAGE_MESSAGES = 50;
const KEPT_MESSAGES_PINNED = 300;
const KEPT_MESSAGES_MAX = 2_000;
const PATCHES_MAX = 1_000;

// Only these events have a seq of their own in the conversation. A receipt also has a `seq`, but it is the position up
// to which a user has read.
const DURABLE = new Set([
  "new_message", "message_updated", "message_deleted", "reaction_added", "reaction_removed",
  "participant_joined", "participant_left", "conversation_updated",
]);

export class Conversation {
  constructor(id) {
    this.id = id;
    this.title = "";
    this.joined = false;
    this.cursor = null; // the highest seq received: a new connection continues after it
    this.oldest = null; // the lowest seq covered: the log has every message from here to the cursor
    this.more = true;
    this.loading = false;
    this.log = [];
    this.pending = [];
    this.typists = new Map();
    // Edits and deletions by message id. They may arrive before the message, which is on an older page of history.
    this.patches = new Map();
    this.typingSentAtMs = 0;
    this.unread = 0;
  }

  connected(headSeq) {
    this.joined = true;
    // A head below the cursor belongs to a new conversation with the same id: a development server's data was deleted.
    if (this.cursor !== null && this.cursor <= headSeq) return;
    this.log = [];
    this.patches.clear();
    this.cursor = headSeq;
    this.oldest = headSeq + 1;
    this.more = headSeq > 0;
  }

  disconnected() {
    this.joined = false;
    this.loading = false;
    this.typingSentAtMs = 0;
    this.typists.clear();
    for (const message of this.pending) clearTimeout(message.timer);
  }

  older(events, hasMore) {
    this.loading = false;
    this.more = hasMore && events.length > 0;
    for (const event of events) this.apply(event);
    if (events.length) this.oldest = Math.min(this.oldest, events[0].seq);
  }

  /** Applies a durable event, live or from history; duplicates do no harm. Returns the message if it is new. */
  apply(event) {
    if (!this.joined || !DURABLE.has(event.type)) return null;
    this.cursor = Math.max(this.cursor, event.seq);
    if (event.type === "new_message") return this.received(event);
    if (event.type === "message_updated") this.patch(event.message.id, { content: event.message.content, edited: true });
    if (event.type === "message_deleted") this.patch(event.message_id, { content: "", deleted: true });
    if (event.type === "conversation_updated") this.title = event.changes?.title ?? this.title;
    return null;
  }

  received({ seq, message }) {
    const own = this.takePending(message.client_id);
    return this.place({
      key: own?.key ?? `#${seq}`,
      seq,
      id: message.id,
      senderId: message.sender_id,
      senderName: message.sender_name || message.sender_id,
      content: message.content,
      at: new Date(message.timestamp),
      isAi: message.is_ai,
      edited: Boolean(message.edited_at),
      state: "sent",
      ...this.patches.get(message.id),
    });
  }

  acknowledged({ client_id, id, seq }) {
    const own = this.takePending(client_id);
    const known = this.log.some((message) => message.seq === seq);
    // A message below the window would leave a gap above it. It is shown when its page of history is loaded.
    if (own && !known && seq >= this.oldest) this.place({ ...own, id, seq, state: "sent" });
  }

  takePending(clientId) {
    const index = clientId ? this.pending.findIndex((message) => message.clientId === clientId) : -1;
    if (index < 0) return null;
    const [message] = this.pending.splice(index, 1);
    clearTimeout(message.timer);
    return message;
  }

  // Nearly every message belongs at the end, so the search for its place starts there.
  place(message) {
    let index = this.log.length;
    while (index > 0 && this.log[index - 1].seq > message.seq) index -= 1;
    const there = this.log[index - 1];
    if (there?.seq === message.seq) {
      Object.assign(there, message, { key: there.key });
      return null;
    }
    this.log.splice(index, 0, message);
    return message;
  }

  patch(messageId, changes) {
    if (this.patches.get(messageId)?.deleted) return;
    Object.assign(this.log.find(({ id }) => id === messageId) ?? {}, changes);
    this.patches.set(messageId, changes);
    if (this.patches.size > PATCHES_MAX) this.patches.delete(this.patches.keys().next().value);
  }

  /** Drops the oldest messages above a bound, which is smaller while the newest are visible. History still has them. */
  trim(pinned) {
    const excess = this.log.length - (pinned ? KEPT_MESSAGES_PINNED : KEPT_MESSAGES_MAX);
    if (excess <= 0 || this.loading) return;
    this.log.splice(0, excess);
    this.oldest = this.log[0].seq;
    this.more = true;
  }
}
