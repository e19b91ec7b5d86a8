/** What a training of a given shape costs at most, before it starts. */
import { temperatureOperations } from "../evaluation/calibration.ts";
import { heldOutEvaluationOperations } from "../evaluation/evaluate-held-out.ts";
import type { Evaluation } from "../evaluation/evaluation.ts";
import { logisticOperations } from "../evaluation/logistic.ts";
import { powerLawOperations } from "../evaluation/power-law.ts";
import { labelErrorOperations } from "../labels/label-errors.ts";
import { OPERATIONS_PER_COPIED_NUMBER } from "../steps.ts";
import { distanceCost } from "./class-centroids.ts";
import { type RowPrecision, rowsPerBlock } from "./design.ts";
import { fitBytes } from "./fit.ts";
import { MAX_GRAM_DIMENSIONS } from "./gram.ts";
import { MAX_L2_TRIALS, MAX_NEARBY_L2_TRIALS } from "./l2-selection.ts";
import { type CurvePlan, curvePlans } from "./learning-curve.ts";
import { OPERATIONS_PER_LOGIT } from "./objective.ts";
import { inversionOperations } from "./preconditioner.ts";
import { type DesignShape, rowSpaceCost, usesRowSpace } from "./row-space.ts";
import { sketchCost } from "./sketch-rows.ts";
import { BYTES_PER_SPARSE_ENTRY } from "./sparse.ts";
import { DEFAULT_FOLDS } from "./split.ts";
import type { Cost, TrainingOptions, TrainingShape } from "./types.ts";
import {
  EVALUATIONS_PER_FIT,
  fitEvaluationLimits,
  maxHoldOuts,
  objectiveOperations,
  scaleToRows,
  selectionPlan,
  type Workload,
} from "./workload.ts";

/** The options that change what a training costs. */
export type CostOptions = Pick<TrainingOptions, "l2" | "evaluation" | "lexical">;

/**
 * Operations counted for a byte of text that a local backbone embeds, and for one that is read for lexical features.
 * text-static-1 takes 0.8 to 5 MB a second, least if it knows no word (bench/encode.ts), hash-text-1 takes more, and
 * training does about 12 GFLOP a second.
 */
export const OPERATIONS_PER_TEXT_BYTE = 10_000;
/** How often the rows are read or copied outside products at most: for the design, its statistics and a subsample. */
const COPIES_PER_TRAINING = 14;
/** For the statistics of a fold, and where a fit starts. */
const COPIES_PER_FIT = 4;
/** Rows of the embeddings that may be alive beside their copy. */
const FEATURE_BLOCK_ROWS = 2048;
/** `auto` cross-validates if that takes at most so many operations, at `EVALUATIONS_PER_FIT` evaluations a fit. */
const CROSS_VALIDATION_OPERATIONS = 1.5e10;

/** The largest problem that a training of this shape fits: that with lexical features, unless there must be none. */
function largestWorkload(
  { examples, dimensions, outputs, lexical }: TrainingShape,
  options: Pick<CostOptions, "lexical">,
): Workload {
  const { columns, entries } = (options.lexical === false ? null : lexical) ?? { columns: 0, entries: 0 };
  return usesRowSpace({ rows: examples, dimensions, columns })
    ? { examples, dimensions: examples, outputs, columns: 0, entries: 0 }
    : { examples, dimensions, outputs, columns, entries };
}

/** How a training evaluates: `auto` is cross-validation while that is cheap, then a holdout. */
export function evaluationMethod(
  shape: TrainingShape,
  options: Pick<CostOptions, "evaluation" | "lexical">,
): Evaluation["method"] {
  const { method } = options.evaluation;
  if (method !== "auto") return method;
  const operations = DEFAULT_FOLDS * EVALUATIONS_PER_FIT * objectiveOperations(largestWorkload(shape, options));
  return operations <= CROSS_VALIDATION_OPERATIONS ? "cross_validation" : "holdout";
}

/**
 * What a training costs at most, with rows of that precision. The bytes include the embeddings.
 *
 * @param curve its learning curve; a training beyond the budget goes without (`affordableCurve`)
 */
export function estimateCost(
  shape: TrainingShape,
  options: CostOptions,
  precision: RowPrecision = "float32",
  curve: CurvePlan | null = null,
): Cost {
  const { examples } = shape;
  const largest = largestWorkload(shape, options);
  const { dimensions } = largest;
  const evaluation = objectiveOperations(largest);
  const { fits, plan, heldOutLogits } = trainingPlan(shape, options);
  const selectionFits = needsSelection(shape, options) ? plan.folds * plan.repetitions : 0;
  const copies = (COPIES_PER_TRAINING + COPIES_PER_FIT * (fits + selectionFits)) * examples;
  const gram = dimensions > MAX_GRAM_DIMENSIONS ? 0 : 2 * examples * dimensions ** 2;
  const inversion = dimensions > MAX_GRAM_DIMENSIONS ? 0 : inversionOperations(dimensions);
  const limits = fitEvaluationLimits(largest);
  // Three more than the fit takes, for the logits of the held-out rows and of those trained on.
  const foldOperations = (limits.evaluation + 3) * evaluation;
  const curveFits = curve === null ? [] : curve.shares.map((share) => ({ share, count: fits * curve.repetitions }));
  const curveOperations = curveFits.reduce((sum, { share, count }) => {
    const copied = 2 * COPIES_PER_FIT * OPERATIONS_PER_COPIED_NUMBER * examples * shape.dimensions;
    // The gradients of fewer rows, with the steps around them; the logits are those of all rows.
    const fit = limits.evaluation * objectiveOperations(scaleToRows(largest, Math.ceil(share * examples)));
    return sum + count * (copied + share * gram + inversion + fit + evaluation);
  }, 0);
  const operations =
    OPERATIONS_PER_TEXT_BYTE *
      ((shape.textBytes ?? 0) + (options.lexical === false ? 0 : (shape.lexical?.textBytes ?? 0))) +
    rowSpaceCost(designShape(shape, options)).operations +
    OPERATIONS_PER_COPIED_NUMBER * copies * shape.dimensions +
    (3 + fits) * gram +
    (2 + fits) * inversion +
    selectionOperations(shape, options, inversion) +
    fits * foldOperations +
    heldOutEvaluationOperations(heldOutLogits, Math.max(3, fits)) +
    (options.evaluation.detail === "full" ? labelErrorOperations(heldOutLogits) : 0) +
    curveOperations +
    powerLawOperations(1 + (curve?.shares.length ?? 0), curve === null ? 0 : heldOutLogits / shape.outputs) +
    scopeCost(shape, options).operations +
    sketchCost(shape.examples, shape.dimensions).operations +
    (Math.max(limits.evaluation, limits.final) + 1) * evaluation;

  return { operations: Math.ceil(operations), bytes: Math.ceil(arrayBytes(shape, options, precision, curve)) };
}

/** What measuring the distances of held-out rows costs (class-centroids.ts), and fitting the score (scope-fit.ts). */
function scopeCost(shape: TrainingShape, options: CostOptions): Cost {
  const { task, examples, dimensions, outputs } = shape;
  const { fits, heldOutLogits } = trainingPlan(shape, options);
  if (task !== "single_label" || fits === 0) return { operations: 0, bytes: 0 };
  const heldOut = heldOutLogits / outputs;
  const { operations, bytes } = distanceCost({ rows: examples, dimensions, labels: outputs, folds: fits, heldOut });
  // Once for each part, of which a holdout has two, and for the head.
  return { operations: operations + (Math.max(2, fits) + 1) * logisticOperations(heldOut), bytes };
}

/** Operations of selecting l2 and whether to use lexical features. */
function selectionOperations(shape: TrainingShape, options: CostOptions, inversion: number): number {
  if (!needsSelection(shape, options)) return 0;
  const { plan } = trainingPlan(shape, options);
  const work = scaleToRows(largestWorkload(shape, options), plan.rows);
  const evaluationsPerTrial =
    plan.folds * plan.repetitions * (fitEvaluationLimits(work, plan.folds * plan.repetitions).selection + 2);
  const logits = plan.rows * maxHoldOuts(plan) * shape.outputs;
  const operationsPerTrial =
    evaluationsPerTrial * objectiveOperations(work) +
    inversion +
    temperatureOperations(logits) +
    2 * logits * OPERATIONS_PER_LOGIT;
  const trials = options.l2 === "auto" ? MAX_L2_TRIALS + (isLexicalAuto(shape, options) ? MAX_NEARBY_L2_TRIALS : 0) : 2;
  return trials * operationsPerTrial;
}

/**
 * The precision of a training's rows: 8 bits only where the budget has no room for 32-bit floats. Null beyond the
 * budget.
 */
export function rowPrecision(shape: TrainingShape, options: CostOptions, budget: Cost): RowPrecision | null {
  for (const precision of ["float32", "int8"] as const) {
    const cost = estimateCost(shape, options, precision);
    const isExcessive = cost.bytes > budget.bytes || cost.operations > budget.operations;
    // The cost of no examples is NaN, which no budget refuses: the training itself refuses them.
    if (!isExcessive) return precision;
  }
  return null;
}

/** The largest learning curve that a training has room for beside all else, or null: with rows of that precision. */
export function affordableCurve(
  shape: TrainingShape,
  options: CostOptions,
  budget: Cost,
  precision: RowPrecision,
): CurvePlan | null {
  const { detail = "summary" } = options.evaluation;
  const { fits } = trainingPlan(shape, options);
  if (fits === 0 || shape.task === "regression") return null;
  const isAffordable = (plan: CurvePlan) => {
    const { bytes, operations } = estimateCost(shape, options, precision, plan);
    return bytes <= budget.bytes && operations <= budget.operations;
  };
  return curvePlans(detail, fits).find(isAffordable) ?? null;
}

/** The least cost of a training of this shape if it is over the budget, else null. */
export function costIfOverBudget(shape: TrainingShape, options: CostOptions, budget: Cost): Cost | null {
  return rowPrecision(shape, options, budget) === null ? estimateCost(shape, options, "int8") : null;
}

function isLexicalAuto(shape: TrainingShape, { lexical }: Pick<CostOptions, "lexical">): boolean {
  return lexical !== true && lexical !== false && !!shape.lexical;
}

function needsSelection(shape: TrainingShape, options: CostOptions): boolean {
  return options.l2 === "auto" || isLexicalAuto(shape, options);
}

function designShape(
  { examples, dimensions, lexical }: TrainingShape,
  options: Pick<CostOptions, "lexical">,
): DesignShape {
  const { columns, entries } = (options.lexical === false ? null : lexical) ?? { columns: 0, entries: 0 };
  return { rows: examples, dimensions, columns, entries };
}

/** Bytes of arrays alive at once. */
function arrayBytes(
  shape: TrainingShape,
  options: CostOptions,
  precision: RowPrecision,
  curve: CurvePlan | null,
): number {
  const { examples, outputs } = shape;
  const { dimensions, columns } = largestWorkload(shape, options);
  const { fits, plan, heldOutLogits } = trainingPlan(shape, options);
  const selects = needsSelection(shape, options);
  const reductionBytes = rowSpaceCost(designShape(shape, options)).bytes;
  const rowBytes = (width: number) => (precision === "int8" ? width + 4 : 4 * width);
  const originalDesignBytes = reductionBytes === 0 ? 0 : examples * rowBytes(shape.dimensions);
  // The rows in the row space are not quantised.
  const designBytes = reductionBytes === 0 ? examples * rowBytes(dimensions) : 4 * examples * dimensions;
  const featureBlockBytes = 4 * Math.min(examples, FEATURE_BLOCK_ROWS) * shape.dimensions;
  const lexical = options.lexical === false ? null : shape.lexical;
  const sparseBytes = BYTES_PER_SPARSE_ENTRY * (lexical?.entries ?? 0);
  const selectionShare = selects && plan.rows < examples ? plan.rows / examples : 0;
  const headFitBytes = fitBytes(dimensions, columns, outputs, rowsPerBlock(examples, dimensions, outputs));
  // Models of the trial that is fitted, of the one before and of the best; the first two with their gradients.
  const modelBytes = (count: number) => (3 * 8 + 2 * 4) * (dimensions + columns + 1) * outputs * count;
  // The phases, one after another. First the sparse rows are copied, a block at a time; twice their bytes are more than
  // enough. Then a copy of some rows
  // may select l2, and its sparse rows exist three times while they are picked. Then the folds or the head are fitted.
  const copyBytes = featureBlockBytes + 2 * sparseBytes;
  const subsetDesignBytes = selectionShare * designBytes;
  const subsetBytes = subsetDesignBytes + (1 + 3 * selectionShare) * sparseBytes;
  const selectionBytes =
    sparseBytes +
    subsetDesignBytes +
    selectionShare * sparseBytes +
    4 * plan.rows * maxHoldOuts(plan) * outputs +
    modelBytes(plan.folds * plan.repetitions);
  // The rows of the largest sample of the learning curve, what they are picked from, and beside the preconditioner of its
  // fit the one of all rows, with their Gram matrix.
  const curveShare = curve?.shares.at(-1) ?? 0;
  const preconditionerBytes = curve === null || dimensions > MAX_GRAM_DIMENSIONS ? 0 : 2 * 4 * dimensions ** 2;
  const curveBytes = curveShare * (designBytes + 3 * sparseBytes) + preconditionerBytes;
  const evaluationBytes = sparseBytes + 4 * heldOutLogits + modelBytes(Math.max(1, fits)) + curveBytes;
  const trainingBytes =
    reductionBytes +
    headFitBytes +
    Math.max(selects ? selectionBytes : 0, evaluationBytes) +
    scopeCost(shape, options).bytes +
    sketchCost(shape.examples, shape.dimensions).bytes;
  return designBytes + originalDesignBytes + Math.max(copyBytes, subsetBytes, trainingBytes);
}

/**
 * How many fits hold rows out for the evaluation, the rows and folds that select l2, and the logits of held-out rows.
 */
function trainingPlan(shape: TrainingShape, options: CostOptions) {
  const { examples, outputs } = shape;
  const method = evaluationMethod(shape, options);
  const { folds = DEFAULT_FOLDS, fraction = 1 / DEFAULT_FOLDS } = options.evaluation;
  return {
    fits: method === "none" ? 0 : method === "holdout" ? 1 : folds,
    plan: selectionPlan(largestWorkload(shape, options)),
    heldOutLogits: outputs * (method === "none" ? 0 : method === "holdout" ? examples * fraction : examples),
  };
}
