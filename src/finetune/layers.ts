/** The convolution over a batch's words, and the output layer on its features. Views are good until the workspace grows. */
import { WINDOW } from "../core/fine-tuning-cost.ts";
import type { Workspace } from "./kernels.ts";
import { type LayerParameters, type LayerShape, paddedOutputs } from "./layer-parameters.ts";
import type { BatchLayout } from "./word-rows.ts";

export interface Convolution {
  /** max(0, c_f + max_t K_f · x) of each text and filter: batch × filters. */
  features(): Float32Array;
  /** ∂loss/∂features, which the output layer writes. */
  featureGradient(): Float32Array;
  /** Computes the features of words that are laid out in so many positions. */
  forward(positions: number): void;
  /** Writes the gradients of kernel and biases and, if `withInputs`, adds those of the words. */
  backward(texts: number, withInputs: boolean): void;
  /** Byte offsets. */
  readonly at: { readonly features: number; readonly featureGradient: number };
}

export function makeConvolution(
  workspace: Workspace,
  { dimensions: d, filters }: LayerShape,
  { values, gradients }: LayerParameters,
  { batch, positions, inputs, inputGradient, spans }: BatchLayout,
): Convolution {
  const { kernels, floats, reserve } = workspace;
  const width = WINDOW * d;
  const sums = reserve(positions * filters);
  const maxima = reserve(batch * filters);
  const at = { features: reserve(batch * filters), featureGradient: reserve(batch * filters) };
  const panel = reserve(8 * Math.max(width, filters));
  return {
    at,
    features: () => floats(at.features, batch * filters),
    featureGradient: () => floats(at.featureGradient, batch * filters),
    forward(count) {
      kernels.multiply(0, count, filters, width, inputs, d, 1, values.kernel, 1, width, sums, panel, 1);
      kernels.maxPool(batch, spans, sums, filters, values.filterBias, at.features, maxima);
    },
    backward(texts, withInputs) {
      floats(gradients.kernel, filters * width).fill(0);
      const filterArguments = [values.kernel, gradients.kernel, gradients.filterBias] as const;
      const words = withInputs ? inputGradient : 0;
      kernels.convolutionBack(texts, filters, maxima, at.featureGradient, inputs, d, width, ...filterArguments, words);
    },
  };
}

export interface OutputLayer {
  /** Batch × padded outputs. */
  logits(): Float32Array;
  /** z = W h + b. */
  forward(): void;
  /** From ∂loss/∂logits, which take the logits' place, the gradients of weights, biases and features. */
  backward(texts: number): void;
}

export function makeOutputLayer(
  workspace: Workspace,
  shape: LayerShape,
  { values, gradients }: LayerParameters,
  { at }: Convolution,
  batch: number,
): OutputLayer {
  const { kernels, floats, reserve } = workspace;
  const { filters, outputs } = shape;
  const stride = paddedOutputs(shape);
  const z = reserve(batch * stride);
  const panel = reserve(8 * Math.max(filters, stride, batch));
  const logits = () => floats(z, batch * stride);
  return {
    logits,
    forward() {
      kernels.multiply(0, batch, stride, filters, at.features, filters, 1, values.weights, 1, filters, z, panel, 1);
      const numbers = logits();
      const bias = floats(values.bias, outputs);
      for (let i = 0; i < batch; i++)
        for (let k = 0; k < outputs; k++)
          numbers[i * stride + k] = (numbers[i * stride + k] as number) + (bias[k] as number);
    },
    backward(texts) {
      const gradient = logits();
      gradient.fill(0, texts * stride);
      for (let i = 0; i < texts; i++) gradient.fill(0, i * stride + outputs, (i + 1) * stride);
      const [h, hGradient] = [at.features, at.featureGradient];
      kernels.multiply(0, stride, filters, batch, z, 1, stride, h, filters, 1, gradients.weights, panel, 1);
      kernels.multiply(0, batch, filters, stride, z, stride, 1, values.weights, filters, 1, hGradient, panel, 1);
      const biasGradient = floats(gradients.bias, stride);
      biasGradient.fill(0);
      for (let i = 0; i < texts; i++)
        for (let k = 0; k < outputs; k++)
          biasGradient[k] = (biasGradient[k] as number) + (gradient[i * stride + k] as number);
    },
  };
}
