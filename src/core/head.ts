/**
 * A head: the linear model that is trained on frozen embeddings.
 *
 *   logits = (W x + V t + b) / T    x: dimensions, W: outputs × dimensions, b: outputs, T: the temperature
 *                                  t: a text's lexical features (lexical.ts) and V their weights, where the head has any
 *   single_label: softmax(logits); multi_label: a sigmoid of each logit; regression: the one output, T = 1
 */

import { sigmoid, softmax } from "./evaluation/probability.ts";
import type { LexicalVocabulary, SparseVector } from "./text/lexical.ts";

export type Task = "single_label" | "multi_label" | "regression";

/** Which field of an example has its target. */
export const targetField = { single_label: "label", multi_label: "labels", regression: "value" } as const;

export interface Head {
  readonly task: Task;
  /** Empty for regression. */
  readonly labels: readonly string[];
  readonly dimensions: number;
  /** outputs × dimensions, row-major; outputs = labels.length, or 1 for regression */
  readonly weights: Float32Array;
  readonly bias: Float32Array;
  readonly lexical: LexicalWeights | null;
  /** Regression: added to the output in 64-bit floats, which hold values that the bias cannot; else 0. */
  readonly offset: number;
  /** Logits are divided by it: Guo et al. 2017, On Calibration of Modern Neural Networks. */
  readonly temperature: number;
  /** In scope when the top probability is at least this; null: everything is. */
  readonly outOfScopeThreshold: number | null;
  /** Nonconformity scores of held-out examples, ascending, at most 1000 of their quantiles; empty if none were held out. */
  readonly conformal: Float32Array;
}

/** V_k = scales[k] · weights[k]: eight bits are all that a sum of so many takes. */
export interface LexicalWeights extends LexicalVocabulary {
  /** Column by column: columns × outputs. */
  readonly weights: Int8Array;
  readonly scales: Float32Array;
}

/** Lexical weights (columns × outputs) at eight bits. */
export function quantiseLexical(lexical: LexicalVocabulary, weights: Float64Array, outputs: number): LexicalWeights {
  const scales = new Float32Array(outputs);
  for (let i = 0; i < weights.length; i++) {
    const k = i % outputs;
    scales[k] = Math.max(scales[k] as number, Math.abs(weights[i] as number) / 127);
  }
  const quantised = new Int8Array(weights.length);
  for (let i = 0; i < weights.length; i++)
    quantised[i] = Math.round((weights[i] as number) / ((scales[i % outputs] as number) || 1));
  return { ...lexical, weights: quantised, scales };
}

function addLexicalLogits(logits: Float64Array, { weights, scales }: LexicalWeights, features: SparseVector): void {
  const outputs = logits.length;
  const sums = new Float64Array(outputs);
  for (let m = 0; m < features.columns.length; m++) {
    const value = features.values[m] as number;
    for (let k = 0, at = (features.columns[m] as number) * outputs; k < outputs; k++, at++)
      sums[k] = (sums[k] as number) + value * (weights[at] as number);
  }
  for (let k = 0; k < outputs; k++) logits[k] = (logits[k] as number) + (sums[k] as number) * (scales[k] as number);
}

/**
 * Each label's probability, or for regression the value alone. `features` are the text's, for a head with lexical weights.
 * Throws when the embedding's length is wrong, or features are missing.
 */
export function predict(head: Head, embedding: Float32Array, features: SparseVector | null = null): Float64Array {
  const { dimensions, weights, bias, offset, lexical } = head;
  if (embedding.length !== dimensions)
    throw new Error(`${embedding.length} numbers for a head of ${dimensions} dimensions.`);
  const logits = new Float64Array(bias.length);
  for (let k = 0; k < bias.length; k++) {
    let sum = offset + (bias[k] as number);
    for (let j = 0, w = k * dimensions; j < dimensions; j++, w++)
      sum += (weights[w] as number) * (embedding[j] as number);
    logits[k] = sum;
  }
  if (lexical !== null) {
    if (features === null) throw new Error("This head needs its input's lexical features.");
    addLexicalLogits(logits, lexical, features);
  }
  for (let k = 0; k < logits.length; k++) logits[k] = (logits[k] as number) / head.temperature;
  if (head.task === "regression") return logits;
  return head.task === "single_label" ? softmax(logits) : logits.map(sigmoid);
}

/**
 * The labels that hold the true one (multi-label: all true ones) for at least `coverage` of future inputs like the
 * training's: label indices, most probable first, never empty. Least ambiguous set-valued classifiers, Sadinle et al.
 * 2019, with split conformal's finite-sample quantile. Too few held-out examples for the coverage give every label.
 */
export function predictionSet(head: Head, probabilities: Float64Array, coverage: number): number[] {
  const quantile = conformalQuantile(head.conformal, coverage);
  const ranked = Array.from(probabilities.keys()).sort(
    (a, b) => (probabilities[b] as number) - (probabilities[a] as number) || a - b,
  );
  return ranked.filter((label, rank) => rank === 0 || 1 - (probabilities[label] as number) <= quantile);
}

/**
 * Regression: [low, high] that holds the true value for at least `coverage` of future inputs like the training's, by
 * split conformal prediction on absolute residuals (Lei et al. 2018). Infinite when too few examples were held out.
 */
export function predictionInterval(head: Head, value: number, coverage: number): [number, number] {
  const margin = conformalQuantile(head.conformal, coverage);
  return [value - margin, value + margin];
}

/** The ⌈(n + 1) · coverage⌉-th smallest score; infinite when there are fewer. */
function conformalQuantile(scores: Float32Array, coverage: number): number {
  return scores[Math.max(1, Math.ceil((scores.length + 1) * coverage)) - 1] ?? Number.POSITIVE_INFINITY;
}
