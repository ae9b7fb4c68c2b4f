// ChordMe's vocabulary (docs/protocol.md#chordme) with the real socket.io-client: a token after connecting, rooms,
// broadcasts, cursors.
import { strict as assert } from "node:assert";
import { after, before, describe, test } from "node:test";
import { binary, needs } from "./carillon.js";
import { bounded, clientsOf, holds, PATHS, startServer, TRANSPORTS } from "./socketio.js";
import { expired, forged, token } from "./tokens.js";

const limited = { timeout: 30_000 };

describe("a ChordMe client", { timeout: 90_000, ...needs(binary) }, () => {
  let server;
  const { make, chordme } = clientsOf(() => server);
  before(async () => (server = await startServer()));
  after(() => server?.stop());

  /** A client that connects without a token and then authenticates. */
  const member = async (t, sub, options) => {
    const client = await make(t, { path: PATHS.chordme, ...options }).connect();
    client.sub = sub;
    client.tell("authenticate", { token: token(sub) });
    await client.next("authenticated");
    return client;
  };
  const join = async (client, room_id, participant_count) => {
    client.tell("join_room", { room_id });
    assert.deepEqual(await client.next("room_joined"), { room_id, participant_count });
  };

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    test(`connects without a token and authenticates over ${name}`, limited, async (t) => {
      const client = await make(t, { path: PATHS.chordme, transports }).connect();
      assert.equal(typeof (await client.next("connected")).message, "string");
      for (const [event, argument] of [["join_room", { room_id: "early" }], ["ping", {}], ["send_message", { conversationId: "early", content: "x" }]]) {
        client.tell(event, argument);
        assert.equal(typeof (await client.next("auth_error")).message, "string", event);
      }
      for (const refused of ["nonsense", forged("carol"), expired("carol")]) {
        client.tell("authenticate", { token: refused });
        assert.equal(typeof (await client.next("auth_error")).message, "string");
      }
      client.tell("authenticate", {});
      await client.next("auth_error");
      client.tell("authenticate", { token: token("carol") });
      holds(await client.next("authenticated"), { user_id: "carol" });
      await join(client, `early-${name}`, 1);
      assert.deepEqual([...client.rest("auth_error"), ...client.rest("error")], []);
    });
  }

  test("the token may be bare or have the prefix `Bearer`, in the event or in the handshake", limited, async (t) => {
    for (const argument of [{ token: token("dave") }, { token: `Bearer ${token("dave")}` }, token("dave"), `Bearer ${token("dave")}`]) {
      const client = await make(t, { path: PATHS.chordme }).connect();
      client.tell("authenticate", argument);
      holds(await client.next("authenticated"), { user_id: "dave" });
      client.close();
    }
    const client = await chordme(t, "dave");
    await client.next("connected");
    holds(await client.next("authenticated"), { user_id: "dave" });
    await join(client, "handshake", 1);
    const refused = make(t, { path: PATHS.chordme });
    refused.socket.auth = { token: forged("dave") };
    assert.equal((await refused.refused()).data.code, "unauthorized");
  });

  test("the callback of authenticate also gets its outcome", limited, async (t) => {
    const client = await make(t, { path: PATHS.chordme }).connect();
    assert.equal((await client.refusal("join_room", { room_id: "callbacks" })).code, "unauthorized");
    await client.next("auth_error");
    holds(await client.done("authenticate", { token: token("erin") }), { user_id: "erin" });
    holds(await client.done("join_room", { room_id: "callbacks" }), { room_id: "callbacks", participant_count: 1 });
  });

  test("a broadcast of any JSON reaches the other members of the room", limited, async (t) => {
    const [alice, bob, carol] = [await member(t, "alice.room"), await member(t, "bob.room"), await member(t, "carol.room")];
    for (const [index, one] of [alice, bob, carol].entries()) await join(one, "room", index + 1);
    const messages = ["text", { nested: { chords: ["Am", "F♯"] }, n: 1.5 }, ["list"], 7, true, ""];
    for (const message of messages) alice.tell("broadcast_message", { room_id: "room", message });
    for (const other of [bob, carol]) {
      for (const [index, { user_id, message, timestamp }] of (await other.take("room_message", messages.length)).entries()) {
        assert.deepEqual([user_id, message], ["alice.room", messages[index]]);
        assert.ok(Number.isInteger(timestamp) && Math.abs(timestamp - Date.now()) < 60_000);
      }
    }
    bob.tell("broadcast_message", { room_id: "room", message: "marker" });
    assert.equal((await carol.next("room_message")).message, "marker");
    assert.deepEqual((await alice.take("room_message")).map(({ message }) => message), ["marker"], "the sender heard itself");
    alice.tell("broadcast_message", { room_id: "room", message: "x".repeat(10 * 1024 + 1) });
    assert.equal(typeof (await alice.next("error")).message, "string", "10 KB at most");
    alice.tell("broadcast_message", { room_id: "not-joined", message: "x" });
    assert.equal(typeof (await alice.next("error")).message, "string", "only where one is");
  });

  test("cursor moves reach the other members, and the last one always does", limited, async (t) => {
    const [alice, bob] = [await member(t, "alice.cursor"), await member(t, "bob.cursor")];
    for (const [index, one] of [alice, bob].entries()) await join(one, "cursor", index + 1);
    for (let line = 1; line <= 10; line += 1) alice.tell("cursor_update", { room_id: "cursor", position: { line, column: 0 } });
    const moves = await bob.take("cursor_moved", 0, ({ position }) => position.line === 10);
    const lines = moves.map(({ position }) => position.line);
    assert.deepEqual(lines, [...new Set(lines)].sort((a, b) => a - b));
    for (const { user_id, timestamp } of moves) assert.deepEqual([user_id, typeof timestamp], ["alice.cursor", "number"]);
    bob.tell("broadcast_message", { room_id: "cursor", message: "marker" });
    await alice.next("room_message");
    assert.deepEqual(alice.rest("cursor_moved"), []);
  });

  test("a client that left a room gets none of its broadcasts", limited, async (t) => {
    const [alice, bob] = [await member(t, "alice.left"), await member(t, "bob.left")];
    for (const [index, one] of [alice, bob].entries()) {
      await join(one, "left", index + 1);
      await join(one, "kept", index + 1);
    }
    bob.tell("leave_room", { room_id: "left" });
    assert.deepEqual(await bob.next("room_left"), { room_id: "left" });
    alice.tell("broadcast_message", { room_id: "left", message: "not for Bob" });
    alice.tell("broadcast_message", { room_id: "kept", message: "marker" });
    assert.equal((await bob.next("room_message")).message, "marker");
  });

  test("the other members get user_joined and user_left with the number of participants", limited, async (t) => {
    const room_id = "doors";
    const [alice, bob] = [await member(t, "alice.doors"), await member(t, "bob.doors")];
    await join(alice, room_id, 1);
    await join(bob, room_id, 2);
    assert.deepEqual(await alice.next("user_joined"), { user_id: "bob.doors", room_id, participant_count: 2 });
    // The join and the leave of a user's second connection cause no events.
    const again = await member(t, "bob.doors");
    await join(again, room_id, 2);
    bob.tell("leave_room", { room_id });
    await bob.next("room_left");
    const carol = await member(t, "carol.doors");
    await join(carol, room_id, 3);
    assert.deepEqual(await alice.next("user_joined"), { user_id: "carol.doors", room_id, participant_count: 3 });
    assert.deepEqual(alice.rest("user_left"), [], "one of two connections left");
    again.tell("leave_room", { room_id });
    await again.next("room_left");
    for (const other of [alice, carol]) {
      assert.deepEqual(await other.next("user_left"), { user_id: "bob.doors", room_id, participant_count: 2 });
    }
    carol.close();
    assert.deepEqual(await alice.next("user_left"), { user_id: "carol.doors", room_id, participant_count: 1 });
    for (const one of [alice, carol]) assert.deepEqual(one.rest("user_joined"), [], "of oneself");
  });

  test("the answer to a ping has the time in milliseconds", limited, async (t) => {
    const alice = await member(t, "alice.ping");
    alice.tell("ping", {});
    assert.ok(Math.abs((await alice.next("pong")).timestamp - Date.now()) < 60_000);
  });

  test("a client that does not authenticate is closed after ten seconds", limited, async (t) => {
    const client = await make(t, { path: PATHS.chordme, reconnection: false }).connect();
    const connectedMs = Date.now();
    const reason = await bounded(new Promise((resolve) => client.socket.once("disconnect", resolve)), "the end", 15_000);
    assert.equal(reason, "transport close");
    assert.ok(Date.now() - connectedMs > 9_000, "it was hurried");
    assert.equal(client.rest("connection_error")[0]?.code, "unauthorized");
  });
});
