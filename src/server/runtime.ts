/** Builds the Worker and runs it on workerd, the runtime of production, with its storage on disk. */
import { execFile } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import type { Miniflare as MiniflareInstance, V4MiniflareOptions } from "miniflare";
import { UsageError } from "../lib/usage-error.ts";
import { rewriteDirectory } from "./directory.ts";
import { startFronts } from "./fronts.ts";
import { watchRuntime } from "./liveness.ts";
import {
  convertV4MiniflareOptions,
  Log,
  LogLevel,
  Miniflare,
  unstable_getMiniflareWorkerOptions as workerOptions,
} from "./miniflare.ts";
import type { ServeOptions } from "./options.ts";
import { startOutbound } from "./outbound.ts";
import { makeSockets, type Sockets } from "./sockets.ts";
import { loadServerKey, lockStateDir } from "./state.ts";
import { watchCommand } from "./watchdog.ts";

const root = resolve(import.meta.dirname, "..", "..");
const config = join(root, "wrangler.toml");

export interface Server {
  readonly url: string;
  /** Where a batch endpoint on this machine reaches the Worker, always in plain HTTP. */
  readonly batchUrl: string;
  /** The inspector's address with `inspect`, else null. */
  readonly inspectorUrl: string | null;
  readonly stop: () => Promise<void>;
}

/** Bundles the Worker into `outDir`, as a deployment does. `main` is another entry file than wrangler.toml's. */
export async function buildWorker(outDir: string, main?: string): Promise<void> {
  const wrangler = join(root, "node_modules", "wrangler", "bin", "wrangler.js");
  const entry = main === undefined ? [] : [main];
  await promisify(execFile)(
    process.execPath,
    [wrangler, "deploy", ...entry, "--dry-run", "--config", config, "--outdir", outDir],
    {
      cwd: root,
      env: { ...process.env, WRANGLER_SEND_METRICS: "false" },
    },
  );
}

/** The whole path of BUNDLE_DIR, the folder of a built Worker. Throws a UsageError if it has none. */
export function findBundle(dir: string): string {
  if (existsSync(join(dir, "worker.js"))) return resolve(dir);
  throw new UsageError(`BUNDLE_DIR '${dir}' has no Worker. Build one with 'npm run build', which writes 'dist'.`);
}

/**
 * The runtime's module type of each kind of file in a bundle. The entry must come first. Names of the other modules begin
 * with a hash; wrangler.toml says their types.
 */
const moduleTypes = [
  [/^(?![0-9a-f]{40}-).*\.js$/, "ESModule"],
  [/^[0-9a-f]{40}-.*\.wasm$/, "CompiledWasm"],
  [/^[0-9a-f]{40}-.*\.(bin|js|css)$/, "Data"],
  [/^[0-9a-f]{40}-.*\.(txt|md)$/, "Text"],
] as const;

const launcher = join(import.meta.dirname, "launch-workerd.sh");
const outboundWorker = join(import.meta.dirname, "outbound-worker.js");
/** workerd's own number for requests with a whole URL (HttpOptions.Style.proxy). */
const HTTP_PROXY_STYLE = 1;

/** Starts a built Worker and waits until it is ready. Throws a UsageError if the state folder cannot be used. */
export async function serve(bundleDir: string, options: ServeOptions): Promise<Server> {
  const { stateDir, variables = {}, resolve: resolveName, exposeRuntime, inspect } = options;
  const lock = lockStateDir(stateDir);
  const serverKey = loadServerKey(stateDir);
  const sockets = makeSockets(stateDir);
  const stopOutbound = await startOutbound({ socketPath: sockets.outbound, variables, resolve: resolveName });
  const miniflare = startRuntime(bundleDir, options, serverKey, sockets);
  const stopRuntime = async () => {
    await miniflare.dispose();
    await stopOutbound();
    sockets.remove();
    lock.close();
  };
  try {
    const { origin } = await miniflare.ready;
    const inspectorUrl = inspect ? (await miniflare.getInspectorURL()).origin : null;
    if (exposeRuntime) return { url: origin, batchUrl: origin, inspectorUrl, stop: stopRuntime };
    const fronts = await startFronts(sockets.inbound, options);
    const stopWatching = watchRuntime(sockets.inbound, options.onLost ?? (() => undefined));
    const stop = async () => {
      await stopWatching();
      await fronts.close();
      await stopRuntime();
    };
    return { url: fronts.url, batchUrl: fronts.batchUrl, inspectorUrl, stop };
  } catch (error) {
    await stopRuntime();
    throw error;
  }
}

function startRuntime(
  bundleDir: string,
  options: ServeOptions,
  serverKey: string,
  sockets: Sockets,
): MiniflareInstance {
  const { modulesRules: _bundled, ...worker } = workerOptions(config).workerOptions;
  const modules = moduleTypes.flatMap(([pattern, type]) =>
    readdirSync(bundleDir)
      .filter((file) => pattern.test(file))
      .map((file) => ({ type, path: join(bundleDir, file) })),
  );
  const log = options.log ?? ((line: string) => process.stdout.write(`${line}\n`));
  // Also of each runtime that Miniflare starts after a crash.
  watchCommand(launcher);
  process.env.MINIFLARE_WORKERD_PATH = launcher;
  const graft = {
    ...worker,
    modules,
    modulesRoot: bundleDir,
    bindings: {
      ...(worker.bindings as Record<string, string>),
      ADMIN_KEY: options.adminKey,
      SERVER_KEY: serverKey,
      ...options.variables,
    },
    serviceBindings: {
      DIRECTORY_FILE: () => {
        rewriteDirectory(options.stateDir);
        return new Response();
      },
    },
    outboundService: "outbound",
  };
  const outbound = {
    name: "outbound",
    compatibilityDate: worker.compatibilityDate,
    modules: [{ type: "ESModule", path: outboundWorker }],
    modulesRoot: import.meta.dirname,
    serviceBindings: {
      PROXY: { external: { address: `unix:${sockets.outbound}`, http: { style: HTTP_PROXY_STYLE } } },
    },
  };
  return new Miniflare(
    convertV4MiniflareOptions({
      workers: [graft, outbound],
      host: "127.0.0.1",
      port: options.exposeRuntime ? options.port : 0,
      resourcePersistencePath: options.stateDir,
      telemetry: { enabled: false },
      ...(options.inspect ? { inspectorPort: 0 } : {}),
      log: new Log(LogLevel.ERROR),
      logRequests: false,
      handleStructuredLogs: ({ message }) => log(message),
      unsafeRuntimeEnv: {
        GRAFT_SOCKET: options.exposeRuntime ? "" : sockets.inbound,
        GRAFT_STATE_DIR: options.stateDir,
        GRAFT_WORKERD: createRequire(import.meta.url)("workerd").default,
      },
    } as V4MiniflareOptions),
  );
}
