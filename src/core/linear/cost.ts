/** What a training does for a set of a given shape, and what that costs at most. */
import { temperatureOperations } from "../evaluation/calibration.ts";
import { blockRows, type Design } from "./design.ts";
import { assessmentOperations, type Evaluation } from "../evaluation/evaluation.ts";
import { fitBytes } from "./fit.ts";
import type { Task } from "../head.ts";
import { stepOperations } from "./lbfgs.ts";
import { ELEMENTWISE_OPERATIONS, SPARSE_OPERATIONS } from "./objective.ts";
import { DENSE_DIMENSIONS, inversionOperations } from "./preconditioner.ts";
import { type Extent, reductionCost, worksInRows } from "./row-space.ts";
import { SPARSE_BYTES } from "./sparse.ts";
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
  return worksInRows({ rows: examples, dimensions, columns })
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
const OPERATIONS_A_TEXT_BYTE = 10_000;
/** Rows of the features that may be alive beside their copy. */
const FEATURE_BLOCK_ROWS = 2048;
/** Penalties that the choice of l2 may try. */
export const GRID = 11;
/** And where one is known that is near the best. */
export const NEAR_GRID = 6;
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
  const operations = DEFAULT_FOLDS * FIT_EVALUATIONS * evaluationOperations(largestWorkload(shape, options));
  return operations <= CROSS_VALIDATION_OPERATIONS ? "cross_validation" : "holdout";
}

/** One evaluation of the objective, and the step of L-BFGS around it. */
function evaluationOperations({ examples, dimensions, outputs, columns, entries }: Workload): number {
  const precondition = dimensions > DENSE_DIMENSIONS ? dimensions : 2 * dimensions ** 2;
  const parameters = (dimensions + columns + 1) * outputs;
  return (
    examples * outputs * (4 * (dimensions + 1) + ELEMENTWISE_OPERATIONS) +
    outputs * (precondition + columns + SPARSE_OPERATIONS * entries) +
    stepOperations(parameters)
  );
}

/** As much of the work as so many of its rows have. */
function part(work: Workload, rows: number): Workload {
  return { ...work, examples: rows, entries: work.entries * (rows / work.examples) };
}

/** How many rows and folds of them choose l2: the whole set and all folds while that is cheap. */
export function selectionPlan(work: Workload): { rows: number; folds: number } {
  const rows = work.examples;
  const evaluation = evaluationOperations(work);
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
export function evaluationLimits(work: Workload): { held: number; judged: number; final: number } {
  const evaluation = evaluationOperations(work);
  const within = (operations: number, least: number) =>
    Math.max(least, Math.min(500, Math.floor(operations / evaluation)));
  return { held: within(5e9, 20), judged: within(2e10, 60), final: within(1.2e11, 30) };
}

/** What a training within `budget` would cost at most, before it starts; the bytes include the features. */
export function estimate(shape: TrainingShape, options: Options, budget: Pick<Cost, "bytes">): Cost {
  const { examples } = shape;
  const most = largestWorkload(shape, options);
  const { dimensions } = most;
  const evaluation = evaluationOperations(most);
  const reduction = reductionCost(extent(shape, options));
  const { fits, plan, heldLogits } = work(shape, options);
  const gram = dimensions > DENSE_DIMENSIONS ? 0 : 2 * examples * dimensions ** 2;
  const inversion = dimensions > DENSE_DIMENSIONS ? 0 : inversionOperations(dimensions);
  const limits = evaluationLimits(most);
  // Beyond the fit: the logits of what is held out.
  const heldFit = (limits.judged + 2) * evaluation;
  const chosen = part(most, plan.rows);
  const trial = plan.folds * (evaluationLimits(chosen).held + 2);
  const triedLogits = plan.rows * shape.outputs;
  const penalty =
    trial * evaluationOperations(chosen) +
    inversion +
    temperatureOperations(triedLogits) +
    2 * triedLogits * ELEMENTWISE_OPERATIONS;
  const chooses = choosesLexical(shape, options);
  const trials = options.l2 === "auto" ? GRID + (chooses ? NEAR_GRID : 0) : 2;
  const selects = options.l2 === "auto" || chooses;
  const operations =
    OPERATIONS_A_TEXT_BYTE *
      ((shape.textBytes ?? 0) + (options.lexical === false ? 0 : (shape.lexical?.textBytes ?? 0))) +
    reduction.operations +
    (3 + fits) * gram +
    (2 + fits) * inversion +
    (selects ? trials * penalty : 0) +
    fits * heldFit +
    assessmentOperations(heldLogits, Math.max(3, fits)) +
    (Math.max(limits.judged, limits.final) + 1) * evaluation;

  const { least, transposes } = arrays(shape, options);
  const kept = keepsTransposes(shape, options, budget) ? transposes : 0;
  return { operations: Math.ceil(operations), bytes: Math.ceil(least + kept) };
}

/** What a training of this shape would cost, where that is more than the budget; else null. */
export function beyondBudget(shape: TrainingShape, options: Options, budget: Cost): Cost | null {
  const cost = estimate(shape, options, budget);
  return cost.bytes > budget.bytes || cost.operations > budget.operations ? cost : null;
}

function choosesLexical(shape: TrainingShape, { lexical }: Pick<Options, "lexical">): boolean {
  return lexical !== true && lexical !== false && !!shape.lexical;
}

function extent({ examples, dimensions, lexical }: TrainingShape, options: Pick<Options, "lexical">): Extent {
  const { columns, entries } = (options.lexical === false ? null : lexical) ?? { columns: 0, entries: 0 };
  return { rows: examples, dimensions, columns, entries };
}

/** Whether there is room to keep the design transposed as well, which the gradient needs, rather than transpose it each time. */
export function keepsTransposes(shape: TrainingShape, options: Options, budget: Pick<Cost, "bytes">): boolean {
  const { least, transposes } = arrays(shape, options);
  return least + transposes <= budget.bytes;
}

/** Bytes of arrays alive at once: what a training needs, and transposes that save it time. */
function arrays(shape: TrainingShape, options: Options) {
  const { examples, outputs } = shape;
  const { dimensions, columns } = largestWorkload(shape, options);
  const { fits, plan, heldLogits } = work(shape, options);
  const selects = options.l2 === "auto" || choosesLexical(shape, options);
  const reduction = reductionCost(extent(shape, options)).bytes;
  const design = 4 * examples * dimensions;
  const given = reduction === 0 ? 0 : 4 * examples * shape.dimensions;
  const sample = 4 * Math.min(examples, FEATURE_BLOCK_ROWS) * shape.dimensions;
  const lexical = options.lexical === false ? null : shape.lexical;
  const sparse = SPARSE_BYTES * (lexical?.entries ?? 0);
  const part = selects && plan.rows < examples ? plan.rows / examples : 0;
  const fit = fitBytes(dimensions, columns, outputs, blockRows(examples, dimensions, outputs));
  const models = (count: number) => 3 * 8 * (dimensions + columns + 1) * outputs * count;
  // The features' sparse rows are there twice while they are copied. Then l2 is chosen, on a copy of some rows where there are
  // many, of which the sparse ones are there three times while they are picked; then the head is judged and fitted.
  const copying = sample + 2 * sparse;
  const picking = part * design + (1 + 3 * part) * sparse;
  const choosing = sparse + part * (design + sparse) + 4 * plan.rows * outputs + models(plan.folds);
  const judging = sparse + 4 * heldLogits + models(Math.max(1, fits));
  const fitting = reduction + fit + Math.max(selects ? choosing : 0, judging);
  return {
    least: design + given + Math.max(copying, picking, fitting),
    transposes: design + given + part * design,
  };
}

/** How much a training does: models for held-out rows, the rows and folds that choose l2, and logits of held-out rows. */
function work(shape: TrainingShape, options: Options) {
  const { examples, outputs } = shape;
  const method = evaluationMethod(shape, options);
  const { folds = DEFAULT_FOLDS, fraction = 1 / DEFAULT_FOLDS } = options.evaluation;
  return {
    fits: method === "none" ? 0 : method === "holdout" ? 1 : folds,
    plan: selectionPlan(largestWorkload(shape, options)),
    heldLogits: outputs * (method === "none" ? 0 : method === "holdout" ? examples * fraction : examples),
  };
}
