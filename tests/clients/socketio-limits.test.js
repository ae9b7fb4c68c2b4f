// The limits (docs/protocol.md#limits) with the real socket.io-client: connections, sizes, rates, attachments, bursts,
// silence.
import { strict as assert } from "node:assert";
import { after, before, describe, test } from "node:test";
import { binary, needs } from "./carillon.js";
import { spawn } from "node:child_process";
import { bounded, clientsOf, holds, PATHS, startServer, TRANSPORTS } from "./socketio.js";
import { token } from "./tokens.js";

const limited = { timeout: 30_000 };
// The library's reasons for a disconnect after the server has closed the connection, over a WebSocket and by polling.
const DROPPED = /^transport (close|error)$/;
const numbered = (count) => Array.from({ length: count }, (_, index) => `message ${index + 1}`);

/** A separate process with connections. SIGSTOP makes them dead without closing them. */
async function frozen(t, server, sub, transports) {
  const program = `
    import { SocketIo, PATHS } from ${JSON.stringify(new URL("./socketio.js", import.meta.url).href)};
    const { url, sub, transports } = ${JSON.stringify({ url: server.url, sub, transports })};
    process.stdin.on("data", async () => {
      await new SocketIo({ url }, { sub, path: PATHS.ring, transports, autoUnref: false }).connect();
      console.log("connected");
    });`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", program], { stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const connects = () => {
    const connected = new Promise((resolve) => child.stdout.once("data", resolve));
    child.stdin.write("one\n");
    return bounded(connected, "a connection of the phone");
  };
  return { connects, freeze: () => child.kill("SIGSTOP") };
}

describe("limits for Socket.IO clients", { timeout: 60_000, ...needs(binary) }, () => {
  let server;
  const { make, ring, chordme } = clientsOf(() => server);
  before(async () => (server = await startServer()));
  after(() => server?.stop());

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    test(`a user's sixth connection over ${name} is closed, and retries until another one ends`, limited, async (t) => {
      const sub = `crowd-${name}`;
      const five = [];
      while (five.length < 5) five.push(await ring(t, sub, { transports }));
      const sixth = make(t, { sub, path: PATHS.ring, transports });
      const { reason, code } = await sixth.turnedAway();
      assert.match(reason, DROPPED);
      if (name === "websocket") assert.equal(code, 1008);
      for (const one of five) await one.done("join_conversation", "crowd");
      assert.ok(sixth.socket.active, "it tries again");
      const back = new Promise((resolve) => sixth.socket.once("connect", resolve));
      five[0].close();
      await bounded(back, "the sixth's coming back by itself", 20_000);
      await sixth.done("join_conversation", "crowd");
    });
  }

  // Before the fix, five dead connections kept their user out until all had timed out, and a refused client did not
  // reconnect.
  for (const [name, transports] of Object.entries({ websocket: TRANSPORTS.websocket, polling: TRANSPORTS.polling })) {
    test(`a user with five dead connections over ${name} can connect within five seconds`, limited, async (t) => {
      const sub = `dead-${name}`;
      const phone = await frozen(t, server, sub, transports);
      for (let count = 1; count <= 5; count += 1) await phone.connects();
      phone.freeze();
      const began = Date.now();
      const back = make(t, { sub, path: PATHS.ring, transports });
      await new Promise((resolve) => back.socket.once("connect", resolve).connect());
      assert.ok(Date.now() - began < 5_000, `after ${Date.now() - began} ms`);
      await back.done("join_conversation", sub);
    });
  }

  test("a client notices a refusal at any time, even during the upgrade to a WebSocket", limited, async (t) => {
    const sub = "refused-often";
    for (let count = 0; count < 5; count += 1) await ring(t, sub, { transports: TRANSPORTS.websocket });
    // With the library's default transports. Reconnection is off, because a second attempt could notice what the first
    // one missed. The attempts run one after another, so that the refusal comes at different moments of the upgrade.
    for (let count = 1; count <= 5; count += 1) {
      const { reason } = await make(t, { sub, path: PATHS.ring, reconnection: false }).turnedAway().catch((error) => {
        throw new Error(`attempt ${count} of 5: ${error.message}`);
      });
      assert.match(reason, DROPPED);
    }
  });

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    test(`a sixth connection that authenticates late over ${name} gets an error and is closed`, limited, async (t) => {
      const sub = `late-${name}`;
      for (let count = 0; count < 5; count += 1) await chordme(t, sub, { transports });
      const sixth = await make(t, { path: PATHS.chordme, transports, reconnection: false }).connect();
      if (name === "upgrade") await sixth.upgraded();
      const ended = sixth.ended();
      sixth.tell("authenticate", { token: token(sub) });
      holds(await sixth.next("connection_error"), { code: "too_many_connections" });
      assert.match(await ended, DROPPED);
    });
  }

  test("of thirty connections that authenticate together, five stay and the others are closed", limited, async (t) => {
    const sub = "at-once";
    const all = Array.from({ length: 30 }, () => make(t, { path: PATHS.chordme, reconnection: false }));
    const fate = async (client) => {
      await client.connect();
      const ended = client.ended().then(() => "ended", () => "was left hanging");
      client.tell("authenticate", token(sub));
      return Promise.race([ended, client.next("authenticated").then(() => "stays")]);
    };
    const fates = await Promise.all(all.map(fate));
    const count = (what) => fates.filter((fate) => fate === what).length;
    assert.deepEqual([count("stays"), count("ended"), count("was left hanging")], [5, 25, 0]);
  });

  for (const [name, transports] of Object.entries({ websocket: TRANSPORTS.websocket, polling: TRANSPORTS.polling })) {
    test(`a packet of 70 KiB over ${name} ends its connection and no other`, limited, async (t) => {
      const conversationId = `large-${name}`;
      const sub = `large-${name}`;
      const [large, own, other] = [
        await ring(t, sub, { transports, reconnection: false }), await ring(t, sub, { transports }), await ring(t, `other-${name}`, { transports }),
      ];
      for (const one of [large, own, other]) await one.done("join_conversation", conversationId);
      const ended = large.ended();
      large.tell("send_message", { conversationId, content: "x", metadata: { padding: "x".repeat(70 * 1024) } });
      assert.match(await ended, DROPPED);
      await large.connect();
      for (const one of [own, other, large]) {
        assert.ok(one.socket.connected);
        await one.done("send_message", { conversationId, content: `of ${one.sub}` });
      }
      assert.deepEqual((await other.take("message_received", 3)).map(({ seq }) => seq), [1, 2, 3]);
    });
  }

  test("of 61 messages in a minute, one is refused with the time to wait", limited, async (t) => {
    const conversationId = "rate";
    const alice = await ring(t, "alice.rate", { transports: ["websocket"] });
    await alice.done("join_conversation", conversationId);
    const answers = await Promise.all(numbered(62).map((content) => alice.ask("send_message", { conversationId, content })));
    const sent = answers.filter(({ ok }) => ok);
    const refused = answers.filter(({ ok }) => !ok);
    // The limit allows one more message every second, and the burst takes much less than two seconds.
    assert.ok(sent.length >= 60 && sent.length <= 61, `${sent.length} were taken`);
    for (const { error } of refused) {
      assert.equal(error.code, "rate_limited");
      assert.ok(error.retryAfterMs > 0 && error.retryAfterMs <= 60_000, JSON.stringify(error));
    }
    assert.equal((await alice.take("message_received", sent.length)).at(-1).seq, sent.length);
    const bob = await ring(t, "bob.rate");
    await bob.done("send_message", { conversationId, content: "somebody else's rate is his own" });
    for (let count = 0; count < 5; count += 1) alice.tell("send_message", { conversationId, content: "no callback" });
    holds(await alice.next("error"), { code: "rate_limited" });
  });

  for (const [name, transports] of Object.entries({ websocket: TRANSPORTS.websocket, polling: TRANSPORTS.polling })) {
    test(`a binary argument over ${name} gets an error, and the connection stays open`, limited, async (t) => {
      const conversationId = "binary";
      const alice = await ring(t, `alice.binary-${name}`, { transports });
      await alice.done("join_conversation", conversationId);
      for (const [event, argument] of [
        ["send_message", { conversationId, content: Buffer.from("bytes") }],
        ["send_message", { conversationId, content: "text", metadata: { file: Buffer.alloc(100_000, 7) } }],
        ["join_conversation", Buffer.from(conversationId)],
      ]) {
        assert.equal((await alice.refusal(event, argument)).code, "invalid_payload");
        alice.tell(event, argument);
        assert.equal((await alice.next("error")).code, "invalid_payload");
      }
      await alice.done("send_message", { conversationId, content: "text" });
    });
  }

  for (const [name, transports] of Object.entries({ websocket: TRANSPORTS.websocket, polling: TRANSPORTS.polling })) {
    test(`binary arguments before authentication end the connection over ${name}`, limited, async (t) => {
      const client = await make(t, { path: PATHS.chordme, transports, reconnection: false }).connect();
      const ended = client.ended();
      client.tell("authenticate", { token: Buffer.from(token("early-binary")) });
      assert.match(await ended, DROPPED);
    });
  }
});

describe("bursts and silence", { timeout: 60_000, ...needs(binary) }, () => {
  let server;
  const { ring, make } = clientsOf(() => server);
  before(async () => (server = await startServer({ CARILLON_LIMITS__MESSAGES_PER_MINUTE: "0", WEBSOCKET_PING_INTERVAL: "1", WEBSOCKET_PING_TIMEOUT: "1" })));
  after(() => server?.stop());

  /** Sends 200 messages in one tick. All must be acknowledged and delivered once, in order, over one connection. */
  const burst = async (alice, bob, conversationId) => {
    const reasons = [];
    for (const one of [alice, bob]) one.socket.on("disconnect", (reason, details) => reasons.push([one.sub, reason, String(details?.description ?? details)]));
    const contents = numbered(200);
    const answers = contents.map((content, index) => alice.ask("send_message", { conversationId, content, clientId: `burst-${index}` }));
    const acks = await Promise.allSettled(answers);
    const lost = acks.filter(({ status }) => status === "rejected").length;
    assert.deepEqual({ lost, reasons }, { lost: 0, reasons: [] });
    assert.deepEqual(acks.map(({ value }) => [value.ok, value.seq]), contents.map((_, index) => [true, index + 1]));
    await alice.done("send_message", { conversationId, content: "marker" });
    for (const one of [alice, bob]) {
      const heard = await one.take("message_received", 0, ({ content }) => content === "marker");
      assert.deepEqual(heard.map(({ content }) => content), [...contents, "marker"]);
    }
  };

  for (const [name, transports] of Object.entries({ polling: TRANSPORTS.polling, websocket: TRANSPORTS.websocket })) {
    test(`200 messages in one tick over ${name} are all stored, in order, once each`, limited, async (t) => {
      const conversationId = `burst-${name}`;
      const [alice, bob] = [await ring(t, `alice.${conversationId}`, { transports }), await ring(t, `bob.${conversationId}`, { transports })];
      for (const one of [alice, bob]) await one.done("join_conversation", conversationId);
      await burst(alice, bob, conversationId);
    });
  }

  test("200 messages that waited for the connection are all stored, in order, once each", limited, async (t) => {
    const conversationId = "burst-waiting";
    const bob = await ring(t, `bob.${conversationId}`);
    await bob.done("join_conversation", conversationId);
    // The library keeps events that are emitted before the connection exists, and sends them together over the first
    // transport.
    const alice = make(t, { sub: `alice.${conversationId}`, path: PATHS.ring });
    const joined = alice.ask("join_conversation", conversationId);
    const sent = burst(alice, bob, conversationId);
    alice.socket.connect();
    await sent;
    assert.equal((await joined).ok, true);
  });

  test("silent clients answer the heartbeats, over every transport, and stay", limited, async (t) => {
    const stays = async ([name, transports]) => {
      const alice = await ring(t, `silent-${name}`, { transports });
      if (name === "upgrade") await alice.upgraded();
      const reasons = [];
      alice.socket.on("disconnect", (reason) => reasons.push(reason));
      let beats = 0;
      await bounded(new Promise((resolve) => alice.socket.io.on("ping", () => (beats += 1) === 3 && resolve())), `${name}'s heartbeats`);
      await alice.done("join_conversation", "silent");
      assert.deepEqual(reasons, [], name);
    };
    await Promise.all(Object.entries(TRANSPORTS).map(stays));
  });
});
