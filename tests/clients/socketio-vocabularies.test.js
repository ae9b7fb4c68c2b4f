// One conversation in four vocabularies (docs/protocol.md#one-event-four-vocabularies): the ws library and three kinds
// of Socket.IO clients receive the same events.
import { strict as assert } from "node:assert";
import { after, before, describe, test } from "node:test";
import { binary, needs } from "./carillon.js";
import { bounded, clientsOf, holds, RFC3339_MS, startServer } from "./socketio.js";
import { talker } from "./talker.js";

const limited = { timeout: 30_000 };

describe("one conversation in four vocabularies", { timeout: 60_000, ...needs(binary) }, () => {
  let server;
  const { ring, guide, chordme } = clientsOf(() => server);
  before(async () => (server = await startServer()));
  after(() => server?.stop());

  /** One member for each vocabulary. */
  const members = async (t, conversation) => {
    const native = await talker(server, `native.${conversation}`, "Native", conversation);
    t.after(() => native.close());
    const all = {
      native,
      ring: await ring(t, `ring.${conversation}`, { name: "Ring" }),
      guide: await guide(t, `guide.${conversation}`, { name: "Guide" }),
      chordme: await chordme(t, `chordme.${conversation}`, { name: "ChordMe" }),
    };
    await all.ring.done("join_conversation", conversation);
    await all.guide.done("subscribe", `conversation:${conversation}`);
    await all.chordme.done("join_room", { room_id: conversation });
    return all;
  };

  /** Takes the next message from each member, and asserts that all have the same fields. */
  const heardBy = async ({ native, ring, guide, chordme }) => {
    const frame = await native.frames.until("new_message");
    const { id, sender_id, sender_name, content, content_type, timestamp } = frame.message;
    const asNative = { id, seq: frame.seq, content, by: sender_id };
    const received = await ring.next("message_received");
    const message = await guide.next("message");
    const room = await chordme.next("room_message");
    for (const body of [received, message]) {
      holds(body, { conversationId: frame.conversation_id, senderName: sender_name, timestamp });
      assert.deepEqual({ id: body.id, seq: body.seq, content: body.content, by: body.senderId }, asNative);
    }
    assert.equal(received.type, content_type);
    assert.ok(!("type" in message), "the guide's messages have no type");
    const { message: stored, ...around } = room;
    assert.deepEqual(around, { user_id: sender_id, timestamp: Date.parse(timestamp) });
    assert.deepEqual(stored, { id, seq: frame.seq, content, content_type });
    assert.match(timestamp, RFC3339_MS);
    return asNative;
  };

  test("a message of any client reaches all, each in its own vocabulary, once", limited, async (t) => {
    const conversationId = "words";
    const all = await members(t, conversationId);
    const ways = [
      // Without a client id there is no ack, whose order relative to the message is not defined.
      ["native.words", (content) => all.native.tell({ type: "send_message", content })],
      ["ring.words", (content) => all.ring.done("send_message", { conversationId, content })],
      ["guide.words", (content) => all.guide.done("message:send", { conversationId, content })],
      // A client may join in one vocabulary and send in another.
      ["chordme.words", (content) => all.chordme.done("send_message", { conversationId, content })],
    ];
    for (const [index, [by, say]] of ways.entries()) {
      const content = `said by ${by}: "ü" <b> 🔔`;
      const ack = await say(content);
      const heard = await heardBy(all);
      holds(heard, { seq: index + 1, content, by });
      if (ack) holds(ack, { id: heard.id, seq: heard.seq });
    }
    for (const [one, event] of [[all.ring, "message_received"], [all.guide, "message"], [all.chordme, "room_message"]]) {
      assert.deepEqual(one.rest(event), []);
      const names = new Set(one.log.map((heard) => heard.event));
      for (const foreign of ["message_received", "message", "room_message", "new_message"]) {
        assert.ok(!names.has(foreign), `${one.sub} heard ${foreign}`);
      }
    }
  });

  test("typing reaches native, Ring and guide clients; ChordMe has no event for it", limited, async (t) => {
    const conversationId = "typing-words";
    const { native, ring: ringer, guide: guided, chordme: player } = await members(t, conversationId);
    const hear = {
      native: async () => {
        const { user_id, user_name, is_typing } = await native.frames.until("typing_indicator");
        return [user_id, is_typing, user_name];
      },
      ring: async () => {
        const { userId, userName, isTyping } = await ringer.next("user_typing");
        return [userId, isTyping, userName];
      },
      guide: async () => {
        const { userId, isTyping } = await guided.next("typing");
        return [userId, isTyping];
      },
    };
    const types = {
      native: (isTyping) => native.tell({ type: isTyping ? "typing_start" : "typing_stop" }),
      ring: (isTyping) => ringer.tell(isTyping ? "typing_start" : "typing_stop", { conversationId }),
      guide: (isTyping) => guided.tell(isTyping ? "typing:start" : "typing:stop", { conversationId }),
    };
    for (const [typist, type] of Object.entries(types)) {
      for (const isTyping of [true, false]) {
        type(isTyping);
        for (const other of Object.keys(hear).filter((kind) => kind !== typist)) {
          const [user, state] = await hear[other]();
          assert.deepEqual([user, state], [`${typist}.${conversationId}`, isTyping], `${typist} heard by ${other}`);
        }
      }
    }
    await native.say("marker");
    for (const [one, event] of [[ringer, "message_received"], [guided, "message"], [player, "room_message"]]) await one.next(event);
    const leftOver = [...ringer.rest("user_typing"), ...guided.rest("typing"), ...player.rest("user_typing"), ...player.rest("typing")];
    assert.deepEqual(leftOver, []);
  });

  test("broadcasts and cursors reach native and ChordMe clients, and no others", limited, async (t) => {
    const conversation = "passing";
    const { native, ring: ringer, guide: guided, chordme: player } = await members(t, conversation);
    player.tell("broadcast_message", { room_id: conversation, message: { chord: "Am" } });
    const { user_id, event, data } = await native.frames.until("broadcast");
    assert.deepEqual({ user_id, event, data }, { user_id: "chordme.passing", event: "message", data: { chord: "Am" } });
    native.tell({ type: "broadcast", event: "message", data: ["back"] });
    holds(await player.next("room_message"), { user_id: "native.passing", message: ["back"] });
    player.tell("cursor_update", { room_id: conversation, position: { line: 3 } });
    const moved = await native.frames.until("cursor_moved");
    assert.deepEqual([moved.user_id, moved.position], ["chordme.passing", { line: 3 }]);
    native.tell({ type: "move_cursor", position: { line: 4 } });
    holds(await player.next("cursor_moved"), { user_id: "native.passing", position: { line: 4 } });
    await native.say("marker");
    await ringer.next("message_received");
    await guided.next("message");
    for (const one of [ringer, guided]) {
      const strange = one.log.map((heard) => heard.event).filter((name) => !["connected", "presence_update"].includes(name));
      assert.deepEqual(strange, [], one.sub);
    }
  });

  test("a connection that joined in two vocabularies gets each message once in both forms", limited, async (t) => {
    const conversationId = "both";
    const native = await talker(server, "native.both", "Native", conversationId);
    t.after(() => native.close());
    const both = await ring(t, "both.both");
    const other = await chordme(t, "other.both");
    await other.done("join_room", { room_id: conversationId });
    await both.done("join_conversation", conversationId);
    holds(await both.done("join_room", { room_id: conversationId }), { participant_count: 3 });
    const forms = async (count) => {
      const received = (await both.take("message_received", count)).map(({ content }) => content);
      const room = (await both.take("room_message", count)).map(({ message }) => message.content);
      return [received, room];
    };
    for (const content of ["one", "two"]) await native.say(content);
    await both.done("send_message", { conversationId, content: "three" });
    await native.say("four");
    const all = ["one", "two", "three", "four"];
    assert.deepEqual(await forms(4), [all, all]);
    // After leaving in one vocabulary the other subscription stays, and the user is still in the room.
    await both.done("leave_conversation", conversationId);
    await native.say("only the room's");
    assert.equal((await both.next("room_message")).message.content, "only the room's");
    await both.done("join_conversation", conversationId);
    await both.done("leave_room", { room_id: conversationId });
    await native.say("only the conversation's");
    assert.equal((await both.next("message_received")).content, "only the conversation's");
    assert.deepEqual([both.rest("message_received"), both.rest("room_message")], [[], []]);
    await other.take("room_message", 6);
    assert.deepEqual(other.rest("user_left"), [], "the user was there all the time");
  });

  test("native clients see that a Socket.IO client's connection ended", limited, async (t) => {
    const { native, ring: ringer, chordme: player } = await members(t, "gone");
    ringer.tell("typing_start", "gone");
    assert.equal((await native.frames.until("typing_indicator")).is_typing, true);
    ringer.close();
    assert.equal((await native.frames.until("typing_indicator")).is_typing, false);
    const { user_id, online } = await bounded(native.frames.until("presence_update").then(async (frame) => {
      let update = frame;
      // With --dev a native client gets the presence of every user of the instance.
      while (update.online || update.user_id !== "ring.gone") update = await native.frames.until("presence_update");
      return update;
    }), "the absence");
    assert.deepEqual([user_id, online], ["ring.gone", false]);
    assert.equal((await player.next("user_left")).user_id, "ring.gone");
  });
});
