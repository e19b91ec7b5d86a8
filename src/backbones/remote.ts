/**
 * What every remote backbone does alike: inputs go out in batches, a few at a time, each with a time-out and retries,
 * and what came back before a failure is kept.
 */
import type { BackboneFailure, Embedded } from "./backbone.ts";

/** One call's answer: a row an input, or why not and whether the same call may succeed later. */
export type Attempt =
  | { readonly ok: true; readonly rows: readonly Float32Array[] }
  | { readonly ok: false; readonly failure: BackboneFailure; readonly retry: boolean };

/** Randomness in [0, 1) and waiting, passed in so that tests decide both. */
export interface Pace {
  random(): number;
  sleep(milliseconds: number): Promise<void>;
}

export interface RemoteOptions {
  /** Inputs a call. */
  readonly batchSize: number;
  /** Milliseconds a call may take. It is not repeated when they are over: the caller has waited long enough. */
  readonly timeout: number;
  /** Further calls after the first one has failed. */
  readonly retries: number;
}

export const platformPace: Pace = {
  random: Math.random,
  sleep: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
};

/** The platform opens six connections a request; two are left for storage. */
const IN_FLIGHT = 4;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

/**
 * Embeds `inputs` through `call`, which answers rather than throws. The first failing batch's failure is the answer's,
 * and stops batches that have not begun.
 */
export async function embedRemotely(
  inputs: readonly string[],
  call: (batch: readonly string[], signal: AbortSignal) => Promise<Attempt>,
  options: RemoteOptions,
  pace: Pace,
): Promise<Embedded> {
  const rows: (Float32Array | undefined)[] = new Array(inputs.length).fill(undefined);
  const failures = new Map<number, BackboneFailure>();
  let next = 0;
  const worker = async () => {
    while (next < inputs.length && failures.size === 0) {
      const start = next;
      next += options.batchSize;
      const attempt = await persist(inputs.slice(start, next), call, options, pace);
      if (!attempt.ok) failures.set(start, attempt.failure);
      else for (const [i, row] of attempt.rows.entries()) rows[start + i] = row;
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
  return { rows, failure: failures.get(Math.min(...failures.keys())) ?? null };
}

/**
 * Calls until an answer, a failure for good, or the last retry. Waits what the other side asks for, else exponentially
 * with full jitter (Brooker 2015, "Exponential Backoff And Jitter"); asked to wait too long, it fails at once.
 */
async function persist(
  batch: readonly string[],
  call: (batch: readonly string[], signal: AbortSignal) => Promise<Attempt>,
  options: RemoteOptions,
  pace: Pace,
): Promise<Attempt> {
  for (let tries = 0; ; tries++) {
    const attempt = await withTimeout((signal) => call(batch, signal), options.timeout);
    if (attempt.ok || !attempt.retry || tries === options.retries) return attempt;
    const { retryAfter } = attempt.failure;
    const backoff = pace.random() * Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** tries);
    const wait = retryAfter === undefined ? backoff : retryAfter * 1000;
    if (wait > LONGEST_WAIT_MS) return attempt;
    await pace.sleep(wait);
  }
}

async function withTimeout(call: (signal: AbortSignal) => Promise<Attempt>, timeout: number): Promise<Attempt> {
  const controller = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<Attempt>((resolve) => {
    timer = setTimeout(() => {
      resolve(failed("backend_timeout", `The backbone did not answer within ${timeout} ms.`));
      controller.abort();
    }, timeout);
  });
  try {
    return await Promise.race([call(controller.signal), late]);
  } finally {
    clearTimeout(timer);
  }
}

export function failed(
  code: BackboneFailure["code"],
  message: string,
  { retry = false, retryAfter }: { retry?: boolean; retryAfter?: number | undefined } = {},
): Attempt {
  return { ok: false, retry, failure: { code, message, ...(retryAfter === undefined ? {} : { retryAfter }) } };
}

/** A row of the right length whose every number float32 can hold, or null. */
export function checkedRow(values: ArrayLike<number>, dimensions: number): Float32Array | null {
  if (values.length !== dimensions) return null;
  const row = Float32Array.from(values);
  return row.every(Number.isFinite) ? row : null;
}
