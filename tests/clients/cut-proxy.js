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
    this.server = createServer((client) => this.accept(client));
  }

  accept(client) {
    if (this.isCut) return void client.destroy();
    const upstream = connect(this.targetPort, "127.0.0.1");
    client.on("data", (chunk) => upstream.write(chunk));
    upstream.on("data", (chunk) => this.isSwallowing || client.write(chunk));
    for (const [socket, other] of [[client, upstream], [upstream, client]]) {
      this.sockets.add(socket);
      socket.on("error", () => other.destroy());
      socket.on("close", () => {
        this.sockets.delete(socket);
        other.destroy();
      });
    }
  }

  /** Ends every connection at once and refuses new ones. */
  cut() {
    this.isCut = true;
    for (const socket of this.sockets) socket.resetAndDestroy();
  }

  /** From now on the server is heard no more, while it still hears. */
  swallow() {
    this.isSwallowing = true;
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
