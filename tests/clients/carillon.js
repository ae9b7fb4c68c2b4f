// Starts the real binary for a test on a free port with an empty data directory, and stops it by SIGTERM, as an
// operator does.
import { once } from "node:events";
import { accessSync, constants, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { isReady, Program } from "./program.js";

const START_ATTEMPTS_MAX = 3;
const READY_MS_MAX = 20_000;
// Longer than the server's own drain timeout, which is 25 s.
const STOP_MS_MAX = 35_000;

const built = fileURLToPath(new URL("../../target/debug/carillon", import.meta.url));
export const binary = process.env.CARILLON_BIN || built;

/** Options for a test that needs these programs. If one is missing, the test is skipped visibly; in CI this throws. */
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

/** `port` and `dataDir` are those of an earlier server, to start it again; `environment` holds settings. */
export async function startCarillon({ port, dataDir, environment = {} } = {}) {
  const directory = dataDir ?? mkdtempSync(join(tmpdir(), "carillon-clients-"));
  for (let attempt = 1; ; attempt += 1) {
    const server = new Carillon(port ?? (await freePort()), directory, environment);
    try {
      await server.ready(READY_MS_MAX);
      return server;
    } catch (error) {
      await server.kill();
      // Another program may have taken the free port meanwhile.
      if (port || attempt === START_ATTEMPTS_MAX) throw error;
    }
  }
}

class Carillon extends Program {
  constructor(port, dataDir, environment) {
    const url = `http://127.0.0.1:${port}`;
    const argv = ["standalone", "--dev", "--listen", `127.0.0.1:${port}`, "--data-dir", dataDir];
    super(binary, argv, { ...cleanEnvironment(), ...environment }, () => isReady(url));
    Object.assign(this, { port, dataDir, environment, url });
    process.once("exit", () => this.process.kill("SIGKILL"));
  }

  socketUrl(userId, name = userId) {
    return `ws://127.0.0.1:${this.port}/ws/${encodeURIComponent(userId)}?name=${encodeURIComponent(name)}`;
  }

  /** Stops the server by SIGTERM. It throws unless the server ends with exit code 0 in time. */
  async stop({ keepData = false } = {}) {
    this.process.kill("SIGTERM");
    try {
      await this.endsWell(STOP_MS_MAX);
    } finally {
      if (!keepData) rmSync(this.dataDir, { recursive: true, force: true });
    }
  }
}

// The caller's settings are removed: the tests must not depend on them, and the server refuses unknown ones.
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
