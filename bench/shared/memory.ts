/** Memory: the JavaScript heap of this process, and the RAM of others by /proc. Megabytes have 10^6 bytes. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";

/** The bytes in use after a garbage collection. The runtime frees the memory of typed arrays a little after it. */
export async function measureMemory(collect: () => void): Promise<number> {
  collect();
  await setTimeout(5);
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** The RAM of a process and all its descendants. */
export function processTreeMegabytes(pid: number): number {
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc")) {
    try {
      const [, parent] = /\) \S (\d+)/.exec(readFileSync(`/proc/${Number(name)}/stat`, "utf8")) ?? [];
      parents.set(Number(name), Number(parent));
    } catch {
      // Not a process, or it has ended.
    }
  }
  const pids = new Set([pid]);
  for (let size = 0; size < pids.size; ) {
    size = pids.size;
    for (const [child, parent] of parents) if (pids.has(parent)) pids.add(child);
  }
  let kibibytes = 0;
  for (const member of pids) {
    try {
      kibibytes += Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${member}/status`, "utf8"))?.[1] ?? 0);
    } catch {
      // It has ended.
    }
  }
  return (kibibytes * 1024) / 1e6;
}

/** A process's peak RAM (VmHWM) since its start or since `resetPeakMemory`. */
export function peakMegabytes(pid: number | null): number | null {
  if (pid === null) return null;
  const kibibytes = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return kibibytes === undefined ? null : (Number(kibibytes) * 1024) / 1e6;
}

/** Resets a process's peak to its current RAM; clear_refs in proc(5). */
export function resetPeakMemory(pid: number | null): void {
  if (pid !== null) writeFileSync(`/proc/${pid}/clear_refs`, "5");
}
