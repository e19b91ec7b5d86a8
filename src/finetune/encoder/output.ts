/**
 * What follows the pooling of a sentence encoder, for training: its tanh layer, and a head on its embedding beside one that
 * is not trained here.
 *
 *   e = unit(tanh(pooled Wᵀ + b))     z = W^h (besides, e) / √2 + b^h
 */
import type { Workspace } from "../kernels.ts";
import { makeLinearLayers } from "./layers.ts";
import type { Group, Parameters } from "./parameters.ts";

export interface OutputShape {
  /** Of the encoder's embedding. */
  readonly width: number;
  /** Numbers of the embedding beside it. */
  readonly besides: number;
  readonly outputs: number;
  readonly maxTexts: number;
}

/** A text's embedding beside the encoder's. An empty text's own is zeros. */
export interface OutputInput {
  readonly besides: Float32Array;
  readonly isEmpty: boolean;
}

export interface Output {
  /** Outputs of a row of logits, rounded up. */
  readonly stride: number;
  readonly head: Group;
  weights(): Float32Array;
  bias(): Float32Array;
  /** texts × stride: a view, good until the next call. */
  logits(texts: number): Float32Array;
  forward(inputs: readonly OutputInput[], pooled: number): void;
  /** The gradients of the head's numbers, from those of the logits. */
  backwardHead(texts: number): void;
  /** The gradients of the tanh layer's numbers and, if it has a place, that of `pooled`. Follows `backwardHead`. */
  backward(inputs: readonly OutputInput[], pooled: number, pooledGradient: number | null): void;
}

export function makeOutput(
  workspace: Workspace,
  { width, besides, outputs, maxTexts }: OutputShape,
  parameters: Parameters,
): Output {
  const { kernels, reserve, floats } = workspace;
  const dimensions = besides + width;
  const stride = Math.ceil(outputs / 4) * 4;
  const linear = makeLinearLayers(workspace, parameters, width, maxTexts);
  const panel = reserve(8 * Math.max(dimensions, maxTexts));
  const [projected, projectedGradient] = [reserve(maxTexts * width), reserve(maxTexts * width)];
  const [features, featuresGradient] = [reserve(maxTexts * dimensions), reserve(maxTexts * dimensions)];
  const logits = reserve(maxTexts * stride);
  const norms = new Float64Array(maxTexts);
  const count = stride * dimensions + stride;
  const biasOffset = 4 * stride * dimensions;
  const head: Group = {
    name: "head",
    trained: true,
    count,
    values: reserve(count),
    gradients: reserve(count),
    means: reserve(count),
    squares: reserve(count),
    anchors: null,
  };

  /** Writes (besides, tanh(y) / ‖tanh(y)‖) / √2 for each text; y becomes tanh(y). */
  function writeFeatures(inputs: readonly OutputInput[]): void {
    const y = floats(projected, inputs.length * width);
    const e = floats(features, inputs.length * dimensions);
    for (const [i, input] of inputs.entries()) {
      let squares = 0;
      for (let j = i * width; j < (i + 1) * width; j++) {
        const value = Math.tanh(y[j] as number);
        y[j] = value;
        squares += value * value;
      }
      const norm = Math.sqrt(Math.max(squares, 1e-12));
      norms[i] = norm;
      const factor = input.isEmpty ? 0 : Math.SQRT1_2 / norm;
      for (let j = 0; j < besides; j++) e[i * dimensions + j] = Math.SQRT1_2 * (input.besides[j] ?? 0);
      for (let j = 0; j < width; j++) e[i * dimensions + besides + j] = factor * (y[i * width + j] as number);
    }
  }

  /** The gradient of y, from that of e = u / √2 with u = tanh(y) / ‖tanh(y)‖. */
  function writeProjectedGradient(inputs: readonly OutputInput[]): void {
    const e = floats(features, inputs.length * dimensions);
    const g = floats(featuresGradient, inputs.length * dimensions);
    const y = floats(projected, inputs.length * width);
    const into = floats(projectedGradient, inputs.length * width);
    for (const [i, input] of inputs.entries()) {
      const start = i * dimensions + besides;
      let along = 0;
      for (let j = 0; j < width; j++) along += 2 * (g[start + j] as number) * (e[start + j] as number);
      const factor = input.isEmpty ? 0 : Math.SQRT1_2 / (norms[i] as number);
      for (let j = 0; j < width; j++) {
        const value = y[i * width + j] as number;
        const unitGradient = (g[start + j] as number) - along * (e[start + j] as number);
        into[i * width + j] = factor * unitGradient * (1 - value * value);
      }
    }
  }

  return {
    stride,
    head,
    weights: () => floats(head.values, stride * dimensions),
    bias: () => floats(head.values + biasOffset, stride),
    logits: (texts) => floats(logits, texts * stride),
    forward(inputs, pooled) {
      linear.forward("tanh", inputs.length, pooled, projected);
      writeFeatures(inputs);
      kernels.productByTransposed(inputs.length, dimensions, stride, features, head.values, logits, panel);
      kernels.addBias(inputs.length, stride, logits, head.values + biasOffset);
    },
    backwardHead(texts) {
      kernels.productOfTransposed(stride, texts, dimensions, logits, features, head.gradients, panel);
      kernels.sumColumns(texts, stride, logits, head.gradients + biasOffset);
    },
    backward(inputs, pooled, pooledGradient) {
      kernels.product(inputs.length, stride, dimensions, logits, head.values, featuresGradient, panel);
      writeProjectedGradient(inputs);
      linear.backward("tanh", inputs.length, pooled, projectedGradient, pooledGradient);
    },
  };
}
