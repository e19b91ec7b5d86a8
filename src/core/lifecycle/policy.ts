/** When a head learns by itself: which new version is promoted, and when the active one has drifted. */
import { binomialCdf } from "../evaluation/binomial.ts";
import type { Task } from "../head.ts";

export interface Policy {
  /** New or changed examples since the newest version was trained after which the head trains again; null for never. */
  readonly retrain_after_examples: number | null;
  readonly retrain_on_drift: boolean;
  readonly promote: "if_not_worse" | "always" | "never";
}

export const defaultPolicy: Policy = { retrain_after_examples: null, retrain_on_drift: false, promote: "if_not_worse" };

/** The figures of an evaluation by which versions are compared. `examples` were held out. */
export interface HeldOutScores {
  readonly examples: number;
  readonly accuracy?: number | undefined;
  readonly micro_f1?: number | undefined;
  readonly r2?: number | null | undefined;
}

/** The figure that versions are compared by: accuracy, micro-F1 or R²; null where nothing was held out. */
function primaryMetric(task: Task, evaluation: HeldOutScores | null): number | null {
  if (evaluation === null || evaluation.examples === 0) return null;
  const { accuracy, micro_f1, r2 } = evaluation;
  return (task === "single_label" ? accuracy : task === "multi_label" ? micro_f1 : r2) ?? null;
}

/**
 * Whether a new version is not worse than the active one: its figure b is at least a − √(a(1 − a) / n), one standard error
 * of the active version's figure a on its n held-out examples (a below 0, as R² may be, has none). A version without a
 * figure is not worse than one without.
 */
export function isNotWorse(task: Task, candidate: HeldOutScores | null, active: HeldOutScores | null): boolean {
  const [a, b] = [primaryMetric(task, active), primaryMetric(task, candidate)];
  if (a === null || active === null) return true;
  const share = Math.min(1, Math.max(0, a));
  return b !== null && b >= a - Math.sqrt((share * (1 - share)) / active.examples);
}

/** Whether the policy promotes a new version; without an active one nothing can be worse. */
export function shouldPromoteVersion(
  promote: Policy["promote"],
  task: Task,
  candidate: HeldOutScores | null,
  active: { readonly evaluation: HeldOutScores | null } | null,
): boolean {
  if (promote !== "if_not_worse") return promote === "always";
  return active === null || isNotWorse(task, candidate, active.evaluation);
}

/** The latest so many examples decide, and fewer than the least decide nothing. */
export const DRIFT_WINDOW = 100;
const MIN_DRIFT_EXAMPLES = 20;
/** A chance of calling a version drifting that is as good as it was held to be. */
const DRIFT_SIGNIFICANCE_LEVEL = 0.01;

/** What a version predicted of examples that it then learnt, and how many of them right. */
export interface OutcomeCounts {
  readonly judged: number;
  readonly hits: number;
}

/**
 * The one-sided exact binomial test of whether a version is right less often than it was on held-out examples: the
 * probability P(X ≤ hits) in `judged` trials. Their share of hits is taken as (n·accuracy + 1) / (n + 2), by Laplace's rule of
 * succession: without it one miss would be impossible for a version that got all of its few held-out examples right.
 * null where there are too few examples, or no accuracy (regression has none).
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

/** Failures in a row after which a retraining is given up until there are as many new examples once more. */
const MAX_RETRAINING_FAILURES = 5;
const FIRST_BACKOFF_MS = 10_000;
const MAX_BACKOFF_MS = 3_600_000;

/** How long a retraining that failed `failures` times in a row waits, in milliseconds; null where it is given up. */
export function retrainingBackoff(failures: number): number | null {
  return failures >= MAX_RETRAINING_FAILURES ? null : Math.min(FIRST_BACKOFF_MS * 4 ** (failures - 1), MAX_BACKOFF_MS);
}
