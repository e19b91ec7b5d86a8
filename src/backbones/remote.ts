/**
 * A backbone that is called over the network. Inputs go out in batches, a few at a time, each with a timeout and retries.
 * Rows that arrived before a failure are kept.
 */
import { type Backoff, backoffDelay, retry } from "../lib/retry.ts";
import type { Backbone, BackboneFailure, EmbedResult, Identity } from "./backbone.ts";

/** The result of a call: a row an input, or a failure and whether the same call may succeed later. */
export type CallResult =
  | { readonly ok: true; readonly rows: readonly Float32Array[] }
  | { readonly ok: false; readonly failure: BackboneFailure; readonly retryable: boolean };

/** Random numbers in [0, 1) and waiting, which tests replace. */
export interface RetryIo {
  random(): number;
  sleep(milliseconds: number): Promise<void>;
}

export interface RemoteOptions {
  readonly model: string;
  readonly dimensions: number;
  /** How many inputs a call has at most. */
  readonly batchSize: number;
  /** How long a call may take, in milliseconds. After a timeout it is not retried: the caller has waited long enough. */
  readonly timeout: number;
  /** How often a failed call is repeated. */
  readonly retries: number;
}

/** Embeds a batch. It returns its failures, and throws none. */
type Call = (batch: readonly string[], signal: AbortSignal) => Promise<CallResult>;

export const platformRetryIo: RetryIo = {
  random: Math.random,
  sleep: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
};

/** The platform opens six connections a request. Two of them stay free for storage. */
const CONCURRENCY = 4;
const BACKOFF: Backoff = { initialBackoffMs: 500, maxBackoffMs: 10_000, jitter: 1 };

/** A backbone that embeds by `call`. */
export function remoteBackbone(
  kind: "openai" | "workers_ai",
  identity: Identity,
  options: RemoteOptions,
  call: Call,
  io: RetryIo = platformRetryIo,
): Backbone {
  return {
    ...identity,
    modality: "text",
    dimensions: options.dimensions,
    kind,
    bytes: 0,
    cost: "remote",
    embed: (inputs) => embedInBatches(inputs, call, options, io),
  };
}

/** The first failed batch, in the order of the inputs, gives the failure. After a failure no further batch starts. */
async function embedInBatches(
  inputs: readonly string[],
  call: Call,
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
 * Calls until a success, a final failure or the last retry. Waits as long as the endpoint asks for, or else exponentially
 * longer. If it is asked to wait too long, it fails at once.
 */
function withRetries(batch: readonly string[], call: Call, options: RemoteOptions, io: RetryIo): Promise<CallResult> {
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

/** The values as a row; null if their number is wrong or one is not a finite 32-bit float. */
export function validateRow(values: ArrayLike<number>, dimensions: number): Float32Array | null {
  if (values.length !== dimensions) return null;
  const row = Float32Array.from(values);
  return row.every(Number.isFinite) ? row : null;
}
