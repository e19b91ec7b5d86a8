/**
 * Fine-tunes a sentence encoder for one task. The head starts from the frozen one (Kumar et al. 2022, "Fine-Tuning can
 * Distort Pretrained Features and Underperform Out-of-Distribution"); then head and layers are trained together by AdamW
 * (Loshchilov and Hutter 2019), whose decay pulls towards the pre-trained numbers (Li et al. 2018, "Explicit Inductive Bias
 * for Transfer Learning"). What the frozen head has learnt of lexical features stays as it is. Layers further from the head
 * have lower rates (Howard and Ruder 2018, "Universal Language Model Fine-tuning"). Held-out texts tell when to stop; the
 * best epoch is kept.
 */
import { baseReader } from "../../backbones/fine-tuned-encoder.ts";
import { type EncoderShape, layerNames } from "../../backbones/sentence-encoder/layout.ts";
import type { EncoderBackbone } from "../../backbones/text-use.ts";
import { fitTemperature, type HeldOutLogits, heldOutLogLoss } from "../../core/evaluation/calibration.ts";
import { ENCODER_BATCH_SIZE, encoderEpochs, encoderOperations } from "../../core/fine-tuning-cost.ts";
import type { Head } from "../../core/head.ts";
import type { Targets } from "../../core/linear/targets.ts";
import { seededRandom, shuffle } from "../../core/random.ts";
import { accuracyOf } from "../ensemble.ts";
import { makeWorkspace } from "../kernels.ts";
import { makeLoss, type TargetScale } from "../loss.ts";
import { type FineTuningOptions, meanAndDeviation, type Plan } from "../train.ts";
import { type EncoderInput, type EncoderNetwork, type EncoderRates, makeEncoderNetwork } from "./network.ts";
import { resumeTraining, type StateStore } from "./state.ts";

export interface EncoderTrainingData {
  readonly inputs: readonly EncoderInput[];
  readonly targets: Targets;
  readonly outputs: number;
  /** One for each input. Inputs of weight zero take no part. */
  readonly weights: Float64Array;
  /** The numbers of the inputs that are held out of the training; empty if a plan tells how long it is. */
  readonly heldOut: readonly number[];
  /** On the base's embedding. */
  readonly frozenHead: Head;
  /** What lexical features add to the outputs of each input, one after another; null: nothing. */
  readonly lexicalOutputs: Float32Array | null;
}

export type EncoderTrainingOptions = Omit<FineTuningOptions, "trainRows"> & {
  /** How many layers are trained, from the last. */
  readonly layers: number;
  /** null: a training that is interrupted begins anew. */
  readonly states: StateStore | null;
};

/** Regression: the network's outputs are (value − mean) / deviation. */
export interface FineTunedEncoder extends TargetScale {
  readonly network: EncoderNetwork;
  readonly plan: Plan;
  readonly steps: number;
}

/** docs/fine-tuning.md says why they have these values, and what else was tried. */
const DEFAULTS = {
  rate: 5e-4,
  /** The head's rate is so many times as high. */
  headFactor: 10,
  /** A layer's rate is this part of the next one's; the tanh layer and the last transformer layer have the same. */
  layerDecay: 0.5,
  pull: 0.01,
  warmUp: 0.1,
  dropout: 0.1,
  /** Training stops after so many epochs without a better one. */
  patience: 2,
} as const;

/** The rate of each trained layer, as a part of the highest. */
function layerFactors(shape: EncoderShape, layers: number): [string, number][] {
  return layerNames(shape)
    .slice(0, layers)
    .map((name, depth) => [name, DEFAULTS.layerDecay ** Math.max(0, depth - 1)]);
}

/** The floating-point operations that a training takes, at most. */
export function encoderTrainingOperations(
  { shape }: EncoderBackbone,
  { inputs, outputs }: Pick<EncoderTrainingData, "inputs" | "outputs">,
  { layers, plan, epochs, batchSize }: Pick<EncoderTrainingOptions, "layers" | "plan" | "epochs" | "batchSize">,
): number {
  const size = batchSize === "auto" ? ENCODER_BATCH_SIZE : batchSize;
  const epoch = operationsOf(shape, inputs, layers, outputs);
  return epoch * (plan?.epochs ?? encoderEpochs(epochs, inputs.length, size));
}

/**
 * A generator: it yields the floating-point operations done since its last yield. The same arguments give the same network.
 */
export function* fineTuneEncoder(
  base: EncoderBackbone,
  data: EncoderTrainingData,
  options: EncoderTrainingOptions,
): Generator<number, FineTunedEncoder, void> {
  const { targets, outputs, weights, heldOut } = data;
  const { plan, layers, seed, states } = options;
  const batchSize = options.batchSize === "auto" ? ENCODER_BATCH_SIZE : options.batchSize;
  const heldOutSet = new Set(heldOut);
  const rows = Array.from(weights.keys()).filter((row) => weights[row] !== 0 && !heldOutSet.has(row));
  const scale = meanAndDeviation(targets, rows);
  const network = makeNetwork(base, data, layers, batchSize);
  // What is below the trained layers is computed once where it is small: one row a text.
  const inputs = layers === 1 ? yield* poolInputs(network, base.shape, data, batchSize) : data.inputs;
  startHead(network, data.frozenHead, scale);
  // A plan may be the mean of several. Its rates fall to zero by its end.
  const totalEpochs =
    plan === null ? encoderEpochs(options.epochs, rows.length, batchSize) : Math.max(1, Math.round(plan.epochs));
  const stepsPerEpoch = Math.ceil(rows.length / batchSize);
  const factors = layerFactors(base.shape, layers);
  const trainer: EpochTrainer = {
    network,
    rows,
    batchSize,
    seed,
    inputs,
    loss: makeLoss(targets, weights, outputs, scale),
    addLexical: makeLexicalAddition(data, scale),
    ratesOf: (step) => ratesOf(step, totalEpochs * stepsPerEpoch, factors, options),
    operationsOf: (batch) => operationsOf(base.shape, batch, layers, outputs),
  };
  let { epoch, best } = resumeTraining(network, states, totalEpochs, stepsPerEpoch);
  while (epoch < totalEpochs && rows.length > 0) {
    const { trainLoss, operations } = yield* trainEpoch(trainer, epoch * stepsPerEpoch);
    epoch++;
    if (heldOut.length === 0 || plan !== null) options.onEpoch?.({ epoch, totalEpochs, trainLoss });
    else {
      const evaluation = yield* evaluate(network, base.shape, { ...data, inputs }, batchSize, scale);
      const { loss: validLoss, accuracy: validAccuracy } = evaluation;
      options.onEpoch?.({ epoch, totalEpochs, trainLoss, validLoss, validAccuracy });
      if (best === null || validLoss < best.loss) {
        best = { loss: validLoss, plan: planOf(epoch), snapshot: network.snapshot() };
      } else if (epoch - best.plan.epochs >= DEFAULTS.patience) break;
    }
    const state = { epoch, steps: epoch * stepsPerEpoch, best };
    if (epoch < totalEpochs) states?.onEpochEnd(() => ({ ...state, arrays: network.state() }), operations);
  }
  if (best !== null && best.plan.epochs < epoch) network.restore(best.snapshot);
  return { network, plan: best?.plan ?? plan ?? planOf(totalEpochs), steps: epoch * stepsPerEpoch, ...scale };
}

/** There is one model, whose head is calibrated later: it divides no logits. */
function planOf(epochs: number): Plan {
  return { totalEpochs: epochs, epochs, headTemperature: 1, layersTemperature: 1 };
}

interface EpochTrainer {
  readonly network: EncoderNetwork;
  /** The inputs that are trained on. */
  readonly rows: readonly number[];
  readonly inputs: readonly EncoderInput[];
  readonly batchSize: number;
  readonly seed: number;
  readonly loss: ReturnType<typeof makeLoss>;
  readonly addLexical: ReturnType<typeof makeLexicalAddition>;
  readonly ratesOf: (step: number) => EncoderRates;
  readonly operationsOf: (batch: readonly EncoderInput[]) => number;
}

/** Trains an epoch, whose first step has this number. Answers the mean loss and the operations of the steps. */
function* trainEpoch(
  { network, rows, inputs, batchSize, seed, loss, addLexical, ratesOf, operationsOf }: EpochTrainer,
  firstStep: number,
): Generator<number, { trainLoss: number; operations: number }, void> {
  // The order depends on the seed and the step alone, so that a training can go on from any epoch.
  const order = shuffle([...rows], seededRandom(seed ^ 0x5bd1e995 ^ Math.imul(firstStep, 0x9e3779b1)));
  let totalLoss = 0;
  let operations = 0;
  let step = firstStep;
  for (let first = 0; first < order.length; first += batchSize) {
    const batch = order.slice(first, first + batchSize);
    const batchInputs = batch.map((row) => inputs[row] as EncoderInput);
    const toLossGradient = (logits: Float32Array, stride: number) => {
      addLexical(logits, stride, batch);
      totalLoss += loss(logits, stride, batch);
    };
    network.step(batchInputs, toLossGradient, ratesOf(step++));
    const stepOperations = operationsOf(batchInputs);
    operations += stepOperations;
    yield stepOperations;
  }
  return { trainLoss: totalLoss / rows.length, operations };
}

function makeNetwork(
  base: EncoderBackbone,
  { inputs, outputs }: EncoderTrainingData,
  trainedLayers: number,
  batchSize: number,
): EncoderNetwork {
  const lengths = inputs.map(({ tokens }) => Math.min(tokens.length, base.shape.maxTokens)).sort((a, b) => b - a);
  const shape = {
    ...base.shape,
    trainedLayers,
    besides: base.base.dimensions,
    outputs,
    maxTexts: batchSize,
    maxBatchTokens: Math.max(
      1,
      lengths.slice(0, batchSize).reduce((sum, length) => sum + length, 0),
    ),
  };
  return makeEncoderNetwork(makeWorkspace(), shape, baseReader(base));
}

/** The inputs with the mean of the transformer's output. */
function* poolInputs(
  network: EncoderNetwork,
  shape: EncoderShape,
  { inputs, outputs }: EncoderTrainingData,
  batchSize: number,
): Generator<number, EncoderInput[], void> {
  const all: EncoderInput[] = [];
  for (let first = 0; first < inputs.length; first += batchSize) {
    const batch = inputs.slice(first, first + batchSize);
    const pooled = network.pool(batch);
    all.push(...batch.map((input, i) => ({ ...input, pooled: pooled[i] as Float32Array })));
    yield operationsOf(shape, batch, 0, outputs);
  }
  return all;
}

/** Gives the network the head that was trained on the frozen embeddings. */
function startHead({ head }: EncoderNetwork, frozen: Head, { mean, deviation }: TargetScale): void {
  const weights = head.weights();
  const bias = head.bias();
  for (const [i, value] of frozen.weights.entries()) weights[i] = value / deviation;
  for (const [k, value] of frozen.bias.entries()) bias[k] = (value + frozen.offset - mean) / deviation;
}

/** The rates of a step, from 0: they rise linearly while warming up, and fall linearly to 0. */
function ratesOf(
  step: number,
  totalSteps: number,
  factors: readonly (readonly [string, number])[],
  { learningRateMultiplier, seed }: EncoderTrainingOptions,
): EncoderRates {
  const multiplier = learningRateMultiplier === "auto" ? 1 : learningRateMultiplier;
  const warmUp = Math.min(1, (step + 1) / (DEFAULTS.warmUp * totalSteps));
  const rate = multiplier * DEFAULTS.rate * warmUp * (1 - step / totalSteps);
  return {
    rates: new Map([
      ["head", DEFAULTS.headFactor * rate],
      ...factors.map(([name, factor]) => [name, factor * rate] as const),
    ]),
    pull: DEFAULTS.pull,
    dropout: DEFAULTS.dropout,
    seed: Math.imul(seed + 1, 0x9e3779b1) + step,
  };
}

/** Adds what lexical features add, to the logits of these inputs. */
function makeLexicalAddition(
  { lexicalOutputs, outputs }: EncoderTrainingData,
  { deviation }: TargetScale,
): (logits: Float32Array, stride: number, rows: readonly number[]) => void {
  return (logits, stride, rows) => {
    if (lexicalOutputs === null) return;
    for (const [i, row] of rows.entries())
      for (let k = 0; k < outputs; k++)
        logits[i * stride + k] =
          (logits[i * stride + k] as number) + (lexicalOutputs[row * outputs + k] as number) / deviation;
  };
}

/** The floating-point operations of a step on inputs; `layers` = 0: of the forward pass alone. */
function operationsOf(shape: EncoderShape, inputs: readonly EncoderInput[], layers: number, outputs: number): number {
  const length = ({ tokens, pooled }: EncoderInput) => (pooled ? 0 : Math.min(tokens.length, shape.maxTokens));
  const tokens = inputs.reduce((sum, input) => sum + length(input), 0);
  return encoderOperations(shape, { layers, tokens, texts: inputs.length, outputs });
}

/** The loss and accuracy on the held-out inputs, at the temperature that is best for them. */
function* evaluate(
  network: EncoderNetwork,
  shape: EncoderShape,
  data: EncoderTrainingData,
  batchSize: number,
  scale: TargetScale,
): Generator<number, { loss: number; accuracy: number }, void> {
  const { inputs, targets, outputs, heldOut } = data;
  const { mean, deviation } = scale;
  const logits = new Float32Array(heldOut.length * outputs);
  const addLexical = makeLexicalAddition(data, scale);
  for (let first = 0; first < heldOut.length; first += batchSize) {
    const batch = heldOut.slice(first, first + batchSize).map((row) => inputs[row] as EncoderInput);
    const output = network.forward(batch);
    addLexical(output.logits, output.stride, heldOut.slice(first, first + batchSize));
    for (let i = 0; i < batch.length; i++) {
      const row = output.logits.subarray(i * output.stride, i * output.stride + outputs);
      logits.set(row, (first + i) * outputs);
    }
    yield operationsOf(shape, batch, 0, outputs);
  }
  if (targets.kind === "value") {
    const error = (row: number, i: number) =>
      deviation * (logits[i] as number) + mean - (targets.values[row] as number);
    const squares = heldOut.reduce((sum, row, i) => sum + error(row, i) ** 2, 0);
    return { loss: squares / heldOut.length, accuracy: 0 };
  }
  const all = Array.from(heldOut.keys());
  const heldOutLogits: HeldOutLogits = { rows: Int32Array.from(heldOut), logits, outputs };
  const temperature = yield* fitTemperature(targets, heldOutLogits, all);
  const loss = heldOutLogLoss(targets, heldOutLogits, all, temperature);
  return { loss, accuracy: accuracyOf(targets, heldOut, logits, outputs) };
}
