/** What a training does before it selects anything: it checks its examples and builds the design and the folds. */
import type { Evaluation } from "../evaluation/evaluation.ts";
import { fail, ok, type Result } from "../failure.ts";
import type { Steps } from "../steps.ts";
import type { TensorBackend } from "../tensors.ts";
import { affordableCurve, estimateCost, evaluationMethod, rowPrecision } from "./cost.ts";
import { type Design, makeDesign } from "./design.ts";
import { evaluationFolds } from "./folds.ts";
import type { CurvePlan } from "./learning-curve.ts";
import { OPERATIONS_PER_FOLD_ROW } from "./split.ts";
import { centreTargets, rowWeights, strataOf } from "./targets.ts";
import type { TrainingOptions, TrainingRows, TrainingSet, TrainingShape } from "./types.ts";

export interface PreparedTraining {
  readonly rows: TrainingRows;
  readonly design: Design;
  /** Whether to use the design's lexical features: the choices, in the order in which they are tried. */
  readonly lexicalChoices: readonly boolean[];
  /** What an l2 is divided by to be in the design's scale. */
  readonly l2Scale: number;
  /** What was taken from the targets, so that their mean is 0. */
  readonly offset: number;
  /** How the training is evaluated. */
  readonly method: Evaluation["method"];
  /** Its learning curve; null if there is none, or no room for one. */
  readonly curve: CurvePlan | null;
}

/** Fails as `train` does. */
export function* prepareTraining(
  tensors: TensorBackend,
  trainingSet: TrainingSet,
  options: TrainingOptions,
): Steps<Result<PreparedTraining>> {
  const { task, dimensions, labels, groups, labelTexts = 0 } = trainingSet;
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
  const design = yield* makeDesign(tensors, trainingSet.features, {
    dimensions,
    weights,
    outputs,
    precision,
    lexical,
  });
  if (!design.ok) return design;
  const method = evaluationMethod(shape, options);
  const strata = strataOf(targets, labels.length);
  const folds = evaluationFolds({ targets, strata, groups, labelTexts }, method, options);
  yield 2 * OPERATIONS_PER_FOLD_ROW * groups.length;
  const lexicalChoices = lexical === null ? [false] : options.lexical === true ? [true] : [false, true];
  return ok({
    rows: { targets, outputs, weights, strata, groups, labelTexts, ...folds },
    design: design.value,
    lexicalChoices,
    l2Scale: design.value.scale ** 2,
    offset,
    method,
    curve: affordableCurve(shape, options, options.budget, precision),
  });
}

function validateTrainingSet(
  trainingSet: TrainingSet,
  { classWeight, clamp, inScopeRecall }: TrainingOptions,
): ReturnType<typeof fail> | null {
  const { targets, labels } = trainingSet;
  if (classWeight !== null && targets.kind !== "single")
    return fail("task_mismatch", "'class_weight' is for one label alone. Leave it out.", {
      param: "hyperparameters.class_weight",
    });
  if (clamp && targets.kind !== "value")
    return fail("task_mismatch", "'clamp' is for values alone. Leave it out.", { param: "clamp" });
  if (inScopeRecall !== undefined && targets.kind !== "single")
    return fail("task_mismatch", "'out_of_scope' is for one label alone. Leave it out.", { param: "out_of_scope" });
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
