import { type ChildProcess, spawn } from "node:child_process";
import type { Socket } from "node:net";

/**
 * Kills a child process as soon as this process has ended. Without it, a child would survive a kill -9 of this process
 * and keep its port and its state. The watchdog is a shell that reads a pipe from this process: the system closes the
 * pipe, however this process ends.
 */
export function startWatchdog(child: ChildProcess): ChildProcess {
  const watchdog = spawn("sh", ["-c", 'read -r _; kill -9 "$0"', String(child.pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  watchdog.on("error", () => undefined);
  watchdog.unref();
  (watchdog.stdin as Socket).unref();
  return watchdog;
}
