/**
 * The part of a static backbone that fine-tuning trains: the rows of its words, and a convolution over them. Of each filter
 * the largest value is kept (Kim 2014, "Convolutional Neural Networks for Sentence Classification"). So the features depend
 * on the order of words and on their neighbours, which a sum of words does not.
 *
 *   h_f = max(0, c_f + max_t K_f · (x_{t−1}, x_t, x_{t+1}))     z = W h + b
 *
 * x_t: the row of word t, zeros beyond the text; K: filters × 3 dimensions; W: outputs × filters. In training, a part of the
 * words and of the features is dropped. All numbers are trained by AdamW (Loshchilov and Hutter 2019). A step changes only
 * the rows of words that the batch has, and draws them back towards their pre-trained values.
 */
import { stepOperations } from "../core/fine-tuning-cost.ts";
import { biasCorrection } from "./adam.ts";
import type { Workspace } from "./kernels.ts";
import { type LayerValues, makeLayerParameters, paddedOutputs } from "./layer-parameters.ts";
import { makeConvolution, makeOutputLayer } from "./layers.ts";
import { MAX_WORDS, makeWordRows } from "./word-rows.ts";

export interface NetworkShape {
  /** A multiple of 32. */
  readonly dimensions: number;
  /** A multiple of 8. */
  readonly filters: number;
  readonly outputs: number;
  /** Words that have rows. */
  readonly wordCount: number;
  /** How many of them are trained: the first. */
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
  /** Times the rows' rate: the part of the way back to its pre-trained row that a row goes. */
  readonly anchorDecay: number;
}

export interface Network {
  readonly shape: NetworkShape;
  /** words × dimensions. */
  rows(): Float32Array;
  /** Keeps the trained rows as they are now as their pre-trained values. To be called once, when they are filled in. */
  setAnchor(): void;
  layers(): LayerValues;
  /** The gradients of the last step, for the layers and for the words, text after text, a position of zeros before each. */
  gradients(): LayerValues & { readonly words: Float32Array };
  /** A copy of the numbers that steps change. */
  snapshot(): Float32Array[];
  restore(snapshot: readonly Float32Array[]): void;
  /**
   * The features (texts × filters) and logits (texts × `stride`) of texts, each a list of words. They are views, good until
   * the next call.
   */
  forward(texts: readonly Int32Array[]): { features: Float32Array; logits: Float32Array; stride: number };
  /**
   * One step on texts. `dropoutMask` has a factor for each text and feature (0: dropped); `toLossGradient` turns the logits
   * into ∂loss/∂logits, in place. Answers the floating-point operations that it took.
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
  const rows = makeWordRows(workspace, shape);
  const parameters = makeLayerParameters(workspace, shape, seed);
  const convolution = makeConvolution(workspace, shape, parameters, rows.layout);
  const output = makeOutputLayer(workspace, shape, parameters, convolution, rows.layout.batch);
  const stride = paddedOutputs(shape);
  let steps = 0;
  return {
    shape,
    rows: rows.table,
    setAnchor: rows.setAnchor,
    layers: () => parameters.view(parameters.values),
    gradients: () => ({ ...parameters.view(parameters.gradients), words: rows.inputGradient() }),
    snapshot: () => [parameters.snapshot(), rows.snapshot()],
    restore([layers, trainedRows]) {
      if (layers === undefined || trainedRows === undefined) throw new Error("This is no snapshot.");
      parameters.restore(layers);
      rows.restore(trainedRows);
    },
    forward(texts) {
      convolution.forward(rows.writeInputs(texts));
      output.forward();
      return { features: convolution.features(), logits: output.logits(), stride };
    },
    step(texts, dropoutMask, toLossGradient, rates) {
      const positions = rows.writeInputs(texts);
      convolution.forward(positions);
      const maskedCount = texts.length * shape.filters;
      multiplyInPlace(convolution.features(), dropoutMask, maskedCount);
      output.forward();
      toLossGradient(output.logits(), stride);
      output.backward(texts.length);
      multiplyInPlace(convolution.featureGradient(), dropoutMask, maskedCount);
      const trainsRows = rates.rows > 0 && shape.trainedCount > 0;
      if (trainsRows) rows.clearGradient(positions);
      convolution.backward(texts.length, trainsRows);
      const correction = biasCorrection(++steps);
      parameters.update(rates.layers * correction, rates.layers * rates.weightDecay);
      if (trainsRows) rows.update(texts, rates.rows * correction, rates.rows * rates.anchorDecay);
      return stepOperations(shape, countWords(texts), texts.length, 1);
    },
  };
}

function multiplyInPlace(values: Float32Array, factors: Float32Array, count: number): void {
  for (let i = 0; i < count; i++) values[i] = (values[i] as number) * (factors[i] as number);
}

/** How many words of texts a step has. */
export function countWords(texts: readonly Int32Array[]): number {
  return texts.reduce((sum, { length }) => sum + Math.min(MAX_WORDS, length), 0);
}
