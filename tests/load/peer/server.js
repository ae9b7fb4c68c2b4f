// The server that `bench --systems socketio-node` measures: a chat on Socket.IO's own server, with the part of Ring's
// vocabulary that the benchmark uses. It has no storage, no check of tokens and no rate limits.
//
//   node server.js --listen 127.0.0.1:PORT
"use strict";

const { randomUUID } = require("node:crypto");
const { createServer } = require("node:http");
const { parseArgs } = require("node:util");
const { Server } = require("socket.io");

// All clients of a run may connect at once.
const BACKLOG = 4096;
// The same limits as Carillon's.
const CONTENT_CHARS_MAX = 5000;
const ROOM_CHARS_MAX = 128;

const { listen } = parseArgs({ options: { listen: { type: "string", default: "127.0.0.1:8100" } } }).values;
const [, host, port] = /^(.+):(\d+)$/.exec(listen) ?? [];
if (port === undefined) throw new Error(`--listen ${listen}: give an address and a port, like 127.0.0.1:8100`);

const server = createServer((_, response) => response.writeHead(404).end());
// All other options have Socket.IO's defaults: both transports, no compression of WebSocket messages, one process.
const io = new Server(server, { path: "/api/socket", serveClient: false });
const headSeqs = new Map(); // room -> last seq, for rooms that have members
let users = 0;

io.of("/").adapter.on("delete-room", (room) => headSeqs.delete(room));

const isRoom = (id) => typeof id === "string" && id.length > 0 && id.length <= ROOM_CHARS_MAX;
const refusal = { ok: false, error: { code: "invalid_payload" } };

io.on("connection", (socket) => {
  users += 1;
  const user = `user-${users}`;

  socket.on("join_conversation", (conversationId, ack) => {
    if (!isRoom(conversationId)) return ack?.(refusal);
    // The prefix avoids a clash with Socket.IO's own rooms: every socket is in a room named by its id.
    const room = `c:${conversationId}`;
    // The in-memory adapter joins synchronously, so no message can come between the join and `headSeq`.
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

// Closing ends all connections. Then nothing keeps the process running.
process.on("SIGTERM", () => io.close());
server.listen({ host, port: Number(port), backlog: BACKLOG });
