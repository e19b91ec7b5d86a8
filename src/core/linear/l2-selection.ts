/** Selects the l2 that predicts held-out rows best. */
import { fitTemperature, type HeldOutLogits, heldOutLogLosses } from "../evaluation/calibration.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { chooseCandidate, type HeldOutLosses, lossesByUnit } from "./candidates.ts";
import { type CrossValidationData, type FoldModel, fitFolds, type HeldOutFit } from "./cross-validation.ts";
import type { GramStatistics } from "./gram.ts";
import { OPERATIONS_PER_LOGIT } from "./objective.ts";
import { freePreconditioner, makePreconditioner, type Preconditioner } from "./preconditioner.ts";
import type { Targets } from "./targets.ts";
import { FEW_ROWS, fitEvaluationLimits, workload } from "./workload.ts";

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
 * If a good l2 is known, the first trial is this many times as strong, but not below 1 nor above this number. There are so
 * many trials.
 */
const NEARBY_L2_RATIO = 10;
const MIN_NEARBY_L2_TRIALS = 3;
export const MAX_NEARBY_L2_TRIALS = 6;

/**
 * With few rows a weaker l2 is selected if its loss exceeds the least by at most so many standard errors: models of a part
 * of few rows are worse than the head and prefer a stronger l2 than it does.
 */
const L2_STANDARD_ERRORS = 0.5;
/** With many rows, a stronger one whose loss is within this ratio: a fit with it takes half the steps or fewer. */
const LOSS_TIE_RATIO = 1.01;

export interface L2Selection {
  readonly l2: number;
  /** The losses of the held-out rows at this l2. */
  readonly heldOut: HeldOutLosses;
  /** The share of them that are predicted correctly; null but for one label a row. */
  readonly accuracy: number | null;
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
 * The l2 (in the design's scale) that predicts held-out rows best by the mean over all repetitions of the folds, or one
 * that is as good as far as they can tell: a weaker one with few rows, a stronger one with many. For labels the loss is
 * the log loss at its own best temperature, because a head is calibrated afterwards; for values it is the squared error.
 * (Selecting by accuracy, which the evaluation reports, would make that figure too high.) The trials go from strong to
 * weak, each fit starts from the previous one, and they stop two trials after the least loss.
 */
export function* selectL2(
  tensors: TensorBackend,
  data: CrossValidationData,
  foldCount: number,
  candidates: L2Candidates = "all",
  maxEvaluations = Number.POSITIVE_INFINITY,
): Steps<L2Selection> {
  const { maxL2, minL2, minTrials, maxTrials } = l2Range(data, candidates);
  const affordable = fitEvaluationLimits(workload(data.design, data.outputs), foldCount * data.repetitions.length);
  const criteria = {
    tolerance: SELECTION_TOLERANCE,
    maxEvaluations: Math.min(maxEvaluations, affordable.selection),
  };
  // From strong to weak.
  const trials: Trial[] = [];
  let best: L2Selection = {
    l2: maxL2,
    heldOut: { losses: new Float64Array(0), mean: Number.NaN },
    accuracy: null,
    parameters: null,
  };
  let lowestLoss = Number.POSITIVE_INFINITY;
  let warmStarts: readonly FoldModel[] | null = null;
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
    warmStarts = fit.models;
    const heldOut: HeldOutLosses = yield* heldOutLosses(data, fit.heldOut);
    trialsSinceBest = heldOut.mean < lowestLoss ? 0 : trialsSinceBest + 1;
    lowestLoss = Math.min(lowestLoss, heldOut.mean);
    trials.push({ l2, heldOut, accuracy: heldOutAccuracy(data.targets, fit.heldOut) });
    const chosen = chooseTrial(trials, data.weights.length) ?? best;
    if (chosen.l2 === l2) best = { ...chosen, parameters: fit.models.map(({ parameters }) => parameters) };
    else if (chosen.l2 !== best.l2) best = { ...chosen, parameters: null };
  }
  if (preconditioner !== null) freePreconditioner(tensors, preconditioner);
  return best;
}

type Trial = Omit<L2Selection, "parameters">;

/** The best of the trials, which go from strong to weak. If no loss is finite, it is the strongest. */
function chooseTrial(trials: readonly Trial[], rows: number): Trial | undefined {
  const losses = trials.map(({ heldOut }) => heldOut.mean).filter(Number.isFinite);
  if (losses.length === 0) return trials[0];
  if (rows > FEW_ROWS) {
    const most = LOSS_TIE_RATIO * Math.min(...losses);
    return trials.find(({ heldOut }) => heldOut.mean <= most);
  }
  const weakestFirst = trials.toReversed();
  return weakestFirst[
    chooseCandidate(
      weakestFirst.map(({ heldOut }) => heldOut),
      L2_STANDARD_ERRORS,
    )
  ];
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

/** The losses of held-out rows: squared errors, or log losses at their best temperature. Out-of-scope rows have none. */
function* heldOutLosses({ targets, groups }: CrossValidationData, heldOut: HeldOutLogits): Steps<HeldOutLosses> {
  const all = Array.from(heldOut.rows.keys());
  const isInScope = (entry: number) =>
    targets.kind !== "single" || (targets.indices[heldOut.rows[entry] as number] as number) >= 0;
  const entries = all.filter(isInScope);
  const units = Int32Array.from(entries, (entry) => groups[heldOut.rows[entry] as number] as number);
  if (targets.kind === "value") {
    const errors = heldOut.logits.map(
      (value, entry) => (targets.values[heldOut.rows[entry] as number] as number) - value,
    );
    return lossesByUnit(
      units,
      Float64Array.from(errors, (error) => error ** 2),
    );
  }
  const temperature = yield* fitTemperature(targets, heldOut, entries);
  yield entries.length * heldOut.outputs * OPERATIONS_PER_LOGIT;
  return lossesByUnit(units, heldOutLogLosses(targets, heldOut, entries, temperature));
}

/** The share of held-out rows in scope that are predicted correctly; null but for one label a row. */
function heldOutAccuracy(targets: Targets, { rows, logits, outputs }: HeldOutLogits): number | null {
  if (targets.kind !== "single") return null;
  let [count, correct] = [0, 0];
  for (const [entry, row] of rows.entries()) {
    const target = targets.indices[row] as number;
    if (target < 0) continue;
    const start = entry * outputs;
    let best = 0;
    for (let k = 1; k < outputs; k++) if ((logits[start + k] as number) > (logits[start + best] as number)) best = k;
    count++;
    if (best === target) correct++;
  }
  return count === 0 ? null : correct / count;
}
