/**
 * Training heads again that learn by themselves. It is done in attempts with a number: what an older one brings has no
 * effect. The training runs in a stateless isolate, which the ledger's own would lack the memory for: the Worker is called
 * by itself, with a token for this one attempt.
 */

import type { Head } from "../../api/heads.ts";
import type { FineTuningJob } from "../../api/jobs.ts";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import { type Policy, retrainingBackoff, shouldPromoteVersion } from "../../core/lifecycle/policy.ts";
import { makeRetrainingToken } from "../../jobs/token.ts";
import { toMilliseconds } from "../../lib/time.ts";
import { emit } from "../hooks/events.ts";
import { isActiveJob, type JobSpec } from "../jobs/jobs.ts";
import { createJob } from "../jobs/lifecycle.ts";
import { checkBackboneExists } from "./backbones.ts";
import { commitHead, type NewHead } from "./heads.ts";
import {
  findRetrainingContext,
  noDatasetFailure,
  type RetrainingContext,
  type RetrainingState,
  saveRetrainingState,
  shouldRetrain,
} from "./policies.ts";

/** Longer than any training takes, waiting for its place included. */
const RETRAINING_TIMEOUT_MS = 600_000;
export const RETRAINING_PATH = "/internal/heads";

type RetrainingFailure = Pick<Failure, "code" | "message" | "retryAfter">;

/** Trains the head again, if that is still wanted; answers when it is due again in milliseconds, or null. */
export async function runRetraining(
  env: Cloudflare.Env,
  ctx: DurableObjectState,
  tenant: string,
  head: string,
): Promise<number | null> {
  const { storage } = ctx;
  const beginResult = storage.transactionSync(() => beginRetraining(storage.sql, head, Date.now()));
  if (beginResult === null || typeof beginResult === "number") return beginResult;
  const { attempt } = beginResult;
  const failure = await callWorker(ctx, makeRetrainingToken(env.SERVER_KEY, { tenant, head, attempt }), head);
  if (failure === null) return null;
  return storage.transactionSync(() => failRetraining(storage.sql, head, attempt, failure, Date.now()));
}

/** Why the training failed, or null. What no answer came to may be tried again. */
async function callWorker(ctx: DurableObjectState, token: string, head: string): Promise<RetrainingFailure | null> {
  try {
    const response = await ctx.exports.default.fetch(
      `http://graft${RETRAINING_PATH}/${encodeURIComponent(head)}/retrain`,
      {
        method: "POST",
        headers: { authorization: `Bearer ${token}` },
        signal: AbortSignal.timeout(RETRAINING_TIMEOUT_MS),
      },
    );
    const body = (await response.json()) as { error?: Partial<Failure> };
    if (response.ok) return null;
    const retryAfterHeader = response.headers.get("retry-after");
    const { code = "internal_error", message = "The training failed." } = body.error ?? {};
    return { code, message, ...(retryAfterHeader === null ? {} : { retryAfter: Number(retryAfterHeader) }) };
  } catch {
    return { code: "internal_error", message: "The training was cut off.", retryAfter: 1 };
  }
}

/** While a job trains the head, a retraining that is wanted again looks so often whether it has ended. */
const JOB_POLL_MS = 60_000;

/**
 * Begins an attempt at a retraining that is still wanted: its number; or when to look again in milliseconds, or null where
 * there is nothing to do. An attempt that is lost with its object counts as one that failed.
 */
export function beginRetraining(sql: SqlStorage, name: string, now: number): { attempt: number } | number | null {
  const context = findRetrainingContext(sql, name);
  if (!context.ok) return null;
  const { state } = context.value;
  if (!shouldRetrain(sql, context.value)) {
    // An attempt that was lost is not made again: its examples are gone, or the policy was changed.
    if (state.open) saveRetrainingState(sql, context.value, { open: false, failures: 0, nextAt: 0 });
    return null;
  }
  if (state.nextAt > now) return state.nextAt;
  if (state.job !== null && isActiveJob(sql, state.job)) return now + JOB_POLL_MS;
  if (state.open && retrainingBackoff(state.failures) === null)
    return abandonRetraining(
      sql,
      context.value,
      { code: "internal_error", message: "The training was lost each time." },
      now,
    );
  const [attempt, failures] = [state.attempt + 1, state.failures + 1];
  saveRetrainingState(sql, context.value, {
    attempt,
    open: true,
    failures,
    nextAt: now + (retrainingBackoff(failures) ?? 0),
  });
  return { attempt };
}

const attemptEndedFailure = fail("attempt_ended", "Another retraining of this head has begun, or this one has ended.");

function findOpenAttempt(sql: SqlStorage, name: string, attempt: number): Result<RetrainingContext> {
  const context = findRetrainingContext(sql, name);
  if (!context.ok) return context;
  return context.value.state.open && context.value.state.attempt === attempt ? context : attemptEndedFailure;
}

/** What an attempt is to train, and by which policy. */
export function getRetrainingSpec(
  sql: SqlStorage,
  name: string,
  attempt: number,
): Result<{ dataset: string; backbone: string | null; promote: Policy["promote"] }> {
  const context = findOpenAttempt(sql, name, attempt);
  if (!context.ok) return context;
  const { dataset, policy, activeHead, newestHead } = context.value;
  if (dataset === null) return noDatasetFailure(name);
  const { modality, backbone } = activeHead ?? newestHead;
  return ok({
    dataset: dataset.name,
    backbone: modality === "embedding" ? null : backbone.id,
    promote: policy.promote,
  });
}

/** Adds the version that an attempt made, and promotes it where the policy says so. */
export function commitRetraining(sql: SqlStorage, attempt: number, head: NewHead, now: number): Result<Head> {
  const context = findOpenAttempt(sql, head.id, attempt);
  if (!context.ok) return context;
  const backboneCheck = checkBackboneExists(sql, head.backbone);
  if (!backboneCheck.ok) return backboneCheck;
  const { policy, activeHead } = context.value;
  const promote = shouldPromoteVersion(policy.promote, head.task, head.evaluation, activeHead);
  const version = commitHead(sql, head, promote, now);
  if (version.ok) saveRetrainingState(sql, context.value, { ...closedAttempt, job: null });
  return version;
}

const closedAttempt = { open: false, failures: 0, nextAt: 0, driftWanted: false, failed: null } as const;

/** Makes the fine-tuning job of what is beyond one request; its examples count as trained on. */
export function createRetrainingJob(
  sql: SqlStorage,
  attempt: number,
  id: string,
  spec: JobSpec,
  now: number,
): Result<FineTuningJob> {
  const context = findOpenAttempt(sql, spec.head, attempt);
  if (!context.ok) return context;
  const job = createJob(sql, id, spec, now);
  if (job.ok)
    saveRetrainingState(sql, context.value, { ...closedAttempt, job: id, tried: currentWatermark(context.value) });
  return job;
}

function currentWatermark({ dataset }: RetrainingContext): RetrainingState["tried"] {
  return dataset === null ? null : { dataset: dataset.id, revision: dataset.revision };
}

/**
 * Ends an attempt that failed: what may be tried again is, later each time; the rest is told of, and not tried again until
 * there are as many new examples once more. Answers when it is due again, or null.
 */
export function failRetraining(
  sql: SqlStorage,
  name: string,
  attempt: number,
  failure: Pick<Failure, "code" | "message" | "retryAfter">,
  now: number,
): number | null {
  const context = findOpenAttempt(sql, name, attempt);
  if (!context.ok) return null;
  const backoff = retrainingBackoff(context.value.state.failures);
  if (failure.retryAfter === undefined || backoff === null) return abandonRetraining(sql, context.value, failure, now);
  const nextAt = now + Math.max(backoff, toMilliseconds(failure.retryAfter));
  saveRetrainingState(sql, context.value, { open: false, nextAt });
  return nextAt;
}

function abandonRetraining(
  sql: SqlStorage,
  context: RetrainingContext,
  { code, message }: Pick<Failure, "code" | "message">,
  now: number,
): null {
  const reason = { code, message };
  const version = context.activeHead?.version ?? null;
  emit(sql, "head.failed", { id: context.name, object: "head", version, reason }, now);
  saveRetrainingState(sql, context, { ...closedAttempt, failed: reason, tried: currentWatermark(context) });
  return null;
}
