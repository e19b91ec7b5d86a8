import { ELEMENTWISE_OPERATIONS, type Targets } from "../linear/objective.ts";
import { sigmoid, softmax, softplus } from "./probability.ts";

/** Logits of examples that the model had not been trained on: rows × outputs, and which row of the set each is. */
export interface HeldOut {
  readonly rows: Int32Array;
  readonly logits: Float32Array;
  readonly outputs: number;
}

/**
 * Mean negative log likelihood of one example, and its first two derivatives in β = 1 / T, at logits β z. `doubt` is
 * taken from the probability of what is true and shared by what is not.
 */
function likelihood(
  targets: Targets,
  held: HeldOut,
  at: number,
  beta: number,
  doubt: number,
): [number, number, number] {
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
    let all = 0;
    for (let k = 0; k < outputs; k++) {
      const z = (logits[start + k] as number) - top;
      const e = Math.exp(beta * z);
      all += z;
      sum += e;
      first += e * z;
      second += e * z * z;
    }
    const mean = first / sum;
    const own = (logits[start + target] as number) - top;
    const z = doubt === 0 ? own : (1 - doubt) * own + (doubt * (all - own)) / (outputs - 1);
    return [Math.log(sum) - beta * z, mean - z, second / sum - mean * mean];
  }
  const positive = new Set(targets.kind === "multi" ? targets.indices[row] : []);
  let value = 0;
  let first = 0;
  let second = 0;
  for (let k = 0; k < outputs; k++) {
    const z = logits[start + k] as number;
    const p = sigmoid(beta * z);
    const truth = positive.has(k) ? 1 - doubt : doubt;
    value += softplus(beta * z) - truth * beta * z;
    first += (p - truth) * z;
    second += p * (1 - p) * z * z;
  }
  return [value / outputs, first / outputs, second / outputs];
}

/** Σ of the likelihoods over `which` entries of `held`. */
function totals(
  targets: Targets,
  held: HeldOut,
  which: readonly number[],
  beta: number,
  doubt: number,
): [number, number, number] {
  const sums: [number, number, number] = [0, 0, 0];
  for (const at of which) {
    const [value, first, second] = likelihood(targets, held, at, beta, doubt);
    sums[0] += value;
    sums[1] += first;
    sums[2] += second;
  }
  return sums;
}

/** Log loss (multi-label: the mean over labels too) of `which` entries of `held` at a temperature. */
export function heldOutLogLoss(
  targets: Targets,
  held: HeldOut,
  which: readonly number[],
  temperature: number,
  doubt = 0,
): number {
  return totals(targets, held, which, 1 / temperature, doubt)[0] / Math.max(1, which.length);
}

/** One example in so many and two may be wrong for all that they tell: Laplace's rule, as Platt (1999) has it. */
export function doubtOf(examples: number): number {
  return 1 / (examples + 2);
}

/** Logits that one number is fitted on; of more, every so many entries are taken. */
const LOGITS = 1e6;
/** Most passes over them. */
const PASSES = 40;

/** Operations of fitting one temperature to so many logits at most. */
export function temperatureOperations(logits: number): number {
  return PASSES * Math.min(logits, LOGITS) * ELEMENTWISE_OPERATIONS;
}

/**
 * The temperature that minimises the log loss of held-out logits divided by it (Guo et al. 2017), within [0.02, 50].
 * The truths are smoothed as Platt's are (`doubtOf`): where all entries are right, the plain loss would go on falling with T, and the
 * head would be certain of everything. The loss is convex in β = 1 / T: Newton's method on it, kept inside a shrinking
 * bracket. Yields floating-point operations.
 */
export function* fitTemperature(
  targets: Targets,
  held: HeldOut,
  entries: readonly number[],
): Generator<number, number, void> {
  if (entries.length === 0) return 1;
  const doubt = doubtOf(entries.length);
  const every = Math.ceil((entries.length * held.outputs) / LOGITS);
  const which = every > 1 ? entries.filter((_, i) => i % every === 0) : entries;
  let low = 0.02;
  let high = 50;
  let beta = 1;
  for (let i = 0; i < PASSES && high / low > 1 + 1e-6; i++) {
    const [, first, second] = totals(targets, held, which, beta, doubt);
    yield which.length * held.outputs * ELEMENTWISE_OPERATIONS;
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
  const { outputs, logits } = held;
  const scaled = new Float64Array(outputs);
  for (let k = 0; k < outputs; k++) scaled[k] = (logits[at * outputs + k] as number) / temperature;
  if (kind === "single") return softmax(scaled);
  for (let k = 0; k < outputs; k++) scaled[k] = sigmoid(scaled[k] as number);
  return scaled;
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
