// The real socket.io-client in Node, with what it hears kept in order, and every wait bounded.
import { strict as assert } from "node:assert";
import { once } from "node:events";
import { io } from "socket.io-client";
import { startCarillon } from "./carillon.js";
import { secret, token } from "./tokens.js";

export const WAIT_MS_MAX = 8_000;
/** The transports that a client can be held to, by the name of the one that it ends with. */
export const TRANSPORTS = { websocket: ["websocket"], polling: ["polling"], upgrade: ["polling", "websocket"] };
/** The path of each application's clients (protocol §1). */
export const PATHS = { ring: "/api/socket", guide: "/api/socket", chordme: "/socket.io/" };
export const RFC3339_MS = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
/** What stands behind every event for a client that can be recovered. */
const OFFSET = /^[\w-]{4,}$/;

export const startServer = (environment = {}) => startCarillon({ environment: { AUTH_SECRET: secret, ...environment } });

export function bounded(promise, what, waitMsMax = WAIT_MS_MAX) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${typeof what === "function" ? what() : what}: not within ${waitMsMax} ms`)), waitMsMax);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export class SocketIo {
  /**
   * `sub` undefined: without a token. `recovery`: every event must end in an offset, and unless `auth` says otherwise,
   * it is asked for there. Other options are socket.io-client's own.
   */
  constructor(server, { sub, name = sub, namespace = "", recovery = false, ...options }) {
    this.sub = sub;
    this.recovery = recovery;
    this.log = [];
    this.waiting = new Set();
    // `autoUnref`: a client that its server leaves hanging must not keep the run from ending.
    const identity = sub === undefined ? undefined : { token: token(sub, { name }) };
    const auth = recovery ? { ...identity, recovery } : identity;
    this.socket = io(`${server.url}${namespace}`, { forceNew: true, autoConnect: false, autoUnref: true, auth, ...options });
    this.socket.onAny((event, ...args) => {
      this.log.push({ event, args });
      for (const look of this.waiting) look();
    });
  }

  get transport() {
    return this.socket.io.engine.transport.name;
  }

  /** Connects; fails if that is refused. */
  connect() {
    const connected = new Promise((resolve, reject) => {
      this.socket.once("connect", resolve);
      this.socket.once("connect_error", reject);
    });
    this.socket.connect();
    return bounded(connected, "connect").then(() => this);
  }

  /** Connects, which must be refused: the error is returned. */
  async refused(waitMsMax = WAIT_MS_MAX) {
    const refusal = new Promise((resolve, reject) => {
      this.socket.once("connect_error", resolve);
      this.socket.once("connect", () => reject(new Error("it was let in")));
    });
    this.socket.connect();
    const error = await bounded(refusal, "connect_error", waitMsMax);
    this.socket.removeAllListeners("connect");
    return error;
  }

  /**
   * Connects, which must not come to be: the connection is closed without a refusal, after which the library tries again
   * by itself. Returns how it was closed.
   */
  async turnedAway(waitMsMax = WAIT_MS_MAX) {
    const closed = new Promise((resolve, reject) => {
      this.socket.io.once("close", (reason, details) => resolve({ reason, code: details?.context?.code }));
      this.socket.once("connect", () => reject(new Error("it was let in")));
      // What the transport says of its own end has no data, and is no refusal.
      this.socket.on("connect_error", (error) => error.data !== undefined && reject(error));
    });
    this.socket.connect();
    const how = await bounded(closed, "the end of the connection", waitMsMax);
    this.socket.removeAllListeners("connect");
    this.socket.removeAllListeners("connect_error");
    return how;
  }

  /** Waits until the client has moved from polling to a WebSocket. */
  async upgraded() {
    const { engine } = this.socket.io;
    if (engine.transport.name !== "websocket") await bounded(once(engine, "upgrade"), "the upgrade");
    assert.equal(this.transport, "websocket");
  }

  /** The reason for which the connection ends. */
  ended() {
    const ended = new Promise((resolve) => this.socket.once("disconnect", resolve));
    return this.socket.connected ? bounded(ended, "the end") : Promise.resolve("is not connected");
  }

  tell(event, ...args) {
    this.socket.emit(event, ...args);
  }

  /** Emits with a callback: what that gets is returned. */
  ask(event, ...args) {
    return this.socket.timeout(WAIT_MS_MAX).emitWithAck(event, ...args);
  }

  /** As `ask`, and it must have been done. */
  async done(event, ...args) {
    const { ok, ...fields } = await this.ask(event, ...args);
    assert.equal(ok, true, `${event} ${JSON.stringify(args)}: ${JSON.stringify(fields)}`);
    return fields;
  }

  /** As `ask`, and it must have been refused: the error is returned. */
  async refusal(event, ...args) {
    const { ok, error, ...more } = await this.ask(event, ...args);
    assert.deepEqual([ok, more], [false, {}], `${event} ${JSON.stringify(args)}`);
    assert.ok(error.message.length > 0);
    return error;
  }

  /** The only argument of an event that was heard, but for the offset where there must be one. */
  body({ event, args }) {
    assert.equal(args.length, this.recovery ? 2 : 1, `arguments of ${event} for ${this.sub}: ${JSON.stringify(args).slice(0, 500)}`);
    if (this.recovery) assert.match(args[1], OFFSET, `the offset of ${event} for ${this.sub}`);
    return args[0];
  }

  /** Takes the bodies of an event, in the order heard, until `count` came or `isLast` says so of one. */
  async take(event, count = 1, isLast = (_, taken) => taken === count) {
    const taken = [];
    const bodies = new Promise((resolve) => {
      const look = () => {
        for (let at; (at = this.log.findIndex((heard) => heard.event === event)) >= 0; ) {
          const body = this.body(...this.log.splice(at, 1));
          taken.push(body);
          if (isLast(body, taken.length)) {
            this.waiting.delete(look);
            return resolve(taken);
          }
        }
      };
      this.waiting.add(look);
      look();
    });
    const heard = () => `${event} for ${this.sub}, after ${JSON.stringify(taken).slice(0, 2_000)} and ${JSON.stringify(this.log).slice(0, 2_000)}`;
    return bounded(bodies, heard);
  }

  /** Waits until `isEnough`, which is asked after every event, says so. */
  until(isEnough, what) {
    const enough = new Promise((resolve) => {
      const look = () => {
        if (!isEnough()) return;
        this.waiting.delete(look);
        resolve();
      };
      this.waiting.add(look);
      look();
    });
    return bounded(enough, what);
  }

  /** The next event of this name. */
  async next(event) {
    return (await this.take(event))[0];
  }

  /** Everything of this name that came and was not taken. */
  rest(event) {
    return this.log.filter((heard) => heard.event === event).map((heard) => this.body(heard));
  }

  close() {
    this.socket.disconnect();
  }
}

/** Asserts that `object` has these fields with these values, whatever else it has. */
export function holds(object, expected, what) {
  const named = Object.fromEntries(Object.keys(expected).map((field) => [field, object?.[field]]));
  assert.deepEqual(named, expected, `${what ?? "fields"} of ${JSON.stringify(object)}`);
}

/** For a describe: clients of a server that are closed when their test ends. */
export function clientsOf(serverOf) {
  const make = (t, options) => {
    const client = new SocketIo(serverOf(), options);
    t.after(() => client.close());
    return client;
  };
  const connected = (t, sub, path, options) => make(t, { sub, path, ...options }).connect();
  return {
    make,
    ring: (t, sub, options) => connected(t, sub, PATHS.ring, options),
    guide: (t, sub, options) => connected(t, sub, PATHS.guide, options),
    chordme: (t, sub, options) => connected(t, sub, PATHS.chordme, options),
  };
}
