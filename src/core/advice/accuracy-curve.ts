/** What a sample's evaluation says of the accuracy with other numbers of examples. */
import type { AccuracyEstimate } from "../evaluation/power-law.ts";

/** Accuracy estimates at 1, 2 and 5 times the examples of a sample. */
export interface SampleEstimates {
  readonly "1x": AccuracyEstimate;
  readonly "2x": AccuracyEstimate;
  readonly "5x": AccuracyEstimate;
}

/**
 * The estimate at `ratio` times the examples of the sample, at least 1: linear in ratio^−½, the middle of measured learning
 * curves, between the sample's estimates, and on from the last two.
 */
export function estimateAt(estimates: SampleEstimates, ratio: number): AccuracyEstimate {
  const knots = [
    { x: 1, estimate: estimates["1x"] },
    { x: 2 ** -0.5, estimate: estimates["2x"] },
    { x: 5 ** -0.5, estimate: estimates["5x"] },
  ] as const;
  const x = ratio ** -0.5;
  const [from, to] = x >= knots[1].x ? [knots[0], knots[1]] : [knots[1], knots[2]];
  const share = (from.x - x) / (from.x - to.x);
  const between = (a: number, b: number) => Math.min(1, Math.max(0, a + share * (b - a)));
  const [low, high] = [0, 1].map((end) =>
    between(from.estimate.interval[end as 0 | 1], to.estimate.interval[end as 0 | 1]),
  ) as [number, number];
  return { value: between(from.estimate.value, to.estimate.value), interval: [low, high] };
}
