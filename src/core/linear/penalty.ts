import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import type { CrossValidationData } from "./cross-validation.ts";
import { freeDesign } from "./design.ts";
import { type FeatureSet, freeUnshared } from "./feature-set.ts";
import { type L2Candidates, type L2Selection, LOSS_TIE_RATIO, selectL2 } from "./l2-selection.ts";
import { ALWAYS_TRAINED } from "./split.ts";
import { subsample } from "./subsample.ts";
import type { TrainingRows } from "./types.ts";
import { selectionPlan, workload } from "./workload.ts";

export interface PenaltySelection {
  readonly featureSet: FeatureSet;
  /** In the design's scale. */
  readonly l2: number;
  /**
   * Each fold's model at this l2, to start the evaluation from. Null if there are none or they come from a subsample.
   */
  readonly parameters: readonly Float64Array[] | null;
}

/** Used if l2 must be selected and no rows can be held out. */
const DEFAULT_L2 = 1;

/**
 * Selects the feature set and the l2 that predict held-out rows best, and frees the other feature sets. If no rows can
 * be held out, the first feature set is selected.
 *
 * @param featureSets one, or two, of which the second has more features
 * @param fixedL2 in the design's scale; null if it must be selected
 */
export function* selectPenalty(
  tensors: TensorBackend,
  featureSets: readonly FeatureSet[],
  rows: TrainingRows,
  fixedL2: number | null,
  seed: number,
): Steps<PenaltySelection> {
  const plan = selectionPlan(workload((featureSets.at(-1) as FeatureSet).design, rows.outputs));
  const foldCount = Math.min(plan.folds, rows.foldCount);
  const needsSelection = (fixedL2 === null || featureSets.length > 1) && hasHeldOutRows(rows, foldCount);
  const selections: (L2Selection & { readonly featureSet: FeatureSet })[] = [];
  for (const featureSet of needsSelection ? featureSets : []) {
    const [previous] = selections;
    const candidates: L2Candidates =
      fixedL2 !== null ? { fixedL2 } : previous === undefined ? "all" : { nearbyL2: previous.l2 };
    const selection =
      plan.rows === rows.weights.length
        ? yield* selectL2(tensors, crossValidationData(featureSet, rows), foldCount, candidates)
        : yield* selectOnSubsample(tensors, featureSet, rows, { sampleRows: plan.rows, foldCount, candidates, seed });
    selections.push({ featureSet, ...selection });
  }
  const [first, second] = selections;
  const isSecondBetter = first !== undefined && second !== undefined && second.loss * LOSS_TIE_RATIO < first.loss;
  const best = (isSecondBetter ? second : first) ?? {
    featureSet: featureSets[0] as FeatureSet,
    l2: fixedL2 ?? DEFAULT_L2,
    parameters: null,
  };
  for (const featureSet of featureSets)
    if (featureSet !== best.featureSet) freeUnshared(tensors, featureSet, best.featureSet);
  return best;
}

function* selectOnSubsample(
  tensors: TensorBackend,
  featureSet: FeatureSet,
  rows: TrainingRows,
  options: {
    readonly sampleRows: number;
    readonly foldCount: number;
    readonly candidates: L2Candidates;
    readonly seed: number;
  },
): Steps<L2Selection> {
  const { strata, groups } = rows;
  const { sampleRows, foldCount, candidates, seed } = options;
  const subsampleOptions = { strata, groups, rows: sampleRows, seed };
  const data = yield* subsample(tensors, crossValidationData(featureSet, rows), subsampleOptions);
  const selection = yield* selectL2(tensors, data, foldCount, candidates);
  freeDesign(tensors, data.design);
  // A subsample's folds are not those of the training.
  return { ...selection, parameters: null };
}

/** A feature set with the rows' targets, weights and folds. */
export function crossValidationData(
  { design, gramStatistics }: FeatureSet,
  { targets, outputs, weights, folds }: TrainingRows,
): CrossValidationData {
  return { design, gramStatistics, targets, outputs, weights, folds };
}

/** Whether any row that is trained on is held out in the first `foldCount` folds. */
export function hasHeldOutRows({ folds, weights }: TrainingRows, foldCount: number): boolean {
  return folds.some((fold, row) => fold !== ALWAYS_TRAINED && fold < foldCount && weights[row] !== 0);
}
