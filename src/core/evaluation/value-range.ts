/** Regression: the range of values, to which a head's outputs can be clamped. */

/** [least, largest] */
export type ValueRange = readonly [number, number];

export function clampTo([least, largest]: ValueRange, value: number): number {
  return Math.min(largest, Math.max(least, value));
}

export function rangeOf(values: Iterable<number>): ValueRange {
  let [least, largest] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const value of values) {
    least = Math.min(least, value);
    largest = Math.max(largest, value);
  }
  return [least, largest];
}
