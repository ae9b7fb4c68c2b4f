// The demo page in real browser windows: messages, presence and typing reach other windows, and a window that lost its
// connection misses nothing.
import { strict as assert } from "node:assert";
import { after, before, describe, test } from "node:test";
import { Browser, chromiumPath } from "./browser.js";
import { binary, needs, startCarillon } from "./carillon.js";
import { startCutProxy } from "./cut-proxy.js";
import { talker } from "./talker.js";

const bounded = { timeout: 60_000 };

/**
 * Runs in the page: scrolls near the top, waits for older messages, and returns how far the third message moved, in px.
 */
async function loadOlderByScrolling() {
  const scroller = document.querySelector("#scroller");
  const list = document.querySelector("#messages");
  const frames = (count) => new Promise((resolve) => requestAnimationFrame(() => resolve(count > 1 && frames(count - 1))));
  const read = list.querySelector(".message:nth-of-type(3)");
  const before = list.children.length;
  scroller.scrollTop = 100;
  const topPx = read.getBoundingClientRect().top;
  for (let waited = 0; list.children.length === before && waited < 300; waited += 1) await frames(1);
  await frames(3);
  return read.getBoundingClientRect().top - topPx;
}

describe("the demo page", { timeout: 300_000, ...needs(binary, chromiumPath) }, () => {
  let server;
  let browser;
  const owned = (t, thing) => {
    t.after(() => thing.close());
    return thing;
  };
  const open = async (t, { through = server, ...options } = {}) => owned(t, await browser.open(through.url, options));
  const talk = async (t, ...who) => owned(t, await talker(server, ...who));
  const cutProxy = async (t) => owned(t, await startCutProxy(server.port));

  before(async () => {
    server = await startCarillon();
    browser = await Browser.launch();
  });
  after(async () => {
    await browser?.close();
    await server?.stop();
  });

  test("two windows exchange messages, and see each other type, come and go", bounded, async (t) => {
    const ana = await open(t, { name: "Ana Lúcia", at: ["meeting"] });
    const ben = await open(t, { name: "Ben", at: ["meeting"] });
    await ana.sees("#people .person", "ben");
    await ben.sees("#people .person", "ana-lucia");

    await ben.page.locator("#text").pressSequentially("Good mor");
    await ana.sees("#typing", "Ben is typing");
    await ana.screenshot("typing");
    await ben.page.locator("#text").fill("");
    // It must end at once, not when the start of typing expires after 5 s.
    await ana.page.waitForFunction(() => document.querySelector("#typing").textContent === "", null, { timeout: 3_000 });
    assert.equal(await ben.page.locator("#typing").textContent(), "", "the typist was told of the own typing");

    await ben.say("Good morning");
    await ana.shows(["Good morning"]);
    await ana.say("Morning, Ben");
    await ben.say("Coffee?");
    const all = ["Good morning", "Morning, Ben", "Coffee?"];
    await ana.shows(all);
    await ben.shows(all);
    await ben.sees("#people .person", "Ana Lúcia");
    await ana.screenshot("conversation");

    await ben.close();
    await ana.misses("#people .person", "Ben");
  });

  test("content is shown as it was typed, and never becomes part of the page", bounded, async (t) => {
    const eve = await talk(t, "eve", "<i>Eve</i>", "escaping");
    const ana = await open(t, { name: "Ana", at: ["escaping"] });
    const hostile = ["<img src=x onerror=document.title='pwned'>", "<script>document.title='pwned'</script>", "a\n  b & c"];
    for (const content of hostile) await eve.say(content);
    await ana.shows(hostile);
    assert.equal(await ana.page.locator("#messages img, #messages script, #messages i").count(), 0);
    assert.ok(!(await ana.page.title()).includes("pwned"));
    await ana.sees("#messages .who", "<i>Eve</i>");
  });

  test("a window that lost its connection shows what it missed, in order and once", bounded, async (t) => {
    const proxy = await cutProxy(t);
    const ana = await open(t, { through: proxy, name: "Ana", at: ["tunnel"] });
    const ben = await talk(t, "ben", "Ben", "tunnel");
    await ben.say("before");
    await ana.shows(["before"]);

    proxy.cut();
    await ana.disconnected();
    for (const content of ["first missed", "second missed", "third missed"]) await ben.say(content);
    await ana.say("said in the tunnel");
    await ana.sees("#messages .message[data-state=sending]", "said in the tunnel");
    await ana.sees("#messages .state", "Waiting for the connection");
    await ana.screenshot("disconnected");
    assert.deepEqual(await ana.messages(), ["before", "said in the tunnel"]);

    proxy.restore();
    const all = ["before", "first missed", "second missed", "third missed", "said in the tunnel"];
    await ana.shows(all);
    await ben.say("welcome back");
    await ana.shows([...all, "welcome back"]);
    assert.deepEqual(await ana.inOrder(), [1, 2, 3, 4, 5, 6]);
  });

  test("a message whose ack was lost is sent again, and no window shows it twice", bounded, async (t) => {
    const proxy = await cutProxy(t);
    const ana = await open(t, { through: proxy, name: "Ana", at: ["lost-ack"] });
    const ben = await talk(t, "ben", "Ben", "lost-ack");
    await ana.say("hello");
    await ana.shows(["hello"]);

    proxy.swallow();
    await ana.say("did you hear me?");
    for (let frame; frame?.message.content !== "did you hear me?"; ) frame = await ben.frames.until("new_message");
    await ana.sees("#messages .message[data-state=sending]", "did you hear me?");
    proxy.cut();
    await ana.disconnected();
    proxy.restore();

    await ana.shows(["hello", "did you hear me?"]);
    await ana.say("marker");
    const next = await ben.frames.until("new_message");
    assert.deepEqual([next.seq, next.message.content], [3, "marker"], "the other heard the message again");
    const late = await open(t, { name: "Late", at: ["lost-ack"] });
    await late.shows(["hello", "did you hear me?", "marker"]);
  });

  test("scrolling up loads older messages, without a gap and without a jump", bounded, async (t) => {
    const talkers = await Promise.all(["t1", "t2", "t3"].map((id) => talk(t, id, id, "archive")));
    const said = [];
    for (let number = 1; number <= 120; number += 1) {
      said.push(`message ${number}`);
      await talkers[number % 3].say(said.at(-1));
    }
    const ana = await open(t, { name: "Ana", at: ["archive"] });
    await ana.sees("#messages .text", /^message 120$/);
    assert.ok((await ana.messages()).length < 120, "everything was loaded at once");
    await ana.page.waitForFunction(() => {
      const { scrollTop, scrollHeight, clientHeight } = document.querySelector("#scroller");
      return scrollHeight - scrollTop - clientHeight < 2;
    });
    for (let pages = 0; pages < 10 && (await ana.messages()).length < 120; pages += 1) {
      const movedPx = await ana.page.evaluate(loadOlderByScrolling);
      assert.ok(Math.abs(movedPx) <= 2, `what was being read moved by ${movedPx} px`);
    }
    await ana.shows(said);
    await talkers[0].say("down here");
    await ana.page.locator("#jump").click();
    await ana.shows([...said, "down here"]);
  });

  test("every action works from the keyboard, and a reload restores the conversations", bounded, async (t) => {
    const ana = await open(t);
    const { keyboard } = ana.page;
    await keyboard.type("Ana Keys");
    await keyboard.press("Tab");
    await keyboard.type("keys one");
    await keyboard.press("Enter");
    await ana.connected();
    await keyboard.type("line one");
    await keyboard.press("Shift+Enter");
    await keyboard.type("line two");
    await keyboard.press("Enter");
    await ana.shows(["line one\nline two"]);

    await ana.page.locator("#join-id").waitFor();
    for (let presses = 0; presses < 15; presses += 1) {
      if (await ana.page.evaluate(() => document.activeElement.id === "join-id")) break;
      await keyboard.press("Shift+Tab");
      const ring = await ana.page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
      assert.notEqual(ring, "none", "the focus cannot be seen");
    }
    await keyboard.type("keys-two");
    await keyboard.press("Enter");
    await ana.sees("#title", "keys-two");
    await keyboard.type("in the second");
    await keyboard.press("Enter");
    await ana.shows(["in the second"]);
    await keyboard.press("Alt+ArrowUp");
    await ana.sees("#title", "keys-one");
    await ana.shows(["line one\nline two"]);

    await ana.page.reload();
    await ana.connected();
    await ana.sees("#title", "keys-one");
    assert.deepEqual(await ana.page.locator("#conversations .label").allInnerTexts(), ["keys-one", "keys-two"]);
    await ana.shows(["line one\nline two"]);
  });

  test("a screen reader finds a name for every control, and new messages are announced", bounded, async (t) => {
    const ana = await open(t, { name: "Ana", at: ["spoken"] });
    for (const [role, name] of [
      ["textbox", "Message"], ["button", "Send"], ["region", "Messages"], ["heading", "spoken"],
      ["textbox", "Join another conversation"], ["button", "Change name"], ["navigation", "Conversations"],
    ]) {
      assert.equal(await ana.page.getByRole(role, { name, exact: true }).count(), 1, `${role} "${name}"`);
    }
    const ben = await talk(t, "ben", "Ben", "spoken");
    await ben.say("can you hear this?");
    await ana.sees("#announcer[role=status]", "Ben: can you hear this?");
  });

  test("the list of conversations shows the number of unread messages of each", bounded, async (t) => {
    const ana = await open(t, { name: "Ana", at: ["front", "back"] });
    const ben = await talk(t, "ben", "Ben", "back");
    await ben.say("one");
    await ben.say("two");
    await ana.sees("#conversations .count", "2");
    await ana.page.locator("#conversations button", { hasText: "back" }).click();
    await ana.shows(["one", "two"]);
    await ana.page.waitForFunction(() => !document.querySelector("#conversations .count"));
  });

  test("the page fits a phone, in light and dark colours", bounded, async (t) => {
    const phone = { viewport: { width: 360, height: 720 }, hasTouch: true, isMobile: true, colorScheme: "dark" };
    const ana = await open(t, { name: "Ana", at: ["pocket"], ...phone });
    const ben = await talk(t, "ben", "Ben", "pocket");
    await ben.say(`a long word: ${"carillon".repeat(30)}`);
    await ana.sees("#messages .text", "a long word");
    await ana.screenshot("phone-dark");
    await ana.page.emulateMedia({ colorScheme: "light" });
    await ana.screenshot("phone-light");
    const overflowPx = await ana.page.evaluate(() =>
      [document.documentElement, document.querySelector("#scroller")].map((box) => box.scrollWidth - box.clientWidth));
    assert.deepEqual(overflowPx, [0, 0], "the page or its messages scroll sideways");
    await ana.page.locator("#join-id").waitFor({ state: "hidden" });
    await ana.page.locator("#menu").tap();
    await ana.page.locator("#join-id").waitFor({ state: "visible" });
    await ana.screenshot("phone-menu");
    await ana.page.keyboard.press("Escape");
    await ana.page.locator("#join-id").waitFor({ state: "hidden" });
  });
});

describe("the demo page and its server", { timeout: 120_000, ...needs(binary, chromiumPath) }, () => {
  test("a window reconnects after a restart of the server, and no message is lost", { timeout: 100_000 }, async () => {
    const browser = await Browser.launch();
    const first = await startCarillon();
    let second;
    try {
      const ana = await browser.open(first.url, { name: "Ana", at: ["restart"] });
      await ana.say("before the restart");
      await ana.shows(["before the restart"]);
      await first.stop({ keepData: true });
      await ana.disconnected();
      await ana.say("while it was away");
      second = await startCarillon(first);
      await ana.shows(["before the restart", "while it was away"]);
      await ana.say("after it");
      await ana.shows(["before the restart", "while it was away", "after it"]);
      assert.deepEqual(await ana.inOrder(), [1, 2, 3]);
      } finally {
      await browser.close();
      await first.kill();
      await second?.stop();
    }
  });
});
