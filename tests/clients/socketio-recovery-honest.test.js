// Connection-state recovery (docs/protocol.md#recovery): how a client requests it, and in which cases it gets a new
// session instead.
import { strict as assert } from "node:assert";
import { randomBytes } from "node:crypto";
import { rmSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { binary, needs, startCarillon } from "./carillon.js";
import { heard, recoveringOf } from "./recovering.js";
import { PATHS, startServer, TRANSPORTS } from "./socketio.js";
import { expired, token } from "./tokens.js";

const limited = { timeout: 40_000 };
const unlimited = { CARILLON_LIMITS__MESSAGES_PER_MINUTE: "0" };

describe("connection-state recovery", { timeout: 180_000, ...needs(binary) }, () => {
  let server;
  const { make, recovering, talking } = recoveringOf(() => server);
  before(async () => (server = await startServer(unlimited)));
  after(() => server?.stop());

  /** Asserts that joining works: the client receives the messages sent from now on, and no others. */
  const joins = async (client, bob, conversationId) => {
    const said = (bob.said[conversationId] ?? []).length;
    client.log = [];
    await client.done("join_conversation", conversationId);
    await bob.sayAll([conversationId], 2);
    await heard(client, { [conversationId]: bob.said[conversationId].slice(said) });
  };
  /** Connects with the token and the fields of `auth`, such as `pid` and `offset`. */
  const returning = (t, sub, auth, options) => recovering(t, sub, { auth: { token: token(sub), recovery: true, ...auth }, ...options });
  const secretOf = ({ socket: { _pid: pid, _lastOffset: offset } }) => ({ pid, offset });

  describe("is requested", () => {
    let always;
    before(async () => (always = await startServer({ CARILLON_SOCKETIO__RECOVERY: "true" })));
    after(() => always?.stop());
    const plain = (sub) => ({ token: token(sub) });
    const ways = {
      "by auth.recovery": (sub) => ({ auth: { ...plain(sub), recovery: true } }),
      "by auth.recovery as a text": (sub) => ({ auth: { ...plain(sub), recovery: "1" } }),
      "by a function's auth": (sub) => ({ auth: (give) => give({ ...plain(sub), recovery: true }) }),
      "by the query": (sub) => ({ auth: plain(sub), query: { recovery: "1" } }),
      "by no client, with the setting": (sub) => ({ auth: plain(sub), server: always }),
    };
    for (const [how, options] of Object.entries(ways)) {
      for (const [name, transports] of Object.entries(TRANSPORTS)) {
        test(`${how}, over ${name}`, limited, async (t) => {
          for (const path of new Set(Object.values(PATHS))) {
            const alice = await recovering(t, "alice.asks", { path, transports, ...options("alice.asks") });
            assert.match(alice.socket._pid, /^[0-9a-f]{32}$/);
            assert.equal(alice.begun[0].recovered, false);
            await alice.done("join_conversation", "asked");
            await alice.interrupted();
            alice.wentOn();
            await alice.done("send_message", { conversationId: "asked", content: "asked/heard" });
            await heard(alice, { asked: ["asked/heard"] });
            alice.close();
          }
        });
      }
    }

    test("or is not active", limited, async (t) => {
      const others = { "nothing": {}, "false": { recovery: false }, "another text": { recovery: "no" }, "an object": { recovery: {} }, "null": { recovery: null } };
      for (const [what, auth] of Object.entries(others)) {
        for (const options of [{}, { query: { recovery: "0" } }]) {
          const alice = await make(t, { sub: "alice.plain", recovery: false, auth: { ...plain("alice.plain"), ...auth }, ...options }).connect();
          assert.equal(alice.socket._pid, undefined, what);
          await alice.done("join_conversation", "plain");
          await alice.done("send_message", { conversationId: "plain", content: "plain/heard" });
          await heard(alice, { plain: ["plain/heard"] });
          await alice.interrupted();
          assert.deepEqual(alice.begun.map(({ recovered, pid }) => [recovered, pid]), [[false, undefined], [false, undefined]]);
          assert.notEqual(alice.begun[0].id, alice.begun[1].id);
          alice.close();
        }
      }
    });
  });

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    test(`is refused after a disconnect over ${name}, although the library sends its old secret`, limited, async (t) => {
      const conversationId = `goodbye-${name}`;
      const bob = await talking(t, `bob.${conversationId}`);
      const alice = await recovering(t, `alice.${conversationId}`, { transports });
      await bob.done("join_room", { room_id: conversationId });
      await alice.done("join_conversation", conversationId);
      await bob.sayAll([conversationId], 3);
      await heard(alice, bob.said);
      const before = secretOf(alice);
      alice.close();
      // The library sends its disconnect packet in the background.
      await bob.next("user_left");
      const packets = [];
      alice.socket.io.once("open", () => alice.socket.io.engine.on("packetCreate", ({ type, data }) => packets.push([type, data])));
      await alice.connect();
      const [[type, data]] = packets.filter(([, text]) => text?.startsWith?.("0"));
      assert.deepEqual([type, JSON.parse(data.slice(1))], ["message", { ...before, ...alice.socket.auth }]);
      alice.beganAnew();
      await joins(alice, bob, conversationId);
      await alice.interrupted(() => bob.sayAll([conversationId], 2));
      await heard(alice, { [conversationId]: bob.said[conversationId].slice(3) });
    });
  }

  test("needs the session's user and its secret", limited, async (t) => {
    const bob = await talking(t, "bob.secret");
    const alice = await recovering(t, "alice.secret");
    await alice.done("join_conversation", "secret");
    await bob.sayAll(["secret"], 2);
    await heard(alice, bob.said);
    const { pid, offset } = secretOf(alice);
    const made = "0123456789abcdef0123456789abcdef";
    const others = [{ pid: made }, { pid: "" }, { pid: pid.slice(1) }, { pid: `${pid} ` }, { pid: pid.toUpperCase() }, { pid: 7 }, { pid: { pid } }, { pid: null }];
    for (const auth of [{ pid }, ...others]) {
      for (const sub of auth.pid === pid ? ["mallory.secret"] : ["mallory.secret", "alice.secret"]) {
        const other = await returning(t, sub, { offset, ...auth });
        assert.equal(other.begun[0].recovered, false, JSON.stringify(auth));
        assert.notEqual(other.socket._pid, pid);
        await bob.say("secret");
        await joins(other, bob, "else");
        assert.deepEqual(other.rest("message_received").filter(({ conversationId }) => conversationId === "secret"), []);
        other.close();
      }
      // A client with neither a token nor the secret has no identity.
      if (auth.pid !== pid) {
        const nobody = await make(t, { path: PATHS.chordme, auth: { recovery: true, offset, ...auth } }).connect();
        assert.equal((await nobody.refusal("join_room", { room_id: "secret" })).code, "unauthorized");
        nobody.close();
      }
    }
    const nobody = await make(t, { recovery: false, auth: { recovery: true, pid, offset } }).refused();
    assert.equal(nobody.data.code, "unauthorized", "Ring's path wants a token");
    await alice.interrupted(() => bob.say("secret"));
    alice.wentOn();
    await heard(alice, { secret: bob.said.secret });
  });

  test("is refused for an offset that the server never sent", limited, async (t) => {
    const bob = await talking(t, "bob.offsets");
    const alice = await recovering(t, "alice.offsets");
    for (const conversationId of ["offsets", "offsets-too"]) await alice.done("join_conversation", conversationId);
    await bob.sayAll(["offsets", "offsets-too"], 3);
    await heard(alice, bob.said);
    const { pid, offset } = secretOf(alice);
    const bytes = Buffer.from(offset, "base64url");
    const changed = (at, value) => Buffer.concat([bytes.subarray(0, at), Buffer.from([value]), bytes.subarray(at + 1)]).toString("base64url");
    const garbage = [
      "", "A", "AA", "AAA", "AAAA", "AAAAA", "AAAAAAAA", "AAAB", "AAEA", "AAIA", "AQAA", "AQIA", "AAAA=", "____", "{}", '"', "\u0000", "🔔".repeat(50),
      "A".repeat(16 * 1024), "A".repeat(16 * 1024 + 4), "_".repeat(20_000), `${offset}A`, `${offset}AAAA`, offset.slice(1), ` ${offset}`, `${offset}=`,
      changed(0, bytes[0] ^ 1), undefined, null, 7, true, [offset], { offset },
      ...Array.from({ length: 60 }, (_, length) => randomBytes(3 + length).toString("base64url")),
    ];
    for (const given of garbage) {
      const other = await returning(t, "alice.offsets", { pid, offset: given });
      assert.equal(other.begun[0].recovered, false, JSON.stringify(given)?.slice(0, 100));
      assert.notEqual(other.socket._pid, pid);
      if (garbage.indexOf(given) % 10 === 0) await joins(other, bob, "offsets");
      other.close();
    }
    // None of these attempts changed the session.
    await alice.interrupted(() => bob.sayAll(["offsets", "offsets-too"], 1));
    alice.wentOn();
    await heard(alice, bob.said);
  });

  test("is refused with an expired token, and works with a new one", limited, async (t) => {
    const bob = await talking(t, "bob.expired");
    const alice = await recovering(t, "alice.expired");
    await alice.done("join_conversation", "expired");
    await bob.sayAll(["expired"], 2);
    await heard(alice, bob.said);
    const { auth } = alice.socket;
    alice.socket.auth = { ...auth, token: expired("alice.expired") };
    const refusal = new Promise((resolve) => alice.socket.once("connect_error", resolve));
    const { length } = alice.log;
    alice.cut();
    await bob.sayAll(["expired"], 2);
    assert.equal((await refusal).data.code, "token_expired");
    await sleep(200);
    assert.deepEqual([alice.begun.length, alice.log.length, alice.socket.connected], [1, length, false]);
    alice.socket.auth = auth;
    await alice.connect();
    alice.wentOn();
    await heard(alice, bob.said);
  });
});

describe("recovery after a restart of a standalone server", { timeout: 60_000, ...needs(binary) }, () => {
  test("does not happen, the client sees that, and joining works", limited, async (t) => {
    let server = await startServer(unlimited);
    t.after(async () => {
      await server.kill();
      rmSync(server.dataDir, { recursive: true, force: true });
    });
    const { recovering, make, talking } = recoveringOf(() => server);
    const bob = await talking(t, "bob");
    const alices = await Promise.all(Object.entries(TRANSPORTS).map(([name, transports]) => recovering(t, `alice-${name}`, { transports })));
    const late = await make(t, { path: PATHS.chordme }).connect();
    await late.done("authenticate", { token: token("late") });
    for (const one of [...alices, late]) await one.done("join_conversation", "restart");
    await bob.sayAll(["restart"], 3);
    for (const one of [...alices, late]) await heard(one, bob.said);
    const back = [bob.ended(), ...[...alices, late].map((one) => one.back())];
    await server.stop({ keepData: true });
    server = await startCarillon(server);
    await Promise.all(back);
    for (const one of [...alices, late]) one.beganAnew();
    assert.equal((await late.refusal("join_room", { room_id: "restart" })).code, "unauthorized");
    await late.done("authenticate", { token: token("late") });
    if (!bob.socket.connected) await bob.connect();
    for (const one of [...alices, late]) {
      one.log = [];
      await one.done("join_conversation", { conversationId: "restart", afterSeq: 3 });
      await one.interrupted(() => bob.sayAll(["restart"], 2));
      one.begun.splice(0, 1);
      one.wentOn();
      await heard(one, { restart: bob.said.restart.slice(3) });
    }
  });
});
