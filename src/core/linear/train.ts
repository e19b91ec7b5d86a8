/** Trains a head: chooses l2, evaluates on held-out examples, calibrates, and fits on everything. */

import { type Evaluation, type EvaluationResult, evaluateHeldOut, noEvaluation } from "../evaluation/evaluation.ts";
import { fail, ok, type Result } from "../failure.ts";
import { type Head, quantiseLexical, type Task } from "../head.ts";
import type { Matrix, SparseMatrix, TensorBackend } from "../tensors.ts";
import type { LexicalFeatures, LexicalVocabulary } from "../text/lexical.ts";
import {
  canCacheTransposes,
  costIfOverBudget,
  DEFAULT_FOLDS,
  evaluationMethod,
  fitEvaluationLimits,
  selectionPlan,
  type TrainingShape,
  workload,
} from "./cost.ts";
import {
  type CrossValidationData,
  EVALUATION_TOLERANCE,
  fitFolds,
  type L2Selection,
  LOSS_TIE_RATIO,
  needsFoldPreconditioners,
  selectL2,
} from "./cross-validation.ts";
import { type Design, freeDesign, freeSparseDesign, makeDesign } from "./design.ts";
import { fitHead, initialParameters, makePreconditioner } from "./fit.ts";
import type { LbfgsResult } from "./lbfgs.ts";
import type { FitProblem, Targets } from "./objective.ts";
import { computeGramStatistics, type GramStatistics } from "./preconditioner.ts";
import { expandFromRowSpace, freeRowSpaceBasis, type RowSpaceBasis, reduceToRowSpace } from "./row-space.ts";
import { ALWAYS_TRAINED, holdoutFolds, stratifiedFolds } from "./split.ts";
import { subsample } from "./subsample.ts";

export interface TrainingSet {
  readonly task: Task;
  readonly dimensions: number;
  /** Empty for regression. */
  readonly labels: readonly string[];
  /** Row blocks in order, each rows × dimensions. A training frees them as it copies them; the caller frees them in any case. */
  readonly features: readonly Matrix[];
  /**
   * single: a label's index for each row, −1 for an out-of-scope row, which is never trained on and only sets the threshold;
   * multi: label indices for each row; value: the value of each row.
   */
  readonly targets: Targets;
  /** Rows of one group hold the same input: a split never separates them. */
  readonly groups: Int32Array;
  /** The texts' lexical features; null where the inputs are no texts, or a head is to have none. */
  readonly lexical?: LexicalFeatures | null;
}

export interface TrainingOptions {
  /** λ in Σ s_i ℓ_i + (λ/2)‖W‖², on the features as given: scikit-learn's 1 / C, and Ridge's alpha. */
  readonly l2: "auto" | number;
  readonly classWeight: "balanced" | null;
  readonly seed: number;
  /** Whether the head reads words as well as embeddings, where the set has lexical features: `auto` (the default) asks held-out examples. */
  readonly lexical?: "auto" | boolean;
  /** `folds` of cross-validation (5 by default), `fraction` of a holdout (0.2 by default). */
  readonly evaluation: {
    readonly method: "auto" | "cross_validation" | "holdout" | "none";
    readonly folds?: number;
    readonly fraction?: number;
  };
  /** Floating-point operations, and bytes of arrays alive at once. */
  readonly budget: { readonly operations: number; readonly bytes: number };
  /** Bound of the estimated relative gap (f − f*) / f at which a fit stops. */
  readonly tolerance?: number;
  /**
   * Called after each step of the final fit on all rows, with the objective, which never rises, and the operations done so
   * far.
   */
  readonly onStep?: (objective: number, operations: number) => void;
}

export interface TrainingSummary {
  readonly examples: number;
  readonly iterations: number;
  readonly converged: boolean;
  readonly objective: number;
  readonly l2: number;
  readonly temperature: number;
  readonly lexical: boolean;
  readonly operations: number;
}

export interface TrainingResult {
  readonly head: Head;
  readonly training: TrainingSummary;
  readonly evaluation: Evaluation;
}

/**
 * The true gap is at most about twice the estimate, so this leaves it below 1e-4 (bench/train.ts); but for penalties so weak
 * that the head is certain of nearly every row, where the curvature that the estimate goes by is gone.
 */
export const DEFAULT_TOLERANCE = 5e-5;
/** How much sooner a fit stops that has sparse columns: thousands of them take many steps for what changes hardly any prediction. */
const SPARSE_TOLERANCE_FACTOR = 4;

/**
 * Trains a head on `set`. A generator: it yields the floating-point operations done since its last yield, some tens of
 * milliseconds apart, so that the caller can let others in, count, or stop it; `return()` frees everything. The same set, options and
 * backend give the same bytes.
 *
 * Fails with `too_few_labels`, `too_few_examples`, `invalid_features` (a number that is not finite) or `edge_budget_exceeded`
 * (before any work, with `details: {estimate, budget}`).
 */
export function* train(
  tensors: TensorBackend,
  trainingSet: TrainingSet,
  options: TrainingOptions,
): Generator<number, Result<TrainingResult>, void> {
  const allocated = new Set<Matrix | SparseMatrix>();
  const track = <T extends Matrix | SparseMatrix>(matrix: T): T => {
    allocated.add(matrix);
    return matrix;
  };
  const trackedBackend: TensorBackend = {
    ...tensors,
    matrix: (rows, columns, values) => track(tensors.matrix(rows, columns, values)),
    multiply: (a, b) => track(tensors.multiply(a, b)),
    transpose: (a) => track(tensors.transpose(a)),
    sparseMatrix: (rows, columns) => track(tensors.sparseMatrix(rows, columns)),
    free(matrix) {
      tensors.free(matrix);
      allocated.delete(matrix);
    },
  };
  let operations = 0;
  try {
    const onStep = (objective: number) => options.onStep?.(objective, operations);
    const steps = runTraining(trackedBackend, trainingSet, options, onStep);
    for (let step = steps.next(); ; step = steps.next()) {
      if (step.done) {
        if (!step.value.ok) return step.value;
        const { head, training, evaluation } = step.value.value;
        return ok({ head, training: { ...training, operations }, evaluation });
      }
      operations += step.value;
      if (operations > options.budget.operations) {
        return fail("edge_budget_exceeded", "This training took more operations than a request may.", {
          details: { estimate: { operations, bytes: 0 }, budget: options.budget },
        });
      }
      yield step.value;
    }
  } finally {
    for (const matrix of allocated) tensors.free(matrix);
  }
}

function* runTraining(
  tensors: TensorBackend,
  trainingSet: TrainingSet,
  options: TrainingOptions,
  onStep: (objective: number) => void,
): Generator<number, Result<TrainingResult>, void> {
  const { task, dimensions, labels } = trainingSet;
  const outputs = task === "regression" ? 1 : labels.length;
  const rows = trainingSet.groups.length;
  const failure = validateTrainingSet(trainingSet, options);
  if (failure !== null) return failure;
  const { targets, offset } = centreTargets(trainingSet.targets);
  const lexical = options.lexical === false ? null : (trainingSet.lexical ?? null);
  const shape: TrainingShape = {
    task,
    examples: rows,
    dimensions,
    outputs,
    lexical,
  };
  const excessCost = costIfOverBudget(shape, options, options.budget);
  if (excessCost !== null) {
    return fail("edge_budget_exceeded", "This training is larger than a request may be.", {
      details: { estimate: excessCost, budget: options.budget },
    });
  }

  const weights = rowWeights(targets, rows, labels.length, options.classWeight);
  const examples = weights.reduce((count, weight) => count + (weight === 0 ? 0 : 1), 0);
  const transposed = canCacheTransposes(shape, options, options.budget);
  // No name for the rows here: it would keep them as long as the training lasts, beside the design's copy.
  const designResult = yield* makeDesign(
    tensors,
    trainingSet.features,
    dimensions,
    weights,
    outputs,
    transposed,
    lexical === null ? null : { rows: lexical.takeRows(), columns: lexical.columns },
  );
  if (!designResult.ok) return designResult;
  const strata = strataOf(targets, labels.length);
  const method = evaluationMethod(shape, options);
  const foldCount = method === "holdout" ? DEFAULT_FOLDS : (options.evaluation.folds ?? DEFAULT_FOLDS);
  const folds =
    method === "holdout"
      ? holdoutFolds(strata, trainingSet.groups, options.evaluation.fraction ?? 0.2, DEFAULT_FOLDS, options.seed)
      : stratifiedFolds(strata, trainingSet.groups, foldCount, options.seed);
  const hasHeldOutRows = (foldLimit: number) =>
    folds.some((fold, row) => fold !== ALWAYS_TRAINED && fold < foldLimit && weights[row] !== 0);

  const fixedL2 = options.l2 === "auto" ? null : options.l2 / designResult.value.scale ** 2;
  const lexicalChoices = lexical === null ? [false] : options.lexical === true ? [true] : [false, true];
  const featureSets: FeatureSet[] = [];
  for (const each of lexicalChoices)
    featureSets.push(yield* makeFeatureSet(tensors, designResult.value, weights, each, options.seed));
  if (featureSets.every(({ basis }) => basis !== null)) freeDesign(tensors, designResult.value);
  else if (designResult.value.sparse !== null && featureSets.every(({ design }) => design.sparse === null))
    freeSparseDesign(tensors, designResult.value.sparse);
  const toCrossValidationData = ({ design, gramStatistics }: FeatureSet): CrossValidationData => ({
    design,
    gramStatistics,
    targets,
    outputs,
    weights,
    folds,
  });
  const plan = selectionPlan(workload((featureSets.at(-1) as FeatureSet).design, outputs));
  const needsSelection =
    (fixedL2 === null || featureSets.length > 1) && hasHeldOutRows(Math.min(plan.folds, foldCount));
  const selections: L2Selection[] = [];
  for (const each of needsSelection ? featureSets : []) {
    const usesAllRows = plan.rows === rows;
    const data = usesAllRows
      ? toCrossValidationData(each)
      : yield* subsample(tensors, toCrossValidationData(each), strata, trainingSet.groups, plan.rows, options.seed);
    const previous = selections.at(-1);
    const l2Candidates = fixedL2 !== null ? { fixedL2 } : previous === undefined ? "all" : { nearbyL2: previous.l2 };
    const selection = yield* selectL2(tensors, data, Math.min(plan.folds, foldCount), l2Candidates);
    selections.push(usesAllRows ? selection : { ...selection, parameters: null });
    if (!usesAllRows) freeDesign(tensors, data.design);
  }
  // Where nothing can be held out, nothing tells that more features are better.
  const bestIndex =
    selections.length > 1 && selectionLoss(selections, 1) * LOSS_TIE_RATIO < selectionLoss(selections, 0) ? 1 : 0;
  const selection = selections[bestIndex] ?? null;
  const bestFeatureSet = featureSets[bestIndex] as FeatureSet;
  for (const each of featureSets) if (each !== bestFeatureSet) freeUnshared(tensors, each, bestFeatureSet);
  const { design, gramStatistics } = bestFeatureSet;
  const data = toCrossValidationData(bestFeatureSet);
  const l2 = selection?.l2 ?? fixedL2 ?? 1;
  const limits = fitEvaluationLimits(workload(design, outputs));
  const toleranceFactor = design.sparse === null ? 1 : SPARSE_TOLERANCE_FACTOR;

  let assessment: EvaluationResult = noEvaluation;
  let warmStart: Float64Array | null = null;
  const problem: FitProblem = { design, targets, outputs, weights, l2 };
  const preconditioner = yield* makePreconditioner(tensors, problem, gramStatistics);
  const evaluatedFolds = method === "none" ? 0 : method === "holdout" ? 1 : foldCount;
  if (hasHeldOutRows(evaluatedFolds)) {
    const foldPreconditioner = needsFoldPreconditioners(rows, design.dimensions) ? "own" : preconditioner;
    const heldOutFit = yield* fitFolds(
      tensors,
      data,
      evaluatedFolds,
      l2,
      foldPreconditioner,
      selection?.parameters ?? null,
      {
        tolerance: toleranceFactor * EVALUATION_TOLERANCE,
        maxEvaluations: limits.evaluation,
      },
    );
    const pickHeldOut = (values: Int32Array) => heldOutFit.heldOut.rows.map((row) => values[row] as number);
    const parts =
      method === "holdout"
        ? stratifiedFolds(pickHeldOut(strata), pickHeldOut(trainingSet.groups), 2, options.seed)
        : pickHeldOut(folds);
    const settings = method === "holdout" ? { method } : { method, folds: new Set(parts).size };
    assessment = yield* evaluateHeldOut(labels, targets, heldOutFit.heldOut, parts, settings);
    warmStart = average(heldOutFit.parameters);
  }

  const criteria = {
    tolerance: options.tolerance ?? toleranceFactor * DEFAULT_TOLERANCE,
    maxEvaluations: warmStart === null ? limits.evaluation : limits.final,
  };
  const initial = warmStart ?? initialParameters(problem);
  const minimum = yield* fitHead(tensors, problem, preconditioner, initial, criteria, onStep);
  const { basis } = bestFeatureSet;
  const parameters =
    basis === null ? minimum.parameters : expandFromRowSpace(tensors, minimum.parameters, basis, outputs);
  const usedVocabulary = bestFeatureSet.lexical ? (lexical?.vocabulary ?? null) : null;
  return ok(
    buildResult(trainingSet, design, usedVocabulary, { ...minimum, parameters }, assessment, l2, examples, offset),
  );
}

/** What a head may be trained on: the embeddings, with lexical features beside them or without. */
interface FeatureSet {
  readonly lexical: boolean;
  /** The whole design, or that in the span of its rows. */
  readonly design: Design;
  readonly basis: RowSpaceBasis | null;
  readonly gramStatistics: GramStatistics;
}

/** A candidate from the design of all columns. Where it works in the span of the rows, it has blocks of its own. */
function* makeFeatureSet(
  tensors: TensorBackend,
  whole: Design,
  weights: Float64Array,
  lexical: boolean,
  seed: number,
): Generator<number, FeatureSet, void> {
  const fullDesign = lexical ? whole : { ...whole, sparse: null };
  const reduced = yield* reduceToRowSpace(tensors, fullDesign, weights);
  const design = reduced?.design ?? fullDesign;
  return {
    lexical,
    design,
    basis: reduced?.basis ?? null,
    gramStatistics: yield* computeGramStatistics(tensors, design, weights, seed),
  };
}

/** Frees what a candidate has that the chosen one has not. */
function freeUnshared(tensors: TensorBackend, featureSet: FeatureSet, bestFeatureSet: FeatureSet): void {
  if (featureSet.design.blocks !== bestFeatureSet.design.blocks) freeDesign(tensors, featureSet.design);
  else if (featureSet.design.sparse !== null) freeSparseDesign(tensors, featureSet.design.sparse);
  if (featureSet.basis !== null) freeRowSpaceBasis(tensors, featureSet.basis);
}

function selectionLoss(selections: readonly L2Selection[], index: number): number {
  return selections[index]?.loss ?? Number.POSITIVE_INFINITY;
}

/** Values around zero, so that logits in 32-bit floats keep what sets them apart, and what was taken off them. */
function centreTargets(targets: Targets): { targets: Targets; offset: number } {
  if (targets.kind !== "value") return { targets, offset: 0 };
  const offset = targets.values.reduce((sum, value) => sum + value / targets.values.length, 0);
  return { targets: { kind: "value", values: targets.values.map((value) => value - offset) }, offset };
}

function validateTrainingSet(
  trainingSet: TrainingSet,
  { classWeight }: TrainingOptions,
): ReturnType<typeof fail> | null {
  const { targets, labels } = trainingSet;
  if (classWeight !== null && targets.kind !== "single")
    return fail("task_mismatch", "'class_weight' is for one label alone. Leave it out.", {
      param: "hyperparameters.class_weight",
    });
  if (targets.kind === "value") {
    if (targets.values.length < 2) return fail("too_few_examples", "Training needs at least two examples.");
    const row = targets.values.findIndex((value) => !Number.isFinite(value));
    return row === -1 ? null : fail("invalid_features", `The value of row ${row} is not finite.`, { details: { row } });
  }
  const usedLabels = new Set(targets.kind === "single" ? targets.indices : targets.indices.flat());
  usedLabels.delete(-1);
  if (targets.kind === "single" && usedLabels.size < 2)
    return fail("too_few_labels", "Training needs examples of at least two labels.");
  if (usedLabels.size === 0 || labels.length === 0) return fail("too_few_labels", "Training needs at least one label.");
  return targets.indices.length < 2 ? fail("too_few_examples", "Training needs at least two examples.") : null;
}

/** scikit-learn's "balanced": rows / (classes × rows of the class). */
export function rowWeights(
  targets: Targets,
  rows: number,
  labels: number,
  classWeight: "balanced" | null,
): Float64Array {
  if (targets.kind !== "single") return new Float64Array(rows).fill(1);
  const counts = new Float64Array(labels);
  let total = 0;
  for (const label of targets.indices) {
    if (label < 0) continue;
    counts[label] = (counts[label] as number) + 1;
    total++;
  }
  const present = counts.reduce((sum, count) => sum + (count > 0 ? 1 : 0), 0);
  return Float64Array.from(targets.indices, (label) => {
    if (label < 0) return 0;
    return classWeight === "balanced" ? total / (present * (counts[label] as number)) : 1;
  });
}

/** The class by which a row is spread over the folds; multi-label: its rarest label. */
export function strataOf(targets: Targets, labels: number): Int32Array {
  switch (targets.kind) {
    case "single":
      return targets.indices;
    case "value":
      return new Int32Array(targets.values.length).fill(-1);
    case "multi": {
      const counts = new Int32Array(labels);
      for (const label of targets.indices.flat()) counts[label] = (counts[label] as number) + 1;
      return Int32Array.from(targets.indices, (row) =>
        row.reduce(
          (rarest, label) => (rarest < 0 || (counts[label] as number) < (counts[rarest] as number) ? label : rarest),
          -1,
        ),
      );
    }
  }
}

function average(vectors: readonly Float64Array[]): Float64Array {
  const sum = new Float64Array((vectors[0] as Float64Array).length);
  for (const vector of vectors)
    for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (vector[i] as number) / vectors.length;
  return sum;
}

/** The head on the features as they were given: w = w_z / σ, b = b_z − w·μ. */
function buildResult(
  trainingSet: TrainingSet,
  design: Design,
  lexical: LexicalVocabulary | null,
  minimum: LbfgsResult,
  assessment: EvaluationResult,
  l2: number,
  examples: number,
  offset: number,
): TrainingResult {
  const { dimensions, labels, task } = trainingSet;
  const outputs = task === "regression" ? 1 : labels.length;
  const weights = new Float32Array(outputs * dimensions);
  const bias = new Float32Array(outputs);
  for (let k = 0; k < outputs; k++) {
    let shift = 0;
    for (let j = 0; j < dimensions; j++) {
      const weight = (minimum.parameters[j * outputs + k] as number) / design.scale;
      weights[k * dimensions + j] = weight;
      shift += weight * (design.mean[j] as number);
    }
    bias[k] = (minimum.parameters[minimum.parameters.length - outputs + k] as number) - shift;
  }
  const lexicalParameters = minimum.parameters.subarray(dimensions * outputs, minimum.parameters.length - outputs);
  const { temperature, outOfScopeThreshold, conformal, evaluation } = assessment;
  return {
    head: {
      task,
      labels,
      dimensions,
      weights,
      bias,
      lexical: lexical === null ? null : quantiseLexical(lexical, lexicalParameters, outputs),
      offset,
      temperature,
      outOfScopeThreshold,
      conformal,
    },
    training: {
      examples,
      iterations: minimum.iterations,
      converged: minimum.converged,
      objective: minimum.value,
      l2: l2 * design.scale ** 2,
      temperature,
      lexical: lexical !== null,
      operations: 0,
    },
    evaluation,
  };
}
