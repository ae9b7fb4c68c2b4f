// The integration guide's vocabulary (docs/protocol.md#guide) with the real socket.io-client: channels, messages,
// typing, heartbeats.
import { strict as assert } from "node:assert";
import { after, before, describe, test } from "node:test";
import { binary, needs } from "./carillon.js";
import { clientsOf, holds, PATHS, RFC3339_MS, startServer } from "./socketio.js";

const limited = { timeout: 30_000 };

describe("a client of the integration guide", { timeout: 60_000, ...needs(binary) }, () => {
  let server;
  const { guide } = clientsOf(() => server);
  before(async () => (server = await startServer()));
  after(() => server?.stop());

  test("subscribes by a text and by an object, and receives messages", limited, async (t) => {
    const [alice, bob] = [await guide(t, "alice.guide", { name: "Alice" }), await guide(t, "bob.guide")];
    const conversationId = "guide";
    const joined = await alice.done("subscribe", `conversation:${conversationId}`);
    assert.deepEqual(joined, { conversationId, headSeq: 0, participantCount: 1 });
    holds(await bob.done("subscribe", { channel: `conversation:${conversationId}` }), { conversationId, participantCount: 2 });
    const before = Date.now();
    const ack = await alice.done("message:send", { conversationId, content: "hello", timestamp: "2001-01-01T00:00:00.000Z" });
    for (const member of [alice, bob]) {
      const { timestamp, ...message } = await member.next("message");
      assert.deepEqual(message, { id: ack.id, conversationId, seq: 1, senderId: "alice.guide", senderName: "Alice", content: "hello" });
      assert.match(timestamp, RFC3339_MS);
      assert.ok(Math.abs(Date.parse(timestamp) - before) < 60_000, "the client's clock counted");
    }
    // Send the same message twice without a callback, with one client id.
    for (let times = 0; times < 2; times += 1) bob.tell("message:send", { conversationId, content: "once", clientId: "k" });
    await bob.done("message:send", { conversationId, content: "marker" });
    for (const member of [alice, bob]) {
      assert.deepEqual((await member.take("message", 2)).map(({ content }) => content), ["once", "marker"]);
    }
  });

  test("typing reaches the other member, not the typist", limited, async (t) => {
    const [alice, bob] = [await guide(t, "alice.types"), await guide(t, "bob.types")];
    const conversationId = "types";
    for (const one of [alice, bob]) await one.done("subscribe", `conversation:${conversationId}`);
    for (const [event, isTyping] of [["typing:start", true], ["typing:stop", false]]) {
      alice.tell(event, { conversationId });
      assert.deepEqual(await bob.next("typing"), { conversationId, userId: "alice.types", isTyping });
    }
    await alice.done("message:send", { conversationId, content: "marker" });
    await alice.next("message");
    assert.deepEqual(alice.rest("typing"), []);
  });

  test("a ping is answered by a heartbeat and a pong", limited, async (t) => {
    for (const path of Object.values(PATHS)) {
      const alice = await guide(t, "alice.beats", { path });
      for (const args of [[], [{}], [{ timestamp: 7 }]]) {
        alice.tell("ping", ...args);
        for (const event of ["heartbeat", "pong"]) {
          const { timestamp, ...more } = await alice.next(event);
          assert.deepEqual(more, {});
          assert.ok(Math.abs(timestamp - Date.now()) < 60_000, `${timestamp} is no time in milliseconds`);
        }
      }
      alice.close();
    }
  });

  test("after unsubscribing no message arrives; a later subscription with afterSeq replays them", limited, async (t) => {
    const [alice, bob] = [await guide(t, "alice.away"), await guide(t, "bob.away")];
    for (const one of [alice, bob]) await one.done("subscribe", "conversation:away");
    await bob.done("subscribe", "conversation:away-too");
    await bob.done("unsubscribe", { channel: "conversation:away" });
    await alice.done("message:send", { conversationId: "away", content: "not for Bob" });
    await alice.done("message:send", { conversationId: "away-too", content: "marker" });
    assert.equal((await bob.next("message")).content, "marker");
    await bob.done("subscribe", { channel: "conversation:away", afterSeq: 0 });
    assert.equal((await bob.next("message")).content, "not for Bob");
    await bob.done("unsubscribe", "conversation:away");
  });

  test("events that are not supported yet get an error, and the connection stays open", limited, async (t) => {
    const alice = await guide(t, "alice.coded");
    for (const [event, argument] of [["subscribe", "user:notifications"], ["subscribe", { channel: "user:notifications" }], ["notifications:read", { ids: ["n"] }]]) {
      assert.equal((await alice.refusal(event, argument)).code, "invalid_payload");
      alice.tell(event, argument);
      assert.equal((await alice.next("error")).code, "invalid_payload");
    }
    await alice.done("subscribe", "conversation:coded");
  });
});
