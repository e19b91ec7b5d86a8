/**
 * Fine-tunes a static backbone for one task: first a head on the frozen backbone, then the layers (Kumar et al. 2022,
 * "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution"). The layers are trained by themselves.
 * The frozen head and the trained layers then form a two-expert ensemble. Each expert's logits are divided by its own
 * temperature:
 *
 *   z = (1 − s) z_head / T_head + s z_layers / T_layers    s = ½ min(1, examples a label / 40)
 *
 * With few examples, the head's answers prevail. Both temperatures are fitted on examples that are held out of the training.
 * These also tell when to stop; the best epoch is kept.
 */
import type { StaticTable } from "../backbones/text-static.ts";
import { DEFAULT_BATCH_SIZE, DEFAULT_FILTERS, resolveEpochs, stepOperations } from "../core/fine-tuning-cost.ts";
import type { Targets } from "../core/linear/targets.ts";
import { seededRandom, shuffle } from "../core/random.ts";
import { splitWords } from "../core/text/words.ts";
import { type EnsembleData, evaluateEnsemble } from "./ensemble.ts";
import { makeWorkspace } from "./kernels.ts";
import { makeLoss, type TargetScale } from "./loss.ts";
import { countWords, makeNetwork, type Network, type Rates } from "./network.ts";
import { buildVocabulary, initialiseRows, type Vocabulary } from "./vocabulary.ts";

export interface FineTuningData extends EnsembleData {
  readonly texts: readonly string[];
  /** One for each text. Texts of weight zero take no part. */
  readonly weights: Float64Array;
  /** The frozen head's temperature, for a training without held-out texts and plan. */
  readonly headTemperature: number;
}

export interface FineTuningOptions {
  readonly epochs: number | "auto";
  readonly batchSize: number | "auto";
  /** The default rates are multiplied by it. */
  readonly learningRateMultiplier: number | "auto";
  /** Whether the rows are trained too, or only the convolution and its head. */
  readonly trainRows: boolean;
  readonly seed: number;
  /** The plan of another training on the same task, which this one follows without held-out texts. */
  readonly plan: Plan | null;
  readonly onEpoch?: (epoch: Epoch) => void;
}

/** What the held-out texts of a training tell: how long to train, and the temperatures of both experts. */
export interface Plan {
  /** The epochs of the rates' schedule. */
  readonly totalEpochs: number;
  /** How many of them are trained. A training on more texts goes as far along its own schedule. */
  readonly epochs: number;
  readonly headTemperature: number;
  readonly layersTemperature: number;
}

/** The plan of a training on all examples, after trainings on parts of them. Temperatures have their geometric mean. */
export function meanPlan(plans: readonly Plan[]): Plan {
  const mean = (select: (plan: Plan) => number) => plans.reduce((sum, plan) => sum + select(plan) / plans.length, 0);
  return {
    totalEpochs: mean(({ totalEpochs }) => totalEpochs),
    epochs: mean(({ epochs }) => epochs),
    headTemperature: Math.exp(mean(({ headTemperature }) => Math.log(headTemperature))),
    layersTemperature: Math.exp(mean(({ layersTemperature }) => Math.log(layersTemperature))),
  };
}

export interface Epoch {
  readonly epoch: number;
  readonly totalEpochs: number;
  readonly trainLoss: number;
  /** Of the ensemble; absent if nothing is held out. */
  readonly validLoss?: number;
  readonly validAccuracy?: number;
}

/** Regression: the network's outputs are (value − mean) / deviation. */
export interface FineTunedNetwork extends TargetScale {
  readonly network: Network;
  readonly vocabulary: Vocabulary;
  readonly plan: Plan;
  /** s, the layers' share of the ensemble. */
  readonly share: number;
  readonly steps: number;
}

/** docs/fine-tuning.md says why they have these values, and what else was tried. */
const DEFAULTS = {
  layersRate: 1e-3,
  /** For rows of length 4. Relative to their size, the rows move a third as far in a step as the layers. */
  rowsRate: 8e-3,
  weightDecay: 0.01,
  anchorDecay: 0.1,
  warmUp: 0.05,
  wordDropout: 0.2,
  featureDropout: 0.5,
  /** Training never stops before this part of the epochs: the layers have hardly learnt, whatever few held-out texts say. */
  minEpochsFraction: 1 / 3,
  /** Training stops after so many epochs without a better one. */
  patience: 4,
  /** The same as a part of the epochs, which counts if it is more: with few examples, an epoch is a few steps. */
  patienceFraction: 1 / 4,
} as const;
/** The layers' largest share of the ensemble, and the examples a label from which on they have it. */
const MAX_LAYERS_SHARE = 0.5;
const EXAMPLES_FOR_FULL_SHARE = 40;

function batchSizeOf({ batchSize }: FineTuningOptions): number {
  return batchSize === "auto" ? DEFAULT_BATCH_SIZE : batchSize;
}

/** The floating-point operations that a training takes, at most. `dimensions` are the table's. */
export function fineTuningOperations(
  { dimensions, outputs, texts }: Pick<FineTuningData, "outputs" | "texts"> & { readonly dimensions: number },
  options: FineTuningOptions,
): number {
  const batchSize = batchSizeOf(options);
  const shape = { dimensions, filters: DEFAULT_FILTERS, outputs };
  const wordCount = texts.reduce((sum, text) => sum + splitWords(text).length, 0);
  const epochOperations = stepOperations(shape, wordCount, texts.length, Math.ceil(texts.length / batchSize));
  return epochOperations * plannedEpochs(options.plan, resolveEpochs(options.epochs, texts.length, batchSize));
}

/** How many epochs of a schedule are trained. */
function plannedEpochs(plan: Plan | null, totalEpochs: number): number {
  return plan === null ? totalEpochs : Math.max(1, Math.round((totalEpochs * plan.epochs) / plan.totalEpochs));
}

/**
 * A generator: it yields the floating-point operations done since its last yield. The same arguments give the same network.
 */
export function* fineTune(
  table: StaticTable,
  data: FineTuningData,
  options: FineTuningOptions,
): Generator<number, FineTunedNetwork, void> {
  const { targets, outputs, weights } = data;
  const { plan } = options;
  const heldOutSet = new Set(data.heldOut);
  const rows = Array.from(weights.keys()).filter((text) => weights[text] !== 0 && !heldOutSet.has(text));
  const { network, vocabulary } = makeNetworkFor(table, data, rows, options);
  const scale = meanAndDeviation(targets, rows);
  const share = MAX_LAYERS_SHARE * Math.min(1, rows.length / outputs / EXAMPLES_FOR_FULL_SHARE);
  const totalEpochs = resolveEpochs(options.epochs, rows.length, network.shape.batchSize);
  const lastEpoch = plannedEpochs(plan, totalEpochs);
  const stepsPerEpoch = Math.ceil(rows.length / network.shape.batchSize);
  const trainer: EpochTrainer = {
    network,
    vocabulary,
    rows,
    loss: makeLoss(targets, weights, outputs, scale),
    random: seededRandom(options.seed ^ 0x5bd1e995),
    ratesOf: (step) => ratesOf(step, totalEpochs, stepsPerEpoch, options),
  };
  let best: { loss: number; plan: Plan; snapshot: Float32Array[] | null } | null = null;
  let steps = 0;
  for (let epoch = 1; epoch <= lastEpoch && rows.length > 0; epoch++) {
    const trainLoss = yield* trainEpoch(trainer, steps);
    steps += stepsPerEpoch;
    if (data.heldOut.length === 0 || plan !== null) {
      options.onEpoch?.({ epoch, totalEpochs: lastEpoch, trainLoss });
      continue;
    }
    const layersLogits = yield* predictLogits(network, data.heldOut, vocabulary, scale);
    const { loss, accuracy, ...temperatures } = yield* evaluateEnsemble(data, layersLogits, share);
    options.onEpoch?.({ epoch, totalEpochs, trainLoss, validLoss: loss, validAccuracy: accuracy });
    if (epoch < DEFAULTS.minEpochsFraction * totalEpochs) continue;
    if (best === null || loss < best.loss) {
      const snapshot = epoch === lastEpoch ? null : network.snapshot();
      best = { loss, plan: { totalEpochs, epochs: epoch, ...temperatures }, snapshot };
    } else if (epoch - best.plan.epochs >= Math.max(DEFAULTS.patience, DEFAULTS.patienceFraction * totalEpochs)) break;
  }
  if (best !== null && best.snapshot !== null && best.plan.epochs < lastEpoch) network.restore(best.snapshot);
  const defaultPlan = { totalEpochs, epochs: lastEpoch, headTemperature: data.headTemperature, layersTemperature: 1 };
  return { network, vocabulary, plan: best?.plan ?? plan ?? defaultPlan, share, ...scale, steps };
}

/** The network before training: its rows are those of the table, its vocabulary is that of the texts. */
function makeNetworkFor(
  table: StaticTable,
  { texts, outputs }: FineTuningData,
  trainingRows: readonly number[],
  options: FineTuningOptions,
): { network: Network; vocabulary: Vocabulary } {
  const trainingRowSet = new Set(trainingRows);
  const vocabulary = buildVocabulary(table, texts, (text) => trainingRowSet.has(text));
  const shape = {
    dimensions: table.dimensions,
    filters: DEFAULT_FILTERS,
    outputs,
    wordCount: vocabulary.keys.length,
    trainedCount: options.trainRows ? vocabulary.trainedCount : 0,
    batchSize: batchSizeOf(options),
  };
  const network = makeNetwork(makeWorkspace(), shape, options.seed);
  initialiseRows(network.rows(), table, vocabulary);
  network.setAnchor();
  return { network, vocabulary };
}

interface EpochTrainer {
  readonly network: Network;
  readonly vocabulary: Vocabulary;
  /** The texts that are trained on. */
  readonly rows: readonly number[];
  readonly loss: ReturnType<typeof makeLoss>;
  readonly random: () => number;
  readonly ratesOf: (step: number) => Rates;
}

/** Trains one epoch, whose first step has this number. Answers the mean loss. */
function* trainEpoch(
  { network, vocabulary, rows, loss, random, ratesOf }: EpochTrainer,
  firstStep: number,
): Generator<number, number, void> {
  const { batchSize, filters } = network.shape;
  const order = shuffle([...rows], random);
  let totalLoss = 0;
  let step = firstStep;
  for (let first = 0; first < order.length; first += batchSize) {
    const batch = order.slice(first, first + batchSize);
    const texts = batch.map((row) => dropWords(vocabulary.wordIds(row), random));
    const dropoutMask = makeDropoutMask(batch.length * filters, random);
    const toLossGradient = (logits: Float32Array, stride: number) => {
      totalLoss += loss(logits, stride, batch);
    };
    yield network.step(texts, dropoutMask, toLossGradient, ratesOf(step++));
  }
  return totalLoss / rows.length;
}

/** The rates of a step, from 0: they rise linearly while warming up, and fall linearly to 0. */
function ratesOf(
  step: number,
  totalEpochs: number,
  stepsPerEpoch: number,
  { learningRateMultiplier, trainRows }: FineTuningOptions,
): Rates {
  const multiplier = learningRateMultiplier === "auto" ? 1 : learningRateMultiplier;
  const progress = step / (totalEpochs * stepsPerEpoch);
  const warmUp = progress / DEFAULTS.warmUp + 1 / (DEFAULTS.warmUp * totalEpochs * stepsPerEpoch);
  const factor = Math.min(1, warmUp) * (1 - progress);
  return {
    layers: multiplier * DEFAULTS.layersRate * factor,
    rows: trainRows ? multiplier * DEFAULTS.rowsRate * factor : 0,
    weightDecay: DEFAULTS.weightDecay,
    anchorDecay: DEFAULTS.anchorDecay,
  };
}

/** A text without some of its words, but never without all. */
function dropWords(text: Int32Array, random: () => number): Int32Array {
  const remaining = text.filter(() => random() >= DEFAULTS.wordDropout);
  return remaining.length === 0 ? text : remaining;
}

function makeDropoutMask(count: number, random: () => number): Float32Array {
  const mask = new Float32Array(count);
  for (let i = 0; i < count; i++) mask[i] = random() < DEFAULTS.featureDropout ? 0 : 1 / (1 - DEFAULTS.featureDropout);
  return mask;
}

export function meanAndDeviation(targets: Targets, rows: readonly number[]): TargetScale {
  if (targets.kind !== "value" || rows.length === 0) return { mean: 0, deviation: 1 };
  const values = rows.map((row) => targets.values[row] as number);
  const mean = values.reduce((sum, value) => sum + value / values.length, 0);
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2 / values.length, 0);
  return { mean, deviation: Math.sqrt(variance) || 1 };
}

/** The layers' logits (values, for regression) of texts, one after another. */
function* predictLogits(
  network: Network,
  rows: readonly number[],
  vocabulary: Vocabulary,
  { mean, deviation }: TargetScale,
): Generator<number, Float32Array, void> {
  const { outputs, batchSize } = network.shape;
  const all = new Float32Array(rows.length * outputs);
  for (let first = 0; first < rows.length; first += batchSize) {
    const texts = rows.slice(first, first + batchSize).map(vocabulary.wordIds);
    const { logits, stride } = network.forward(texts);
    texts.forEach((_, i) => {
      const row = logits.subarray(i * stride, i * stride + outputs);
      const values = row.map((z) => deviation * z + mean);
      all.set(values, (first + i) * outputs);
    });
    yield stepOperations(network.shape, countWords(texts), texts.length, 0);
  }
  return all;
}
