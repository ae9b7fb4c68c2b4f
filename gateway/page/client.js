// The demo page's client of Carillon's native vocabulary: one connection and its conversations. It is independent of
// the screen.
import { Conversation, PAGE_MESSAGES } from "./conversation.js";

const BACKOFF_MS_MIN = 400;
const BACKOFF_MS_MAX = 15_000;
const HANDSHAKE_MS_MAX = 10_000;
const ANSWER_MS_MAX = 10_000;
const SILENCE_MS_BEFORE_PING = 20_000;
const SILENCE_MS_MAX = 30_000;
const WATCH_MS = 5_000;
const TYPING_RENEWAL_MS = 3_000;
const TYPING_MS_MAX = 6_000;
const ATTEMPTS_MAX = 6;
const PENDING_MAX = 100;
const CONVERSATIONS_MAX = 50;
const NAMES_MAX = 1_000;

export const CONVERSATION_ID = /^[A-Za-z0-9_.:@-]{1,128}$/;
const RETRYABLE = new Set(["rate_limited", "unavailable", "timeout"]);

/** Exponential, with the upper half random, so that a thousand pages do not reconnect at the same moment. */
export function backoffMs(attempt, random = Math.random) {
  const ceiling = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** Math.min(attempt, 10));
  return ceiling * (0.5 + random() / 2);
}

/** A user id that the server accepts, the same for the same name: `Ana Lúcia` is `ana-lucia`, `李` is `u-674e`. */
export function userIdOf(name) {
  const plain = name.normalize("NFKD").toLowerCase().replace(/\p{M}/gu, "");
  const id = plain.replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
  const points = () => [...name].slice(0, 20).map((char) => char.codePointAt(0).toString(16));
  return id || `u-${points().join("-")}`;
}

/** Turns the user's text for a conversation into an id, if possible; CONVERSATION_ID checks the result. */
export const conversationIdOf = (typed) => typed.trim().replace(/^#/, "").replace(/\s+/g, "-");

// crypto.randomUUID does not exist on pages that were loaded over plain HTTP from another machine.
const randomId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

export class Client {
  /** `on` has `change()`, `message(conversation, message)` for new messages, and `notice(text)`. */
  constructor({ url, userId, name, on }) {
    Object.assign(this, { url, userId, name, on });
    this.state = "connecting"; // connecting, online, waiting, refused, stopped
    this.reason = "";
    this.conversations = new Map();
    this.people = new Map(); // user id -> status, for users who are online
    this.names = new Map([[userId, name]]);
    this.asked = new Map(); // ref -> [conversation, the action that repeats the request after a temporary error]
    this.delays = new Set();
    this.attempt = 0;
    this.resumeAtMs = 0;
  }

  // ---- connection

  connect() {
    clearTimeout(this.reconnecting);
    this.drop();
    this.change("connecting");
    const socket = new WebSocket(this.url);
    this.socket = socket;
    this.heardAtMs = Date.now();
    this.after(HANDSHAKE_MS_MAX, () => this.state === "connecting" && this.lost({ code: 1006 }));
    socket.onmessage = ({ data }) => socket === this.socket && this.hear(data);
    socket.onclose = (event) => socket === this.socket && this.lost(event);
  }

  /** Connects at once instead of waiting: the network came back, or the user clicked "Try now". */
  hurry() {
    if (this.state === "waiting" || this.state === "refused") this.connect();
  }

  stop() {
    clearTimeout(this.reconnecting);
    this.drop();
    this.change("stopped");
  }

  // It clears `this.socket` before it closes the socket: on a dead network the close event can take minutes.
  drop() {
    const socket = this.socket;
    this.socket = null;
    for (const delay of this.delays) clearTimeout(delay);
    this.delays.clear();
    this.asked.clear();
    for (const conversation of this.conversations.values()) conversation.disconnected();
    socket?.close();
  }

  lost({ code, reason }) {
    this.drop();
    if (code === 1008) return this.change("refused", reason || "the server refused the connection");
    const hintMs = this.resumeAtMs - Date.now();
    this.resumeAtMs = 0;
    const delayMs = hintMs > 0 ? hintMs : backoffMs(this.attempt++);
    this.reconnecting = setTimeout(() => this.connect(), delayMs);
    this.change("waiting");
  }

  admitted() {
    this.attempt = 0;
    this.change("online");
    this.watch();
    for (const conversation of this.conversations.values()) this.subscribe(conversation);
  }

  // A browser does not show the server's pings to the page, so the page sends its own when nothing arrives.
  watch() {
    const silenceMs = Date.now() - this.heardAtMs;
    if (silenceMs > SILENCE_MS_MAX) return this.lost({ code: 1006 });
    if (silenceMs > SILENCE_MS_BEFORE_PING) this.write({ type: "ping" });
    this.after(WATCH_MS, () => this.watch());
  }

  /** Calls `action` after a delay, unless the connection ends before. */
  after(delayMs, action) {
    const delay = setTimeout(() => {
      this.delays.delete(delay);
      action();
    }, delayMs);
    this.delays.add(delay);
    return delay;
  }

  change(state = this.state, reason = "") {
    if (state !== this.state) Object.assign(this, { state, reason });
    this.on.change();
  }

  write(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  ask(frame, conversation, again) {
    const ref = randomId();
    this.asked.set(ref, [conversation, again]);
    this.write({ ...frame, conversation_id: conversation.id, ref });
    this.after(ANSWER_MS_MAX, () => this.asked.has(ref) && this.refused({ ref, code: "timeout" }));
  }

  // ---- actions of the page

  join(id) {
    if (this.conversations.has(id)) return this.conversations.get(id);
    if (this.conversations.size >= CONVERSATIONS_MAX) {
      this.on.notice(`this page holds ${CONVERSATIONS_MAX} conversations at most: leave one first`);
      return null;
    }
    const conversation = new Conversation(id);
    this.conversations.set(id, conversation);
    if (this.state === "online") this.subscribe(conversation);
    this.on.change();
    return conversation;
  }

  leave(id) {
    const conversation = this.conversations.get(id);
    if (!conversation) return;
    const { joined } = conversation;
    conversation.disconnected();
    this.conversations.delete(id);
    if (joined) this.write({ type: "leave_conversation", conversation_id: id });
    this.on.change();
  }

  subscribe(conversation) {
    const resume = conversation.cursor === null ? {} : { after_seq: conversation.cursor };
    this.ask({ type: "join_conversation", ...resume }, conversation, () => this.subscribe(conversation));
  }

  loadOlder(conversation) {
    if (!conversation.joined || conversation.loading || !conversation.more) return;
    conversation.loading = true;
    this.ask({ type: "history", before_seq: conversation.oldest, limit: PAGE_MESSAGES }, conversation, () => {
      conversation.loading = false;
      this.loadOlder(conversation);
    });
    this.on.change();
  }

  send(conversation, content) {
    if (conversation.pending.length >= PENDING_MAX) {
      this.on.notice("too many messages are waiting to be sent: wait a moment");
      return false;
    }
    conversation.typingSentAtMs = 0;
    const clientId = randomId();
    const message = {
      key: clientId, clientId, content, senderId: this.userId, senderName: this.name,
      at: new Date(), state: "sending", reason: "", attempts: 0,
    };
    conversation.pending.push(message);
    this.transmit(conversation, message);
    return true;
  }

  /** Every attempt has the same client id: the server repeats the first send's ack and stores the message only once. */
  transmit(conversation, message) {
    clearTimeout(message.timer);
    if (!conversation.pending.includes(message)) return;
    Object.assign(message, { state: "sending", reason: "" });
    if (conversation.joined) {
      message.attempts += 1;
      const { content, clientId } = message;
      const conversation_id = conversation.id;
      this.write({ type: "send_message", conversation_id, content, client_id: clientId, ref: clientId });
      message.timer = this.after(ANSWER_MS_MAX, () => this.unsent(conversation, message, { code: "timeout" }));
    }
    this.on.change();
  }

  retry(conversation, message) {
    Object.assign(message, { attempts: 0, final: false });
    this.transmit(conversation, message);
  }

  discard(conversation, message) {
    clearTimeout(message.timer);
    conversation.pending = conversation.pending.filter((other) => other !== message);
    this.on.change();
  }

  unsent(conversation, message, { code, message: reason, retry_after_ms: delayMs }) {
    clearTimeout(message.timer);
    if (RETRYABLE.has(code) && message.attempts < ATTEMPTS_MAX) {
      message.timer = this.after(delayMs ?? backoffMs(message.attempts), () => this.transmit(conversation, message));
      return;
    }
    Object.assign(message, { state: "failed", final: !RETRYABLE.has(code), reason: reason || "no answer from the server" });
    this.on.change();
  }

  typing(conversation, isTyping) {
    const nowMs = Date.now();
    if (isTyping && nowMs - conversation.typingSentAtMs < TYPING_RENEWAL_MS) return;
    if (!isTyping && !conversation.typingSentAtMs) return;
    conversation.typingSentAtMs = isTyping ? nowMs : 0;
    this.write({ type: isTyping ? "typing_start" : "typing_stop", conversation_id: conversation.id });
  }

  // ---- frames from the server

  hear(data) {
    this.heardAtMs = Date.now();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return;
    }
    const conversation = this.conversations.get(frame.conversation_id);
    if (frame.type !== "error") this.asked.delete(frame.ref);
    if (Object.hasOwn(hearing, frame.type)) hearing[frame.type](this, frame);
    else if (conversation && Object.hasOwn(hearingIn, frame.type)) hearingIn[frame.type](this, frame, conversation);
    else if (conversation) conversation.apply(frame);
    this.on.change();
  }

  named(userId, name) {
    if (!userId || !name) return;
    this.names.delete(userId);
    this.names.set(userId, name);
    if (this.names.size > NAMES_MAX) this.names.delete(this.names.keys().next().value);
  }

  refused(frame) {
    for (const conversation of this.conversations.values()) {
      const message = conversation.pending.find((pending) => pending.clientId === frame.ref);
      if (message) return this.unsent(conversation, message, frame);
    }
    const [conversation, again] = this.asked.get(frame.ref) ?? [];
    this.asked.delete(frame.ref);
    if (!conversation) return this.on.notice(frame.message);
    if (this.conversations.get(conversation.id) !== conversation) return; // left meanwhile
    if (RETRYABLE.has(frame.code)) return void this.after(frame.retry_after_ms ?? backoffMs(2), again);
    conversation.loading = false;
    if (!conversation.joined) this.leave(conversation.id);
    this.on.notice(`${frame.message} (${conversation.id})`);
  }
}

const hearing = {
  online_users(client, { users }) {
    client.people = new Map(users.map((id) => [id, "active"]));
    if (client.state === "connecting") client.admitted();
  },
  presence_update(client, { user_id, online, status }) {
    if (online) client.people.set(user_id, status ?? "active");
    else client.people.delete(user_id);
  },
  reconnect(client, { after_ms }) {
    client.resumeAtMs = Date.now() + after_ms;
    client.after(after_ms, () => client.connect());
  },
  error: (client, frame) => client.refused(frame),
};

const hearingIn = {
  conversation_joined(client, { head_seq }, conversation) {
    conversation.connected(head_seq);
    if (conversation.log.length < PAGE_MESSAGES) client.loadOlder(conversation);
    for (const message of conversation.pending) {
      if (!message.final) client.retry(conversation, message);
    }
  },
  history(client, { events, has_more }, conversation) {
    conversation.older(events, has_more);
    for (const { message } of events) client.named(message?.sender_id, message?.sender_name);
  },
  message_ack(client, frame, conversation) {
    conversation.acknowledged(frame);
  },
  new_message(client, frame, conversation) {
    client.named(frame.message.sender_id, frame.message.sender_name);
    conversation.typists.delete(frame.message.sender_id);
    const message = conversation.apply(frame);
    if (message) client.on.message(conversation, message);
  },
  typing_indicator(client, { user_id, user_name, is_typing }, conversation) {
    client.named(user_id, user_name);
    clearTimeout(conversation.typists.get(user_id)?.timer);
    conversation.typists.delete(user_id);
    if (!is_typing) return;
    const timer = client.after(TYPING_MS_MAX, () => {
      conversation.typists.delete(user_id);
      client.on.change();
    });
    conversation.typists.set(user_id, { name: user_name || user_id, timer });
  },
};
