import type { HeldOutLogits } from "../evaluation/calibration.ts";
import { correctnessOf } from "../evaluation/correctness.ts";
import { clampHeldOut, evaluateHeldOut, withTrainAccuracy } from "../evaluation/evaluate-held-out.ts";
import { type Evaluation, type EvaluationResult, noEvaluation } from "../evaluation/evaluation.ts";
import { withLearningCurve } from "../evaluation/learning-curve.ts";
import { mean } from "../evaluation/metrics.ts";
import { type CurvePoint, powerLawOperations } from "../evaluation/power-law.ts";
import type { ScopeOptions } from "../evaluation/scope-fit.ts";
import { countLikely, findLabelErrors } from "../labels/label-errors.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { fitFolds, needsFoldPreconditioners } from "./cross-validation.ts";
import { hasHeldOutRows } from "./folds.ts";
import { countExamples, LABEL_TEXT_TEMPERATURE } from "./label-texts.ts";
import { type CurvePlan, learningCurve } from "./learning-curve.ts";
import { crossValidationData, type PenaltySelection } from "./penalty.ts";
import type { Preconditioner } from "./preconditioner.ts";
import { sparseToleranceFactor } from "./refit.ts";
import { stratifiedFolds } from "./split.ts";
import type { Targets } from "./targets.ts";
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
const NO_EXAMPLES = "There are no examples, so none can be held out.";

export interface EvaluationOptions {
  readonly labels: readonly string[];
  readonly rows: TrainingRows;
  readonly selection: PenaltySelection;
  /** That of all rows at the selected l2. */
  readonly preconditioner: Preconditioner;
  readonly method: Evaluation["method"];
  /** Null: there is no room for one. */
  readonly curve: CurvePlan | null;
  readonly detail: Evaluation["detail"];
  readonly seed: number;
  readonly clamp: boolean;
  /** For one label a row. */
  readonly scope: ScopeOptions;
}

/** How many folds are held out for the evaluation. */
export function evaluatedFolds({ foldCount }: TrainingRows, method: Evaluation["method"]): number {
  return method === "none" ? 0 : method === "holdout" ? 1 : foldCount;
}

/**
 * Evaluates the selected features and l2 on held-out rows. `parameters` is the mean of the folds' models, null without
 * any.
 */
export function* evaluate(
  tensors: TensorBackend,
  { labels, rows, selection, preconditioner, method, curve, detail, seed, clamp, scope }: EvaluationOptions,
): Steps<{ readonly result: EvaluationResult; readonly parameters: Float64Array | null }> {
  const foldCount = evaluatedFolds(rows, method);
  const canHoldOut = hasHeldOutRows(rows.folds, rows.weights, rows.foldCount);
  const untested = rows.labelTexts > 0 && !canHoldOut ? { temperature: LABEL_TEXT_TEMPERATURE } : {};
  if (method === "none") return { result: { ...noEvaluation, ...untested }, parameters: null };
  if (!canHoldOut || !hasHeldOutRows(rows.folds, rows.weights, foldCount)) {
    const reason = countExamples(rows) === 0 ? NO_EXAMPLES : NOTHING_HELD_OUT[rows.targets.kind];
    const evaluation = { ...noEvaluation.evaluation, reason };
    return { result: { ...noEvaluation, ...untested, evaluation }, parameters: null };
  }
  const { design } = selection.featureSet;
  const criteria = {
    tolerance: sparseToleranceFactor(design) * EVALUATION_TOLERANCE,
    maxEvaluations: fitEvaluationLimits(workload(design, rows.outputs)).evaluation,
  };
  const { heldOut, models } = yield* fitFolds(tensors, crossValidationData(selection.featureSet, rows, [rows.folds]), {
    foldCount,
    l2: selection.l2,
    preconditioner: needsFoldPreconditioners(rows.weights.length, design.dimensions) ? "own" : preconditioner,
    warmStarts: selection.parameters?.map((parameters) => ({ parameters, objective: null })) ?? null,
    criteria,
  });
  const pickHeldOut = (values: Int32Array) => heldOut.rows.map((row) => values[row] as number);
  const parts =
    method === "holdout"
      ? stratifiedFolds(pickHeldOut(rows.strata), pickHeldOut(rows.groups), 2, seed)
      : pickHeldOut(rows.folds);
  const settings = method === "holdout" ? { method } : { method, folds: new Set(parts).size };
  const { targets } = rows;
  const outputs = clamp && targets.kind === "value" ? clampHeldOut(targets.values, heldOut, parts) : heldOut;
  const result = yield* evaluateHeldOut(labels, targets, outputs, parts, settings, scope);
  const parameters = average(models.map((model) => model.parameters));
  const ownAccuracy = yield* trainAccuracy(tensors, design, rows, models, result);
  const judged = withTrainAccuracy(yield* withIssueCount(result, targets, outputs, detail), ownAccuracy);
  if (curve === null || judged.evaluation.accuracy === undefined) return { result: judged, parameters };
  const curveFolds = curveFoldCount(rows, foldCount);
  const entries = heldOut.rows.filter((row) => rows.weights[row] !== 0 && (rows.folds[row] as number) < curveFolds);
  const samples = yield* learningCurve(tensors, design, rows, entries, {
    plan: curve,
    foldCount: curveFolds,
    l2: selection.l2,
    criteria,
    calibration: result,
    seed,
  });
  const points = [...samples, foldsPoint(rows, heldOut, curveFolds, result)];
  yield powerLawOperations(points.length, entries.length);
  const evaluation = withLearningCurve(judged.evaluation, points, countExamples(rows), detail);
  return { result: { ...judged, evaluation }, parameters };
}

/** The result with how many held-out examples have a label that is probably wrong, and the share of such, under `full`. */
function* withIssueCount(
  result: EvaluationResult,
  targets: Targets,
  heldOut: HeldOutLogits,
  detail: Evaluation["detail"],
): Steps<EvaluationResult> {
  if (detail !== "full") return result;
  const found = yield* findLabelErrors(targets, heldOut);
  const figures = { issue_count: countLikely(found), label_noise: found.noise };
  return { ...result, evaluation: { ...result.evaluation, ...figures } };
}

/** The learning curve is measured on so many held-out rows if there are more: they tell its change well enough. */
const CURVE_ROWS = 1_000;

/** How many folds hold out so many rows. */
function curveFoldCount({ weights, folds }: TrainingRows, foldCount: number): number {
  for (let count = 1; count < foldCount; count++)
    if (folds.filter((fold, row) => fold >= 0 && fold < count && weights[row] !== 0).length >= CURVE_ROWS) return count;
  return foldCount;
}

/** The point of the folds' own models: the largest of the learning curve. */
function foldsPoint(
  trainingRows: TrainingRows,
  { rows, logits }: HeldOutLogits,
  foldCount: number,
  calibration: EvaluationResult,
): CurvePoint {
  const { targets, outputs, weights, folds } = trainingRows;
  const isCorrect = correctnessOf(targets, outputs, calibration);
  const isJudged = (row: number) => weights[row] !== 0 && (folds[row] as number) < foldCount;
  const judged = Array.from(rows, (row, entry) => (isJudged(row) ? isCorrect(row, logits, entry * outputs) : null));
  const trained = Array.from({ length: foldCount }, (_, fold) =>
    countExamples(trainingRows, (row) => folds[row] !== fold),
  );
  return {
    examples: mean(trained),
    correct: Float32Array.from(
      judged.filter((correct) => correct !== null),
      Number,
    ),
  };
}

function average(vectors: readonly Float64Array[]): Float64Array {
  const sum = new Float64Array((vectors[0] as Float64Array).length);
  for (const vector of vectors)
    for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (vector[i] as number) / vectors.length;
  return sum;
}
