import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join, resolve } from "node:path";
import { startWatchdog } from "./watchdog.ts";

const root = resolve(import.meta.dirname, "..", "..");

/** If the batch endpoint ends by itself, it is started again after this time. */
const RESTART_DELAY_MS = 1_000;

/** Starts the batch endpoint in a process of its own, and again whenever it ends. Returns the function that stops it. */
export function startBatchProcess(env: NodeJS.ProcessEnv, log: "inherit" | "ignore"): () => Promise<void> {
  let child: ChildProcess;
  let timer: NodeJS.Timeout | undefined;
  let stopping = false;
  const start = () => {
    child = spawn(process.execPath, [join(root, "src", "batch.ts")], {
      cwd: root,
      env,
      stdio: ["ignore", log, log],
    });
    startWatchdog(child);
    child.once("exit", () => {
      if (!stopping) timer = setTimeout(start, RESTART_DELAY_MS);
    });
  };
  start();
  return async () => {
    stopping = true;
    clearTimeout(timer);
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGTERM");
    await once(child, "exit");
  };
}
