/** The fine-tuned candidate whose layers are trained: src/finetune does it, on what a job has of examples. */

import { decodeDelta, fineTunedBackbone } from "../../backbones/fine-tuned.ts";
import { isStatic, type StaticBackbone } from "../../backbones/text-static.ts";
import { evaluateHeldOut } from "../../core/evaluation/evaluation.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Head } from "../../core/head.ts";
import { hasTrainableLayers } from "../../core/lifecycle/job.ts";
import { holdoutFolds, stratifiedFolds } from "../../core/linear/split.ts";
import type { Targets } from "../../core/linear/targets.ts";
import { rowWeights, strataOf } from "../../core/linear/targets.ts";
import type { TrainingSummary } from "../../core/linear/types.ts";
import { runSteps } from "../../core/steps.ts";
import { composeModel } from "../../finetune/compose.ts";
import { type Epoch, fineTune, fineTuningOperations, type Plan } from "../../finetune/train.ts";
import type { Submission } from "../../jobs/protocol.ts";
import type { AttemptContext } from "./attempt.ts";
import { prepareTraining, runTraining, type TrainingContext, targetsOf } from "./candidates.ts";
import type { FineTunedAssessment } from "./checkpoint.ts";
import { type Model, type Predictions, predictRows } from "./comparison.ts";
import { embedLazily } from "./embed.ts";

const OPERATIONS_PER_YIELD = 400_000_000;
/** With fewer examples none is spared to tell when to stop. */
const MIN_ROWS_FOR_HOLDOUT = 200;
const HOLDOUT_FRACTION = 0.1;
const HOLDOUT_FOLDS = 5;
/** From so many on a head reads words as well, which costs it nothing; with fewer that is asked of held-out examples. */
const MIN_ROWS_FOR_LEXICAL = 640;

export interface FineTunedModel {
  readonly head: Head;
  readonly delta: Uint8Array;
  readonly parameters: number;
  readonly plan: Plan;
  readonly training: TrainingSummary;
}

/** The backbone whose layers a job trains, and which: the last two are the convolution and the head. null: the head alone. */
export function trainableBackbone({
  submission,
  backbone,
}: AttemptContext): { base: StaticBackbone; trainRows: boolean } | null {
  const { trainable } = submission;
  if (backbone === null || !isStatic(backbone) || !hasTrainableLayers(trainable)) return null;
  return { base: backbone, trainRows: typeof trainable === "string" || trainable.last_layers > 2 };
}

/** Trains head and layers on rows; `plan` is that of an earlier training on a part of them. */
export async function fineTuneLayers(
  attempt: AttemptContext,
  { base, trainRows }: { base: StaticBackbone; trainRows: boolean },
  fullContext: TrainingContext,
  rows: readonly number[],
  plan: Plan | null,
  onEpoch: (epoch: Epoch) => void,
): Promise<Result<FineTunedModel>> {
  const context = withLexicalFeatures(fullContext, rows.length);
  const { submission, examples, yieldToEventLoop } = context;
  const heldOutRows =
    plan === null && rows.length >= MIN_ROWS_FOR_HOLDOUT ? drawHeldOutRows(context, rows) : new Set<number>();
  const trainingRows = rows.filter((row) => !heldOutRows.has(row));
  const spec = await prepareTraining("fine_tuned", context, trainingRows);
  if (!spec.ok) return spec;
  const frozenResult = await runTraining(attempt.tensors, context, spec.value, {
    skipEvaluation: heldOutRows.size > 0 || plan !== null,
  });
  if (!frozenResult.ok) return frozenResult;
  const frozen = frozenResult.value.head;
  const texts = rows.map((row) => examples.texts[row] ?? "");
  const targets = targetsOf(context, rows, frozen.labels).targets;
  // A label that only held-out rows have is none of the head's.
  const heldOutIndices = rows.flatMap((row, i) => (heldOutRows.has(row) && hasKnownLabel(targets, i) ? [i] : []));
  const outputs = frozen.bias.length;
  const weights = rowWeights(targets, rows.length, outputs, submission.hyperparameters.class_weight);
  const { epochs = "auto", batch_size = "auto", learning_rate_multiplier = "auto", seed } = submission.hyperparameters;
  const options = {
    epochs,
    batchSize: batch_size,
    learningRateMultiplier: learning_rate_multiplier,
    trainRows,
    seed,
    plan,
    onEpoch,
  };
  const operations = fineTuningOperations({ dimensions: base.dimensions, outputs, texts }, options);
  if (operations > context.budget.operations)
    return fail(
      "edge_budget_exceeded",
      `This fine-tuning takes ${operations} operations, where the batch endpoint allows ${context.budget.operations}.`,
    );
  const headOutputs = await predictRows(
    context,
    heldOutIndices.map((i) => rows[i] as number),
    { head: { ...frozen, temperature: 1 }, embed: context.embed },
  );
  const steps = fineTune(
    base.table(),
    {
      texts,
      targets,
      outputs,
      weights,
      heldOut: heldOutIndices,
      headLogits: toLogits(frozen, headOutputs),
      headTemperature: frozen.temperature,
    },
    options,
  );
  const { value: network, operations: operationsDone } = await runSteps(steps, OPERATIONS_PER_YIELD, yieldToEventLoop);
  const labelledIndices = Array.from(weights.keys()).filter((i) => weights[i] !== 0);
  const { delta, parameters, head } = composeModel(base, frozen, network, labelledIndices);
  const training = {
    ...frozenResult.value.training,
    iterations: network.steps,
    operations: frozenResult.value.training.operations + operationsDone,
  };
  return ok({ head, delta, parameters, plan: network.plan, training });
}

function withLexicalFeatures(context: TrainingContext, rows: number): TrainingContext {
  const { submission } = context;
  if (submission.hyperparameters.lexical !== "auto" || rows <= MIN_ROWS_FOR_LEXICAL) return context;
  const hyperparameters: Submission["hyperparameters"] = { ...submission.hyperparameters, lexical: true };
  return { ...context, submission: { ...submission, hyperparameters } };
}

function drawHeldOutRows(context: TrainingContext, rows: readonly number[]): Set<number> {
  const { labels, targets } = targetsOf(context, rows);
  const groups = Int32Array.from(rows, (row) => context.examples.groups[row] as number);
  const { seed } = context.submission.hyperparameters;
  const folds = holdoutFolds(strataOf(targets, labels.length), groups, HOLDOUT_FRACTION, HOLDOUT_FOLDS, seed);
  return new Set(rows.filter((_, i) => folds[i] === 0));
}

function hasKnownLabel(targets: Targets, row: number): boolean {
  return targets.kind !== "single" || (targets.indices[row] as number) >= 0;
}

const MIN_PROBABILITY = 1e-30;

/** The logits that outputs of `predict` at temperature 1 are of, softmax's up to a constant; values stay. */
function toLogits({ task }: Head, outputs: readonly Float64Array[]): Float32Array {
  const log = (p: number) => Math.log(Math.max(MIN_PROBABILITY, p));
  const toLogit = (p: number) => (task === "single_label" ? log(p) : task === "multi_label" ? log(p) - log(1 - p) : p);
  return Float32Array.from(outputs.flatMap((each) => Array.from(each, toLogit)));
}

/** The model of a head and a delta, or of a head alone. */
export function makeModel(
  context: TrainingContext,
  base: StaticBackbone | null,
  head: Head,
  delta: Uint8Array | null,
): Model {
  if (base === null || delta === null) return { head, embed: context.embed };
  const decoded = decodeDelta(delta);
  if (decoded === null) throw new Error("A delta that was made here cannot be read.");
  const backbone = fineTunedBackbone(base, { id: `ft:${base.id}`, revision: "" }, decoded, delta.length);
  return { head, embed: embedLazily(backbone, context.examples.texts) };
}

/**
 * What a model's answers to the judge's held-out rows, which it was trained without, tell of it: how it does, and how sure
 * it may be. Its head is one that `compose` made: at temperature 1.
 */
export async function assessFineTuned(
  context: TrainingContext,
  rows: readonly number[],
  { head, outputs }: Predictions,
  plan: Plan,
): Promise<FineTunedAssessment> {
  const targets = targetsOf(context, rows, head.labels).targets;
  const heldOut = { rows: Int32Array.from(rows.keys()), logits: toLogits(head, outputs), outputs: head.bias.length };
  const groups = Int32Array.from(rows, (row) => context.examples.groups[row] as number);
  const halves = stratifiedFolds(
    strataOf(targets, head.labels.length),
    groups,
    2,
    context.submission.hyperparameters.seed,
  );
  const steps = evaluateHeldOut(head.labels, targets, heldOut, halves, { method: "holdout" });
  const { value: assessment } = await runSteps(steps, 0, context.yieldToEventLoop);
  return { plan, assessment: { ...assessment, conformal: Array.from(assessment.conformal) } };
}
