/** Asking an attempt to end before its work is done. */
import type { Outcome } from "../client/worker-client.ts";

/**
 * From the mildest to the strictest: after `pause` the attempt uploads a checkpoint and reports that it has stopped; after
 * `cancel` it only reports that; after `end` it sends nothing more, because for the Worker it has ended.
 */
const stopModes = ["pause", "cancel", "end"] as const;
export type StopMode = (typeof stopModes)[number];

export interface Cancellation {
  /** Each mode has a signal, which is aborted once this mode or a stricter one is requested. */
  readonly signals: Readonly<Record<StopMode, AbortSignal>>;
  request(mode: StopMode): void;
  /** The strictest mode that was requested; null: none. */
  requestedMode(): StopMode | null;
}

export function makeCancellation(): Cancellation {
  const controllers = stopModes.map((mode) => [mode, new AbortController()] as const);
  const signals = Object.fromEntries(controllers.map(([mode, { signal }]) => [mode, signal]));
  return {
    signals: signals as Record<StopMode, AbortSignal>,
    request(mode) {
      for (const [each, controller] of controllers.slice(0, stopModes.indexOf(mode) + 1))
        controller.abort(new DOMException(`The attempt is to end: ${each}.`, "AbortError"));
    },
    requestedMode: () => stopModes.findLast((mode) => signals[mode]?.aborted) ?? null,
  };
}

/**
 * The value of a call's outcome; null if the call failed. If the Worker answered that the attempt has ended, it is to end
 * here as well. Throws the reason of an aborted signal.
 */
export function valueOrNull<T>(outcome: Outcome<T>, cancellation: Cancellation, signal: AbortSignal): T | null {
  if (outcome.type === "ended") cancellation.request("end");
  signal.throwIfAborted();
  return outcome.type === "answer" ? outcome.value : null;
}

/** The promise's value. If the signal is aborted first, its reason is thrown, and the promise is left to itself. */
export async function abortable<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const stop = () => reject(signal.reason);
  signal.addEventListener("abort", stop, { once: true });
  promise.catch(() => undefined);
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
