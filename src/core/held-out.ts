/** Fits that leave folds out: the logits of every held-out row, and the l2 that predicts held-out rows best. */
import { fitTemperature, type HeldOut, heldOutLogLoss } from "./calibration.ts";
import { evaluationLimits, GRID } from "./cost.ts";
import type { Design } from "./design.ts";
import { type Bounds, fitHead, freePreconditioner, makePreconditioner, startingPoint } from "./fit.ts";
import { eachLogits, type Problem, type Targets } from "./objective.ts";
import type { Tensors } from "./tensors.ts";

/** What folds are cut from. `weights` are zero for rows that are never trained on. */
export interface Splittable {
  readonly design: Design;
  readonly gram: Float32Array;
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

export interface HeldOutFit {
  readonly held: HeldOut;
  /** Whether every fold's model came within the tolerance. */
  readonly converged: boolean;
  /** The parameters of each fold's model. */
  readonly parameters: readonly Float64Array[];
}

/**
 * Fits one model for each of the first `count` folds and collects the logits of the rows that it leaves out.
 * `starts` are the folds' own earlier parameters: never another fold's, which has seen these rows.
 */
export function* fitFolds(
  tensors: Tensors,
  data: Splittable,
  count: number,
  l2: number,
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
  const preconditioner = yield* makePreconditioner(tensors, { design, targets, outputs, weights, l2 }, data.gram);
  for (let fold = 0; fold < count; fold++) {
    const trainedOn = weights.map((weight, row) => (folds[row] === fold ? 0 : weight));
    const problem: Problem = { design, targets, outputs, weights: trainedOn, l2 };
    const start = starts?.[fold] ?? startingPoint(problem);
    const minimum = yield* fitHead(tensors, problem, preconditioner, start, bounds);
    converged &&= minimum.converged;
    parameters.push(minimum.parameters);
    yield* eachLogits(tensors, design, outputs, minimum.parameters, (first, height, values) => {
      for (let i = 0; i < height; i++) {
        if (folds[first + i] !== fold) continue;
        logits.set(values.subarray(i * outputs, (i + 1) * outputs), (place.get(first + i) as number) * outputs);
      }
    });
  }
  freePreconditioner(tensors, preconditioner);
  return { held: { rows, logits, outputs }, parameters, converged };
}

export interface Selection {
  readonly l2: number;
  readonly fit: HeldOutFit;
}

/** Losses this close are the same for all that so many held-out rows can tell. */
const SAME = 1.01;

/**
 * The l2 (in the design's scale) that predicts held-out rows best: of those whose loss is within 1 % of the least, the one
 * with most labels right, and of those the strongest. The loss is the log loss at its own best temperature, since a head is calibrated
 * afterwards; squared error for regression. Goes from strong to weak, each fit starting from the one before, and
 * stops two steps past the least loss.
 */
export function* selectL2(tensors: Tensors, data: Splittable, count: number): Generator<number, Selection, void> {
  let kept: (Selection & Score)[] = [];
  let least = Number.POSITIVE_INFINITY;
  let starts: readonly Float64Array[] | null = null;
  let l2: number = STRONGEST[data.targets.kind];
  let strongest: Selection | null = null;
  const { rows, dimensions } = data.design;
  const bounds = {
    tolerance: SELECTION_TOLERANCE,
    maxEvaluations: evaluationLimits(rows, dimensions, data.outputs).held,
  };
  for (let i = 0, since = 0; i < GRID && (i < ALWAYS_TRIED || since < 2); i++, l2 /= STEP) {
    const fit: HeldOutFit = yield* fitFolds(tensors, data, count, l2, starts, bounds);
    // A model that stopped early generalises as if its penalty were stronger: it says nothing of this one.
    if (!fit.converged && strongest !== null) break;
    starts = fit.parameters;
    const score = scoreOf(data.targets, fit.held);
    strongest ??= { l2, fit };
    since = score.loss < least ? 0 : since + 1;
    least = Math.min(least, score.loss);
    kept = [...kept, { l2, fit, ...score }].filter(({ loss }) => loss <= SAME * least);
  }
  // Where no loss is finite, no penalty is better than the strongest.
  if (kept.length === 0 && strongest !== null) return strongest;
  return kept.reduce((best, each) => (each.hits > best.hits ? each : best));
}

interface Score {
  readonly loss: number;
  readonly hits: number;
}

function scoreOf(targets: Targets, held: HeldOut): Score {
  if (targets.kind === "value") {
    const errors = Array.from(held.rows, (row, at) => (targets.values[row] as number) - (held.logits[at] as number));
    return { loss: errors.reduce((sum, error) => sum + error * error, 0), hits: 0 };
  }
  const all = Array.from(held.rows.keys());
  const entries = targets.kind === "single" ? all.filter((at) => targetOf(targets.indices, held, at) >= 0) : all;
  const loss = heldOutLogLoss(targets, held, entries, fitTemperature(targets, held, entries));
  if (targets.kind === "multi") return { loss, hits: 0 };
  return { loss, hits: entries.filter((at) => topLabel(held, at) === targetOf(targets.indices, held, at)).length };
}

function targetOf(indices: Int32Array, held: HeldOut, at: number): number {
  return indices[held.rows[at] as number] as number;
}

function topLabel(held: HeldOut, at: number): number {
  const logits = held.logits.subarray(at * held.outputs, (at + 1) * held.outputs);
  return logits.indexOf(Math.max(...logits));
}
