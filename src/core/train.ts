/** Trains a head: chooses l2, evaluates on held-out examples, calibrates, and fits on everything. */
import { DEFAULT_FOLDS, estimate, evaluationLimits, evaluationMethod, selectionPlan } from "./cost.ts";
import { type Design, freeDesign, makeDesign, subsetDesign } from "./design.ts";
import { type Assessment, assess, type Evaluation, notEvaluated } from "./evaluation.ts";
import { fail, ok, type Result } from "./failure.ts";
import { fitHead, makePreconditioner, startingPoint } from "./fit.ts";
import type { Head, Task } from "./head.ts";
import { EVALUATION_TOLERANCE, fitFolds, type Selection, type Splittable, selectL2 } from "./held-out.ts";
import type { Minimum } from "./minimise.ts";
import type { Targets } from "./objective.ts";
import { DENSE_DIMENSIONS, SAMPLE_PER_DIMENSION, weightedGram, weightedSquares } from "./preconditioner.ts";
import { seededRandom, shuffle } from "./random.ts";
import { ALWAYS_TRAINED, stratifiedFolds } from "./split.ts";
import type { Matrix, Tensors } from "./tensors.ts";

export { estimate };

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
}

export interface TrainingOptions {
  /** λ in Σ s_i ℓ_i + (λ/2)‖W‖², on the features as given: scikit-learn's 1 / C, and Ridge's alpha. */
  readonly l2: "auto" | number;
  readonly classWeight: "balanced" | null;
  readonly seed: number;
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
}

export interface Training {
  readonly examples: number;
  readonly iterations: number;
  readonly converged: boolean;
  readonly objective: number;
  readonly l2: number;
  readonly temperature: number;
  readonly operations: number;
}

export interface Trained {
  readonly head: Head;
  readonly training: Training;
  readonly evaluation: Evaluation;
}

/** The true gap is at most about twice the estimate, so this leaves it below 1e-4 (bench/train.ts). */
export const DEFAULT_TOLERANCE = 5e-5;

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
  const alive = new Set<Matrix>();
  const keep = (matrix: Matrix): Matrix => {
    alive.add(matrix);
    return matrix;
  };
  const scoped: Tensors = {
    ...tensors,
    matrix: (rows, columns, values) => keep(tensors.matrix(rows, columns, values)),
    multiply: (a, b) => keep(tensors.multiply(a, b)),
    transpose: (a) => keep(tensors.transpose(a)),
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
  const { task, dimensions, labels, targets } = set;
  const outputs = task === "regression" ? 1 : labels.length;
  const rows = set.groups.length;
  const refusal = refuse(set);
  if (refusal !== null) return refusal;
  const cost = estimate({ task, examples: rows, dimensions, outputs }, options);
  if (cost.operations > options.budget.operations || cost.bytes > options.budget.bytes) {
    return fail("edge_budget_exceeded", "This training is larger than a request may be.", {
      details: { estimate: cost, budget: options.budget },
    });
  }

  const weights = rowWeights(targets, rows, labels.length, options.classWeight);
  const examples = weights.reduce((count, weight) => count + (weight === 0 ? 0 : 1), 0);
  const made = yield* makeDesign(tensors, set.features, dimensions, weights, outputs);
  if (!made.ok) return made;
  const design = made.value;
  const gram = yield* sampledGram(tensors, design, weights, options.seed);
  const strata = strataOf(targets, labels.length);
  const limits = evaluationLimits(rows, dimensions, outputs);

  const method = evaluationMethod({ task, examples: rows, dimensions, outputs }, options);
  const count = method === "holdout" ? DEFAULT_FOLDS : (options.evaluation.folds ?? DEFAULT_FOLDS);
  const folds =
    method === "holdout"
      ? holdoutFolds(strata, set.groups, options.evaluation.fraction ?? 0.2, options.seed)
      : stratifiedFolds(strata, set.groups, count, options.seed);
  const data: Splittable = { design, gram, targets, outputs, weights, folds };
  const anyHeldOut = folds.some((fold, row) => fold !== ALWAYS_TRAINED && weights[row] !== 0);

  let selection: Selection | null = null;
  let l2 = options.l2 === "auto" ? 1 : options.l2 / design.scale ** 2;
  if (options.l2 === "auto" && anyHeldOut) {
    const plan = selectionPlan(rows, dimensions, outputs);
    const whole = plan.rows === rows;
    const chosen: Splittable = whole
      ? data
      : yield* subsample(tensors, data, strata, set.groups, plan.rows, options.seed);
    selection = yield* selectL2(tensors, chosen, Math.min(plan.folds, count));
    l2 = selection.l2;
    if (!whole) {
      freeDesign(tensors, chosen.design);
      selection = null;
    }
  }

  let assessment: Assessment = notEvaluated;
  let start: Float64Array | null = null;
  if (method !== "none" && anyHeldOut) {
    const wanted = method === "holdout" ? 1 : count;
    const fitted = yield* fitFolds(tensors, data, wanted, l2, selection?.fit.parameters ?? null, {
      tolerance: EVALUATION_TOLERANCE,
      maxEvaluations: limits.final,
    });
    const parts = fitted.held.rows.map((row) =>
      method === "holdout" ? (set.groups[row] as number) & 1 : (folds[row] as number),
    );
    assessment = assess(
      labels,
      targets,
      fitted.held,
      parts,
      method === "holdout" ? { method } : { method, folds: count },
    );
    start = average(fitted.parameters);
  }

  const problem = { design, targets, outputs, weights, l2 };
  const preconditioner = yield* makePreconditioner(tensors, problem, gram);
  const minimum = yield* fitHead(tensors, problem, preconditioner, start ?? startingPoint(problem), {
    tolerance: options.tolerance ?? DEFAULT_TOLERANCE,
    maxEvaluations: limits.final,
  });
  return ok(finish(set, design, minimum, assessment, l2, examples));
}

/** Folds of which the first is as large a part as `fraction` says, to a twentieth, and the rest is shared by the others. */
function holdoutFolds(strata: Int32Array, groups: Int32Array, fraction: number, seed: number): Int32Array {
  if (fraction === 1 / DEFAULT_FOLDS) return stratifiedFolds(strata, groups, DEFAULT_FOLDS, seed);
  const parts = 20;
  const held = Math.round(fraction * parts);
  return stratifiedFolds(strata, groups, parts, seed).map((part) => {
    if (part === ALWAYS_TRAINED) return part;
    return part < held ? 0 : 1 + (part % (DEFAULT_FOLDS - 1));
  });
}

/** G of all rows, or where there are many of a random sample of them in proportion: it only preconditions. */
function* sampledGram(
  tensors: Tensors,
  design: Design,
  weights: Float64Array,
  seed: number,
): Generator<number, Float32Array, void> {
  if (design.dimensions > DENSE_DIMENSIONS) return yield* weightedSquares(tensors, design, weights);
  const wanted = Math.max(1000, SAMPLE_PER_DIMENSION * design.dimensions);
  if (design.rows <= 1.5 * wanted) return yield* weightedGram(tensors, design, weights);
  const rows = shuffle(Array.from(weights.keys()), seededRandom(seed))
    .slice(0, wanted)
    .sort((a, b) => a - b);
  const sample = yield* subsetDesign(tensors, design, rows, 1);
  const share = Float64Array.from(rows, (row) => ((weights[row] as number) * design.rows) / wanted);
  const gram = yield* weightedGram(tensors, sample, share);
  freeDesign(tensors, sample);
  return gram;
}

function refuse(set: TrainingSet): ReturnType<typeof fail> | null {
  const { targets, labels } = set;
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
function rowWeights(targets: Targets, rows: number, labels: number, classWeight: "balanced" | null): Float64Array {
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
function strataOf(targets: Targets, labels: number): Int32Array {
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

function* subsample(
  tensors: Tensors,
  data: Splittable,
  strata: Int32Array,
  groups: Int32Array,
  rows: number,
  seed: number,
): Generator<number, Splittable, void> {
  const slices = Math.ceil(data.weights.length / rows);
  const slice = stratifiedFolds(strata, groups, slices, seed + 1);
  const chosen = Array.from(slice.keys()).filter(
    (row) => data.weights[row] !== 0 && (slice[row] === 0 || slice[row] === ALWAYS_TRAINED),
  );
  const design = yield* subsetDesign(tensors, data.design, chosen, data.outputs);
  const weights = Float64Array.from(chosen, (row) => data.weights[row] as number);
  const gram = yield* sampledGram(tensors, design, weights, seed);
  const pick = (from: Int32Array) => Int32Array.from(chosen, (row) => from[row] as number);
  const { targets } = data;
  return {
    design,
    gram,
    outputs: data.outputs,
    weights,
    targets:
      targets.kind === "single"
        ? { kind: "single", indices: pick(targets.indices) }
        : targets.kind === "multi"
          ? { kind: "multi", indices: chosen.map((row) => targets.indices[row] ?? []) }
          : { kind: "value", values: Float64Array.from(chosen, (row) => targets.values[row] as number) },
    folds: stratifiedFolds(pick(strata), pick(groups), 4, seed),
  };
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
  minimum: Minimum,
  assessment: Assessment,
  l2: number,
  examples: number,
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
    bias[k] = (minimum.parameters[dimensions * outputs + k] as number) - shift;
  }
  const { temperature, outOfScopeThreshold, conformal, evaluation } = assessment;
  return {
    head: { task, labels, dimensions, weights, bias, temperature, outOfScopeThreshold, conformal },
    training: {
      examples,
      iterations: minimum.iterations,
      converged: minimum.converged,
      objective: minimum.value,
      l2: l2 * design.scale ** 2,
      temperature,
      operations: 0,
    },
    evaluation,
  };
}
