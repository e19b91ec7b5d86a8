export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? Number.NaN)
    : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
}

/** The p-quantile by the nearest rank, 0 < p ≤ 1. */
export function quantile(values: readonly number[], p: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.max(0, Math.ceil(p * sorted.length) - 1)] ?? Number.NaN;
}

/** The lowest and the highest value. */
export function spreadOf(values: readonly number[]): readonly [number, number] {
  return [Math.min(...values), Math.max(...values)];
}

/** The median of the ratios of paired runs, with the lowest and the highest ratio. */
export function pairedRatio(
  values: readonly number[],
  peers: readonly number[],
): { ratio: number; spread: readonly [number, number] } {
  const ratios = values.map((value, i) => value / (peers[i] ?? Number.NaN));
  return { ratio: median(ratios), spread: spreadOf(ratios) };
}
