/** What an attempt says to the Worker and fetches from it: each call within a time limit, and again where it may help. */
import { randomUUID } from "node:crypto";
import { setTimeout as wait } from "node:timers/promises";
import { type Directive, directive, type Message } from "../../jobs/protocol.ts";
import { sign } from "../../jobs/sign.ts";
import { parseRetryAfter } from "../../lib/retry-after.ts";

export interface RetryPolicy {
  /** How long a call may take; for one that carries much, how long it may stand still, or a multiple of it. */
  readonly timeoutMs: number;
  /** How long a call that fails is made again. */
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

/** What one call came to. `over`: the attempt has no say any more; `again`: it may be made again, after so many milliseconds. */
export type CallResult<T> =
  | { readonly type: "answer"; readonly value: T }
  | { readonly type: "over" }
  | { readonly type: "refused"; readonly status: number }
  | { readonly type: "again"; readonly retryAfterMs: number };

/** What a call came to that was made until it got an answer, or for as long as patience lasts. */
export type Outcome<T> = Exclude<CallResult<T>, { type: "again" }> | { readonly type: "unreachable" };

const ATTEMPT_OVER_STATUSES: ReadonlySet<number> = new Set([401, 404, 409, 410]);

export interface WorkerClient {
  readonly retryPolicy: RetryPolicy;
  /**
   * One call. `read` takes what it needs of a good answer, and gives null where that is not as it should be. Throws the
   * signal's reason when that is aborted, and nothing else.
   */
  call<T>(
    path: string,
    init: { readonly method: string; readonly headers?: Record<string, string>; readonly body?: string | Uint8Array },
    read: (response: Response) => Promise<T | null>,
    signal: AbortSignal,
    timeout?: AbortSignal,
  ): Promise<CallResult<T>>;
  /** One call for bytes, which may take as long as they keep coming. */
  getStream<T>(
    path: string,
    read: (chunks: AsyncIterable<Uint8Array>) => Promise<T | null>,
    signal: AbortSignal,
  ): Promise<CallResult<T>>;
  /** Tells something once. */
  sendOnce(message: Message, signal: AbortSignal): Promise<CallResult<Directive>>;
  /** Tells something until it is heard. */
  send(message: Message, signal: AbortSignal): Promise<Outcome<Directive>>;
}

export interface WorkerClientOptions {
  /** Where the Worker is, without a slash at its end. */
  readonly url: string;
  readonly secret: string;
  readonly retryPolicy: RetryPolicy;
}

/** Whose calls they are. */
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
      // A redirect would carry the token, and the data, to who knows where.
      const response = await fetch(base + path, { ...init, headers, signal: either, redirect: "error" });
      if (response.ok) {
        const value = await read(response);
        return value === null ? { type: "again", retryAfterMs: 0 } : { type: "answer", value };
      }
      await response.body?.cancel().catch(() => undefined);
      const { status } = response;
      if (ATTEMPT_OVER_STATUSES.has(status)) return { type: "over" };
      if (status < 500 && status !== 408 && status !== 429) return { type: "refused", status };
      return { type: "again", retryAfterMs: parseRetryAfter(response.headers.get("retry-after"), Date.now()) ?? 0 };
    } catch {
      signal.throwIfAborted();
      return { type: "again", retryAfterMs: 0 };
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

/** Waits exponentially longer between tries, with jitter; at least as long as it is asked to. Throws the reason of an aborted signal. */
export async function withRetries<T>(
  retryPolicy: RetryPolicy,
  signal: AbortSignal,
  call: () => Promise<CallResult<T>>,
): Promise<Outcome<T>> {
  const deadline = Date.now() + retryPolicy.maxElapsedMs;
  for (let tries = 0; ; tries++) {
    const result = await call();
    if (result.type !== "again") return result;
    const backoff =
      (0.5 + Math.random() / 2) * Math.min(retryPolicy.maxBackoffMs, retryPolicy.initialBackoffMs * 2 ** tries);
    const delay = Math.max(result.retryAfterMs, backoff);
    if (Date.now() + delay > deadline) return { type: "unreachable" };
    await wait(delay, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}
