/** Stops the runtime's process for a moment, so that everything it stores stands still at one instant. */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { UsageError } from "../../lib/usage-error.ts";

const POLL_MS = 100;
/** How long a process may take to stop: until each of its threads has ended the system call that it is in. */
const STOP_MS = 5_000;

/**
 * Runs `work` while the runtime of a running server is stopped, and lets it go on however `work` ends. What is on disk is
 * then what a kill of the runtime would leave. Throws a UsageError if there is no such process after `waitMs`.
 */
export async function withFrozenRuntime<T>(stateDir: string, waitMs: number, work: () => T): Promise<T> {
  const pid = await findRuntime(stateDir, waitMs);
  // Lets the runtime go on if this process is killed: the system then closes the pipe that the shell reads.
  const watchdog = spawn("sh", ["-c", 'read -r _; kill -CONT "$0"', String(pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  try {
    process.kill(pid, "SIGSTOP");
    waitUntilStopped(pid);
    const result = work();
    if (!isStopped(pid)) throw new UsageError("The server's runtime did not stand still. Try again.");
    return result;
  } finally {
    if (isRuntime(pid)) process.kill(pid, "SIGCONT");
    watchdog.kill();
  }
}

async function findRuntime(stateDir: string, waitMs: number): Promise<number> {
  for (const deadline = Date.now() + waitMs; Date.now() < deadline; await wait(POLL_MS)) {
    const file = join(stateDir, "runtime.pid");
    const pid = existsSync(file) ? Number(readFileSync(file, "utf8")) : 0;
    if (pid > 1 && isRuntime(pid)) return pid;
  }
  throw new UsageError("The server on this state has no runtime that can be seen from here. Run this where it runs.");
}

const hasProc = existsSync("/proc/self/stat");

/** Whether a process is the runtime, and not one that got its number after it. */
function isRuntime(pid: number): boolean {
  try {
    // Not by the link to its file, which says "(deleted)" where an update has replaced the file.
    const name = hasProc ? readFileSync(`/proc/${pid}/comm`, "utf8") : ps(pid, "comm");
    return basename(name.trim()) === "workerd";
  } catch {
    return false;
  }
}

function isStopped(pid: number): boolean {
  try {
    if (!hasProc) return ps(pid, "stat").startsWith("T");
    const threads = readdirSync(`/proc/${pid}/task`);
    return threads.every((thread) => / T /.test(readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8")));
  } catch {
    return false;
  }
}

function ps(pid: number, field: string): string {
  return spawnSync("ps", ["-o", `${field}=`, "-p", String(pid)], { encoding: "utf8" }).stdout.trim();
}

function waitUntilStopped(pid: number): void {
  const clock = new Int32Array(new SharedArrayBuffer(4));
  for (const deadline = Date.now() + STOP_MS; !isStopped(pid); Atomics.wait(clock, 0, 0, 1))
    if (Date.now() > deadline)
      throw new UsageError("The server's runtime could not be stopped for a moment. Try again.");
}
