// A deployment of Carillon for tests: a nats-server and a keyspace of its own, and a process for each gateway and
// worker.
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { binary, freePort, needs } from "./carillon.js";
import { isReady, Program } from "./program.js";
import { secret } from "./tokens.js";

const START_ATTEMPTS_MAX = 3;
// The wait includes the creation of tables, which takes a busy database long.
const READY_MS_MAX = 60_000;
// Longer than a gateway's own drain timeout, which is 25 s.
const STOP_MS_MAX = 35_000;
const PARTS = { CARILLON_TEST_NATS_SERVER: "the nats-server to start", CARILLON_TEST_CASSANDRA: "the database's host:port" };

/**
 * Options for a test of a cluster. If a part is missing, the test is skipped visibly; where parts are required, this
 * throws.
 */
export function needsCluster() {
  const missing = Object.keys(PARTS).find((variable) => !process.env[variable]);
  if (!missing) return needs(binary, process.env.CARILLON_TEST_NATS_SERVER);
  const reason = `${missing} is not set (${PARTS[missing]}): ./test brings it`;
  if (process.env.CI || process.env.CARILLON_TEST_REQUIRE_PARTS === "1") throw new Error(reason);
  return { skip: reason };
}

/** Starts `gateways` gateways and a worker of each kind. Every role gets the settings in `environment`. */
export async function startCluster({ gateways = 3, environment = {} } = {}) {
  const cluster = new Cluster(environment);
  try {
    await cluster.start(gateways);
    return cluster;
  } catch (error) {
    await cluster.kill();
    throw error;
  }
}

class Cluster {
  constructor(environment) {
    this.directory = mkdtempSync(join(tmpdir(), "carillon-cluster-"));
    // The Rust tests drop keyspaces with this prefix that are an hour old.
    const keyspace = `carillon_test_${Math.floor(Date.now() / 1_000)}_${randomBytes(4).toString("hex")}`;
    const { CARILLON_TEST_CASSANDRA: SCYLLA_NODES } = process.env;
    const dev = { CARILLON_DEV: "true", AUTH_SECRET: secret };
    this.environment = { SCYLLA_NODES, SCYLLA_KEYSPACE: keyspace, ...dev, ...environment };
    this.programs = [];
    process.once("exit", () => this.programs.forEach((program) => program.process.kill("SIGKILL")));
  }

  async start(gateways) {
    const nats = await this.startOne((port) => {
      const argv = ["--addr", "127.0.0.1", "--port", port, "--jetstream", "--store_dir", join(this.directory, "nats")];
      return new Program(process.env.CARILLON_TEST_NATS_SERVER, argv, environmentOf({}), () => greets(port));
    });
    this.environment.NATS_URL = `nats://127.0.0.1:${nats.port}`;
    const migrate = new Program(binary, ["migrate"], environmentOf(this.environment));
    this.programs.push(migrate);
    await migrate.endsWell(READY_MS_MAX);
    [this.workers, this.gateways] = await Promise.all([
      Promise.all(["message-worker", "presence-worker"].map((role) => this.startRole(role, "--admin-listen"))),
      Promise.all(Array.from({ length: gateways }, () => this.startRole("gateway", "--listen"))),
    ]);
  }

  startRole(role, listen) {
    return this.startOne((port) => {
      const argv = [role, listen, `127.0.0.1:${port}`];
      return new Program(binary, argv, environmentOf(this.environment), () => isReady(`http://127.0.0.1:${port}`));
    });
  }

  async startOne(programAt) {
    for (let attempt = 1; ; attempt += 1) {
      const port = await freePort();
      const program = programAt(port);
      Object.assign(program, { port, url: `http://127.0.0.1:${port}` });
      this.programs.push(program);
      try {
        await program.ready(READY_MS_MAX);
        return program;
      } catch (error) {
        // Another program may have taken the free port meanwhile. Then the program has ended by itself.
        if (program.end === undefined || attempt === START_ATTEMPTS_MAX) throw error;
      }
    }
  }

  /** Stops the running processes by SIGTERM, gateways first. It throws unless all end with exit code 0 in time. */
  async stop() {
    try {
      for (const programs of [this.gateways, this.workers]) {
        const running = programs.filter(({ end }) => end === undefined);
        for (const program of running) program.process.kill("SIGTERM");
        await Promise.all(running.map((program) => program.endsWell(STOP_MS_MAX)));
      }
    } finally {
      await this.kill();
    }
  }

  async kill() {
    await Promise.all(this.programs.map((program) => program.kill()));
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** The caller's settings for Carillon are left out: they must not apply to this cluster. */
const environmentOf = (environment) => ({ PATH: process.env.PATH, HOME: process.env.HOME, ...environment });

/** A nats-server sends its greeting once it has recovered its streams. */
async function greets(port) {
  const socket = connect(port, "127.0.0.1");
  const greeting = once(socket, "data", { signal: AbortSignal.timeout(1_000) });
  const isGreeted = await greeting.then(([data]) => data.toString().startsWith("INFO "), () => false);
  socket.on("error", () => {}).destroy();
  return isGreeted;
}
