/** Which of two candidates is better, on examples that neither was trained on. */
import { binomialCdf } from "./binomial.ts";

export type Candidate = "head" | "fine_tuned";
export type Verdict = "better" | "not_better" | "inconclusive";

/** How both candidates did on the held-out examples. Its keys are stored and sent. */
export interface Comparison {
  readonly test_examples: number;
  /** For regression, R². */
  readonly head_accuracy: number;
  readonly fine_tuned_accuracy: number;
  /** Examples that the head alone got right; for regression, where it was nearer. */
  readonly only_head: number;
  readonly only_fine_tuned: number;
}

const TEST_FRACTION = 0.2;
/** A chance of being wrong that a promotion may have. */
const SIGNIFICANCE_LEVEL = 0.1;

/**
 * Whether an input belongs to the held-out part of its data set, a fifth of it: by the hash of the normalised input alone
 * (at least four bytes, uniform), so that duplicates stay together, and the part stays the same as the data grows.
 */
export function isHeldOut(groupHash: Uint8Array): boolean {
  const [a = 0, b = 0, c = 0, d = 0] = groupHash;
  return a * 2 ** 24 + b * 2 ** 16 + c * 2 ** 8 + d < TEST_FRACTION * 2 ** 32;
}

/**
 * McNemar's exact test, two-sided (McNemar 1947): the probability of a split at least as uneven of the examples that
 * just one of two models got right, were either as likely to. For regression, of those where one is nearer, it is the
 * sign test.
 */
export function mcNemar(onlyFirst: number, onlySecond: number): number {
  return Math.min(1, 2 * binomialCdf(Math.min(onlyFirst, onlySecond), onlyFirst + onlySecond, 0.5));
}

/**
 * `better`: a higher accuracy that is hardly chance; `inconclusive`: higher, but it may be; without examples as well. The
 * test is two-sided, and R² may be higher where fewer values are nearer: what it finds has to speak for the fine-tuned one.
 */
export function compare(comparison: Comparison): { readonly p_value: number; readonly verdict: Verdict } {
  const p_value = mcNemar(comparison.only_head, comparison.only_fine_tuned);
  if (comparison.test_examples === 0) return { p_value, verdict: "inconclusive" };
  if (comparison.fine_tuned_accuracy <= comparison.head_accuracy) return { p_value, verdict: "not_better" };
  const isAhead = comparison.only_fine_tuned > comparison.only_head;
  return { p_value, verdict: isAhead && p_value < SIGNIFICANCE_LEVEL ? "better" : "inconclusive" };
}
