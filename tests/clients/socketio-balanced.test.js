// Three gateways behind a load balancer without sticky sessions: real clients poll, upgrade to WebSockets, and
// reconnect when a gateway is killed (docs/protocol.md#polling).
import { strict as assert } from "node:assert";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { needsCluster, startCluster } from "./cluster.js";
import { startRoundRobinProxy } from "./round-robin-proxy.js";
import { bounded, PATHS, SocketIo, TRANSPORTS } from "./socketio.js";
import { token } from "./tokens.js";

const limited = { timeout: 90_000 };
const GATEWAYS = 3;
// The default of limits.connections_per_user.
const CONNECTIONS_PER_USER = 5;
const STOP_MS_MAX = 35_000;
const SESSION_UNKNOWN = '{"code":1,"message":"Session ID unknown"}';
// A gateway that passes a poll on waits up to 5 s for the answer of a killed gateway. Then socket.io-client reconnects
// after 1 s ± 50 %, and doubles that time with every attempt.
const BACK_MS_MAX = 25_000;
// How long a test waits for duplicates.
const QUIET_MS = 200;
const numbered = (count, what) => Array.from({ length: count }, (_, index) => `${what}-${index + 1}`);
const sidOf = (client) => client.socket.io.engine.id;
const gatewayIn = (sid) => sid.split(".")[0];

/** Waits until `isSo` is true, which it checks every millisecond. */
async function until(isSo, what, waitMsMax) {
  let looks = true;
  const looking = (async () => {
    while (looks && !isSo()) await sleep(1);
  })();
  await bounded(looking, what, waitMsMax).finally(() => (looks = false));
}

/**
 * Does what an application without recovery has to do to miss nothing: it joins at every connect, from its last seq.
 */
async function follow(client, conversationId) {
  Object.assign(client, { messages: [], joins: [], ends: [] });
  client.socket.on("message_received", (message) => client.messages.push(message));
  client.socket.on("disconnect", (reason, { description: status, context } = {}) => {
    client.ends.push({ reason, status, body: context?.responseText });
  });
  client.socket.on("connect", () => {
    const afterSeq = client.messages.at(-1)?.seq ?? 0;
    const joined = client.ask("join_conversation", { conversationId, afterSeq });
    client.joins.push(joined.then((ack) => ({ ...ack, afterSeq }), (error) => ({ ok: false, error })));
  });
  await client.connect();
  assert.equal((await client.joins[0]).ok, true, client.sub);
  return client;
}

/** Sends a message and returns its acknowledgement, with the sender and the content. */
async function say(client, conversationId, content) {
  const asked = client.ask("send_message", { conversationId, content, clientId: content });
  return { ...(await asked.catch((error) => ({ ok: false, error }))), sender: client.sub, content };
}

/** Sends a message every `everyMs`, without waiting for the acknowledgements of earlier ones. */
function talkOn(t, client, conversationId, everyMs) {
  const said = [];
  const timer = setInterval(() => said.push(say(client, conversationId, `${client.sub}-${said.length + 1}`)), everyMs);
  const stop = () => {
    clearInterval(timer);
    return Promise.all(said);
  };
  t.after(() => clearInterval(timer));
  return { said, stop };
}

/**
 * Asserts that every message was acknowledged, in its sender's order, and that every member received all of them once.
 */
async function everybodyHeard(members, said) {
  assert.deepEqual(said.filter(({ ok }) => !ok), []);
  for (const { sub } of members) {
    const seqs = said.filter(({ sender }) => sender === sub).map(({ seq }) => seq);
    assert.deepEqual(seqs, seqs.toSorted((one, other) => one - other), `the order in which ${sub} spoke`);
  }
  const order = said.toSorted((one, other) => one.seq - other.seq);
  assert.deepEqual(order.map(({ seq }) => seq), said.map((_, index) => index + 1));
  const last = order.at(-1).content;
  for (const member of members) await member.take("message_received", 0, ({ content }) => content === last);
  await sleep(QUIET_MS);
  for (const { sub, messages } of members) {
    const heard = messages.map(({ seq, id, senderId, content }) => [seq, id, senderId, content]);
    assert.deepEqual(heard, order.map(({ seq, id, sender, content }) => [seq, id, sender, content]), `heard by ${sub}`);
  }
}

/**
 * Asserts that a client lost its session exactly once and joined again. It must have noticed by the answer that the
 * session is unknown, or by a 502 if one of its requests was cut.
 */
async function cameBackOnce({ sub, joins, ends }, wasCut) {
  assert.equal(joins.length, 2, `${sub} was connected ${joins.length} times`);
  const [{ reason, status, body }, ...more] = ends;
  assert.deepEqual([reason, more], ["transport error", []], sub);
  assert.ok(status === 502 ? wasCut : status === 400 && body === SESSION_UNKNOWN, `${sub} heard ${status} ${body}`);
  const { ok, headSeq, afterSeq } = await joins[1];
  assert.ok(ok && headSeq > afterSeq, `${sub} missed nothing between ${afterSeq} and ${headSeq}`);
}

describe("three gateways behind a balancer without sticky sessions", { timeout: 300_000, ...needsCluster() }, () => {
  let cluster;
  let names;
  before(async () => {
    const environment = { CARILLON_LIMITS__MESSAGES_PER_MINUTE: "0", CARILLON_LIMITS__OPERATIONS_PER_MINUTE: "0" };
    cluster = await startCluster({ gateways: GATEWAYS, environment });
    names = await Promise.all(cluster.gateways.map(nameOf));
  });
  after(() => cluster?.stop());

  /** The name of a gateway: the first part of the ids of its sessions. */
  const nameOf = async ({ url }) => {
    const session = `${url}${PATHS.ring}/?EIO=4&transport=polling`;
    const { sid } = JSON.parse((await (await fetch(session)).text()).slice(1));
    await fetch(`${session}&sid=${sid}`, { method: "POST", body: "1" });
    return gatewayIn(sid);
  };

  /** The index of the gateway on which a session started. */
  const homeOf = (sid) => {
    const index = names.indexOf(gatewayIn(sid));
    assert.ok(index >= 0, `${sid} is of none of ${names}`);
    return index;
  };

  /** A balancer with a factory of clients. All are closed after the test. */
  const balanced = async (t, options) => {
    const proxy = await startRoundRobinProxy(cluster.gateways.map(({ url }) => url), options);
    const clients = [];
    t.after(async () => {
      for (const client of clients) client.close();
      // A polling client sends its close packet in a request after `close()`.
      await sleep(QUIET_MS);
      await proxy.close();
    });
    const make = (sub, options) => {
      clients.push(new SocketIo(proxy, { sub, path: PATHS.ring, ...options }));
      return clients.at(-1);
    };
    return { proxy, make };
  };

  test("polling clients whose requests go to all gateways receive everything once, in order", limited, async (t) => {
    const conversationId = "polling";
    const { proxy, make } = await balanced(t);
    const members = ["alice", "bob", "carol"].map((sub) => make(sub, { transports: TRANSPORTS.polling }));
    await Promise.all(members.map((member) => follow(member, conversationId)));
    const exchange = async (member) => {
      const said = [];
      for (const content of numbered(50, member.sub)) said.push(await say(member, conversationId, content));
      return said;
    };
    const [alice, bob] = members;
    const said = (await Promise.all([alice, bob].map(exchange))).flat();
    said.push(await say(bob, conversationId, "marker"));

    await everybodyHeard(members, said);
    assert.equal(said.length, 101);
    for (const { sub, ends } of members) assert.deepEqual(ends, [], sub);
    assert.deepEqual(proxy.passed.filter(({ status }) => status !== 200 && status !== null), []);
    for (const member of members) {
      const counts = proxy.counts(({ sid }) => sid === sidOf(member));
      assert.ok(counts.every((count) => count >= 10), `the requests of ${member.sub}'s session came to ${counts}`);
    }
    t.diagnostic(`requests at each gateway: ${proxy.counts()}`);
  });

  test("clients that send messages upgrade to WebSockets at other gateways, and miss nothing", limited, async (t) => {
    const conversationId = "upgrade";
    // The delay is long enough for each client to join and to send messages before its WebSocket is open.
    const { proxy, make } = await balanced(t, { upgradeDelayMs: 500 });
    const polls = make("polls", { transports: TRANSPORTS.polling });
    const movers = numbered(6, "moves").map((sub) => make(sub));
    const members = [polls, ...movers];
    /** Joins and keeps sending messages: while it polls, during the upgrade, and afterwards. */
    const talkAcross = async (client) => {
      await follow(client, conversationId);
      assert.equal(client.transport, "polling");
      const sid = sidOf(client);
      const talk = talkOn(t, client, conversationId, 20);
      await (client === polls ? sleep(1_500) : client.upgraded());
      const before = talk.said.length;
      await sleep(300);
      const said = await talk.stop();
      assert.ok(before >= 3 && said.length - before >= 3, `${client.sub} said ${before} of ${said.length} before it moved`);
      assert.equal(sidOf(client), sid, `the session of ${client.sub}`);
      return said;
    };
    const said = (await Promise.all(members.map(talkAcross))).flat();
    // Send more messages after all upgrades.
    for (const member of members) {
      for (const content of numbered(5, `${member.sub}-later`)) said.push(await say(member, conversationId, content));
    }
    said.push(await say(polls, conversationId, "marker"));

    await everybodyHeard(members, said);
    for (const { sub, ends } of members) assert.deepEqual(ends, [], sub);
    for (const mover of movers) assert.equal(mover.transport, "websocket");
    const upgrades = proxy.passed.filter(({ isUpgrade }) => isUpgrade);
    assert.deepEqual(upgrades.map(({ status }) => status), movers.map(() => 101));
    const away = upgrades.filter(({ sid, server }) => homeOf(sid) !== server);
    assert.ok(away.length > 0, "every WebSocket came to the gateway of its session");
    t.diagnostic(`${away.length} of ${upgrades.length} WebSockets came to another gateway than their session's; ${said.length} messages`);
  });

  test("a session that moves counts once towards its user's limit of connections", limited, async (t) => {
    const { proxy, make } = await balanced(t, { upgradeDelayMs: 100 });
    const clients = numbered(CONNECTIONS_PER_USER, "many").map(() => make("many"));
    for (const [index, client] of clients.entries()) {
      await client.connect();
      // Each client sends one request more than the one before, so that each gateway gets a WebSocket.
      for (let count = 0; count <= index; count += 1) await client.done("presence_update", { status: "dnd" });
      await client.upgraded();
    }
    const upgrades = proxy.passed.filter(({ isUpgrade }) => isUpgrade);
    const away = upgrades.filter(({ sid, server }) => homeOf(sid) !== server);
    assert.ok(away.length > 0, "every WebSocket came to the gateway of its session");
    const refused = make("many");
    await refused.turnedAway();
    refused.close();
    const moved = clients.findIndex((client) => away.some(({ sid }) => sid === sidOf(client)));
    const [mover] = clients.splice(moved, 1);
    clients.pop().close();
    clients.push(await make("many").connect());

    // A new presence-worker gets the status, which was set before the move, from the gateways only.
    for (const client of clients) client.close();
    const before = cluster.workers.pop();
    cluster.workers.push(await cluster.startRole("presence-worker", "--admin-listen"));
    before.process.kill("SIGTERM");
    await before.endsWell(STOP_MS_MAX);
    const ask = async () => {
      const answer = await fetch(`${proxy.url}/api/presence?ids=many`, { headers: { authorization: `Bearer ${token("many")}` } });
      return (await answer.json()).users.many.status;
    };
    let status;
    const asking = (async () => {
      while ((status = await ask()) !== "dnd") await sleep(50);
    })();
    await bounded(asking, () => `the status that was set, not ${status}`);
    assert.equal(mover.socket.connected, true);
  });

  // This test is the last one, because it kills a gateway.
  test("when a gateway is killed, its polling clients reconnect by themselves and miss nothing", limited, async (t) => {
    const conversationId = "killed";
    const { proxy, make } = await balanced(t);
    const [victim, survivor] = [0, 1];
    const members = [];
    const livesOn = (gateway) => (member) => homeOf(member.began) === gateway;
    for (let number = 1; number <= 3 * GATEWAYS; number += 1) {
      // The library repeats a message that is not acknowledged.
      const member = make(`member-${number}`, { transports: TRANSPORTS.polling, retries: 10, ackTimeout: 3_000 });
      members.push(await follow(member, conversationId));
      member.began = sidOf(member);
    }
    // A client that is not behind the balancer keeps sending messages while others are disconnected.
    const steady = new SocketIo(cluster.gateways[survivor], { sub: "steady", path: PATHS.ring, transports: TRANSPORTS.websocket });
    t.after(() => steady.close());
    await follow(steady, conversationId);
    const orphans = members.filter(livesOn(victim));
    assert.equal(orphans.length, 3);
    const talkers = [orphans[0], members.find(livesOn(survivor)), steady];
    const talks = talkers.map((client) => talkOn(t, client, conversationId, 100));
    await sleep(500);
    // The orphans that only receive must have their polls at surviving gateways. Otherwise their polls would be cut,
    // and no client would get the answer that its session is unknown.
    const waits = ({ began }) => proxy.passed.some(({ sid, status, server }) => sid === began && status === null && server !== victim);
    await until(() => orphans.slice(1).every(waits), "polls at gateways that live");
    const killed = cluster.gateways[victim].kill();
    const killedAt = Date.now();
    await killed;

    const isAway = ({ joins, socket }) => joins.length === 1 || !socket.connected;
    await until(() => !orphans.some(isAway), () => `the return of ${orphans.filter(isAway).map(({ sub }) => sub)}`, BACK_MS_MAX);
    const backAfterMs = Date.now() - killedAt;
    await sleep(500);
    const said = (await bounded(Promise.all(talks.map((talk) => talk.stop())), "all acknowledgements", BACK_MS_MAX)).flat();
    for (const member of members) said.push(await say(member, conversationId, `${member.sub}-again`));
    said.push(await say(steady, conversationId, "marker"));

    await everybodyHeard([...members, steady], said);
    assert.deepEqual([steady.joins.length, steady.ends], [1, []]);
    for (const member of members) {
      // A session on a surviving gateway ends too if one of its requests was in flight at the killed gateway.
      const wasCut = proxy.passed.some(({ sid, status }) => sid === member.began && status === 502);
      if (wasCut || orphans.includes(member)) {
        await cameBackOnce(member, wasCut);
        assert.notEqual(homeOf(sidOf(member)), victim, member.sub);
      } else {
        assert.deepEqual([sidOf(member), member.joins.length, member.ends], [member.began, 1, []], member.sub);
      }
    }
    const heardOfIt = orphans.filter(({ ends }) => ends[0].status === 400);
    assert.ok(heardOfIt.length > 0, "nobody heard that a session is unknown");
    const numbers = [`${heardOfIt.length} of ${orphans.length} orphans heard of it by 400`, `all were back after ${backAfterMs} ms`];
    t.diagnostic(`${members.length} polled; ${numbers.join("; ")}; ${said.length} messages`);
  });
});
