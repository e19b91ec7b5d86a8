/** Trains a head: chooses l2, evaluates on held-out examples, calibrates, and fits on everything. */
import {
  beyondBudget,
  DEFAULT_FOLDS,
  evaluationLimits,
  evaluationMethod,
  keepsTransposes,
  selectionPlan,
  type TrainingShape,
  workload,
} from "./cost.ts";
import { type Design, freeDesign, freeSparseDesign, makeDesign } from "./design.ts";
import { type Assessment, assess, type Evaluation, notEvaluated } from "../evaluation/evaluation.ts";
import { fail, ok, type Result } from "../failure.ts";
import { fitHead, makePreconditioner, startingPoint } from "./fit.ts";
import { type Head, quantiseLexical, type Task } from "../head.ts";
import {
  EVALUATION_TOLERANCE,
  fitFolds,
  foldsDiffer,
  SAME,
  type Selection,
  type Splittable,
  selectL2,
} from "./cross-validation.ts";
import type { Lexical, LexicalFeatures } from "../text/lexical.ts";
import type { Minimum } from "./lbfgs.ts";
import type { Problem, Targets } from "./objective.ts";
import { measureSpread, type Spread } from "./preconditioner.ts";
import { expand, freeSpan, reduceToRows, type Span } from "./row-space.ts";
import { subsample } from "./subsample.ts";
import { ALWAYS_TRAINED, holdoutFolds, stratifiedFolds } from "./split.ts";
import type { Matrix, Sparse, Tensors } from "../tensors.ts";

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
  /** Called with the objective after each step of the head's own fit, on everything; it never rises. */
  readonly onStep?: (objective: number) => void;
}

export interface Training {
  readonly examples: number;
  readonly iterations: number;
  readonly converged: boolean;
  readonly objective: number;
  readonly l2: number;
  readonly temperature: number;
  readonly lexical: boolean;
  readonly operations: number;
}

export interface Trained {
  readonly head: Head;
  readonly training: Training;
  readonly evaluation: Evaluation;
}

/**
 * The true gap is at most about twice the estimate, so this leaves it below 1e-4 (bench/train.ts); but for penalties so weak
 * that the head is certain of nearly every row, where the curvature that the estimate goes by is gone.
 */
export const DEFAULT_TOLERANCE = 5e-5;
/** How much sooner a fit stops that has sparse columns: thousands of them take many steps for what changes hardly any prediction. */
const SPARSE_SLACK = 4;

/**
 * Trains a head on `set`. A generator: it yields the floating-point operations done since its last yield, some tens of
 * milliseconds apart, so that the caller can let others in, count, or stop it; `return()` frees everything. The same set, options and
 * backend give the same bytes.
 *
 * Fails with `too_few_labels`, `too_few_examples`, `invalid_features` (a number that is not finite) or `edge_budget_exceeded`
 * (before any work, with `details: {estimate, budget}`).
 */
export function* train(
  tensors: Tensors,
  set: TrainingSet,
  options: TrainingOptions,
): Generator<number, Result<Trained>, void> {
  const alive = new Set<Matrix | Sparse>();
  const keep = <T extends Matrix | Sparse>(matrix: T): T => {
    alive.add(matrix);
    return matrix;
  };
  const scoped: Tensors = {
    ...tensors,
    matrix: (rows, columns, values) => keep(tensors.matrix(rows, columns, values)),
    multiply: (a, b) => keep(tensors.multiply(a, b)),
    transpose: (a) => keep(tensors.transpose(a)),
    sparse: (rows, columns) => keep(tensors.sparse(rows, columns)),
    free(matrix) {
      tensors.free(matrix);
      alive.delete(matrix);
    },
  };
  let operations = 0;
  try {
    const steps = trainScoped(scoped, set, options);
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
    for (const matrix of alive) tensors.free(matrix);
  }
}

function* trainScoped(
  tensors: Tensors,
  set: TrainingSet,
  options: TrainingOptions,
): Generator<number, Result<Trained>, void> {
  const { task, dimensions, labels } = set;
  const outputs = task === "regression" ? 1 : labels.length;
  const rows = set.groups.length;
  const refusal = refuse(set, options);
  if (refusal !== null) return refusal;
  const { targets, offset } = centred(set.targets);
  const lexical = options.lexical === false ? null : (set.lexical ?? null);
  const shape: TrainingShape = {
    task,
    examples: rows,
    dimensions,
    outputs,
    lexical,
  };
  const beyond = beyondBudget(shape, options, options.budget);
  if (beyond !== null) {
    return fail("edge_budget_exceeded", "This training is larger than a request may be.", {
      details: { estimate: beyond, budget: options.budget },
    });
  }

  const weights = rowWeights(targets, rows, labels.length, options.classWeight);
  const examples = weights.reduce((count, weight) => count + (weight === 0 ? 0 : 1), 0);
  const transposed = keepsTransposes(shape, options, options.budget);
  // No name for the rows here: it would keep them as long as the training lasts, beside the design's copy.
  const made = yield* makeDesign(
    tensors,
    set.features,
    dimensions,
    weights,
    outputs,
    transposed,
    lexical === null ? null : { rows: lexical.takeRows(), columns: lexical.columns },
  );
  if (!made.ok) return made;
  const strata = strataOf(targets, labels.length);
  const method = evaluationMethod(shape, options);
  const count = method === "holdout" ? DEFAULT_FOLDS : (options.evaluation.folds ?? DEFAULT_FOLDS);
  const folds =
    method === "holdout"
      ? holdoutFolds(strata, set.groups, options.evaluation.fraction ?? 0.2, DEFAULT_FOLDS, options.seed)
      : stratifiedFolds(strata, set.groups, count, options.seed);
  const anyHeldOut = (first: number) =>
    folds.some((fold, row) => fold !== ALWAYS_TRAINED && fold < first && weights[row] !== 0);

  const given = options.l2 === "auto" ? null : options.l2 / made.value.scale ** 2;
  const wanted = lexical === null ? [false] : options.lexical === true ? [true] : [false, true];
  const candidates: Candidate[] = [];
  for (const each of wanted) candidates.push(yield* candidate(tensors, made.value, weights, each, options.seed));
  if (candidates.every(({ span }) => span !== null)) freeDesign(tensors, made.value);
  else if (made.value.sparse !== null && candidates.every(({ design }) => design.sparse === null))
    freeSparseDesign(tensors, made.value.sparse);
  const split = ({ design, spread }: Candidate): Splittable => ({ design, spread, targets, outputs, weights, folds });
  const plan = selectionPlan(workload((candidates.at(-1) as Candidate).design, outputs));
  const chooses = (given === null || candidates.length > 1) && anyHeldOut(Math.min(plan.folds, count));
  const selections: Selection[] = [];
  for (const each of chooses ? candidates : []) {
    const whole = plan.rows === rows;
    const data = whole
      ? split(each)
      : yield* subsample(tensors, split(each), strata, set.groups, plan.rows, options.seed);
    const before = selections.at(-1);
    const among = given !== null ? { only: given } : before === undefined ? "all" : { from: before.l2 };
    const selection = yield* selectL2(tensors, data, Math.min(plan.folds, count), among);
    selections.push(whole ? selection : { ...selection, parameters: null });
    if (!whole) freeDesign(tensors, data.design);
  }
  // Where nothing can be held out, nothing tells that more features are better.
  const best = selections.length > 1 && loss(selections, 1) * SAME < loss(selections, 0) ? 1 : 0;
  const selection = selections[best] ?? null;
  const chosen = candidates[best] as Candidate;
  for (const each of candidates) if (each !== chosen) freeBeside(tensors, each, chosen);
  const { design, spread } = chosen;
  const data = split(chosen);
  const l2 = selection?.l2 ?? given ?? 1;
  const limits = evaluationLimits(workload(design, outputs));
  const slack = design.sparse === null ? 1 : SPARSE_SLACK;

  let assessment: Assessment = notEvaluated;
  let start: Float64Array | null = null;
  const problem: Problem = { design, targets, outputs, weights, l2 };
  const preconditioner = yield* makePreconditioner(tensors, problem, spread);
  const judged = method === "none" ? 0 : method === "holdout" ? 1 : count;
  if (anyHeldOut(judged)) {
    const metric = foldsDiffer(rows, design.dimensions) ? "own" : preconditioner;
    const fitted = yield* fitFolds(tensors, data, judged, l2, metric, selection?.parameters ?? null, {
      tolerance: slack * EVALUATION_TOLERANCE,
      maxEvaluations: limits.judged,
    });
    const of = (values: Int32Array) => fitted.held.rows.map((row) => values[row] as number);
    const parts = method === "holdout" ? stratifiedFolds(of(strata), of(set.groups), 2, options.seed) : of(folds);
    const how = method === "holdout" ? { method } : { method, folds: new Set(parts).size };
    assessment = yield* assess(labels, targets, fitted.held, parts, how);
    start = average(fitted.parameters);
  }

  const bounds = {
    tolerance: options.tolerance ?? slack * DEFAULT_TOLERANCE,
    maxEvaluations: start === null ? limits.judged : limits.final,
  };
  const begin = start ?? startingPoint(problem);
  const minimum = yield* fitHead(tensors, problem, preconditioner, begin, bounds, options.onStep);
  const { span } = chosen;
  const parameters = span === null ? minimum.parameters : expand(tensors, minimum.parameters, span, outputs);
  const used = chosen.lexical ? (lexical?.lexical ?? null) : null;
  return ok(finish(set, design, used, { ...minimum, parameters }, assessment, l2, examples, offset));
}

/** What a head may be trained on: the embeddings, with lexical features beside them or without. */
interface Candidate {
  readonly lexical: boolean;
  /** The whole design, or that in the span of its rows. */
  readonly design: Design;
  readonly span: Span | null;
  readonly spread: Spread;
}

/** A candidate from the design of all columns. Where it works in the span of the rows, it has blocks of its own. */
function* candidate(
  tensors: Tensors,
  whole: Design,
  weights: Float64Array,
  lexical: boolean,
  seed: number,
): Generator<number, Candidate, void> {
  const wanted = lexical ? whole : { ...whole, sparse: null };
  const reduced = yield* reduceToRows(tensors, wanted, weights);
  const design = reduced?.design ?? wanted;
  return { lexical, design, span: reduced?.span ?? null, spread: yield* measureSpread(tensors, design, weights, seed) };
}

/** Frees what a candidate has that the chosen one has not. */
function freeBeside(tensors: Tensors, candidate: Candidate, chosen: Candidate): void {
  if (candidate.design.blocks !== chosen.design.blocks) freeDesign(tensors, candidate.design);
  else if (candidate.design.sparse !== null) freeSparseDesign(tensors, candidate.design.sparse);
  if (candidate.span !== null) freeSpan(tensors, candidate.span);
}

function loss(selections: readonly Selection[], at: number): number {
  return selections[at]?.loss ?? Number.POSITIVE_INFINITY;
}

/** Values around zero, so that logits in 32-bit floats keep what sets them apart, and what was taken off them. */
function centred(targets: Targets): { targets: Targets; offset: number } {
  if (targets.kind !== "value") return { targets, offset: 0 };
  const offset = targets.values.reduce((sum, value) => sum + value / targets.values.length, 0);
  return { targets: { kind: "value", values: targets.values.map((value) => value - offset) }, offset };
}

function refuse(set: TrainingSet, { classWeight }: TrainingOptions): ReturnType<typeof fail> | null {
  const { targets, labels } = set;
  if (classWeight !== null && targets.kind !== "single")
    return fail("task_mismatch", "'class_weight' is for one label alone. Leave it out.", {
      param: "hyperparameters.class_weight",
    });
  if (targets.kind === "value") {
    if (targets.values.length < 2) return fail("too_few_examples", "Training needs at least two examples.");
    const row = targets.values.findIndex((value) => !Number.isFinite(value));
    return row === -1 ? null : fail("invalid_features", `The value of row ${row} is not finite.`, { details: { row } });
  }
  const used = new Set(targets.kind === "single" ? targets.indices : targets.indices.flat());
  used.delete(-1);
  if (targets.kind === "single" && used.size < 2)
    return fail("too_few_labels", "Training needs examples of at least two labels.");
  if (used.size === 0 || labels.length === 0) return fail("too_few_labels", "Training needs at least one label.");
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
function finish(
  set: TrainingSet,
  design: Design,
  lexical: Lexical | null,
  minimum: Minimum,
  assessment: Assessment,
  l2: number,
  examples: number,
  offset: number,
): Trained {
  const { dimensions, labels, task } = set;
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
  const ofLexical = minimum.parameters.subarray(dimensions * outputs, minimum.parameters.length - outputs);
  const { temperature, outOfScopeThreshold, conformal, evaluation } = assessment;
  return {
    head: {
      task,
      labels,
      dimensions,
      weights,
      bias,
      lexical: lexical === null ? null : quantiseLexical(lexical, ofLexical, outputs),
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
