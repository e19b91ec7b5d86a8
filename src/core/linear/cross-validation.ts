/** Fits that leave folds out: the logits of every held-out row, and the l2 that predicts held-out rows best. */
import { fitTemperature, type HeldOut, heldOutLogLoss } from "../evaluation/calibration.ts";
import { evaluationLimits, GRID, NEAR_GRID, workload } from "./cost.ts";
import type { Design } from "./design.ts";
import {
  type Bounds,
  fitHead,
  freePreconditioner,
  makePreconditioner,
  type Preconditioner,
  startingPoint,
} from "./fit.ts";
import { ELEMENTWISE_OPERATIONS, eachLogits, type Problem, type Targets } from "./objective.ts";
import { measureSpread, type Spread } from "./preconditioner.ts";
import type { Tensors } from "../tensors.ts";

/** What folds are cut from. `weights` are zero for rows that are never trained on. */
export interface Splittable {
  readonly design: Design;
  readonly spread: Spread;
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
const STRONGEST = { single: 100, multi: 100, value: 1000 } as const;
const STEP = Math.sqrt(10);
/** A penalty so strong that nothing is learnt has a flat loss, which must not pass for a minimum. */
const ALWAYS_TRIED = 7;
/**
 * Sparse columns can tell nearly every row from every other, so weaker penalties go on for ever to fit rows that are right
 * already: none is tried, but where the dense columns alone asked for it.
 */
const WEAKEST_BESIDE_SPARSE = 0.1;
/** Where one is known to be near: how much stronger the first is, but itself from 1 to as much; and how many are tried at least. */
const AROUND = 10;
const TRIED_AROUND = 3;

export interface HeldOutFit {
  readonly held: HeldOut;
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
  tensors: Tensors,
  data: Splittable,
  count: number,
  l2: number,
  preconditioner: Preconditioner | "own",
  starts: readonly Float64Array[] | null,
  bounds: Bounds,
): Generator<number, HeldOutFit, void> {
  const { design, targets, outputs, folds } = data;
  const rows = Int32Array.from(
    Array.from(folds.keys()).filter((row) => (folds[row] as number) >= 0 && (folds[row] as number) < count),
  );
  const place = new Map(Array.from(rows, (row, at) => [row, at]));
  const logits = new Float32Array(rows.length * outputs);
  const parameters: Float64Array[] = [];
  let converged = true;
  const { weights } = data;
  for (let fold = 0; fold < count; fold++) {
    const trainedOn = weights.map((weight, row) => (folds[row] === fold ? 0 : weight));
    const problem: Problem = { design, targets, outputs, weights: trainedOn, l2 };
    const start = starts?.[fold] ?? startingPoint(problem);
    const own = preconditioner === "own" ? yield* ownPreconditioner(tensors, problem, data.spread.seed) : null;
    const minimum = yield* fitHead(tensors, problem, own ?? (preconditioner as Preconditioner), start, bounds);
    if (own !== null) freePreconditioner(tensors, own);
    converged &&= minimum.converged;
    parameters.push(minimum.parameters);
    yield* eachLogits(tensors, design, outputs, minimum.parameters, (first, height, values) => {
      for (let i = 0; i < height; i++) {
        if (folds[first + i] !== fold) continue;
        logits.set(values.subarray(i * outputs, (i + 1) * outputs), (place.get(first + i) as number) * outputs);
      }
    });
  }
  return { held: { rows, logits, outputs }, parameters, converged };
}

function* ownPreconditioner(tensors: Tensors, problem: Problem, seed: number): Generator<number, Preconditioner, void> {
  const spread = yield* measureSpread(tensors, problem.design, problem.weights, seed);
  return yield* makePreconditioner(tensors, problem, spread);
}

/** Rows a dimension from which on those of a fold may be preconditioned, and judged converged, as all are. */
const ALIKE = 8;

/**
 * Whether folds need preconditioners of their own. Where rows are few for their dimensions, some directions are held-out
 * rows' alone: in all rows' metric a fold's model would seem to be at its optimum with nothing learnt along them.
 */
export function foldsDiffer(rows: number, dimensions: number): boolean {
  return rows < ALIKE * dimensions;
}

export interface Selection {
  readonly l2: number;
  /** Of the held-out rows at this l2. */
  readonly loss: number;
  /** Each fold's model at this l2, where it is still at hand: keeping those of every penalty would take too much memory. */
  readonly parameters: readonly Float64Array[] | null;
}

/** Losses this close are the same for all that so many held-out rows can tell. */
export const SAME = 1.01;

/**
 * The l2 (in the design's scale) that predicts held-out rows best: the strongest whose loss is within 1 % of the least. The
 * loss is the log loss at its own best temperature, since a head is calibrated afterwards; squared error for regression.
 * (Choosing by labels right, which the head is judged by, would flatter the accuracy that is reported.) Goes from strong to
 * weak, each fit starting from the one before, and stops two steps past the least loss.
 *
 * @param among "all"; `{from}`, a penalty near which it lies; or `{only}`, the one that there is
 */
export function* selectL2(
  tensors: Tensors,
  data: Splittable,
  count: number,
  among: "all" | { readonly from: number } | { readonly only: number } = "all",
): Generator<number, Selection, void> {
  const tried: { readonly l2: number; readonly loss: number }[] = [];
  const strongest =
    among === "all"
      ? STRONGEST[data.targets.kind] * commonSquare(data.spread)
      : "from" in among
        ? Math.min(Math.max(AROUND * among.from, 1), AROUND)
        : among.only;
  const least = among === "all" ? ALWAYS_TRIED : "from" in among ? TRIED_AROUND : 1;
  const most = among === "all" ? GRID : "from" in among ? NEAR_GRID : 1;
  const asked = among !== "all" && "from" in among ? among.from : Number.POSITIVE_INFINITY;
  const weakest = data.design.sparse === null ? 0 : Math.min(WEAKEST_BESIDE_SPARSE, asked);
  let best: Selection = { l2: strongest, loss: Number.POSITIVE_INFINITY, parameters: null };
  let lowest = Number.POSITIVE_INFINITY;
  let starts: readonly Float64Array[] | null = null;
  let l2 = strongest;
  const bounds = {
    tolerance: SELECTION_TOLERANCE,
    maxEvaluations: evaluationLimits(workload(data.design, data.outputs)).held,
  };
  let preconditioner: Preconditioner | null = null;
  const goesOn = (i: number, since: number) => i === 0 || (i < most && l2 >= weakest && (i < least || since < 2));
  for (let i = 0, since = 0; goesOn(i, since); i++, l2 /= STEP) {
    // One for two penalties, of what is between them: another step of L-BFGS costs less than another inversion.
    if (preconditioner === null || i % 2 === 0) {
      if (preconditioner !== null) freePreconditioner(tensors, preconditioner);
      preconditioner = yield* makePreconditioner(tensors, { ...data, l2: l2 / Math.sqrt(STEP) }, data.spread);
    }
    const fit: HeldOutFit = yield* fitFolds(tensors, data, count, l2, preconditioner, starts, bounds);
    // A model that stopped early generalises as if its penalty were stronger: it says nothing of this one.
    if (!fit.converged && i > 0) break;
    starts = fit.parameters;
    const loss: number = yield* lossOf(data.targets, fit.held);
    since = loss < lowest ? 0 : since + 1;
    lowest = Math.min(lowest, loss);
    tried.push({ l2, loss });
    // Where no loss is finite, none is better than the strongest.
    const chosen = tried.find((each) => each.loss <= SAME * lowest) ?? best;
    if (chosen.l2 === l2) best = { ...chosen, parameters: fit.parameters };
    else if (chosen.l2 !== best.l2) best = { ...chosen, parameters: null };
  }
  if (preconditioner !== null) freePreconditioner(tensors, preconditioner);
  return best;
}

/** Columns whose square is a smaller part of the mean are constant but for rounding. */
const CONSTANT = 1e-10;

/**
 * What most columns' mean square is of the mean of all, at most 1: where a few columns, or a few rows, are larger by orders
 * of magnitude, penalties that are right for the others are smaller by as much. Spectra as embeddings have them give 1.
 */
function commonSquare({ squares }: Spread): number {
  const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length;
  const sorted = squares.filter((square) => square > CONSTANT * mean).sort();
  const median = sorted[Math.floor(sorted.length / 2)];
  return median === undefined ? 1 : Math.min(1, (10 * median) / mean);
}

function* lossOf(targets: Targets, held: HeldOut): Generator<number, number, void> {
  if (targets.kind === "value") {
    return held.rows.reduce(
      (sum, row, at) => sum + ((targets.values[row] as number) - (held.logits[at] as number)) ** 2,
      0,
    );
  }
  const all = Array.from(held.rows.keys());
  const inScope = (at: number) => targets.kind === "multi" || (targets.indices[held.rows[at] as number] as number) >= 0;
  const entries = all.filter(inScope);
  const temperature = yield* fitTemperature(targets, held, entries);
  yield entries.length * held.outputs * ELEMENTWISE_OPERATIONS;
  return heldOutLogLoss(targets, held, entries, temperature);
}
