/**
 * Trains a head: builds its feature sets, selects features and l2, evaluates on held-out examples and calibrates, and
 * fits all rows.
 */
import { rangeOf } from "../evaluation/value-range.ts";
import { ok, type Result } from "../failure.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { runBounded } from "./bounded.ts";
import { measureDistances } from "./class-centroids.ts";
import { evaluate, evaluatedFolds } from "./evaluate.ts";
import { buildFeatureSets } from "./feature-set.ts";
import { countExamples } from "./label-texts.ts";
import type { FitProblem } from "./objective.ts";
import { selectPenalty } from "./penalty.ts";
import { makePreconditioner } from "./preconditioner.ts";
import { prepareTraining } from "./prepare.ts";
import { buildResult, refit } from "./refit.ts";
import { sketchRows } from "./sketch-rows.ts";
import type { TrainingOptions, TrainingResult, TrainingSet } from "./types.ts";

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
  const result = yield* runBounded(tensors, options.budget, (backend, operations) =>
    runTraining(backend, trainingSet, options, (objective) => options.onStep?.(objective, operations())),
  );
  if (!result.ok) return result;
  const { value, operations } = result.value;
  return ok({ ...value, training: { ...value.training, operations } });
}

function* runTraining(
  tensors: TensorBackend,
  trainingSet: TrainingSet,
  options: TrainingOptions,
  onStep: (objective: number) => void,
): Steps<Result<TrainingResult>> {
  const { labels, lexical } = trainingSet;
  const prepared = yield* prepareTraining(tensors, trainingSet, options);
  if (!prepared.ok) return prepared;
  const { rows, l2Scale, offset, method, curve } = prepared.value;
  const { targets, outputs, weights } = rows;
  const { seed } = options;
  // Before the feature sets, which may have no room for the design.
  const distances = yield* measureDistances(tensors, prepared.value.design, rows, evaluatedFolds(rows, method));
  const sketch = yield* sketchRows(tensors, prepared.value.design, rows, distances?.centroidRows ?? []);
  const featureSets = yield* buildFeatureSets(
    tensors,
    prepared.value.design,
    weights,
    prepared.value.lexicalChoices,
    seed,
  );
  const fixedL2 = options.l2 === "auto" ? null : options.l2 / l2Scale;
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
    curve,
    detail: options.evaluation.detail ?? "summary",
    seed,
    clamp: options.clamp ?? false,
    scope: { distances, recall: options.inScopeRecall },
  });
  const { tolerance } = options;
  const start = evaluation.parameters;
  const minimum = yield* refit(tensors, problem, { preconditioner, basis, start, tolerance, onStep });
  const vocabulary = featureSet.lexical ? (lexical?.vocabulary ?? null) : null;
  const examples = countExamples(rows);
  const { result } = evaluation;
  const valueRange = options.clamp && trainingSet.targets.kind === "value" ? rangeOf(trainingSet.targets.values) : null;
  return ok(
    buildResult(trainingSet, {
      design,
      minimum,
      vocabulary,
      evaluation: result,
      l2,
      examples,
      offset,
      valueRange,
      sketch,
    }),
  );
}
