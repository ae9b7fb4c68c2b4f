// The first steps of the native protocol with the real wscat program, as a person types them who tries the server.
import { strict as assert } from "node:assert";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { binary, needs, startCarillon } from "./carillon.js";
import { Frames } from "./frames.js";

const program = createRequire(import.meta.url).resolve("wscat/bin/wscat");
const TEST_MS_MAX = 30_000;

class Wscat {
  constructor(url) {
    this.frames = new Frames();
    this.process = spawn(process.execPath, [program, "--connect", url], { stdio: ["pipe", "pipe", "inherit"] });
    // Without a terminal wscat prints its prompt before the next line of output.
    createInterface({ input: this.process.stdout }).on("line", (line) => {
      const json = line.replace(/^(> )+/, "");
      if (json) this.frames.push(json);
    });
  }

  type(frame) {
    this.process.stdin.write(`${JSON.stringify(frame)}\n`);
  }

  async close() {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    this.process.stdin.end();
    await once(this.process, "exit");
  }
}

describe("wscat", { timeout: 120_000, ...needs(binary) }, () => {
  let server;
  const open = [];
  const wscat = (path) => {
    open.push(new Wscat(`ws://127.0.0.1:${server.port}${path}`));
    return open.at(-1);
  };
  before(async () => (server = await startCarillon()));
  after(async () => {
    await Promise.all(open.map((session) => session.close()));
    await server?.stop();
  });

  test("gets online_users first, then the answer to a join", { timeout: TEST_MS_MAX }, async () => {
    const session = wscat("/ws/test-user");
    const first = await session.frames.next();
    assert.equal(first.type, "online_users");
    assert.ok(first.users.includes("test-user"), JSON.stringify(first));
    session.type({ type: "join_conversation", conversation_id: "wscat-join" });
    const second = await session.frames.next();
    assert.equal(second.type, "conversation_joined");
    assert.equal(second.conversation_id, "wscat-join");
    assert.equal(second.head_seq, 0);
    assert.equal(second.participant_count, 1);
  });

  test("sends without a client id and receives its own message, and no ack", { timeout: TEST_MS_MAX }, async () => {
    const session = wscat("/ws/plain-sender?name=Plain%20Sender");
    await session.frames.until("online_users");
    session.type({ type: "join_conversation", conversation_id: "wscat-send" });
    await session.frames.until("conversation_joined");
    session.type({ type: "send_message", conversation_id: "wscat-send", content: "typed by hand", persona_id: null });
    const frame = await session.frames.next();
    assert.equal(frame.type, "new_message");
    assert.equal(frame.conversation_id, "wscat-send");
    assert.equal(frame.seq, 1);
    const { id, sender_id, sender_name, content, content_type, is_ai } = frame.message;
    assert.deepEqual(
      { sender_id, sender_name, content, content_type, is_ai },
      { sender_id: "plain-sender", sender_name: "Plain Sender", content: "typed by hand", content_type: "text", is_ai: false },
    );
    assert.match(id, /^[0-9a-f-]{36}$/);
    session.type({ type: "ping" });
    assert.equal((await session.frames.next()).type, "pong", "an ack came for a send that asked for none");
  });

  test("its typing reaches the other member, and not itself", { timeout: TEST_MS_MAX }, async () => {
    const typist = wscat("/ws/typist?name=Tia");
    const reader = wscat("/ws/reader");
    for (const session of [typist, reader]) {
      await session.frames.until("online_users");
      session.type({ type: "join_conversation", conversation_id: "wscat-typing" });
      await session.frames.until("conversation_joined");
    }
    for (const [type, isTyping] of [["typing_start", true], ["typing_stop", false]]) {
      typist.type({ type, conversation_id: "wscat-typing" });
      const { conversation_id, user_id, user_name, is_typing } = await reader.frames.until("typing_indicator");
      assert.deepEqual(
        { conversation_id, user_id, user_name, is_typing },
        { conversation_id: "wscat-typing", user_id: "typist", user_name: "Tia", is_typing: isTyping },
      );
    }
    typist.type({ type: "ping" });
    const heard = [];
    for (let frame; frame?.type !== "pong"; heard.push(frame.type)) frame = await typist.frames.next();
    assert.ok(!heard.includes("typing_indicator"), `the typist heard ${heard}`);
  });

  test("a mistyped frame gets an error, and the connection stays open", { timeout: TEST_MS_MAX }, async () => {
    const session = wscat("/ws/clumsy");
    await session.frames.until("online_users");
    session.process.stdin.write("hello?\n");
    const invalid = await session.frames.next();
    assert.deepEqual([invalid.type, invalid.code], ["error", "invalid_frame"]);
    session.type({ type: "jion_conversation", conversation_id: "wscat-slip", ref: "r1" });
    const unknown = await session.frames.next();
    assert.deepEqual([unknown.type, unknown.code, unknown.ref], ["error", "invalid_payload", "r1"]);
    session.type({ type: "ping", ref: "r2" });
    const pong = await session.frames.next();
    assert.deepEqual([pong.type, pong.ref], ["pong", "r2"]);
  });
});
