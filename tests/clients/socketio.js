// The real socket.io-client in Node. It records events in their order, and every wait has a bound.
import { strict as assert } from "node:assert";
import { once } from "node:events";
import { io } from "socket.io-client";
import { startCarillon } from "./carillon.js";
import { secret, token } from "./tokens.js";

export const WAIT_MS_MAX = 8_000;
/** The sequences of transports that a client can be limited to. */
export const TRANSPORTS = { websocket: ["websocket"], polling: ["polling"], upgrade: ["polling", "websocket"] };
/** The path of each application's clients (docs/protocol.md#endpoints). */
export const PATHS = { ring: "/api/socket", guide: "/api/socket", chordme: "/socket.io/" };
export const RFC3339_MS = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
/** The last argument of every event for a client with recovery. */
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
   * Without `sub` the client has no token. With `recovery` the client requests recovery, unless `auth` is given, and
   * every event must end with an offset. Other options are those of socket.io-client.
   */
  constructor(server, { sub, name = sub, namespace = "", recovery = false, ...options }) {
    this.sub = sub;
    this.recovery = recovery;
    this.log = [];
    this.waiting = new Set();
    // `autoUnref` lets the process end even if a client still waits for its server.
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

  /** Connects. It rejects if the server refuses. */
  connect() {
    const connected = new Promise((resolve, reject) => {
      this.socket.once("connect", resolve);
      this.socket.once("connect_error", reject);
    });
    this.socket.connect();
    return bounded(connected, "connect").then(() => this);
  }

  /** Tries to connect. The server must refuse; the error is returned. */
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
   * Tries to connect. The server must close the connection without a CONNECT_ERROR, after which the library tries again
   * by itself. Returns the reason and the code of the close.
   */
  async turnedAway(waitMsMax = WAIT_MS_MAX) {
    const closed = new Promise((resolve, reject) => {
      this.socket.io.once("close", (reason, details) => resolve({ reason, code: details?.context?.code }));
      this.socket.once("connect", () => reject(new Error("it was let in")));
      // A transport error has no data and is not a refusal.
      this.socket.on("connect_error", (error) => error.data !== undefined && reject(error));
    });
    this.socket.connect();
    const how = await bounded(closed, "the end of the connection", waitMsMax);
    this.socket.removeAllListeners("connect");
    this.socket.removeAllListeners("connect_error");
    return how;
  }

  /** Waits until the client has upgraded from polling to a WebSocket. */
  async upgraded() {
    const { engine } = this.socket.io;
    if (engine.transport.name !== "websocket") await bounded(once(engine, "upgrade"), "the upgrade");
    assert.equal(this.transport, "websocket");
  }

  /** Waits for the end of the connection and returns its reason. */
  ended() {
    const ended = new Promise((resolve) => this.socket.once("disconnect", resolve));
    return this.socket.connected ? bounded(ended, "the end") : Promise.resolve("is not connected");
  }

  tell(event, ...args) {
    this.socket.emit(event, ...args);
  }

  /** Emits with a callback and returns the callback's argument. */
  ask(event, ...args) {
    return this.socket.timeout(WAIT_MS_MAX).emitWithAck(event, ...args);
  }

  /** As `ask`, but the answer must have `ok: true`. */
  async done(event, ...args) {
    const { ok, ...fields } = await this.ask(event, ...args);
    assert.equal(ok, true, `${event} ${JSON.stringify(args)}: ${JSON.stringify(fields)}`);
    return fields;
  }

  /** As `ask`, but the answer must have `ok: false`; the error is returned. */
  async refusal(event, ...args) {
    const { ok, error, ...more } = await this.ask(event, ...args);
    assert.deepEqual([ok, more], [false, {}], `${event} ${JSON.stringify(args)}`);
    assert.ok(error.message.length > 0);
    return error;
  }

  /** The only argument of a received event. With recovery the event must also have an offset, which is checked. */
  body({ event, args }) {
    assert.equal(args.length, this.recovery ? 2 : 1, `arguments of ${event} for ${this.sub}: ${JSON.stringify(args).slice(0, 500)}`);
    if (this.recovery) assert.match(args[1], OFFSET, `the offset of ${event} for ${this.sub}`);
    return args[0];
  }

  /** Takes the bodies of an event in order, until there are `count` of them or `isLast` is true for one. */
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

  /** Waits until `isEnough` returns true. It is called after every event. */
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

  /** The bodies of all received events of this name that were not taken. */
  rest(event) {
    return this.log.filter((heard) => heard.event === event).map((heard) => this.body(heard));
  }

  close() {
    this.socket.disconnect();
  }
}

/** Asserts that `object` has these fields with these values. It may have other fields. */
export function holds(object, expected, what) {
  const named = Object.fromEntries(Object.keys(expected).map((field) => [field, object?.[field]]));
  assert.deepEqual(named, expected, `${what ?? "fields"} of ${JSON.stringify(object)}`);
}

/** Factories of clients for a describe block. The clients are closed when their test ends. */
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
