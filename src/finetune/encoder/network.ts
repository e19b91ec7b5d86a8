/**
 * A sentence encoder (src/backbones/sentence-encoder) for training, with a head on its embedding beside one that is not
 * trained here. The gradients are in closed form.
 */
import type { Workspace } from "../kernels.ts";
import type { BatchSize, Dropout } from "./layers.ts";
import { makeOptimiser, type Optimiser } from "./optimiser.ts";
import { makeOutput, type OutputShape } from "./output.ts";
import { makeParameters, type Parameters } from "./parameters.ts";
import { makeTransformer, type TransformerShape } from "./transformer.ts";

export type EncoderTrainingShape = TransformerShape & Omit<OutputShape, "width">;

/** A text's tokens, and the embedding beside the encoder's. */
export interface EncoderInput {
  readonly tokens: readonly number[];
  readonly besides: Float32Array;
  /** The mean of the transformer's output, if it has been computed and stays as it is. */
  readonly pooled?: Float32Array;
}

export interface EncoderRates {
  /** The rate of the head ("head") and of each trained layer, by its name. */
  readonly rates: ReadonlyMap<string, number>;
  /** Times a rate: the part of the way back to its pre-trained value that a number goes. */
  readonly pull: number;
  readonly dropout: number;
  readonly seed: number;
}

/** Turns logits (texts × stride) into ∂loss/∂logits, in place. */
type ToLossGradient = (logits: Float32Array, stride: number) => void;

export interface EncoderNetwork extends Omit<Optimiser, "step"> {
  readonly parameters: Parameters;
  /** How many numbers are trained, without the head's. */
  readonly trainedParameters: number;
  readonly head: { weights(): Float32Array; bias(): Float32Array };
  /** The logits (texts × `stride`) of texts: a view, good until the next call. */
  forward(inputs: readonly EncoderInput[]): { logits: Float32Array; stride: number };
  /** The mean of the transformer's output of each text. */
  pool(inputs: readonly EncoderInput[]): Float32Array[];
  /** Computes the gradients of all trained numbers, without dropout. */
  gradients(inputs: readonly EncoderInput[], toLossGradient: ToLossGradient): void;
  step(inputs: readonly EncoderInput[], toLossGradient: ToLossGradient, rates: EncoderRates): void;
  /** A tensor's numbers now: a copy. */
  tensor(name: string): Float32Array;
}

export function makeEncoderNetwork(
  workspace: Workspace,
  shape: EncoderTrainingShape,
  readTensor: (name: string) => Float32Array,
): EncoderNetwork {
  const { kernels, reserve, floats } = workspace;
  const { maxTexts, trainedLayers } = shape;
  const width = shape.widths.at(-1) ?? 0;
  const parameters = makeParameters(workspace, shape, readTensor, trainedLayers);
  const transformer = makeTransformer(workspace, shape, parameters);
  const output = makeOutput(workspace, { ...shape, width }, parameters);
  const [pooled, pooledGradient] = [reserve(maxTexts * width), reserve(maxTexts * width)];
  const trained = parameters.groups.filter((group) => group.trained);
  const { step, ...copies } = makeOptimiser(workspace, [output.head, ...trained]);

  function runTransformer(inputs: readonly EncoderInput[], dropout: Dropout): BatchSize {
    return transformer.forward(
      inputs.map(({ tokens }) => tokens),
      pooled,
      dropout,
    );
  }

  function writePooled(inputs: readonly EncoderInput[]): BatchSize {
    const into = floats(pooled, inputs.length * width);
    for (const [i, input] of inputs.entries()) into.set(input.pooled ?? [], i * width);
    return { texts: inputs.length, tokens: 0 };
  }

  function runForward(inputs: readonly EncoderInput[], dropout: Dropout): BatchSize {
    const isPooled = inputs.every((input) => input.pooled !== undefined);
    const size = isPooled ? writePooled(inputs) : runTransformer(inputs, dropout);
    output.forward(inputs.map(toOutputInput), pooled);
    return size;
  }

  function runBackward(inputs: readonly EncoderInput[], size: BatchSize, dropout: Dropout): void {
    output.backwardHead(size.texts);
    if (trainedLayers === 0) return;
    output.backward(inputs.map(toOutputInput), pooled, transformer.isTrained ? pooledGradient : null);
    if (transformer.isTrained) transformer.backward(size, pooledGradient, dropout);
  }

  function computeGradients(inputs: readonly EncoderInput[], toLossGradient: ToLossGradient, dropout: Dropout): void {
    const size = runForward(inputs, dropout);
    toLossGradient(output.logits(size.texts), output.stride);
    runBackward(inputs, size, dropout);
  }

  const makeDropout = ({ dropout, seed }: EncoderRates): Dropout => {
    if (dropout === 0) return null;
    const threshold = Math.round(dropout * 2 ** 32) | 0;
    return (count, x, place) =>
      kernels.dropOut(count, x, Math.imul(seed * 64 + place + 1, 0x9e3779b1), threshold, 1 / (1 - dropout));
  };

  return {
    ...copies,
    parameters,
    trainedParameters: trained.reduce((sum, { count }) => sum + count, 0),
    head: { weights: output.weights, bias: output.bias },
    forward(inputs) {
      const { texts } = runForward(inputs, null);
      return { logits: output.logits(texts), stride: output.stride };
    },
    pool(inputs) {
      const { texts } = runTransformer(inputs, null);
      return inputs.map((_, i) => floats(pooled, texts * width).slice(i * width, (i + 1) * width));
    },
    gradients: (inputs, toLossGradient) => computeGradients(inputs, toLossGradient, null),
    step(inputs, toLossGradient, rates) {
      computeGradients(inputs, toLossGradient, makeDropout(rates));
      step(rates.rates, rates.pull);
    },
    tensor(name) {
      const { values, length } = parameters.tensor(name);
      return floats(values, length).slice();
    },
  };
}

function toOutputInput({ tokens, besides }: EncoderInput) {
  return { besides, isEmpty: tokens.length === 0 };
}
