/** What a training does for a set of a given shape, and what that costs at most. */
import { temperatureOperations } from "./calibration.ts";
import { blockRows } from "./design.ts";
import { assessmentOperations, type Evaluation } from "./evaluation.ts";
import { fitBytes } from "./fit.ts";
import type { Task } from "./head.ts";
import { stepOperations } from "./minimise.ts";
import { ELEMENTWISE_OPERATIONS } from "./objective.ts";
import { DENSE_DIMENSIONS, inversionOperations } from "./preconditioner.ts";
import { reductionCost, workingDimensions } from "./row-space.ts";
import type { TrainingOptions } from "./train.ts";

/** What a training would cost at most. */
export interface Cost {
  readonly operations: number;
  readonly bytes: number;
}

export interface TrainingShape {
  readonly task: Task;
  readonly examples: number;
  readonly dimensions: number;
  readonly outputs: number;
  /** Text that a local backbone may have to embed first, in bytes of UTF-8. */
  readonly textBytes?: number;
}

export const DEFAULT_FOLDS = 5;
/**
 * What embedding a byte of text by a local backbone counts for: text-static-1 takes 0.8 to 5 MB a second, least where it
 * knows no word (bench/encode.ts), hash-text-1 more, and training does about 12 GFLOP.
 */
const OPERATIONS_A_TEXT_BYTE = 10_000;
/** Rows of the features that may be alive beside their copy. */
const FEATURE_BLOCK_ROWS = 2048;
/** Penalties that the choice of l2 may try. */
export const GRID = 11;
/** Operations that the choice of l2 should take, in so many evaluations of the objective for each fold. */
const SELECTION_OPERATIONS = 8e9;
const SELECTION_EVALUATIONS = 40;
/** Operations up to which `auto` evaluates by cross-validation, at ten evaluations a fit. */
const CROSS_VALIDATION_OPERATIONS = 1.5e10;
const FIT_EVALUATIONS = 10;

/** `auto` is cross-validation while that is cheap, then a holdout. */
export function evaluationMethod(
  shape: TrainingShape,
  options: Pick<TrainingOptions, "evaluation">,
): Evaluation["method"] {
  const { method } = options.evaluation;
  if (method !== "auto") return method;
  const dimensions = workingDimensions(shape.examples, shape.dimensions);
  const operations = DEFAULT_FOLDS * FIT_EVALUATIONS * evaluationOperations({ ...shape, dimensions });
  return operations <= CROSS_VALIDATION_OPERATIONS ? "cross_validation" : "holdout";
}

/** One evaluation of the objective, and the step of L-BFGS around it. */
function evaluationOperations({ examples, dimensions, outputs }: Omit<TrainingShape, "task">): number {
  const precondition = dimensions > DENSE_DIMENSIONS ? dimensions : 2 * dimensions ** 2;
  const parameters = (dimensions + 1) * outputs;
  return (
    examples * outputs * (4 * (dimensions + 1) + ELEMENTWISE_OPERATIONS) +
    outputs * precondition +
    stepOperations(parameters)
  );
}

/** How many rows and folds of them choose l2: the whole set and all folds while that is cheap. */
export function selectionPlan(rows: number, dimensions: number, outputs: number): { rows: number; folds: number } {
  const evaluation = evaluationOperations({ examples: rows, dimensions, outputs });
  const operations = Math.max(SELECTION_OPERATIONS, FIT_EVALUATIONS * evaluation);
  const affordable = (operations / (SELECTION_EVALUATIONS * evaluation)) * rows;
  // Half of the rows or more would be a copy of them for little gain.
  if (affordable >= rows / 2)
    return { rows, folds: Math.max(1, Math.min(DEFAULT_FOLDS, Math.floor(affordable / rows))) };
  return { rows: Math.min(rows, Math.max(Math.ceil(affordable), 4 * outputs, 500)), folds: 1 };
}

/**
 * Evaluations of the objective that a fit may take: hundreds where they are cheap; where they are dear, enough to come close,
 * and the head says that it has not converged. `held`: a model that a penalty is chosen by; `judged`: one that the
 * evaluation judges, or the head itself where nothing was evaluated; `final`: the head, from where the judged ones ended.
 */
export function evaluationLimits(
  rows: number,
  dimensions: number,
  outputs: number,
): { held: number; judged: number; final: number } {
  const evaluation = evaluationOperations({ examples: rows, dimensions, outputs });
  const within = (operations: number, least: number) =>
    Math.max(least, Math.min(500, Math.floor(operations / evaluation)));
  return { held: within(5e9, 20), judged: within(2e10, 60), final: within(1.2e11, 30) };
}

/** What a training within `budget` would cost at most, before it starts; the bytes include the features. */
export function estimate(
  shape: TrainingShape,
  options: Pick<TrainingOptions, "l2" | "evaluation">,
  budget: Pick<Cost, "bytes">,
): Cost {
  const { examples, outputs } = shape;
  const dimensions = workingDimensions(examples, shape.dimensions);
  const evaluation = evaluationOperations({ examples, dimensions, outputs });
  const reduction = reductionCost(examples, shape.dimensions);
  const { fits, plan, heldLogits } = work(shape, options);
  const gram = dimensions > DENSE_DIMENSIONS ? 0 : 2 * examples * dimensions ** 2;
  const inversion = dimensions > DENSE_DIMENSIONS ? 0 : inversionOperations(dimensions);
  const limits = evaluationLimits(examples, dimensions, outputs);
  // Beyond the fit: the logits of what is held out.
  const heldFit = (limits.judged + 2) * evaluation;
  const trial = plan.folds * (evaluationLimits(plan.rows, dimensions, outputs).held + 2);
  const triedLogits = plan.rows * outputs;
  const penalty =
    trial * evaluationOperations({ examples: plan.rows, dimensions, outputs }) +
    inversion +
    temperatureOperations(triedLogits) +
    2 * triedLogits * ELEMENTWISE_OPERATIONS;
  const operations =
    OPERATIONS_A_TEXT_BYTE * (shape.textBytes ?? 0) +
    reduction.operations +
    (3 + fits) * gram +
    (2 + fits) * inversion +
    (options.l2 === "auto" ? GRID * penalty : 0) +
    fits * heldFit +
    assessmentOperations(heldLogits, Math.max(3, fits)) +
    (Math.max(limits.judged, limits.final) + 1) * evaluation;

  const { least, transposes } = arrays(shape, options);
  const kept = keepsTransposes(shape, options, budget) ? transposes : 0;
  return { operations: Math.ceil(operations), bytes: Math.ceil(least + kept) };
}

/** Whether there is room to keep the design transposed as well, which the gradient needs, rather than transpose it each time. */
export function keepsTransposes(
  shape: TrainingShape,
  options: Pick<TrainingOptions, "l2" | "evaluation">,
  budget: Pick<Cost, "bytes">,
): boolean {
  const { least, transposes } = arrays(shape, options);
  return least + transposes <= budget.bytes;
}

/** Bytes of arrays alive at once: what a training needs, and transposes that save it time. */
function arrays(shape: TrainingShape, options: Pick<TrainingOptions, "l2" | "evaluation">) {
  const { examples, outputs } = shape;
  const dimensions = workingDimensions(examples, shape.dimensions);
  const { fits, plan, heldLogits } = work(shape, options);
  const chooses = options.l2 === "auto";
  const reduction = reductionCost(examples, shape.dimensions).bytes;
  const design = 4 * examples * dimensions;
  const given = reduction === 0 ? 0 : 4 * examples * shape.dimensions;
  const sample = 4 * Math.min(examples, FEATURE_BLOCK_ROWS) * shape.dimensions;
  const subset = chooses && plan.rows < examples ? 4 * plan.rows * dimensions : 0;
  const held = 4 * (heldLogits + (chooses ? plan.rows * outputs : 0));
  const models = Math.max(1, fits, chooses ? plan.folds : 0);
  const parameters = 3 * 8 * (dimensions + 1) * outputs * models;
  const fit = fitBytes(dimensions, outputs, blockRows(examples, dimensions, outputs));
  return {
    least: design + given + reduction + Math.max(sample, subset) + held + parameters + fit,
    transposes: design + given + subset,
  };
}

/** How much a training does: models for held-out rows, the rows and folds that choose l2, and logits of held-out rows. */
function work(shape: TrainingShape, options: Pick<TrainingOptions, "l2" | "evaluation">) {
  const { examples, outputs } = shape;
  const method = evaluationMethod(shape, options);
  const { folds = DEFAULT_FOLDS, fraction = 1 / DEFAULT_FOLDS } = options.evaluation;
  return {
    fits: method === "none" ? 0 : method === "holdout" ? 1 : folds,
    plan: selectionPlan(examples, workingDimensions(examples, shape.dimensions), outputs),
    heldLogits: outputs * (method === "none" ? 0 : method === "holdout" ? examples * fraction : examples),
  };
}
