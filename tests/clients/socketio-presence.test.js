// Presence under the access rule `participants`: which presence events the real socket.io-client gets, and when
// (docs/protocol.md#presence).
import { strict as assert } from "node:assert";
import { after, before, describe, test } from "node:test";
import { binary, needs } from "./carillon.js";
import { clientsOf, holds, startServer } from "./socketio.js";
import { token } from "./tokens.js";

const limited = { timeout: 30_000 };

describe("presence among participants", { timeout: 60_000, ...needs(binary) }, () => {
  let server;
  const { ring, guide, chordme } = clientsOf(() => server);
  before(async () => (server = await startServer({ CARILLON_ACCESS__DEFAULT: "participants" })));
  after(() => server?.stop());

  const post = async (sub, path, body) => {
    const headers = { authorization: `Bearer ${token(sub)}`, "content-type": "application/json" };
    const response = await fetch(`${server.url}${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    assert.ok(response.ok, await response.text());
  };
  const create = (sub, id, participants) => post(sub, "/api/conversations", { id, participants });
  /** The presence events that a client has received so far. It waits for those in flight by a ping. */
  const heardOf = async (client) => {
    await client.done("ping");
    return client.rest("presence_update").map(({ userId, isOnline }) => [userId, isOnline]);
  };

  // Before the fix, only native clients were told at connect which users were online.
  test("a Ring client gets one presence event at connect for each user who is online", limited, async (t) => {
    await create("ann.second", "second", ["ben.second", "away.second"]);
    const ann = await ring(t, "ann.second");
    const ben = await ring(t, "ben.second");
    holds(await ben.next("presence_update"), { userId: "ann.second", isOnline: true, status: "active" });
    holds(await ann.next("presence_update"), { userId: "ben.second", isOnline: true });
    await ben.done("join_conversation", "second");
    assert.deepEqual([await heardOf(ann), await heardOf(ben)], [[], []]);
  });

  test("on /socket.io/ these presence events come after the client's first event of Ring", limited, async (t) => {
    await create("ann.word", "word", ["ben.word", "cem.word"]);
    await ring(t, "ann.word");
    for (const [sub, speak] of [
      ["ben.word", (client) => client.done("join_conversation", "word")],
      ["cem.word", (client) => client.done("presence_update", { status: "dnd" })],
    ]) {
      const client = await chordme(t, sub);
      assert.deepEqual(await heardOf(client), [], "it has not spoken of presence");
      await speak(client);
      const heard = await heardOf(client);
      assert.ok(heard.some(([user, online]) => user === "ann.word" && online), JSON.stringify(heard));
      client.close();
    }
  });

  // Before the fix, clients of the guide got no presence events.
  test("clients of the guide get presence events in Ring's form", limited, async (t) => {
    await create("ann.guide", "guide", ["ben.guide"]);
    const ann = await guide(t, "ann.guide");
    await ann.done("subscribe", "conversation:guide");
    const ben = await guide(t, "ben.guide");
    await ben.done("subscribe", "conversation:guide");
    holds(await ann.next("presence_update"), { userId: "ben.guide", isOnline: true });
    holds(await ben.next("presence_update"), { userId: "ann.guide", isOnline: true });
    ben.close();
    holds(await ann.next("presence_update"), { userId: "ben.guide", isOnline: false });
  });

  // Before the fix, a conversation that was created while its participants were connected caused no presence events.
  test("a user who is added while connected sees the other participants and is seen at once", limited, async (t) => {
    const [ann, ben] = [await ring(t, "ann.invited"), await ring(t, "ben.invited")];
    await create("ann.invited", "invited", ["ben.invited"]);
    holds(await ann.next("presence_update"), { userId: "ben.invited", isOnline: true });
    holds(await ben.next("presence_update"), { userId: "ann.invited", isOnline: true });
    await ben.done("join_conversation", "invited");
    const cem = await chordme(t, "cem.invited");
    await post("ann.invited", "/api/conversations/invited/participants", { userIds: ["cem.invited"] });
    for (const client of [ann, ben]) holds(await client.next("presence_update"), { userId: "cem.invited", isOnline: true });
    assert.deepEqual(await heardOf(cem), [], "ChordMe has no word for it");
  });
});
