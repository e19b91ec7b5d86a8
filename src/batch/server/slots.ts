/** How many more attempts may start, and which jobs are small enough to run beside a large one. */
import type { Submission } from "../../jobs/protocol.ts";
import type { FreeSlots } from "./fair-queue.ts";

export interface SlotLimits {
  /** Attempts of any size that run at once. */
  readonly capacity: number;
  /** Attempts at small jobs that run beside these. */
  readonly smallCapacity: number;
  /** Bytes of memory that the machine or container has left. */
  readonly availableMemory: () => number;
}

/** Some ten seconds of computation, and less memory than a process itself takes. */
const SMALL_JOB = { operations: 1e11, bytes: 64e6 } as const;
/** What the process of a small job takes at most, with as much again left for the others to grow. */
const SMALL_PROCESS_BYTES = 512 * 2 ** 20;

/** Older Workers do not send an estimate: their jobs are not small. */
export function isSmallJob({ estimate }: Pick<Submission, "estimate">): boolean {
  return estimate !== undefined && estimate.operations <= SMALL_JOB.operations && estimate.bytes <= SMALL_JOB.bytes;
}

/** Small jobs take the slots for small jobs first. An attempt beyond `capacity` starts only while there is memory for it. */
export function countFreeSlots(
  running: readonly Pick<Submission, "estimate">[],
  { capacity, smallCapacity, availableMemory }: SlotLimits,
): FreeSlots {
  if (running.length >= capacity && availableMemory() < SMALL_PROCESS_BYTES) return { any: 0, small: 0 };
  const inSmallSlots = Math.min(running.filter(isSmallJob).length, smallCapacity);
  return { any: capacity - (running.length - inSmallSlots), small: smallCapacity - inSmallSlots };
}
