// The functions of socketio.yml: `listen` records all events of a room, and `judge` checks at the end what one user
// received.
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
  context.sockets[""].off("disconnect"); // After this function artillery's engine itself disconnects.
  if (own.errors.length) throw new Error(`errors: ${own.errors.join(", ")}`);
  const joinedAt = Number(context.vars.joinedAt);
  if (!Number.isInteger(joinedAt)) throw new Error("the room was never joined");
  assertNoGap(own.seqs, joinedAt);
  if (own.ownMessages !== MESSAGES) throw new Error(`${own.ownMessages} of ${MESSAGES} own messages came back`);
}

module.exports = { listen, nextMessage, judge };
