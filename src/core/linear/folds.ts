/** Which rows a training holds out, for its evaluation and to select features and l2. */
import type { Evaluation } from "../evaluation/evaluation.ts";
import {
  ALWAYS_TRAINED,
  crossValidationFolds,
  DEFAULT_FOLDS,
  DEFAULT_HOLDOUT_FRACTION,
  type Folds,
  holdoutFolds,
  stratifiedFolds,
} from "./split.ts";
import type { Targets } from "./targets.ts";
import type { TrainingOptions, TrainingRows } from "./types.ts";
import type { SelectionPlan } from "./workload.ts";

interface ClassedRows {
  readonly targets: Targets;
  /** Each row's class. */
  readonly strata: Int32Array;
  readonly groups: Int32Array;
  /** So many of the last rows are texts of labels. */
  readonly labelTexts: number;
}

/**
 * The folds of the examples, by `assign`. Texts of labels, and examples with the text of one, are always trained on.
 */
function foldsOfExamples(
  { strata, groups, labelTexts }: ClassedRows,
  assign: (strata: Int32Array, groups: Int32Array) => Folds,
): Folds {
  if (labelTexts === 0) return assign(strata, groups);
  const textGroups = new Set(groups.subarray(groups.length - labelTexts));
  const examples = Array.from(groups.keys()).filter((row) => !textGroups.has(groups[row] as number));
  const pick = (values: Int32Array) => Int32Array.from(examples, (row) => values[row] as number);
  const own = assign(pick(strata), pick(groups));
  const folds = new Int32Array(groups.length).fill(ALWAYS_TRAINED);
  for (const [i, row] of examples.entries()) folds[row] = own.folds[i] as number;
  return { folds, foldCount: own.foldCount };
}

/** Folds of a cross-validation. A row with several labels has a class only for stratification, which bounds no folds. */
function foldsOf(rows: ClassedRows, maxCount: number, seed: number): Folds {
  return foldsOfExamples(rows, (strata, groups) =>
    rows.targets.kind === "multi"
      ? { folds: stratifiedFolds(strata, groups, maxCount, seed), foldCount: maxCount }
      : crossValidationFolds(strata, groups, maxCount, seed),
  );
}

/**
 * The folds that a training is evaluated on. A holdout is fold 0, and the other folds train. If the smallest classes
 * have too few rows for a holdout's share of them, the holdout is a fold of a cross-validation.
 */
export function evaluationFolds(
  rows: ClassedRows,
  method: Evaluation["method"],
  { evaluation, seed }: Pick<TrainingOptions, "evaluation" | "seed">,
): Folds {
  const { fraction = DEFAULT_HOLDOUT_FRACTION, folds: requestedFolds = DEFAULT_FOLDS } = evaluation;
  if (method !== "holdout") return foldsOf(rows, requestedFolds, seed);
  const crossValidation = foldsOf(rows, DEFAULT_FOLDS, seed);
  if (crossValidation.foldCount < 1 / fraction && crossValidation.foldCount < DEFAULT_FOLDS) return crossValidation;
  return foldsOfExamples(rows, (strata, groups) => ({
    folds: holdoutFolds(strata, groups, fraction, DEFAULT_FOLDS, seed),
    foldCount: DEFAULT_FOLDS,
  }));
}

/** The seeds of repetitions are so far apart: 2^32 divided by the golden ratio. */
const SEED_STEP = 0x9e3779b9;

/**
 * The folds of each repetition that selects features and l2, and how many of them are held out. The first repetition
 * has the folds of the evaluation if they are no more than are affordable, so that both share their models. If the rows
 * allow fewer folds than planned, there are more repetitions, and no more fits.
 */
export function selectionFolds(
  rows: TrainingRows,
  plan: Pick<SelectionPlan, "folds" | "repetitions">,
  seed: number,
): { readonly repetitions: readonly Int32Array[]; readonly foldCount: number; readonly isFirstEvaluated: boolean } {
  const isFirstEvaluated = rows.foldCount <= DEFAULT_FOLDS;
  const own = foldsOf(rows, DEFAULT_FOLDS, seed);
  const first = isFirstEvaluated ? rows.folds : own.folds;
  const foldCount = Math.min(plan.folds, rows.foldCount, own.foldCount);
  const count = plan.repetitions === 1 ? 1 : Math.floor((plan.folds * plan.repetitions) / foldCount);
  const others = Array.from({ length: count - 1 }, (_, i) =>
    foldsOf(rows, foldCount, (seed + (i + 1) * SEED_STEP) >>> 0),
  );
  return { repetitions: [first, ...others.map(({ folds }) => folds)], foldCount, isFirstEvaluated };
}

/** Whether any row that is trained on is held out in the first `foldCount` folds. */
export function hasHeldOutRows(folds: Int32Array, weights: Float64Array, foldCount: number): boolean {
  return folds.some((fold, row) => fold !== ALWAYS_TRAINED && fold < foldCount && weights[row] !== 0);
}
