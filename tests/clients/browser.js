// Opens the demo page in a real Chromium, and checks what a person would see on the screen.
import { strict as assert } from "node:assert";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

export const chromiumPath = process.env.CHROMIUM || "/usr/bin/chromium";
const screenshots = process.env.SCREENSHOT_DIR || tmpdir();
// The page waits up to 15 s before it tries to connect again.
const SIGHT_MS_MAX = 20_000;
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

export class Browser {
  static async launch() {
    const browser = new Browser();
    browser.chromium = await chromium.launch({ executablePath: chromiumPath, headless: true, args: FLAGS });
    return browser;
  }

  /** A window with storage of its own. `at` names the conversations; the page shows the first one. */
  async open(url, { name, at = [], ...options } = {}) {
    const context = await this.chromium.newContext({ viewport: { width: 1200, height: 760 }, ...options });
    const window = new Window(await context.newPage());
    const fields = name ? `#${new URLSearchParams({ name, at: at[0], in: at.join() })}` : "";
    await window.page.goto(`${url}/${fields}`);
    if (name) await window.connected();
    return window;
  }

  close() {
    return this.chromium.close();
  }
}

class Window {
  constructor(page) {
    this.page = page;
    this.problems = [];
    page.setDefaultTimeout(SIGHT_MS_MAX);
    page.on("pageerror", (error) => this.problems.push(String(error)));
    page.on("console", (line) => {
      // Some tests cut the connection on purpose, and the browser reports that on its console.
      const isOutage = /WebSocket connection to .* failed|net::ERR_CONNECTION/.test(line.text());
      if (["error", "warning"].includes(line.type()) && !isOutage) this.problems.push(line.text());
    });
  }

  connected() {
    return this.page.waitForSelector("#connection[data-state=online]");
  }

  disconnected() {
    return this.page.waitForSelector("#connection:not([data-state=online])");
  }

  /** Types like a person, key by key, and sends with Enter. */
  async say(content) {
    await this.page.locator("#text").pressSequentially(content);
    await this.page.keyboard.press("Enter");
  }

  /** The texts on the screen, from top to bottom. */
  messages() {
    return this.page.locator("#messages .text").allInnerTexts();
  }

  /** Waits until the screen shows exactly these messages, in this order, all of them stored. */
  async shows(expected) {
    await this.page
      .waitForFunction(
        (wanted) => {
          const shown = [...document.querySelectorAll("#messages .message")];
          const texts = shown.map((node) => node.querySelector(".text").textContent);
          return shown.every((node) => node.dataset.state === "sent") && JSON.stringify(texts) === wanted;
        },
        JSON.stringify(expected),
      )
      .catch(async (error) => assert.deepEqual(await this.messages(), expected, error.message));
    await this.inOrder();
  }

  /** Asserts that the seqs on the screen rise, without duplicates. */
  async inOrder() {
    const seqs = await this.page.locator("#messages .message").evaluateAll((all) => all.map((one) => Number(one.dataset.seq)));
    assert.deepEqual(seqs, [...new Set(seqs)].sort((a, b) => a - b), "seqs on the screen");
    return seqs;
  }

  sees(selector, content) {
    return this.page.locator(selector, { hasText: content }).first().waitFor();
  }

  async misses(selector, content) {
    await this.page.locator(selector, { hasText: content }).first().waitFor({ state: "detached" });
  }

  screenshot(name) {
    return this.page.screenshot({ path: join(screenshots, `carillon-${name}.png`) });
  }

  async close() {
    await this.page.context().close(); // closing twice is allowed
    assert.deepEqual(this.problems, [], "what the browser complained about");
  }
}
