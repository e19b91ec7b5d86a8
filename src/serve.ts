/**
 * Serves the Worker on this machine: the same bundle on the same runtime (workerd) as in production, with its storage on
 * disk. `npm start` runs it.
 *
 *   PORT        8787; 0 takes any free port
 *   HOST        127.0.0.1; 0.0.0.0 listens on every address of this machine (docs/self-hosting.md)
 *   TLS_CERT    a certificate chain in PEM, with TLS_KEY, its key; without them the server speaks plain HTTP
 *   TRUSTED_PROXIES  0: how many proxies stand in front, each of which adds to X-Forwarded-For
 *   MIN_FREE_BYTES   67108864: with fewer free bytes on the disk of STATE_DIR, nothing more is stored
 *   STATE_DIR   .graft: keys, datasets, heads and the server's own secrets; it survives restarts
 *   ADMIN_KEY   the operator's key, at least 24 characters; if it is not set, a random one is made and printed
 *   BUNDLE_DIR  a Worker that `npm run build` has built; without it, the Worker is built at each start
 *   BACKBONES   remote backbones (docs/backbones.md); the secrets that they name are environment variables too
 *   CORS_ORIGINS  origins of web pages that may make predictions from a browser
 *   WEBHOOK_ORIGINS  origins that webhooks may go to although they are not public (docs/webhooks.md)
 *   BATCH_URL   a batch endpoint that runs elsewhere, with BATCH_SECRET, the secret it shares; by default one starts here:
 *   BATCH_PORT  its port on 127.0.0.1, by default any free one
 *   BATCH_JOBS  1: how many fine-tuning jobs it runs at once; with 0 none starts, and there are no fine-tuning jobs
 *   BATCH_SMALL_JOBS  1: how many small ones it runs beside these
 */
import { join, resolve } from "node:path";
import { exitWithError } from "./lib/usage-error.ts";
import { findPort, serveWithBatch } from "./server/instance.ts";
import { buildWorker, findBundle } from "./server/runtime.ts";
import { readPort, readServeOptions } from "./server/settings.ts";
import { prepareStateDir } from "./server/state.ts";

const root = resolve(import.meta.dirname, "..");

/** How long a server whose runtime is lost tries to end in order. */
const LOST_EXIT_MS = 10_000;

/** The port for a batch endpoint of this server; null if one runs elsewhere or none is wanted. */
async function findBatchPort(env: NodeJS.ProcessEnv): Promise<number | null> {
  if (env.BATCH_URL || env.BATCH_JOBS === "0") return null;
  return findPort("BATCH_PORT", readPort("BATCH_PORT", env.BATCH_PORT ?? "0"));
}

async function main(): Promise<void> {
  // Files of the state are for this user alone.
  process.umask(0o077);
  const { env } = process;
  const options = readServeOptions(env);
  await findPort("PORT", options.port, options.host);
  const batchPort = await findBatchPort(env);
  prepareStateDir(options.stateDir);
  const bundleDir = env.BUNDLE_DIR ? findBundle(env.BUNDLE_DIR) : join(root, "dist");
  if (!env.BUNDLE_DIR) await buildWorker(bundleDir);
  const { url, stop } = await serveWithBatch(
    bundleDir,
    {
      ...options,
      onLost: () => {
        console.error(
          "The runtime has not answered for a minute. The server ends, for the service manager to start it again.",
        );
        setTimeout(() => process.exit(1), LOST_EXIT_MS);
        shutDown(1).catch(() => process.exit(1));
      },
    },
    batchPort === null ? null : { port: batchPort, env, log: "inherit" },
  );
  const shutDown = (code: number) => stop().then(() => process.exit(code));
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    // Miniflare's own listeners would end this process at once.
    process.removeAllListeners(signal);
    process.once(signal, () => shutDown(0));
  }
  console.log(`Graft listens on ${url}, its state in ${options.stateDir}. The API is described at ${url}/docs.`);
  if (!env.ADMIN_KEY)
    console.log(`ADMIN_KEY=${options.adminKey} (made for this run; set it in the environment to choose your own)`);
}

if (import.meta.main) await main().catch(exitWithError);
