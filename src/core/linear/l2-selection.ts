/** Selects the l2 that predicts held-out rows best. */
import { fitTemperature, type HeldOutLogits, heldOutLogLoss } from "../evaluation/calibration.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { type CrossValidationData, fitFolds, type HeldOutFit } from "./cross-validation.ts";
import type { GramStatistics } from "./gram.ts";
import { OPERATIONS_PER_LOGIT } from "./objective.ts";
import { freePreconditioner, makePreconditioner, type Preconditioner } from "./preconditioner.ts";
import type { Targets } from "./targets.ts";
import { fitEvaluationLimits, workload } from "./workload.ts";

/** Close enough to the optimum to rank penalties by their held-out loss. */
const SELECTION_TOLERANCE = 1e-2;
const MAX_L2 = { single: 100, multi: 100, value: 1000 } as const;
const L2_GRID_RATIO = Math.sqrt(10);
/** The strongest penalties learn nothing, so the loss is flat there. So many trials get past that plateau. */
const MIN_L2_TRIALS = 7;
export const MAX_L2_TRIALS = 11;
/**
 * With sparse columns, weaker penalties are tried only if the selection without them chose one. The columns can tell
 * nearly every row from every other, so a weak penalty keeps fitting rows that are predicted correctly already.
 */
const MIN_L2_WITH_SPARSE = 0.1;
/**
 * If a good l2 is known, the first trial is so many times stronger (but itself from 1 to this), and there are so many
 * trials.
 */
const NEARBY_L2_RATIO = 10;
const MIN_NEARBY_L2_TRIALS = 3;
export const MAX_NEARBY_L2_TRIALS = 6;

/** Losses within this ratio are equal as far as held-out rows can tell. */
export const LOSS_TIE_RATIO = 1.01;

export interface L2Selection {
  readonly l2: number;
  /** The loss of the held-out rows at this l2. */
  readonly loss: number;
  /** Each fold's model at this l2, if it is still in memory: keeping those of every trial would take too much. */
  readonly parameters: readonly Float64Array[] | null;
}

/** Which l2 to try: the whole grid, those near one that is known to be good, or a single one. */
export type L2Candidates = "all" | { readonly nearbyL2: number } | { readonly fixedL2: number };

/** The trials go from `maxL2` down to `minL2` in steps of `L2_GRID_RATIO`. */
interface L2Range {
  readonly maxL2: number;
  readonly minL2: number;
  readonly minTrials: number;
  readonly maxTrials: number;
}

function l2Range({ design, targets, gramStatistics }: CrossValidationData, candidates: L2Candidates): L2Range {
  const minL2 = design.sparse === null ? 0 : MIN_L2_WITH_SPARSE;
  if (candidates === "all") {
    const maxL2 = MAX_L2[targets.kind] * typicalSquareRatio(gramStatistics);
    return { maxL2, minL2, minTrials: MIN_L2_TRIALS, maxTrials: MAX_L2_TRIALS };
  }
  if ("fixedL2" in candidates) return { maxL2: candidates.fixedL2, minL2, minTrials: 1, maxTrials: 1 };
  const { nearbyL2 } = candidates;
  return {
    maxL2: Math.min(Math.max(NEARBY_L2_RATIO * nearbyL2, 1), NEARBY_L2_RATIO),
    minL2: Math.min(minL2, nearbyL2),
    minTrials: MIN_NEARBY_L2_TRIALS,
    maxTrials: MAX_NEARBY_L2_TRIALS,
  };
}

/**
 * The l2 (in the design's scale) that predicts held-out rows best: the strongest whose loss is within 1 % of the least.
 * For labels the loss is the log loss at its own best temperature, because a head is calibrated afterwards; for values
 * it is the squared error. (Selecting by accuracy, which the evaluation reports, would make that figure too high.) The
 * trials go from strong to weak, each fit starts from the previous one, and they stop two trials after the least loss.
 */
export function* selectL2(
  tensors: TensorBackend,
  data: CrossValidationData,
  foldCount: number,
  candidates: L2Candidates = "all",
): Steps<L2Selection> {
  const { maxL2, minL2, minTrials, maxTrials } = l2Range(data, candidates);
  const criteria = {
    tolerance: SELECTION_TOLERANCE,
    maxEvaluations: fitEvaluationLimits(workload(data.design, data.outputs)).selection,
  };
  const trials: { readonly l2: number; readonly loss: number }[] = [];
  let best: L2Selection = { l2: maxL2, loss: Number.POSITIVE_INFINITY, parameters: null };
  let lowestLoss = Number.POSITIVE_INFINITY;
  let warmStarts: readonly Float64Array[] | null = null;
  let preconditioner: Preconditioner | null = null;
  let l2 = maxL2;
  const shouldContinue = (i: number, trialsSinceBest: number) =>
    i === 0 || (i < maxTrials && l2 >= minL2 && (i < minTrials || trialsSinceBest < 2));
  for (let i = 0, trialsSinceBest = 0; shouldContinue(i, trialsSinceBest); i++, l2 /= L2_GRID_RATIO) {
    // Two trials share one, for the l2 between theirs: another step of L-BFGS costs less than another inversion.
    if (preconditioner === null || i % 2 === 0) {
      if (preconditioner !== null) freePreconditioner(tensors, preconditioner);
      const between = { ...data, l2: l2 / Math.sqrt(L2_GRID_RATIO) };
      preconditioner = yield* makePreconditioner(tensors, between, data.gramStatistics);
    }
    const fit: HeldOutFit = yield* fitFolds(tensors, data, { foldCount, l2, preconditioner, warmStarts, criteria });
    // A fit that stopped early generalises as if its penalty were stronger, so its loss is not that of this l2.
    if (!fit.converged && i > 0) break;
    warmStarts = fit.parameters;
    const loss: number = yield* heldOutLoss(data.targets, fit.heldOut);
    trialsSinceBest = loss < lowestLoss ? 0 : trialsSinceBest + 1;
    lowestLoss = Math.min(lowestLoss, loss);
    trials.push({ l2, loss });
    // If no loss is finite, the strongest l2 stays the best.
    const strongest = trials.find((each) => each.loss <= LOSS_TIE_RATIO * lowestLoss) ?? best;
    if (strongest.l2 === l2) best = { ...strongest, parameters: fit.parameters };
    else if (strongest.l2 !== best.l2) best = { ...strongest, parameters: null };
  }
  if (preconditioner !== null) freePreconditioner(tensors, preconditioner);
  return best;
}

/** A column whose sum of squares is a smaller share of the mean is constant apart from rounding. */
const CONSTANT_COLUMN_RATIO = 1e-10;

/**
 * How the mean square of most columns compares with that of all, at most 1. If a few columns or rows are larger by
 * orders of magnitude, the penalties that suit the others are smaller by this ratio. Usual embeddings give 1.
 */
function typicalSquareRatio({ diagonal }: GramStatistics): number {
  const mean = diagonal.reduce((sum, square) => sum + square, 0) / diagonal.length;
  const sorted = diagonal.filter((square) => square > CONSTANT_COLUMN_RATIO * mean).sort();
  const median = sorted[Math.floor(sorted.length / 2)];
  return median === undefined ? 1 : Math.min(1, (10 * median) / mean);
}

function* heldOutLoss(targets: Targets, heldOut: HeldOutLogits): Steps<number> {
  if (targets.kind === "value") {
    return heldOut.rows.reduce(
      (sum, row, entry) => sum + ((targets.values[row] as number) - (heldOut.logits[entry] as number)) ** 2,
      0,
    );
  }
  const all = Array.from(heldOut.rows.keys());
  const isInScope = (entry: number) =>
    targets.kind === "multi" || (targets.indices[heldOut.rows[entry] as number] as number) >= 0;
  const entries = all.filter(isInScope);
  const temperature = yield* fitTemperature(targets, heldOut, entries);
  yield entries.length * heldOut.outputs * OPERATIONS_PER_LOGIT;
  return heldOutLogLoss(targets, heldOut, entries, temperature);
}
