/** The real Worker on workerd for the length of a measurement, with a tenant of its own, and its process's memory. */
import { randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Client, createClient } from "../src/sdk/client.ts";
import { buildWorker, type Server, serve } from "../src/server/runtime.ts";
import { readWorkerVariables } from "../src/server/settings.ts";

export interface LocalWorker {
  readonly url: string;
  readonly operator: Client;
  /** With the tenant's first key. */
  readonly graft: Client;
  readonly key: string;
  /** A folder that is gone when the measurement ends. */
  readonly folder: string;
  /** Of the runtime's process; null where there is no /proc to find it in. */
  readonly pid: number | null;
}

/**
 * Builds and starts the Worker, with the backbones that the environment's BACKBONES and DEFAULT_BACKBONE name (and
 * their secrets), and ends it after `work`, also when that throws.
 */
export async function withWorker<T>(work: (worker: LocalWorker) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "graft-bench-"));
  const remove = () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  process.on("exit", remove);
  // The tools behind the server keep temporary files of their own; here they go with ours.
  const { TMPDIR } = process.env;
  process.env.TMPDIR = folder;
  let server: Server | undefined;
  try {
    const adminKey = randomBytes(16).toString("hex");
    const built = join(folder, "worker");
    await buildWorker(built);
    const variables = readWorkerVariables(process.env);
    const log = (line: string) => void (line.includes("_error") && process.stderr.write(`${line}\n`));
    const previousPids = workerdPids();
    server = await serve(built, { port: 0, stateDir: join(folder, "state"), adminKey, variables, log });
    const pid = workerdPids().find((candidate) => !previousPids.includes(candidate)) ?? null;
    const operator = createClient({ baseUrl: server.url, key: adminKey });
    const { key } = await operator.tenants.create({ id: "bench" });
    const graft = createClient({ baseUrl: server.url, key: key.secret });
    return await work({ url: server.url, operator, graft, key: key.secret, folder, pid });
  } finally {
    await server?.stop();
    remove();
    process.off("exit", remove);
    if (TMPDIR === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = TMPDIR;
  }
}

/** The workerd processes that this process has started. */
function workerdPids(): number[] {
  if (process.platform !== "linux") return [];
  return readdirSync("/proc").flatMap((name) => {
    try {
      const [, command, parent] = /\((.*)\) \S (\d+)/.exec(readFileSync(`/proc/${Number(name)}/stat`, "utf8")) ?? [];
      return command === "workerd" && Number(parent) === process.pid ? [Number(name)] : [];
    } catch {
      return [];
    }
  });
}

/** The most memory that a process has had in RAM since its start, or since `resetPeak`: VmHWM, in MB of 10^6 bytes. */
export function peakMegabytes(pid: number | null): number | null {
  if (pid === null) return null;
  const kibibytes = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return kibibytes === undefined ? null : (Number(kibibytes) * 1024) / 1e6;
}

/** Sets a process's peak to what it has now; proc(5), clear_refs. */
export function resetPeakMemory(pid: number | null): void {
  if (pid !== null) writeFileSync(`/proc/${pid}/clear_refs`, "5");
}

/** The p-quantile of a list by the nearest rank, 0 < p ≤ 1. */
export function quantile(values: readonly number[], p: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.max(0, Math.ceil(p * sorted.length) - 1)] ?? Number.NaN;
}
