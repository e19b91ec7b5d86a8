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
import { type Client, createClient, type FineTuningJob } from "../../src/sdk/client.ts";
import { buildCrashingWorker } from "./bundles.ts";
import { type FaultyProxy, startProxy } from "./faulty-proxy.ts";

const root = join(import.meta.dirname, "..", "..");
const operatorKey = "operator-key-of-the-tests";

export interface TenantClient {
  readonly id: string;
  readonly key: string;
  readonly graft: Client;
}

export type ProcessName = "worker" | "batch";

export interface System {
  readonly url: string;
  /** From the Worker to the batch endpoint, and back. */
  readonly submissions: FaultyProxy;
  readonly callbacks: FaultyProxy;
  readonly operator: Client;
  readonly createTenant: (id: string) => Promise<TenantClient>;
  /** kill -9 of a process and all that it started. */
  readonly kill: (side: ProcessName) => Promise<void>;
  readonly start: (side: ProcessName) => Promise<void>;
  readonly signal: (side: ProcessName, signal: NodeJS.Signals) => void;
  readonly waitForExit: (side: ProcessName) => Promise<number | null>;
  readonly pid: (side: ProcessName) => number;
  /** Every line that both have printed. */
  readonly lines: readonly string[];
  /** What the Worker of the tests answers beside the API's own (test/e2e/crashing-worker.ts). */
  readonly listStored: (tenant: string) => Promise<{ kv: string[]; r2: string[] }>;
  readonly sweep: (tenant: string) => Promise<void>;
  /** When a tenant's ledger wakes up next, in milliseconds since the epoch; null if it never does. */
  readonly getNextAlarm: (tenant: string) => Promise<number | null>;
  readonly close: () => Promise<void>;
}

/** A port that nothing listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

export interface SystemOptions {
  /** The folder of a built crashing Worker; by default one is built. */
  readonly bundle?: string | undefined;
  /** Environment variables of the batch endpoint. */
  readonly batch?: Readonly<Record<string, string>>;
  /** Variables of the Worker. */
  readonly worker?: Readonly<Record<string, string>>;
}

/** Starts the Worker and the batch endpoint. */
export async function startSystem(options: SystemOptions = {}): Promise<System> {
  const folder = mkdtempSync(join(tmpdir(), "graft-jobs-"));
  const { bundle = join(folder, "built") } = options;
  if (options.bundle === undefined) await buildCrashingWorker(bundle);
  const [workerPort, batchPort] = [await freePort(), await freePort()];
  const urls = { worker: `http://127.0.0.1:${workerPort}`, batch: `http://127.0.0.1:${batchPort}` };
  const submissions = await startProxy(() => urls.batch);
  const callbacks = await startProxy(() => urls.worker);
  const secret = `whsec_${randomBytes(32).toString("base64")}`;
  const lines: string[] = [];
  const children = new Map<ProcessName, ChildProcess>();

  const commands = {
    worker: [
      join(import.meta.dirname, "crash-server.ts"),
      bundle,
      join(folder, "state"),
      String(workerPort),
      JSON.stringify({
        DEFAULT_BACKBONE: "text-static-1",
        BATCH_URL: submissions.url,
        BATCH_SECRET: secret,
        BATCH_TIMEOUT_SECONDS: "2",
        ...options.worker,
      }),
    ],
    batch: [join(root, "src", "batch.ts")],
  };
  const batchEnvironment = {
    ...process.env,
    BATCH_PORT: String(batchPort),
    BATCH_SECRET: secret,
    GRAFT_URL: callbacks.url,
    WORK_DIR: join(folder, "work"),
    ...options.batch,
  };
  const start = async (side: ProcessName) => {
    const env = side === "batch" ? batchEnvironment : process.env;
    const child = spawn(process.execPath, commands[side], {
      cwd: root,
      env,
      stdio: ["pipe", "pipe", "pipe"],
      detached: true,
    });
    children.set(side, child);
    child.stderr?.on("data", (text) => console.error(`${side}: ${text}`));
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
  const waitForExit = async (side: ProcessName) => {
    const child = children.get(side) as ChildProcess;
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    return child.exitCode;
  };
  const signal = (side: ProcessName, name: NodeJS.Signals) => {
    const { pid } = children.get(side) as ChildProcess;
    if (pid !== undefined) process.kill(name === "SIGKILL" ? -pid : pid, name);
  };
  const kill = async (side: ProcessName) => {
    signal(side, "SIGKILL");
    await waitForExit(side);
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
    waitForExit,
    pid: (side) => (children.get(side) as ChildProcess).pid as number,
    async createTenant(id) {
      const { key } = await operator.tenants.create({ id });
      return { id, key: key.secret, graft: createClient({ baseUrl: urls.worker, key: key.secret }) };
    },
    async listStored(tenant) {
      return (await fetch(`${urls.worker}/stored?tenant=${tenant}`)).json() as Promise<{ kv: string[]; r2: string[] }>;
    },
    async getNextAlarm(tenant) {
      return (await fetch(`${urls.worker}/alarm?tenant=${tenant}`)).json() as Promise<number | null>;
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
export function makeExamples(count: number, from = 0): { text: string; label: string }[] {
  return Array.from({ length: count }, (_, i) => {
    const topic = topics[i % topics.length] as string;
    return { text: `my ${topic} number ${from + i} is wrong`, label: topic };
  });
}

/** A data set of a tenant. */
export async function createDataset(graft: Client, name: string, count: number): Promise<void> {
  await graft.datasets.create({ name, task: "single_label", modality: "text" });
  await graft.datasets.add(name, makeExamples(count));
}

/** Waits until what is true in the end is true; a server that is being restarted meanwhile is waited for. */
export async function waitFor<T>(
  read: () => Promise<T | null | false>,
  description: string,
  milliseconds = 60_000,
): Promise<T> {
  const until = Date.now() + milliseconds;
  while (Date.now() < until) {
    const value = await read().catch(() => null);
    if (value !== null && value !== false) return value;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`never came about: ${description}`);
}

/** The job once it has ended. */
export function waitForJobEnd({ graft }: TenantClient, id: string, milliseconds = 60_000): Promise<FineTuningJob> {
  return waitFor(
    async () => {
      const job = await graft.jobs.get(id);
      return ["succeeded", "failed", "cancelled"].includes(job.status) && job;
    },
    `the end of ${id}`,
    milliseconds,
  );
}
