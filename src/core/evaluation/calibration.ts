import { OPERATIONS_PER_LOGIT } from "../linear/objective.ts";
import type { Targets } from "../linear/targets.ts";
import type { Steps } from "../steps.ts";
import { sigmoid, softmax, softplus } from "./probability.ts";

/** Logits of examples that the model had not been trained on: rows × outputs, and which row of the set each is. */
export interface HeldOutLogits {
  readonly rows: Int32Array;
  readonly logits: Float32Array;
  readonly outputs: number;
}

/**
 * Mean negative log likelihood of one example, and its first two derivatives in β = 1 / T, at logits β z. `doubt` is
 * taken from the probability of what is true and shared by what is not.
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

/** Σ of the likelihoods over `which` entries of `held`. */
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

/** Log loss (multi-label: the mean over labels too) of `which` entries of `held` at a temperature. */
export function heldOutLogLoss(
  targets: Targets,
  heldOut: HeldOutLogits,
  entries: readonly number[],
  temperature: number,
  smoothing = 0,
): number {
  return totalLogLoss(targets, heldOut, entries, 1 / temperature, smoothing)[0] / Math.max(1, entries.length);
}

/** One example in so many and two may be wrong for all that they tell: Laplace's rule, as Platt (1999) has it. */
export function labelSmoothing(examples: number): number {
  return 1 / (examples + 2);
}

/** Logits that one number is fitted on; of more, every so many entries are taken. */
const MAX_TEMPERATURE_LOGITS = 1e6;
/** Most passes over them. */
const MAX_NEWTON_STEPS = 40;

/** Operations of fitting one temperature to so many logits at most. */
export function temperatureOperations(logits: number): number {
  return MAX_NEWTON_STEPS * Math.min(logits, MAX_TEMPERATURE_LOGITS) * OPERATIONS_PER_LOGIT;
}

/**
 * The temperature that minimises the log loss of held-out logits divided by it (Guo et al. 2017), within [0.02, 50].
 * The truths are smoothed as Platt's are (`doubtOf`): where all entries are right, the plain loss would go on falling with T, and the
 * head would be certain of everything. The loss is convex in β = 1 / T: Newton's method on it, kept inside a shrinking
 * bracket. Yields floating-point operations.
 */
export function* fitTemperature(targets: Targets, heldOut: HeldOutLogits, entries: readonly number[]): Steps<number> {
  if (entries.length === 0) return 1;
  const smoothing = labelSmoothing(entries.length);
  const stride = Math.ceil((entries.length * heldOut.outputs) / MAX_TEMPERATURE_LOGITS);
  const sample = stride > 1 ? entries.filter((_, i) => i % stride === 0) : entries;
  let low = 0.02;
  let high = 50;
  let beta = 1;
  for (let i = 0; i < MAX_NEWTON_STEPS && high / low > 1 + 1e-6; i++) {
    const [, gradient, curvature] = totalLogLoss(targets, heldOut, sample, beta, smoothing);
    yield sample.length * heldOut.outputs * OPERATIONS_PER_LOGIT;
    if (gradient === 0) break;
    if (gradient > 0) high = beta;
    else low = beta;
    const newtonStep = beta - gradient / curvature;
    const next = newtonStep > low && newtonStep < high ? newtonStep : Math.sqrt(low * high);
    if (Math.abs(next - beta) < 1e-6 * beta) break;
    beta = next;
  }
  return 1 / beta;
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

/** At most 1000 scores, ascending, that stand for all: each is the largest of its share, so coverage is never overstated. */
export function conformalScores(scores: readonly number[]): Float32Array {
  const sorted = Float32Array.from(scores).sort();
  const count = Math.min(1000, sorted.length);
  return Float32Array.from(
    { length: count },
    (_, i) => sorted[Math.ceil(((i + 1) * sorted.length) / count) - 1] as number,
  );
}

/**
 * The threshold on the top probability that best tells scope: it maximises the share of in-scope examples that are kept and
 * right plus the share of out-of-scope examples that are refused. `inScope` holds each example's top probability
 * and whether its label is right. An example is in scope when its top probability is at least the threshold.
 */
export function outOfScopeThreshold(
  inScope: readonly { top: number; right: boolean }[],
  outOfScope: readonly number[],
): number {
  const points = [
    ...inScope.map(({ top, right }) => ({ top, gain: right ? -1 / inScope.length : 0 })),
    ...outOfScope.map((top) => ({ top, gain: 1 / outOfScope.length })),
  ].sort((a, b) => a.top - b.top);
  let gain = 0;
  let bestGain = 0;
  let threshold = 0;
  points.forEach((point, i) => {
    gain += point.gain;
    const nextTop = points[i + 1]?.top ?? 1;
    if (gain > bestGain && nextTop > point.top) {
      bestGain = gain;
      threshold = (point.top + nextTop) / 2;
    }
  });
  return threshold;
}
