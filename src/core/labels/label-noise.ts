/**
 * The share of labels that were given regardless of the input. An example's label is either what a model of the other
 * examples expects, or with probability η any of the k labels:
 *
 *   p(y_i) = (1 − η) softmax(z_i / T)_{y_i} + η / k
 *
 * T and η are those that make the labels of n held-out examples most probable, with the density e^(−2 η) of η before
 * anything is seen: where both explain the labels alike, they are not wrong. A model that is uncertain of its own
 * predictions has a high T and explains its errors by that; what it can't explain is η. Confusions of a weak model, which
 * give the label that is wrong a fair probability, so count little.
 *
 * The posterior of the second case is how likely it is that a label is wrong:
 *
 *   (η / k) / p(y_i)
 */
import type { HeldOutLogits } from "../evaluation/calibration.ts";
import { sigmoid } from "../evaluation/probability.ts";
import { OPERATIONS_PER_LOGIT } from "../linear/objective.ts";
import type { Steps } from "../steps.ts";

export interface LabelNoise {
  /** η, in [0, 1]. */
  readonly share: number;
  /** T */
  readonly temperature: number;
}

/** log T is one of these. */
const LOG_TEMPERATURES = Array.from({ length: 17 }, (_, i) => (6 - i) / 5);
/** So many logits are used at most. If there are more, every n-th example is. */
const MAX_LOGITS = 1e6;
/** The density of η before anything is seen falls by e^−PRIOR_RATE η. */
const PRIOR_RATE = 2;
const MAX_SHARE = 0.9;
const BISECTIONS = 30;

/** Operations of estimating the noise of so many logits, at most. */
export function labelNoiseOperations(logits: number): number {
  return LOG_TEMPERATURES.length * Math.min(logits, MAX_LOGITS) * OPERATIONS_PER_LOGIT;
}

/**
 * Estimates η and T of one label an example. Examples out of scope (label −1) are left out. Without any example η is 0.
 *
 * @param labels the label of each row of the training set
 */
export function* estimateLabelNoise(labels: Int32Array, heldOut: HeldOutLogits): Steps<LabelNoise> {
  const { rows, outputs } = heldOut;
  const labelOf = (entry: number) => labels[rows[entry] as number] as number;
  const sample = sampleOf(heldOut, (entry) => labelOf(entry) >= 0);
  return yield* fitNoise(outputs, sample.length * outputs, (temperature) =>
    Float64Array.from(sample, (entry) => labelProbability(heldOut, entry, labelOf(entry), temperature)),
  );
}

/**
 * The same of any number of labels an example: each is either what a model expects, or with probability η there or not
 * there as a coin falls.
 *
 * @param indices the labels of each row of the training set
 */
export function* estimateMultiLabelNoise(
  indices: readonly (readonly number[])[],
  heldOut: HeldOutLogits,
): Steps<LabelNoise> {
  const { rows, logits, outputs } = heldOut;
  const sample = sampleOf(heldOut, () => true);
  const signed = sample.flatMap((entry) => {
    const own = new Set(indices[rows[entry] as number]);
    return Array.from({ length: outputs }, (_, k) => (own.has(k) ? 1 : -1) * (logits[entry * outputs + k] as number));
  });
  return yield* fitNoise(2, signed.length, (temperature) =>
    Float64Array.from(signed, (logit) => sigmoid(logit / temperature)),
  );
}

function sampleOf({ rows, outputs }: HeldOutLogits, isUsed: (entry: number) => boolean): readonly number[] {
  const entries = Array.from(rows.keys()).filter(isUsed);
  const stride = Math.ceil((entries.length * outputs) / MAX_LOGITS);
  return stride > 1 ? entries.filter((_, i) => i % stride === 0) : entries;
}

/** @param probabilitiesAt the probability of each label at a temperature, of `outputs` that it may be */
function* fitNoise(
  outputs: number,
  logits: number,
  probabilitiesAt: (temperature: number) => Float64Array,
): Steps<LabelNoise> {
  let best: LabelNoise = { share: 0, temperature: 1 };
  let lowestLoss = Number.POSITIVE_INFINITY;
  for (const logTemperature of logits === 0 ? [] : LOG_TEMPERATURES) {
    const temperature = Math.exp(logTemperature);
    const own = probabilitiesAt(temperature);
    const share = fitShare(own, 1 / outputs);
    const loss = own.reduce(
      (sum, p) => sum - Math.log((1 - share) * p + share / outputs + Number.MIN_VALUE),
      PRIOR_RATE * share,
    );
    if (loss < lowestLoss) [best, lowestLoss] = [{ share, temperature }, loss];
    yield logits * OPERATIONS_PER_LOGIT;
  }
  return best;
}

/** How likely it is that a label was given regardless of the input. `own`: its probability at the temperature. */
export function wrongProbability(own: number, share: number, outputs: number): number {
  const regardless = share / outputs;
  return regardless === 0 ? 0 : regardless / ((1 - share) * own + regardless);
}

/** softmax(z / T)_label of an entry. */
export function labelProbability(
  { logits, outputs }: HeldOutLogits,
  entry: number,
  label: number,
  temperature: number,
): number {
  const start = entry * outputs;
  const own = logits[start + label] as number;
  let sum = 0;
  for (let k = 0; k < outputs; k++) sum += Math.exp(((logits[start + k] as number) - own) / temperature);
  return 1 / sum;
}

/** The most probable η: the root of the derivative of a concave function. */
function fitShare(own: Float64Array, uniform: number): number {
  const slope = (share: number) =>
    own.reduce((sum, p) => sum + (uniform - p) / ((1 - share) * p + share * uniform + Number.MIN_VALUE), -PRIOR_RATE);
  // At 0 the slope may be infinite, where a label has no probability at all.
  if (!(slope(0) > 0)) return 0;
  let [low, high] = [0, MAX_SHARE];
  for (let i = 0; i < BISECTIONS; i++) {
    const middle = (low + high) / 2;
    if (slope(middle) > 0) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}
