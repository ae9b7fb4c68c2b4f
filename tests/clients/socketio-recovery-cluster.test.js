// The gateway that holds a session is killed, and the unmodified client recovers the session on another gateway: it is
// in all conversations that it had joined, and receives exactly the messages that it missed
// (docs/protocol.md#recovery).
import { strict as assert } from "node:assert";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { needsCluster, startCluster } from "./cluster.js";
import { startRoundRobinProxy } from "./round-robin-proxy.js";
import { bounded, PATHS, SocketIo, TRANSPORTS } from "./socketio.js";
import { token } from "./tokens.js";

const limited = { timeout: 120_000 };
const CONVERSATIONS = ["first", "second", "third"];
const CLIENTS_PER_TRANSPORT = 3;
// A gateway that passes a poll on waits up to 5 s for the answer of a killed gateway.
const BACK_MS_MAX = 30_000;
const TALK_EVERY_MS = 4;

/** A client that requests recovery and does nothing else about lost connections. */
async function recovering(proxy, sub, transports, conversations) {
  const client = new SocketIo(proxy, { sub, path: PATHS.ring, transports, reconnectionDelay: 200, reconnectionDelayMax: 500 });
  client.socket.auth = { token: token(sub, { name: sub }), recovery: true };
  Object.assign(client, { heard: new Map(conversations.map((id) => [id, []])), connects: [] });
  client.socket.on("message_received", ({ conversationId, seq, content }, offset, ...more) => {
    assert.deepEqual([typeof offset, more], ["string", []]);
    client.heard.get(conversationId).push({ seq, content });
  });
  client.socket.on("connect", () => client.connects.push({ recovered: client.socket.recovered, id: client.socket.id }));
  await client.connect();
  client.from = new Map();
  for (const conversationId of conversations) {
    const { headSeq } = await client.done("join_conversation", { conversationId });
    client.from.set(conversationId, headSeq);
  }
  return client;
}

/** Keeps sending messages to all conversations, from a gateway that is not killed. Returns a function that stops it. */
function talk(t, speaker, conversations) {
  const acks = [];
  let count = 0;
  const timer = setInterval(() => {
    const conversationId = conversations[count % conversations.length];
    count += 1;
    acks.push(speaker.done("send_message", { conversationId, content: `${count}`, clientId: `${speaker.sub}-${count}` }));
  }, TALK_EVERY_MS);
  t.after(() => clearInterval(timer));
  return async () => {
    clearInterval(timer);
    return Promise.all(acks);
  };
}

const back = (client, connects) =>
  bounded(
    (async () => {
      while (client.connects.length < connects) await sleep(10);
    })(),
    () => `${client.sub} comes back (${JSON.stringify(client.connects)})`,
    BACK_MS_MAX,
  );

/** Asserts that each client received each conversation from its join to the last message, once and in order. */
async function heardAll(clients, heads) {
  for (const client of clients) {
    for (const [conversationId, heard] of client.heard) {
      const expected = [];
      for (let seq = client.from.get(conversationId) + 1; seq <= heads.get(conversationId); seq += 1) expected.push(seq);
      const wait = (async () => {
        while (heard.length < expected.length) await sleep(10);
      })();
      await bounded(wait, () => `${client.sub} hears ${conversationId}: ${heard.length} of ${expected.length}`);
      assert.deepEqual(heard.map(({ seq }) => seq), expected, `${client.sub} in ${conversationId}`);
    }
  }
}

function headsOf(acks) {
  const heads = new Map();
  for (const { conversationId, seq } of acks) heads.set(conversationId, Math.max(seq, heads.get(conversationId) ?? 0));
  return heads;
}

/** Conversations of one test, with its name, so that tests on the same cluster do not share any. */
const ofTest = (name) => CONVERSATIONS.map((conversation) => `${name}-${conversation}`);

describe("recovery without the gateway", { ...needsCluster(), ...limited }, () => {
  let cluster;
  const environment = { CARILLON_LIMITS__MESSAGES_PER_MINUTE: "0" };
  before(async () => (cluster = await startCluster({ gateways: 3, environment })));
  after(() => cluster?.stop());

  test("every client of a killed gateway recovers its session on another one", limited, async (t) => {
    const proxy = await startRoundRobinProxy(cluster.gateways.map(({ url }) => url));
    const conversations = ofTest("killed");
    const speaker = await new SocketIo(cluster.gateways[2], { sub: "speaker", path: PATHS.ring, transports: ["websocket"] }).connect();
    try {
      const clients = [];
      for (const transports of Object.values(TRANSPORTS)) {
        for (let index = 0; index < CLIENTS_PER_TRANSPORT; index += 1) {
          // One of the two users has the greatest number of connections allowed, and its dead connections still count.
          clients.push(await recovering(proxy, `user-${clients.length % 2}`, transports, conversations));
        }
      }
      const stop = talk(t, speaker, conversations);
      await sleep(300);
      await cluster.gateways[0].kill();
      await sleep(1_500);
      await cluster.gateways[1].kill();
      await sleep(1_000);
      const acks = await stop();
      // Two of three gateways are gone. Each client that was not on the third must have reconnected at least once.
      for (const client of clients) if (!client.socket.connected) await back(client, client.connects.length + 1);
      const last = await Promise.all(
        conversations.map((conversationId) => speaker.done("send_message", { conversationId, content: "last" })),
      );
      await heardAll(clients, headsOf([...acks, ...last]));
      const returned = clients.filter(({ connects }) => connects.length > 1);
      assert.ok(returned.length >= CLIENTS_PER_TRANSPORT, `${returned.length} came back`);
      for (const { sub, connects } of returned) {
        assert.ok(connects.slice(1).every(({ recovered }) => recovered), `${sub}: ${JSON.stringify(connects)}`);
        assert.equal(new Set(connects.map(({ id }) => id)).size, 1, `${sub} has its id`);
      }
      for (const client of clients) {
        const { seq } = await client.done("send_message", { conversationId: conversations[0], content: "and I speak" });
        assert.ok(seq > 0);
        client.socket.disconnect();
      }
    } finally {
      speaker.socket.disconnect();
      await proxy.close();
    }
  });

  test("every gateway of the clients is killed, and they recover their sessions on a new one", limited, async () => {
    const survivors = [await cluster.startRole("gateway", "--listen")];
    const doomed = [await cluster.startRole("gateway", "--listen"), await cluster.startRole("gateway", "--listen")];
    const proxy = await startRoundRobinProxy(doomed.map(({ url }) => url));
    const conversations = ofTest("all");
    try {
      const clients = [];
      for (const [name, transports] of Object.entries(TRANSPORTS)) {
        clients.push(await recovering(proxy, `all-${name}`, transports, conversations));
      }
      const speaker = await new SocketIo(survivors[0], { sub: "late", path: PATHS.ring, transports: ["websocket"] }).connect();
      const acks = await Promise.all(
        conversations.map((conversationId) => speaker.done("send_message", { conversationId, content: "before" })),
      );
      await Promise.all(doomed.map((gateway) => gateway.kill()));
      const replacement = await cluster.startRole("gateway", "--listen");
      for (let count = 0; count < 30; count += 1) {
        const conversationId = conversations[count % conversations.length];
        acks.push(await speaker.done("send_message", { conversationId, content: `missed ${count}` }));
      }
      // Wait longer than the presence-worker waits for a silent gateway, so that it has removed the killed ones.
      await sleep(5_000);
      proxy.servers.splice(0, proxy.servers.length, new URL(replacement.url));
      for (const client of clients) await back(client, 2);
      await heardAll(clients, headsOf(acks));
      for (const { sub, connects, socket } of clients) {
        assert.deepEqual(connects.map(({ recovered }) => recovered), [false, true], sub);
        assert.equal(connects[0].id, socket.id);
        socket.disconnect();
      }
      speaker.socket.disconnect();
    } finally {
      await proxy.close();
    }
  });
});
