/** Fits that leave folds out: the logits of every held-out row, and the l2 that predicts held-out rows best. */
import { fitTemperature, type HeldOutLogits, heldOutLogLoss } from "../evaluation/calibration.ts";
import type { TensorBackend } from "../tensors.ts";
import { fitEvaluationLimits, MAX_L2_TRIALS, MAX_NEARBY_L2_TRIALS, workload } from "./cost.ts";
import type { Design } from "./design.ts";
import {
  fitHead,
  freePreconditioner,
  initialParameters,
  makePreconditioner,
  type Preconditioner,
  type StoppingCriteria,
} from "./fit.ts";
import { type FitProblem, OPERATIONS_PER_LOGIT, type Targets, visitLogits } from "./objective.ts";
import { computeGramStatistics, type GramStatistics } from "./preconditioner.ts";

/** What folds are cut from. `weights` are zero for rows that are never trained on. */
export interface CrossValidationData {
  readonly design: Design;
  readonly gramStatistics: GramStatistics;
  readonly targets: Targets;
  readonly outputs: number;
  readonly weights: Float64Array;
  /** The fold in which each row is held out, or −1. */
  readonly folds: Int32Array;
}

/** Close enough to the optimum to rank penalties by what is held out. */
const SELECTION_TOLERANCE = 1e-2;
/** Close enough for the figures and the temperature to be those of the head itself. */
export const EVALUATION_TOLERANCE = 1e-3;
const MAX_L2 = { single: 100, multi: 100, value: 1000 } as const;
const L2_GRID_RATIO = Math.sqrt(10);
/** A penalty so strong that nothing is learnt has a flat loss, which must not pass for a minimum. */
const MIN_L2_TRIALS = 7;
/**
 * Sparse columns can tell nearly every row from every other, so weaker penalties go on for ever to fit rows that are right
 * already: none is tried, but where the dense columns alone asked for it.
 */
const MIN_L2_WITH_SPARSE = 0.1;
/** Where one is known to be near: how much stronger the first is, but itself from 1 to as much; and how many are tried at least. */
const NEARBY_L2_RATIO = 10;
const MIN_NEARBY_L2_TRIALS = 3;

export interface HeldOutFit {
  readonly heldOut: HeldOutLogits;
  /** Whether every fold's model came within the tolerance. */
  readonly converged: boolean;
  /** The parameters of each fold's model. */
  readonly parameters: readonly Float64Array[];
}

/**
 * Fits one model for each of the first `count` folds and collects the logits of the rows that it leaves out.
 * The preconditioner is that of all rows, and may be that of another l2, or "own": each fold's of the rows that it is
 * trained on. `starts` are the folds' own earlier parameters: never another fold's, which has seen these rows.
 */
export function* fitFolds(
  tensors: TensorBackend,
  data: CrossValidationData,
  foldCount: number,
  l2: number,
  preconditioner: Preconditioner | "own",
  warmStarts: readonly Float64Array[] | null,
  criteria: StoppingCriteria,
): Generator<number, HeldOutFit, void> {
  const { design, targets, outputs, folds } = data;
  const rows = Int32Array.from(
    Array.from(folds.keys()).filter((row) => (folds[row] as number) >= 0 && (folds[row] as number) < foldCount),
  );
  const rowIndex = new Map(Array.from(rows, (row, index) => [row, index]));
  const logits = new Float32Array(rows.length * outputs);
  const parameters: Float64Array[] = [];
  let converged = true;
  const { weights } = data;
  for (let fold = 0; fold < foldCount; fold++) {
    const trainWeights = weights.map((weight, row) => (folds[row] === fold ? 0 : weight));
    const problem: FitProblem = { design, targets, outputs, weights: trainWeights, l2 };
    const start = warmStarts?.[fold] ?? initialParameters(problem);
    const foldPreconditioner =
      preconditioner === "own" ? yield* makeFoldPreconditioner(tensors, problem, data.gramStatistics.seed) : null;
    const minimum = yield* fitHead(
      tensors,
      problem,
      foldPreconditioner ?? (preconditioner as Preconditioner),
      start,
      criteria,
    );
    if (foldPreconditioner !== null) freePreconditioner(tensors, foldPreconditioner);
    converged &&= minimum.converged;
    parameters.push(minimum.parameters);
    yield* visitLogits(tensors, design, outputs, minimum.parameters, (first, height, values) => {
      for (let i = 0; i < height; i++) {
        if (folds[first + i] !== fold) continue;
        logits.set(values.subarray(i * outputs, (i + 1) * outputs), (rowIndex.get(first + i) as number) * outputs);
      }
    });
  }
  return { heldOut: { rows, logits, outputs }, parameters, converged };
}

function* makeFoldPreconditioner(
  tensors: TensorBackend,
  problem: FitProblem,
  seed: number,
): Generator<number, Preconditioner, void> {
  const gramStatistics = yield* computeGramStatistics(tensors, problem.design, problem.weights, seed);
  return yield* makePreconditioner(tensors, problem, gramStatistics);
}

/** Rows a dimension from which on those of a fold may be preconditioned, and judged converged, as all are. */
const MIN_ROWS_PER_DIMENSION = 8;

/**
 * Whether folds need preconditioners of their own. Where rows are few for their dimensions, some directions are held-out
 * rows' alone: in all rows' metric a fold's model would seem to be at its optimum with nothing learnt along them.
 */
export function needsFoldPreconditioners(rows: number, dimensions: number): boolean {
  return rows < MIN_ROWS_PER_DIMENSION * dimensions;
}

export interface L2Selection {
  readonly l2: number;
  /** Of the held-out rows at this l2. */
  readonly loss: number;
  /** Each fold's model at this l2, where it is still at hand: keeping those of every penalty would take too much memory. */
  readonly parameters: readonly Float64Array[] | null;
}

/** Losses this close are the same for all that so many held-out rows can tell. */
export const LOSS_TIE_RATIO = 1.01;

/**
 * The l2 (in the design's scale) that predicts held-out rows best: the strongest whose loss is within 1 % of the least. The
 * loss is the log loss at its own best temperature, since a head is calibrated afterwards; squared error for regression.
 * (Choosing by labels right, which the head is judged by, would flatter the accuracy that is reported.) Goes from strong to
 * weak, each fit starting from the one before, and stops two steps past the least loss.
 *
 * @param among "all"; `{from}`, a penalty near which it lies; or `{only}`, the one that there is
 */
export function* selectL2(
  tensors: TensorBackend,
  data: CrossValidationData,
  foldCount: number,
  l2Candidates: "all" | { readonly nearbyL2: number } | { readonly fixedL2: number } = "all",
): Generator<number, L2Selection, void> {
  const trials: { readonly l2: number; readonly loss: number }[] = [];
  const maxL2 =
    l2Candidates === "all"
      ? MAX_L2[data.targets.kind] * typicalSquareRatio(data.gramStatistics)
      : "nearbyL2" in l2Candidates
        ? Math.min(Math.max(NEARBY_L2_RATIO * l2Candidates.nearbyL2, 1), NEARBY_L2_RATIO)
        : l2Candidates.fixedL2;
  const minTrials = l2Candidates === "all" ? MIN_L2_TRIALS : "nearbyL2" in l2Candidates ? MIN_NEARBY_L2_TRIALS : 1;
  const maxTrials = l2Candidates === "all" ? MAX_L2_TRIALS : "nearbyL2" in l2Candidates ? MAX_NEARBY_L2_TRIALS : 1;
  const nearbyL2 =
    l2Candidates !== "all" && "nearbyL2" in l2Candidates ? l2Candidates.nearbyL2 : Number.POSITIVE_INFINITY;
  const minL2 = data.design.sparse === null ? 0 : Math.min(MIN_L2_WITH_SPARSE, nearbyL2);
  let best: L2Selection = { l2: maxL2, loss: Number.POSITIVE_INFINITY, parameters: null };
  let lowestLoss = Number.POSITIVE_INFINITY;
  let warmStarts: readonly Float64Array[] | null = null;
  let l2 = maxL2;
  const criteria = {
    tolerance: SELECTION_TOLERANCE,
    maxEvaluations: fitEvaluationLimits(workload(data.design, data.outputs)).selection,
  };
  let preconditioner: Preconditioner | null = null;
  const shouldContinue = (i: number, trialsSinceBest: number) =>
    i === 0 || (i < maxTrials && l2 >= minL2 && (i < minTrials || trialsSinceBest < 2));
  for (let i = 0, trialsSinceBest = 0; shouldContinue(i, trialsSinceBest); i++, l2 /= L2_GRID_RATIO) {
    // One for two penalties, of what is between them: another step of L-BFGS costs less than another inversion.
    if (preconditioner === null || i % 2 === 0) {
      if (preconditioner !== null) freePreconditioner(tensors, preconditioner);
      preconditioner = yield* makePreconditioner(
        tensors,
        { ...data, l2: l2 / Math.sqrt(L2_GRID_RATIO) },
        data.gramStatistics,
      );
    }
    const fit: HeldOutFit = yield* fitFolds(tensors, data, foldCount, l2, preconditioner, warmStarts, criteria);
    // A model that stopped early generalises as if its penalty were stronger: it says nothing of this one.
    if (!fit.converged && i > 0) break;
    warmStarts = fit.parameters;
    const loss: number = yield* heldOutLoss(data.targets, fit.heldOut);
    trialsSinceBest = loss < lowestLoss ? 0 : trialsSinceBest + 1;
    lowestLoss = Math.min(lowestLoss, loss);
    trials.push({ l2, loss });
    // Where no loss is finite, none is better than the strongest.
    const candidate = trials.find((each) => each.loss <= LOSS_TIE_RATIO * lowestLoss) ?? best;
    if (candidate.l2 === l2) best = { ...candidate, parameters: fit.parameters };
    else if (candidate.l2 !== best.l2) best = { ...candidate, parameters: null };
  }
  if (preconditioner !== null) freePreconditioner(tensors, preconditioner);
  return best;
}

/** Columns whose square is a smaller part of the mean are constant but for rounding. */
const CONSTANT_COLUMN_RATIO = 1e-10;

/**
 * What most columns' mean square is of the mean of all, at most 1: where a few columns, or a few rows, are larger by orders
 * of magnitude, penalties that are right for the others are smaller by as much. Spectra as embeddings have them give 1.
 */
function typicalSquareRatio({ diagonal }: GramStatistics): number {
  const mean = diagonal.reduce((sum, square) => sum + square, 0) / diagonal.length;
  const sorted = diagonal.filter((square) => square > CONSTANT_COLUMN_RATIO * mean).sort();
  const median = sorted[Math.floor(sorted.length / 2)];
  return median === undefined ? 1 : Math.min(1, (10 * median) / mean);
}

function* heldOutLoss(targets: Targets, heldOut: HeldOutLogits): Generator<number, number, void> {
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
