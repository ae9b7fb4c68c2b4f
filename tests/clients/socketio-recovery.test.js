// Connection-state recovery (docs/protocol.md#recovery): however its connection is cut, a client receives every message
// of its conversations once, in order, without joining again.
import { strict as assert } from "node:assert";
import { after, before, describe, test } from "node:test";
import { binary, needs } from "./carillon.js";
import { startCutProxy } from "./cut-proxy.js";
import { heard, recoveringOf } from "./recovering.js";
import { clientsOf, holds, PATHS, startServer, TRANSPORTS } from "./socketio.js";
import { token } from "./tokens.js";

const limited = { timeout: 40_000 };

describe("a client with recovery", { timeout: 180_000, ...needs(binary) }, () => {
  let server;
  const { make, recovering, talking } = recoveringOf(() => server);
  const { ring, guide, chordme } = clientsOf(() => server);
  before(async () => (server = await startServer({ CARILLON_LIMITS__MESSAGES_PER_MINUTE: "0" })));
  after(() => server?.stop());

  /** A sender without recovery and a client with recovery, which have joined the same conversations. */
  const both = async (t, conversations, options) => {
    const bob = await talking(t, `bob.${conversations[0]}`);
    const alice = await recovering(t, `alice.${conversations[0]}`, options);
    for (const one of [bob, alice]) {
      for (const conversationId of conversations) await one.done("join_conversation", { conversationId });
    }
    return { alice, bob };
  };

  /** Ends the client's connections until it notices. A polling client may have no open connection at one moment. */
  const loses = (client, proxy) => {
    const timer = setInterval(() => proxy.lose(), 10);
    client.socket.once("disconnect", () => clearInterval(timer));
  };

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    test(`is cut again and again over ${name}, and receives both conversations once, in order`, limited, async (t) => {
      const conversations = [`one-${name}`, `two-${name}`];
      const { alice, bob } = await both(t, conversations, { transports });
      if (name === "upgrade") await alice.upgraded();
      for (let round = 1; round <= 4; round += 1) {
        await bob.sayAll(conversations, 2);
        await alice.interrupted(() => bob.sayAll(conversations, 3));
      }
      // Cut the connection several times in a row, each time before any event has arrived over the new one.
      for (let round = 1; round <= 4; round += 1) {
        let cuts = 0;
        const cutAtOnce = () => (cuts += 1) <= round && alice.cut();
        alice.socket.on("connect", cutAtOnce);
        await alice.interrupted(() => bob.sayAll(conversations, 3));
        while (cuts <= round) await alice.back();
        alice.socket.off("connect", cutAtOnce);
      }
      await bob.sayAll(conversations, 1);
      alice.wentOn(4 + 2 + 3 + 4 + 5);
      for (const one of [alice, bob]) await heard(one, bob.said);
    });

    test(`is cut while it receives 200 messages over ${name}, and receives each once, in order`, limited, async (t) => {
      const proxy = await startCutProxy(server.port);
      t.after(() => proxy.close());
      const conversations = [`burst-${name}`, `burst-too-${name}`];
      const { alice, bob } = await both(t, conversations, { transports, server: proxy });
      alice.socket.on("disconnect", () => proxy.restore());
      for (let round = 1; round <= 4; round += 1) {
        let events = 0;
        let due = 0;
        const cutAt = () => {
          events += 1;
          if (events === 20 * round) alice.cut();
          // Cut in the middle of the bytes in flight.
          due += [100, 150].includes(events);
          if (due === 0 || alice.isUpgrading) return;
          due -= 1;
          proxy.cut();
        };
        alice.socket.onAny(cutAt);
        await bob.sayAll(conversations, 100);
        await heard(alice, bob.said);
        alice.socket.offAny(cutAt);
        assert.ok(events >= 200, `${events} events`);
      }
      alice.wentOn(4);
      await heard(bob, bob.said);
    });

    test(`loses its network over ${name}, noticed by the server or not, and misses nothing`, limited, async (t) => {
      const proxy = await startCutProxy(server.port);
      t.after(() => proxy.close());
      const conversations = [`network-${name}`, `network-too-${name}`];
      const { alice, bob } = await both(t, conversations, { transports, server: proxy });
      const settled = async () => name !== "upgrade" || alice.upgraded();
      for (let round = 1; round <= 3; round += 1) {
        await bob.sayAll(conversations, 2);
        await settled();
        await alice.interrupted(() => bob.sayAll(conversations, 2).then(() => proxy.restore()), () => proxy.cut());
        await bob.sayAll(conversations, 2);
        await settled();
        // On the server the old connection is still open, and messages are sent to it too.
        await alice.interrupted(() => bob.sayAll(conversations, 2), () => loses(alice, proxy));
      }
      await bob.sayAll(conversations, 1);
      alice.wentOn(6);
      for (const one of [alice, bob]) await heard(one, bob.said);
    });
  }

  test("may use any vocabulary, or several at once; clients without recovery get no offsets", limited, async (t) => {
    const conversationId = "words";
    const bob = await talking(t, "bob.words");
    const join = {
      message_received: (client) => client.done("join_conversation", { conversationId }),
      message: (client) => client.done("subscribe", `conversation:${conversationId}`),
      room_message: (client) => client.done("join_room", { room_id: conversationId }),
    };
    const clients = {
      message_received: [await recovering(t, "ring.words"), await ring(t, "plain-ring.words")],
      message: [await recovering(t, "guide.words"), await guide(t, "plain-guide.words")],
      room_message: [await recovering(t, "chordme.words", { path: PATHS.chordme }), await chordme(t, "plain-chordme.words")],
    };
    const several = await recovering(t, "several.words");
    for (const [event, [back, plain]] of Object.entries(clients)) for (const one of [back, plain, several]) await join[event](one);
    const backs = [...Object.values(clients).map(([back]) => back), several];
    for (let round = 1; round <= 3; round += 1) {
      await bob.sayAll([conversationId], 3);
      await Promise.all(backs.map((back) => back.interrupted(() => bob.sayAll([conversationId], 2))));
    }
    // It leaves in one of its vocabularies; the other subscriptions stay.
    await several.done("unsubscribe", `conversation:${conversationId}`);
    const unsubscribed = { [conversationId]: [...bob.said[conversationId]] };
    await several.interrupted(() => bob.sayAll([conversationId], 2));
    for (const back of backs) back.wentOn(3);
    for (const [event, ones] of Object.entries(clients)) {
      for (const one of ones) await heard(one, bob.said, event);
      await heard(several, event === "message" ? unsubscribed : bob.said, event);
    }
    for (const [, plain] of Object.values(clients)) {
      for (const { event, args } of plain.log) assert.equal(args.length, 1, `${event} for ${plain.sub}`);
    }
  });

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    test(`that authenticated late over ${name} is identified by its secret alone`, limited, async (t) => {
      const room_id = `late-${name}`;
      const bob = await talking(t, `bob.${room_id}`);
      const alice = await make(t, { path: PATHS.chordme, transports }).connect();
      alice.tell("authenticate", { token: token(`alice.${room_id}`) });
      await alice.next("authenticated");
      await alice.done("join_room", { room_id });
      await bob.done("join_conversation", room_id);
      for (let round = 1; round <= 3; round += 1) {
        await alice.interrupted(() => bob.sayAll([room_id], 2));
        holds(await alice.next("authenticated"), { user_id: `alice.${room_id}` });
        assert.deepEqual(alice.socket.auth, { recovery: true });
        await alice.done("send_message", { conversationId: room_id, content: `${room_id}/by alice ${round}` });
        bob.said[room_id].push(`${room_id}/by alice ${round}`);
      }
      alice.wentOn(3);
      assert.deepEqual([...alice.rest("auth_error"), ...alice.rest("error")], []);
      for (const one of [alice, bob]) await heard(one, bob.said);
    });
  }

  test("gets no messages of conversations that it left", limited, async (t) => {
    const { alice, bob } = await both(t, ["kept", "left", "kept-too"]);
    await bob.sayAll(["kept", "left", "kept-too"], 2);
    const before = [...bob.said.left];
    await alice.done("leave_conversation", "left");
    for (let round = 1; round <= 2; round += 1) {
      await bob.sayAll(["left", "kept", "kept-too"], 2);
      await alice.interrupted(() => bob.sayAll(["left", "kept", "kept-too"], 2));
    }
    alice.wentOn(2);
    await heard(alice, { ...bob.said, left: before });
    await alice.done("leave_conversation", "kept-too");
    await alice.interrupted(() => bob.sayAll(["kept-too", "kept"], 2));
    alice.wentOn(3);
    await heard(alice, { ...bob.said, left: before, "kept-too": bob.said["kept-too"].slice(0, -2) });
  });

  test("may join again from an earlier seq, and receives everything after it once", limited, async (t) => {
    const { alice, bob } = await both(t, ["again", "beside"]);
    await bob.sayAll(["again", "beside"], 10);
    await heard(alice, bob.said);
    const again = [...bob.said.again];
    for (let round = 1; round <= 3; round += 1) {
      await alice.done("join_conversation", { conversationId: "again", afterSeq: 4 });
      again.push(...bob.said.again.slice(4));
      const said = bob.said.again.length;
      await alice.interrupted(() => bob.sayAll(["again", "beside"], 3));
      again.push(...bob.said.again.slice(said));
      await heard(alice, { ...bob.said, again });
    }
    alice.wentOn(3);
  });

  test("may join more conversations after a recovery, and recovers those too", limited, async (t) => {
    const { alice, bob } = await both(t, ["first"]);
    const conversations = ["first"];
    for (let round = 1; round <= 5; round += 1) {
      await alice.interrupted(() => bob.sayAll(conversations, 2));
      const conversationId = `more-${round}`;
      // Join it from its beginning, or from its head.
      await bob.sayAll([conversationId], 3);
      if (round % 2 === 0) bob.said[conversationId] = [];
      await alice.done("join_conversation", round % 2 === 0 ? { conversationId } : { conversationId, afterSeq: 0 });
      conversations.push(conversationId);
      if (round === 3) {
        await alice.done("leave_conversation", "more-1");
        conversations.splice(conversations.indexOf("more-1"), 1);
      }
    }
    await bob.sayAll(conversations, 2);
    await alice.interrupted(() => bob.sayAll(conversations, 2));
    alice.wentOn(6);
    await heard(alice, bob.said);
  });

  test("resumes at the right place even if others send texts that look like offsets", limited, async (t) => {
    const room_id = "texts";
    const other = await chordme(t, "other.texts");
    const alice = await recovering(t, "alice.texts", { path: PATHS.chordme });
    const bob = await talking(t, "bob.texts");
    for (const one of [other, alice]) await one.done("join_room", { room_id });
    await alice.done("join_conversation", room_id);
    await alice.done("join_conversation", "quiet");
    await bob.done("join_conversation", room_id);
    for (const text of ["AAAA", "", "AAIAAAE", "x".repeat(5_000), '"]', '42["message_received",{},"AAAA"]']) {
      await bob.sayAll([room_id, "quiet"], 2);
      bob.tell("typing_start", room_id);
      holds(await alice.next("user_typing"), { userId: "bob.texts", isTyping: true });
      other.tell("cursor_update", { room_id, position: text.slice(0, 500) });
      other.tell("broadcast_message", { room_id, message: text });
      await alice.until(() => alice.rest("room_message").some(({ message }) => message === text), "the broadcast");
      await alice.interrupted(() => bob.sayAll([room_id, "quiet"], 1));
    }
    alice.wentOn(6);
    await heard(alice, bob.said, "message_received");
    await heard(alice, { [room_id]: bob.said[room_id] }, "room_message");
  });
});
