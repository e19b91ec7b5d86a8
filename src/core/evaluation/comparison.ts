/** Decides which of two candidates is better, on examples that neither was trained on. */
import { binomialCdf } from "./binomial.ts";

export type Candidate = "head" | "fine_tuned";
export type Verdict = "better" | "not_better" | "inconclusive";

/** The results of both candidates on the held-out examples. */
export interface Comparison {
  readonly test_examples: number;
  /** R² for regression. */
  readonly head_accuracy: number;
  readonly fine_tuned_accuracy: number;
  /** Examples that only the head predicted correctly. For regression, examples where it was nearer. */
  readonly only_head: number;
  readonly only_fine_tuned: number;
}

/** Whether the candidates were compared at all. */
export function hasTestExamples({ test_examples }: Comparison): boolean {
  return test_examples > 0;
}

const TEST_FRACTION = 0.2;
/** Below this p-value a better accuracy is not put down to chance. */
const SIGNIFICANCE_LEVEL = 0.1;

/**
 * Whether an input belongs to the held-out fifth of its dataset. It depends only on the hash of the normalised input
 * (at least four uniform bytes). So duplicates stay together, and the held-out part stays the same as the dataset
 * grows.
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
 * `better`: the fine-tuned model has a higher accuracy that is hardly chance. `inconclusive`: its accuracy is higher,
 * perhaps by chance, or there are no examples. The test is two-sided, and R² may be higher although fewer values are
 * nearer, so `better` also needs more examples on which the fine-tuned model wins.
 */
export function compare(comparison: Comparison): { readonly p_value: number; readonly verdict: Verdict } {
  const p_value = mcNemar(comparison.only_head, comparison.only_fine_tuned);
  if (!hasTestExamples(comparison)) return { p_value, verdict: "inconclusive" };
  if (comparison.fine_tuned_accuracy <= comparison.head_accuracy) return { p_value, verdict: "not_better" };
  const isAhead = comparison.only_fine_tuned > comparison.only_head;
  return { p_value, verdict: isAhead && p_value < SIGNIFICANCE_LEVEL ? "better" : "inconclusive" };
}
