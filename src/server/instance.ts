/** The Worker and a batch endpoint beside it on this machine, as `npm start` and the demo run them. */
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { UsageError } from "../lib/usage-error.ts";
import { startBatchProcess } from "./batch-process.ts";
import type { ServeOptions } from "./options.ts";
import { type Server, serve } from "./runtime.ts";
import { loadBatchSecret, prepareStateDir } from "./state.ts";

export interface BatchOptions {
  readonly port: number;
  /** Its settings (batch/server/settings.ts), but for those that follow from the server's. */
  readonly env: NodeJS.ProcessEnv;
  /** What becomes of its log lines. */
  readonly log: "inherit" | "ignore";
}

/** The port itself if it is free, or any free one for 0. Throws a UsageError if nothing can listen on it. */
export async function findPort(name: string, port: number, host = "127.0.0.1"): Promise<number> {
  const probe = createServer().listen(port, host);
  await once(probe, "listening").catch(({ code }) => {
    throw new UsageError(
      `${name} ${port} of ${host} is ${code === "EADDRINUSE" ? "in use" : `not to be had (${code})`}.`,
    );
  });
  const freePort = (probe.address() as AddressInfo).port;
  probe.close();
  await once(probe, "close");
  return freePort;
}

/** Starts a built Worker, and unless `batch` is null a batch endpoint. Throws as `serve` does. */
export async function serveWithBatch(
  bundleDir: string,
  options: ServeOptions,
  batch: BatchOptions | null,
): Promise<Pick<Server, "url" | "stop">> {
  if (batch === null) return serve(bundleDir, options);
  const { stateDir, variables } = options;
  prepareStateDir(stateDir);
  const shared = { BATCH_URL: `http://127.0.0.1:${batch.port}`, BATCH_SECRET: loadBatchSecret(stateDir) };
  const server = await serve(bundleDir, { ...options, variables: { ...variables, ...shared } });
  const env = {
    ...batch.env,
    ...shared,
    BATCH_PORT: String(batch.port),
    GRAFT_URL: server.batchUrl,
    WORK_DIR: join(stateDir, "batch"),
  };
  const stopBatch = startBatchProcess(env, batch.log);
  // The batch endpoint stops first: it returns its unfinished jobs to the Worker.
  return { url: server.url, stop: () => stopBatch().then(server.stop) };
}
