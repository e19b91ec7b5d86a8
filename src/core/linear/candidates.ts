/** Decides among candidates (feature sets, backbones) by their losses on the same held-out rows. */

/**
 * The losses of held-out units, one for each in the same order for every candidate that is compared. A unit is a group
 * of rows with the same input: the rows of one are no independent evidence.
 */
export interface HeldOutLosses {
  readonly losses: Float64Array;
  readonly mean: number;
}

/** Mean losses of units. `units[i]` is the unit of entry i, as any number; units are in the order of their numbers. */
export function lossesByUnit(units: Int32Array, entryLosses: Float64Array): HeldOutLosses {
  const sums = new Map<number, { sum: number; count: number }>();
  units.forEach((unit, entry) => {
    const { sum, count } = sums.get(unit) ?? { sum: 0, count: 0 };
    sums.set(unit, { sum: sum + (entryLosses[entry] as number), count: count + 1 });
  });
  const ordered = [...sums].sort(([a], [b]) => a - b);
  const mean = entryLosses.reduce((sum, loss) => sum + loss, 0) / Math.max(1, entryLosses.length);
  return { losses: Float64Array.from(ordered, ([, { sum, count }]) => sum / count), mean };
}

/** The mean of the paired differences a − b, and its standard error (infinite for fewer than two units). */
export function pairedDifference(a: Float64Array, b: Float64Array): { mean: number; standardError: number } {
  const count = a.length;
  const differences = a.map((loss, i) => loss - (b[i] as number));
  const mean = differences.reduce((sum, difference) => sum + difference / count, 0);
  const squares = differences.reduce((sum, difference) => sum + (difference - mean) ** 2, 0);
  return { mean, standardError: count < 2 ? Number.POSITIVE_INFINITY : Math.sqrt(squares / (count - 1) / count) };
}

/**
 * The index of the first candidate, in order of preference, whose mean loss exceeds the least by at most
 * `standardErrors` standard errors of their paired difference: the one-standard-error rule (Breiman et al. 1984, section
 * 3.4.3) on pairs. Losses of one row under two candidates go together, so the pairs' standard error is far smaller than
 * that of a mean.
 */
export function chooseCandidate(candidates: readonly HeldOutLosses[], standardErrors = 1): number {
  const means = candidates.map(({ mean }) => (Number.isFinite(mean) ? mean : Number.POSITIVE_INFINITY));
  const best = candidates[means.indexOf(Math.min(...means))];
  if (best === undefined) return 0;
  return candidates.findIndex((candidate) => {
    if (candidate === best) return true;
    const { mean, standardError } = pairedDifference(candidate.losses, best.losses);
    return mean <= standardErrors * standardError;
  });
}
