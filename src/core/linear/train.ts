/**
 * Trains a head: builds its feature sets, selects features and l2, evaluates on held-out examples and calibrates, and
 * fits all rows.
 */
import { rangeOf } from "../evaluation/value-range.ts";
import { fail, ok, type Result } from "../failure.ts";
import type { Steps } from "../steps.ts";
import type { Matrix, SparseMatrix, TensorBackend } from "../tensors.ts";
import { estimateCost, evaluationMethod, rowPrecision } from "./cost.ts";
import { makeDesign } from "./design.ts";
import { evaluate } from "./evaluate.ts";
import { buildFeatureSets } from "./feature-set.ts";
import { evaluationFolds } from "./folds.ts";
import type { FitProblem } from "./objective.ts";
import { selectPenalty } from "./penalty.ts";
import { makePreconditioner } from "./preconditioner.ts";
import { buildResult, refit } from "./refit.ts";
import { centreTargets, rowWeights, strataOf } from "./targets.ts";
import type { TrainingOptions, TrainingResult, TrainingRows, TrainingSet, TrainingShape } from "./types.ts";

/**
 * Trains a head on `trainingSet`. It yields the floating-point operations done since its last yield, some tens of
 * milliseconds apart, so that the caller can let other work run, or stop it: `return()` frees everything. The same set,
 * options and backend give the same bytes.
 *
 * Fails with `too_few_labels`, `too_few_examples`, `invalid_features` (a number that is not finite) or
 * `edge_budget_exceeded` (before any work, with `details: {estimate, budget}`).
 */
export function* train(
  tensors: TensorBackend,
  trainingSet: TrainingSet,
  options: TrainingOptions,
): Steps<Result<TrainingResult>> {
  const { backend, freeAll } = trackAllocations(tensors);
  let operations = 0;
  try {
    const onStep = (objective: number) => options.onStep?.(objective, operations);
    const steps = runTraining(backend, trainingSet, options, onStep);
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
    freeAll();
  }
}

/** The backend, and a function that frees every matrix that was made with it and is still alive. */
function trackAllocations(tensors: TensorBackend): { backend: TensorBackend; freeAll: () => void } {
  const allocated = new Set<Matrix | SparseMatrix>();
  const track = <T extends Matrix | SparseMatrix>(matrix: T): T => {
    allocated.add(matrix);
    return matrix;
  };
  return {
    backend: {
      ...tensors,
      matrix: (rows, columns, values) => track(tensors.matrix(rows, columns, values)),
      multiply: (a, b) => track(tensors.multiply(a, b)),
      multiplyTransposed: (a, b) => track(tensors.multiplyTransposed(a, b)),
      transpose: (a) => track(tensors.transpose(a)),
      quantise: (a) => track(tensors.quantise(a)),
      sparseMatrix: (rows, columns) => track(tensors.sparseMatrix(rows, columns)),
      free(matrix) {
        tensors.free(matrix);
        allocated.delete(matrix);
      },
    },
    freeAll() {
      for (const matrix of allocated) tensors.free(matrix);
    },
  };
}

function* runTraining(
  tensors: TensorBackend,
  trainingSet: TrainingSet,
  options: TrainingOptions,
  onStep: (objective: number) => void,
): Steps<Result<TrainingResult>> {
  const { task, dimensions, labels, groups } = trainingSet;
  const failure = validateTrainingSet(trainingSet, options);
  if (failure !== null) return failure;
  const outputs = task === "regression" ? 1 : labels.length;
  const lexical = options.lexical === false ? null : (trainingSet.lexical ?? null);
  const shape: TrainingShape = { task, examples: groups.length, dimensions, outputs, lexical };
  const precision = rowPrecision(shape, options, options.budget);
  if (precision === null) {
    return fail("edge_budget_exceeded", "This training is larger than a request may be.", {
      details: { estimate: estimateCost(shape, options, "int8"), budget: options.budget },
    });
  }

  const { targets, offset } = centreTargets(trainingSet.targets);
  const weights = rowWeights(targets, groups.length, labels.length, options.classWeight);
  const designResult = yield* makeDesign(tensors, trainingSet.features, {
    dimensions,
    weights,
    outputs,
    precision,
    // No variable holds the sparse rows: it would keep them beside the design's copy as long as the training lasts.
    sparse: lexical === null ? null : { rows: lexical.takeRows(), columns: lexical.columns },
  });
  if (!designResult.ok) return designResult;
  const { scale } = designResult.value;

  const { seed } = options;
  const method = evaluationMethod(shape, options);
  const strata = strataOf(targets, labels.length);
  const folds = evaluationFolds({ targets, strata, groups }, method, options);
  const rows: TrainingRows = { targets, outputs, weights, strata, groups, ...folds };
  const lexicalChoices = lexical === null ? [false] : options.lexical === true ? [true] : [false, true];
  const featureSets = yield* buildFeatureSets(tensors, designResult.value, weights, lexicalChoices, seed);
  const fixedL2 = options.l2 === "auto" ? null : options.l2 / scale ** 2;
  const selection = yield* selectPenalty(tensors, featureSets, rows, fixedL2, seed);
  const { featureSet, l2 } = selection;
  const { design, basis } = featureSet;
  const problem: FitProblem = { design, targets, outputs, weights, l2 };
  const preconditioner = yield* makePreconditioner(tensors, problem, featureSet.gramStatistics);
  const evaluation = yield* evaluate(tensors, {
    labels,
    rows,
    selection,
    preconditioner,
    method,
    seed,
    clamp: options.clamp ?? false,
  });
  const { tolerance } = options;
  const start = evaluation.parameters;
  const minimum = yield* refit(tensors, problem, { preconditioner, basis, start, tolerance, onStep });
  const vocabulary = featureSet.lexical ? (lexical?.vocabulary ?? null) : null;
  const examples = weights.reduce((count, weight) => count + (weight === 0 ? 0 : 1), 0);
  const { result } = evaluation;
  const valueRange = options.clamp && trainingSet.targets.kind === "value" ? rangeOf(trainingSet.targets.values) : null;
  return ok(
    buildResult(trainingSet, { design, minimum, vocabulary, evaluation: result, l2, examples, offset, valueRange }),
  );
}

function validateTrainingSet(
  trainingSet: TrainingSet,
  { classWeight, clamp }: TrainingOptions,
): ReturnType<typeof fail> | null {
  const { targets, labels } = trainingSet;
  if (classWeight !== null && targets.kind !== "single")
    return fail("task_mismatch", "'class_weight' is for one label alone. Leave it out.", {
      param: "hyperparameters.class_weight",
    });
  if (clamp && targets.kind !== "value")
    return fail("task_mismatch", "'clamp' is for values alone. Leave it out.", { param: "clamp" });
  if (targets.kind === "value") {
    if (targets.values.length < 2)
      return fail("too_few_examples", `Training needs at least two examples, and there is ${targets.values.length}.`);
    const row = targets.values.findIndex((value) => !Number.isFinite(value));
    return row === -1 ? null : fail("invalid_features", `The value of row ${row} is not finite.`, { details: { row } });
  }
  const rows = targets.indices.length;
  const usedLabels = new Set(targets.kind === "single" ? targets.indices : targets.indices.flat());
  usedLabels.delete(-1);
  const labelNames =
    usedLabels.size === 0 ? "none" : `'${[...usedLabels].map((index) => labels[index]).join("', '")}' alone`;
  if (targets.kind === "single" && usedLabels.size < 2)
    return fail(
      "too_few_labels",
      `Training needs examples of at least two labels; the ${rows} here have ${labelNames}.`,
    );
  if (usedLabels.size === 0 || labels.length === 0)
    return fail("too_few_labels", `Training needs at least one label; the ${rows} examples here have none.`);
  return rows < 2 ? fail("too_few_examples", `Training needs at least two examples, and there is ${rows}.`) : null;
}
