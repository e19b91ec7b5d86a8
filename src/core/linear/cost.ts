/** What a training does for a set of a given shape, and what that costs at most. */
import { temperatureOperations } from "../evaluation/calibration.ts";
import { type Evaluation, heldOutEvaluationOperations } from "../evaluation/evaluation.ts";
import type { Task } from "../head.ts";
import { type Design, rowsPerBlock } from "./design.ts";
import { fitBytes } from "./fit.ts";
import { stepOperations } from "./lbfgs.ts";
import { OPERATIONS_PER_LOGIT, OPERATIONS_PER_SPARSE_ENTRY } from "./objective.ts";
import { inversionOperations, MAX_GRAM_DIMENSIONS } from "./preconditioner.ts";
import { type DesignShape, rowSpaceCost, usesRowSpace } from "./row-space.ts";
import { BYTES_PER_SPARSE_ENTRY } from "./sparse.ts";
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
  /**
   * Lexical features: how many columns they have, numbers at most, and text to be read for them first, in bytes of UTF-8;
   * null where there are none or none are wanted.
   */
  readonly lexical?: { readonly columns: number; readonly entries: number; readonly textBytes?: number } | null;
}

type Options = Pick<TrainingOptions, "l2" | "evaluation" | "lexical">;

/** What an evaluation of the objective goes over. */
export interface Workload {
  readonly examples: number;
  /** Dense ones: the features', or those of the rows' span. */
  readonly dimensions: number;
  readonly outputs: number;
  /** Sparse columns, and the numbers in them. */
  readonly columns: number;
  readonly entries: number;
}

export function workload({ rows, dimensions, sparse }: Design, outputs: number): Workload {
  const entries = (sparse?.blocks ?? []).reduce((sum, block) => sum + block.entries, 0);
  return { examples: rows, dimensions, outputs, columns: sparse?.columns ?? 0, entries };
}

/** The work on a set of this shape with its lexical features or without. */
function shapeWorkload({ examples, dimensions, outputs, lexical }: TrainingShape, withLexical: boolean): Workload {
  const { columns, entries } = (withLexical ? lexical : null) ?? { columns: 0, entries: 0 };
  return usesRowSpace({ rows: examples, dimensions, columns })
    ? { examples, dimensions: examples, outputs, columns: 0, entries: 0 }
    : { examples, dimensions, outputs, columns, entries };
}

/** The larger of the workloads that a training may have: that with lexical features, unless there are to be none. */
function largestWorkload(shape: TrainingShape, { lexical }: Pick<Options, "lexical">): Workload {
  return shapeWorkload(shape, lexical !== false);
}

export const DEFAULT_FOLDS = 5;
/**
 * What embedding a byte of text by a local backbone counts for, and reading one for lexical features as well: text-static-1 takes 0.8 to 5 MB a second, least where it
 * knows no word (bench/encode.ts), hash-text-1 more, and training does about 12 GFLOP.
 */
const OPERATIONS_PER_TEXT_BYTE = 10_000;
/** Rows of the features that may be alive beside their copy. */
const FEATURE_BLOCK_ROWS = 2048;
/** Penalties that the choice of l2 may try. */
export const MAX_L2_TRIALS = 11;
/** And where one is known that is near the best. */
export const MAX_NEARBY_L2_TRIALS = 6;
/** Operations that the choice of l2 should take, in so many evaluations of the objective for each fold. */
const SELECTION_OPERATIONS = 8e9;
const SELECTION_EVALUATIONS = 40;
/** Operations up to which `auto` evaluates by cross-validation, at ten evaluations a fit. */
const CROSS_VALIDATION_OPERATIONS = 1.5e10;
const FIT_EVALUATIONS = 10;

/** `auto` is cross-validation while that is cheap, then a holdout. */
export function evaluationMethod(
  shape: TrainingShape,
  options: Pick<Options, "evaluation" | "lexical">,
): Evaluation["method"] {
  const { method } = options.evaluation;
  if (method !== "auto") return method;
  const operations = DEFAULT_FOLDS * FIT_EVALUATIONS * objectiveOperations(largestWorkload(shape, options));
  return operations <= CROSS_VALIDATION_OPERATIONS ? "cross_validation" : "holdout";
}

/** One evaluation of the objective, and the step of L-BFGS around it. */
function objectiveOperations({ examples, dimensions, outputs, columns, entries }: Workload): number {
  const preconditionOperations = dimensions > MAX_GRAM_DIMENSIONS ? dimensions : 2 * dimensions ** 2;
  const parameters = (dimensions + columns + 1) * outputs;
  return (
    examples * outputs * (4 * (dimensions + 1) + OPERATIONS_PER_LOGIT) +
    outputs * (preconditionOperations + columns + OPERATIONS_PER_SPARSE_ENTRY * entries) +
    stepOperations(parameters)
  );
}

/** As much of the work as so many of its rows have. */
function scaleToRows(work: Workload, rows: number): Workload {
  return { ...work, examples: rows, entries: work.entries * (rows / work.examples) };
}

/** How many rows and folds of them choose l2: the whole set and all folds while that is cheap. */
export function selectionPlan(work: Workload): { rows: number; folds: number } {
  const rows = work.examples;
  const evaluation = objectiveOperations(work);
  const operations = Math.max(SELECTION_OPERATIONS, FIT_EVALUATIONS * evaluation);
  const affordable = (operations / (SELECTION_EVALUATIONS * evaluation)) * rows;
  // Half of the rows or more would be a copy of them for little gain.
  if (affordable >= rows / 2)
    return { rows, folds: Math.max(1, Math.min(DEFAULT_FOLDS, Math.floor(affordable / rows))) };
  return { rows: Math.min(rows, Math.max(Math.ceil(affordable), 4 * work.outputs, 500)), folds: 1 };
}

/**
 * Evaluations of the objective that a fit may take: hundreds where they are cheap; where they are dear, enough to come close,
 * and the head says that it has not converged. `held`: a model that a penalty is chosen by; `judged`: one that the
 * evaluation judges, or the head itself where nothing was evaluated; `final`: the head, from where the judged ones ended.
 */
export function fitEvaluationLimits(work: Workload): { selection: number; evaluation: number; final: number } {
  const evaluation = objectiveOperations(work);
  const limitFor = (operations: number, minimum: number) =>
    Math.max(minimum, Math.min(500, Math.floor(operations / evaluation)));
  return { selection: limitFor(5e9, 20), evaluation: limitFor(2e10, 60), final: limitFor(1.2e11, 30) };
}

/** What a training within `budget` would cost at most, before it starts; the bytes include the features. */
export function estimateCost(shape: TrainingShape, options: Options, budget: Pick<Cost, "bytes">): Cost {
  const { examples } = shape;
  const largest = largestWorkload(shape, options);
  const { dimensions } = largest;
  const evaluation = objectiveOperations(largest);
  const reduction = rowSpaceCost(designShape(shape, options));
  const { fits, plan, heldOutLogits } = trainingPlan(shape, options);
  const gram = dimensions > MAX_GRAM_DIMENSIONS ? 0 : 2 * examples * dimensions ** 2;
  const inversion = dimensions > MAX_GRAM_DIMENSIONS ? 0 : inversionOperations(dimensions);
  const limits = fitEvaluationLimits(largest);
  // Beyond the fit: the logits of what is held out.
  const foldOperations = (limits.evaluation + 2) * evaluation;
  const selectionWork = scaleToRows(largest, plan.rows);
  const evaluationsPerPenalty = plan.folds * (fitEvaluationLimits(selectionWork).selection + 2);
  const selectionLogits = plan.rows * shape.outputs;
  const operationsPerPenalty =
    evaluationsPerPenalty * objectiveOperations(selectionWork) +
    inversion +
    temperatureOperations(selectionLogits) +
    2 * selectionLogits * OPERATIONS_PER_LOGIT;
  const lexicalIsAuto = isLexicalAuto(shape, options);
  const trials = options.l2 === "auto" ? MAX_L2_TRIALS + (lexicalIsAuto ? MAX_NEARBY_L2_TRIALS : 0) : 2;
  const needsSelection = options.l2 === "auto" || lexicalIsAuto;
  const operations =
    OPERATIONS_PER_TEXT_BYTE *
      ((shape.textBytes ?? 0) + (options.lexical === false ? 0 : (shape.lexical?.textBytes ?? 0))) +
    reduction.operations +
    (3 + fits) * gram +
    (2 + fits) * inversion +
    (needsSelection ? trials * operationsPerPenalty : 0) +
    fits * foldOperations +
    heldOutEvaluationOperations(heldOutLogits, Math.max(3, fits)) +
    (Math.max(limits.evaluation, limits.final) + 1) * evaluation;

  const { required, transposes } = arrayBytes(shape, options);
  const cached = canCacheTransposes(shape, options, budget) ? transposes : 0;
  return { operations: Math.ceil(operations), bytes: Math.ceil(required + cached) };
}

/** What a training of this shape would cost, where that is more than the budget; else null. */
export function costIfOverBudget(shape: TrainingShape, options: Options, budget: Cost): Cost | null {
  const cost = estimateCost(shape, options, budget);
  return cost.bytes > budget.bytes || cost.operations > budget.operations ? cost : null;
}

function isLexicalAuto(shape: TrainingShape, { lexical }: Pick<Options, "lexical">): boolean {
  return lexical !== true && lexical !== false && !!shape.lexical;
}

function designShape({ examples, dimensions, lexical }: TrainingShape, options: Pick<Options, "lexical">): DesignShape {
  const { columns, entries } = (options.lexical === false ? null : lexical) ?? { columns: 0, entries: 0 };
  return { rows: examples, dimensions, columns, entries };
}

/** Whether there is room to keep the design transposed as well, which the gradient needs, rather than transpose it each time. */
export function canCacheTransposes(shape: TrainingShape, options: Options, budget: Pick<Cost, "bytes">): boolean {
  const { required, transposes } = arrayBytes(shape, options);
  return required + transposes <= budget.bytes;
}

/** Bytes of arrays alive at once: what a training needs, and transposes that save it time. */
function arrayBytes(shape: TrainingShape, options: Options) {
  const { examples, outputs } = shape;
  const { dimensions, columns } = largestWorkload(shape, options);
  const { fits, plan, heldOutLogits } = trainingPlan(shape, options);
  const needsSelection = options.l2 === "auto" || isLexicalAuto(shape, options);
  const reductionBytes = rowSpaceCost(designShape(shape, options)).bytes;
  const designBytes = 4 * examples * dimensions;
  const originalDesignBytes = reductionBytes === 0 ? 0 : 4 * examples * shape.dimensions;
  const featureBlockBytes = 4 * Math.min(examples, FEATURE_BLOCK_ROWS) * shape.dimensions;
  const lexical = options.lexical === false ? null : shape.lexical;
  const sparseBytes = BYTES_PER_SPARSE_ENTRY * (lexical?.entries ?? 0);
  const selectionShare = needsSelection && plan.rows < examples ? plan.rows / examples : 0;
  const headFitBytes = fitBytes(dimensions, columns, outputs, rowsPerBlock(examples, dimensions, outputs));
  const modelBytes = (count: number) => 3 * 8 * (dimensions + columns + 1) * outputs * count;
  // The features' sparse rows are there twice while they are copied. Then l2 is chosen, on a copy of some rows where there are
  // many, of which the sparse ones are there three times while they are picked; then the head is judged and fitted.
  const copyBytes = featureBlockBytes + 2 * sparseBytes;
  const subsetBytes = selectionShare * designBytes + (1 + 3 * selectionShare) * sparseBytes;
  const selectionBytes =
    sparseBytes + selectionShare * (designBytes + sparseBytes) + 4 * plan.rows * outputs + modelBytes(plan.folds);
  const evaluationBytes = sparseBytes + 4 * heldOutLogits + modelBytes(Math.max(1, fits));
  const trainingBytes = reductionBytes + headFitBytes + Math.max(needsSelection ? selectionBytes : 0, evaluationBytes);
  return {
    required: designBytes + originalDesignBytes + Math.max(copyBytes, subsetBytes, trainingBytes),
    transposes: designBytes + originalDesignBytes + selectionShare * designBytes,
  };
}

/** How much a training does: models for held-out rows, the rows and folds that choose l2, and logits of held-out rows. */
function trainingPlan(shape: TrainingShape, options: Options) {
  const { examples, outputs } = shape;
  const method = evaluationMethod(shape, options);
  const { folds = DEFAULT_FOLDS, fraction = 1 / DEFAULT_FOLDS } = options.evaluation;
  return {
    fits: method === "none" ? 0 : method === "holdout" ? 1 : folds,
    plan: selectionPlan(largestWorkload(shape, options)),
    heldOutLogits: outputs * (method === "none" ? 0 : method === "holdout" ? examples * fraction : examples),
  };
}
