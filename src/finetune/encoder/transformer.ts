/**
 * The part of a sentence encoder below its pooling, for training: the table of sub-words and the transformer layers.
 *
 *   mean(layers(2 E[ids] + timing))
 *
 * Layers below the last trained one are computed, and have no gradients.
 */
import { type EncoderShape, widestRow } from "../../backbones/sentence-encoder/layout.ts";
import type { Workspace } from "../kernels.ts";
import { type BatchLayout, type BatchSize, type Dropout, makeLinearLayers, makeTransformerLayer } from "./layers.ts";
import type { Parameters } from "./parameters.ts";

export interface TransformerShape extends EncoderShape {
  /** How many layers are trained, from the last; the first of these is that after the pooling. */
  readonly trainedLayers: number;
  /** Texts of a step, and their tokens, at most. */
  readonly maxTexts: number;
  readonly maxBatchTokens: number;
}

export interface Transformer {
  /** Whether a layer of it is trained. */
  readonly isTrained: boolean;
  /** Writes each text's mean to `pooled`. */
  forward(texts: readonly (readonly number[])[], pooled: number, dropout: Dropout): BatchSize;
  /** Writes the gradients of the trained layers' parameters. */
  backward(size: BatchSize, pooledGradient: number, dropout: Dropout): void;
}

export function makeTransformer(workspace: Workspace, shape: TransformerShape, parameters: Parameters): Transformer {
  const { kernels, reserve, floats, integers } = workspace;
  const { widths, maxTokens, maxTexts, trainedLayers, maxBatchTokens: rows } = shape;
  const [tableWidth = 0] = widths;
  const width = widths.at(-1) ?? 0;
  const layerCount = widths.length - 1;
  const layout: BatchLayout = {
    maxTokens: rows,
    maxPairs: rows * Math.ceil(maxTokens / 4) * 4,
    spans: reserve(2 * maxTexts),
  };
  const widest = widestRow(shape);
  const linear = makeLinearLayers(workspace, parameters, widest, rows);
  const scratch = { wide: reserve(rows * widest), narrow: reserve(rows * width), scores: reserve(maxTokens + 4) };
  const layers = Array.from({ length: layerCount }, (_, layer) =>
    makeTransformerLayer(workspace, shape, parameters, linear, layout, scratch, layer),
  );
  const lookups = reserve(2 * rows);
  const embedded = reserve(rows * tableWidth);
  const outputGradient = reserve(rows * width);
  const lowestLayer = Math.max(0, layerCount + 1 - trainedLayers);
  const trainsTable = trainedLayers > layerCount + 1;
  const layerInputs: number[] = [];
  const tablePlace = 4 * layerCount;

  function writeLookups(texts: readonly (readonly number[])[]): BatchSize {
    const lookup = integers(lookups, 2 * rows);
    const span = integers(layout.spans, 2 * maxTexts);
    let tokens = 0;
    for (const [i, text] of texts.entries()) {
      const length = Math.min(text.length, maxTokens);
      span.set([tokens, length], 2 * i);
      for (let position = 0; position < length; position++) lookup.set([text[position] ?? 0, position], 2 * tokens++);
    }
    return { texts: texts.length, tokens };
  }

  /** The gradient of the table is dense: a list of its rows would save little of a step. */
  function writeTableGradient(gradient: number, tokens: number, dropout: Dropout): void {
    dropout?.(tokens * tableWidth, gradient, tablePlace);
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

  return {
    isTrained: lowestLayer < layerCount,
    forward(texts, pooled, dropout) {
      const size = writeLookups(texts);
      const { values: table } = parameters.tensor("table.weights");
      kernels.lookUp(size.tokens, lookups, table, parameters.timing, tableWidth, embedded);
      // What is below the trained layers is as it is in predictions.
      if (lowestLayer === 0) dropout?.(size.tokens * tableWidth, embedded, tablePlace);
      let x = embedded;
      for (const [layer, { forward }] of layers.entries()) {
        layerInputs[layer] = x;
        x = forward(size, x, layer >= lowestLayer ? dropout : null);
      }
      kernels.pool(size.texts, layout.spans, width, x, pooled);
      return size;
    },
    backward(size, pooledGradient, dropout) {
      kernels.poolBack(size.texts, layout.spans, width, pooledGradient, outputGradient);
      let gradient = outputGradient;
      for (let layer = layerCount - 1; layer >= lowestLayer; layer--) {
        const needsGradient = layer > lowestLayer || trainsTable;
        const below = layers[layer]?.backward(size, layerInputs[layer] ?? 0, gradient, dropout, needsGradient);
        gradient = below ?? gradient;
      }
      if (trainsTable) writeTableGradient(gradient, size.tokens, dropout);
    },
  };
}
