/**
 * A head: the linear model that is trained on frozen embeddings.
 *
 *   logits = (W x + V t + b) / T    x: dimensions; W: outputs × dimensions; b: outputs; T: the temperature
 *                                   t: the text's lexical features (lexical.ts) and V their weights, if the head has any
 *   single_label: softmax(logits);  multi_label: the sigmoid of each logit;  regression: the only output, with T = 1
 */

import { sigmoid, softmax } from "./evaluation/probability.ts";
import { isInScope, type Scope, scopeScore } from "./evaluation/scope.ts";
import { DEFAULT_THRESHOLD } from "./evaluation/thresholds.ts";
import { clampTo, type ValueRange } from "./evaluation/value-range.ts";
import type { Section } from "./sections.ts";
import type { LexicalVocabulary, SparseVector } from "./text/lexical.ts";

export type Task = "single_label" | "multi_label" | "regression";

/** The field of an example that holds its target. */
export const targetField = { single_label: "label", multi_label: "labels", regression: "value" } as const;

export interface Head {
  readonly task: Task;
  /** Empty for regression. */
  readonly labels: readonly string[];
  readonly dimensions: number;
  /** outputs × dimensions, row-major. There are labels.length outputs, or 1 for regression. */
  readonly weights: Float32Array;
  readonly bias: Float32Array;
  readonly lexical: LexicalWeights | null;
  /** Whether invisible characters are removed from a text before its features are computed. Older heads read them. */
  readonly visibleText: boolean;
  /** Regression: added to the output in 64-bit floats, since the 32-bit bias could not hold it exactly. Otherwise 0. */
  readonly offset: number;
  /** Divides the logits (Guo et al. 2017, On Calibration of Modern Neural Networks). */
  readonly temperature: number;
  /**
   * An input is in scope if its p-value by `scope` is above this; without `scope`, if its top probability is at least
   * this. Null: whether an input is in scope is unknown.
   */
  readonly outOfScopeThreshold: number | null;
  /** How it tells what is in scope. Null: heads of other tasks, without an evaluation, and older ones. */
  readonly scope: Scope | null;
  /** Multi-label: a label is predicted from this probability on. Empty: from ½ on, for each label. */
  readonly thresholds: readonly number[];
  /** Regression: outputs are clamped to this range, unless it is null. */
  readonly valueRange: ValueRange | null;
  /** At most 1000 quantiles of the held-out examples' nonconformity scores, ascending. Empty if none were held out. */
  readonly conformal: Float32Array;
  /** Further named parts that were stored with it. */
  readonly sections: readonly Section[];
}

/** V_k = scales[k] · weights[k]. Eight bits are enough for sums of so many weights. */
export interface LexicalWeights extends LexicalVocabulary {
  /** columns × outputs */
  readonly weights: Int8Array;
  readonly scales: Float32Array;
}

/** How many numbers of a head are trained. */
export function countParameters({ weights, bias, lexical }: Pick<Head, "weights" | "bias" | "lexical">): number {
  return weights.length + bias.length + (lexical?.weights.length ?? 0);
}

/** Quantises lexical weights (columns × outputs) to eight bits. */
export function quantiseLexical(lexical: LexicalVocabulary, weights: Float64Array, outputs: number): LexicalWeights {
  const scales = new Float32Array(outputs);
  for (let i = 0; i < weights.length; i++) {
    const k = i % outputs;
    scales[k] = Math.max(scales[k] ?? 0, Math.abs(weights[i] ?? 0) / 127);
  }
  const quantised = Int8Array.from(weights, (weight, i) => Math.round(weight / (scales[i % outputs] || 1)));
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

/** What a head adds to its logits for a text's lexical features; zeros if it has none. */
export function lexicalLogits({ bias, lexical }: Head, features: SparseVector): Float64Array {
  const logits = new Float64Array(bias.length);
  if (lexical !== null) addLexicalLogits(logits, lexical, features);
  return logits;
}

/**
 * The probability of each label, or the value for regression. `features` are the text's lexical features, which a head
 * with lexical weights needs. Throws if the embedding has the wrong length or features are missing.
 */
export function predict(head: Head, embedding: Float32Array, features: SparseVector | null = null): Float64Array {
  return outputsOf(head, logitsOf(head, embedding, features), head.temperature);
}

/** The logits before they are divided by the temperature; for regression the value before it is clamped. */
export function logitsOf(head: Head, embedding: Float32Array, features: SparseVector | null): Float64Array {
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
  return logits;
}

/** What a head predicts from its logits, at a temperature: its own, or 1 for what it predicts without calibration. */
export function outputsOf({ task, valueRange }: Head, logits: Float64Array, temperature: number): Float64Array {
  const scaled = logits.map((logit) => logit / temperature);
  if (task === "regression") return valueRange === null ? scaled : scaled.map((value) => clampTo(valueRange, value));
  return task === "single_label" ? softmax(scaled) : scaled.map(sigmoid);
}

/**
 * Whether an input with these logits (before the temperature) is in scope, and its score: the p-value, or for heads of older
 * builds the top probability. Null: not known.
 *
 * @param threshold in the place of the head's own
 */
export function judgeScope(
  head: Head,
  logits: Float64Array,
  embedding: Float32Array,
  threshold: number | null = head.outOfScopeThreshold,
): { readonly inScope: boolean | null; readonly score: number | null } {
  const { scope, temperature } = head;
  if (scope !== null) {
    const score = scopeScore(scope, logits, embedding);
    return { inScope: threshold === null ? null : isInScope(scope, score, threshold), score };
  }
  if (threshold === null) return { inScope: null, score: null };
  const score = Math.max(...outputsOf(head, logits, temperature));
  return { inScope: score >= threshold, score };
}

/** From which probability on a multi-label head predicts a label. */
export function thresholdOf({ thresholds }: Head, label: number): number {
  return thresholds[label] ?? DEFAULT_THRESHOLD;
}

/**
 * A prediction set: label indices, most probable first, never empty. It contains the true label (multi-label: all true
 * labels) for at least `coverage` of future inputs like those of the training. If too few examples were held out for
 * the coverage, it has every label. Least ambiguous set-valued classifiers (Sadinle et al. 2019), with the
 * finite-sample quantile of split conformal prediction.
 */
export function predictionSet(head: Head, probabilities: Float64Array, coverage: number): number[] {
  const quantile = conformalQuantile(head.conformal, coverage);
  return Array.from(probabilities, (probability, label) => ({ label, probability }))
    .sort((a, b) => b.probability - a.probability || a.label - b.label)
    .filter(({ probability }, rank) => rank === 0 || 1 - probability <= quantile)
    .map(({ label }) => label);
}

/**
 * Regression: an interval [low, high] that contains the true value for at least `coverage` of future inputs like those
 * of the training, by split conformal prediction on absolute residuals (Lei et al. 2018). Infinite if too few examples
 * were held out. A head that clamps its outputs clamps the interval too.
 */
export function predictionInterval(head: Head, value: number, coverage: number): [number, number] {
  const margin = conformalQuantile(head.conformal, coverage);
  const interval: [number, number] = [value - margin, value + margin];
  const { valueRange } = head;
  if (valueRange === null || margin === Number.POSITIVE_INFINITY) return interval;
  return [clampTo(valueRange, interval[0]), clampTo(valueRange, interval[1])];
}

/** The ⌈(n + 1) · coverage⌉-th smallest score. Infinite if there are fewer scores. */
function conformalQuantile(scores: Float32Array, coverage: number): number {
  return scores[Math.max(1, Math.ceil((scores.length + 1) * coverage)) - 1] ?? Number.POSITIVE_INFINITY;
}
