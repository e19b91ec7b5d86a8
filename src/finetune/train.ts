/**
 * Fine-tunes a static backbone for one task: head first on the frozen backbone, then the layers (Kumar et al. 2022,
 * "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution"). The layers learn the task by
 * themselves, and are then put beside the frozen head as two experts, each at its own temperature:
 *
 *   z = (1 − s) z_head / T_head + s z_layers / T_layers    s = ½ min(1, examples a label / 40)
 *
 * so that where the layers have learnt nothing the head's answers stay. Both temperatures are those of
 * examples that were held out of the training; they stop it as well, and the best epoch is kept.
 */
import type { StaticTable } from "../backbones/text-static.ts";
import { fitTemperature, type HeldOutLogits, heldOutLogLoss } from "../core/evaluation/calibration.ts";
import { logSumExp, sigmoid } from "../core/evaluation/probability.ts";
import type { Targets } from "../core/linear/targets.ts";
import { seededRandom, shuffle } from "../core/random.ts";
import { splitWords } from "../core/text/words.ts";
import { makeWorkspace } from "./kernels.ts";
import { countWords, makeNetwork, type Network, stepOperations } from "./network.ts";
import { buildVocabulary, initialiseRows, type Vocabulary } from "./vocabulary.ts";

export interface FineTuningData {
  readonly texts: readonly string[];
  readonly targets: Targets;
  readonly outputs: number;
  /** One for each text; those of weight zero take no part. */
  readonly weights: Float64Array;
  /** Texts that are held out of the training, none where `plan` says how long it is. */
  readonly heldOut: readonly number[];
  /** The frozen head's logits of the held-out texts, one after another. */
  readonly headLogits: Float32Array;
  /** The frozen head's own, where nothing is held out here. */
  readonly headTemperature: number;
}

export interface FineTuningOptions {
  readonly epochs: number | "auto";
  readonly batchSize: number | "auto";
  /** Times the rates that are the default. */
  readonly learningRateMultiplier: number | "auto";
  /** Whether the rows are trained, or the convolution and its head alone. */
  readonly trainRows: boolean;
  readonly seed: number;
  /** What another training on the same task has found, to do the same without held-out texts. */
  readonly plan: Plan | null;
  readonly onEpoch?: (epoch: Epoch) => void;
}

/** What held-out texts tell: how long to train, and how sure both experts may be. */
export interface Plan {
  /** The epochs of the rates' schedule. */
  readonly totalEpochs: number;
  /** How many of them are trained. */
  readonly epochs: number;
  readonly headTemperature: number;
  readonly layersTemperature: number;
}

export interface Epoch {
  readonly epoch: number;
  readonly totalEpochs: number;
  readonly trainLoss: number;
  /** Of both experts together; absent where nothing is held out. */
  readonly validLoss?: number;
  readonly validAccuracy?: number;
}

export interface FineTunedNetwork {
  readonly network: Network;
  readonly vocabulary: Vocabulary;
  readonly plan: Plan;
  /** s, the layers' part of the answer. */
  readonly share: number;
  /** Regression: outputs are (value − mean) / deviation. */
  readonly mean: number;
  readonly deviation: number;
  readonly steps: number;
}

/** docs/fine-tuning.md tells why each, and what else was tried. */
const DEFAULTS = {
  filters: 256,
  batchSize: 64,
  layersRate: 1e-3,
  /** Of rows of length 4: a third of the layers' steps, in proportion to the numbers that there are. */
  rowsRate: 8e-3,
  weightDecay: 0.01,
  anchorDecay: 0.1,
  warmUp: 0.05,
  wordDropout: 0.2,
  featureDropout: 0.5,
  labelSmoothing: 0.1,
  /** Of the epochs: before it the layers are hardly better than where they began, whatever few held-out texts say. */
  minEpochsFraction: 1 / 3,
  patience: 4,
  /** The same, as a part of the epochs: those of few examples are a few steps each. */
  patienceFraction: 1 / 4,
} as const;
/** Of both experts' answer the layers' part, and the examples a label from which on it is so large. */
const MAX_LAYERS_SHARE = 0.5;
const EXAMPLES_FOR_FULL_SHARE = 40;
const TARGET_STEPS = 1500;
const MIN_EPOCHS = 4;
const MAX_EPOCHS = 24;

function epochsOf({ epochs }: FineTuningOptions, examples: number, batchSize: number): number {
  if (epochs !== "auto") return epochs;
  return Math.max(MIN_EPOCHS, Math.min(MAX_EPOCHS, Math.ceil((TARGET_STEPS * batchSize) / examples)));
}

/** The operations that a training takes, at most. */
export function fineTuningOperations(
  {
    dimensions,
    outputs,
    texts,
  }: { readonly dimensions: number; readonly outputs: number; readonly texts: readonly string[] },
  options: FineTuningOptions,
): number {
  const batchSize = options.batchSize === "auto" ? DEFAULTS.batchSize : options.batchSize;
  const shape = { dimensions, filters: DEFAULTS.filters, outputs, wordCount: 0, trainedCount: 0, batchSize };
  const wordCount = texts.reduce((sum, text) => sum + splitWords(text).length, 0);
  const epochOperations = stepOperations(shape, wordCount, texts.length, Math.ceil(texts.length / batchSize));
  return epochOperations * (options.plan?.epochs ?? epochsOf(options, texts.length, batchSize));
}

/** A generator: it yields the floating-point operations done since its last yield. The same arguments give the same network. */
export function* fineTune(
  table: StaticTable,
  data: FineTuningData,
  options: FineTuningOptions,
): Generator<number, FineTunedNetwork, void> {
  const { targets, outputs, weights } = data;
  const heldOutSet = new Set(data.heldOut);
  const trainingRows = Array.from(weights.keys()).filter((text) => weights[text] !== 0 && !heldOutSet.has(text));
  const trainingRowSet = new Set(trainingRows);
  const vocabulary = buildVocabulary(table, data.texts, (text) => trainingRowSet.has(text));
  const batchSize = options.batchSize === "auto" ? DEFAULTS.batchSize : options.batchSize;
  const shape = { dimensions: table.dimensions, filters: DEFAULTS.filters, outputs, wordCount: vocabulary.keys.length };
  const trainedCount = options.trainRows ? vocabulary.trainedCount : 0;
  const network = makeNetwork(makeWorkspace(), { ...shape, trainedCount, batchSize }, options.seed);
  initialiseRows(network.rows(), table, vocabulary);
  network.setAnchor();
  const { mean, deviation } = meanAndDeviation(targets, trainingRows);
  const loss = makeLoss(targets, weights, outputs, { mean, deviation });

  const { plan } = options;
  const share = MAX_LAYERS_SHARE * Math.min(1, trainingRows.length / outputs / EXAMPLES_FOR_FULL_SHARE);
  const totalEpochs = plan?.totalEpochs ?? epochsOf(options, trainingRows.length, batchSize);
  const lastEpoch = plan?.epochs ?? totalEpochs;
  const multiplier = options.learningRateMultiplier === "auto" ? 1 : options.learningRateMultiplier;
  const random = seededRandom(options.seed ^ 0x5bd1e995);
  const stepsPerEpoch = Math.ceil(trainingRows.length / batchSize);
  let best: { loss: number; plan: Plan; snapshot: Float32Array[] | null } | null = null;
  let step = 0;
  for (let epoch = 1; epoch <= lastEpoch && trainingRows.length > 0; epoch++) {
    const order = shuffle([...trainingRows], random);
    let totalLoss = 0;
    for (let first = 0; first < order.length; first += batchSize) {
      const rows = order.slice(first, first + batchSize);
      const progress = step++ / (totalEpochs * stepsPerEpoch);
      const rateFactor =
        Math.min(1, progress / DEFAULTS.warmUp + 1 / (DEFAULTS.warmUp * totalEpochs * stepsPerEpoch)) * (1 - progress);
      const rates = {
        layers: multiplier * DEFAULTS.layersRate * rateFactor,
        rows: options.trainRows ? multiplier * DEFAULTS.rowsRate * rateFactor : 0,
        weightDecay: DEFAULTS.weightDecay,
        anchorDecay: DEFAULTS.anchorDecay,
      };
      const texts = rows.map((row) => dropWords(vocabulary.wordIds(row), random));
      const dropoutMask = makeDropoutMask(rows.length * DEFAULTS.filters, random);
      yield network.step(texts, dropoutMask, (logits, stride) => (totalLoss += loss(logits, stride, rows)), rates);
    }
    const trainLoss = totalLoss / trainingRows.length;
    if (data.heldOut.length === 0 || plan !== null) {
      options.onEpoch?.({ epoch, totalEpochs: lastEpoch, trainLoss });
      continue;
    }
    const layers = yield* predictLogits(network, data.heldOut, vocabulary, { mean, deviation });
    const evaluation = yield* evaluateExperts(targets, data.heldOut, outputs, data.headLogits, layers, share);
    options.onEpoch?.({
      epoch,
      totalEpochs,
      trainLoss,
      validLoss: evaluation.loss,
      validAccuracy: evaluation.accuracy,
    });
    if (epoch < DEFAULTS.minEpochsFraction * totalEpochs) continue;
    if (best === null || evaluation.loss < best.loss) {
      const { headTemperature, layersTemperature } = evaluation;
      best = {
        loss: evaluation.loss,
        plan: { totalEpochs, epochs: epoch, headTemperature, layersTemperature },
        snapshot: epoch === lastEpoch ? null : network.snapshot(),
      };
    } else if (epoch - best.plan.epochs >= Math.max(DEFAULTS.patience, DEFAULTS.patienceFraction * totalEpochs)) {
      break;
    }
  }
  if (best !== null && best.snapshot !== null && best.plan.epochs < lastEpoch) network.restore(best.snapshot);
  const finalPlan = best?.plan ??
    plan ?? { totalEpochs, epochs: lastEpoch, headTemperature: data.headTemperature, layersTemperature: 1 };
  return {
    network,
    vocabulary,
    plan: finalPlan,
    share,
    mean,
    deviation,
    steps: step,
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

function meanAndDeviation(targets: Targets, rows: readonly number[]): { mean: number; deviation: number } {
  if (targets.kind !== "value" || rows.length === 0) return { mean: 0, deviation: 1 };
  const values = rows.map((row) => targets.values[row] as number);
  const mean = values.reduce((sum, value) => sum + value / values.length, 0);
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2 / values.length, 0);
  return { mean, deviation: Math.sqrt(variance) || 1 };
}

/**
 * Makes the function that turns logits of rows into the gradient of their mean loss, in place, and answers the sum of
 * their losses: cross-entropy with label smoothing (Szegedy et al. 2016), binary cross-entropies, or half the square.
 */
export function makeLoss(
  targets: Targets,
  weights: Float64Array,
  outputs: number,
  { mean, deviation }: { readonly mean: number; readonly deviation: number },
): (logits: Float32Array, stride: number, rows: readonly number[]) => number {
  const smoothed = DEFAULTS.labelSmoothing / outputs;
  return (logits, stride, rows) => {
    let total = 0;
    rows.forEach((row, i) => {
      const z = logits.subarray(i * stride, i * stride + outputs);
      const weight = weights[row] as number;
      const factor = weight / rows.length;
      if (targets.kind === "value") {
        const error = (z[0] as number) - ((targets.values[row] as number) - mean) / deviation;
        total += (weight * error * error) / 2;
        z[0] = factor * error;
      } else if (targets.kind === "single") {
        total += weight * crossEntropy(z, targets.indices[row] as number, smoothed, factor);
      } else {
        total += weight * binaryCrossEntropies(z, new Set(targets.indices[row]), factor);
      }
    });
    return total;
  };
}

function crossEntropy(z: Float32Array, target: number, smoothed: number, factor: number): number {
  const sum = logSumExp(z);
  let value = 0;
  for (let k = 0; k < z.length; k++) {
    const log = (z[k] as number) - sum;
    const truth = smoothed + (k === target ? 1 - smoothed * z.length : 0);
    value -= truth * log;
    z[k] = factor * (Math.exp(log) - truth);
  }
  return value;
}

function binaryCrossEntropies(z: Float32Array, positive: ReadonlySet<number>, factor: number): number {
  let value = 0;
  for (let k = 0; k < z.length; k++) {
    const logit = z[k] as number;
    const truth = positive.has(k) ? 1 : 0;
    value += Math.max(logit, 0) - truth * logit + Math.log1p(Math.exp(-Math.abs(logit)));
    z[k] = factor * (sigmoid(logit) - truth);
  }
  return value;
}

/** The layers' logits (values, for regression) of texts, one after another. */
function* predictLogits(
  network: Network,
  rows: readonly number[],
  vocabulary: Vocabulary,
  { mean, deviation }: { readonly mean: number; readonly deviation: number },
): Generator<number, Float32Array, void> {
  const { outputs, batchSize } = network.shape;
  const all = new Float32Array(rows.length * outputs);
  for (let first = 0; first < rows.length; first += batchSize) {
    const texts = rows.slice(first, first + batchSize).map(vocabulary.wordIds);
    const { logits, stride } = network.forward(texts);
    texts.forEach((_, i) => {
      for (let k = 0; k < outputs; k++)
        all[(first + i) * outputs + k] = deviation * (logits[i * stride + k] as number) + mean;
    });
    yield stepOperations(network.shape, countWords(texts), texts.length, 0);
  }
  return all;
}

/** How both experts do together, each at the temperature that is best for it alone. */
function* evaluateExperts(
  targets: Targets,
  rows: readonly number[],
  outputs: number,
  head: Float32Array,
  layers: Float32Array,
  share: number,
): Generator<number, { loss: number; accuracy: number; headTemperature: number; layersTemperature: number }, void> {
  const all = Array.from(rows.keys());
  const toHeldOut = (logits: Float32Array): HeldOutLogits => ({ rows: Int32Array.from(rows), logits, outputs });
  if (targets.kind === "value") {
    let squares = 0;
    rows.forEach((row, at) => {
      const value = (1 - share) * (head[at] as number) + share * (layers[at] as number);
      squares += (value - (targets.values[row] as number)) ** 2;
    });
    return { loss: squares / rows.length, accuracy: 0, headTemperature: 1, layersTemperature: 1 };
  }
  const headTemperature = yield* fitTemperature(targets, toHeldOut(head), all);
  const layersTemperature = yield* fitTemperature(targets, toHeldOut(layers), all);
  const [headFactor, layersFactor] = [(1 - share) / headTemperature, share / layersTemperature];
  const combinedLogits = head.map((z, i) => headFactor * z + layersFactor * (layers[i] as number));
  // Two that agree may be surer than either: the scale is the least part of what is judged here.
  const temperature = yield* fitTemperature(targets, toHeldOut(combinedLogits), all);
  const loss = heldOutLogLoss(targets, toHeldOut(combinedLogits), all, temperature);
  let correct = 0;
  rows.forEach((row, at) => {
    const z = combinedLogits.subarray(at * outputs, (at + 1) * outputs);
    if (targets.kind === "single") correct += Number(z.indexOf(Math.max(...z)) === targets.indices[row]);
    else {
      const positive = new Set(targets.indices[row]);
      correct += Number(z.every((logit, k) => logit >= 0 === positive.has(k)));
    }
  });
  return { loss, accuracy: correct / rows.length, headTemperature, layersTemperature };
}
