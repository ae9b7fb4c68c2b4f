// The server is stopped or killed and started again: real clients reconnect by themselves, and receive every message
// once.
import { strict as assert } from "node:assert";
import { rmSync } from "node:fs";
import { describe, test } from "node:test";
import { binary, needs, startCarillon } from "./carillon.js";
import { bounded, PATHS, SocketIo, startServer, TRANSPORTS } from "./socketio.js";

const limited = { timeout: 50_000 };
const ENDS = {
  "stopped by SIGTERM": (server) => server.stop({ keepData: true }),
  "killed by SIGKILL": (server) => server.kill(),
};
// socket.io-client reconnects after 1 s ± 50 %, and doubles that time with every attempt.
const RECONNECT_MS_MAX = 15_000;
const conversationId = "restart";
const numbered = (count, what) => Array.from({ length: count }, (_, index) => `${what}-${index + 1}`);

/**
 * Does what an application without recovery has to do to miss nothing: it joins at every connect, from its last seq.
 */
async function follow(client) {
  client.messages = [];
  client.reasons = [];
  client.joins = [];
  client.socket.on("message_received", (message) => client.messages.push(message));
  client.socket.on("disconnect", (reason) => client.reasons.push(reason));
  client.socket.on("connect", () => {
    const afterSeq = client.messages.at(-1)?.seq ?? 0;
    client.joins.push(client.ask("join_conversation", { conversationId, afterSeq }));
  });
  await client.connect();
  await client.joins[0];
}

/** Sends all contents at once, and sends those that are not acknowledged again at the next connect. */
function insist(client, contents) {
  const unanswered = new Map();
  const send = (content) =>
    client.socket.emit("send_message", { conversationId, content, clientId: content }, (ack) => {
      unanswered.get(content)?.(ack);
      unanswered.delete(content);
    });
  client.socket.on("connect", () => [...unanswered.keys()].forEach(send));
  return contents.map((content) => {
    const answer = new Promise((resolve) => unanswered.set(content, resolve));
    send(content);
    return answer;
  });
}

/** Asserts that a client received each acknowledged message once, in order, over two connections. */
async function heardEverything(client, acks) {
  await client.take("message_received", 0, ({ content }) => content === "marker");
  const idBySeq = new Map(acks.map(({ seq, id }) => [seq, id]));
  assert.equal(idBySeq.size, acks.length, "a seq was given twice");
  const { messages, joins, reasons, sub } = client;
  assert.deepEqual(messages.map(({ seq }) => seq), acks.map((_, index) => index + 1), sub);
  assert.deepEqual(messages.map(({ id }) => id), messages.map(({ seq }) => idBySeq.get(seq)), sub);
  assert.equal(new Set(messages.map(({ content }) => content)).size, acks.length, sub);
  for (const { ok } of await Promise.all(joins)) assert.equal(ok, true, sub);
  assert.equal(joins.length, 2, `${sub} was connected ${joins.length} times`);
  // After any other reason the library would not reconnect by itself.
  for (const reason of reasons) assert.match(reason, /^transport (close|error)$/, sub);
}

for (const [how, end] of Object.entries(ENDS)) {
  describe(`a server that is ${how} and comes back`, { timeout: 60_000, ...needs(binary) }, () => {
    test("its clients reconnect by themselves and receive every message once, in order", limited, async (t) => {
      let server = await startServer({ CARILLON_LIMITS__MESSAGES_PER_MINUTE: "0" });
      const clients = [];
      const make = (sub, options) => {
        clients.push(new SocketIo(server, { sub, path: PATHS.ring, ...options }));
        return clients.at(-1);
      };
      t.after(async () => {
        for (const client of clients) client.close();
        await server.kill();
        rmSync(server.dataDir, { recursive: true, force: true });
      });
      for (const [name, transports] of Object.entries(TRANSPORTS)) await follow(make(`follower-${name}`, { transports }));
      // This client uses the library's own retries, which send one message after another.
      const patient = make("patient", { retries: 10, ackTimeout: 2_000 });
      await follow(patient);
      const hurried = make("hurried");
      await follow(hurried);
      const followers = [...clients];
      const say = (content) => patient.socket.emitWithAck("send_message", { conversationId, content, clientId: content });

      const acks = [];
      for (const content of numbered(10, "before")) acks.push(await say(content));
      // These messages are in flight when the server ends. They may be acknowledged before or after it, but never be
      // lost.
      const during = [...numbered(10, "during").map(say), ...insist(hurried, numbered(30, "hurried"))];
      await followers[0].next("message_received");
      const gone = followers.map((client) => client.ended());
      await end(server);
      await Promise.all(gone);
      during.push(...numbered(5, "while-away").map(say));
      const back = followers.map((client) => {
        const connected = new Promise((resolve) => client.socket.once("connect", resolve));
        return bounded(connected, `${client.sub} again`, RECONNECT_MS_MAX);
      });
      server = await startCarillon(server);
      // These messages are sent before most of the followers have reconnected.
      const early = await make("early").connect();
      for (const content of numbered(5, "early")) acks.push(await early.ask("send_message", { conversationId, content }));
      await Promise.all(back);
      acks.push(...(await bounded(Promise.all(during), "all acknowledgements", RECONNECT_MS_MAX)));
      acks.push(await say("marker"));

      assert.deepEqual(acks.filter(({ ok }) => !ok), []);
      assert.equal(acks.length, 61);
      for (const client of followers) await heardEverything(client, acks);
    });
  });
}
