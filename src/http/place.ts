/** What one training of this isolate may do at a time, because its memory does not hold the arrays of two. */
import { fail, ok, type Result } from "../core/failure.ts";

/** How long a training waits for the one before it. */
const PATIENCE_MS = 10_000;
/** A training that holds its place longer than the platform lets any request run has been ended by the platform. */
const DEAD_MS = 200_000;

export interface Place {
  holder: { readonly since: number; readonly abandon: () => void } | null;
}

/** Holding a training's arrays, and fitting. */
export const trainingPlace: Place = { holder: null };
/** Asking a remote backbone: its answers take tens of megabytes on their way, and what KV does not keep is kept here. */
export const gatheringPlace: Place = { holder: null };

/** Takes a place, waiting a little for it; answers how to leave it. `abandon` frees what its holder left. */
export async function takePlace(place: Place, abandon: () => void): Promise<Result<() => void>> {
  const asked = Date.now();
  while (place.holder !== null) {
    if (Date.now() - place.holder.since > DEAD_MS) {
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
  const holder = { since: Date.now(), abandon };
  place.holder = holder;
  return ok(() => {
    if (place.holder === holder) place.holder = null;
  });
}
