/**
 * The learning curve of a head: for each fold, models of nested samples of the rows that the fold's model was trained
 * on, judged on the rows that it holds out. All have the features and the l2 of the head.
 */
import { correctnessOf } from "../evaluation/correctness.ts";
import type { EvaluationResult } from "../evaluation/evaluation.ts";
import type { CurvePoint } from "../evaluation/power-law.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { type Design, freeDesign } from "./design.ts";
import { subsetDesign } from "./design-subset.ts";
import { fitHead, initialParameters, type StoppingCriteria } from "./fit.ts";
import { computeGramStatistics } from "./gram.ts";
import { type FitProblem, visitLogits } from "./objective.ts";
import { freePreconditioner, makePreconditioner } from "./preconditioner.ts";
import { OPERATIONS_PER_FOLD_ROW } from "./split.ts";
import { stratifiedOrder } from "./subsample.ts";
import { pickTargets } from "./targets.ts";
import type { TrainingRows } from "./types.ts";

/** The samples of a learning curve: shares of the rows that a fold's model is trained on, and how often each is drawn. */
export interface CurvePlan {
  /** Ascending. */
  readonly shares: readonly number[];
  readonly repetitions: number;
}

/** Enough to correct the accuracy for the rows that the folds' models lack. */
const SUMMARY_SHARES = [1 / 2];
const FULL_SHARES = [1 / 8, 1 / 4, 1 / 2];

/**
 * The plans for a level of detail, the largest first: a training takes the first that it has room for. The folds draw
 * samples of their own; for a holdout a full curve draws each twice.
 */
export function curvePlans(detail: "summary" | "full", folds: number): CurvePlan[] {
  const summary = { shares: SUMMARY_SHARES, repetitions: 1 };
  if (detail === "summary") return [summary];
  return [{ shares: FULL_SHARES, repetitions: folds === 1 ? 2 : 1 }, { shares: FULL_SHARES, repetitions: 1 }, summary];
}

export interface LearningCurveOptions {
  readonly plan: CurvePlan;
  readonly foldCount: number;
  readonly l2: number;
  readonly criteria: StoppingCriteria;
  readonly calibration: Pick<EvaluationResult, "temperature" | "thresholds">;
  readonly seed: number;
}

/**
 * The points of the samples, ascending. A share of fewer rows than there are classes has none. `entries` are the held-out
 * rows to judge, in the order of each point's figures.
 */
export function* learningCurve(
  tensors: TensorBackend,
  design: Design,
  rows: TrainingRows,
  entries: Int32Array,
  { plan, foldCount, l2, criteria, calibration, seed }: LearningCurveOptions,
): Steps<CurvePoint[]> {
  const { targets, outputs, weights, folds } = rows;
  const isCorrect = correctnessOf(targets, outputs, calibration);
  const entryOf = new Map(Array.from(entries, (row, entry) => [row, entry]));
  const samples = foldSamples(rows, foldCount, plan, seed);
  yield OPERATIONS_PER_FOLD_ROW * plan.repetitions * foldCount * weights.length;
  const classes = new Set(rows.strata.filter((_, row) => weights[row] !== 0)).size;
  const points: CurvePoint[] = [];
  for (const share of plan.shares) {
    const own = samples.map(({ fold, order }) => ({ fold, rows: order.slice(0, Math.round(share * order.length)) }));
    if (own.some((sample) => sample.rows.length < Math.max(2, classes))) continue;
    const correct = new Float32Array(entries.length);
    for (const sample of own) {
      const parameters = yield* fitSample(tensors, design, rows, sample.rows, { l2, criteria, seed });
      yield* visitLogits(tensors, design, outputs, parameters, (first, height, logits) => {
        for (let i = 0; i < height; i++) {
          const entry = folds[first + i] === sample.fold ? entryOf.get(first + i) : undefined;
          if (entry !== undefined && isCorrect(first + i, logits, i * outputs))
            correct[entry] = (correct[entry] as number) + 1 / plan.repetitions;
        }
      });
    }
    points.push({ examples: own.reduce((sum, sample) => sum + sample.rows.length, 0) / own.length, correct });
  }
  return points;
}

/** For each fold and repetition, the examples that its model is trained on, in an order whose prefixes are the samples. */
function foldSamples(
  { weights, folds, strata, labelTexts }: TrainingRows,
  foldCount: number,
  { repetitions }: CurvePlan,
  seed: number,
): { readonly fold: number; readonly order: readonly number[] }[] {
  return Array.from({ length: foldCount * repetitions }, (_, i) => {
    const fold = i % foldCount;
    const examples = Array.from({ length: weights.length - labelTexts }, (_, row) => row);
    const trained = examples.filter((row) => weights[row] !== 0 && folds[row] !== fold);
    const ownStrata = Int32Array.from(trained, (row) => strata[row] as number);
    return { fold, order: stratifiedOrder(ownStrata, seed + i + 1).map((index) => trained[index] as number) };
  });
}

/** The parameters of a model that is trained on a sample of the examples alone, and the texts of labels. */
function* fitSample(
  tensors: TensorBackend,
  design: Design,
  { targets, outputs, weights, labelTexts }: TrainingRows,
  sample: readonly number[],
  { l2, criteria, seed }: Pick<LearningCurveOptions, "l2" | "criteria" | "seed">,
): Steps<Float64Array> {
  const texts = Array.from({ length: labelTexts }, (_, i) => weights.length - labelTexts + i);
  const sampleRows = [...sample, ...texts].sort((a, b) => a - b);
  const ownDesign = yield* subsetDesign(tensors, design, sampleRows, outputs);
  const ownWeights = Float64Array.from(sampleRows, (row) => weights[row] as number);
  const problem: FitProblem = {
    design: ownDesign,
    targets: pickTargets(targets, sampleRows),
    outputs,
    weights: ownWeights,
    l2,
  };
  const gramStatistics = yield* computeGramStatistics(tensors, ownDesign, ownWeights, seed);
  const preconditioner = yield* makePreconditioner(tensors, problem, gramStatistics);
  const { parameters } = yield* fitHead(tensors, problem, preconditioner, initialParameters(problem), criteria);
  freePreconditioner(tensors, preconditioner);
  freeDesign(tensors, ownDesign);
  return parameters;
}
