/** What a training does for a set of a given shape, and what that costs at most. */
import { blockRows, designBytes } from "./design.ts";
import type { Evaluation } from "./evaluation.ts";
import { fitBytes } from "./fit.ts";
import type { Task } from "./head.ts";
import { ELEMENTWISE_OPERATIONS } from "./objective.ts";
import { DENSE_DIMENSIONS, SAMPLE_PER_DIMENSION } from "./preconditioner.ts";
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
 * What embedding a byte of text by a local backbone counts for: hash-text-1 takes 4 to 15 MB a second, by script, and
 * training does about 12 GFLOP.
 */
const OPERATIONS_A_TEXT_BYTE = 2000;
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
export function evaluationMethod(shape: TrainingShape, options: TrainingOptions): Evaluation["method"] {
  const { method } = options.evaluation;
  if (method !== "auto") return method;
  return DEFAULT_FOLDS * FIT_EVALUATIONS * evaluationOperations(shape) <= CROSS_VALIDATION_OPERATIONS
    ? "cross_validation"
    : "holdout";
}

function evaluationOperations({ examples, dimensions, outputs }: Omit<TrainingShape, "task">): number {
  return examples * outputs * (4 * (dimensions + 1) + ELEMENTWISE_OPERATIONS);
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
 * Evaluations of the objective that a fit may take, of a model for held-out rows and of the head itself: hundreds where
 * they are cheap; where they are dear, enough to come close, and the head says that it has not converged.
 */
export function evaluationLimits(rows: number, dimensions: number, outputs: number): { held: number; final: number } {
  const evaluation = evaluationOperations({ examples: rows, dimensions, outputs });
  const within = (operations: number, least: number) =>
    Math.max(least, Math.min(500, Math.floor(operations / evaluation)));
  return { held: within(5e9, 20), final: within(2e10, 60) };
}

/** What a training would cost at most, before it starts; the bytes include the features. */
export function estimate(shape: TrainingShape, options: Pick<TrainingOptions, "l2" | "evaluation">): Cost {
  const { examples, dimensions, outputs } = shape;
  const evaluation = evaluationOperations(shape);
  const method = evaluationMethod(shape, options as TrainingOptions);
  const fits = method === "none" ? 0 : method === "holdout" ? 1 : (options.evaluation.folds ?? DEFAULT_FOLDS);
  const plan = selectionPlan(examples, dimensions, outputs);
  const gram = dimensions > DENSE_DIMENSIONS ? 0 : 2 * examples * dimensions * dimensions + 6 * 11 * dimensions ** 3;
  const limits = evaluationLimits(examples, dimensions, outputs);
  // One evaluation more for the logits of what is held out, and for the steps between.
  const heldFit = (limits.final + 2) * evaluation;
  const tried = evaluationLimits(plan.rows, dimensions, outputs).held + 2;
  const selection = options.l2 === "auto" ? GRID * plan.folds * tried * evaluation * (plan.rows / examples) : 0;
  const embedding = OPERATIONS_A_TEXT_BYTE * (shape.textBytes ?? 0);
  const operations = embedding + 3 * gram + selection + fits * heldFit + (limits.final + 1) * evaluation;

  const design = designBytes(examples, dimensions);
  const sample = 4 * Math.min(examples, Math.max(FEATURE_BLOCK_ROWS, SAMPLE_PER_DIMENSION * dimensions)) * dimensions;
  const subset = options.l2 === "auto" && plan.rows < examples ? designBytes(plan.rows, dimensions) : 0;
  const held =
    4 *
    outputs *
    (method === "cross_validation"
      ? 2 * examples
      : method === "holdout"
        ? examples * (options.evaluation.fraction ?? 0.2)
        : plan.rows);
  const parameters = 8 * (dimensions + 1) * outputs * 3 * Math.max(1, fits);
  return {
    operations,
    bytes:
      design +
      Math.max(sample, subset) +
      held +
      parameters +
      fitBytes(dimensions, outputs, blockRows(examples, dimensions, outputs)),
  };
}
