// A TCP proxy in front of the server that a test can cut, or make swallow the server's words, as bad networks do.
import { once } from "node:events";
import { connect, createServer } from "node:net";

export async function startCutProxy(targetPort) {
  const proxy = new CutProxy(targetPort);
  proxy.server.listen(0, "127.0.0.1");
  await once(proxy.server, "listening");
  proxy.url = `http://127.0.0.1:${proxy.server.address().port}`;
  return proxy;
}

class CutProxy {
  constructor(targetPort) {
    this.targetPort = targetPort;
    this.isCut = false;
    this.isSwallowing = false;
    this.sockets = new Set();
    this.clients = new Set();
    this.server = createServer((client) => this.accept(client));
  }

  accept(client) {
    if (this.isCut) return void client.destroy();
    const upstream = connect(this.targetPort, "127.0.0.1");
    client.on("data", (chunk) => upstream.write(chunk));
    upstream.on("data", (chunk) => {
      const passing = this.passing(chunk);
      if (passing.length > 0 && !client.destroyed) client.write(passing);
    });
    this.clients.add(client);
    for (const [socket, other] of [[client, upstream], [upstream, client]]) {
      this.sockets.add(socket);
      socket.on("error", () => other.destroy());
      socket.on("close", () => {
        this.sockets.delete(socket);
        if (socket === upstream || this.clients.delete(client)) other.destroy();
      });
    }
  }

  /** What clients are told of a chunk. */
  passing(chunk) {
    if (this.isSwallowing) return "";
    const last = this.lastPassed?.exec(chunk.toString("latin1"));
    if (!last) return chunk;
    this.swallow();
    return chunk.subarray(0, last.index + last[0].length);
  }

  /** Ends every connection at once and refuses new ones. */
  cut() {
    this.isCut = true;
    for (const socket of this.sockets) socket.resetAndDestroy();
  }

  /** Ends every connection for the clients, while the server notices nothing; new ones pass. */
  lose() {
    const lost = [...this.clients];
    this.clients.clear();
    for (const client of lost) client.resetAndDestroy();
  }

  /** From now on, or when it has said what matches, the server is heard no more, while it still hears. */
  swallow(lastPassed) {
    this.lastPassed = lastPassed;
    this.isSwallowing = !lastPassed;
  }

  restore() {
    this.isCut = this.isSwallowing = false;
  }

  async close() {
    this.cut();
    this.server.close();
    await once(this.server, "close");
  }
}
