import { clampHeldOut, evaluateHeldOut, withTrainAccuracy } from "../evaluation/evaluate-held-out.ts";
import { type Evaluation, type EvaluationResult, noEvaluation } from "../evaluation/evaluation.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { fitFolds, needsFoldPreconditioners } from "./cross-validation.ts";
import { hasHeldOutRows } from "./folds.ts";
import { crossValidationData, type PenaltySelection } from "./penalty.ts";
import type { Preconditioner } from "./preconditioner.ts";
import { sparseToleranceFactor } from "./refit.ts";
import { stratifiedFolds } from "./split.ts";
import { trainAccuracy } from "./train-accuracy.ts";
import type { TrainingRows } from "./types.ts";
import { fitEvaluationLimits, workload } from "./workload.ts";

/** Close enough to the optimum that the metrics and the temperature are those of the head itself. */
const EVALUATION_TOLERANCE = 1e-3;

/** Why no rows of such targets could be held out. */
const NOTHING_HELD_OUT = {
  single: "No label has two examples with different inputs, so none can be held out.",
  multi: "Too few examples have different inputs, so none can be held out.",
  value: "Too few examples have different inputs, so none can be held out.",
} as const;

export interface EvaluationOptions {
  readonly labels: readonly string[];
  readonly rows: TrainingRows;
  readonly selection: PenaltySelection;
  /** That of all rows at the selected l2. */
  readonly preconditioner: Preconditioner;
  readonly method: Evaluation["method"];
  readonly seed: number;
  readonly clamp: boolean;
}

/**
 * Evaluates the selected features and l2 on held-out rows. `parameters` is the mean of the folds' models, null without
 * any.
 */
export function* evaluate(
  tensors: TensorBackend,
  { labels, rows, selection, preconditioner, method, seed, clamp }: EvaluationOptions,
): Steps<{ readonly result: EvaluationResult; readonly parameters: Float64Array | null }> {
  const foldCount = method === "holdout" ? 1 : rows.foldCount;
  if (method === "none") return { result: noEvaluation, parameters: null };
  if (!hasHeldOutRows(rows.folds, rows.weights, foldCount)) {
    const evaluation = { ...noEvaluation.evaluation, reason: NOTHING_HELD_OUT[rows.targets.kind] };
    return { result: { ...noEvaluation, evaluation }, parameters: null };
  }
  const { design } = selection.featureSet;
  const { heldOut, models } = yield* fitFolds(tensors, crossValidationData(selection.featureSet, rows, [rows.folds]), {
    foldCount,
    l2: selection.l2,
    preconditioner: needsFoldPreconditioners(rows.weights.length, design.dimensions) ? "own" : preconditioner,
    warmStarts: selection.parameters?.map((parameters) => ({ parameters, objective: null })) ?? null,
    criteria: {
      tolerance: sparseToleranceFactor(design) * EVALUATION_TOLERANCE,
      maxEvaluations: fitEvaluationLimits(workload(design, rows.outputs)).evaluation,
    },
  });
  const pickHeldOut = (values: Int32Array) => heldOut.rows.map((row) => values[row] as number);
  const parts =
    method === "holdout"
      ? stratifiedFolds(pickHeldOut(rows.strata), pickHeldOut(rows.groups), 2, seed)
      : pickHeldOut(rows.folds);
  const settings = method === "holdout" ? { method } : { method, folds: new Set(parts).size };
  const { targets } = rows;
  const outputs = clamp && targets.kind === "value" ? clampHeldOut(targets.values, heldOut, parts) : heldOut;
  const result = yield* evaluateHeldOut(labels, targets, outputs, parts, settings);
  const ownAccuracy = yield* trainAccuracy(tensors, design, rows, models, result);
  return {
    result: withTrainAccuracy(result, ownAccuracy),
    parameters: average(models.map(({ parameters }) => parameters)),
  };
}

function average(vectors: readonly Float64Array[]): Float64Array {
  const sum = new Float64Array((vectors[0] as Float64Array).length);
  for (const vector of vectors)
    for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (vector[i] as number) / vectors.length;
  return sum;
}
