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
import { seededRandom } from "../core/random.ts";
import type { Workspace } from "./kernels.ts";

export const WINDOW = 3;
/** Of a text in training; what follows is left out. */
export const MOST_WORDS = 128;
const BETA1 = 0.9;
const BETA2 = 0.999;
const EPSILON = 1e-8;

export interface Shape {
  readonly dimensions: number;
  readonly filters: number;
  readonly outputs: number;
  /** Words that have rows, and how many of them, the first, are trained. `dimensions` are a multiple of 32, `filters` of 8. */
  readonly words: number;
  readonly trained: number;
  /** Texts of a batch, at most. */
  readonly batch: number;
}

/** The rates of one step. */
export interface Rates {
  /** 0: the rows stay as they are. */
  readonly rows: number;
  readonly layers: number;
  readonly weightDecay: number;
  /** How much of the way back to its pre-trained row a row goes, times its rate. */
  readonly pull: number;
}

export interface Network {
  readonly shape: Shape;
  /** words × dimensions. */
  rows(): Float32Array;
  /** Keeps the trained rows as they are now for `pull`. To be called once, when they are filled in. */
  anchor(): void;
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
    keep: Float32Array,
    gradient: (logits: Float32Array, stride: number) => void,
    rates: Rates,
  ): number;
}

/** A network whose layers are drawn by `seed`, and whose rows are zeros. */
export function makeNetwork(workspace: Workspace, shape: Shape, seed: number): Network {
  const { dimensions: d, filters, outputs, words, trained, batch } = shape;
  const { kernels } = workspace;
  const stride = Math.ceil(outputs / 8) * 8;
  const room = Math.ceil(batch / 4) * 4;
  const width = WINDOW * d;
  const places = room * (MOST_WORDS + 1) + WINDOW + 1;

  const table = workspace.reserve(words * d);
  const [anchors, means, squares] = [0, 0, 0].map(() => workspace.reserve(trained * d)) as [number, number, number];
  const size = filters * width + stride * filters + filters + stride;
  const [parameters, gradients, ofMeans, ofSquares] = [0, 0, 0, 0].map(() => workspace.reserve(size)) as [
    number,
    number,
    number,
    number,
  ];
  const weightsAt = 4 * filters * width;
  const filterBiasAt = weightsAt + 4 * stride * filters;
  const biasAt = filterBiasAt + 4 * filters;
  const x = workspace.reserve(places * d);
  const xGradient = workspace.reserve(places * d);
  const sums = workspace.reserve(places * filters);
  const spans = workspace.reserve(2 * room);
  const features = workspace.reserve(room * filters);
  const maxima = workspace.reserve(room * filters);
  const featureGradient = workspace.reserve(room * filters);
  const logits = workspace.reserve(room * stride);
  const panel = workspace.reserve(8 * Math.max(width, filters, stride, room));
  const list = workspace.reserve(places);
  const starts = workspace.reserve(places + 1);
  const members = workspace.reserve(places);
  const scratch = workspace.reserve(d);

  const floats = workspace.floats;
  const random = seededRandom(seed);
  const draw = (offset: number, count: number, bound: number) => {
    const values = floats(offset, count);
    for (let i = 0; i < count; i++) values[i] = (2 * random() - 1) * bound;
  };
  draw(parameters, filters * width, 1 / Math.sqrt(width));
  draw(parameters + weightsAt, outputs * filters, 1 / Math.sqrt(filters));
  draw(parameters + filterBiasAt, filters, 1 / Math.sqrt(width));

  let steps = 0;

  const layersAt = (offset: number) => ({
    kernel: floats(offset, filters * width),
    weights: floats(offset + weightsAt, stride * filters),
    filterBias: floats(offset + filterBiasAt, filters),
    bias: floats(offset + biasAt, stride),
  });

  /** Lays out the texts' words, zeros between them, and answers how many places there are. */
  const layOut = (texts: readonly Int32Array[]): number => {
    const from = floats(table, words * d);
    const to = floats(x, places * d);
    const span = workspace.integers(spans, 2 * room);
    let place = 0;
    to.fill(0, 0, d);
    for (let i = 0; i < room; i++) {
      const text = texts[i];
      const length = Math.min(MOST_WORDS, text?.length ?? 0);
      span[2 * i] = place;
      span[2 * i + 1] = length;
      if (text === undefined) continue;
      for (let t = 0; t < length; t++) {
        const row = text[t] as number;
        to.set(from.subarray(row * d, (row + 1) * d), (place + 1 + t) * d);
      }
      place += length + 1;
      to.fill(0, place * d, (place + 1) * d);
    }
    const padded = Math.ceil(place / 4) * 4;
    to.fill(0, (place + 1) * d, (padded + WINDOW) * d);
    return padded;
  };

  const forward = (texts: readonly Int32Array[]): number => {
    const count = layOut(texts);
    kernels.multiply(0, count, filters, width, x, d, 1, parameters, 1, width, sums, panel, 1);
    kernels.maxPool(room, spans, sums, filters, parameters + filterBiasAt, features, maxima);
    return count;
  };

  const toLogits = () => {
    kernels.multiply(
      0,
      room,
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
    const values = floats(logits, room * stride);
    const bias = floats(parameters + biasAt, outputs);
    for (let i = 0; i < room; i++)
      for (let k = 0; k < outputs; k++)
        values[i * stride + k] = (values[i * stride + k] as number) + (bias[k] as number);
  };

  return {
    shape,
    rows: () => floats(table, words * d),
    anchor: () => floats(anchors, trained * d).set(floats(table, trained * d)),
    layers: () => layersAt(parameters),
    gradients: () => ({ ...layersAt(gradients), words: floats(xGradient, places * d) }),
    snapshot: () => [floats(parameters, size).slice(), floats(table, trained * d).slice()],
    restore([layers, rows]) {
      if (layers === undefined || rows === undefined) throw new Error("This is no snapshot.");
      floats(parameters, size).set(layers);
      floats(table, trained * d).set(rows);
    },
    forward(texts) {
      forward(texts);
      toLogits();
      return { features: floats(features, room * filters), logits: floats(logits, room * stride), stride };
    },
    step(texts, keep, gradient, rates) {
      const count = forward(texts);
      const h = floats(features, room * filters);
      for (let i = 0; i < texts.length * filters; i++) h[i] = (h[i] as number) * (keep[i] as number);
      toLogits();
      const z = floats(logits, room * stride);
      gradient(z, stride);
      z.fill(0, texts.length * stride);
      for (let i = 0; i < texts.length; i++) z.fill(0, i * stride + outputs, (i + 1) * stride);

      const W = parameters + weightsAt;
      kernels.multiply(
        0,
        stride,
        filters,
        room,
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
      kernels.multiply(0, room, filters, stride, logits, stride, 1, W, filters, 1, featureGradient, panel, 1);
      const g = floats(featureGradient, room * filters);
      for (let i = 0; i < texts.length * filters; i++) g[i] = (g[i] as number) * (keep[i] as number);
      const biasGradient = floats(gradients + biasAt, stride);
      biasGradient.fill(0);
      for (let i = 0; i < texts.length; i++)
        for (let k = 0; k < outputs; k++) biasGradient[k] = (biasGradient[k] as number) + (z[i * stride + k] as number);

      const trainsRows = rates.rows > 0 && trained > 0;
      floats(gradients, filters * width).fill(0);
      if (trainsRows) floats(xGradient, (count + WINDOW) * d).fill(0);
      const ofFilters = [parameters, gradients, gradients + filterBiasAt, trainsRows ? xGradient : 0] as const;
      kernels.convolutionBack(texts.length, filters, maxima, featureGradient, x, d, width, ...ofFilters);

      steps++;
      const correction = Math.sqrt(1 - BETA2 ** steps) / (1 - BETA1 ** steps);
      const adam = [BETA1, BETA2, EPSILON] as const;
      kernels.shrink(parameters, filters * width + stride * filters, 1 - rates.layers * rates.weightDecay);
      kernels.adam(parameters, ofMeans, ofSquares, gradients, size, rates.layers * correction, ...adam);
      if (trainsRows) {
        const rows = listRows(workspace, texts, trained, list, starts, members);
        const ofRows = [list, starts, members, 0, xGradient, d, table, means, squares, scratch] as const;
        kernels.adamRows(0, rows, ...ofRows, rates.rows * correction, ...adam);
        kernels.pullRows(rows, list, d, table, anchors, rates.rows * rates.pull);
      }
      return stepOperations(shape, wordsOf(texts), texts.length, 1);
    },
  };
}

/** How many words of texts a step has. */
export function wordsOf(texts: readonly Int32Array[]): number {
  return texts.reduce((sum, { length }) => sum + Math.min(MOST_WORDS, length), 0);
}

/** Writes which trained rows the texts have, each once, and in which places; answers how many they are. */
function listRows(
  workspace: Workspace,
  texts: readonly Int32Array[],
  trained: number,
  list: number,
  starts: number,
  members: number,
): number {
  const placesOf = new Map<number, number[]>();
  let place = 1;
  let count = 0;
  for (const text of texts) {
    const length = Math.min(MOST_WORDS, text.length);
    for (let t = 0; t < length; t++) {
      const row = text[t] as number;
      if (row >= trained) continue;
      count++;
      const known = placesOf.get(row);
      if (known === undefined) placesOf.set(row, [place + t]);
      else known.push(place + t);
    }
    place += length + 1;
  }
  const [rows, from, to] = [
    workspace.integers(list, placesOf.size),
    workspace.integers(starts, placesOf.size + 1),
    workspace.integers(members, count),
  ];
  let at = 0;
  let index = 0;
  for (const [row, places] of placesOf) {
    rows[index] = row;
    from[index++] = at;
    for (const each of places) to[at++] = each;
  }
  from[index] = at;
  return index;
}

/** Floating-point operations of steps on texts that have so many words together. */
export function stepOperations(
  { dimensions, filters, outputs }: Shape,
  words: number,
  texts: number,
  steps: number,
): number {
  const window = 2 * WINDOW * dimensions * filters;
  const update = 10 * filters * (WINDOW * dimensions + outputs);
  return (words + texts) * window + texts * (2 * window + 6 * filters * outputs) + steps * update;
}
