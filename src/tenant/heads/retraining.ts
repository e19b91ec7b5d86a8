/**
 * Retraining a head by its policy. Attempts are numbered; the result of an older attempt has no effect. The ledger has
 * not enough memory to train, so it calls the Worker, with a token for this one attempt.
 */

import type { DescribedLabel, Head } from "../../api/heads.ts";
import type { FineTuningJob } from "../../api/jobs.ts";
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import {
  type Policy,
  retrainingBackoff,
  shouldPromoteTested,
  shouldPromoteVersion,
} from "../../core/lifecycle/policy.ts";
import { makeRetrainingToken } from "../../jobs/token.ts";
import { toMilliseconds } from "../../lib/time.ts";
import { emit } from "../hooks/events.ts";
import { isActiveJob, type JobSpec } from "../jobs/jobs.ts";
import { createJob } from "../jobs/lifecycle.ts";
import { callWorker } from "../tasks/worker-call.ts";
import { checkBackboneExists } from "./backbones.ts";
import { checkTest, commitTestedHead, type NewRun } from "./evaluations.ts";
import type { NewHead } from "./heads.ts";
import { noDatasetFailure } from "./policies.ts";
import {
  findRetrainingContext,
  type RetrainingContext,
  type RetrainingState,
  saveRetrainingState,
  shouldRetrain,
} from "./retraining-context.ts";

/** Longer than any training takes, with the wait for its slot. */
const RETRAINING_TIMEOUT_MS = 600_000;
export const RETRAINING_PATH = "/internal/heads";

/** Retrains a head, if its policy still asks for it. Answers when to run again, or null. */
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
  const trained = await callWorker(ctx, {
    path: `${RETRAINING_PATH}/${encodeURIComponent(head)}/retrain`,
    token: makeRetrainingToken(env.SERVER_KEY, { tenant, head, attempt }),
    timeout: RETRAINING_TIMEOUT_MS,
  });
  if (trained.ok) return null;
  return storage.transactionSync(() => failRetraining(storage.sql, head, attempt, trained.failure, Date.now()));
}

/** How often a retraining checks whether the job that trains the head has ended. */
const JOB_POLL_MS = 60_000;

/**
 * Begins an attempt, if the policy still asks for a retraining. Answers its number, or when to look again, or null if
 * there is nothing to do. An attempt that was lost with its object counts as a failure.
 */
export function beginRetraining(sql: SqlStorage, name: string, now: number): { attempt: number } | number | null {
  const context = findRetrainingContext(sql, name);
  if (!context.ok) return null;
  const { state } = context.value;
  if (!shouldRetrain(sql, context.value)) {
    // An attempt that got lost is not repeated: its examples were deleted, or the policy was changed.
    if (state.attemptOpen) saveRetrainingState(sql, context.value, { attemptOpen: false, failures: 0, nextAt: 0 });
    return null;
  }
  if (state.nextAt > now) return state.nextAt;
  if (state.job !== null && isActiveJob(sql, state.job)) return now + JOB_POLL_MS;
  if (state.attemptOpen && retrainingBackoff(state.failures) === null)
    return abandonRetraining(
      sql,
      context.value,
      { code: "internal_error", message: "The training was lost each time." },
      now,
    );
  const [attempt, failures] = [state.attempt + 1, state.failures + 1];
  saveRetrainingState(sql, context.value, {
    attempt,
    attemptOpen: true,
    failures,
    nextAt: now + (retrainingBackoff(failures) ?? 0),
  });
  return { attempt };
}

const attemptEndedFailure = fail("attempt_ended", "Another retraining of this head has begun, or this one has ended.");

function findOpenAttempt(sql: SqlStorage, name: string, attempt: number): Result<RetrainingContext> {
  const context = findRetrainingContext(sql, name);
  if (!context.ok) return context;
  return context.value.state.attemptOpen && context.value.state.attempt === attempt ? context : attemptEndedFailure;
}

export interface RetrainingSpec {
  readonly dataset: string;
  readonly backbone: string | null;
  readonly clamp: boolean;
  /** null: the default. */
  readonly inScopeRecall: number | null;
  /** What it is trained on beside the dataset; empty: nothing. */
  readonly labels: readonly DescribedLabel[];
  readonly promote: Policy["promote"];
  readonly testDataset: string | null;
}

/** What an attempt is to train. */
export function getRetrainingSpec(sql: SqlStorage, name: string, attempt: number): Result<RetrainingSpec> {
  const context = findOpenAttempt(sql, name, attempt);
  if (!context.ok) return context;
  const { dataset, policy, activeHead, newestHead } = context.value;
  if (dataset === null) return noDatasetFailure(name);
  const { modality, backbone, training, evaluation } = activeHead ?? newestHead;
  const scope = evaluation?.out_of_scope;
  return ok({
    dataset: dataset.name,
    backbone: modality === "embedding" ? null : backbone.id,
    clamp: training.value_range !== undefined,
    inScopeRecall: scope?.score === "in_scope_p_value" ? 1 - scope.threshold : null,
    labels: training.labels ?? [],
    promote: policy.promote,
    testDataset: policy.test_dataset ?? null,
  });
}

/** Adds the version that an attempt trained, with its test, and promotes it if the policy says so. */
export function commitRetraining(
  sql: SqlStorage,
  attempt: number,
  head: NewHead,
  run: NewRun | null,
  now: number,
  vectors: Uint32Array | null,
): Result<Head> {
  const context = findOpenAttempt(sql, head.id, attempt);
  if (!context.ok) return context;
  const backboneCheck = checkBackboneExists(sql, head.backbone);
  if (!backboneCheck.ok) return backboneCheck;
  const { policy, activeHead } = context.value;
  const tested = checkTest(sql, head, run);
  const promote =
    tested.head.test === undefined && (policy.test_dataset ?? null) === null
      ? shouldPromoteVersion(policy.promote, head.task, head.evaluation, activeHead)
      : shouldPromoteTested(policy.promote, tested.run?.run ?? null, activeHead?.version ?? null);
  const version = commitTestedHead(sql, tested, promote, now, vectors);
  const lastFailure = tested.head.test?.failure ?? null;
  if (version.ok) saveRetrainingState(sql, context.value, { ...closedAttempt, lastFailure, job: null });
  return version;
}

const closedAttempt = {
  attemptOpen: false,
  failures: 0,
  nextAt: 0,
  retrainForDrift: false,
  lastFailure: null,
} as const;

/** Creates a fine-tuning job for a retraining that is too large for one request. Its examples count as trained on. */
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
    saveRetrainingState(sql, context.value, { ...closedAttempt, job: id, watermark: currentWatermark(context.value) });
  return job;
}

function currentWatermark({ dataset }: RetrainingContext): RetrainingState["watermark"] {
  return dataset === null ? null : { dataset: dataset.id, revision: dataset.revision };
}

/**
 * Ends a failed attempt. A failure that may pass is retried, later each time. After any other failure the head waits for
 * as many new examples once more. Answers when to run again, or null.
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
  saveRetrainingState(sql, context.value, { attemptOpen: false, nextAt });
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
  saveRetrainingState(sql, context, { ...closedAttempt, lastFailure: reason, watermark: currentWatermark(context) });
  return null;
}
