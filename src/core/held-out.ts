/** Fits that leave folds out: the logits of every held-out row, and the l2 that predicts held-out rows best. */
import { fitTemperature, type HeldOut, heldOutLogLoss } from "./calibration.ts";
import type { Design } from "./design.ts";
import { fitHead, startingPoint } from "./fit.ts";
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

/** Close enough to the optimum to rank what is held out: its effect on held-out log loss is far below its standard error. */
const TOLERANCE = 1e-3;
const STRONGEST = { single: 10, multi: 10, value: 1000 } as const;
const STEP = Math.sqrt(10);
const GRID = 12;

export interface HeldOutFit {
  readonly held: HeldOut;
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
): Generator<number, HeldOutFit, void> {
  const { design, targets, outputs, folds } = data;
  const rows = Int32Array.from(
    Array.from(folds.keys()).filter((row) => (folds[row] as number) >= 0 && (folds[row] as number) < count),
  );
  const place = new Map(Array.from(rows, (row, at) => [row, at]));
  const logits = new Float32Array(rows.length * outputs);
  const parameters: Float64Array[] = [];
  for (let fold = 0; fold < count; fold++) {
    const weights = data.weights.map((weight, row) => (folds[row] === fold ? 0 : weight));
    const problem: Problem = { design, targets, outputs, weights, l2 };
    const minimum = yield* fitHead(tensors, problem, data.gram, starts?.[fold] ?? startingPoint(problem), TOLERANCE);
    parameters.push(minimum.parameters);
    yield* eachLogits(tensors, design, outputs, minimum.parameters, (first, height, values) => {
      for (let i = 0; i < height; i++) {
        if (folds[first + i] !== fold) continue;
        logits.set(values.subarray(i * outputs, (i + 1) * outputs), (place.get(first + i) as number) * outputs);
      }
    });
  }
  return { held: { rows, logits, outputs }, parameters };
}

export interface Selection {
  readonly l2: number;
  readonly fit: HeldOutFit;
}

/**
 * The l2 (in the design's scale) with the least held-out loss: log loss at its own best temperature, since a
 * head is calibrated afterwards; squared error for regression. Goes from strong to weak, each fit starting from the one before, and
 * stops two steps past the best.
 */
export function* selectL2(tensors: Tensors, data: Splittable, count: number): Generator<number, Selection, void> {
  let best: (Selection & { loss: number }) | null = null;
  let starts: readonly Float64Array[] | null = null;
  let l2: number = STRONGEST[data.targets.kind];
  for (let i = 0, since = 0; i < GRID && since < 2; i++, l2 /= STEP) {
    const result: HeldOutFit = yield* fitFolds(tensors, data, count, l2, starts);
    starts = result.parameters;
    const loss = heldOutLoss(data.targets, result.held);
    if (best === null || loss < best.loss) {
      best = { l2, fit: result, loss };
      since = 0;
    } else since++;
  }
  if (best === null) throw new Error("The grid of l2 is empty.");
  return best;
}

function heldOutLoss(targets: Targets, held: HeldOut): number {
  if (targets.kind === "value") {
    return held.rows.reduce(
      (sum, row, at) => sum + ((targets.values[row] as number) - (held.logits[at] as number)) ** 2,
      0,
    );
  }
  const entries = Array.from(held.rows.keys()).filter(
    (at) => targets.kind === "multi" || (targets.indices[held.rows[at] as number] as number) >= 0,
  );
  return heldOutLogLoss(targets, held, entries, fitTemperature(targets, held, entries));
}
