/** Decides which of two candidates is better, on examples that neither was trained on. */
import { betaCdf, betaLogDensity, binomialCdf, studentCdf } from "./beta.ts";

export type Candidate = "head" | "fine_tuned";
export type Verdict = "better" | "not_better" | "inconclusive";

/** The results of both candidates on examples that they were not trained on. */
export interface Comparison {
  readonly test_examples: number;
  /** R² for regression. */
  readonly head_accuracy: number;
  readonly fine_tuned_accuracy: number;
  /** Examples that only the head predicted correctly. For regression, examples where it was nearer. */
  readonly only_head: number;
  readonly only_fine_tuned: number;
  /** Regression: the standard error of the difference of R². Older batch endpoints do not send it. */
  readonly gain_error?: number | undefined;
}

export interface Decision {
  /** McNemar's. It informs; it does not decide. */
  readonly p_value: number;
  readonly verdict: Verdict;
  /** The accuracy of the fine-tuned model (R² for regression) minus that of the head. */
  readonly expected_gain: number;
  /** The probability that the true gain is below −LOSS_MARGIN. */
  readonly chance_of_loss: number;
}

/** Whether the candidates were compared at all. */
export function hasTestExamples({ test_examples }: Comparison): boolean {
  return test_examples > 0;
}

const TEST_FRACTION = 0.2;
/** A smaller loss of accuracy is no loss. */
const LOSS_MARGIN = 0.005;
/** A model with a larger chance of a loss is not called better. */
const MAX_CHANCE_OF_LOSS = 0.1;

/**
 * Whether an input belongs to the held-out fifth of its dataset, which judges at batch endpoints that do not cross-fit. It
 * depends only on the hash of the normalised input (at least four uniform bytes). So duplicates stay together, and the
 * held-out part stays the same as the dataset grows.
 */
export function isHeldOut(groupHash: Uint8Array): boolean {
  const [a = 0, b = 0, c = 0, d = 0] = groupHash;
  return a * 2 ** 24 + b * 2 ** 16 + c * 2 ** 8 + d < TEST_FRACTION * 2 ** 32;
}

/**
 * McNemar's exact test, two-sided (McNemar 1947), on the examples that only one of two models predicted correctly: the
 * probability of a split that is at least as uneven, if each model were equally likely to be the correct one. For
 * regression, on the examples where one model is nearer, it is the sign test.
 */
export function mcNemar(onlyFirst: number, onlySecond: number): number {
  return Math.min(1, 2 * binomialCdf(Math.min(onlyFirst, onlySecond), onlyFirst + onlySecond, 0.5));
}

/**
 * `better`: the fine-tuned model's accuracy is higher, and the chance that it loses more than LOSS_MARGIN is small.
 * `not_better`: its accuracy is not higher. `inconclusive`: it is higher, but may well lose, or there are no examples.
 */
export function compare(comparison: Comparison): Decision {
  const { only_head, only_fine_tuned, test_examples, gain_error } = comparison;
  const expected_gain = comparison.fine_tuned_accuracy - comparison.head_accuracy;
  const chance_of_loss =
    gain_error === undefined
      ? chanceOfLoss(only_head, only_fine_tuned, test_examples)
      : chanceOfValueLoss(expected_gain, gain_error, test_examples);
  const figures = { p_value: mcNemar(only_head, only_fine_tuned), expected_gain, chance_of_loss };
  if (!hasTestExamples(comparison)) return { ...figures, verdict: "inconclusive" };
  if (expected_gain <= 0) return { ...figures, verdict: "not_better" };
  return { ...figures, verdict: isBetter(figures) ? "better" : "inconclusive" };
}

/** Whether a model with this gain over another one is called better. */
export function isBetter({
  expected_gain,
  chance_of_loss,
}: Pick<Decision, "expected_gain" | "chance_of_loss">): boolean {
  return expected_gain > 0 && chance_of_loss < MAX_CHANCE_OF_LOSS;
}

/** Intervals of Simpson's rule, and how many standard deviations from the mean they reach. */
const INTERVALS = 400;
const DEVIATIONS = 12;

/**
 * P(p₂ − p₁ < −δ) after n examples, of which a only the first model predicted correctly and b only the second; δ is
 * LOSS_MARGIN. p₁ and p₂ are the true shares of such examples. The prior of (p₁, p₂, 1 − p₁ − p₂) is uniform (Dirichlet(1,
 * 1, 1)). Then p = p₁ + p₂ ~ Beta(a + b + 2, n − a − b + 1) and q = p₂ / p ~ Beta(b + 1, a + 1) are independent, so the
 * probability is
 *
 *   ∫ f(p) P(q < ½ − δ / 2p) dp    over p from δ to 1, where f is the density of p
 */
function chanceOfLoss(onlyFirst: number, onlySecond: number, examples: number): number {
  const discordant = onlyFirst + onlySecond + 2;
  const others = Math.max(0, examples - onlyFirst - onlySecond) + 1;
  const total = discordant + others;
  const mean = discordant / total;
  const deviation = Math.sqrt((mean * (1 - mean)) / (total + 1));
  const from = Math.max(LOSS_MARGIN, mean - DEVIATIONS * deviation);
  const to = Math.min(1, mean + DEVIATIONS * deviation);
  if (from >= to) return 0;
  const step = (to - from) / INTERVALS;
  let sum = 0;
  for (let i = 0; i <= INTERVALS; i++) {
    const p = Math.min(from + i * step, 1 - Number.EPSILON);
    const weight = i === 0 || i === INTERVALS ? 1 : i % 2 === 1 ? 4 : 2;
    const density = Math.exp(betaLogDensity(p, discordant, others));
    sum += weight * density * betaCdf(0.5 - LOSS_MARGIN / (2 * p), onlySecond + 1, onlyFirst + 1);
  }
  return Math.min(1, (sum * step) / 3);
}

/** P(gain < −LOSS_MARGIN) of an R² difference that has this standard error: Student's t with n − 1 degrees of freedom. */
function chanceOfValueLoss(gain: number, error: number, examples: number): number {
  const distance = -LOSS_MARGIN - gain;
  if (error === 0) return distance > 0 ? 1 : 0;
  return studentCdf(distance / error, Math.max(1, examples - 1));
}

/**
 * The standard error of the difference of R² of two models. The difference is the mean of d_i = (e_i² − e'_i²) / s², where
 * e_i and e'_i are the models' errors, and s² the variance of the values, which counts as known. 0 if the values are all
 * the same, or there are fewer than two.
 */
export function gainError(values: readonly number[], first: readonly number[], second: readonly number[]): number {
  const n = values.length;
  const meanOf = (numbers: readonly number[]) => numbers.reduce((sum, each) => sum + each / n, 0);
  const squaredDistances = (others: readonly number[]) => values.map((value, i) => (value - (others[i] ?? 0)) ** 2);
  const mean = meanOf(values);
  const variance = meanOf(values.map((value) => (value - mean) ** 2));
  if (n < 2 || variance === 0) return 0;
  const [firstErrors, secondErrors] = [squaredDistances(first), squaredDistances(second)];
  const differences = firstErrors.map((error, i) => (error - (secondErrors[i] as number)) / variance);
  const difference = meanOf(differences);
  return Math.sqrt(meanOf(differences.map((each) => (each - difference) ** 2)) / (n - 1));
}
