/**
 * The Worker on workerd and the batch endpoint, each a process of its own that can be killed and comes back on the same
 * port and state, with a proxy in either direction between the two.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type Client, createClient, type FineTuningJob } from "../../src/sdk.ts";
import { build } from "../../src/serve.ts";
import { type FaultyProxy, startProxy } from "./faulty-proxy.ts";

const root = join(import.meta.dirname, "..", "..");
const operatorKey = "operator";

export interface Tenant {
  readonly id: string;
  readonly key: string;
  readonly graft: Client;
}

export type Side = "worker" | "batch";

export interface System {
  readonly url: string;
  /** From the Worker to the batch endpoint, and back. */
  readonly submissions: FaultyProxy;
  readonly callbacks: FaultyProxy;
  readonly operator: Client;
  readonly createTenant: (id: string) => Promise<Tenant>;
  /** kill -9 of a process and all that it started. */
  readonly kill: (side: Side) => Promise<void>;
  readonly start: (side: Side) => Promise<void>;
  readonly signal: (side: Side, signal: NodeJS.Signals) => void;
  readonly exited: (side: Side) => Promise<number | null>;
  readonly pid: (side: Side) => number;
  /** Every line that both have printed. */
  readonly lines: readonly string[];
  /** What the Worker of the tests answers beside the API's own (test/worker/crashing-worker.ts). */
  readonly stored: (tenant: string) => Promise<{ kv: string[]; r2: string[] }>;
  readonly sweep: (tenant: string) => Promise<void>;
  readonly close: () => Promise<void>;
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, "close");
  return port;
}

/** Starts both; `environment` is the batch endpoint's, `variables` the Worker's. */
export async function startSystem(
  environment: Readonly<Record<string, string>> = {},
  variables: Readonly<Record<string, string>> = {},
): Promise<System> {
  const folder = mkdtempSync(join(tmpdir(), "graft-jobs-"));
  const built = join(folder, "built");
  const [workerPort, batchPort] = [await freePort(), await freePort()];
  const urls = { worker: `http://127.0.0.1:${workerPort}`, batch: `http://127.0.0.1:${batchPort}` };
  const submissions = await startProxy(() => urls.batch);
  const callbacks = await startProxy(() => urls.worker);
  const secret = `whsec_${randomBytes(32).toString("base64")}`;
  const lines: string[] = [];
  const children = new Map<Side, ChildProcess>();
  await build(built, join(root, "test", "worker", "crashing-worker.ts"));

  const commands = {
    worker: [
      join(import.meta.dirname, "crash-server.ts"),
      built,
      join(folder, "state"),
      String(workerPort),
      JSON.stringify({ BATCH_URL: submissions.url, BATCH_SECRET: secret, BATCH_TIMEOUT_SECONDS: "2", ...variables }),
    ],
    batch: [join(root, "src", "batch.ts")],
  };
  const batchEnvironment = {
    ...process.env,
    BATCH_PORT: String(batchPort),
    BATCH_SECRET: secret,
    GRAFT_URL: callbacks.url,
    WORK_DIR: join(folder, "work"),
    ...environment,
  };
  const start = async (side: Side) => {
    const env = side === "batch" ? batchEnvironment : process.env;
    const child = spawn(process.execPath, commands[side], {
      cwd: root,
      env,
      stdio: ["pipe", "pipe", "inherit"],
      detached: true,
    });
    children.set(side, child);
    const ready = new Promise<void>((resolve, reject) => {
      createInterface({ input: child.stdout as NodeJS.ReadableStream }).on("line", (line) => {
        lines.push(line);
        if (/listen(ing|s) on /.test(line)) resolve();
      });
      child.once("exit", (code) => reject(new Error(`the ${side} ended with ${code}: ${lines.slice(-3).join(" | ")}`)));
    });
    child.stdin?.write("go\n");
    await ready;
  };
  const exited = async (side: Side) => {
    const child = children.get(side) as ChildProcess;
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    return child.exitCode;
  };
  const signal = (side: Side, name: NodeJS.Signals) => {
    const { pid } = children.get(side) as ChildProcess;
    if (pid !== undefined) process.kill(name === "SIGKILL" ? -pid : pid, name);
  };
  const kill = async (side: Side) => {
    signal(side, "SIGKILL");
    await exited(side);
  };
  await Promise.all([start("worker"), start("batch")]);
  const operator = createClient({ baseUrl: urls.worker, key: operatorKey });
  return {
    url: urls.worker,
    submissions,
    callbacks,
    operator,
    lines,
    start,
    kill,
    signal,
    exited,
    pid: (side) => (children.get(side) as ChildProcess).pid as number,
    async createTenant(id) {
      const { key } = await operator.tenants.create({ id });
      return { id, key: key.secret, graft: createClient({ baseUrl: urls.worker, key: key.secret }) };
    },
    async stored(tenant) {
      return (await fetch(`${urls.worker}/stored?tenant=${tenant}`)).json() as Promise<{ kv: string[]; r2: string[] }>;
    },
    async sweep(tenant) {
      await fetch(`${urls.worker}/sweep?tenant=${tenant}`, { method: "POST" });
    },
    async close() {
      for (const side of children.keys()) await kill(side).catch(() => undefined);
      await Promise.all([submissions.close(), callbacks.close()]);
      rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
    },
  };
}

const topics = ["refund", "login", "parcel", "invoice"];

/** Labelled texts that are easy to tell apart. */
export function examples(count: number, from = 0): { text: string; label: string }[] {
  return Array.from({ length: count }, (_, i) => {
    const topic = topics[i % topics.length] as string;
    return { text: `my ${topic} number ${from + i} is wrong`, label: topic };
  });
}

/** A data set of a tenant. */
export async function createDataset(graft: Client, name: string, count: number): Promise<void> {
  await graft.datasets.create({ name, task: "single_label", modality: "text" });
  await graft.datasets.add(name, examples(count));
}

/** Waits until what is true in the end is true; a server that is being restarted meanwhile is waited for. */
export async function eventually<T>(
  look: () => Promise<T | null | false>,
  what: string,
  milliseconds = 30_000,
): Promise<T> {
  const until = Date.now() + milliseconds;
  while (Date.now() < until) {
    const found = await look().catch(() => null);
    if (found !== null && found !== false) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`never came about: ${what}`);
}

/** The job once it has ended. */
export function ended({ graft }: Tenant, id: string, milliseconds = 60_000): Promise<FineTuningJob> {
  return eventually(
    async () => {
      const job = await graft.jobs.get(id);
      return ["succeeded", "failed", "cancelled"].includes(job.status) && job;
    },
    `the end of ${id}`,
    milliseconds,
  );
}
