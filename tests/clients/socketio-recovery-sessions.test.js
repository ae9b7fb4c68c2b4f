// Connection-state recovery (docs/protocol.md#recovery) with several sessions of one user: dead ones, the limit of
// connections, and sessions with long offsets.
import { strict as assert } from "node:assert";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { binary, needs } from "./carillon.js";
import { startCutProxy } from "./cut-proxy.js";
import { heard, recoveringOf } from "./recovering.js";
import { holds, PATHS, SocketIo, startServer, TRANSPORTS } from "./socketio.js";

const limited = { timeout: 50_000 };
/** Far fewer than a connection may join, and enough for a long offset. */
const CONVERSATIONS = 60;
/** The length of an offset, in characters, above which the server shortens it again. */
const OFFSET_LONG = 96;
/**
 * A client that answers no ping for 5 s, the sum of both, is gone. A client that has answered one has received
 * everything that was sent before the ping.
 */
const PINGS = { WEBSOCKET_PING_INTERVAL: "2", WEBSOCKET_PING_TIMEOUT: "3" };
const HEARD_WITHIN_MS = 5_000;

describe("a user's sessions that can be recovered", { timeout: 120_000, ...needs(binary) }, () => {
  let server;
  const { make, recovering, talking } = recoveringOf(() => server);
  before(async () => (server = await startServer({ CARILLON_LIMITS__MESSAGES_PER_MINUTE: "0" })));
  after(() => server?.stop());

  const proxied = async (t) => {
    const proxy = await startCutProxy(server.port);
    t.after(() => proxy.close());
    return proxy;
  };

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    test(`are limited to five; one recovers over ${name} while its old connection still counts`, limited, async (t) => {
      const sub = `crowd-${name}`;
      const proxy = await proxied(t);
      const lost = await recovering(t, sub, { transports: ["websocket"], server: proxy });
      const five = [lost];
      while (five.length < 5) five.push(await recovering(t, sub, { transports }));
      const refused = async (options) => {
        const sixth = make(t, { sub, transports, reconnection: false, ...options });
        await sixth.turnedAway();
      };
      await refused();
      await refused({ recovery: false, auth: { ...lost.socket.auth, pid: "0123456789abcdef0123456789abcdef", offset: "AAAA" } });
      await refused({ recovery: false, auth: { ...lost.socket.auth, recovery: false, pid: lost.socket._pid, offset: lost.socket._lastOffset } });
      const bob = await talking(t, `bob.${sub}`);
      await lost.done("join_conversation", sub);
      for (let round = 1; round <= 3; round += 1) await lost.interrupted(() => bob.sayAll([sub], 2), () => proxy.lose());
      lost.wentOn(3);
      await heard(lost, bob.said);
      for (const one of five) assert.ok(one.socket.connected);
      await refused();
    });
  }

  test("recover all at once, while the server still has their old connections", limited, async (t) => {
    const proxy = await proxied(t);
    const bob = await talking(t, "bob.tabs");
    const five = [];
    while (five.length < 5) five.push(await recovering(t, "tabs", { transports: TRANSPORTS.websocket, server: proxy }));
    for (const one of five) await one.done("join_conversation", "tabs");
    for (let round = 1; round <= 2; round += 1) {
      const back = five.map((one) => one.back());
      proxy.lose();
      await Promise.all([...back, bob.sayAll(["tabs"], 3)]);
    }
    for (const one of five) {
      one.wentOn(2);
      await heard(one, bob.said);
    }
  });

  test("have offsets of their own: an offset of an earlier session is refused in the next", limited, async (t) => {
    const proxy = await proxied(t);
    const bob = await talking(t, "bob.stale");
    const alice = await recovering(t, "alice.stale", { transports: TRANSPORTS.websocket, server: proxy });
    await bob.done("join_room", { room_id: "stale" });
    await alice.done("join_conversation", "stale");
    await bob.sayAll(["stale"], 10);
    await heard(alice, bob.said);
    const before = alice.socket._lastOffset;
    alice.close();
    await bob.next("user_left");
    // Alice gets her new secret and nothing else, but her join reaches the server.
    proxy.swallow(/"pid":"[0-9a-f]{32}"\}/);
    await alice.connect();
    alice.beganAnew();
    alice.tell("join_conversation", "stale");
    await bob.next("user_joined");
    assert.equal(alice.socket._lastOffset, before);
    await bob.sayAll(["stale"], 5);
    proxy.restore();
    alice.log = [];
    await alice.interrupted(async () => {}, () => proxy.lose());
    alice.beganAnew();
    await alice.done("join_conversation", { conversationId: "stale", afterSeq: 10 });
    await heard(alice, { stale: bob.said.stale.slice(10) });
  });

  test("end with a disconnect; the next session on the connection may be without recovery", limited, async (t) => {
    const alice = await recovering(t, "alice.twice");
    const { engine } = alice.socket.io;
    // The library keeps the connection open because another namespace is requested.
    alice.socket.io.socket("/nowhere").connect();
    alice.close();
    alice.log = [];
    alice.recovery = false;
    alice.socket.auth = { token: alice.socket.auth.token };
    await alice.connect();
    assert.equal(alice.socket.io.engine, engine);
    assert.equal(alice.socket._pid, undefined);
    await alice.done("join_conversation", "twice");
    await alice.done("send_message", { conversationId: "twice", content: "twice/heard" });
    await heard(alice, { twice: ["twice/heard"] });
  });
});

// These tests wait most of the time, so they run at the same time.
describe("recovery with short pings", { timeout: 120_000, concurrency: true, ...needs(binary) }, () => {
  let server;
  const { recovering, talking } = recoveringOf(() => server);
  before(async () => (server = await startServer({ CARILLON_LIMITS__MESSAGES_PER_MINUTE: "0", ...PINGS })));
  after(() => server?.stop());

  test("still works when the old connection has timed out, over every transport", limited, async (t) => {
    const goesOn = async ([name, transports]) => {
      const conversations = [`noticed-${name}`, `noticed-too-${name}`];
      const proxy = await startCutProxy(server.port);
      t.after(() => proxy.close());
      const bob = await talking(t, `bob.${name}`);
      const alice = await recovering(t, `alice.${name}`, { transports, server: proxy });
      for (const conversationId of conversations) await alice.done("join_conversation", conversationId);
      if (name === "upgrade") await alice.upgraded();
      alice.socket.on("disconnect", () => proxy.restore());
      // The server's bytes are dropped until the client notices that pings are missing.
      const ended = alice.ended();
      proxy.swallow();
      await bob.sayAll(conversations, 2);
      assert.match(await ended, /^(ping timeout|transport (close|error))$/);
      await alice.back();
      await bob.sayAll(conversations, 2);
      await sleep(HEARD_WITHIN_MS + 1_000);
      await bob.sayAll(conversations, 2);
      await alice.interrupted(() => bob.sayAll(conversations, 2));
      alice.wentOn(2);
      await heard(alice, bob.said);
    };
    await Promise.all(Object.entries(TRANSPORTS).map(goesOn));
  });

  test("has a record to which a dead old connection does not write", limited, async (t) => {
    const conversations = Array.from({ length: CONVERSATIONS }, (_, index) => `many-${index}`);
    const proxy = await startCutProxy(server.port);
    t.after(() => proxy.close());
    const bob = await talking(t, "bob.many");
    const sinceMs = Date.now();
    const alice = await recovering(t, "alice.many", { transports: TRANSPORTS.websocket, server: proxy });
    for (const conversationId of conversations) await alice.done("join_conversation", conversationId);
    await bob.sayAll(conversations, 2);
    await heard(alice, bob.said);
    assert.ok(alice.socket._lastOffset.length > OFFSET_LONG, "its offsets are long, and begin anew soon");
    assert.ok(Date.now() - sinceMs < HEARD_WITHIN_MS - 500, "too slow a machine for this");
    await sleep(HEARD_WITHIN_MS - 500 - (Date.now() - sinceMs));
    await alice.interrupted(async () => {}, () => proxy.lose());
    await bob.sayAll(conversations, 1);
    await heard(alice, bob.said);
    // Wait until a ping of the old connection would have started new offsets, if that connection still owned the
    // record.
    await sleep(HEARD_WITHIN_MS + 2_500 - (Date.now() - sinceMs));
    await bob.sayAll(conversations, 1);
    await heard(alice, bob.said);
    await alice.interrupted(() => bob.sayAll(conversations, 1));
    alice.wentOn(2);
    await heard(alice, bob.said);
  });

  test("starts new, short offsets from time to time, and loses nothing", limited, async (t) => {
    const conversations = Array.from({ length: CONVERSATIONS }, (_, index) => `long-${index}`);
    const bob = await talking(t, "bob.long");
    const alice = await recovering(t, "alice.long");
    for (const conversationId of conversations) await alice.done("join_conversation", conversationId);
    for (let round = 1; round <= 2; round += 1) {
      await bob.sayAll(conversations, 1);
      await heard(alice, bob.said);
      assert.ok(alice.socket._lastOffset.length > OFFSET_LONG, `${alice.socket._lastOffset} of round ${round}`);
      // Meanwhile Alice has answered a ping, so the server knows that she has received everything sent before it.
      await sleep(HEARD_WITHIN_MS + 2_500);
      await bob.sayAll(conversations.slice(0, 1), 1);
      await heard(alice, bob.said);
      assert.ok(alice.socket._lastOffset.length < OFFSET_LONG, `${alice.socket._lastOffset} of round ${round}`);
      await alice.interrupted(() => bob.sayAll(conversations, 1));
    }
    alice.wentOn(2);
    await heard(alice, bob.said);
  });
});

describe("a session that is too large to be recovered", { timeout: 60_000, ...needs(binary) }, () => {
  let server;
  const { recovering, talking } = recoveringOf(() => server);
  before(async () => (server = await startServer({ CARILLON_LIMITS__MESSAGES_PER_MINUTE: "0", ...PINGS })));
  after(() => server?.stop());

  test("works as a session without recovery, and does not disturb other sessions", limited, async (t) => {
    // Two bases with this many conversations exceed the size limit of a record.
    const conversations = Array.from({ length: 1_000 }, (_, index) => `${index}.`.padEnd(128, "x"));
    const bob = await talking(t, "bob.large");
    const alice = await recovering(t, "alice.large", { transports: TRANSPORTS.websocket });
    await Promise.all(conversations.map((conversationId) => alice.done("join_conversation", conversationId)));
    await bob.sayAll(conversations, 1);
    await alice.until(() => alice.rest("message_received").length === conversations.length, "all of them");
    const ended = alice.ended().catch(() => "lives");
    // Every event makes the session try to start new offsets.
    for (let second = 0; second < 7; second += 1) {
      await sleep(1_000);
      await bob.say(conversations[second]);
    }
    assert.equal(await ended, "lives");
    await alice.until(() => alice.rest("message_received").length === conversations.length + 7, "what was said since");
    const anew = await new SocketIo(server, { sub: "carol.large", path: PATHS.ring }).connect();
    await anew.done("join_conversation", conversations[0]);
    anew.close();
  });
});
