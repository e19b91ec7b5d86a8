/**
 * Heads that learn by themselves: their policy, how the active version did on what it then learnt, and when a training
 * is due. A retraining (retraining.ts) is a row of `due` by the head's name, so that requests for it are one; what it has
 * to know beside the policy is a row of `head_learning`.
 */
import type { HeadPolicy } from "../../api/feedback.ts";
import type { Head } from "../../api/heads.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import {
  DRIFT_WINDOW,
  defaultPolicy,
  driftPValue,
  isDrifting,
  type OutcomeCounts,
  type Policy,
} from "../../core/lifecycle/policy.ts";
import type { DatasetRow } from "../data/datasets.ts";
import { emit } from "../hooks/events.ts";
import { isActiveJob } from "../jobs/jobs.ts";
import { schedule } from "../tasks/tasks.ts";
import { getHead, type HeadRecord } from "./heads.ts";

export interface RetrainingState {
  readonly attempt: number;
  /** Whether that attempt may still bring something. */
  readonly open: boolean;
  readonly failures: number;
  /** Not before this, in milliseconds, does a retraining begin. */
  readonly nextAt: number;
  /** The fine-tuning job that the last retraining made of what was beyond one request. */
  readonly job: string | null;
  /** Up to where examples count as trained on, or tried, whatever versions say. */
  readonly tried: { readonly dataset: number; readonly revision: number } | null;
  readonly driftWanted: boolean;
  /** The version whose drift was told of. */
  readonly toldOf: number | null;
  readonly failed: { readonly code: string; readonly message: string } | null;
}

const initialState: RetrainingState = {
  attempt: 0,
  open: false,
  failures: 0,
  nextAt: 0,
  job: null,
  tried: null,
  driftWanted: false,
  toldOf: null,
  failed: null,
};

export interface RetrainingContext {
  readonly id: number;
  readonly name: string;
  readonly policy: Policy;
  readonly state: RetrainingState;
  /** The active version; null where none is. */
  readonly activeHead: Head | null;
  readonly newestHead: HeadRecord;
  /** What the active version, or else the newest, was trained on; null where that is gone, or was no data set. */
  readonly dataset: DatasetRow | null;
}

/** A head with all that its policy is about. */
export function findRetrainingContext(sql: SqlStorage, name: string): Result<RetrainingContext> {
  const head = getHead(sql, name, null);
  if (!head.ok) return head;
  const row = sql
    .exec<{ id: number; last_version: number; policy: string | null; state: string | null }>(
      "SELECT heads.id, last_version, policy, state FROM heads LEFT JOIN head_learning ON head = heads.id WHERE name = ?",
      name,
    )
    .one();
  const { version } = head.value;
  const dataset = sql
    .exec<DatasetRow>(
      "SELECT datasets.* FROM head_versions JOIN datasets ON datasets.id = dataset WHERE head = ? AND version = ?",
      row.id,
      version,
    )
    .toArray()[0];
  const newest = version === row.last_version ? head : getHead(sql, name, row.last_version);
  if (!newest.ok) return newest;
  return ok({
    id: row.id,
    name,
    policy: row.policy === null ? defaultPolicy : (JSON.parse(row.policy) as Policy),
    state: row.state === null ? initialState : (JSON.parse(row.state) as RetrainingState),
    activeHead: head.value.active_version === null ? null : head.value,
    newestHead: newest.value,
    dataset: dataset ?? null,
  });
}

export function saveRetrainingState(
  sql: SqlStorage,
  { id, state }: RetrainingContext,
  change: Partial<RetrainingState>,
): RetrainingState {
  const newState = { ...state, ...change };
  sql.exec(
    "INSERT INTO head_learning (head, state) VALUES (?, ?) ON CONFLICT (head) DO UPDATE SET state = excluded.state",
    id,
    JSON.stringify(newState),
  );
  return newState;
}

/** Examples that are new or changed since the newest version was trained on them, or that was tried. */
function countNewExamples(sql: SqlStorage, { id, state, dataset }: RetrainingContext): number {
  if (dataset === null) return 0;
  const { trained } = sql
    .exec<{ trained: number }>(
      "SELECT json_extract(record, '$.dataset.revision') AS trained FROM head_versions WHERE head = ? AND dataset = ? ORDER BY version DESC LIMIT 1",
      id,
      dataset.id,
    )
    .one();
  const tried = state.tried?.dataset === dataset.id ? state.tried.revision : 0;
  return sql
    .exec<{ n: number }>(
      "SELECT count(*) AS n FROM examples WHERE dataset = ? AND revision > ?",
      dataset.id,
      Math.max(tried, trained),
    )
    .one().n;
}

/** Whether the policy calls for a training now. */
export function shouldRetrain(sql: SqlStorage, context: RetrainingContext): boolean {
  const { retrain_after_examples: threshold } = context.policy;
  if (context.dataset === null) return false;
  return context.state.driftWanted || (threshold !== null && countNewExamples(sql, context) >= threshold);
}

function scheduleRetraining(
  sql: SqlStorage,
  { name, state }: Pick<RetrainingContext, "name" | "state">,
  now: number,
): void {
  schedule(sql, "retrain", name, Math.max(now, state.nextAt));
}

function toPolicy(sql: SqlStorage, context: RetrainingContext): HeadPolicy {
  const { name, policy, state, activeHead } = context;
  return {
    object: "head.policy",
    id: name,
    ...policy,
    new_examples: countNewExamples(sql, context),
    retraining: state.open || (state.job !== null && isActiveJob(sql, state.job)),
    recent: activeHead === null ? { judged: 0, hits: 0 } : countOutcomes(sql, context.id, activeHead.version),
    drifting: activeHead !== null && state.toldOf === activeHead.version,
    last_failure: state.failed,
  };
}

export function getPolicy(sql: SqlStorage, name: string): Result<HeadPolicy> {
  const context = findRetrainingContext(sql, name);
  return context.ok ? ok(toPolicy(sql, context.value)) : context;
}

/** Sets a head's policy; where it asks for a training already, one follows. */
export function setPolicy(sql: SqlStorage, name: string, policy: Policy, now: number): Result<HeadPolicy> {
  const context = findRetrainingContext(sql, name);
  if (!context.ok) return context;
  const { activeHead, newestHead, state, dataset } = context.value;
  const isRetrainingEnabled = policy.retrain_after_examples !== null || policy.retrain_on_drift;
  if (isRetrainingEnabled && dataset === null) return noDatasetFailure(name);
  if (policy.retrain_on_drift && newestHead.task === "regression")
    return fail("task_mismatch", "Drift is seen by hits and misses, which a regression has none of.", {
      param: "retrain_on_drift",
    });
  const hasDrifted =
    activeHead !== null && state.toldOf === activeHead.version && newestHead.version === activeHead.version;
  const driftWanted = policy.retrain_on_drift && (state.driftWanted || hasDrifted);
  const updatedContext = { ...context.value, policy, state: saveRetrainingState(sql, context.value, { driftWanted }) };
  sql.exec("UPDATE head_learning SET policy = ? WHERE head = ?", JSON.stringify(policy), updatedContext.id);
  if (shouldRetrain(sql, updatedContext)) scheduleRetraining(sql, updatedContext, now);
  return ok(toPolicy(sql, updatedContext));
}

export function noDatasetFailure(name: string) {
  return fail(
    "not_available",
    `Head '${name}' has no dataset to learn into: it was trained on examples sent along, or its dataset is gone. Train it on a dataset.`,
  );
}

/** The active version that feedback is about, and the data set that it goes into. */
export function getFeedbackTarget(sql: SqlStorage, name: string): Result<{ version: number; dataset: DatasetRow }> {
  const context = findRetrainingContext(sql, name);
  if (!context.ok) return context;
  const { activeHead, dataset } = context.value;
  if (activeHead === null) return fail("not_found", `No version of head '${name}' is active yet. Promote one.`);
  return dataset === null ? noDatasetFailure(name) : ok({ version: activeHead.version, dataset });
}

/** Heads with a policy whose active version was trained on a data set; at most so many are looked at. */
const MAX_LEARNING_HEADS = 10;

export function listLearningHeads(sql: SqlStorage, dataset: number): string[] {
  return sql
    .exec<{ name: string }>(
      `SELECT heads.name FROM head_versions
       JOIN heads ON heads.id = head_versions.head AND version = coalesce(active_version, last_version)
       JOIN head_learning ON head_learning.head = heads.id AND policy IS NOT NULL
       WHERE dataset = ? ORDER BY heads.id LIMIT ?`,
      dataset,
      MAX_LEARNING_HEADS,
    )
    .toArray()
    .map(({ name }) => name);
}

/** Call it in each transaction that changes examples. */
export function scheduleDueRetrainings(sql: SqlStorage, dataset: number, now: number): void {
  for (const name of listLearningHeads(sql, dataset)) {
    const context = findRetrainingContext(sql, name);
    if (context.ok && shouldRetrain(sql, context.value)) scheduleRetraining(sql, context.value, now);
  }
}

function countOutcomes(sql: SqlStorage, head: number, version: number): OutcomeCounts {
  return sql
    .exec<{ judged: number; hits: number }>(
      "SELECT count(*) AS judged, coalesce(sum(hit), 0) AS hits FROM judged_examples WHERE head = ? AND version = ?",
      head,
      version,
    )
    .one();
}

/**
 * Notes which examples a version had predicted right before they were learnt, if it is still the active one, and tells of
 * drift once a version. Call it in the transaction that learns them.
 */
export function recordPredictionOutcomes(
  sql: SqlStorage,
  name: string,
  version: number,
  outcomes: readonly boolean[],
  now: number,
): void {
  const result = findRetrainingContext(sql, name);
  if (!result.ok || outcomes.length === 0 || result.value.activeHead?.version !== version) return;
  const context = result.value;
  for (const isCorrect of outcomes.slice(-DRIFT_WINDOW))
    sql.exec(
      "INSERT INTO judged_examples (head, version, hit) VALUES (?, ?, ?)",
      context.id,
      version,
      Number(isCorrect),
    );
  sql.exec("DELETE FROM judged_examples WHERE head = ? AND version <> ?", context.id, version);
  sql.exec(
    "DELETE FROM judged_examples WHERE head = ?1 AND number <= (SELECT number FROM judged_examples WHERE head = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
    context.id,
    DRIFT_WINDOW,
  );
  const { evaluation } = result.value.activeHead;
  const counts = countOutcomes(sql, context.id, version);
  if (context.state.toldOf === version || !isDrifting(counts, evaluation)) return;
  const { judged, hits: right } = counts;
  const figures = { judged, accuracy: right / judged, held_out_accuracy: evaluation?.accuracy };
  emit(
    sql,
    "head.drifting",
    { id: name, object: "head", version, ...figures, p_value: driftPValue(counts, evaluation) },
    now,
  );
  const driftWanted = context.policy.retrain_on_drift;
  const state = saveRetrainingState(sql, context, { toldOf: version, driftWanted });
  if (driftWanted) scheduleRetraining(sql, { name, state }, now);
}
