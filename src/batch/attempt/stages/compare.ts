/** How both candidates do on rows that neither was trained on. */
import { decodeHead } from "../../../core/codec.ts";
import { type Comparison, gainError } from "../../../core/evaluation/comparison.ts";
import { withConfusedPairs } from "../../../core/evaluation/confused.ts";
import { correctnessOf } from "../../../core/evaluation/correctness.ts";
import { evaluateHeldOut, withTrainAccuracy } from "../../../core/evaluation/evaluate-held-out.ts";
import type { EvaluationResult } from "../../../core/evaluation/evaluation.ts";
import { regressionMetrics } from "../../../core/evaluation/metrics.ts";
import type { Scope } from "../../../core/evaluation/scope.ts";
import type { Head, Task } from "../../../core/head.ts";
import { stratifiedFolds } from "../../../core/linear/split.ts";
import { strataOf, type Target } from "../../../core/linear/targets.ts";
import { runSteps } from "../../../core/steps.ts";
import { meanPlan, type Plan } from "../../../finetune/train.ts";
import type { FineTunedAssessment, StoredScope, TrainedCandidate } from "../checkpoint.ts";
import type { TrainingContext } from "../context.ts";
import { makeModel, type Predictions, predictRows, toLogits } from "../model.ts";
import { groupsOf, targetsOf } from "../training-spec.ts";
import { centroidRows, distancesToTraining } from "./scope.ts";
import type { TrainedCandidates } from "./train-candidates.ts";

export const emptyComparison: Comparison = {
  test_examples: 0,
  head_accuracy: 0,
  fine_tuned_accuracy: 0,
  only_head: 0,
  only_fine_tuned: 0,
};

/** A test example. Of labels, whether each candidate predicts them correctly (1 or 0); else the values that they predict. */
export interface Outcome {
  readonly target: Target;
  readonly head: number;
  readonly fineTuned: number;
}

/** What candidates are trained on, and other rows that they are compared on. */
export interface Split {
  readonly trainingRows: readonly number[];
  readonly testRows: readonly number[];
}

/** What the candidates of one fold predict for its test rows. */
export interface FoldPredictions {
  readonly rows: readonly number[];
  /** null if one of the candidates could not be trained. */
  readonly outcomes: readonly Outcome[] | null;
  /** The fine-tuned candidate's logits of all labels, row by row; null if it has trained no layers. */
  readonly layers: {
    readonly plan: Plan;
    readonly logits: Float32Array;
    /** The same of some rows that the candidate was trained on. */
    readonly trained: { readonly rows: readonly number[]; readonly logits: Float32Array };
    /** Of the rows, to the centroids of what the candidate was trained on; null if there are none. */
    readonly distances: Float32Array | null;
  } | null;
}

export interface CandidateComparison {
  readonly comparison: Comparison;
  readonly fineTunedAssessment: FineTunedAssessment | null;
}

/** @param labels of all rows of the data */
export async function predictFold(
  context: TrainingContext,
  { trainingRows, testRows: rows }: Split,
  { head, fineTuned }: TrainedCandidates,
  labels: readonly string[],
): Promise<FoldPredictions> {
  const testEmbeddings: Float32Array[] = [];
  const headPredictions = await predictWith(context, rows, head, null);
  const fineTunedPredictions =
    fineTuned === head ? headPredictions : await predictWith(context, rows, fineTuned, testEmbeddings);
  const outcomes =
    headPredictions && fineTunedPredictions ? outcomesOf(context, rows, headPredictions, fineTunedPredictions) : null;
  if (!fineTuned?.plan || !fineTunedPredictions) return { rows, outcomes, layers: null };
  const logits = toLogits(fineTunedPredictions.head, fineTunedPredictions.outputs, labels);
  const trainedRows = centroidRows(trainingRows);
  const trainedEmbeddings: Float32Array[] = [];
  const ownPredictions = await predictWith(context, trainedRows, fineTuned, trainedEmbeddings);
  const ownLogits = toLogits(fineTunedPredictions.head, ownPredictions?.outputs ?? [], labels);
  const distances =
    ownPredictions &&
    (await distancesToTraining(
      context,
      { rows: trainedRows, embeddings: trainedEmbeddings },
      { rows, embeddings: testEmbeddings },
      labels,
    ));
  const trained = { rows: trainedRows, logits: ownLogits };
  return { rows, outcomes, layers: { plan: fineTuned.plan, logits, trained, distances } };
}

async function predictWith(
  context: TrainingContext,
  rows: readonly number[],
  candidate: TrainedCandidate | null,
  embeddings: Float32Array[] | null,
): Promise<Predictions | null> {
  const head = candidate && decodeHead(candidate.head);
  if (!head) return null;
  const model = makeModel(context, context.layers?.base ?? null, head, candidate.delta);
  // Only the scope of one label reads them.
  const taken = head.task === "single_label" ? embeddings : null;
  return { head, outputs: await predictRows(context, rows, model, taken) };
}

/**
 * The outcomes of rows, without those of the out-of-scope label. A single label is correct if it is the most probable one; a
 * set of labels if exactly these have at least ½. If every row has a label that neither head knows, there are none.
 */
export function outcomesOf(
  { submission, examples }: TrainingContext,
  rows: readonly number[],
  frozen: Predictions,
  fineTuned: Predictions,
): Outcome[] {
  const outcomeOf =
    submission.task === "regression" ? (_: Head, [value = 0]: Float64Array): number => value : correctness;
  const outcomes = rows.flatMap((row, i): Outcome[] => {
    const [target, a, b] = [examples.targets[row], frozen.outputs[i], fineTuned.outputs[i]];
    if (target === undefined || target === submission.out_of_scope_label || !a || !b) return [];
    return [{ target, head: outcomeOf(frozen.head, a, target), fineTuned: outcomeOf(fineTuned.head, b, target) }];
  });
  const labels = new Set([...frozen.head.labels, ...fineTuned.head.labels]);
  const isKnown = ({ target }: Outcome) =>
    typeof target === "number" || [target].flat().every((label) => labels.has(label));
  return outcomes.some(isKnown) ? outcomes : [];
}

/** 1 if the predicted labels are the target's, else 0. */
function correctness({ task, labels }: Head, outputs: Float64Array, target: Target): number {
  if (task === "single_label") return Number(labels[outputs.indexOf(Math.max(...outputs))] === target);
  const expected = new Set(target as readonly string[]);
  const predicted = labels.filter((_, k) => (outputs[k] ?? 0) >= 0.5);
  return Number(predicted.length === expected.size && predicted.every((label) => expected.has(label)));
}

/** Of two values the nearer wins. */
export function compareOutcomes(task: Task, outcomes: readonly Outcome[]): Comparison {
  if (outcomes.length === 0) return emptyComparison;
  const [head, fineTuned] = [outcomes.map((each) => each.head), outcomes.map((each) => each.fineTuned)];
  const count = (wins: (outcome: Outcome) => boolean) => outcomes.filter(wins).length;
  const test_examples = outcomes.length;
  if (task !== "regression")
    return {
      test_examples,
      head_accuracy: count((each) => each.head === 1) / test_examples,
      fine_tuned_accuracy: count((each) => each.fineTuned === 1) / test_examples,
      only_head: count((each) => each.head > each.fineTuned),
      only_fine_tuned: count((each) => each.fineTuned > each.head),
    };
  const values = outcomes.map(({ target }) => Number(target));
  const distance = (value: number, target: Target) => Math.abs(value - Number(target));
  return {
    test_examples,
    head_accuracy: regressionMetrics(values, head).r2,
    fine_tuned_accuracy: regressionMetrics(values, fineTuned).r2,
    only_head: count((each) => distance(each.head, each.target) < distance(each.fineTuned, each.target)),
    only_fine_tuned: count((each) => distance(each.fineTuned, each.target) < distance(each.head, each.target)),
    gain_error: gainError(values, head, fineTuned),
  };
}

/** Compares the candidates, and evaluates and calibrates the fine-tuned one if it has trained layers, on all folds together. */
export async function compareCandidates(
  context: TrainingContext,
  folds: readonly FoldPredictions[],
  labels: readonly string[],
): Promise<CandidateComparison> {
  const isComparable = folds.every(({ outcomes }) => outcomes !== null);
  const outcomes = isComparable ? folds.flatMap((fold) => fold.outcomes ?? []) : [];
  return {
    comparison: compareOutcomes(context.submission.task, outcomes),
    fineTunedAssessment: await assessFineTuned(context, folds, labels),
  };
}

/**
 * The evaluation, calibration and mean plan of the fine-tuned candidates of all folds; the model that is trained on all rows
 * takes these over. The candidates' heads are those that `composeModel` made, at temperature 1. Null if a fold has none.
 */
async function assessFineTuned(
  context: TrainingContext,
  folds: readonly FoldPredictions[],
  labels: readonly string[],
): Promise<FineTunedAssessment | null> {
  const layers = folds.flatMap((fold) => fold.layers ?? []);
  if (layers.length < folds.length) return null;
  const rows = folds.flatMap((fold) => fold.rows);
  const outputs = Math.max(1, labels.length);
  const logits = concatenate(layers.map((fold) => fold.logits));
  const { targets } = targetsOf(context, rows, labels);
  const heldOut = { rows: Int32Array.from(rows.keys()), logits, outputs };
  const isCrossFit = folds.length > 1;
  const parts = isCrossFit
    ? Int32Array.from(folds.flatMap((fold, i) => fold.rows.map(() => i)))
    : stratifiedFolds(
        strataOf(targets, labels.length),
        groupsOf(context, rows),
        2,
        context.submission.hyperparameters.seed,
      );
  const settings = isCrossFit
    ? ({ method: "cross_validation", folds: folds.length } as const)
    : ({ method: "holdout" } as const);
  const distances = layers.map((fold) => fold.distances);
  const steps = evaluateHeldOut(labels, targets, heldOut, parts, settings, {
    distances: distances.includes(null) ? null : { heldOut: concatenate(distances as Float32Array[]), centroids: null },
    recall: context.submission.in_scope_recall,
  });
  const { value: assessed } = await runSteps(steps, 0, context.yieldToEventLoop);
  const trained = layers.map((fold) => countCorrect(context, fold.trained, labels, assessed));
  const sum = (key: "correct" | "count") => trained.reduce((total, counts) => total + counts[key], 0);
  const { confused, conformal, ...assessment } = withTrainAccuracy(
    assessed,
    sum("count") === 0 ? null : sum("correct") / sum("count"),
  );
  const idOf = (row: number) => context.examples.ids[rows[row] as number];
  const evaluation = withConfusedPairs(assessment.evaluation, confused, idOf);
  return {
    plan: meanPlan(layers.map(({ plan }) => plan)),
    assessment: { ...assessment, evaluation, conformal: Array.from(conformal), scope: storeScope(assessment.scope) },
  };
}

/** How many rows the logits predict correctly, of those that have labels to predict. */
function countCorrect(
  context: TrainingContext,
  { rows, logits }: { readonly rows: readonly number[]; readonly logits: Float32Array },
  labels: readonly string[],
  calibration: Pick<EvaluationResult, "temperature" | "thresholds">,
): { readonly correct: number; readonly count: number } {
  const outputs = Math.max(1, labels.length);
  const isCorrect = correctnessOf(targetsOf(context, rows, labels).targets, outputs, calibration);
  const judged = rows.map((_, i) => isCorrect(i, logits, i * outputs)).filter((each) => each !== null);
  return { correct: judged.filter(Boolean).length, count: judged.length };
}

function concatenate(parts: readonly Float32Array[]): Float32Array {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

function storeScope(scope: Scope | null): StoredScope | null {
  return scope && { figures: scope.figures, examples: scope.examples, scores: Array.from(scope.scores) };
}
