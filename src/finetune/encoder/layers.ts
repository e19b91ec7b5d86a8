/**
 * A transformer layer of a sentence encoder for training (Vaswani et al. 2017, "Attention is all you need", with the
 * normalisation before each part): its output and, from the gradient of that, those of its parameters and of its input.
 *
 *   r = x or x Wʳ     m = r + drop(attend(norm(x) Wᵖ) Wᵒ)     y = m + drop(max(0, norm(m) Wʰ) Wᶠ)
 *
 * One row a token. Names of matrices are byte offsets into the workspace's memory.
 */
import type { EncoderShape } from "../../backbones/sentence-encoder/layout.ts";
import type { Workspace } from "../kernels.ts";
import type { Parameters } from "./parameters.ts";

/** Where the texts of a batch lie, and how much room there is for them. */
export interface BatchLayout {
  readonly maxTokens: number;
  /** The squares of the lengths of the texts of a batch, together at most; lengths count as multiples of 4. */
  readonly maxPairs: number;
  /** Each text's first token and its length, in turns. */
  readonly spans: number;
}

export interface BatchSize {
  readonly texts: number;
  readonly tokens: number;
}

/** How a step drops numbers: those of the same seed are the same ones. null: none. */
export type Dropout = ((count: number, x: number, place: number) => void) | null;

export interface LinearLayers {
  /** y = x Wᵀ + b. */
  forward(name: string, rows: number, x: number, y: number): void;
  /** Writes the gradients of W and b and, if it has a place, that of x. */
  backward(name: string, rows: number, x: number, yGradient: number, xGradient: number | null): void;
}

/** The linear layers of parameters: rows of at most `widest` numbers, `maxRows` at most. */
export function makeLinearLayers(
  { kernels, reserve }: Workspace,
  parameters: Parameters,
  widest: number,
  maxRows: number,
): LinearLayers {
  const panel = reserve(8 * Math.max(widest, maxRows));
  return {
    forward(name, rows, x, y) {
      const weights = parameters.tensor(`${name}.weights`);
      const bias = parameters.tensor(`${name}.bias`);
      kernels.productByTransposed(rows, weights.length / bias.length, bias.length, x, weights.values, y, panel);
      kernels.addBias(rows, bias.length, y, bias.values);
    },
    backward(name, rows, x, yGradient, xGradient) {
      const weights = parameters.tensor(`${name}.weights`);
      const bias = parameters.tensor(`${name}.bias`);
      const inputs = weights.length / bias.length;
      kernels.productOfTransposed(bias.length, rows, inputs, yGradient, x, weights.gradients, panel);
      kernels.sumColumns(rows, bias.length, yGradient, bias.gradients);
      if (xGradient !== null) kernels.product(rows, bias.length, inputs, yGradient, weights.values, xGradient, panel);
    },
  };
}

interface Normalisation {
  forward(rows: number, x: number): number;
  /** Adds the gradient of x to `xGradient`. */
  backward(rows: number, yGradient: number, xGradient: number): void;
}

function makeNormalisation(
  { kernels, reserve }: Workspace,
  parameters: Parameters,
  name: string,
  maxRows: number,
): Normalisation {
  const scale = parameters.tensor(`${name}.scale`);
  const bias = parameters.tensor(`${name}.bias`);
  const width = scale.length;
  const [unit, output] = [reserve(maxRows * width), reserve(maxRows * width)];
  const factors = reserve(maxRows);
  return {
    forward(rows, x) {
      kernels.normalise(rows, width, x, scale.values, bias.values, unit, factors, output);
      return output;
    },
    backward: (rows, yGradient, xGradient) =>
      kernels.normaliseBack(
        rows,
        width,
        yGradient,
        scale.values,
        unit,
        factors,
        scale.gradients,
        bias.gradients,
        xGradient,
      ),
  };
}

/** Space that all layers use in turn. */
export interface Scratch {
  /** tokens × the widest. */
  readonly wide: number;
  /** tokens × the widest output. */
  readonly narrow: number;
  readonly scores: number;
}

export interface TransformerLayer {
  /** Answers where the output is. */
  forward(size: BatchSize, x: number, dropout: Dropout): number;
  /** Answers where the gradient of x is, or null if it is not needed. */
  backward(size: BatchSize, x: number, yGradient: number, dropout: Dropout, needsGradient: boolean): number | null;
}

/** Layer number `layer`, from 0. */
export function makeTransformerLayer(
  workspace: Workspace,
  { widths, heads, hidden }: EncoderShape,
  parameters: Parameters,
  linear: LinearLayers,
  { maxTokens, maxPairs, spans }: BatchLayout,
  scratch: Scratch,
  layer: number,
): TransformerLayer {
  const { kernels, reserve } = workspace;
  const [input = 0, width = 0] = widths.slice(layer);
  const name = `layers.${layer}`;
  const hasResidual = input !== width;
  const headWidth = input / heads;
  const attentionNorm = makeNormalisation(workspace, parameters, `${name}.attention.norm`, maxTokens);
  const feedforwardNorm = makeNormalisation(workspace, parameters, `${name}.feedforward.norm`, maxTokens);
  const [projections, attended] = [reserve(maxTokens * 3 * input), reserve(maxTokens * input)];
  const weights = reserve(heads * maxPairs);
  const [middle, hiddenUnits, output] = [width, hidden, width].map((columns) => reserve(maxTokens * columns)) as [
    number,
    number,
    number,
  ];
  const [middleGradient, inputGradient] = [reserve(maxTokens * width), reserve(maxTokens * input)];
  const projectionsGradient = reserve(maxTokens * 3 * input);
  let normalised = 0;
  let normalisedMiddle = 0;
  const place = 4 * layer;

  return {
    forward({ texts, tokens }, x, dropout) {
      normalised = attentionNorm.forward(tokens, x);
      linear.forward(`${name}.attention.projections`, tokens, normalised, projections);
      kernels.attend(texts, spans, heads, headWidth, projections, weights, attended);
      linear.forward(`${name}.attention.output`, tokens, attended, middle);
      dropout?.(tokens * width, middle, place);
      if (hasResidual) linear.forward(`${name}.residual`, tokens, x, scratch.narrow);
      kernels.add(tokens * width, middle, hasResidual ? scratch.narrow : x);
      normalisedMiddle = feedforwardNorm.forward(tokens, middle);
      linear.forward(`${name}.feedforward.hidden`, tokens, normalisedMiddle, hiddenUnits);
      kernels.relu(tokens * hidden, hiddenUnits);
      linear.forward(`${name}.feedforward.output`, tokens, hiddenUnits, output);
      dropout?.(tokens * width, output, place + 1);
      kernels.add(tokens * width, output, middle);
      return output;
    },
    backward({ texts, tokens }, x, yGradient, dropout, needsGradient) {
      const { wide, narrow } = scratch;
      const copy = (from: number, to: number, count: number) =>
        workspace.floats(to, count).set(workspace.floats(from, count));
      copy(yGradient, middleGradient, tokens * width);
      dropout?.(tokens * width, yGradient, place + 1);
      linear.backward(`${name}.feedforward.output`, tokens, hiddenUnits, yGradient, wide);
      kernels.reluBack(tokens * hidden, hiddenUnits, wide);
      linear.backward(`${name}.feedforward.hidden`, tokens, normalisedMiddle, wide, narrow);
      feedforwardNorm.backward(tokens, narrow, middleGradient);
      copy(middleGradient, narrow, tokens * width);
      dropout?.(tokens * width, narrow, place);
      linear.backward(`${name}.attention.output`, tokens, attended, narrow, wide);
      kernels.attendBack(
        texts,
        spans,
        heads,
        headWidth,
        projections,
        weights,
        wide,
        scratch.scores,
        projectionsGradient,
      );
      linear.backward(`${name}.attention.projections`, tokens, normalised, projectionsGradient, narrow);
      if (hasResidual)
        linear.backward(`${name}.residual`, tokens, x, middleGradient, needsGradient ? inputGradient : null);
      else copy(middleGradient, inputGradient, tokens * width);
      // The parameters of the first normalisation have gradients too.
      attentionNorm.backward(tokens, narrow, inputGradient);
      return needsGradient ? inputGradient : null;
    },
  };
}
