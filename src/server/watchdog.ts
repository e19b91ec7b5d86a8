import { type ChildProcess, spawn } from "node:child_process";
import { subscribe } from "node:diagnostics_channel";
import type { Socket } from "node:net";

/**
 * Kills a child process as soon as this process has ended. Without it, a child would survive a kill -9 of this process
 * and keep its port and its state. The watchdog is a shell that reads a pipe from this process: the system closes the
 * pipe, however this process ends. The watchdog ends with the child.
 */
export function startWatchdog(child: ChildProcess): void {
  const watchdog = spawn("sh", ["-c", 'read -r _; kill -9 "$0"', String(child.pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  watchdog.on("error", () => undefined);
  watchdog.unref();
  (watchdog.stdin as Socket).unref();
  child.once("exit", () => watchdog.kill());
}

const watchedCommands = new Set<string>();

/** Starts a watchdog for each process of this command that this process starts from now on, by whatever module. */
export function watchCommand(command: string): void {
  if (watchedCommands.has(command)) return;
  watchedCommands.add(command);
  subscribe("child_process", (message) => {
    const { process: child } = message as { process: ChildProcess };
    child.once("spawn", () => {
      if (child.spawnfile === command) startWatchdog(child);
    });
  });
}
