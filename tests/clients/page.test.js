// The demo page's protocol modules without a browser: frames in any order that a server may send, with simulated time.
import { strict as assert } from "node:assert";
import { beforeEach, describe, mock, test } from "node:test";
import { backoffMs, Client, CONVERSATION_ID, conversationIdOf, userIdOf } from "../../gateway/page/client.js";
import { Conversation } from "../../gateway/page/conversation.js";

const message = (seq, fields = {}) => ({
  type: "new_message",
  conversation_id: "c",
  seq,
  message: {
    id: `id-${seq}`, sender_id: "ben", sender_name: "Ben", content: `m${seq}`,
    timestamp: "2026-01-01T00:00:00.000Z", is_ai: false, ...fields,
  },
});
const contents = (conversation) => conversation.log.map(({ content }) => content);

describe("a conversation's log", () => {
  let conversation;
  beforeEach(() => {
    conversation = new Conversation("c");
    conversation.connected(2);
  });

  test("has each message once, in the order of seq, however they arrive", () => {
    for (const seq of [5, 3, 4, 3, 5]) conversation.apply(message(seq));
    conversation.older([message(1), message(2)], false);
    assert.deepEqual(contents(conversation), ["m1", "m2", "m3", "m4", "m5"]);
    assert.equal(conversation.cursor, 5);
    assert.equal(conversation.more, false);
  });

  for (const ackFirst of [true, false]) {
    test(`has an own message once, with the ${ackFirst ? "ack" : "event"} first`, () => {
      const own = { key: "k", clientId: "k", content: "m3", senderId: "ana", at: new Date(), state: "sending" };
      conversation.pending.push(own);
      const steps = [
        () => conversation.acknowledged({ client_id: "k", id: "id-3", seq: 3 }),
        () => conversation.apply(message(3, { sender_id: "ana", client_id: "k" })),
      ];
      for (const step of ackFirst ? steps : steps.reverse()) {
        step();
        assert.deepEqual(conversation.pending, []);
        assert.deepEqual(conversation.log.map(({ key, seq, state }) => [key, seq, state]), [["k", 3, "sent"]]);
      }
    });
  }

  test("an ack after its event does not overwrite the content that the server stored", () => {
    conversation.pending.push({ key: "k", clientId: "k", content: "as typed", senderId: "ana", at: new Date() });
    conversation.apply(message(3, { sender_id: "ana", content: "as stored" }));
    conversation.acknowledged({ client_id: "k", id: "id-3", seq: 3 });
    assert.deepEqual([contents(conversation), conversation.pending], [["as stored"], []]);
  });

  test("an ack of a message below the window does not add it: history does", () => {
    conversation.pending.push({ key: "k", clientId: "k", content: "old", senderId: "ana", at: new Date() });
    conversation.acknowledged({ client_id: "k", id: "id-1", seq: 1 });
    assert.deepEqual([conversation.log, conversation.pending], [[], []]);
  });

  test("an edit or deletion applies, whether it comes before or after its message", () => {
    conversation.apply(message(3));
    conversation.apply({ type: "message_updated", seq: 4, message: { id: "id-3", content: "edited" } });
    conversation.apply({ type: "message_deleted", seq: 5, message_id: "id-1" });
    conversation.apply({ type: "message_updated", seq: 6, message: { id: "id-1", content: "too late" } });
    conversation.older([message(1), message(2)], false);
    assert.deepEqual(contents(conversation), ["", "m2", "edited"]);
    const marks = conversation.log.map(({ deleted, edited }) => [Boolean(deleted), edited]);
    assert.deepEqual(marks, [[true, false], [false, false], [false, true]]);
    assert.equal(conversation.cursor, 6);
  });

  test("the seq of a receipt does not move the cursor", () => {
    conversation.apply({ type: "messages_read", seq: 90, user_id: "ben" });
    assert.equal(conversation.cursor, 2);
  });

  test("is bounded, and dropped messages can be loaded again", () => {
    conversation.more = false;
    for (let seq = 3; seq <= 5_000; seq += 1) {
      conversation.apply(message(seq));
      conversation.trim(false);
      assert.ok(conversation.log.length <= 2_000);
    }
    conversation.trim(true);
    assert.equal(conversation.log.length, 300);
    assert.equal(conversation.oldest, conversation.log[0].seq);
    assert.equal(conversation.more, true);
  });

  test("starts over when the server's head is below the cursor", () => {
    conversation.apply(message(3));
    conversation.disconnected();
    conversation.connected(1);
    assert.deepEqual([conversation.log, conversation.cursor, conversation.oldest, conversation.more], [[], 1, 2, true]);
  });
});

class FakeSocket {
  static OPEN = 1;
  static all = [];
  constructor(url) {
    Object.assign(this, { url, readyState: 1, sent: [], closed: false });
    FakeSocket.all.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close() {
    this.closed = true;
  }
  says(frame) {
    this.onmessage({ data: JSON.stringify(frame) });
  }
  take(type) {
    const found = this.sent.filter((frame) => frame.type === type);
    this.sent = this.sent.filter((frame) => frame.type !== type);
    return found;
  }
}

describe("the client", () => {
  let client;
  let conversation;
  let notices;
  let time;
  const socket = () => FakeSocket.all.at(-1);
  const admit = (head_seq) => {
    socket().says({ type: "online_users", users: ["ana"] });
    const [{ ref, after_seq }] = socket().take("join_conversation");
    assert.equal(after_seq, conversation.cursor ?? undefined);
    socket().says({ type: "conversation_joined", conversation_id: "c", head_seq, participant_count: 1, ref });
  };

  beforeEach(() => {
    mock.timers.reset();
    mock.timers.enable({ apis: ["setTimeout", "Date"], now: Date.UTC(2026, 0) });
    time = mock.timers;
    globalThis.WebSocket = FakeSocket;
    FakeSocket.all = [];
    notices = [];
    client = new Client({
      url: "ws://server/ws/ana", userId: "ana", name: "Ana",
      on: { change() {}, message() {}, notice: (text) => notices.push(text) },
    });
    conversation = client.join("c");
    client.connect();
  });

  test("joins once it is online, loads the last page, and resumes from its cursor after a lost connection", () => {
    admit(7);
    const [page] = socket().take("history");
    assert.equal(page.before_seq, 8);
    socket().says({ type: "history", conversation_id: "c", events: [message(6), message(7)], has_more: true, ref: page.ref });
    socket().says(message(8));
    client.loadOlder(conversation);
    socket().onclose({ code: 1006 });
    assert.deepEqual([client.state, client.asked.size, conversation.loading], ["waiting", 0, false]);
    time.tick(400);
    assert.equal(FakeSocket.all.length, 2);
    socket().says({ type: "online_users", users: ["ana"] });
    assert.equal(socket().take("join_conversation")[0].after_seq, 8);
  });

  test("a send that is refused temporarily is repeated after the given time, with the same client id", () => {
    admit(0);
    client.send(conversation, "hello");
    const [{ client_id, ref }] = socket().take("send_message");
    socket().says({ type: "error", code: "rate_limited", message: "slow down", ref, retry_after_ms: 1_500 });
    time.tick(1_499);
    assert.deepEqual(socket().take("send_message"), []);
    time.tick(1);
    assert.deepEqual(socket().take("send_message").map((again) => again.client_id), [client_id]);
    assert.equal(conversation.pending[0].state, "sending");
  });

  test("a send without an answer is repeated 5 times, then marked failed, and repeated on the next connection", () => {
    admit(0);
    client.send(conversation, "hello");
    const ids = new Set();
    let sends = 0;
    for (let second = 0; second < 300; second += 1) {
      for (const { client_id } of socket().take("send_message")) {
        ids.add(client_id);
        sends += 1;
      }
      socket().says({ type: "pong" });
      time.tick(1_000);
    }
    assert.deepEqual([ids.size, sends, conversation.pending[0].state], [1, 6, "failed"]);
    socket().onclose({ code: 1001 });
    time.tick(400);
    admit(0);
    assert.deepEqual(socket().take("send_message").map(({ client_id }) => client_id), [...ids]);
  });

  test("a send that is refused permanently fails with the reason, and is not repeated after a reconnect", () => {
    admit(0);
    client.send(conversation, "hello");
    const [{ client_id, ref }] = socket().take("send_message");
    socket().says({ type: "error", code: "forbidden", message: "you may not", ref });
    const [pending] = conversation.pending;
    assert.deepEqual([pending.state, pending.reason], ["failed", "you may not"]);
    socket().onclose({ code: 1006 });
    time.tick(400);
    admit(0);
    assert.deepEqual(socket().take("send_message"), []);
    client.retry(conversation, pending);
    assert.deepEqual(socket().take("send_message").map((again) => again.client_id), [client_id]);
  });

  test("a join refused temporarily is repeated; one refused permanently shows a notice and is dropped", () => {
    socket().says({ type: "online_users", users: [] });
    const [first] = socket().take("join_conversation");
    socket().says({ type: "error", code: "unavailable", message: "later", ref: first.ref, retry_after_ms: 200 });
    time.tick(200);
    const [second] = socket().take("join_conversation");
    socket().says({ type: "error", code: "forbidden", message: "no", ref: second.ref });
    assert.deepEqual(notices, ["no (c)"]);
    assert.equal(client.conversations.size, 0);
    assert.deepEqual(socket().take("leave_conversation"), []);
  });

  test("a join without an answer is repeated", () => {
    socket().says({ type: "online_users", users: [] });
    assert.equal(socket().take("join_conversation").length, 1);
    time.tick(10_000);
    time.tick(1_600);
    assert.equal(socket().take("join_conversation").length, 1);
  });

  test("the wait doubles with every failed attempt, until one succeeds", () => {
    for (let attempt = 0; attempt < 6; attempt += 1) {
      socket().onclose({ code: 1006 });
      time.tick(200 * 2 ** attempt - 1);
      assert.equal(FakeSocket.all.length, attempt + 1);
      time.tick(200 * 2 ** attempt + 1);
      assert.equal(FakeSocket.all.length, attempt + 2);
    }
    admit(0);
    socket().onclose({ code: 1006 });
    time.tick(400);
    assert.equal(FakeSocket.all.length, 8);
  });

  test("an error without a ref shows a notice, and the connection stays open", () => {
    admit(0);
    socket().says({ type: "error", code: "internal", message: "something broke" });
    socket().onmessage({ data: "not json" });
    socket().says({ type: "of_a_later_version", conversation_id: "c" });
    assert.deepEqual([notices, client.state], [["something broke"], "online"]);
  });

  for (const closesFirst of [false, true]) {
    test(`after "reconnect" it connects at the given time${closesFirst ? ", even if closed before" : ""}`, () => {
      admit(0);
      socket().says({ type: "reconnect", after_ms: 5_000 });
      time.tick(1_000);
      if (closesFirst) socket().onclose({ code: 1001, reason: "draining" });
      time.tick(3_999);
      assert.equal(FakeSocket.all.length, 1);
      time.tick(1);
      assert.equal(FakeSocket.all.length, 2);
      assert.ok(FakeSocket.all[0].closed);
    });
  }

  test("it sends a ping when nothing arrives, and gives the connection up when nothing arrives for longer", () => {
    admit(0);
    time.tick(25_000);
    assert.equal(socket().take("ping").length, 1);
    socket().says({ type: "pong" });
    time.tick(25_000);
    assert.equal(client.state, "online");
    time.tick(10_000);
    assert.equal(client.state, "waiting");
  });

  test("a connection that never opens is given up, and another one is tried", () => {
    time.tick(10_000);
    assert.equal(client.state, "waiting");
    time.tick(400);
    assert.equal(FakeSocket.all.length, 2);
  });

  test("after a close with 1008 it keeps the reason and does not reconnect by itself", () => {
    socket().onclose({ code: 1008, reason: "Too many connections" });
    time.tick(600_000);
    assert.deepEqual([client.state, client.reason, FakeSocket.all.length], ["refused", "Too many connections", 1]);
    client.hurry();
    assert.equal(FakeSocket.all.length, 2);
  });

  test("the start of typing is sent at most every three seconds, and its end once", () => {
    admit(0);
    for (let key = 0; key < 60; key += 1) {
      client.typing(conversation, true);
      time.tick(100);
    }
    client.typing(conversation, false);
    client.typing(conversation, false);
    assert.deepEqual([socket().take("typing_start").length, socket().take("typing_stop").length], [2, 1]);
  });

  test("the typing of another user ends after 6 s if its end is lost", () => {
    admit(0);
    socket().says({ type: "typing_indicator", conversation_id: "c", user_id: "ben", user_name: "Ben", is_typing: true });
    assert.equal(conversation.typists.size, 1);
    time.tick(6_000);
    assert.equal(conversation.typists.size, 0);
  });
});

describe("the text that users type", () => {
  test("becomes ids that the server accepts", () => {
    const ids = ["Ana Lúcia", "  Ben  ", "李", "a@b", "🎉", "--"].map((name) => userIdOf(name.trim()));
    assert.deepEqual(ids, ["ana-lucia", "ben", "u-674e", "a-b", "u-1f389", "u-2d-2d"]);
    assert.equal(conversationIdOf(" #release plan "), "release-plan");
    for (const [id, valid] of [["a:b.c_d@e-f", true], ["", false], ["a b", false], ["ü", false], ["x".repeat(129), false]]) {
      assert.equal(CONVERSATION_ID.test(id), valid, id);
    }
  });

  test("waits between attempts grow, are random, and have a bound", () => {
    for (let attempt = 0; attempt < 50; attempt += 1) {
      const ceilingMs = Math.min(15_000, 400 * 2 ** attempt);
      assert.equal(backoffMs(attempt, () => 0), ceilingMs / 2);
      assert.ok(backoffMs(attempt, () => 0.999) <= ceilingMs);
    }
  });
});
