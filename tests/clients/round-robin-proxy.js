// An HTTP load balancer without sticky sessions: each request or WebSocket of a session goes to the next server, and so
// does each new session. It records the servers, so that a test can check that the requests reached all of them.
import { once } from "node:events";
import { createServer, request as httpRequest } from "node:http";
import { buffer } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * Starts a proxy for the servers at `urls`. WebSockets are passed on only after `upgradeDelayMs`, as by a slow network.
 */
export async function startRoundRobinProxy(urls, { upgradeDelayMs = 0 } = {}) {
  const proxy = new RoundRobinProxy(urls, upgradeDelayMs);
  proxy.listener.listen(0, "127.0.0.1");
  await once(proxy.listener, "listening");
  proxy.url = `http://127.0.0.1:${proxy.listener.address().port}`;
  return proxy;
}

class RoundRobinProxy {
  constructor(urls, upgradeDelayMs) {
    this.servers = urls.map((url) => new URL(url));
    this.upgradeDelayMs = upgradeDelayMs;
    // Counted for each session: clients that receive the same events poll together, so with one count for all of them a
    // client could reach the same server every time.
    this.turns = new Map();
    /**
     * The requests in order: the session's id, the index of the server, and the status, which is 502 without an answer.
     */
    this.passed = [];
    this.sockets = new Set();
    this.listener = createServer((request, response) => this.pass(request, response));
    this.listener.on("upgrade", (request, socket, head) => this.passUpgrade(request, socket, head));
  }

  /** For each server, the number of matching requests that it got. */
  counts(matches = () => true) {
    return this.servers.map((_, index) => this.passed.filter(({ server, ...rest }) => server === index && matches(rest)).length);
  }

  async pass(request, response) {
    const hungUp = new AbortController();
    response.once("close", () => hungUp.abort());
    const entry = this.enter(request, false);
    try {
      const { answer } = await this.ask(entry, request, await buffer(request), hungUp.signal);
      response.writeHead(answer.statusCode, answer.headers);
      await pipeline(answer, response);
    } catch {
      if (hungUp.signal.aborted) return;
      entry.status = 502;
      if (response.headersSent) response.destroy();
      else response.writeHead(502).end();
    }
  }

  async passUpgrade(request, client, head) {
    const hungUp = new AbortController();
    this.keep(client);
    client.once("close", () => hungUp.abort());
    await sleep(this.upgradeDelayMs);
    const entry = this.enter(request, true);
    try {
      const { answer, socket, head: first } = await this.ask(entry, request, "", hungUp.signal);
      if (!socket) return void client.end(`HTTP/1.1 ${answer.statusCode} Refused\r\nConnection: close\r\n\r\n`);
      this.keep(socket);
      for (const [one, other] of [[client, socket], [socket, client]]) one.once("close", () => other.destroy());
      client.write(`HTTP/1.1 101 Switching Protocols\r\n${headerLines(answer.rawHeaders)}\r\n`);
      client.write(first);
      socket.write(head);
      client.pipe(socket).pipe(client);
    } catch {
      if (hungUp.signal.aborted) return;
      entry.status = 502;
      client.end("HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n");
    }
  }

  enter(request, isUpgrade) {
    const sid = new URL(request.url, this.url).searchParams.get("sid");
    const entry = { method: request.method, sid, isUpgrade, server: null, status: null };
    this.passed.push(entry);
    return entry;
  }

  /** Sends the request to the next server, or to the one after it if the connection is refused, as balancers do. */
  async ask(entry, { method, url: path, headers }, body, signal) {
    const turn = this.turns.get(entry.sid) ?? this.turns.size;
    this.turns.set(entry.sid, turn + 1);
    for (let attempt = 0; ; attempt += 1) {
      entry.server = (turn + attempt) % this.servers.length;
      const { hostname: host, port } = this.servers[entry.server];
      const upstream = httpRequest({ host, port, path, method, headers, agent: false, signal }).end(body);
      try {
        const [answer, socket, head] = await Promise.race([once(upstream, "response"), once(upstream, "upgrade")]);
        // Errors after the head of the answer are reported by the answer's stream or the socket.
        upstream.on("error", () => {});
        entry.status = answer.statusCode;
        return { answer, socket, head };
      } catch (error) {
        if (error.code !== "ECONNREFUSED" || attempt === this.servers.length - 1) throw error;
      }
    }
  }

  keep(socket) {
    this.sockets.add(socket);
    socket.on("error", () => socket.destroy());
    socket.once("close", () => this.sockets.delete(socket));
  }

  async close() {
    const closed = once(this.listener, "close");
    this.listener.close();
    this.listener.closeAllConnections();
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }
}

function headerLines(rawHeaders) {
  let lines = "";
  for (let at = 0; at < rawHeaders.length; at += 2) lines += `${rawHeaders[at]}: ${rawHeaders[at + 1]}\r\n`;
  return lines;
}
