// Clients that reconnect with connection-state recovery, a client that sends messages, and the check that every message
// was received.
import { strict as assert } from "node:assert";
import { bounded, PATHS, SocketIo } from "./socketio.js";

/** Options of socket.io-client: it reconnects quickly, always after the same time. */
const QUICK = { reconnectionDelay: 50, reconnectionDelayMax: 50, randomizationFactor: 0 };
const BACK_MS_MAX = 15_000;
/** The events that carry messages, in all vocabularies. */
const MESSAGES = ["message_received", "message", "room_message"];

export class Recovering extends SocketIo {
  constructor(server, options) {
    super(server, { recovery: true, path: PATHS.ring, ...QUICK, ...options });
    /** The ids of each connection, and whether it was recovered. */
    this.begun = [];
    this.socket.on("connect", () => {
      const { id, _pid: pid, recovered } = this.socket;
      this.begun.push({ id, pid, recovered: Boolean(recovered) });
    });
  }

  /** Resolves when it has connected again. */
  back() {
    return bounded(new Promise((resolve) => this.socket.once("connect", resolve)), `${this.sub} again`, BACK_MS_MAX);
  }

  /**
   * Whether the library is upgrading its transport. If it loses both transports then, it notices only by missing pings.
   */
  get isUpgrading() {
    return this.socket.io.engine.upgrading;
  }

  /**
   * Ends the connection without a disconnect packet, after the library has handled every packet that it has read and
   * has finished an upgrade. If it were closed earlier, the library would keep the unhandled packets, and would receive
   * their events twice: from these packets, and again from the server after the recovery.
   */
  cut() {
    const { engine } = this.socket.io;
    setImmediate(() => {
      if (engine.upgrading) engine.once("upgrade", () => setImmediate(() => engine.close()));
      else engine.close();
    });
  }

  /** Ends the connection with `cut`, runs `meanwhile` while it is away, and waits until it is back. */
  async interrupted(meanwhile = async () => {}, cut = () => this.cut()) {
    const ended = this.ended();
    cut();
    assert.match(await ended, /^(forced close|transport (close|error))$/, this.sub);
    const back = this.back();
    await Promise.all([meanwhile(), back]);
  }

  /** Asserts that there were at least `atLeast` reconnects, and that each recovered the session. */
  wentOn(atLeast = 1) {
    const [first, ...others] = this.begun;
    assert.ok(others.length >= atLeast, `${this.sub} came back ${others.length} times`);
    for (const [index, { id, recovered }] of others.entries()) {
      assert.deepEqual({ recovered, id }, { recovered: true, id: first.id }, `${this.sub}'s return ${index + 1} of ${others.length}`);
    }
  }

  /** Asserts that the last connection started a new session. */
  beganAnew() {
    const [before, last] = this.begun.slice(-2);
    assert.equal(last.recovered, false, this.sub);
    assert.match(last.pid, /^[0-9a-f]{32}$/);
    assert.ok(last.pid !== before.pid && last.id !== before.id, `${this.sub} has its old ids`);
  }
}

/** The messages that a client received, in any vocabulary, by conversation. */
function saidTo(client, event) {
  const heard = {};
  for (const each of client.log) {
    const body = client.body(each);
    const content = body.content ?? body.message?.content;
    if (MESSAGES.includes(each.event) && (event ?? each.event) === each.event && content !== undefined) {
      (heard[content.split("/")[0]] ??= []).push(content);
    }
  }
  return heard;
}

/**
 * Waits until a client has received the last message of each conversation. Then it must have received every message
 * once, in order.
 */
export async function heard(client, said, event) {
  const last = Object.values(said).map((contents) => contents.at(-1));
  const enough = () => {
    const contents = new Set(Object.values(saidTo(client, event)).flat());
    return last.every((content) => contents.has(content));
  };
  const count = () => JSON.stringify(Object.entries(saidTo(client, event)).map(([name, contents]) => [name, contents.length, contents.at(-1)]));
  await client.until(enough, () => `${last} ${event ?? ""} for ${client.sub}, which heard ${count()}`);
  // A duplicate would arrive before the answer to a request that is sent now.
  while (!(await client.ask("leave_conversation", "nowhere").then(({ ok }) => ok, () => false)));
  assert.deepEqual(saidTo(client, event), said, client.sub);
}

/** A client that sends messages over one connection, without recovery. It records its messages by conversation. */
export class Talker extends SocketIo {
  constructor(server, sub) {
    super(server, { sub, path: PATHS.ring, transports: ["websocket"] });
    this.said = {};
  }

  /** Sends a message to a conversation. It resolves when the message is acknowledged. */
  say(conversationId) {
    const said = (this.said[conversationId] ??= []);
    const content = `${conversationId}/${said.length + 1}`;
    said.push(content);
    return this.done("send_message", { conversationId, content });
  }

  /** Sends `count` messages to each of these conversations, without waiting for acknowledgements in between. */
  sayAll(conversations, count) {
    return Promise.all(Array.from({ length: count }, () => conversations.map((conversationId) => this.say(conversationId))).flat());
  }
}

/** Factories of such clients for a describe block. The clients are closed when their test ends. */
export function recoveringOf(serverOf) {
  const closed = (t, client) => {
    t.after(() => client.close());
    return client;
  };
  const make = (t, options) => closed(t, new Recovering(options.server ?? serverOf(), options));
  return {
    make,
    recovering: (t, sub, options) => make(t, { sub, ...options }).connect(),
    talking: (t, sub) => closed(t, new Talker(serverOf(), sub)).connect(),
  };
}
