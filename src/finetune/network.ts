/**
 * What fine-tuning trains of a static backbone: the rows of its words, and a convolution over them whose largest value each
 * filter keeps (Kim 2014, "Convolutional Neural Networks for Sentence Classification"), which tells what the sum of words
 * cannot: their order and their neighbours.
 *
 *   h_f = max(0, c_f + max_t K_f · (x_{t−1}, x_t, x_{t+1}))     z = W h + b
 *
 * x_t: the row of word t, zeros beyond the text; K: filters × 3 dimensions; W: outputs × filters. In training a part of the
 * words and of the features are left out. AdamW (Loshchilov and Hutter 2019) on all of it; the rows' steps are those of the
 * rows that a batch has, and draw them back towards where pre-training left them.
 */
import { WINDOW } from "../backbones/fine-tuned.ts";
import { seededRandom } from "../core/random.ts";
import type { Workspace } from "./kernels.ts";

/** Of a text in training; what follows is left out. */
export const MAX_WORDS = 128;
const BETA1 = 0.9;
const BETA2 = 0.999;
const EPSILON = 1e-8;

export interface NetworkShape {
  readonly dimensions: number;
  readonly filters: number;
  readonly outputs: number;
  /** Words that have rows, and how many of them, the first, are trained. `dimensions` are a multiple of 32, `filters` of 8. */
  readonly wordCount: number;
  readonly trainedCount: number;
  /** Texts of a batch, at most. */
  readonly batchSize: number;
}

/** The rates of one step. */
export interface Rates {
  /** 0: the rows stay as they are. */
  readonly rows: number;
  readonly layers: number;
  readonly weightDecay: number;
  /** How much of the way back to its pre-trained row a row goes, times its rate. */
  readonly anchorDecay: number;
}

export interface Network {
  readonly shape: NetworkShape;
  /** words × dimensions. */
  rows(): Float32Array;
  /** Keeps the trained rows as they are now for `pull`. To be called once, when they are filled in. */
  setAnchor(): void;
  /** filters × 3 dimensions, outputs × filters (outputs padded), filters, outputs (padded). */
  layers(): { kernel: Float32Array; weights: Float32Array; filterBias: Float32Array; bias: Float32Array };
  /** What the last step found for `layers`, and for the words in their places: text after text, a place of zeros before each. */
  gradients(): ReturnType<Network["layers"]> & { readonly words: Float32Array };
  /** The numbers that steps change, to keep and to put back. */
  snapshot(): Float32Array[];
  restore(snapshot: readonly Float32Array[]): void;
  /** The features (texts × filters) and logits (texts × `stride`) of texts, each a list of words. They are views, good until the next call. */
  forward(texts: readonly Int32Array[]): { features: Float32Array; logits: Float32Array; stride: number };
  /**
   * One step on texts. `keep` has a factor for each text and feature (0: left out); `gradient` turns the logits into
   * ∂loss/∂logits, in place. Answers the operations it took.
   */
  step(
    texts: readonly Int32Array[],
    dropoutMask: Float32Array,
    toLossGradient: (logits: Float32Array, stride: number) => void,
    rates: Rates,
  ): number;
}

/** A network whose layers are drawn by `seed`, and whose rows are zeros. */
export function makeNetwork(workspace: Workspace, shape: NetworkShape, seed: number): Network {
  const { dimensions: d, filters, outputs, wordCount, trainedCount, batchSize } = shape;
  const { kernels } = workspace;
  const stride = Math.ceil(outputs / 8) * 8;
  const paddedBatch = Math.ceil(batchSize / 4) * 4;
  const width = WINDOW * d;
  const positions = paddedBatch * (MAX_WORDS + 1) + WINDOW + 1;

  const table = workspace.reserve(wordCount * d);
  const [anchors, rowMeans, rowSquares] = [0, 0, 0].map(() => workspace.reserve(trainedCount * d)) as [
    number,
    number,
    number,
  ];
  const size = filters * width + stride * filters + filters + stride;
  const [parameters, gradients, layerMeans, layerSquares] = [0, 0, 0, 0].map(() => workspace.reserve(size)) as [
    number,
    number,
    number,
    number,
  ];
  const weightsAt = 4 * filters * width;
  const filterBiasAt = weightsAt + 4 * stride * filters;
  const biasAt = filterBiasAt + 4 * filters;
  const x = workspace.reserve(positions * d);
  const xGradient = workspace.reserve(positions * d);
  const convolutions = workspace.reserve(positions * filters);
  const spans = workspace.reserve(2 * paddedBatch);
  const features = workspace.reserve(paddedBatch * filters);
  const maxima = workspace.reserve(paddedBatch * filters);
  const featureGradient = workspace.reserve(paddedBatch * filters);
  const logits = workspace.reserve(paddedBatch * stride);
  const panel = workspace.reserve(8 * Math.max(width, filters, stride, paddedBatch));
  const rowList = workspace.reserve(positions);
  const starts = workspace.reserve(positions + 1);
  const members = workspace.reserve(positions);
  const scratch = workspace.reserve(d);

  const floats = workspace.floats;
  const random = seededRandom(seed);
  const fillUniform = (offset: number, count: number, bound: number) => {
    const values = floats(offset, count);
    for (let i = 0; i < count; i++) values[i] = (2 * random() - 1) * bound;
  };
  fillUniform(parameters, filters * width, 1 / Math.sqrt(width));
  fillUniform(parameters + weightsAt, outputs * filters, 1 / Math.sqrt(filters));
  fillUniform(parameters + filterBiasAt, filters, 1 / Math.sqrt(width));

  let steps = 0;

  const layersAt = (offset: number) => ({
    kernel: floats(offset, filters * width),
    weights: floats(offset + weightsAt, stride * filters),
    filterBias: floats(offset + filterBiasAt, filters),
    bias: floats(offset + biasAt, stride),
  });

  /** Lays out the texts' words, zeros between them, and answers how many places there are. */
  const writeInputs = (texts: readonly Int32Array[]): number => {
    const from = floats(table, wordCount * d);
    const to = floats(x, positions * d);
    const span = workspace.integers(spans, 2 * paddedBatch);
    let position = 0;
    to.fill(0, 0, d);
    for (let i = 0; i < paddedBatch; i++) {
      const text = texts[i];
      const length = Math.min(MAX_WORDS, text?.length ?? 0);
      span[2 * i] = position;
      span[2 * i + 1] = length;
      if (text === undefined) continue;
      for (let t = 0; t < length; t++) {
        const row = text[t] as number;
        to.set(from.subarray(row * d, (row + 1) * d), (position + 1 + t) * d);
      }
      position += length + 1;
      to.fill(0, position * d, (position + 1) * d);
    }
    const padded = Math.ceil(position / 4) * 4;
    to.fill(0, (position + 1) * d, (padded + WINDOW) * d);
    return padded;
  };

  const forward = (texts: readonly Int32Array[]): number => {
    const count = writeInputs(texts);
    kernels.multiply(0, count, filters, width, x, d, 1, parameters, 1, width, convolutions, panel, 1);
    kernels.maxPool(paddedBatch, spans, convolutions, filters, parameters + filterBiasAt, features, maxima);
    return count;
  };

  const computeLogits = () => {
    kernels.multiply(
      0,
      paddedBatch,
      stride,
      filters,
      features,
      filters,
      1,
      parameters + weightsAt,
      1,
      filters,
      logits,
      panel,
      1,
    );
    const values = floats(logits, paddedBatch * stride);
    const bias = floats(parameters + biasAt, outputs);
    for (let i = 0; i < paddedBatch; i++)
      for (let k = 0; k < outputs; k++)
        values[i * stride + k] = (values[i * stride + k] as number) + (bias[k] as number);
  };

  return {
    shape,
    rows: () => floats(table, wordCount * d),
    setAnchor: () => floats(anchors, trainedCount * d).set(floats(table, trainedCount * d)),
    layers: () => layersAt(parameters),
    gradients: () => ({ ...layersAt(gradients), words: floats(xGradient, positions * d) }),
    snapshot: () => [floats(parameters, size).slice(), floats(table, trainedCount * d).slice()],
    restore([layers, rows]) {
      if (layers === undefined || rows === undefined) throw new Error("This is no snapshot.");
      floats(parameters, size).set(layers);
      floats(table, trainedCount * d).set(rows);
    },
    forward(texts) {
      forward(texts);
      computeLogits();
      return {
        features: floats(features, paddedBatch * filters),
        logits: floats(logits, paddedBatch * stride),
        stride,
      };
    },
    step(texts, dropoutMask, toLossGradient, rates) {
      const count = forward(texts);
      const h = floats(features, paddedBatch * filters);
      for (let i = 0; i < texts.length * filters; i++) h[i] = (h[i] as number) * (dropoutMask[i] as number);
      computeLogits();
      const z = floats(logits, paddedBatch * stride);
      toLossGradient(z, stride);
      z.fill(0, texts.length * stride);
      for (let i = 0; i < texts.length; i++) z.fill(0, i * stride + outputs, (i + 1) * stride);

      const W = parameters + weightsAt;
      kernels.multiply(
        0,
        stride,
        filters,
        paddedBatch,
        logits,
        1,
        stride,
        features,
        filters,
        1,
        gradients + weightsAt,
        panel,
        1,
      );
      kernels.multiply(0, paddedBatch, filters, stride, logits, stride, 1, W, filters, 1, featureGradient, panel, 1);
      const g = floats(featureGradient, paddedBatch * filters);
      for (let i = 0; i < texts.length * filters; i++) g[i] = (g[i] as number) * (dropoutMask[i] as number);
      const biasGradient = floats(gradients + biasAt, stride);
      biasGradient.fill(0);
      for (let i = 0; i < texts.length; i++)
        for (let k = 0; k < outputs; k++) biasGradient[k] = (biasGradient[k] as number) + (z[i * stride + k] as number);

      const trainsRows = rates.rows > 0 && trainedCount > 0;
      floats(gradients, filters * width).fill(0);
      if (trainsRows) floats(xGradient, (count + WINDOW) * d).fill(0);
      const filterArguments = [parameters, gradients, gradients + filterBiasAt, trainsRows ? xGradient : 0] as const;
      kernels.convolutionBack(texts.length, filters, maxima, featureGradient, x, d, width, ...filterArguments);

      steps++;
      const correction = Math.sqrt(1 - BETA2 ** steps) / (1 - BETA1 ** steps);
      const adam = [BETA1, BETA2, EPSILON] as const;
      kernels.shrink(parameters, filters * width + stride * filters, 1 - rates.layers * rates.weightDecay);
      kernels.adam(parameters, layerMeans, layerSquares, gradients, size, rates.layers * correction, ...adam);
      if (trainsRows) {
        const rows = listRows(workspace, texts, trainedCount, rowList, starts, members);
        const rowArguments = [rowList, starts, members, 0, xGradient, d, table, rowMeans, rowSquares, scratch] as const;
        kernels.adamRows(0, rows, ...rowArguments, rates.rows * correction, ...adam);
        kernels.pullRows(rows, rowList, d, table, anchors, rates.rows * rates.anchorDecay);
      }
      return stepOperations(shape, countWords(texts), texts.length, 1);
    },
  };
}

/** How many words of texts a step has. */
export function countWords(texts: readonly Int32Array[]): number {
  return texts.reduce((sum, { length }) => sum + Math.min(MAX_WORDS, length), 0);
}

/** Writes which trained rows the texts have, each once, and in which places; answers how many they are. */
function listRows(
  workspace: Workspace,
  texts: readonly Int32Array[],
  trained: number,
  rowList: number,
  starts: number,
  members: number,
): number {
  const positionsOfRow = new Map<number, number[]>();
  let position = 1;
  let count = 0;
  for (const text of texts) {
    const length = Math.min(MAX_WORDS, text.length);
    for (let t = 0; t < length; t++) {
      const row = text[t] as number;
      if (row >= trained) continue;
      count++;
      const known = positionsOfRow.get(row);
      if (known === undefined) positionsOfRow.set(row, [position + t]);
      else known.push(position + t);
    }
    position += length + 1;
  }
  const [rows, from, to] = [
    workspace.integers(rowList, positionsOfRow.size),
    workspace.integers(starts, positionsOfRow.size + 1),
    workspace.integers(members, count),
  ];
  let offset = 0;
  let index = 0;
  for (const [row, places] of positionsOfRow) {
    rows[index] = row;
    from[index++] = offset;
    for (const each of places) to[offset++] = each;
  }
  from[index] = offset;
  return index;
}

/** Floating-point operations of steps on texts that have so many words together. */
export function stepOperations(
  { dimensions, filters, outputs }: NetworkShape,
  words: number,
  texts: number,
  steps: number,
): number {
  const window = 2 * WINDOW * dimensions * filters;
  const update = 10 * filters * (WINDOW * dimensions + outputs);
  return (words + texts) * window + texts * (2 * window + 6 * filters * outputs) + steps * update;
}
