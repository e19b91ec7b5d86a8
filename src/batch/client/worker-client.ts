/** The Worker as an attempt calls it: each call has a time limit, and is repeated where that may help. */
import { randomUUID } from "node:crypto";
import { setTimeout as wait } from "node:timers/promises";
import { type Directive, directive, type Message } from "../../jobs/protocol.ts";
import { sign } from "../../jobs/sign.ts";
import { backoffDelay, parseRetryAfter, retry } from "../../lib/retry.ts";

export interface RetryPolicy {
  /** How long a call may take. For a transfer of many bytes: how long it may stand still, or a part of its limit. */
  readonly timeoutMs: number;
  /** How long a failing call is repeated. */
  readonly maxElapsedMs: number;
  readonly initialBackoffMs: number;
  readonly maxBackoffMs: number;
}

export const defaultRetryPolicy: RetryPolicy = {
  timeoutMs: 30_000,
  maxElapsedMs: 600_000,
  initialBackoffMs: 500,
  maxBackoffMs: 15_000,
};

/**
 * The result of one call. `ended`: the Worker says that this attempt has ended. `retry`: the call may succeed if it is
 * repeated, not before so many milliseconds have passed.
 */
export type CallResult<T> =
  | { readonly type: "answer"; readonly value: T }
  | { readonly type: "ended" }
  | { readonly type: "refused"; readonly status: number }
  | { readonly type: "retry"; readonly retryAfterMs: number };

/** The result of a call with its retries. */
export type Outcome<T> = Exclude<CallResult<T>, { type: "retry" }> | { readonly type: "unreachable" };

const ATTEMPT_ENDED_STATUSES: ReadonlySet<number> = new Set([401, 404, 409, 410]);

export interface WorkerClient {
  readonly retryPolicy: RetryPolicy;
  /**
   * Makes one call. `read` takes what it needs from a good answer, and gives null if the answer is not as agreed. Throws
   * the signal's reason if the signal is aborted, and nothing else.
   */
  call<T>(
    path: string,
    init: { readonly method: string; readonly headers?: Record<string, string>; readonly body?: string | Uint8Array },
    read: (response: Response) => Promise<T | null>,
    signal: AbortSignal,
    timeout?: AbortSignal,
  ): Promise<CallResult<T>>;
  /** Makes one call for bytes, which may take as long as bytes keep coming. */
  getStream<T>(
    path: string,
    read: (chunks: AsyncIterable<Uint8Array>) => Promise<T | null>,
    signal: AbortSignal,
  ): Promise<CallResult<T>>;
  /** Sends a message, without retries. */
  sendOnce(message: Message, signal: AbortSignal): Promise<CallResult<Directive>>;
  /** Sends a message until it is answered. */
  send(message: Message, signal: AbortSignal): Promise<Outcome<Directive>>;
}

export interface WorkerClientOptions {
  /** The Worker's address, without a slash at its end. */
  readonly url: string;
  readonly secret: string;
  readonly retryPolicy: RetryPolicy;
}

/** Identifies the attempt that calls. */
export interface AttemptCredentials {
  readonly id: string;
  readonly attempt: number;
  readonly token: string;
}

export function makeWorkerClient(
  { url, secret, retryPolicy }: WorkerClientOptions,
  { id, attempt, token }: AttemptCredentials,
): WorkerClient {
  const base = `${url}/internal/batch/jobs/${id}/attempts/${attempt}/`;
  const call: WorkerClient["call"] = async (
    path,
    init,
    read,
    signal,
    timeout = AbortSignal.timeout(retryPolicy.timeoutMs),
  ) => {
    const headers = { authorization: `Bearer ${token}`, ...init.headers };
    try {
      signal.throwIfAborted();
      const either = AbortSignal.any([signal, timeout]);
      // A redirect would carry the token and the data to another server.
      const response = await fetch(base + path, { ...init, headers, signal: either, redirect: "error" });
      return await resultOf(response, read);
    } catch {
      signal.throwIfAborted();
      return { type: "retry", retryAfterMs: 0 };
    }
  };
  const getStream: WorkerClient["getStream"] = async (path, read, signal) => {
    const stallController = new AbortController();
    const timer = setTimeout(() => stallController.abort(), retryPolicy.timeoutMs);
    async function* chunks({ body }: Response): AsyncGenerator<Uint8Array> {
      for await (const chunk of body ?? []) {
        timer.refresh();
        yield chunk as Uint8Array;
      }
    }
    const result = await call(
      path,
      { method: "GET" },
      (response) => read(chunks(response)),
      signal,
      stallController.signal,
    );
    clearTimeout(timer);
    return result;
  };
  const sendOnce: WorkerClient["sendOnce"] = (message, signal) => {
    const body = JSON.stringify({ id, attempt, ...message });
    const signed = sign(secret, body, `msg_${randomUUID().replaceAll("-", "")}`, Date.now());
    const headers = { "content-type": "application/json", ...signed };
    const read = async (response: Response) => directive.safeParse(await response.json()).data ?? null;
    return call("messages", { method: "POST", headers, body }, read, signal);
  };
  const send: WorkerClient["send"] = (message, signal) =>
    withRetries(retryPolicy, signal, () => sendOnce(message, signal));
  return { retryPolicy, call, getStream, sendOnce, send };
}

async function resultOf<T>(
  response: Response,
  read: (response: Response) => Promise<T | null>,
): Promise<CallResult<T>> {
  if (response.ok) {
    const value = await read(response);
    return value === null ? { type: "retry", retryAfterMs: 0 } : { type: "answer", value };
  }
  await response.body?.cancel().catch(() => undefined);
  const { status } = response;
  if (ATTEMPT_ENDED_STATUSES.has(status)) return { type: "ended" };
  if (status < 500 && status !== 408 && status !== 429) return { type: "refused", status };
  return { type: "retry", retryAfterMs: parseRetryAfter(response.headers.get("retry-after"), Date.now()) ?? 0 };
}

/** Repeats a call until its result is not `retry`, or the policy's time is over. Throws the reason of an aborted signal. */
export async function withRetries<T>(
  { maxElapsedMs, initialBackoffMs, maxBackoffMs }: RetryPolicy,
  signal: AbortSignal,
  call: () => Promise<CallResult<T>>,
): Promise<Outcome<T>> {
  const deadline = Date.now() + maxElapsedMs;
  const backoff = { initialBackoffMs, maxBackoffMs, jitter: 0.5 };
  const result = await retry(
    call,
    (result, tries) => {
      if (result.type !== "retry") return null;
      const delay = Math.max(result.retryAfterMs, backoffDelay(backoff, tries, Math.random()));
      return Date.now() + delay > deadline ? null : delay;
    },
    (delay) => wait(delay, undefined, { signal }).catch(() => signal.throwIfAborted()),
  );
  return result.type === "retry" ? { type: "unreachable" } : result;
}
