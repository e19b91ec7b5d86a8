/** Runs the real Worker on workerd during a measurement, with a tenant. */
import { randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Client, createClient } from "../../src/sdk/client.ts";
import type { ServeOptions } from "../../src/server/options.ts";
import { buildWorker, type Server, serve } from "../../src/server/runtime.ts";
import { readWorkerVariables } from "../../src/server/settings.ts";

export interface LocalWorker {
  readonly url: string;
  readonly operator: Client;
  /** A client with the tenant's first key. */
  readonly graft: Client;
  readonly key: string;
  /** A temporary folder that is removed after the measurement. */
  readonly folder: string;
  /** The runtime's process; null on a system without /proc. */
  readonly pid: number | null;
}

/**
 * Builds and starts the Worker with the environment's variables (src/server/settings.ts), such as BACKBONES, and stops it
 * after `work`.
 */
export async function withWorker<T>(
  work: (worker: LocalWorker) => Promise<T>,
  options: Partial<Pick<ServeOptions, "exposeRuntime" | "log">> = {},
): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "graft-bench-"));
  const remove = () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  process.on("exit", remove);
  // The tools behind the server write temporary files of their own. This puts them into the same folder.
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
    server = await serve(built, { port: 0, stateDir: join(folder, "state"), adminKey, variables, log, ...options });
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

/** The workerd processes that are children of this process. */
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
