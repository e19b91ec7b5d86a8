/** What an attempt says to the Worker and fetches from it: each call within a time limit, and again where it may help. */
import { randomUUID } from "node:crypto";
import { setTimeout as wait } from "node:timers/promises";
import { parseRetryAfter } from "../../lib/retry-after.ts";
import { type Directive, directive, type Message } from "../../jobs/protocol.ts";
import { sign } from "../../jobs/sign.ts";

export interface Pace {
  /** How long a call may take; for one that carries much, how long it may stand still, or a multiple of it. */
  readonly timeoutMs: number;
  /** How long a call that fails is made again. */
  readonly patienceMs: number;
  readonly firstWaitMs: number;
  readonly longestWaitMs: number;
}

export const defaultPace: Pace = { timeoutMs: 30_000, patienceMs: 600_000, firstWaitMs: 500, longestWaitMs: 15_000 };

/** What one call came to. `over`: the attempt has no say any more; `again`: it may be made again, after so many milliseconds. */
export type Called<T> =
  | { readonly type: "answer"; readonly value: T }
  | { readonly type: "over" }
  | { readonly type: "refused"; readonly status: number }
  | { readonly type: "again"; readonly after: number };

/** What a call came to that was made until it got an answer, or for as long as patience lasts. */
export type Outcome<T> = Exclude<Called<T>, { type: "again" }> | { readonly type: "unreachable" };

const OVER: ReadonlySet<number> = new Set([401, 404, 409, 410]);

export interface Edge {
  readonly pace: Pace;
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
  ): Promise<Called<T>>;
  /** One call for bytes, which may take as long as they keep coming. */
  pull<T>(
    path: string,
    read: (chunks: AsyncIterable<Uint8Array>) => Promise<T | null>,
    signal: AbortSignal,
  ): Promise<Called<T>>;
  /** Tells something once. */
  tellOnce(message: Message, signal: AbortSignal): Promise<Called<Directive>>;
  /** Tells something until it is heard. */
  tell(message: Message, signal: AbortSignal): Promise<Outcome<Directive>>;
}

export interface Origin {
  /** Where the Worker is, without a slash at its end. */
  readonly url: string;
  readonly secret: string;
  readonly pace: Pace;
}

/** Whose calls they are. */
export interface Caller {
  readonly id: string;
  readonly attempt: number;
  readonly token: string;
}

export function edgeOf({ url, secret, pace }: Origin, { id, attempt, token }: Caller): Edge {
  const base = `${url}/internal/batch/jobs/${id}/attempts/${attempt}/`;
  const call: Edge["call"] = async (path, init, read, signal, timeout = AbortSignal.timeout(pace.timeoutMs)) => {
    const headers = { authorization: `Bearer ${token}`, ...init.headers };
    try {
      signal.throwIfAborted();
      const either = AbortSignal.any([signal, timeout]);
      // A redirect would carry the token, and the data, to who knows where.
      const response = await fetch(base + path, { ...init, headers, signal: either, redirect: "error" });
      if (response.ok) {
        const value = await read(response);
        return value === null ? { type: "again", after: 0 } : { type: "answer", value };
      }
      await response.body?.cancel().catch(() => undefined);
      const { status } = response;
      if (OVER.has(status)) return { type: "over" };
      if (status < 500 && status !== 408 && status !== 429) return { type: "refused", status };
      return { type: "again", after: parseRetryAfter(response.headers.get("retry-after"), Date.now()) ?? 0 };
    } catch {
      signal.throwIfAborted();
      return { type: "again", after: 0 };
    }
  };
  const pull: Edge["pull"] = async (path, read, signal) => {
    const still = new AbortController();
    const timer = setTimeout(() => still.abort(), pace.timeoutMs);
    async function* chunks({ body }: Response): AsyncGenerator<Uint8Array> {
      for await (const chunk of body ?? []) {
        timer.refresh();
        yield chunk as Uint8Array;
      }
    }
    const called = await call(path, { method: "GET" }, (response) => read(chunks(response)), signal, still.signal);
    clearTimeout(timer);
    return called;
  };
  const tellOnce: Edge["tellOnce"] = (message, signal) => {
    const body = JSON.stringify({ id, attempt, ...message });
    const signed = sign(secret, body, `msg_${randomUUID().replaceAll("-", "")}`, Date.now());
    const headers = { "content-type": "application/json", ...signed };
    const read = async (response: Response) => directive.safeParse(await response.json()).data ?? null;
    return call("messages", { method: "POST", headers, body }, read, signal);
  };
  const tell: Edge["tell"] = (message, signal) => persist(pace, signal, () => tellOnce(message, signal));
  return { pace, call, pull, tellOnce, tell };
}

/** Waits exponentially longer between tries, with jitter; at least as long as it is asked to. Throws the reason of an aborted signal. */
export async function persist<T>(
  pace: Pace,
  signal: AbortSignal,
  attempt: () => Promise<Called<T>>,
): Promise<Outcome<T>> {
  const until = Date.now() + pace.patienceMs;
  for (let tries = 0; ; tries++) {
    const called = await attempt();
    if (called.type !== "again") return called;
    const backoff = (0.5 + Math.random() / 2) * Math.min(pace.longestWaitMs, pace.firstWaitMs * 2 ** tries);
    const pause = Math.max(called.after, backoff);
    if (Date.now() + pause > until) return { type: "unreachable" };
    await wait(pause, undefined, { signal }).catch(() => signal.throwIfAborted());
  }
}
