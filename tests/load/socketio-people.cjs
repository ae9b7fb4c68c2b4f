// What artillery's steps cannot say of Socket.IO: listens to a whole room, and judges at the end what one person heard in it.
"use strict";

const { MESSAGES, assertNoGap, heard, nextMessage } = require("./heard.cjs");

function listen(context, events, done) {
  const own = { seqs: [], sentAtMs: new Map(), ownMessages: 0, errors: [] };
  heard.set(context.vars.$uuid, own);
  const room = `sio-room-${context.vars.transport}`;
  const socket = context.sockets[""];
  socket.on("message_received", (message) => {
    if (message.conversationId === room) hear(own, events, message);
  });
  for (const event of ["error", "auth_error", "connection_error", "disconnect"]) {
    socket.on(event, (what) => {
      own.errors.push(`${event}: ${what?.code ?? what}`);
      events.emit("counter", "chat.errors", 1);
    });
  }
  events.emit("counter", "chat.errors", 0);
  done();
}

function hear(own, events, message) {
  own.seqs.push(message.seq);
  const sentAtMs = own.sentAtMs.get(message.clientId);
  if (sentAtMs === undefined) return;
  own.ownMessages += 1;
  events.emit("counter", "chat.own_messages", 1);
  events.emit("histogram", "chat.heard_ms", Date.now() - sentAtMs);
}

async function judge(context) {
  const own = heard.get(context.vars.$uuid);
  heard.delete(context.vars.$uuid);
  const { transport } = context.sockets[""].io.engine;
  if (transport.name !== context.vars.transport) throw new Error(`went over ${transport.name}`);
  context.sockets[""].off("disconnect"); // From here on it is the engine that leaves.
  if (own.errors.length) throw new Error(`errors: ${own.errors.join(", ")}`);
  const joinedAt = Number(context.vars.joinedAt);
  if (!Number.isInteger(joinedAt)) throw new Error("the room was never joined");
  assertNoGap(own.seqs, joinedAt);
  if (own.ownMessages !== MESSAGES) throw new Error(`${own.ownMessages} of ${MESSAGES} own messages came back`);
}

module.exports = { listen, nextMessage, judge };
