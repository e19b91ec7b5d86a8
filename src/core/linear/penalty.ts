import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { chooseCandidate } from "./candidates.ts";
import type { CrossValidationData } from "./cross-validation.ts";
import { freeDesign } from "./design.ts";
import { type FeatureSet, freeUnshared } from "./feature-set.ts";
import { hasHeldOutRows, selectionFolds } from "./folds.ts";
import { type L2Candidates, type L2Selection, selectL2 } from "./l2-selection.ts";
import { LABEL_TEXT_L2 } from "./label-texts.ts";
import { subsample } from "./subsample.ts";
import type { TrainingRows } from "./types.ts";
import { type SelectionPlan, selectionPlan, workload } from "./workload.ts";

export interface PenaltySelection {
  readonly featureSet: FeatureSet;
  /** In the design's scale. */
  readonly l2: number;
  /**
   * The model of each fold of the evaluation at this l2, to start from. Null if there are none or they come from other
   * folds.
   */
  readonly parameters: readonly Float64Array[] | null;
}

/** Used if l2 must be selected and no rows can be held out. */
const DEFAULT_L2 = 1;

/**
 * Selects the feature set and the l2 that predict held-out rows best, and frees the other feature sets. If no rows can
 * be held out, the first feature set is selected.
 *
 * Of two feature sets it takes the first only if its loss is lower by more than a standard error (`chooseCandidate`).
 * Where held-out losses cannot tell, heads with lexical features predict more texts correctly
 * (docs/decisions/few-examples.md).
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
  const needsSelection = fixedL2 === null || featureSets.length > 1;
  const selections = needsSelection ? yield* selectEach(tensors, featureSets, rows, { fixedL2, plan, seed }) : [];
  const preferred = selections.toReversed();
  const best = preferred[chooseCandidate(preferred.map(({ heldOut }) => heldOut))] ?? {
    featureSet: featureSets[0] as FeatureSet,
    l2: fixedL2 ?? (rows.labelTexts > 0 ? LABEL_TEXT_L2 : DEFAULT_L2),
    parameters: null,
  };
  for (const featureSet of featureSets)
    if (featureSet !== best.featureSet) freeUnshared(tensors, featureSet, best.featureSet);
  return best;
}

export interface EachSelectionOptions {
  /** In the design's scale; null if it must be selected. */
  readonly fixedL2: number | null;
  /** The same plan and seed hold out the same rows. */
  readonly plan: SelectionPlan;
  readonly seed: number;
  /** In the design's scale: one that is known to be good on similar features. */
  readonly nearbyL2?: number | null;
  /** Of the objective in each fit, at most. */
  readonly maxEvaluations?: number | undefined;
}

/** The best l2 of each feature set, with the losses of the rows that are held out. None if no rows can be held out. */
export function* selectEach(
  tensors: TensorBackend,
  featureSets: readonly FeatureSet[],
  rows: TrainingRows,
  { fixedL2, plan, seed, nearbyL2 = null, maxEvaluations }: EachSelectionOptions,
): Steps<readonly (L2Selection & { readonly featureSet: FeatureSet })[]> {
  const { repetitions, foldCount, isFirstEvaluated } = selectionFolds(rows, plan, seed);
  const selections: (L2Selection & { readonly featureSet: FeatureSet })[] = [];
  const canHoldOut = repetitions.some((folds) => hasHeldOutRows(folds, rows.weights, foldCount));
  for (const featureSet of canHoldOut ? featureSets : []) {
    const nearby = selections[0]?.l2 ?? nearbyL2;
    const candidates: L2Candidates = fixedL2 !== null ? { fixedL2 } : nearby === null ? "all" : { nearbyL2: nearby };
    const data = crossValidationData(featureSet, rows, repetitions);
    const selection =
      plan.rows === rows.weights.length
        ? yield* selectL2(tensors, data, foldCount, candidates, maxEvaluations)
        : yield* selectOnSubsample(tensors, data, rows, {
            sampleRows: plan.rows,
            foldCount,
            candidates,
            seed,
            maxEvaluations,
          });
    const parameters = isFirstEvaluated ? (selection.parameters?.slice(0, foldCount) ?? null) : null;
    selections.push({ featureSet, ...selection, parameters });
  }
  return selections;
}

function* selectOnSubsample(
  tensors: TensorBackend,
  data: CrossValidationData,
  { strata, groups }: TrainingRows,
  options: {
    readonly sampleRows: number;
    readonly foldCount: number;
    readonly candidates: L2Candidates;
    readonly seed: number;
    readonly maxEvaluations: number | undefined;
  },
): Steps<L2Selection> {
  const { sampleRows, foldCount, candidates, seed, maxEvaluations } = options;
  const sample = yield* subsample(tensors, data, { strata, groups, rows: sampleRows, seed });
  const selection = yield* selectL2(tensors, sample, foldCount, candidates, maxEvaluations);
  freeDesign(tensors, sample.design);
  // A subsample's folds are not those of the training.
  return { ...selection, parameters: null };
}

/** A feature set with the rows' targets and weights, and some repetitions of folds. */
export function crossValidationData(
  { design, gramStatistics }: FeatureSet,
  { targets, outputs, weights, groups }: TrainingRows,
  repetitions: readonly Int32Array[],
): CrossValidationData {
  return { design, gramStatistics, targets, outputs, weights, groups, repetitions };
}
