// Starts the real binary for a test on a free port with an empty data directory, and stops it as an operator would.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const START_ATTEMPTS_MAX = 3;
const READY_MS_MAX = 20_000;
const POLL_MS = 50;
// Longer than the server's own drain timeout, which is 25 s.
const STOP_MS_MAX = 35_000;
const LOG_CHARS_MAX = 20_000;

const built = fileURLToPath(new URL("../../target/debug/carillon", import.meta.url));
export const binary = process.env.CARILLON_BIN || built;

/** Options for a test that needs these programs: none, a visible skip, or in CI, where nothing may be missing, a failure. */
export function needs(...programs) {
  const missing = programs.find((program) => !isExecutable(program));
  if (!missing) return {};
  const reason = `${missing} is missing`;
  if (process.env.CI) throw new Error(reason);
  return { skip: reason };
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** `port` and `dataDir` are given to start again where an earlier server was; `environment` holds settings. */
export async function startCarillon({ port, dataDir, environment = {} } = {}) {
  const directory = dataDir ?? mkdtempSync(join(tmpdir(), "carillon-clients-"));
  for (let attempt = 1; ; attempt += 1) {
    const server = new Carillon(port ?? (await freePort()), directory, environment);
    try {
      await server.ready();
      return server;
    } catch (error) {
      await server.kill();
      // Somebody else may have taken the free port in between.
      if (port || attempt === START_ATTEMPTS_MAX) throw error;
    }
  }
}

class Carillon {
  constructor(port, dataDir, environment) {
    Object.assign(this, { port, dataDir, environment, log: "" });
    this.url = `http://127.0.0.1:${port}`;
    const argv = ["standalone", "--dev", "--listen", `127.0.0.1:${port}`, "--data-dir", dataDir];
    const env = { ...cleanEnvironment(), ...environment };
    this.process = spawn(binary, argv, { env, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.on("data", (chunk) => (this.log = (this.log + chunk).slice(-LOG_CHARS_MAX)));
    }
    this.ended = once(this.process, "exit").then(
      ([code, signal]) => (this.end = code ?? signal),
      (error) => (this.end = error.message),
    );
    process.once("exit", () => this.process.kill("SIGKILL"));
  }

  socketUrl(userId, name = userId) {
    return `ws://127.0.0.1:${this.port}/ws/${encodeURIComponent(userId)}?name=${encodeURIComponent(name)}`;
  }

  async ready() {
    const deadline = Date.now() + READY_MS_MAX;
    while (Date.now() < deadline && this.end === undefined) {
      const response = await fetch(`${this.url}/readyz`, { signal: AbortSignal.timeout(1_000) }).catch(() => null);
      if (response?.status === 200) return;
      await sleep(POLL_MS);
    }
    const what = this.end === undefined ? `was not ready within ${READY_MS_MAX} ms` : `ended with ${this.end}`;
    throw new Error(`carillon ${what}, it wrote:\n${this.log}`);
  }

  /** SIGTERM, as an operator stops it: anything but exit code 0 in time is a failure. */
  async stop({ keepData = false } = {}) {
    this.process.kill("SIGTERM");
    const timer = new AbortController();
    await Promise.race([this.ended, sleep(STOP_MS_MAX, null, timer).catch(() => {})]);
    timer.abort();
    const { end } = this;
    await this.kill();
    if (!keepData) rmSync(this.dataDir, { recursive: true, force: true });
    if (end !== 0) throw new Error(`carillon ended with ${end ?? "nothing in time"} on SIGTERM, it wrote:\n${this.log}`);
  }

  async kill() {
    if (this.end === undefined) this.process.kill("SIGKILL");
    await this.ended;
  }
}

// The server refuses settings it does not know, and ours must not depend on the caller's.
function cleanEnvironment() {
  const foreign = /^(CARILLON_|AUTH_|NATS_|SCYLLA_|WEBSOCKET_)/;
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name)));
}

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}
