/** Calling again after a failure, and how long to wait before that. */

/**
 * Calls until `delayAfter` gives null for a result, and answers that result. Until then it waits for as many milliseconds
 * as `delayAfter` gives. `tries` counts the calls before the one whose result it is.
 */
export async function retry<T>(
  call: () => Promise<T>,
  delayAfter: (result: T, tries: number) => number | null,
  wait: (milliseconds: number) => Promise<unknown>,
): Promise<T> {
  for (let tries = 0; ; tries++) {
    const result = await call();
    const delay = delayAfter(result, tries);
    if (delay === null) return result;
    await wait(delay);
  }
}

export interface Backoff {
  readonly initialBackoffMs: number;
  readonly maxBackoffMs: number;
  /** The part of the wait that is random: 1 is the "full jitter", ½ the "equal jitter" of the source below. */
  readonly jitter: number;
}

/**
 * Exponential backoff with jitter (Brooker 2015, "Exponential Backoff And Jitter"): milliseconds to wait after `tries`
 * earlier calls. `random` is uniform in [0, 1).
 */
export function backoffDelay({ initialBackoffMs, maxBackoffMs, jitter }: Backoff, tries: number, random: number) {
  return (1 - jitter + jitter * random) * Math.min(maxBackoffMs, initialBackoffMs * 2 ** tries);
}

/** Seconds or a date (RFC 9110, section 10.2.3) as milliseconds from `now`; null if it is neither. */
export function parseRetryAfter(header: string | null, now: number): number | null {
  if (header === null) return null;
  if (/^\d{1,9}$/.test(header.trim())) return Number(header) * 1000;
  // Date.parse reads even "-5" as a year in the past. An HTTP date begins with the name of the day.
  const time = /^[A-Za-z]/.test(header) ? Date.parse(header) : Number.NaN;
  return Number.isNaN(time) ? null : Math.max(0, time - now);
}
