/**
 * Centroids of each label's embeddings, in 8 bits: how far an input is from what a head was trained on.
 *
 *   ‖x − c‖² = ‖x‖² + ‖c‖² − 2 x·c        c = scale · codes
 */

export interface Centroids {
  /** They are of the first so many numbers of an embedding. */
  readonly dimensions: number;
  /** Label k has the centroids from `starts[k]` to `starts[k + 1]`, exclusive. After the labels come those out of scope. */
  readonly starts: Uint16Array;
  /** centroids × dimensions */
  readonly codes: Int8Array;
  readonly scales: Float32Array;
  /** ‖c‖² of each. */
  readonly squaredNorms: Float32Array;
}

const MAX_CODE = 127;

/** @param rows the centroids of each label, and then those out of scope, each group row by row */
export function quantiseCentroids(rows: readonly Float32Array[], dimensions: number): Centroids {
  const starts = new Uint16Array(rows.length + 1);
  for (const [k, group] of rows.entries()) starts[k + 1] = (starts[k] as number) + group.length / dimensions;
  const total = starts[rows.length] as number;
  const codes = new Int8Array(total * dimensions);
  const scales = new Float32Array(total);
  let centroid = 0;
  for (const group of rows) {
    for (let first = 0; first < group.length; first += dimensions, centroid++) {
      const row = group.subarray(first, first + dimensions);
      const scale = Math.fround(row.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / MAX_CODE);
      scales[centroid] = scale;
      for (let j = 0; j < dimensions; j++)
        codes[centroid * dimensions + j] = scale === 0 ? 0 : Math.round((row[j] as number) / scale);
    }
  }
  return withNorms({ dimensions, starts, codes, scales });
}

/** The centroids with their squared norms. */
export function withNorms(centroids: Omit<Centroids, "squaredNorms">): Centroids {
  const { codes, scales, dimensions } = centroids;
  const squaredNorms = scales.map((scale, i) => {
    let sum = 0;
    for (let j = i * dimensions; j < (i + 1) * dimensions; j++) sum += (codes[j] as number) ** 2;
    return scale ** 2 * sum;
  });
  return { ...centroids, squaredNorms };
}

/** The distance of an embedding to the nearest centroid of a group, a label or those out of scope; infinite without one. */
export function distanceToGroup(
  centroids: Centroids,
  embedding: Float32Array,
  squaredNorm: number,
  group: number,
): number {
  const { dimensions, starts, codes, scales, squaredNorms } = centroids;
  let least = Number.POSITIVE_INFINITY;
  for (let i = starts[group] as number; i < (starts[group + 1] as number); i++) {
    const product = productWith(embedding, codes, i * dimensions, dimensions);
    least = Math.min(least, squaredNorm + (squaredNorms[i] as number) - 2 * (scales[i] as number) * product);
  }
  return Math.sqrt(Math.max(0, least));
}

/** x·codes from `first` on. Four sums at once, because one would wait for each addition before the next. */
function productWith(x: Float32Array, codes: Int8Array, first: number, length: number): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  const whole = length - (length % 4);
  let j = 0;
  for (let at = first; j < whole; j += 4, at += 4) {
    a += (x[j] as number) * (codes[at] as number);
    b += (x[j + 1] as number) * (codes[at + 1] as number);
    c += (x[j + 2] as number) * (codes[at + 2] as number);
    d += (x[j + 3] as number) * (codes[at + 3] as number);
  }
  for (; j < length; j++) a += (x[j] as number) * (codes[first + j] as number);
  return a + b + c + d;
}

/** ‖x‖² of the numbers that the centroids are of. */
export function squaredNormOf(embedding: Float32Array, { dimensions }: Pick<Centroids, "dimensions">): number {
  let sum = 0;
  for (let j = 0; j < dimensions; j++) sum += (embedding[j] as number) ** 2;
  return sum;
}
