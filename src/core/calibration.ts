import type { Targets } from "./objective.ts";
import { sigmoid, softmax, softplus } from "./probability.ts";

/** Logits of examples that the model had not been trained on: rows × outputs, and which row of the set each is. */
export interface HeldOut {
  readonly rows: Int32Array;
  readonly logits: Float32Array;
  readonly outputs: number;
}

/** Mean negative log likelihood of one example, and its first two derivatives in β = 1 / T, at logits β z. */
function likelihood(targets: Targets, held: HeldOut, at: number, beta: number): [number, number, number] {
  const { outputs, logits } = held;
  const row = held.rows[at] as number;
  const start = at * outputs;
  if (targets.kind === "single") {
    const target = targets.indices[row] as number;
    let top = Number.NEGATIVE_INFINITY;
    for (let k = 0; k < outputs; k++) top = Math.max(top, logits[start + k] as number);
    let sum = 0;
    let first = 0;
    let second = 0;
    for (let k = 0; k < outputs; k++) {
      const z = (logits[start + k] as number) - top;
      const e = Math.exp(beta * z);
      sum += e;
      first += e * z;
      second += e * z * z;
    }
    const mean = first / sum;
    const z = (logits[start + target] as number) - top;
    return [Math.log(sum) - beta * z, mean - z, second / sum - mean * mean];
  }
  const positive = new Set(targets.kind === "multi" ? targets.indices[row] : []);
  let value = 0;
  let first = 0;
  let second = 0;
  for (let k = 0; k < outputs; k++) {
    const z = logits[start + k] as number;
    const p = sigmoid(beta * z);
    const truth = positive.has(k) ? 1 : 0;
    value += softplus(beta * z) - truth * beta * z;
    first += (p - truth) * z;
    second += p * (1 - p) * z * z;
  }
  return [value / outputs, first / outputs, second / outputs];
}

/** Σ of the likelihoods over `which` entries of `held`. */
function totals(targets: Targets, held: HeldOut, which: readonly number[], beta: number): [number, number, number] {
  const sums: [number, number, number] = [0, 0, 0];
  for (const at of which) {
    const [value, first, second] = likelihood(targets, held, at, beta);
    sums[0] += value;
    sums[1] += first;
    sums[2] += second;
  }
  return sums;
}

/** Log loss (multi-label: the mean over labels too) of `which` entries of `held` at a temperature. */
export function heldOutLogLoss(targets: Targets, held: HeldOut, which: readonly number[], temperature: number): number {
  return totals(targets, held, which, 1 / temperature)[0] / Math.max(1, which.length);
}

/** Logits that one number is fitted on; of more, every so many entries are taken. */
const LOGITS = 1e6;
/** Most passes over them. */
export const TEMPERATURE_PASSES = 40;

/**
 * The temperature that minimises the log loss of held-out logits divided by it (Guo et al. 2017), within [0.02, 50].
 * The loss is convex in β = 1 / T: Newton's method on it, kept inside a shrinking bracket.
 */
export function fitTemperature(targets: Targets, held: HeldOut, entries: readonly number[]): number {
  if (entries.length === 0) return 1;
  const every = Math.ceil((entries.length * held.outputs) / LOGITS);
  const which = every > 1 ? entries.filter((_, i) => i % every === 0) : entries;
  let low = 0.02;
  let high = 50;
  let beta = 1;
  for (let i = 0; i < TEMPERATURE_PASSES && high / low > 1 + 1e-6; i++) {
    const [, first, second] = totals(targets, held, which, beta);
    if (first === 0) break;
    if (first > 0) high = beta;
    else low = beta;
    const newton = beta - first / second;
    const next = newton > low && newton < high ? newton : Math.sqrt(low * high);
    if (Math.abs(next - beta) < 1e-6 * beta) break;
    beta = next;
  }
  return 1 / beta;
}

/** The probabilities of one held-out entry at a temperature. */
export function heldOutProbabilities(
  kind: "single" | "multi",
  held: HeldOut,
  at: number,
  temperature: number,
): Float64Array {
  const scaled = Float64Array.from(
    held.logits.subarray(at * held.outputs, (at + 1) * held.outputs),
    (logit) => logit / temperature,
  );
  return kind === "single" ? softmax(scaled) : scaled.map(sigmoid);
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
  const events = [
    ...inScope.map(({ top, right }) => ({ top, gain: right ? -1 / inScope.length : 0 })),
    ...outOfScope.map((top) => ({ top, gain: 1 / outOfScope.length })),
  ].sort((a, b) => a.top - b.top);
  let gain = 0;
  let best = 0;
  let threshold = 0;
  events.forEach((event, i) => {
    gain += event.gain;
    const following = events[i + 1]?.top ?? 1;
    if (gain > best && following > event.top) {
      best = gain;
      threshold = (event.top + following) / 2;
    }
  });
  return threshold;
}
