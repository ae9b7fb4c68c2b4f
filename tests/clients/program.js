// One process of a test, from its start to its end. It keeps the end of the process's output for error messages.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { basename } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const POLL_MS = 50;
const LOG_CHARS_MAX = 20_000;

export class Program {
  constructor(path, argv, env, isReady) {
    Object.assign(this, { name: `${basename(path)} ${argv[0]}`, isReady, log: "" });
    this.process = spawn(path, argv, { env, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.on("data", (chunk) => (this.log = (this.log + chunk).slice(-LOG_CHARS_MAX)));
    }
    this.ended = once(this.process, "exit").then(
      ([code, signal]) => (this.end = code ?? signal),
      (error) => (this.end = error.message),
    );
  }

  async ready(waitMsMax) {
    const deadline = Date.now() + waitMsMax;
    while (Date.now() < deadline && this.end === undefined) {
      if (await this.isReady()) return;
      await sleep(POLL_MS);
    }
    const what = this.end === undefined ? `was not ready within ${waitMsMax} ms` : `ended with ${this.end}`;
    throw new Error(`${this.name} ${what}, it wrote:\n${this.log}`);
  }

  /** Waits for the end of the process. It throws unless the process ends with exit code 0 in time. */
  async endsWell(waitMsMax) {
    const timer = new AbortController();
    await Promise.race([this.ended, sleep(waitMsMax, null, timer).catch(() => {})]);
    timer.abort();
    const { end } = this;
    await this.kill();
    if (end !== 0) throw new Error(`${this.name} ended with ${end ?? "nothing in time"}, it wrote:\n${this.log}`);
  }

  /** Kills the process by SIGKILL, as in a crash. */
  async kill() {
    if (this.end === undefined) this.process.kill("SIGKILL");
    await this.ended;
  }
}

/** Whether the server at `url` reports that it is ready. */
export async function isReady(url) {
  const response = await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(1_000) }).catch(() => null);
  return response?.status === 200;
}
