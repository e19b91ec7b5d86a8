/** How an attempt is told to end before its work is done. */

/**
 * From the mildest on: `pause` uploads a checkpoint first; `cancel` only says that it has stopped; `end` says nothing more,
 * because the attempt is over for the Worker.
 */
const stopModes = ["pause", "cancel", "end"] as const;
export type StopMode = (typeof stopModes)[number];

export interface Cancellation {
  /** Of each way, a signal that is aborted once that or something less mild was asked for. */
  readonly signals: Readonly<Record<StopMode, AbortSignal>>;
  request(mode: StopMode): void;
  /** The least mild way that was asked for; null: none. */
  requestedMode(): StopMode | null;
}

export function makeCancellation(): Cancellation {
  const controllers = stopModes.map((way) => [way, new AbortController()] as const);
  const signals = Object.fromEntries(controllers.map(([way, { signal }]) => [way, signal]));
  return {
    signals: signals as Record<StopMode, AbortSignal>,
    request(mode) {
      for (const [each, controller] of controllers.slice(0, stopModes.indexOf(mode) + 1))
        controller.abort(new DOMException(`The attempt is to end: ${each}.`, "AbortError"));
    },
    requestedMode: () => stopModes.findLast((way) => signals[way]?.aborted) ?? null,
  };
}

/** What a promise gives, unless the signal is aborted first: then its reason is thrown, and the promise left alone. */
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
