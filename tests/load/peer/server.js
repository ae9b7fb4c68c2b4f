// The peer that `bench --systems socketio-node` measures: a chat on Socket.IO's own server, with as much of Ring's
// vocabulary as the benchmark speaks. It keeps nothing: no storage, no tokens, no limits on rates.
//
//   node server.js --listen 127.0.0.1:PORT
"use strict";

const { randomUUID } = require("node:crypto");
const { createServer } = require("node:http");
const { parseArgs } = require("node:util");
const { Server } = require("socket.io");

// As many as may arrive at once: all clients of a run.
const BACKLOG = 4096;
// What Carillon refuses too.
const CONTENT_CHARS_MAX = 5000;
const ROOM_CHARS_MAX = 128;

const { listen } = parseArgs({ options: { listen: { type: "string", default: "127.0.0.1:8100" } } }).values;
const [, host, port] = /^(.+):(\d+)$/.exec(listen) ?? [];
if (port === undefined) throw new Error(`--listen ${listen}: give an address and a port, like 127.0.0.1:8100`);

const server = createServer((_, response) => response.writeHead(404).end());
// Everything else is as Socket.IO ships: both transports, no compression of WebSocket messages, one process.
const io = new Server(server, { path: "/api/socket", serveClient: false });
const headSeqs = new Map(); // by room, of rooms that somebody is in
let users = 0;

io.of("/").adapter.on("delete-room", (room) => headSeqs.delete(room));

const isRoom = (id) => typeof id === "string" && id.length > 0 && id.length <= ROOM_CHARS_MAX;
const refusal = { ok: false, error: { code: "invalid_payload" } };

io.on("connection", (socket) => {
  users += 1;
  const user = `user-${users}`;

  socket.on("join_conversation", (conversationId, ack) => {
    if (!isRoom(conversationId)) return ack?.(refusal);
    // A prefix, because every socket is alone in a room that has its id.
    const room = `c:${conversationId}`;
    // The adapter in memory joins at once, so no message comes between the joining and the number.
    socket.join(room);
    const participantCount = io.of("/").adapter.rooms.get(room).size;
    ack?.({ ok: true, conversationId, headSeq: headSeqs.get(room) ?? 0, participantCount });
  });

  socket.on("send_message", (message, ack) => {
    const { conversationId, content } = message ?? {};
    const room = `c:${conversationId}`;
    if (typeof content !== "string" || content.length > CONTENT_CHARS_MAX) return ack?.(refusal);
    if (!socket.rooms.has(room)) return ack?.({ ok: false, error: { code: "forbidden" } });
    const seq = (headSeqs.get(room) ?? 0) + 1;
    headSeqs.set(room, seq);
    const id = randomUUID();
    const timestamp = new Date().toISOString();
    io.to(room).emit("message_received", {
      id,
      conversationId,
      seq,
      senderId: user,
      senderName: user,
      content,
      type: "text",
      timestamp,
    });
    ack?.({ ok: true, id, seq, timestamp, conversationId });
  });
});

// Closing ends all connections, after which nothing keeps the process.
process.on("SIGTERM", () => io.close());
server.listen({ host, port: Number(port), backlog: BACKLOG });
