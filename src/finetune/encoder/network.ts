/**
 * A sentence encoder (src/backbones/sentence-encoder) for training, with a head on its embedding beside one that is not
 * trained here:
 *
 *   e = unit(tanh(mean(layers(2 E[ids] + timing)) Wᵀ + b))     z = W^h (static, e) / √2 + b^h
 *
 * The gradients are in closed form. Layers below the last trained one are computed, and have no gradients.
 */
import type { EncoderShape } from "../../backbones/sentence-encoder/layout.ts";
import { ADAM, biasCorrection } from "../adam.ts";
import type { Workspace } from "../kernels.ts";
import { type BatchLayout, type BatchSize, type Dropout, makeLinearLayers, makeTransformerLayer } from "./layers.ts";
import { makeParameters, type Parameters } from "./parameters.ts";

export interface EncoderTrainingShape extends EncoderShape {
  /** How many layers are trained, from the last. */
  readonly trainedLayers: number;
  /** Numbers of the embedding beside the encoder's. */
  readonly besides: number;
  readonly outputs: number;
  /** Texts of a step, and their tokens, at most. */
  readonly maxTexts: number;
  readonly maxBatchTokens: number;
}

/** A text's tokens, and the embedding beside the encoder's. */
export interface EncoderInput {
  readonly tokens: readonly number[];
  readonly besides: Float32Array;
  /** The mean of the transformer's output, if it has been computed and stays as it is. */
  readonly pooled?: Float32Array;
}

export interface EncoderRates {
  /** The head's; layers have `layers` of it. */
  readonly head: number;
  /** The rate of each trained layer, by its name. */
  readonly layers: ReadonlyMap<string, number>;
  /** Times a rate: the part of the way back to its pre-trained value that a number goes. */
  readonly pull: number;
  readonly dropout: number;
  readonly seed: number;
}

export interface EncoderNetwork {
  readonly parameters: Parameters;
  /** How many numbers are trained, without the head's. */
  readonly trainedParameters: number;
  readonly head: { weights(): Float32Array; bias(): Float32Array };
  /** The embeddings (texts × dimensions) and logits (texts × `stride`) of texts: views, good until the next call. */
  forward(inputs: readonly EncoderInput[]): { embeddings: Float32Array; logits: Float32Array; stride: number };
  /** One step; `toLossGradient` turns the logits into ∂loss/∂logits, in place. Answers the norm of the gradients. */
  step(
    inputs: readonly EncoderInput[],
    toLossGradient: (logits: Float32Array, stride: number) => void,
    rates: EncoderRates,
  ): number;
  /** The mean of the transformer's output of each text. */
  pool(inputs: readonly EncoderInput[]): Float32Array[];
  gradients(inputs: readonly EncoderInput[], toLossGradient: (logits: Float32Array, stride: number) => void): void;
  /** A tensor's numbers now: a copy. */
  tensor(name: string): Float32Array;
  /** A copy of the trained numbers: of the head and of each trained layer. */
  snapshot(): Float32Array[];
  /** Whether arrays are a snapshot, or a state, of a network of this shape. */
  fits(arrays: readonly Float32Array[], kind: "snapshot" | "state"): boolean;
  /** Throws if the snapshot does not fit, as `resume` does. */
  restore(snapshot: readonly Float32Array[]): void;
  /** A copy of all that steps change: the trained numbers, as a snapshot has them, then Adam's means and squares. */
  state(): Float32Array[];
  /** Takes over the state of a network after so many steps. */
  resume(state: readonly Float32Array[], steps: number): void;
}

const MAX_GRADIENT_NORM = 1;
/** What steps change of the head and of each trained layer. */
const STATE = ["values", "means", "squares"] as const;
const SNAPSHOT = ["values"] as const;
type StatePart = (typeof STATE)[number];

export function makeEncoderNetwork(
  workspace: Workspace,
  shape: EncoderTrainingShape,
  readTensor: (name: string) => Float32Array,
): EncoderNetwork {
  const { kernels, reserve, floats, integers } = workspace;
  const { widths, hidden, maxTokens, besides, outputs, maxTexts, trainedLayers } = shape;
  const [tableWidth = 0] = widths;
  const width = widths.at(-1) ?? 0;
  const layerCount = widths.length - 1;
  const rows = shape.maxBatchTokens;
  const parameters = makeParameters(workspace, shape, readTensor, trainedLayers);
  const layout: BatchLayout = {
    maxTexts,
    maxTokens: rows,
    maxPairs: rows * Math.ceil(maxTokens / 4) * 4,
    spans: reserve(2 * maxTexts),
  };
  const widest = Math.max(...widths, hidden, 3 * Math.max(...widths.slice(0, -1)));
  const linear = makeLinearLayers(workspace, parameters, widest, Math.max(rows, maxTexts));
  const scratch = { wide: reserve(rows * widest), narrow: reserve(rows * width), scores: reserve(maxTokens + 4) };
  const layers = Array.from({ length: layerCount }, (_, layer) =>
    makeTransformerLayer(workspace, shape, parameters, linear, layout, scratch, layer),
  );
  const lookups = reserve(2 * rows);
  const embedded = reserve(rows * tableWidth);
  const yGradient = reserve(rows * width);
  const [pooled, projected, projectedGradient, pooledGradient] = [0, 0, 0, 0].map(() => reserve(maxTexts * width)) as [
    number,
    number,
    number,
    number,
  ];
  const dimensions = besides + width;
  const stride = Math.ceil(outputs / 4) * 4;
  const [features, featuresGradient] = [reserve(maxTexts * dimensions), reserve(maxTexts * dimensions)];
  const [logits, norms] = [reserve(maxTexts * stride), new Float64Array(maxTexts)];
  const headCount = stride * dimensions + stride;
  const [headValues = 0, headGradients = 0, headMeans = 0, headSquares = 0] = [0, 0, 0, 0].map(() =>
    reserve(headCount),
  );
  const panel = reserve(8 * Math.max(dimensions, maxTexts));
  const trained = parameters.groups.filter(({ trained: isTrained }) => isTrained);
  const head = { count: headCount, values: headValues, means: headMeans, squares: headSquares };
  const changed = [head, ...trained];
  const lowestLayer = Math.max(0, layerCount + 1 - trainedLayers);
  const trainsTable = trainedLayers > layerCount + 1;
  const layerInputs: number[] = [];
  let steps = 0;

  function writeInputs(inputs: readonly EncoderInput[]): BatchSize {
    const lookup = integers(lookups, 2 * rows);
    const span = integers(layout.spans, 2 * maxTexts);
    let tokens = 0;
    for (const [i, input] of inputs.entries()) {
      const length = Math.min(input.tokens.length, maxTokens);
      span.set([tokens, length], 2 * i);
      for (let position = 0; position < length; position++)
        lookup.set([input.tokens[position] ?? 0, position], 2 * tokens++);
    }
    return { texts: inputs.length, tokens };
  }

  /** Writes the mean of the transformer's output of each text to `pooled`. */
  function runTransformer(inputs: readonly EncoderInput[], dropout: Dropout): BatchSize {
    const size = writeInputs(inputs);
    const { texts, tokens } = size;
    const { values: table } = parameters.tensor("table.weights");
    kernels.lookUp(tokens, lookups, table, parameters.timing, tableWidth, embedded);
    // What is below the trained layers is as it is in predictions.
    if (lowestLayer === 0) dropout?.(tokens * tableWidth, embedded, 4 * layerCount);
    let x = embedded;
    for (const [layer, { forward }] of layers.entries()) {
      layerInputs[layer] = x;
      x = forward(size, x, layer >= lowestLayer ? dropout : null);
    }
    kernels.pool(texts, layout.spans, width, x, pooled);
    return size;
  }

  function runForward(inputs: readonly EncoderInput[], dropout: Dropout): BatchSize {
    const isPooled = inputs.every((input) => input.pooled !== undefined);
    const size = isPooled ? { texts: inputs.length, tokens: 0 } : runTransformer(inputs, dropout);
    const { texts } = size;
    if (isPooled) {
      const into = floats(pooled, texts * width);
      for (const [i, input] of inputs.entries()) into.set(input.pooled as Float32Array, i * width);
    }
    linear.forward("tanh", texts, pooled, projected);
    const y = floats(projected, texts * width);
    const e = floats(features, texts * dimensions);
    for (const [i, input] of inputs.entries()) {
      let squares = 0;
      for (let j = i * width; j < (i + 1) * width; j++) {
        const value = Math.tanh(y[j] as number);
        y[j] = value;
        squares += value * value;
      }
      const norm = Math.sqrt(Math.max(squares, 1e-12));
      norms[i] = norm;
      const factor = input.tokens.length === 0 ? 0 : Math.SQRT1_2 / norm;
      for (let j = 0; j < besides; j++) e[i * dimensions + j] = Math.SQRT1_2 * (input.besides[j] ?? 0);
      for (let j = 0; j < width; j++) e[i * dimensions + besides + j] = factor * (y[i * width + j] as number);
    }
    kernels.productByTransposed(texts, dimensions, stride, features, headValues, logits, panel);
    kernels.addBias(texts, stride, logits, headValues + 4 * stride * dimensions);
    return size;
  }

  function runBackward(inputs: readonly EncoderInput[], size: BatchSize, dropout: Dropout): void {
    const { texts, tokens } = size;
    kernels.productOfTransposed(stride, texts, dimensions, logits, features, headGradients, panel);
    kernels.sumColumns(texts, stride, logits, headGradients + 4 * stride * dimensions);
    if (trainedLayers === 0) return;
    kernels.product(texts, stride, dimensions, logits, headValues, featuresGradient, panel);
    const e = floats(features, texts * dimensions);
    const g = floats(featuresGradient, texts * dimensions);
    const y = floats(projected, texts * width);
    const into = floats(projectedGradient, texts * width);
    for (const [i, input] of inputs.entries()) {
      const at = i * dimensions + besides;
      // e = u / √2, u = y / ‖y‖.
      let along = 0;
      for (let j = 0; j < width; j++) along += 2 * (g[at + j] as number) * (e[at + j] as number);
      const factor = input.tokens.length === 0 ? 0 : Math.SQRT1_2 / (norms[i] as number);
      for (let j = 0; j < width; j++) {
        const value = y[i * width + j] as number;
        const unitGradient = (g[at + j] as number) - along * (e[at + j] as number);
        into[i * width + j] = factor * unitGradient * (1 - value * value);
      }
    }
    linear.backward("tanh", texts, pooled, projectedGradient, lowestLayer < layerCount ? pooledGradient : null);
    if (lowestLayer === layerCount) return;
    kernels.poolBack(texts, layout.spans, width, pooledGradient, yGradient);
    let gradient = yGradient;
    for (let layer = layerCount - 1; layer >= lowestLayer; layer--) {
      const needsGradient = layer > lowestLayer || trainsTable;
      const below = layers[layer]?.backward(size, layerInputs[layer] ?? 0, gradient, dropout, needsGradient);
      gradient = below ?? gradient;
    }
    if (trainsTable) addTableGradient(gradient, tokens, dropout);
  }

  /** The gradient of the table, dense: few steps have so few tokens that lists of rows would pay. */
  function addTableGradient(gradient: number, tokens: number, dropout: Dropout): void {
    dropout?.(tokens * tableWidth, gradient, 4 * layerCount);
    const table = parameters.tensor("table.weights");
    const into = floats(table.gradients, table.length).fill(0);
    const g = floats(gradient, tokens * tableWidth);
    const lookup = integers(lookups, 2 * tokens);
    for (let t = 0; t < tokens; t++) {
      const row = (lookup[2 * t] as number) * tableWidth;
      for (let j = 0; j < tableWidth; j++)
        into[row + j] = (into[row + j] as number) + 2 * (g[t * tableWidth + j] as number);
    }
  }

  /** The stretches of memory that hold these of the head and of each trained layer. */
  const stretches = (parts: readonly StatePart[]) =>
    parts.flatMap((part) => changed.map((group) => ({ offset: group[part], count: group.count })));
  const copy = (parts: readonly StatePart[]) =>
    stretches(parts).map(({ offset, count }) => floats(offset, count).slice());
  const fits = (arrays: readonly Float32Array[], parts: readonly StatePart[]) => {
    const counts = stretches(parts).map(({ count }) => count);
    return arrays.length === counts.length && arrays.every(({ length }, i) => length === counts[i]);
  };
  const write = (arrays: readonly Float32Array[], parts: readonly StatePart[]) => {
    if (!fits(arrays, parts)) throw new Error("These are not the arrays of this network.");
    for (const [i, { offset, count }] of stretches(parts).entries()) floats(offset, count).set(arrays[i] ?? []);
  };

  const makeDropout = ({ dropout, seed }: EncoderRates): Dropout =>
    dropout === 0
      ? null
      : (count, x, place) =>
          kernels.dropOut(
            count,
            x,
            Math.imul(seed * 64 + place + 1, 0x9e3779b1),
            Math.round(dropout * 2 ** 32) | 0,
            1 / (1 - dropout),
          );

  return {
    parameters,
    trainedParameters: trained.reduce((sum, { count }) => sum + count, 0),
    head: {
      weights: () => floats(headValues, stride * dimensions),
      bias: () => floats(headValues + 4 * stride * dimensions, stride),
    },
    forward(inputs) {
      const { texts } = runForward(inputs, null);
      return { embeddings: floats(features, texts * dimensions), logits: floats(logits, texts * stride), stride };
    },
    pool(inputs) {
      const { texts } = runTransformer(inputs, null);
      return inputs.map((_, i) => floats(pooled, texts * width).slice(i * width, (i + 1) * width));
    },
    gradients(inputs, toLossGradient) {
      const size = runForward(inputs, null);
      toLossGradient(floats(logits, size.texts * stride), stride);
      runBackward(inputs, size, null);
    },
    step(inputs, toLossGradient, rates) {
      const dropout = makeDropout(rates);
      const size = runForward(inputs, dropout);
      toLossGradient(floats(logits, size.texts * stride), stride);
      runBackward(inputs, size, dropout);
      let squares = kernels.sumSquares(headCount, headGradients);
      for (const { count, gradients } of trained) squares += kernels.sumSquares(count, gradients);
      const norm = Math.sqrt(squares);
      if (norm > MAX_GRADIENT_NORM) {
        const factor = MAX_GRADIENT_NORM / norm;
        kernels.shrink(headGradients, headCount, factor);
        for (const { count, gradients } of trained) kernels.shrink(gradients, count, factor);
      }
      const correction = biasCorrection(++steps);
      kernels.adam(headValues, headMeans, headSquares, headGradients, headCount, rates.head * correction, ...ADAM);
      for (const group of trained) {
        const rate = rates.layers.get(group.name) ?? 0;
        kernels.adam(
          group.values,
          group.means,
          group.squares,
          group.gradients,
          group.count,
          rate * correction,
          ...ADAM,
        );
        kernels.pull(group.count, group.values, group.anchors, rate * rates.pull);
      }
      return norm;
    },
    tensor(name) {
      const { values, length } = parameters.tensor(name);
      return floats(values, length).slice();
    },
    snapshot: () => copy(SNAPSHOT),
    fits: (arrays, kind) => fits(arrays, kind === "state" ? STATE : SNAPSHOT),
    restore: (snapshot) => write(snapshot, SNAPSHOT),
    state: () => copy(STATE),
    resume(state, stepsDone) {
      write(state, STATE);
      steps = stepsDone;
    },
  };
}
