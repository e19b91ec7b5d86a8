/**
 * A head: the linear model that is trained on frozen embeddings.
 *
 *   logits = (W x + b) / T        x: dimensions, W: outputs × dimensions, b: outputs, T: the temperature
 *   single_label: softmax(logits); multi_label: a sigmoid of each logit; regression: the one output, T = 1
 */
import { sigmoid, softmax } from "./probability.ts";

export type Task = "single_label" | "multi_label" | "regression";

export interface Head {
  readonly task: Task;
  /** Empty for regression. */
  readonly labels: readonly string[];
  readonly dimensions: number;
  /** outputs × dimensions, row-major; outputs = labels.length, or 1 for regression */
  readonly weights: Float32Array;
  readonly bias: Float32Array;
  /** Regression: added to the output in 64-bit floats, which hold values that the bias cannot; else 0. */
  readonly offset: number;
  /** Logits are divided by it: Guo et al. 2017, On Calibration of Modern Neural Networks. */
  readonly temperature: number;
  /** In scope when the top probability is at least this; null: everything is. */
  readonly outOfScopeThreshold: number | null;
  /** Nonconformity scores of held-out examples, ascending, at most 1000 of their quantiles; empty if none were held out. */
  readonly conformal: Float32Array;
}

/** Each label's probability, or for regression the value alone. Throws when the embedding's length is wrong. */
export function predict(head: Head, embedding: Float32Array): Float64Array {
  const { dimensions, weights, bias, offset } = head;
  if (embedding.length !== dimensions)
    throw new Error(`${embedding.length} numbers for a head of ${dimensions} dimensions.`);
  const logits = new Float64Array(bias.length);
  for (let k = 0; k < bias.length; k++) {
    let sum = offset + (bias[k] as number);
    for (let j = 0, w = k * dimensions; j < dimensions; j++, w++)
      sum += (weights[w] as number) * (embedding[j] as number);
    logits[k] = sum / head.temperature;
  }
  if (head.task === "regression") return logits;
  return head.task === "single_label" ? softmax(logits) : logits.map(sigmoid);
}

/**
 * The labels that hold the true one (multi-label: all true ones) for at least `coverage` of future inputs like the
 * training's: label indices, most probable first, never empty. Least ambiguous set-valued classifiers, Sadinle et al.
 * 2019, with split conformal's finite-sample quantile. Too few held-out examples for the coverage give every label.
 */
export function predictionSet(head: Head, probabilities: Float64Array, coverage: number): number[] {
  const largest = conformalQuantile(head.conformal, coverage);
  const ranked = Array.from(probabilities.keys()).sort(
    (a, b) => (probabilities[b] as number) - (probabilities[a] as number) || a - b,
  );
  return ranked.filter((label, rank) => rank === 0 || 1 - (probabilities[label] as number) <= largest);
}

/**
 * Regression: [low, high] that holds the true value for at least `coverage` of future inputs like the training's, by
 * split conformal prediction on absolute residuals (Lei et al. 2018). Infinite when too few examples were held out.
 */
export function predictionInterval(head: Head, value: number, coverage: number): [number, number] {
  const reach = conformalQuantile(head.conformal, coverage);
  return [value - reach, value + reach];
}

/** The ⌈(n + 1) · coverage⌉-th smallest score; infinite when there are fewer. */
function conformalQuantile(scores: Float32Array, coverage: number): number {
  return scores[Math.max(1, Math.ceil((scores.length + 1) * coverage)) - 1] ?? Number.POSITIVE_INFINITY;
}
