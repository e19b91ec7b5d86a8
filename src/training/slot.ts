/** What one training of this isolate may do at a time, because its memory does not hold the arrays of two. */
import { fail, ok, type Result } from "../core/failure.ts";

/** How long a training waits for the one before it. */
const ACQUIRE_TIMEOUT_MS = 10_000;
/**
 * How often a holder notes that it lives, and how long its silence means that it does not. When a client has hung up,
 * the platform ends what is left of the request within 30 seconds, timers and all, and runs no `finally`.
 */
const HEARTBEAT_MS = 5_000;
const HEARTBEAT_TIMEOUT_MS = 30_000;

export interface Slot {
  holder: { lastHeartbeat: number; readonly onPreempt: () => void } | null;
}

/** Holding a training's arrays, and fitting. */
export const trainingSlot: Slot = { holder: null };
/** Asking a remote backbone: its answers take tens of megabytes on their way, and what KV does not keep is kept here. */
export const gatheringSlot: Slot = { holder: null };

/**
 * Takes a place, waiting a little for it; answers how to leave it. Where the holder has fallen silent its place is taken
 * from it: `abandon` frees what it left, and tells it, should it live after all.
 */
export async function acquireSlot(slot: Slot, onPreempt: () => void): Promise<Result<() => void>> {
  const startedAt = Date.now();
  while (slot.holder !== null) {
    if (Date.now() - slot.holder.lastHeartbeat > HEARTBEAT_TIMEOUT_MS) {
      slot.holder.onPreempt();
      break;
    }
    if (Date.now() - startedAt > ACQUIRE_TIMEOUT_MS) {
      return fail("capacity_exceeded", "Another training is running here. Try again in a few seconds.", {
        retryAfter: 5,
      });
    }
    await scheduler.wait(50);
  }
  const holder = { lastHeartbeat: Date.now(), onPreempt };
  slot.holder = holder;
  const heartbeat = setInterval(() => {
    holder.lastHeartbeat = Date.now();
  }, HEARTBEAT_MS);
  return ok(() => {
    clearInterval(heartbeat);
    if (slot.holder === holder) slot.holder = null;
  });
}
