/** Trains the layers of a backbone, and a head on them, on a job's examples. */
import { fail, ok, type Result } from "../../core/failure.ts";
import type { Head } from "../../core/head.ts";
import { holdoutFolds } from "../../core/linear/split.ts";
import { rowWeights, strataOf, type Targets } from "../../core/linear/targets.ts";
import type { TrainingResult, TrainingSummary } from "../../core/linear/types.ts";
import { runSteps } from "../../core/steps.ts";
import { composeModel } from "../../finetune/compose.ts";
import { type Epoch, type FineTuningOptions, fineTune, fineTuningOperations, type Plan } from "../../finetune/train.ts";
import type { Submission } from "../../jobs/protocol.ts";
import type { TrainableLayers, TrainingContext } from "./context.ts";
import { predictRows, toLogits } from "./model.ts";
import { runTraining } from "./run-training.ts";
import { groupsOf, prepareTraining, targetsOf } from "./training-spec.ts";

const OPERATIONS_PER_YIELD = 400_000_000;
/** With fewer examples, none is held out to tell when to stop. */
const MIN_ROWS_FOR_HOLDOUT = 200;
const HOLDOUT_FRACTION = 0.1;
const HOLDOUT_FOLDS = 5;
/** With more examples, a head has lexical features, which cost it nothing. With fewer, held-out examples decide. */
const MIN_ROWS_FOR_LEXICAL = 640;

export interface FineTunedModel {
  readonly head: Head;
  readonly delta: Uint8Array;
  /** How many numbers of the backbone were trained. */
  readonly parameters: number;
  readonly plan: Plan;
  readonly training: TrainingSummary;
}

/** Trains head and layers on rows. `plan` is the result of an earlier training on a part of them, else null. */
export async function fineTuneLayers(
  fullContext: TrainingContext,
  { base, trainRows }: TrainableLayers,
  rows: readonly number[],
  plan: Plan | null,
  onEpoch: (epoch: Epoch) => void,
): Promise<Result<FineTunedModel>> {
  const context = withLexicalFeatures(fullContext, rows.length);
  const heldOutRows =
    plan === null && rows.length >= MIN_ROWS_FOR_HOLDOUT ? drawHeldOutRows(context, rows) : new Set<number>();
  const frozen = await trainFrozenHead(
    context,
    rows.filter((row) => !heldOutRows.has(row)),
    heldOutRows.size > 0,
  );
  if (!frozen.ok) return frozen;
  const { head: frozenHead, training: frozenTraining } = frozen.value;
  const outputs = frozenHead.bias.length;
  const texts = rows.map((row) => context.examples.texts[row] ?? "");
  const options = { ...fineTuningOptions(context.submission), trainRows, plan, onEpoch };
  const maxOperations = fineTuningOperations({ dimensions: base.dimensions, outputs, texts }, options);
  if (maxOperations > context.budget.operations)
    return fail(
      "edge_budget_exceeded",
      `This fine-tuning takes ${maxOperations} operations, where the batch endpoint allows ${context.budget.operations}.`,
    );
  const { targets } = targetsOf(context, rows, frozenHead.labels);
  const weights = rowWeights(targets, rows.length, outputs, context.submission.hyperparameters.class_weight);
  // A label that only held-out rows have is none of the head's.
  const heldOut = rows.flatMap((row, i) => (heldOutRows.has(row) && hasKnownLabel(targets, i) ? [i] : []));
  const headLogits = await frozenLogits(
    context,
    frozenHead,
    heldOut.map((i) => rows[i] as number),
  );
  const data = { texts, targets, outputs, weights, heldOut, headLogits, headTemperature: frozenHead.temperature };
  const steps = fineTune(base.table(), data, options);
  const { value: network, operations } = await runSteps(steps, OPERATIONS_PER_YIELD, context.yieldToEventLoop);
  const weightedTexts = Array.from(weights.keys()).filter((i) => weights[i] !== 0);
  // The held-out rows have told when to stop. The ensemble's head need not do without them.
  const whole = heldOutRows.size === 0 ? frozen : await trainFrozenHead(context, rows, false);
  if (!whole.ok) return whole;
  const ensembleHead = whole.value.head.bias.length === outputs ? whole.value.head : frozenHead;
  const isCalibrated = ensembleHead === whole.value.head && whole.value.evaluation.method !== "none";
  const headTemperature = isCalibrated ? ensembleHead.temperature : network.plan.headTemperature;
  const ensemble = { ...network, plan: { ...network.plan, headTemperature } };
  const { delta, parameters, head } = composeModel(base, ensembleHead, ensemble, weightedTexts);
  const training = {
    ...frozenTraining,
    iterations: network.steps,
    operations: frozenTraining.operations + operations,
  };
  return ok({ head, delta, parameters, plan: ensemble.plan, training });
}

/** An `onEpoch` that sends each epoch as progress. */
export function reportEpochs({ report }: TrainingContext): (epoch: Epoch) => void {
  return ({ epoch, totalEpochs, trainLoss, validLoss, validAccuracy }) =>
    report(`Epoch ${epoch} of ${totalEpochs}.`, {
      epoch,
      train_loss: trainLoss,
      ...(validLoss === undefined ? {} : { valid_loss: validLoss }),
      ...(validAccuracy === undefined ? {} : { valid_accuracy: validAccuracy }),
    });
}

function fineTuningOptions({
  hyperparameters,
}: Submission): Pick<FineTuningOptions, "epochs" | "batchSize" | "learningRateMultiplier" | "seed"> {
  const { epochs = "auto", batch_size = "auto", learning_rate_multiplier = "auto", seed } = hyperparameters;
  return { epochs, batchSize: batch_size, learningRateMultiplier: learning_rate_multiplier, seed };
}

function withLexicalFeatures(context: TrainingContext, rows: number): TrainingContext {
  const { submission } = context;
  if (submission.hyperparameters.lexical !== "auto" || rows <= MIN_ROWS_FOR_LEXICAL) return context;
  const hyperparameters: Submission["hyperparameters"] = { ...submission.hyperparameters, lexical: true };
  return { ...context, submission: { ...submission, hyperparameters } };
}

async function trainFrozenHead(
  context: TrainingContext,
  rows: readonly number[],
  skipEvaluation: boolean,
): Promise<Result<TrainingResult>> {
  const spec = await prepareTraining("fine_tuned", context, rows);
  return spec.ok ? runTraining(context, spec.value, { skipEvaluation }) : spec;
}

async function frozenLogits(context: TrainingContext, head: Head, rows: readonly number[]): Promise<Float32Array> {
  const model = { head: { ...head, temperature: 1 }, embed: context.embed };
  return toLogits(head, await predictRows(context, rows, model));
}

function drawHeldOutRows(context: TrainingContext, rows: readonly number[]): Set<number> {
  const { labels, targets } = targetsOf(context, rows);
  const { seed } = context.submission.hyperparameters;
  const strata = strataOf(targets, labels.length);
  const folds = holdoutFolds(strata, groupsOf(context, rows), HOLDOUT_FRACTION, HOLDOUT_FOLDS, seed);
  return new Set(rows.filter((_, i) => folds[i] === 0));
}

function hasKnownLabel(targets: Targets, row: number): boolean {
  return targets.kind !== "single" || (targets.indices[row] ?? -1) >= 0;
}
