// A native client on the ws library that joins one conversation and sends messages to it.
import { once } from "node:events";
import WebSocket from "ws";
import { Frames } from "./frames.js";

export async function talker(server, userId, name, conversation_id) {
  const socket = new WebSocket(server.socketUrl(userId, name));
  const frames = new Frames();
  socket.on("message", (data) => frames.push(data));
  await once(socket, "open");
  const tell = (frame) => socket.send(JSON.stringify({ conversation_id, ...frame }));
  await frames.until("online_users");
  tell({ type: "join_conversation" });
  await frames.until("conversation_joined");
  return {
    frames,
    tell,
    async say(content) {
      const client_id = crypto.randomUUID();
      tell({ type: "send_message", content, client_id });
      for (;;) {
        const ack = await frames.until("message_ack");
        if (ack.client_id === client_id) return ack;
      }
    },
    async close() {
      if (socket.readyState === WebSocket.CLOSED) return;
      socket.close();
      await once(socket, "close");
    },
  };
}
