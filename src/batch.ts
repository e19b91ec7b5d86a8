/**
 * The batch endpoint: trains models on more data than one request at the edge may use. `npm run batch` runs it. The
 * Worker submits attempts at jobs; an attempt fetches its data from the Worker and reports its results to it.
 *
 *   BATCH_SECRET           whsec_…, shared with the Worker; required
 *   PREVIOUS_BATCH_SECRET  the secret before it, accepted as well while the secret is rotated
 *   GRAFT_URL              the Worker's address; required. Apart from it, only models that BACKBONES names are called
 *   BATCH_PORT             8788; 0 takes any free port
 *   BATCH_HOST             127.0.0.1
 *   BATCH_JOBS             1: how many attempts run at once, each in its own process
 *   BATCH_SMALL_JOBS       1: how many attempts at small jobs run beside these, while there is memory for them
 *   BATCH_MEMORY_BYTES     1.5e9: what an attempt's data and training may hold in memory
 *   BATCH_OPERATIONS       1e14: floating-point operations of a training, about two and a half hours
 *   BATCH_GRACE_SECONDS    30: how long attempts have to hand back their checkpoint when this program stops
 *   WORK_DIR               .graft-batch: records the attempts that run, so that after a crash they are reported as lost
 *   BACKBONES              as the Worker has it (docs/backbones.md), with the secrets that it names
 */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { createAdaptorServer } from "@hono/node-server";
import { makeBackbones } from "./backbones/index.ts";
import { bundledBackbones } from "./backbones/node.ts";
import type { Log } from "./batch/log.ts";
import { makeBatchApp } from "./batch/server/app.ts";
import { readSettings, type Settings } from "./batch/server/settings.ts";
import { makeSupervisor } from "./batch/server/supervisor.ts";
import { openWorkFolder } from "./batch/server/work-folder.ts";
import { exitWithError, UsageError } from "./lib/usage-error.ts";

export interface BatchEndpoint {
  readonly url: string;
  /** Takes no more attempts, and lets the running ones hand back their checkpoints. */
  readonly stop: () => Promise<void>;
}

const attemptProgram = join(import.meta.dirname, "batch/attempt/child.ts");

/** Starts a batch endpoint; throws a UsageError if the settings cannot be used. */
export async function startBatchEndpoint(
  settings: Settings,
  log: Log,
  program = attemptProgram,
): Promise<BatchEndpoint> {
  const { configuration, secrets } = settings.backbones;
  const table = makeBackbones(bundledBackbones, configuration, (name) => secrets[name], undefined);
  if (!table.ok) throw new UsageError(`${table.failure.message}.`);
  const folder = openWorkFolder(settings.workDir);
  const supervisor = makeSupervisor(settings, folder, log, program);
  let closing: Promise<void> | null = null;
  const app = makeBatchApp({
    ...settings,
    backbones: table.value,
    supervisor,
    availableMemory: () => process.availableMemory(),
    isStopping: () => closing !== null,
    log,
  });
  const server = createAdaptorServer({ fetch: app.fetch });
  server.listen(settings.port, settings.host);
  await once(server, "listening").catch(async ({ code }) => {
    await supervisor.close(0);
    folder.close();
    const reason = code === "EADDRINUSE" ? "in use" : `not to be had (${code})`;
    throw new UsageError(`BATCH_PORT ${settings.port} of ${settings.host} is ${reason}.`);
  });
  const { port, family, address } = server.address() as AddressInfo;
  const close = async () => {
    await supervisor.close(settings.graceMs);
    server.close();
    if ("closeAllConnections" in server) server.closeAllConnections();
    folder.close();
  };
  const stop = () => {
    closing ??= close();
    return closing;
  };
  return { url: `http://${family === "IPv6" ? `[${address}]` : address}:${port}`, stop };
}

async function main(): Promise<void> {
  const log: Log = (event, fields) => console.log(JSON.stringify({ time: new Date().toISOString(), event, ...fields }));
  const { url, stop } = await startBatchEndpoint(readSettings(process.env), log);
  let signals = 0;
  for (const signal of ["SIGINT", "SIGTERM"] as const)
    process.on(signal, () => {
      if (++signals > 1) process.exit(1);
      log("stopping");
      void stop().then(() => process.exit(0));
    });
  console.log(`Batch endpoint listens on ${url}`);
}

if (import.meta.main) await main().catch(exitWithError);
