/**
 * What every remote backbone does alike: inputs go out in batches, a few at a time, each with a time-out and retries,
 * and what came back before a failure is kept.
 */
import { type Backoff, backoffDelay, retry } from "../lib/retry.ts";
import type { BackboneFailure, EmbedResult } from "./backbone.ts";

/** One call's answer: a row an input, or why not and whether the same call may succeed later. */
export type CallResult =
  | { readonly ok: true; readonly rows: readonly Float32Array[] }
  | { readonly ok: false; readonly failure: BackboneFailure; readonly retryable: boolean };

/** Randomness in [0, 1) and waiting, passed in so that tests decide both. */
export interface RetryIo {
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

export const platformRetryIo: RetryIo = {
  random: Math.random,
  sleep: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
};

/** The platform opens six connections a request; two are left for storage. */
const CONCURRENCY = 4;
const BACKOFF: Backoff = { initialBackoffMs: 500, maxBackoffMs: 10_000, jitter: 1 };

/**
 * Embeds `inputs` through `call`, which answers rather than throws. The first failing batch's failure is the answer's,
 * and stops batches that have not begun.
 */
export async function embedInBatches(
  inputs: readonly string[],
  call: (batch: readonly string[], signal: AbortSignal) => Promise<CallResult>,
  options: RemoteOptions,
  io: RetryIo,
): Promise<EmbedResult> {
  const rows: (Float32Array | undefined)[] = new Array(inputs.length).fill(undefined);
  const failures = new Map<number, BackboneFailure>();
  let next = 0;
  const worker = async () => {
    while (next < inputs.length && failures.size === 0) {
      const start = next;
      next += options.batchSize;
      const result = await withRetries(inputs.slice(start, next), call, options, io);
      if (!result.ok) failures.set(start, result.failure);
      else for (const [i, row] of result.rows.entries()) rows[start + i] = row;
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, worker));
  return { rows, failure: failures.get(Math.min(...failures.keys())) ?? null };
}

/**
 * Calls until there is an answer, a failure for good, or no retry left. Waits as long as the other side asks for, else
 * exponentially longer. If it is asked to wait too long, it fails at once.
 */
function withRetries(
  batch: readonly string[],
  call: (batch: readonly string[], signal: AbortSignal) => Promise<CallResult>,
  options: RemoteOptions,
  io: RetryIo,
): Promise<CallResult> {
  return retry(
    () => withTimeout((signal) => call(batch, signal), options.timeout),
    (result, tries) => {
      if (result.ok || !result.retryable || tries === options.retries) return null;
      const { retryAfter } = result.failure;
      const delay = retryAfter === undefined ? backoffDelay(BACKOFF, tries, io.random()) : retryAfter * 1000;
      return delay > BACKOFF.maxBackoffMs ? null : delay;
    },
    (milliseconds) => io.sleep(milliseconds),
  );
}

async function withTimeout(call: (signal: AbortSignal) => Promise<CallResult>, timeout: number): Promise<CallResult> {
  const controller = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeoutPromise = new Promise<CallResult>((resolve) => {
    timer = setTimeout(() => {
      resolve(callFailure("backend_timeout", `The backbone did not answer within ${timeout} ms.`));
      controller.abort();
    }, timeout);
  });
  try {
    return await Promise.race([call(controller.signal), timeoutPromise]);
  } finally {
    clearTimeout(timer);
  }
}

export function callFailure(
  code: BackboneFailure["code"],
  message: string,
  { retry: retryable = false, retryAfter }: { retry?: boolean; retryAfter?: number | undefined } = {},
): CallResult {
  return { ok: false, retryable, failure: { code, message, ...(retryAfter === undefined ? {} : { retryAfter }) } };
}

/** A row of the right length whose every number float32 can hold, or null. */
export function validateRow(values: ArrayLike<number>, dimensions: number): Float32Array | null {
  if (values.length !== dimensions) return null;
  const row = Float32Array.from(values);
  return row.every(Number.isFinite) ? row : null;
}
