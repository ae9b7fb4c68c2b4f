// A TCP proxy in front of the server that imitates bad networks: it can cut connections or drop the server's bytes.
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

  /** The part of a chunk from the server that is passed on to the client. */
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

  /** Ends every connection on the clients' side only: the server does not notice. New connections work. */
  lose() {
    const lost = [...this.clients];
    this.clients.clear();
    for (const client of lost) client.resetAndDestroy();
  }

  /**
   * Drops the server's bytes, from now on or after the first match of `lastPassed`. The clients' bytes still reach the
   * server.
   */
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
