import { OPERATIONS_PER_LOGIT } from "../linear/objective.ts";
import type { Targets } from "../linear/targets.ts";
import type { Steps } from "../steps.ts";
import { sigmoid, softmax, softplus } from "./probability.ts";

/** Logits of rows that the model was not trained on: rows × outputs, and the index of each row in the set. */
export interface HeldOutLogits {
  readonly rows: Int32Array;
  readonly logits: Float32Array;
  readonly outputs: number;
}

/**
 * The log loss of one example at logits β z, and its first two derivatives in β = 1 / T. `smoothing` is the share of
 * the label's probability that goes to the other labels (label smoothing).
 */
function exampleLogLoss(
  targets: Targets,
  heldOut: HeldOutLogits,
  entry: number,
  beta: number,
  smoothing: number,
): [number, number, number] {
  const { outputs, logits } = heldOut;
  const row = heldOut.rows[entry] as number;
  const start = entry * outputs;
  if (targets.kind === "single") {
    const target = targets.indices[row] as number;
    let maxLogit = Number.NEGATIVE_INFINITY;
    for (let k = 0; k < outputs; k++) maxLogit = Math.max(maxLogit, logits[start + k] as number);
    let sum = 0;
    let firstMoment = 0;
    let secondMoment = 0;
    let logitSum = 0;
    for (let k = 0; k < outputs; k++) {
      const z = (logits[start + k] as number) - maxLogit;
      const e = Math.exp(beta * z);
      logitSum += z;
      sum += e;
      firstMoment += e * z;
      secondMoment += e * z * z;
    }
    const mean = firstMoment / sum;
    const targetLogit = (logits[start + target] as number) - maxLogit;
    const z =
      smoothing === 0
        ? targetLogit
        : (1 - smoothing) * targetLogit + (smoothing * (logitSum - targetLogit)) / (outputs - 1);
    return [Math.log(sum) - beta * z, mean - z, secondMoment / sum - mean * mean];
  }
  const positives = new Set(targets.kind === "multi" ? targets.indices[row] : []);
  let loss = 0;
  let gradient = 0;
  let curvature = 0;
  for (let k = 0; k < outputs; k++) {
    const z = logits[start + k] as number;
    const p = sigmoid(beta * z);
    const target = positives.has(k) ? 1 - smoothing : smoothing;
    loss += softplus(beta * z) - target * beta * z;
    gradient += (p - target) * z;
    curvature += p * (1 - p) * z * z;
  }
  return [loss / outputs, gradient / outputs, curvature / outputs];
}

/** Σ over `entries` of `heldOut` of their log loss and its derivatives. */
function totalLogLoss(
  targets: Targets,
  heldOut: HeldOutLogits,
  entries: readonly number[],
  beta: number,
  smoothing: number,
): [number, number, number] {
  const sums: [number, number, number] = [0, 0, 0];
  for (const entry of entries) {
    const [value, first, second] = exampleLogLoss(targets, heldOut, entry, beta, smoothing);
    sums[0] += value;
    sums[1] += first;
    sums[2] += second;
  }
  return sums;
}

/** The log loss of each of `entries` of `heldOut` at a temperature. */
export function heldOutLogLosses(
  targets: Targets,
  heldOut: HeldOutLogits,
  entries: readonly number[],
  temperature: number,
): Float64Array {
  return Float64Array.from(entries, (entry) => exampleLogLoss(targets, heldOut, entry, 1 / temperature, 0)[0]);
}

/** The mean log loss of `entries` of `heldOut` at a temperature. For multi-label it is the mean over labels as well. */
export function heldOutLogLoss(
  targets: Targets,
  heldOut: HeldOutLogits,
  entries: readonly number[],
  temperature: number,
  smoothing = 0,
): number {
  return totalLogLoss(targets, heldOut, entries, 1 / temperature, smoothing)[0] / Math.max(1, entries.length);
}

/** The smoothing for so many examples, by Laplace's rule as Platt (1999) uses it: as if one in n + 2 were wrong. */
export function labelSmoothing(examples: number): number {
  return 1 / (examples + 2);
}

/**
 * The standard deviation of log T before anything is held out. Most temperatures of heads with hundreds of examples are
 * within it (bench/few-shot.ts), and tens of held-out examples outweigh it.
 */
const LOG_TEMPERATURE_DEVIATION = 1;

/** A temperature is fitted on at most so many logits. If there are more, every n-th entry is used. */
const MAX_TEMPERATURE_LOGITS = 1e6;

const MAX_NEWTON_STEPS = 40;

/** Operations of fitting a temperature to so many logits, at most. */
export function temperatureOperations(logits: number): number {
  return MAX_NEWTON_STEPS * Math.min(logits, MAX_TEMPERATURE_LOGITS) * OPERATIONS_PER_LOGIT;
}

/**
 * The temperature T within [0.02, 50] that minimises the log loss of n held-out logits divided by T (Guo et al. 2017),
 * shrunk towards 1: the maximum a posteriori with log T ~ N(0, σ²),
 *
 *   Σ_i ℓ_i(z_i / T) + (log T)² / (2 σ²),   σ = 1
 *
 * so a few examples that are predicted badly, or alike at any T, do not make every score the same. For several labels
 * `ℓ` is a mean over the outputs, and the prior is divided by their number. The fit smooths the labels
 * (`labelSmoothing`): if a few held-out examples are all predicted correctly, the likelihood has no maximum and the head
 * would become fully confident. Σ ℓ_i is convex in β = 1 / T; Newton's method finds log β within a shrinking bracket.
 */
export function* fitTemperature(targets: Targets, heldOut: HeldOutLogits, entries: readonly number[]): Steps<number> {
  if (entries.length === 0) return 1;
  const smoothing = labelSmoothing(entries.length);
  const stride = Math.ceil((entries.length * heldOut.outputs) / MAX_TEMPERATURE_LOGITS);
  const sample = stride > 1 ? entries.filter((_, i) => i % stride === 0) : entries;
  const precision = 1 / (LOG_TEMPERATURE_DEVIATION ** 2 * (targets.kind === "multi" ? heldOut.outputs : 1) * stride);
  let low = -Math.log(50);
  let high = -low;
  let logBeta = 0;
  for (let i = 0; i < MAX_NEWTON_STEPS && high - low > 1e-6; i++) {
    const beta = Math.exp(logBeta);
    const [, first, second] = totalLogLoss(targets, heldOut, sample, beta, smoothing);
    yield sample.length * heldOut.outputs * OPERATIONS_PER_LOGIT;
    const gradient = beta * first + precision * logBeta;
    const curvature = beta ** 2 * second + beta * first + precision;
    if (gradient === 0) break;
    if (gradient > 0) high = logBeta;
    else low = logBeta;
    const newtonStep = logBeta - gradient / curvature;
    const next = curvature > 0 && newtonStep > low && newtonStep < high ? newtonStep : (low + high) / 2;
    if (Math.abs(next - logBeta) < 1e-6) break;
    logBeta = next;
  }
  return Math.exp(-logBeta);
}

/** The probabilities of one held-out entry at a temperature. */
export function heldOutProbabilities(
  kind: "single" | "multi",
  heldOut: HeldOutLogits,
  entry: number,
  temperature: number,
): Float64Array {
  const { outputs, logits } = heldOut;
  const probabilities = new Float64Array(outputs);
  for (let k = 0; k < outputs; k++) probabilities[k] = (logits[entry * outputs + k] as number) / temperature;
  if (kind === "single") return softmax(probabilities);
  for (let k = 0; k < outputs; k++) probabilities[k] = sigmoid(probabilities[k] as number);
  return probabilities;
}

/**
 * At most 1000 quantiles of the scores, ascending. Each is the largest score of its share, so coverage is never
 * overstated.
 */
export function conformalScores(scores: readonly number[]): Float32Array {
  const sorted = Float32Array.from(scores).sort();
  const count = Math.min(1000, sorted.length);
  return Float32Array.from(
    { length: count },
    (_, i) => sorted[Math.ceil(((i + 1) * sorted.length) / count) - 1] as number,
  );
}
