/** Trains the layers of a backbone, and a head on them, on a job's examples. */
import { correctTexts } from "../../backbones/text-use.ts";
import { fail, ok, type Result } from "../../core/failure.ts";
import { type Head, lexicalLogits } from "../../core/head.ts";
import { holdoutFolds } from "../../core/linear/split.ts";
import { rowWeights, strataOf, type Targets } from "../../core/linear/targets.ts";
import type { TrainingResult, TrainingSummary } from "../../core/linear/types.ts";
import { runSteps } from "../../core/steps.ts";
import { createLexicalVectorizer } from "../../core/text/lexical.ts";
import { composeModel } from "../../finetune/compose.ts";
import { composeEncoder } from "../../finetune/encoder/compose.ts";
import type { EncoderInput } from "../../finetune/encoder/network.ts";
import { encoderTrainingOperations, fineTuneEncoder } from "../../finetune/encoder/train.ts";
import { type Epoch, type FineTuningOptions, fineTune, fineTuningOperations, type Plan } from "../../finetune/train.ts";
import type { Submission } from "../../jobs/protocol.ts";
import type { TrainingName } from "./checkpoint.ts";
import type { EncoderLayers, StaticLayers, TrainedLayers, TrainingContext } from "./context.ts";
import { predictRows, toLogits } from "./model.ts";
import { runTraining } from "./run-training.ts";
import { groupsOf, prepareTraining, targetsOf } from "./training-spec.ts";

const OPERATIONS_PER_YIELD = 400_000_000;
/** A text's spelling and sub-words take up to 4 µs a character. */
const CHARACTERS_PER_YIELD = 10_000;
/** With fewer examples, none is held out to tell when to stop: a tenth of few tells little. */
const MIN_ROWS_FOR_HOLDOUT: Record<TrainedLayers["kind"], number> = { static: 200, encoder: 2000 };
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

export interface LayerTraining {
  /** Which of the job's trainings it is. */
  readonly name: TrainingName;
  /** The result of an earlier training on a part of the rows; null: there is none. */
  readonly plan: Plan | null;
  readonly onEpoch: (epoch: Epoch) => void;
}

/** Trains head and layers on rows. */
export async function fineTuneLayers(
  context: TrainingContext,
  layers: TrainedLayers,
  rows: readonly number[],
  { name, ...training }: LayerTraining,
): Promise<Result<FineTunedModel>> {
  const options = { ...fineTuningOptions(context.submission), ...training };
  return layers.kind === "encoder"
    ? fineTuneEncoderLayers(context, layers, rows, options, name)
    : fineTuneStaticLayers(withLexicalFeatures(context, rows.length), layers, rows, options);
}

type Options = Omit<FineTuningOptions, "trainRows">;

async function fineTuneStaticLayers(
  context: TrainingContext,
  { base, trainRows }: StaticLayers,
  rows: readonly number[],
  commonOptions: Options,
): Promise<Result<FineTunedModel>> {
  const start = await prepareFineTuning(context, "static", rows, commonOptions.plan);
  if (!start.ok) return start;
  const { outputs, targets, weights, heldOut } = start.value;
  const frozenHead = start.value.frozen.head;
  const texts = rows.map((row) => context.examples.texts[row] ?? "");
  const options = { ...commonOptions, trainRows };
  const failure = operationsFailure(
    context,
    fineTuningOperations({ dimensions: base.dimensions, outputs, texts }, options),
  );
  if (failure !== null) return failure;
  const headLogits = await frozenLogits(
    context,
    frozenHead,
    heldOut.map((i) => rows[i] as number),
  );
  const data = { texts, targets, outputs, weights, heldOut, headLogits, headTemperature: frozenHead.temperature };
  const steps = fineTune(base.table(), data, options);
  const { value: network, operations } = await runSteps(steps, OPERATIONS_PER_YIELD, context.yieldToEventLoop);
  context.countOperations(operations);
  const weightedTexts = Array.from(weights.keys()).filter((i) => weights[i] !== 0);
  // The held-out rows have told when to stop. The ensemble's head need not do without them.
  const whole = heldOut.length === 0 ? ok(start.value.frozen) : await trainFrozenHead(context, rows, false);
  if (!whole.ok) return whole;
  const ensembleHead = whole.value.head.bias.length === outputs ? whole.value.head : frozenHead;
  const isCalibrated = ensembleHead === whole.value.head && whole.value.evaluation.method !== "none";
  const headTemperature = isCalibrated ? ensembleHead.temperature : network.plan.headTemperature;
  const plan = { ...network.plan, headTemperature };
  const composed = composeModel(base, ensembleHead, { ...network, plan }, weightedTexts);
  return ok({ ...composed, plan, training: summary(start.value, network.steps, operations) });
}

async function fineTuneEncoderLayers(
  context: TrainingContext,
  { base, layers }: EncoderLayers,
  rows: readonly number[],
  commonOptions: Options,
  name: TrainingName,
): Promise<Result<FineTunedModel>> {
  const start = await prepareFineTuning(context, "encoder", rows, commonOptions.plan);
  if (!start.ok) return start;
  const { frozen, outputs } = start.value;
  const frozenHead = frozen.head;
  const extractFeatures = frozenHead.lexical && createLexicalVectorizer(frozenHead.lexical);
  const lexicalOutputs = extractFeatures && new Float32Array(rows.length * outputs);
  const inputs: EncoderInput[] = [];
  let charactersLeft = CHARACTERS_PER_YIELD;
  for (const [i, row] of rows.entries()) {
    const input = context.examples.texts[row] ?? "";
    if (charactersLeft <= 0) {
      await context.yieldToEventLoop();
      charactersLeft = CHARACTERS_PER_YIELD;
    }
    charactersLeft -= input.length;
    if (extractFeatures) lexicalOutputs?.set(lexicalLogits(frozenHead, extractFeatures(input)), i * outputs);
    const [text = ""] = correctTexts(base.base, [input]);
    const embedding = await context.embed(row);
    // The embedding is that of the static backbone and of the encoder, each of unit norm, over √2.
    const besides = embedding.slice(0, base.base.dimensions).map((value) => value * Math.SQRT2);
    inputs.push({ tokens: base.tokenize(text), besides });
  }
  const data = { ...start.value, frozenHead, inputs, lexicalOutputs };
  const states = context.trainingStates?.begin(name) ?? null;
  const options = { ...commonOptions, layers, states };
  const failure = operationsFailure(context, encoderTrainingOperations(base, data, options));
  if (failure !== null) return failure;
  const steps = fineTuneEncoder(base, data, options);
  const { value: trained, operations } = await runSteps(steps, OPERATIONS_PER_YIELD, async () => {
    await context.yieldToEventLoop();
    await states?.save();
  });
  context.countOperations(operations);
  states?.end();
  const composed = composeEncoder(base, frozenHead, trained, layers);
  return ok({ ...composed, plan: trained.plan, training: summary(start.value, trained.steps, operations) });
}

/** The frozen head on a part of the rows, and what a training of layers reads besides texts. */
interface Start {
  readonly frozen: TrainingResult;
  readonly outputs: number;
  readonly targets: Targets;
  readonly weights: Float64Array;
  /** Places in the list of rows. */
  readonly heldOut: readonly number[];
}

async function prepareFineTuning(
  context: TrainingContext,
  kind: TrainedLayers["kind"],
  rows: readonly number[],
  plan: Plan | null,
): Promise<Result<Start>> {
  const heldOutRows =
    plan === null && rows.length >= MIN_ROWS_FOR_HOLDOUT[kind] ? drawHeldOutRows(context, rows) : new Set<number>();
  const frozen = await trainFrozenHead(
    context,
    rows.filter((row) => !heldOutRows.has(row)),
    kind === "encoder" || heldOutRows.size > 0,
  );
  if (!frozen.ok) return frozen;
  const { bias, labels } = frozen.value.head;
  const outputs = bias.length;
  const { targets } = targetsOf(context, rows, labels);
  const weights = rowWeights(targets, rows.length, outputs, context.submission.hyperparameters.class_weight);
  // A label that only held-out rows have is none of the head's.
  const heldOut = rows.flatMap((row, i) => (heldOutRows.has(row) && hasKnownLabel(targets, i) ? [i] : []));
  return ok({ frozen: frozen.value, outputs, targets, weights, heldOut });
}

function operationsFailure({ budget }: TrainingContext, operations: number): Result<never> | null {
  if (operations <= budget.operations) return null;
  return fail(
    "edge_budget_exceeded",
    `This fine-tuning takes ${operations} operations, where the batch endpoint allows ${budget.operations}.`,
  );
}

function summary({ frozen }: Start, iterations: number, operations: number): TrainingSummary {
  return { ...frozen.training, iterations, operations: frozen.training.operations + operations };
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
