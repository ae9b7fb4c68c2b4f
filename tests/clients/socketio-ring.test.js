// Ring's vocabulary (docs/protocol.md#ring) with the real socket.io-client: the handshake over each transport,
// messages, typing, presence.
import { strict as assert } from "node:assert";
import { after, before, describe, test } from "node:test";
import { binary, needs } from "./carillon.js";
import { clientsOf, holds, PATHS, RFC3339_MS, startServer, TRANSPORTS } from "./socketio.js";
import { expired, forged, token } from "./tokens.js";

const limited = { timeout: 30_000 };
const MESSAGE_ID = /^[0-9a-f-]{36}$/;

describe("a Ring client", { timeout: 120_000, ...needs(binary) }, () => {
  let server;
  const { make, ring } = clientsOf(() => server);
  before(async () => (server = await startServer()));
  after(() => server?.stop());

  /** Two members of a conversation. */
  const pair = async (t, conversation, options) => {
    const [alice, bob] = await Promise.all([
      ring(t, `alice.${conversation}`, { name: "Alice", ...options }),
      ring(t, `bob.${conversation}`, { name: "Bob", ...options }),
    ]);
    for (const one of [alice, bob]) await one.done("join_conversation", conversation);
    return [alice, bob];
  };

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    test(`exchanges messages over ${transports.join(", then ")}`, limited, async (t) => {
      const conversation = `transport-${name}`;
      const [alice, bob] = await pair(t, conversation, { transports });
      const contents = Array.from({ length: 20 }, (_, index) => `${name} ${index}`);
      // Send them without waiting for acknowledgements, so that some are in flight during the upgrade.
      const acks = contents.map((content) => alice.done("send_message", { conversationId: conversation, content }));
      if (name === "upgrade") await Promise.all([alice.upgraded(), bob.upgraded()]);
      assert.deepEqual((await Promise.all(acks)).map(({ seq }) => seq), contents.map((_, index) => index + 1));
      for (const member of [alice, bob]) {
        const heard = await member.take("message_received", contents.length);
        assert.deepEqual(heard.map(({ content }) => content), contents);
        assert.equal(member.transport, transports.at(-1));
      }
      await bob.done("send_message", { conversationId: conversation, content: "and back" });
      for (const member of [alice, bob]) assert.equal((await member.next("message_received")).content, "and back");
    });
  }

  for (const [transport, transports] of Object.entries(TRANSPORTS)) {
    for (const [what, given, message, code] of [
      ["no token", () => ({}), "No authentication token provided", "unauthorized"],
      ["a forged token", (sub) => ({ token: forged(sub) }), "Invalid authentication token", "unauthorized"],
      ["something that is no token", () => ({ token: "nonsense" }), "Invalid authentication token", "unauthorized"],
      ["an expired token", (sub) => ({ token: expired(sub) }), "Authentication token expired", "token_expired"],
    ]) {
      test(`is refused with ${what} over ${transport}, and accepted with a valid one`, limited, async (t) => {
        const client = make(t, { path: PATHS.ring, transports });
        client.socket.auth = given("late");
        const error = await client.refused();
        assert.deepEqual([error.message, error.data], [message, { code }]);
        assert.deepEqual(client.log, [], "a refused client heard something");
        client.socket.auth = { token: token("late") };
        await client.connect();
        await client.done("join_conversation", "after-a-refusal");
      });
    }
  }

  test("joins by the bare id and by an object, and gets head and number of participants", limited, async (t) => {
    const [alice, bob] = [await ring(t, "alice.join"), await ring(t, "bob.join")];
    const conversationId = "join";
    assert.deepEqual(await alice.done("join_conversation", conversationId), { conversationId, headSeq: 0, participantCount: 1 });
    await alice.done("send_message", { conversationId, content: "before" });
    assert.deepEqual(await bob.done("join_conversation", { conversationId }), { conversationId, headSeq: 1, participantCount: 2 });
    await alice.done("send_message", { conversationId, content: "after" });
    const [first] = await bob.take("message_received");
    assert.deepEqual([first.content, first.seq], ["after", 2], "a join without afterSeq replays nothing");
    // A second join in the other form must not make a second subscription.
    await bob.done("join_conversation", conversationId);
    for (const content of ["once", "more"]) await alice.done("send_message", { conversationId, content });
    assert.deepEqual((await bob.take("message_received", 2)).map(({ content }) => content), ["once", "more"]);
  });

  test("a message reaches both members, including the sender, in the documented form", limited, async (t) => {
    const conversationId = "send";
    const [alice, bob] = await pair(t, conversationId);
    const spoofed = { senderId: "mallory", senderName: "Mallory", timestamp: "2001-01-01T00:00:00.000Z" };
    const content = "Grüße, <b>Bob</b> 🔔\nline two";
    const ack = await alice.done("send_message", { conversationId, content, type: "text", clientId: "c-1", ...spoofed });
    assert.match(ack.id, MESSAGE_ID);
    assert.match(ack.timestamp, RFC3339_MS);
    assert.equal(ack.seq, 1);
    for (const member of [alice, bob]) {
      assert.deepEqual(await member.next("message_received"), {
        id: ack.id, conversationId, seq: 1, senderId: "alice.send", senderName: "Alice", content, type: "text",
        timestamp: ack.timestamp, clientId: "c-1",
      });
    }
    await bob.done("send_message", { conversationId, content: "plain" });
    const plain = await alice.next("message_received");
    holds(plain, { senderId: "bob.send", senderName: "Bob", seq: 2, type: "text" });
    assert.ok(!("clientId" in plain), "a client id that nobody gave");
  });

  test("a repeated clientId is acknowledged like the first, and appears once", limited, async (t) => {
    const conversationId = "repeat";
    const [alice, bob] = await pair(t, conversationId);
    const message = { conversationId, content: "once", clientId: "the-same" };
    const first = await alice.done("send_message", message);
    assert.deepEqual(await alice.done("send_message", message), first);
    alice.close();
    await alice.connect();
    await alice.done("join_conversation", conversationId);
    assert.deepEqual(await alice.done("send_message", message), first, "on another connection");
    // The same client id from another user is another message.
    await bob.done("send_message", { ...message, content: "marker" });
    const heard = await bob.take("message_received", 0, ({ content }) => content === "marker");
    assert.deepEqual(heard.map(({ content, seq }) => [content, seq]), [["once", 1], ["marker", 2]]);
    const own = await alice.take("message_received", 0, ({ content }) => content === "marker");
    assert.deepEqual(own.map(({ seq }) => seq), [1, 2]);
  });

  test("typing reaches the other member, and never the typist", limited, async (t) => {
    const conversationId = "typing";
    const [alice, bob] = await pair(t, conversationId);
    const expected = { conversationId, userId: "alice.typing", userName: "Alice" };
    for (const [event, argument, isTyping] of [
      ["typing_start", { conversationId }, true], ["typing_stop", { conversationId }, false],
      ["typing_start", conversationId, true], ["typing_stop", conversationId, false],
    ]) {
      alice.tell(event, argument);
      const heard = await bob.next("user_typing");
      holds(heard, { ...expected, isTyping });
      assert.match(heard.timestamp, RFC3339_MS);
    }
    await alice.done("typing_start", { conversationId });
    holds(await bob.next("user_typing"), { ...expected, isTyping: true });
    // A message ends the typing. It arrives after any typing event that the typist could have received.
    await alice.done("send_message", { conversationId, content: "marker" });
    await alice.next("message_received");
    assert.deepEqual(alice.rest("user_typing"), [], "the typist was told");
  });

  test("the typing of a user whose connection ends is ended", limited, async (t) => {
    const conversationId = "vanish";
    const [alice, bob] = await pair(t, conversationId);
    alice.tell("typing_start", { conversationId });
    holds(await bob.next("user_typing"), { userId: "alice.vanish", isTyping: true });
    alice.close();
    holds(await bob.next("user_typing"), { userId: "alice.vanish", isTyping: false });
  });

  test("presence events come at a user's first connection and after the last, not in between", limited, async (t) => {
    const conversationId = "presence";
    const response = await fetch(`${server.url}/api/conversations`, {
      method: "POST",
      headers: { authorization: `Bearer ${token("alice.presence")}`, "content-type": "application/json" },
      body: JSON.stringify({ id: conversationId, participants: ["bob.presence"] }),
    });
    assert.equal(response.status, 201, await response.text());
    const alice = await ring(t, "alice.presence");
    await alice.done("join_conversation", conversationId);
    const first = await ring(t, "bob.presence");
    const online = await alice.next("presence_update");
    holds(online, { userId: "bob.presence", isOnline: true, status: "active" });
    assert.match(online.timestamp, RFC3339_MS);
    const second = await ring(t, "bob.presence");
    await second.done("presence_update", { status: "dnd" });
    holds(await alice.next("presence_update"), { userId: "bob.presence", isOnline: true, status: "dnd" });
    first.close();
    await second.done("presence_update", { status: "away" });
    holds(await alice.next("presence_update"), { userId: "bob.presence", isOnline: true, status: "away" }, "one of two left");
    second.close();
    const offline = await alice.next("presence_update");
    holds(offline, { userId: "bob.presence", isOnline: false });
    assert.match(offline.lastSeen, RFC3339_MS);
    assert.deepEqual(alice.rest("presence_update"), []);
  });

  test("two members of an open conversation see each other's presence", limited, async (t) => {
    const [alice, bob] = await pair(t, "meeting");
    for (const [one, other] of [[alice, bob], [bob, alice]]) {
      holds(await one.next("presence_update"), { userId: other.sub, isOnline: true });
    }
  });

  test("after leaving, no event of the conversation arrives", limited, async (t) => {
    const conversationId = "leave";
    const [alice, bob] = await pair(t, conversationId);
    for (const conversation of ["second-leave", "leave"]) await bob.done("join_conversation", conversation);
    assert.deepEqual(await bob.done("leave_conversation", conversationId), { conversationId });
    await alice.done("typing_start", { conversationId });
    await alice.done("send_message", { conversationId, content: "not for Bob" });
    await alice.done("send_message", { conversationId: "second-leave", content: "marker" });
    const [marker] = await bob.take("message_received");
    assert.deepEqual([marker.content, bob.rest("user_typing")], ["marker", []]);
    // A join with afterSeq brings the messages that were sent meanwhile.
    await bob.done("join_conversation", { conversationId, afterSeq: 0 });
    assert.equal((await bob.next("message_received")).content, "not for Bob");
    await bob.done("leave_conversation", { conversationId });
  });

  test("errors go to the callback, or else to an error event, and the connection stays open", limited, async (t) => {
    const alice = await ring(t, "alice.errors");
    const conversationId = "errors";
    await alice.done("join_conversation", conversationId);
    for (const [event, argument, code] of [
      ["send_message", { conversationId, content: " \n " }, "empty_content"],
      ["send_message", { conversationId, content: "x".repeat(5_001) }, "too_large"],
      ["send_message", { conversationId }, "invalid_payload"],
      ["send_message", { content: "nowhere" }, "invalid_payload"],
      ["send_message", "only text", "invalid_payload"],
      ["join_conversation", "no such id!", "invalid_payload"],
      ["join_conversation", null, "invalid_payload"],
      ["join_conversation", { conversationId: 7 }, "invalid_payload"],
      ["typing_start", "elsewhere", "forbidden"],
      ["presence_update", { status: "asleep" }, "invalid_payload"],
      ["no_such_event", {}, "invalid_payload"],
    ]) {
      assert.equal((await alice.refusal(event, argument)).code, code, `${event} ${JSON.stringify(argument).slice(0, 80)}`);
      assert.deepEqual(alice.rest("error"), [], "told twice");
      alice.tell(event, argument);
      const { code: told, message } = await alice.next("error");
      assert.deepEqual([told, typeof message], [code, "string"], event);
    }
    await alice.done("send_message", { conversationId, content: "still here" });
    assert.equal((await alice.next("message_received")).seq, 1);
  });

  test("afterSeq brings the missed messages, in order, before any live one", limited, async (t) => {
    const conversationId = "replay";
    const [alice, bob] = await pair(t, conversationId);
    const send = (content) => alice.done("send_message", { conversationId, content });
    for (let number = 1; number <= 3; number += 1) await send(`heard ${number}`);
    const { seq } = (await bob.take("message_received", 3)).at(-1);
    bob.close();
    for (let number = 1; number <= 20; number += 1) await send(`missed ${number}`);
    await bob.connect();
    // More messages are sent during the replay.
    const live = Array.from({ length: 20 }, (_, index) => send(`live ${index + 1}`));
    holds(await bob.done("join_conversation", { conversationId, afterSeq: seq }), { conversationId });
    await Promise.all(live);
    const heard = await bob.take("message_received", 40);
    assert.deepEqual(heard.map((message) => message.seq), Array.from({ length: 40 }, (_, index) => 4 + index));
    assert.equal(heard[0].content, "missed 1");
    assert.equal(heard[20].content, "live 1");
    await send("marker");
    assert.equal((await bob.next("message_received")).content, "marker");
  });

  test("a token can be renewed on a connection, for the same user only", limited, async (t) => {
    const alice = await ring(t, "alice.renew");
    holds(await alice.done("authenticate", { token: token("alice.renew") }), { userId: "alice.renew" });
    assert.equal((await alice.refusal("authenticate", { token: token("somebody else") })).code, "unauthorized");
    await alice.done("join_conversation", "renewed");
  });

  test("the namespace /api/socket on the default path works the same", limited, async (t) => {
    const alice = await make(t, { sub: "alice.alias", namespace: "/api/socket" }).connect();
    const bob = await ring(t, "bob.alias");
    for (const one of [alice, bob]) await one.done("join_conversation", "alias");
    for (const one of [alice, bob]) {
      await one.done("send_message", { conversationId: "alias", content: `of ${one.sub}` });
      for (const member of [alice, bob]) assert.equal((await member.next("message_received")).content, `of ${one.sub}`);
    }
    bob.tell("typing_start", "alias");
    holds(await alice.next("user_typing"), { userId: "bob.alias", isTyping: true });
    alice.tell("send_message", {});
    assert.equal((await alice.next("error")).code, "invalid_payload");
  });

  test("any other namespace is refused", limited, async (t) => {
    for (const path of ["/api/socket", "/socket.io/"]) {
      const error = await make(t, { sub: "alice.elsewhere", path, namespace: "/admin" }).refused();
      assert.equal(error.message, "Invalid namespace");
    }
  });
});
