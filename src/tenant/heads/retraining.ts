/**
 * Training heads again that learn by themselves. It is done in attempts with a number: what an older one brings has no
 * effect. The training runs in a stateless isolate, which the ledger's own would lack the memory for: the Worker is called
 * by itself, with a token for this one attempt.
 */
import { type Failure, fail, ok, type Result } from "../../core/failure.ts";
import { type Policy, promotesMade, retrainingBackoff } from "../../core/lifecycle/policy.ts";
import { makeRetrainingToken } from "../../jobs/token.ts";
import { stillThere } from "./backbones.ts";
import { emit } from "../hooks/events.ts";
import { commitHead, type HeadObject, type NewHead } from "./heads.ts";
import { createJob, isActiveJob, type Job, type JobSpec } from "../jobs/jobs.ts";
import { findLearner, isWanted, type Learner, type Learning, noDataset, saveState } from "./policies.ts";

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

/** While a job trains the head, a retraining that is wanted again looks so often whether it has ended. */
const JOB_LOOK_MS = 60_000;

/**
 * Begins an attempt at a retraining that is still wanted: its number; or when to look again in milliseconds, or null where
 * there is nothing to do. An attempt that is lost with its object counts as one that failed. `now` in milliseconds.
 */
export function beginRetraining(sql: SqlStorage, name: string, now: number): { attempt: number } | number | null {
  const found = findLearner(sql, name);
  if (!found.ok) return null;
  const { state } = found.value;
  if (!isWanted(sql, found.value)) {
    // An attempt that was lost is not made again: its examples are gone, or the policy was changed.
    if (state.open) saveState(sql, found.value, { open: false, failures: 0, nextAt: 0 });
    return null;
  }
  if (state.nextAt > now) return state.nextAt;
  if (state.job !== null && isActiveJob(sql, state.job)) return now + JOB_LOOK_MS;
  if (state.open && retrainingBackoff(state.failures) === null)
    return giveUp(sql, found.value, { code: "internal_error", message: "The training was lost each time." }, now);
  const [attempt, failures] = [state.attempt + 1, state.failures + 1];
  saveState(sql, found.value, { attempt, open: true, failures, nextAt: now + (retrainingBackoff(failures) ?? 0) });
  return { attempt };
}

const ended = fail("attempt_ended", "Another retraining of this head has begun, or this one has ended.");

function openAttempt(sql: SqlStorage, name: string, attempt: number): Result<Learner> {
  const learner = findLearner(sql, name);
  if (!learner.ok) return learner;
  return learner.value.state.open && learner.value.state.attempt === attempt ? learner : ended;
}

/** What an attempt is to train, and by which policy. */
export function openRetraining(
  sql: SqlStorage,
  name: string,
  attempt: number,
): Result<{ dataset: string; backbone: string | null; promote: Policy["promote"] }> {
  const learner = openAttempt(sql, name, attempt);
  if (!learner.ok) return learner;
  const { dataset, policy, serving, newest } = learner.value;
  if (dataset === null) return noDataset(name);
  const { modality, backbone } = serving ?? newest;
  return ok({
    dataset: dataset.name,
    backbone: modality === "embedding" ? null : backbone.id,
    promote: policy.promote,
  });
}

/** Adds the version that an attempt made, and promotes it where the policy says so. `now` in seconds. */
export function commitRetraining(sql: SqlStorage, attempt: number, head: NewHead, now: number): Result<HeadObject> {
  const learner = openAttempt(sql, head.id, attempt);
  if (!learner.ok) return learner;
  const there = stillThere(sql, head.backbone);
  if (!there.ok) return there;
  const { policy, serving } = learner.value;
  const promote = promotesMade(policy.promote, head.task, head.evaluation, serving);
  const made = commitHead(sql, head, promote, now);
  if (made.ok) saveState(sql, learner.value, { ...done, job: null });
  return made;
}

const done = { open: false, failures: 0, nextAt: 0, driftWanted: false, failed: null } as const;

/** Makes the fine-tuning job of what is beyond one request; its examples count as trained on. `now` in seconds. */
export function createRetrainingJob(
  sql: SqlStorage,
  attempt: number,
  id: string,
  spec: JobSpec,
  now: number,
): Result<Job> {
  const learner = openAttempt(sql, spec.head, attempt);
  if (!learner.ok) return learner;
  const job = createJob(sql, id, spec, now);
  if (job.ok) saveState(sql, learner.value, { ...done, job: id, tried: triedOf(learner.value) });
  return job;
}

function triedOf({ dataset }: Learner): Learning["tried"] {
  return dataset === null ? null : { dataset: dataset.id, revision: dataset.revision };
}

/**
 * Ends an attempt that failed: what may be tried again is, later each time; the rest is told of, and not tried again until
 * there are as many new examples once more. Answers when it is due again, or null. `now` in milliseconds.
 */
export function failRetraining(
  sql: SqlStorage,
  name: string,
  attempt: number,
  failure: Pick<Failure, "code" | "message" | "retryAfter">,
  now: number,
): number | null {
  const learner = openAttempt(sql, name, attempt);
  if (!learner.ok) return null;
  const backoff = retrainingBackoff(learner.value.state.failures);
  if (failure.retryAfter === undefined || backoff === null) return giveUp(sql, learner.value, failure, now);
  const nextAt = now + Math.max(backoff, failure.retryAfter * 1000);
  saveState(sql, learner.value, { open: false, nextAt });
  return nextAt;
}

function giveUp(
  sql: SqlStorage,
  learner: Learner,
  { code, message }: Pick<Failure, "code" | "message">,
  now: number,
): null {
  const reason = { code, message };
  const version = learner.serving?.version ?? null;
  emit(sql, "head.failed", { id: learner.name, object: "head", version, reason }, Math.floor(now / 1000));
  saveState(sql, learner, { ...done, failed: reason, tried: triedOf(learner) });
  return null;
}
