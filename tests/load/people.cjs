// The functions of chat.yml: `listen` records all frames of a room, and `judge` checks at the end what one user
// received.
"use strict";

const { MESSAGES, assertNoGap, heard, nextMessage } = require("./heard.cjs");

const ROOM = "load-room";

function listen(context, events, done) {
  const alone = { conversation: `load-own-${context.vars.$uuid}`, told: [] };
  const own = { joinedAt: null, seqs: [], sentAtMs: new Map(), acks: 0, errors: [], alone };
  heard.set(context.vars.$uuid, own);
  context.ws.on("message", (data) => hear(own, events, JSON.parse(data)));
  events.emit("counter", "chat.errors", 0);
  done();
}

function hear(own, events, frame) {
  if (frame.type === "error") {
    own.errors.push(`${frame.code}: ${frame.message}`);
    events.emit("counter", "chat.errors", 1);
  }
  if (frame.conversation_id === own.alone.conversation) own.alone.told.push(frame.message?.content ?? frame.type);
  if (frame.conversation_id !== ROOM) return;
  if (frame.type === "conversation_joined") own.joinedAt = frame.head_seq;
  if (frame.type === "new_message") own.seqs.push(frame.seq);
  if (frame.type === "message_ack") {
    own.acks += 1;
    events.emit("counter", "chat.acks", 1);
    events.emit("histogram", "chat.ack_ms", Date.now() - own.sentAtMs.get(frame.client_id));
  }
}

async function judge(context) {
  const own = heard.get(context.vars.$uuid);
  heard.delete(context.vars.$uuid);
  if (own.errors.length) throw new Error(`error frames: ${own.errors.join(", ")}`);
  const alone = ["conversation_joined", `to myself ${context.vars.$uuid}`, "conversation_left"];
  if (own.alone.told.join() !== alone.join()) throw new Error(`alone it was told ${own.alone.told.join(", ")}`);
  if (own.joinedAt === null) throw new Error("the room was never joined");
  if (own.acks !== MESSAGES) throw new Error(`${own.acks} acks for ${MESSAGES} messages`);
  assertNoGap(own.seqs, own.joinedAt);
  if (own.seqs.length < MESSAGES) throw new Error("own messages did not come back");
}

module.exports = { listen, nextMessage, judge };
