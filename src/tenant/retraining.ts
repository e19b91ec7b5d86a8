/**
 * What is due for heads that learn by themselves. The training runs in a stateless isolate, which the ledger's own would
 * lack the memory for: the Worker is called by itself, with a token for this one attempt.
 */
import type { Failure } from "../core/failure.ts";
import { makeRetrainingToken } from "../jobs/token.ts";
import { beginRetraining, failRetraining } from "./policies.ts";

/** Longer than any training takes, waiting for its place included. */
const PATIENCE_MS = 600_000;
export const RETRAINING_PATH = "/internal/heads";

type Told = Pick<Failure, "code" | "message" | "retryAfter">;

/** Trains the head again, if that is still wanted; answers when it is due again in milliseconds, or null. */
export async function runRetraining(
  env: Cloudflare.Env,
  ctx: DurableObjectState,
  tenant: string,
  head: string,
): Promise<number | null> {
  const { storage } = ctx;
  const begun = storage.transactionSync(() => beginRetraining(storage.sql, head, Date.now()));
  if (begun === null || typeof begun === "number") return begun;
  const { attempt } = begun;
  const failure = await callWorker(ctx, makeRetrainingToken(env.SERVER_KEY, { tenant, head, attempt }), head);
  if (failure === null) return null;
  return storage.transactionSync(() => failRetraining(storage.sql, head, attempt, failure, Date.now()));
}

/** Why the training failed, or null. What no answer came to may be tried again. */
async function callWorker(ctx: DurableObjectState, token: string, head: string): Promise<Told | null> {
  try {
    const response = await ctx.exports.default.fetch(
      `http://graft${RETRAINING_PATH}/${encodeURIComponent(head)}/retrain`,
      {
        method: "POST",
        headers: { authorization: `Bearer ${token}` },
        signal: AbortSignal.timeout(PATIENCE_MS),
      },
    );
    const body = (await response.json()) as { error?: Partial<Failure> };
    if (response.ok) return null;
    const after = response.headers.get("retry-after");
    const { code = "internal_error", message = "The training failed." } = body.error ?? {};
    return { code, message, ...(after === null ? {} : { retryAfter: Number(after) }) };
  } catch {
    return { code: "internal_error", message: "The training was cut off.", retryAfter: 1 };
  }
}
