/** What one training of this isolate may do at a time, because its memory does not hold the arrays of two. */
import { fail, ok, type Result } from "../core/failure.ts";

/** How long a training waits for the one before it. */
const PATIENCE_MS = 10_000;
/**
 * How often a holder notes that it lives, and how long its silence means that it does not. When a client has hung up,
 * the platform ends what is left of the request within 30 seconds, timers and all, and runs no `finally`.
 */
const BEAT_MS = 5_000;
const SILENT_MS = 30_000;

export interface Place {
  holder: { seen: number; readonly abandon: () => void } | null;
}

/** Holding a training's arrays, and fitting. */
export const trainingPlace: Place = { holder: null };
/** Asking a remote backbone: its answers take tens of megabytes on their way, and what KV does not keep is kept here. */
export const gatheringPlace: Place = { holder: null };

/**
 * Takes a place, waiting a little for it; answers how to leave it. Where the holder has fallen silent its place is taken
 * from it: `abandon` frees what it left, and tells it, should it live after all.
 */
export async function takePlace(place: Place, abandon: () => void): Promise<Result<() => void>> {
  const asked = Date.now();
  while (place.holder !== null) {
    if (Date.now() - place.holder.seen > SILENT_MS) {
      place.holder.abandon();
      break;
    }
    if (Date.now() - asked > PATIENCE_MS) {
      return fail("capacity_exceeded", "Another training is running here. Try again in a few seconds.", {
        retryAfter: 5,
      });
    }
    await scheduler.wait(50);
  }
  const holder = { seen: Date.now(), abandon };
  place.holder = holder;
  const heart = setInterval(() => {
    holder.seen = Date.now();
  }, BEAT_MS);
  return ok(() => {
    clearInterval(heart);
    if (place.holder === holder) place.holder = null;
  });
}
