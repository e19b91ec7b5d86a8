/**
 * What jobs that measure have told their recommendation. All of it is read from the jobs' rows, so it does not matter in
 * which order, or how often, they end.
 */
import { type Measurement, settle, toPoint } from "../../core/advice/settle.ts";
import { hasTestExamples } from "../../core/evaluation/comparison.ts";
import { hasEnded } from "../../core/lifecycle/job.ts";
import { comparisonFoldCount } from "../../core/linear/split.ts";
import { getRecommendation, replaceRecommendation } from "../data/recommendations.ts";
import { deleteJob, type JobRow, listMeasurements } from "./jobs.ts";

/**
 * Writes what a recommendation's jobs have measured, once one of them has ended. With the last one it is settled, and
 * the jobs go, but for those whose attempt is still to be stopped. Call it in the transaction of the job's end.
 */
export function recordMeasurement(sql: SqlStorage, { spec }: JobRow): void {
  if (spec.measurement === undefined) return;
  const id = spec.measurement.recommendation;
  const jobs = listMeasurements(sql, id);
  const isComplete = jobs.every(({ state }) => hasEnded(state));
  const found = getRecommendation(sql, id);
  if (found.ok && found.value.status === "measuring") {
    const measurements = jobs.flatMap(toMeasurement).sort((a, b) => a.examples - b.examples);
    const job_seconds = measurements.reduce((sum, { seconds }) => sum + seconds, 0);
    const measured = { job_seconds, points: measurements.map(toPoint) };
    const recommendation = measurements.length === 0 ? found.value : { ...found.value, measured };
    if (!isComplete) replaceRecommendation(sql, recommendation);
    else if (measurements.length > 0)
      replaceRecommendation(sql, { ...settle(recommendation, measurements), status: "complete" });
    else replaceRecommendation(sql, { ...recommendation, status: "failed", error: whyNone(jobs) });
  }
  if (!isComplete) return;
  for (const { number, state } of jobs) if (!state.inFlight) deleteJob(sql, number);
}

/** None of a job that has compared nothing. */
function toMeasurement({ spec, state }: JobRow): Measurement[] {
  const { comparison, comparisonCost: cost } = state;
  if (spec.measurement === undefined || !cost || comparison === null || !hasTestExamples(comparison)) return [];
  const seconds = cost.milliseconds / 1_000;
  const { examples, usd_per_second, test } = spec.measurement;
  // Without a test set, each model is trained without one fold.
  const trained = test === null ? Math.round(examples * (1 - 1 / comparisonFoldCount(examples))) : examples;
  return [{ examples, trained, comparison, operations: cost.operations, seconds, usd: seconds * usd_per_second }];
}

/** Why no job has measured anything: what the largest one says of its end. */
function whyNone(jobs: readonly JobRow[]): { code: string; message: string } {
  const error = jobs.flatMap(({ state }) => state.error ?? []).at(-1);
  if (error !== undefined) return { code: error.code, message: error.message };
  if (jobs.some(({ state }) => state.status === "cancelled"))
    return { code: "backend_timeout", message: "The batch endpoint has measured nothing for three days." };
  const message = "Nothing could be compared: no held-out example has labels that were trained.";
  return { code: "too_few_examples", message };
}
