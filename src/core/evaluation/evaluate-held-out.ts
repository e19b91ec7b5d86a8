import { OPERATIONS_PER_LOGIT } from "../linear/objective.ts";
import type { Targets } from "../linear/targets.ts";
import type { Steps } from "../steps.ts";
import { conformalScores, type HeldOutLogits, temperatureOperations } from "./calibration.ts";
import { type Evaluation, type EvaluationResult, noEvaluation } from "./evaluation.ts";
import { regressionMetrics } from "./metrics.ts";
import { evaluateMultiLabel } from "./multi-label.ts";
import { regressionIntervals } from "./regression-intervals.ts";
import type { ScopeOptions } from "./scope-fit.ts";
import { evaluateSingleLabel } from "./single-label.ts";
import { clampTo, rangeOf } from "./value-range.ts";

/**
 * Evaluates held-out logits. Whatever is fitted to held-out examples here (the temperature, thresholds) is fitted on
 * other parts than the one that it is evaluated on.
 *
 * @param heldOut logits of held-out rows, including out-of-scope rows (target −1)
 * @param parts the part of each entry of `heldOut`: its fold, or one half of a holdout
 * @param scopeOptions for one label a row
 */
export function* evaluateHeldOut(
  labels: readonly string[],
  targets: Targets,
  heldOut: HeldOutLogits,
  parts: Int32Array,
  settings: Pick<Evaluation, "method" | "folds">,
  scopeOptions: ScopeOptions = {},
): Steps<EvaluationResult> {
  if (heldOut.rows.length === 0) return noEvaluation;
  switch (targets.kind) {
    case "single":
      return yield* evaluateSingleLabel(labels, targets, heldOut, parts, settings, scopeOptions);
    case "multi":
      return yield* evaluateMultiLabel(labels, targets, heldOut, parts, settings);
    case "value":
      return evaluateRegression(targets.values, heldOut, settings);
  }
}

/** The result with the accuracy on the rows that were trained on beside that on held-out ones. */
export function withTrainAccuracy(result: EvaluationResult, accuracy: number | null): EvaluationResult {
  const { evaluation } = result;
  if (accuracy === null || evaluation.accuracy === undefined) return result;
  const gap = accuracy - evaluation.accuracy;
  return {
    ...result,
    evaluation: { ...evaluation, train_accuracy: accuracy, generalization_gap: gap },
  };
}

/** Operations of evaluating so many held-out logits, in so many parts, at most. */
export function heldOutEvaluationOperations(logits: number, parts: number): number {
  return (parts + 1) * temperatureOperations(logits) + (6 + parts) * logits * OPERATIONS_PER_LOGIT;
}

function evaluateRegression(
  values: Float64Array,
  heldOut: HeldOutLogits,
  settings: Pick<Evaluation, "method" | "folds">,
): EvaluationResult {
  const truth = Array.from(heldOut.rows, (row) => values[row] as number);
  const predicted = Array.from(heldOut.logits);
  const residuals = truth.map((value, i) => Math.abs(value - (predicted[i] ?? Number.NaN)));
  return {
    evaluation: {
      ...settings,
      detail: "summary",
      examples: truth.length,
      ...regressionMetrics(truth, predicted),
      ...regressionIntervals(truth, predicted),
    },
    temperature: 1,
    outOfScopeThreshold: null,
    scope: null,
    thresholds: [],
    conformal: conformalScores(residuals),
    confused: [],
  };
}

/**
 * The held-out outputs, each clamped to the range of the values of all rows but those of its own part.
 *
 * @param parts the part of each entry of `heldOut`
 */
export function clampHeldOut(values: Float64Array, heldOut: HeldOutLogits, parts: Int32Array): HeldOutLogits {
  const logits = heldOut.logits.slice();
  for (const part of new Set(parts)) {
    const ownRows = new Set(heldOut.rows.filter((_, i) => parts[i] === part));
    const range = rangeOf(values.filter((_, row) => !ownRows.has(row)));
    for (const [i, value] of logits.entries()) if (parts[i] === part) logits[i] = clampTo(range, value);
  }
  return { ...heldOut, logits };
}
