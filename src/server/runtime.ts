/** Builds the Worker and runs it on workerd, the runtime of production, with its storage on disk. */
import { type ChildProcess, execFile } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare, type V4MiniflareOptions } from "miniflare";
import { unstable_getMiniflareWorkerOptions as workerOptions } from "wrangler";
import { loadServerKey, lockStateDir } from "./state.ts";
import { startWatchdog } from "./watchdog.ts";

const root = resolve(import.meta.dirname, "..", "..");
const config = join(root, "wrangler.toml");

export interface ServeOptions {
  /** On 127.0.0.1; 0 for any free port. */
  readonly port: number;
  readonly stateDir: string;
  readonly adminKey: string;
  /** The Worker's other variables, such as BACKBONES. */
  readonly variables?: Readonly<Record<string, string>>;
  /** Takes the Worker's log lines, instead of standard output. */
  readonly log?: (line: string) => void;
}

export interface Server {
  readonly url: string;
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

/** The runtime's module type of each kind of file in a bundle. The entry, a .js file, must come first. */
const moduleTypes = [
  [".js", "ESModule"],
  [".wasm", "CompiledWasm"],
  [".bin", "Data"],
  [".txt", "Text"],
] as const;

/** Starts a built Worker and waits until it is ready. Throws a UsageError if the state folder cannot be used. */
export async function serve(bundleDir: string, options: ServeOptions): Promise<Server> {
  const lock = lockStateDir(options.stateDir);
  const { modulesRules: _bundled, ...worker } = workerOptions(config).workerOptions;
  const modules = moduleTypes.flatMap(([suffix, type]) =>
    readdirSync(bundleDir)
      .filter((file) => file.endsWith(suffix))
      .map((file) => ({ type, path: join(bundleDir, file) })),
  );
  const log = options.log ?? ((line: string) => process.stdout.write(`${line}\n`));
  const childProcesses: ChildProcess[] = [];
  const recordChild = (message: unknown) => childProcesses.push((message as { process: ChildProcess }).process);
  subscribe("child_process", recordChild);
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      ...worker,
      modules,
      modulesRoot: bundleDir,
      bindings: {
        ...(worker.bindings as Record<string, string>),
        ADMIN_KEY: options.adminKey,
        SERVER_KEY: loadServerKey(options.stateDir),
        ...options.variables,
      },
      host: "127.0.0.1",
      port: options.port,
      resourcePersistencePath: options.stateDir,
      telemetry: { enabled: false },
      log: new Log(LogLevel.ERROR),
      logRequests: false,
      handleStructuredLogs: ({ message }) => log(message),
    } as V4MiniflareOptions),
  );
  const url = (await miniflare.ready).origin;
  unsubscribe("child_process", recordChild);
  const watchdogs = childProcesses.filter(({ spawnfile }) => spawnfile.includes("workerd")).map(startWatchdog);
  const stop = async () => {
    await miniflare.dispose();
    for (const watchdog of watchdogs) watchdog.kill();
    lock.close();
  };
  return { url, stop };
}
