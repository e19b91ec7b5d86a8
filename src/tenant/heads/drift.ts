/** Drift of a head's active version: how it predicts the examples that it then learns. */
import { DRIFT_WINDOW, driftPValue, isDrifting, type OutcomeCounts } from "../../core/lifecycle/policy.ts";
import { emit } from "../hooks/events.ts";
import { findRetrainingContext, saveRetrainingState, scheduleRetraining } from "./retraining-context.ts";

export function countOutcomes(sql: SqlStorage, head: number, version: number): OutcomeCounts {
  return sql
    .exec<{ judged: number; hits: number }>(
      "SELECT count(*) AS judged, coalesce(sum(hit), 0) AS hits FROM judged_examples WHERE head = ? AND version = ?",
      head,
      version,
    )
    .one();
}

/**
 * Records how a version predicted examples before they were learned, if it is still the active one, and reports drift
 * once per version. Call it in the transaction that adds the examples.
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
  if (context.state.driftReportedFor === version || !isDrifting(counts, evaluation)) return;
  const { judged, hits: right } = counts;
  const figures = { judged, accuracy: right / judged, held_out_accuracy: evaluation?.accuracy };
  emit(
    sql,
    "head.drifting",
    { id: name, object: "head", version, reason: "feedback", ...figures, p_value: driftPValue(counts, evaluation) },
    now,
  );
  const retrainForDrift = context.policy.retrain_on_drift;
  const state = saveRetrainingState(sql, context, { driftReportedFor: version, retrainForDrift });
  if (retrainForDrift) scheduleRetraining(sql, { name, state }, now);
}
