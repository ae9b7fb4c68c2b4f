// The published browser bundle of socket.io-client in Chromium, on a page of another origin: CORS, upgrades, reconnects.
import { strict as assert } from "node:assert";
import { once } from "node:events";
import { readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, describe, test } from "node:test";
import { Browser, chromiumPath } from "./browser.js";
import { binary, needs, startCarillon } from "./carillon.js";
import { clientsOf, holds, PATHS, startServer, TRANSPORTS, WAIT_MS_MAX } from "./socketio.js";
import { token } from "./tokens.js";

const limited = { timeout: 45_000 };
const file = (path) => readFileSync(new URL(path, import.meta.url));

/** Serves the page and the library, as an application's own web server would. */
async function startPages() {
  const files = {
    "/": ["text/html", file("socketio-page.html")],
    "/socket.io.min.js": ["text/javascript", file("node_modules/socket.io-client/dist/socket.io.min.js")],
  };
  const pages = createServer(({ url }, response) => {
    const [type, content] = files[url] ?? ["text/plain", ""];
    response.writeHead(content ? 200 : 404, { "content-type": type }).end(content);
  });
  pages.listen(0, "127.0.0.1");
  await once(pages, "listening");
  return pages;
}

describe("a browser's Socket.IO client", { timeout: 120_000, ...needs(binary, chromiumPath) }, () => {
  let server;
  let browser;
  let pages;
  const { make, ring } = clientsOf(() => server);
  before(async () => {
    [server, browser, pages] = await Promise.all([startServer(), Browser.launch(), startPages()]);
  });
  after(async () => {
    await browser?.close();
    pages?.close();
    await server?.stop();
  });

  // A poll that crosses the library's own close packet gets 400, because the session has ended
  // (docs/protocol.md#polling).
  const CROSSED_POLL = /status of 400/;
  // Some tests cut the connection on purpose, and the browser reports that on its console.
  const OUTAGE = /WebSocket connection to .* failed|net::ERR_/;

  /**
   * A window with storage of its own on the page. An error or warning of the browser that is not tolerated fails the
   * test.
   */
  const open = async (t, tolerated = /^$/) => {
    const context = await browser.chromium.newContext();
    const page = await context.newPage();
    const problems = [];
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("console", (line) => {
      const isTolerated = [OUTAGE, tolerated].some((pattern) => pattern.test(line.text()));
      if (["error", "warning"].includes(line.type()) && !isTolerated) problems.push(`${line.text()} ${line.location().url}`);
    });
    t.after(async () => {
      await context.close();
      assert.deepEqual(problems, [], "what the browser complained about");
    });
    page.setDefaultTimeout(WAIT_MS_MAX);
    await page.goto(`http://localhost:${pages.address().port}/`);
    return page;
  };
  const start = (page, options, url = server.url) => page.evaluate(([url, options]) => window.start(url, options), [url, options]);
  const started = async (t, sub, options, tolerated) => {
    const page = await open(t, tolerated);
    assert.deepEqual(await start(page, { path: PATHS.ring, auth: { token: token(sub, { name: sub }) }, ...options }), { connected: true });
    return page;
  };
  const ask = (page, ...args) => page.evaluate((args) => window.ask(...args), args);
  const transport = (page) => page.evaluate(() => window.socket.io.engine.transport.name);
  const count = (page, event, wanted) =>
    page.waitForFunction(([event, wanted]) => window.bodies(event).length >= wanted, [event, wanted]);
  const bodies = async (page, event, wanted) => {
    await count(page, event, wanted);
    return page.evaluate((event) => window.bodies(event), event);
  };

  for (const [name, transports] of Object.entries(TRANSPORTS)) {
    test(`two windows exchange messages over ${transports.join(", then ")}`, limited, async (t) => {
      const conversationId = `window-${name}`;
      const options = name === "upgrade" ? {} : { transports };
      const windows = [await started(t, `alice.${name}`, options), await started(t, `bob.${name}`, options)];
      const [alice, bob] = windows;
      for (const one of windows) holds(await ask(one, "join_conversation", conversationId), { ok: true });
      if (name === "upgrade") for (const one of windows) await one.waitForFunction(() => window.socket.io.engine.transport.name === "websocket");
      assert.deepEqual([await transport(alice), await transport(bob)], [transports.at(-1), transports.at(-1)]);
      await ask(alice, "typing_start", { conversationId });
      holds((await bodies(bob, "user_typing", 1))[0], { userId: `alice.${name}`, isTyping: true });
      const content = "Grüße & <b>🔔</b>";
      const ack = await ask(alice, "send_message", { conversationId, content });
      for (const one of windows) {
        holds((await bodies(one, "message_received", 1))[0], { id: ack.id, seq: 1, content, senderId: `alice.${name}` });
      }
      await ask(bob, "send_message", { conversationId, content: "back" });
      for (const one of windows) {
        assert.deepEqual((await bodies(one, "message_received", 2)).map(({ content }) => content), [content, "back"]);
      }
      assert.deepEqual(await alice.evaluate(() => window.bodies("user_typing")), []);
      holds(await ask(alice, "send_message", { conversationId, content: "" }), { ok: false });
    });
  }

  test("a window without a token is refused, and accepted with one", limited, async (t) => {
    for (const transports of Object.values(TRANSPORTS)) {
      const page = await open(t, CROSSED_POLL);
      const refused = await start(page, { path: PATHS.ring, transports });
      assert.deepEqual(refused, { message: "No authentication token provided", data: { code: "unauthorized" } });
      const auth = { token: token("late.window") };
      assert.deepEqual(await page.evaluate((auth) => window.again(auth), auth), { connected: true });
      holds(await ask(page, "join_conversation", "late-window"), { ok: true });
    }
  });

  test("a window that polls and disconnects gets 200 for both of its last posts", limited, async (t) => {
    const page = await started(t, "goodbye.window", { transports: ["polling"] }, CROSSED_POLL);
    holds(await ask(page, "join_conversation", "goodbye-window"), { ok: true });
    // The library posts Socket.IO's DISCONNECT, and after the answer Engine.IO's close packet.
    const goodbye = page.waitForResponse((response) => response.request().postData() === "1");
    await page.evaluate(() => window.socket.disconnect());
    assert.equal((await goodbye).status(), 200);
  });

  test("the guide's and ChordMe's vocabularies work in a window, with a Ring client in Node", limited, async (t) => {
    const page = await open(t);
    assert.deepEqual(await start(page, { path: PATHS.chordme }), { connected: true });
    await count(page, "connected", 1);
    await page.evaluate((token) => window.socket.emit("authenticate", { token: `Bearer ${token}` }), token("window"));
    holds((await bodies(page, "authenticated", 1))[0], { user_id: "window" });
    await page.evaluate(() => window.socket.emit("join_room", { room_id: "shared" }));
    holds((await bodies(page, "room_joined", 1))[0], { room_id: "shared", participant_count: 1 });
    holds(await ask(page, "subscribe", "conversation:shared"), { ok: true });
    const alice = await ring(t, "alice.shared");
    await alice.done("join_conversation", "shared");
    await alice.done("send_message", { conversationId: "shared", content: "from Node" });
    assert.equal((await bodies(page, "room_message", 1))[0].message.content, "from Node");
    assert.equal((await bodies(page, "message", 1))[0].content, "from Node");
    await page.evaluate(() => window.socket.emit("ping"));
    for (const event of ["heartbeat", "pong"]) await count(page, event, 1);
  });

  test("a page of a foreign origin is refused on every transport", limited, async (t) => {
    for (const origin of ["https://elsewhere.example", "http://localhost.elsewhere.example", "null"]) {
      for (const [name, transports] of Object.entries({ polling: ["polling"], websocket: ["websocket"] })) {
        const options = { sub: "foreign", path: PATHS.ring, transports, extraHeaders: { Origin: origin } };
        const error = await make(t, { ...options, reconnection: false }).refused();
        const status = name === "polling" ? error.description : Number(/\d{3}/.exec(error.description.message)?.[0]);
        assert.equal(status, 403, `${origin} over ${name}: ${error.message}`);
      }
    }
  });

  test("windows reconnect by themselves after a kill of the server, and get every message once", limited, async (t) => {
    let other = await startServer();
    t.after(async () => {
      await other.kill();
      rmSync(other.dataDir, { recursive: true, force: true });
    });
    const conversationId = "window-restart";
    const windows = [];
    for (const [name, transports] of Object.entries(TRANSPORTS)) {
      const page = await open(t);
      const auth = { token: token(`window-${name}`) };
      assert.deepEqual(await start(page, { path: PATHS.ring, transports, auth }, other.url), { connected: true });
      holds(await page.evaluate((id) => window.follow(id), conversationId), { ok: true });
      windows.push(page);
    }
    const say = (page, content) => ask(page, "send_message", { conversationId, content, clientId: content.replaceAll(" ", "-") });
    for (const content of ["before 1", "before 2"]) await say(windows[0], content);
    for (const page of windows) await count(page, "message_received", 2);
    await other.kill();
    for (const page of windows) await page.waitForFunction(() => !window.socket.connected);
    other = await startCarillon(other);
    const alice = await clientsOf(() => other).ring(t, "alice.restart");
    for (const content of ["missed 1", "missed 2"]) await alice.done("send_message", { conversationId, content });
    for (const page of windows) await page.waitForFunction(() => window.socket.connected, null, { timeout: 20_000 });
    await say(windows[1], "after");
    for (const page of windows) {
      const heard = await bodies(page, "message_received", 5);
      assert.deepEqual(heard.map(({ seq, content }) => [seq, content]), [
        [1, "before 1"], [2, "before 2"], [3, "missed 1"], [4, "missed 2"], [5, "after"],
      ]);
    }
  });
});
