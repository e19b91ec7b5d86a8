/**
 * Serves the Worker on this machine: the same bundle, on the same runtime (workerd) as in production, with its storage
 * on disk. `npm start` runs it; the demo, the evaluation and the benchmarks start it for themselves.
 *
 *   PORT        8787, on 127.0.0.1 alone; 0 takes any free one
 *   STATE_DIR   .graft: keys, data sets, heads and the server's own secret; survives restarts
 *   ADMIN_KEY   the operator's key; a random one is made and printed when it is not set
 *   BACKBONES   remote backbones (docs/backbones.md); the secrets that they name are environment variables too
 *   WEBHOOK_ORIGINS  origins that webhooks may go to though they are not public (docs/webhooks.md)
 *   BATCH_URL   a batch endpoint that runs elsewhere, and BATCH_SECRET, which it shares; by default one is started here:
 *   BATCH_PORT  any free one; where that listens, on 127.0.0.1 alone
 *   BATCH_JOBS  1, how many fine-tuning jobs it runs at once; 0 starts none, and there are no such jobs
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import { mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare, type V4MiniflareOptions } from "miniflare";
import { unstable_getMiniflareWorkerOptions as workerOptions } from "wrangler";
import { makeBackbones } from "./backbones/index.ts";
import { textStatic } from "./backbones/node.ts";
import { lockFolder } from "./lib/folder-lock.ts";
import { parseOrigins } from "./webhooks/url.ts";

const root = resolve(import.meta.dirname, "..");
const config = join(root, "wrangler.toml");

/** A problem with what the user gave: told in one line, without a stack. */
export class UsageError extends Error {}

export interface ServeOptions {
  readonly port: number;
  readonly stateDir: string;
  readonly adminKey: string;
  /** Variables of the Worker beside its secrets, such as BACKBONES. */
  readonly variables?: Readonly<Record<string, string>>;
  /** Where the Worker's log lines go; by default to standard output. */
  readonly log?: (line: string) => void;
}

export interface Server {
  readonly url: string;
  readonly stop: () => Promise<void>;
}

/** Bundles the Worker as a deployment does, into `outDir`. */
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

/** What a bundle's files are to the runtime; the Worker itself comes first. */
const moduleTypes = [
  [".js", "ESModule"],
  [".wasm", "CompiledWasm"],
  [".bin", "Data"],
  [".txt", "Text"],
] as const;

/** Starts a built Worker on workerd and waits until it is ready. Throws a Problem where the state cannot be used. */
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
  const watchdogs = childProcesses.filter(({ spawnfile }) => spawnfile.includes("workerd")).map(killWithParent);
  const stop = async () => {
    await miniflare.dispose();
    for (const watchdog of watchdogs) watchdog.kill();
    lock.close();
  };
  return { url, stop };
}

/** Keeps a second server off a state folder, where both would fail at every other request. */
function lockStateDir(stateDir: string): { close(): void } {
  let lock: ReturnType<typeof lockFolder>;
  try {
    lock = lockFolder(stateDir);
  } catch (error) {
    throw new UsageError(`The state cannot be kept in STATE_DIR '${stateDir}': ${(error as Error).message}.`);
  }
  if (lock !== null) return lock;
  throw new UsageError(`Another server runs on the state in '${stateDir}'. Stop it, or set another STATE_DIR.`);
}

/**
 * Where this process is killed, workerd would live on and hold the port and the state. A shell that reads from this
 * process ends workerd as soon as that pipe closes, for whatever reason.
 */
function killWithParent(runtime: ChildProcess): ChildProcess {
  const watchdog = spawn("sh", ["-c", 'read -r _; kill -9 "$0"', String(runtime.pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  watchdog.on("error", () => undefined);
  watchdog.unref();
  (watchdog.stdin as Socket).unref();
  return watchdog;
}

/**
 * What the Worker gets of an environment: its variables, and the secrets that BACKBONES names. Throws a Problem where
 * BACKBONES or WEBHOOK_ORIGINS is wrong, because the Worker would start nonetheless.
 */
export function readWorkerVariables(env: NodeJS.ProcessEnv): Record<string, string> {
  const names = ["BACKBONES", "DEFAULT_BACKBONE", "PREVIOUS_SERVER_KEY", "BATCH_URL", "BATCH_SECRET"];
  names.push("PREVIOUS_BATCH_SECRET", "BATCH_SILENCE_SECONDS", "BATCH_TIMEOUT_SECONDS");
  names.push("WEBHOOK_ORIGINS", "WEBHOOK_TIMEOUT_SECONDS");
  if (parseOrigins(env.WEBHOOK_ORIGINS) === null)
    throw new UsageError(
      `WEBHOOK_ORIGINS is '${env.WEBHOOK_ORIGINS}', which is not a list such as 'http://127.0.0.1:9000'.`,
    );
  const parsedBackbones = makeBackbones(
    textStatic,
    env.BACKBONES,
    (secret) => {
      names.push(secret);
      return env[secret];
    },
    undefined,
  );
  if (!parsedBackbones.ok) throw new UsageError(`${parsedBackbones.failure.message}.`);
  return Object.fromEntries(names.flatMap((name) => (env[name] ? [[name, env[name]]] : [])));
}

/** A secret that is made once, then kept in `file` beside the state that it belongs to. */
function loadOrCreateSecret(file: string, generate: () => string): string {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    const secret = generate();
    writeFileSync(`${file}.new`, `${secret}\n`, { mode: 0o600 });
    renameSync(`${file}.new`, file);
    return secret;
  }
}

/** The key that signs API keys. */
function loadServerKey(stateDir: string): string {
  return loadOrCreateSecret(join(stateDir, "server-key"), () => randomBytes(32).toString("hex"));
}

/** What signs the messages between the Worker and a batch endpoint on this machine. */
function loadBatchSecret(stateDir: string): string {
  return loadOrCreateSecret(join(stateDir, "batch-secret"), () => `whsec_${randomBytes(32).toString("base64")}`);
}

/** How an environment wants the Worker to be served; throws a Problem where it is wrong. */
export function readServeOptions(env: NodeJS.ProcessEnv): ServeOptions {
  const { PORT = "8787", STATE_DIR = ".graft", ADMIN_KEY } = env;
  if (STATE_DIR === "") throw new UsageError("STATE_DIR is empty. Name a folder, or leave it unset for '.graft'.");
  return {
    port: readPort("PORT", PORT),
    stateDir: resolve(STATE_DIR),
    adminKey: ADMIN_KEY || randomBytes(24).toString("hex"),
    variables: readWorkerVariables(env),
  };
}

/** A port that can be listened on: the one asked for, or with 0 a free one. Throws a Problem where it cannot. */
async function findPort(name: string, port: number): Promise<number> {
  const probe = createServer().listen(port, "127.0.0.1");
  await once(probe, "listening").catch(({ code }) => {
    throw new UsageError(
      `${name} ${port} of 127.0.0.1 is ${code === "EADDRINUSE" ? "in use" : `not to be had (${code})`}.`,
    );
  });
  const freePort = (probe.address() as AddressInfo).port;
  probe.close();
  await once(probe, "close");
  return freePort;
}

function readPort(name: string, value: string): number {
  if (/^\d{1,5}$/.test(value) && Number(value) <= 65_535) return Number(value);
  throw new UsageError(`${name} is '${value}', which is not a whole number from 0 to 65535.`);
}

/** How long a batch endpoint that ended by itself waits to be started again. */
const BATCH_RESTART_MS = 1_000;

/** Runs the batch endpoint as a process of its own, and again should it end; answers how to end it for good. */
function startBatchEndpoint(env: NodeJS.ProcessEnv): () => Promise<void> {
  let child: ChildProcess;
  let timer: NodeJS.Timeout | undefined;
  let stopping = false;
  const run = () => {
    child = spawn(process.execPath, [join(root, "src", "batch.ts")], {
      cwd: root,
      env,
      stdio: ["ignore", "inherit", "inherit"],
    });
    const watchdog = killWithParent(child);
    child.once("exit", () => {
      watchdog.kill();
      if (!stopping) timer = setTimeout(run, BATCH_RESTART_MS);
    });
  };
  run();
  return async () => {
    stopping = true;
    clearTimeout(timer);
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGTERM");
    await once(child, "exit");
  };
}

async function start(): Promise<void> {
  const { env } = process;
  const options = readServeOptions(env);
  await findPort("PORT", options.port);
  // One that runs elsewhere, one started here, or none.
  const batchPort =
    env.BATCH_URL || env.BATCH_JOBS === "0"
      ? null
      : await findPort("BATCH_PORT", readPort("BATCH_PORT", env.BATCH_PORT ?? "0"));
  const bundleDir = join(root, "dist");
  await buildWorker(bundleDir);
  mkdirSync(options.stateDir, { recursive: true });
  const secret = loadBatchSecret(options.stateDir);
  const batchVariables = batchPort === null ? {} : { BATCH_URL: `http://127.0.0.1:${batchPort}`, BATCH_SECRET: secret };
  const { url, stop } = await serve(bundleDir, { ...options, variables: { ...options.variables, ...batchVariables } });
  const workDir = join(options.stateDir, "batch");
  const stopBatch =
    batchPort === null
      ? async () => undefined
      : startBatchEndpoint({
          ...env,
          ...batchVariables,
          BATCH_PORT: String(batchPort),
          GRAFT_URL: url,
          WORK_DIR: workDir,
        });
  // The batch endpoint first: it hands back to the Worker what it has not done.
  const shutDown = () =>
    stopBatch()
      .then(stop)
      .then(() => process.exit(0));
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    // Miniflare's own listeners would end this process at once.
    process.removeAllListeners(signal);
    process.once(signal, shutDown);
  }
  console.log(`Graft listens on ${url}, its state in ${options.stateDir}. The API is described at ${url}/docs.`);
  if (!env.ADMIN_KEY)
    console.log(`ADMIN_KEY=${options.adminKey} (made for this run; set it in the environment to choose your own)`);
}

if (import.meta.main) {
  await start().catch((error) => {
    console.error(error instanceof UsageError ? error.message : error);
    process.exit(1);
  });
}
