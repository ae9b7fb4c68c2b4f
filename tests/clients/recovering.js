// Clients that come back by connection-state recovery, somebody who talks, and what must have been heard of it.
import { strict as assert } from "node:assert";
import { bounded, PATHS, SocketIo } from "./socketio.js";

/** Of socket.io-client: it comes back at once, always after the same time. */
const QUICK = { reconnectionDelay: 50, reconnectionDelayMax: 50, randomizationFactor: 0 };
const BACK_MS_MAX = 15_000;
/** The events by which messages come, in any vocabulary. */
const MESSAGES = ["message_received", "message", "room_message"];

export class Recovering extends SocketIo {
  constructor(server, options) {
    super(server, { recovery: true, path: PATHS.ring, ...QUICK, ...options });
    /** How each connection began. */
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

  /** Whether the library is between two transports: one that loses both then notices only when it misses pings. */
  get isUpgrading() {
    return this.socket.io.engine.upgrading;
  }

  /**
   * Ends the connection without a goodbye, when everything has been heard that came with what is being heard: closed
   * in between, also by the end of an upgrade, the library keeps the rest, asks for it again, and is told it twice.
   */
  cut() {
    const { engine } = this.socket.io;
    setImmediate(() => {
      if (engine.upgrading) engine.once("upgrade", () => setImmediate(() => engine.close()));
      else engine.close();
    });
  }

  /** Cuts the connection, by `cut` if given, and waits until it is back; `meanwhile` it is away. */
  async interrupted(meanwhile = async () => {}, cut = () => this.cut()) {
    const ended = this.ended();
    cut();
    assert.match(await ended, /^(forced close|transport (close|error))$/, this.sub);
    const back = this.back();
    await Promise.all([meanwhile(), back]);
  }

  /** Asserts that every connection but the first went on with the session, of which there were at least `atLeast`. */
  wentOn(atLeast = 1) {
    const [first, ...others] = this.begun;
    assert.ok(others.length >= atLeast, `${this.sub} came back ${others.length} times`);
    for (const [index, { id, recovered }] of others.entries()) {
      assert.deepEqual({ recovered, id }, { recovered: true, id: first.id }, `${this.sub}'s return ${index + 1} of ${others.length}`);
    }
  }

  /** Asserts that the last connection began a session of its own. */
  beganAnew() {
    const [before, last] = this.begun.slice(-2);
    assert.equal(last.recovered, false, this.sub);
    assert.match(last.pid, /^[0-9a-f]{32}$/);
    assert.ok(last.pid !== before.pid && last.id !== before.id, `${this.sub} has its old ids`);
  }
}

/** What a client heard said, in any vocabulary, by conversation. */
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

/** Waits until a client has heard the last of what was said, by conversation; then it must have heard all, in order, once. */
export async function heard(client, said, event) {
  const last = Object.values(said).map((contents) => contents.at(-1));
  const enough = () => {
    const contents = new Set(Object.values(saidTo(client, event)).flat());
    return last.every((content) => contents.has(content));
  };
  const count = () => JSON.stringify(Object.entries(saidTo(client, event)).map(([name, contents]) => [name, contents.length, contents.at(-1)]));
  await client.until(enough, () => `${last} ${event ?? ""} for ${client.sub}, which heard ${count()}`);
  // What is told twice comes before the answer to what is asked after it.
  while (!(await client.ask("leave_conversation", "nowhere").then(({ ok }) => ok, () => false)));
  assert.deepEqual(saidTo(client, event), said, client.sub);
}

/** Somebody who says things, without recovery, over one connection. What was said is kept by conversation. */
export class Talker extends SocketIo {
  constructor(server, sub) {
    super(server, { sub, path: PATHS.ring, transports: ["websocket"] });
    this.said = {};
  }

  /** Says something in a conversation; resolves when it is acknowledged. */
  say(conversationId) {
    const said = (this.said[conversationId] ??= []);
    const content = `${conversationId}/${said.length + 1}`;
    said.push(content);
    return this.done("send_message", { conversationId, content });
  }

  /** Says `count` things in each of these conversations, in turns, all at once. */
  sayAll(conversations, count) {
    return Promise.all(Array.from({ length: count }, () => conversations.map((conversationId) => this.say(conversationId))).flat());
  }
}

/** For a describe: such clients of a server, closed when their test ends. */
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
