/**
 * Examples that are far from every label, their own too: inputs that belong to none. An example's distance is that to the
 * nearest centroid of any label, made without its fold (class-centroids.ts). It is judged among the examples of its
 * label by the robust z-score of its logarithm (Iglewicz and Hoaglin 1993):
 *
 *   z = 0.6745 (x − median) / median |x − median|
 */

/** Iglewicz and Hoaglin's. */
const MIN_Z = 3.5;
/** Labels with fewer examples are judged among all examples. */
const MIN_EXAMPLES = 20;

export interface Outlier {
  readonly entry: number;
  readonly z: number;
}

/** The distance of each held-out entry to the nearest label: `distances` are entries × (labels + 1), the last to what is out of scope. */
export function nearestDistances(distances: Float32Array, labels: number): Float64Array {
  const nearest = new Float64Array(distances.length / (labels + 1)).fill(Number.POSITIVE_INFINITY);
  for (let entry = 0; entry < nearest.length; entry++)
    for (let k = 0; k < labels; k++)
      nearest[entry] = Math.min(nearest[entry] as number, distances[entry * (labels + 1) + k] as number);
  return nearest;
}

/** The entries whose distance is far above that of others with their label; entries with the label −1 are left out. */
export function findOutliers(labels: readonly number[], distances: Float64Array): readonly Outlier[] {
  const entries = [...labels.keys()].filter((entry) => (labels[entry] ?? -1) >= 0 && Number.isFinite(distances[entry]));
  const logOf = (entry: number) => Math.log((distances[entry] as number) + 1e-9);
  const all = spreadOf(entries.map(logOf));
  return [...Map.groupBy(entries, (entry) => labels[entry] as number).values()].flatMap((own) => {
    const { median, deviation } = own.length < MIN_EXAMPLES ? all : spreadOf(own.map(logOf));
    if (deviation === 0) return [];
    return own.flatMap((entry) => {
      const z = (0.6745 * (logOf(entry) - median)) / deviation;
      return z > MIN_Z ? [{ entry, z }] : [];
    });
  });
}

/** The median, and the median distance to it. */
export function spreadOf(values: readonly number[]): { readonly median: number; readonly deviation: number } {
  const median = medianOf(values);
  return { median, deviation: medianOf(values.map((value) => Math.abs(value - median))) };
}

function medianOf(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const [low, high] = [sorted[(sorted.length - 1) >> 1] ?? 0, sorted[sorted.length >> 1] ?? 0];
  return (low + high) / 2;
}
