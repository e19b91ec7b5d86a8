/** The policy of a head that retrains by itself: which new version is promoted, and when the active one has drifted. */
import { binomialCdf } from "../evaluation/beta.ts";
import type { Decision } from "../evaluation/comparison.ts";
import type { Task } from "../head.ts";

export interface Policy {
  /** The head retrains after so many new or changed examples since its newest version was trained; null for never. */
  readonly retrain_after_examples: number | null;
  readonly retrain_on_drift: boolean;
  readonly promote: "if_not_worse" | "always" | "never";
  /** The name of a dataset that decides in the place of the held-out examples. Policies that older builds stored have none. */
  readonly test_dataset?: string | null;
}

export const defaultPolicy: Policy = { retrain_after_examples: null, retrain_on_drift: false, promote: "if_not_worse" };

/** The figures of an evaluation by which versions are compared. `examples` were held out. */
export interface HeldOutScores {
  readonly examples: number;
  readonly accuracy?: number | undefined;
  readonly micro_f1?: number | undefined;
  readonly r2?: number | null | undefined;
}

/** The metric that versions are compared by: accuracy, micro-F1 or R². Null if nothing was held out. */
function primaryMetric(task: Task, evaluation: HeldOutScores | null): number | null {
  if (evaluation === null || evaluation.examples === 0) return null;
  const { accuracy, micro_f1, r2 } = evaluation;
  return (task === "single_label" ? accuracy : task === "multi_label" ? micro_f1 : r2) ?? null;
}

/**
 * Whether a new version is not worse than the active one. Its metric b must be at least a − √(a(1 − a) / n): within one
 * standard error of the active version's metric a on its n held-out examples. (The standard error is 0 for an R² below
 * 0.) If the active version has no metric, no version is worse.
 */
export function isNotWorse(task: Task, candidate: HeldOutScores | null, active: HeldOutScores | null): boolean {
  const [a, b] = [primaryMetric(task, active), primaryMetric(task, candidate)];
  if (a === null || active === null) return true;
  const share = Math.min(1, Math.max(0, a));
  return b !== null && b >= a - Math.sqrt((share * (1 - share)) / active.examples);
}

/** Whether the policy promotes a new version. Without an active version none is worse. */
export function shouldPromoteVersion(
  promote: Policy["promote"],
  task: Task,
  candidate: HeldOutScores | null,
  active: { readonly evaluation: HeldOutScores | null } | null,
): boolean {
  if (promote !== "if_not_worse") return promote === "always";
  return active === null || isNotWorse(task, candidate, active.evaluation);
}

/** With a larger chance of a loss on its test set, a version counts as worse. */
const MAX_CHANCE_OF_LOSS = 0.5;

/** How a new version did on its test set. */
export interface TestOutcome {
  /** The version that it was compared with, its gain over that, and the chance that it is worse; null if none was active. */
  readonly comparison: ({ readonly version: number } & Pick<Decision, "expected_gain" | "chance_of_loss">) | null;
}

/**
 * Whether the policy promotes a new version that was tested. Under `if_not_worse` the chance that it is worse than the active
 * version on the same examples, by more than LOSS_MARGIN (comparison.ts), must be at most one half. A test that failed, or
 * was against another version than the active one, promotes nothing.
 */
export function shouldPromoteTested(
  promote: Policy["promote"],
  test: TestOutcome | null,
  activeVersion: number | null,
): boolean {
  if (promote !== "if_not_worse") return promote === "always";
  if (test === null) return false;
  if (activeVersion === null) return true;
  return test.comparison?.version === activeVersion && test.comparison.chance_of_loss <= MAX_CHANCE_OF_LOSS;
}

/** Drift is tested on the latest so many examples. */
export const DRIFT_WINDOW = 100;
/** With fewer examples there is no test. */
const MIN_DRIFT_EXAMPLES = 20;
/** The probability of reporting drift for a version that is as accurate as its evaluation says. */
const DRIFT_SIGNIFICANCE_LEVEL = 0.01;

/** How many examples a version predicted before their labels were known, and how many correctly. */
export interface OutcomeCounts {
  readonly judged: number;
  readonly hits: number;
}

/**
 * The one-sided exact binomial test of whether a version is less accurate than on its n held-out examples: P(X ≤ hits)
 * in `judged` trials. The expected share of hits is (n·accuracy + 1) / (n + 2), by Laplace's rule of succession.
 * Without that rule a single miss would be impossible for a version that predicted all of its few held-out examples
 * correctly. Null if there are too few examples, or no accuracy (as for regression).
 */
export function driftPValue({ judged, hits }: OutcomeCounts, evaluation: HeldOutScores | null): number | null {
  if (judged < MIN_DRIFT_EXAMPLES || evaluation?.accuracy === undefined || evaluation.examples === 0) return null;
  const expected = (evaluation.examples * evaluation.accuracy + 1) / (evaluation.examples + 2);
  return binomialCdf(hits, judged, expected);
}

export function isDrifting(outcomes: OutcomeCounts, evaluation: HeldOutScores | null): boolean {
  const pValue = driftPValue(outcomes, evaluation);
  return pValue !== null && pValue < DRIFT_SIGNIFICANCE_LEVEL;
}

/** After so many failures in a row a retraining is given up, until as many new examples have arrived again. */
const MAX_RETRAINING_FAILURES = 5;
const FIRST_BACKOFF_MS = 10_000;
const MAX_BACKOFF_MS = 3_600_000;

/** How long a retraining that has failed `failures` times in a row waits, in milliseconds. Null if it is given up. */
export function retrainingBackoff(failures: number): number | null {
  return failures >= MAX_RETRAINING_FAILURES ? null : Math.min(FIRST_BACKOFF_MS * 4 ** (failures - 1), MAX_BACKOFF_MS);
}
