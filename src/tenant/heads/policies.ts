/** A head's policy, as the API shows and sets it. */
import type { HeadPolicy } from "../../api/feedback.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Policy } from "../../core/lifecycle/policy.ts";
import type { DatasetRow } from "../data/datasets.ts";
import { isActiveJob } from "../jobs/jobs.ts";
import { countOutcomes } from "./drift.ts";
import { checkTestDataset } from "./evaluations.ts";
import {
  countNewExamples,
  findRetrainingContext,
  type RetrainingContext,
  saveRetrainingState,
  scheduleRetraining,
  shouldRetrain,
} from "./retraining-context.ts";

function toPolicy(sql: SqlStorage, context: RetrainingContext): HeadPolicy {
  const { name, policy, state, activeHead } = context;
  return {
    object: "head.policy",
    id: name,
    ...policy,
    test_dataset: policy.test_dataset ?? null,
    new_examples: countNewExamples(sql, context),
    retraining: state.attemptOpen || (state.job !== null && isActiveJob(sql, state.job)),
    recent: activeHead === null ? { judged: 0, hits: 0 } : countOutcomes(sql, context.id, activeHead.version),
    drifting: activeHead !== null && state.driftReportedFor === activeHead.version,
    last_failure: state.lastFailure,
  };
}

export function getPolicy(sql: SqlStorage, name: string): Result<HeadPolicy> {
  const context = findRetrainingContext(sql, name);
  return context.ok ? ok(toPolicy(sql, context.value)) : context;
}

/** Sets a head's policy, and schedules a retraining if it asks for one already. */
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
  const testSet = policy.test_dataset == null ? ok(null) : checkTestDataset(sql, policy.test_dataset, newestHead);
  if (!testSet.ok) return testSet;
  const hasDrifted =
    activeHead !== null && state.driftReportedFor === activeHead.version && newestHead.version === activeHead.version;
  const retrainForDrift = policy.retrain_on_drift && (state.retrainForDrift || hasDrifted);
  const updatedContext = {
    ...context.value,
    policy,
    state: saveRetrainingState(sql, context.value, { retrainForDrift }),
  };
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

/** The active version that feedback is about, and the dataset that its examples go into. */
export function getFeedbackTarget(sql: SqlStorage, name: string): Result<{ version: number; dataset: DatasetRow }> {
  const context = findRetrainingContext(sql, name);
  if (!context.ok) return context;
  const { activeHead, dataset } = context.value;
  if (activeHead === null) return fail("not_found", `No version of head '${name}' is active yet. Promote one.`);
  return dataset === null ? noDatasetFailure(name) : ok({ version: activeHead.version, dataset });
}
