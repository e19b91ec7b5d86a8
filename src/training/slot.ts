/**
 * What one training of this isolate may do at a time. The isolate's memory cannot hold the arrays of two trainings.
 */
import { type Failure, fail, ok, type Result } from "../core/failure.ts";

/** How long a training waits for the one before it. */
const ACQUIRE_TIMEOUT_MS = 10_000;
const POLL_INTERVAL_MS = 50;
/**
 * A training that sends no heartbeat for 30 s (its client disconnected and the platform ended it) loses its slot, and its
 * arrays are freed. The platform ends such a request within 30 seconds, timers and all, and runs no `finally`.
 */
const HEARTBEAT_MS = 5_000;
const HEARTBEAT_TIMEOUT_MS = 30_000;

export interface Slot {
  holder: { lastHeartbeat: number; readonly onPreempt: () => void } | null;
}

/** For holding a training's arrays and for fitting. */
export const trainingSlot: Slot = { holder: null };
/** For calling a remote backbone: its responses take tens of megabytes, and what KV does not store is kept in memory. */
export const gatheringSlot: Slot = { holder: null };

export const preemptedFailure: Failure = {
  code: "capacity_exceeded",
  message: "This training stood still for too long, and had to make room for another.",
  retryAfter: 5,
};

/**
 * Takes a slot, after waiting a little for it. Returns the function that releases it. A slot whose holder has sent no
 * heartbeat is taken from it: `onPreempt` of that holder frees its arrays, and tells it if it still runs.
 */
async function acquireSlot(slot: Slot, onPreempt: () => void): Promise<Result<() => void>> {
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
    await scheduler.wait(POLL_INTERVAL_MS);
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

/** The slots of one training. */
export interface SlotHolder {
  /** Takes a slot unless it is held already. Returns why it could not, or null. */
  acquire(slot: Slot): Promise<Failure | null>;
  release(slot: Slot): void;
  releaseAll(): void;
  /** Whether another training has taken a slot from this one. */
  readonly isPreempted: boolean;
}

/** `onPreempt` is called when another training takes a slot from this one. */
export function createSlotHolder(onPreempt: () => void): SlotHolder {
  const releases = new Map<Slot, () => void>();
  let isPreempted = false;
  const release = (slot: Slot) => {
    releases.get(slot)?.();
    releases.delete(slot);
  };
  return {
    get isPreempted() {
      return isPreempted;
    },
    async acquire(slot) {
      if (isPreempted) return preemptedFailure;
      if (releases.has(slot)) return null;
      const acquired = await acquireSlot(slot, () => {
        isPreempted = true;
        onPreempt();
      });
      if (!acquired.ok) return acquired.failure;
      releases.set(slot, acquired.value);
      return null;
    },
    release,
    releaseAll() {
      for (const slot of [...releases.keys()]) release(slot);
    },
  };
}
