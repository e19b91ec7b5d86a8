/**
 * Which few of many points stand for all of them: facility location (Wei, Iyer and Bilmes 2015, Submodularity in Data Subset
 * Selection and Active Learning).
 *
 *   f(S) = Σ_i w_i max_{j ∈ S} s_ij        s_ij = max(0, x_i · x_j / (‖x_i‖ ‖x_j‖)), 0 for the empty S; w_i ≥ 0
 *
 * f takes what is far from everything for little, since it stands for itself alone, and a point like a chosen one for
 * nothing. Taking the point of the largest gain again and again reaches 1 − 1/e of the best f (Nemhauser et al. 1978). Gains
 * only fall, so one that was computed earlier is a bound, and few are computed again (Minoux 1978). The points i of the sum
 * are at most MAX_REFERENCES of all, evenly spaced. Similarities are kept in 8 bits.
 */
import type { Steps } from "./steps.ts";

/** The sum's points: of more, choosing costs more time and memory and gains nothing (bench/advice/label-next.ts). */
const MAX_REFERENCES = 1_024;
const LARGEST = 255;

export interface Points {
  /** An embedding each, of equal length. */
  readonly rows: readonly Float32Array[];
  /** How much it counts that each has something like it among the chosen ones. */
  readonly weights: Float64Array;
}

export interface Representative {
  readonly index: number;
  /** What it adds to f, as a share of the sum of all weights. Never above that of the one before. */
  readonly gain: number;
  /** The share of points that it is the most similar chosen one to, once all are chosen. */
  readonly share: number;
}

/** Chooses at most `count` points, the one of the largest gain first. Yields multiplications. */
export function* chooseRepresentatives({ rows, weights }: Points, count: number): Steps<readonly Representative[]> {
  const references = spread(rows.length, MAX_REFERENCES);
  const similarities = yield* compare(rows, references);
  const width = references.length;
  const referenceWeights = Float64Array.from(references, (row) => weights[row] as number);
  const total = LARGEST * referenceWeights.reduce((sum, weight) => sum + weight, 0);
  const covered = new Uint8Array(width);
  const nearest = new Int32Array(width).fill(-1);
  const gainOf = (row: number) => {
    let gain = 0;
    for (let i = 0, at = row * width; i < width; i++, at++) {
      const more = (similarities[at] as number) - (covered[i] as number);
      if (more > 0) gain += (referenceWeights[i] as number) * more;
    }
    return gain;
  };
  const bounds = Float64Array.from(rows.keys(), gainOf);
  yield rows.length * width;
  const isChosen = new Uint8Array(rows.length);
  const chosen: { index: number; gain: number }[] = [];
  while (chosen.length < Math.min(count, rows.length)) {
    const best = largestBound(bounds, weights, isChosen);
    const gain = gainOf(best);
    yield width + rows.length;
    const isExact = gain === bounds[best];
    bounds[best] = gain;
    if (!isExact) continue;
    for (let i = 0, at = best * width; i < width; i++, at++) {
      // A point that none is like is nobody's.
      if ((similarities[at] as number) <= (covered[i] as number)) continue;
      covered[i] = similarities[at] as number;
      nearest[i] = chosen.length;
    }
    isChosen[best] = 1;
    chosen.push({ index: best, gain: total === 0 ? 0 : gain / total });
  }
  const counts = new Uint32Array(chosen.length);
  for (const rank of nearest) if (rank >= 0) counts[rank] = (counts[rank] as number) + 1;
  return chosen.map((each, rank) => ({ ...each, share: (counts[rank] as number) / width }));
}

/** At most `limit` of the indices below `count`, evenly spaced. */
function spread(count: number, limit: number): readonly number[] {
  const length = Math.min(count, limit);
  return Array.from({ length }, (_, i) => Math.floor((i * count) / length));
}

/** The similarity of each row to each reference, rows × references. */
function* compare(rows: readonly Float32Array[], references: readonly number[]): Steps<Uint8Array> {
  const inverseNorms = Float64Array.from(rows, (row) => 1 / (Math.sqrt(product(row, row)) || 1));
  const width = references.length;
  const similarities = new Uint8Array(rows.length * width);
  for (const [index, row] of rows.entries()) {
    const scale = LARGEST * (inverseNorms[index] as number);
    for (const [i, reference] of references.entries()) {
      const cosine = product(row, rows[reference] as Float32Array) * (inverseNorms[reference] as number);
      similarities[index * width + i] = Math.round(Math.min(LARGEST, Math.max(0, scale * cosine)));
    }
    yield width * row.length;
  }
  return similarities;
}

/** Four sums at once, because one would wait for each addition before the next. */
function product(x: Float32Array, y: Float32Array): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  const whole = x.length - (x.length % 4);
  let j = 0;
  for (; j < whole; j += 4) {
    a += (x[j] as number) * (y[j] as number);
    b += (x[j + 1] as number) * (y[j + 1] as number);
    c += (x[j + 2] as number) * (y[j + 2] as number);
    d += (x[j + 3] as number) * (y[j + 3] as number);
  }
  for (; j < x.length; j++) a += (x[j] as number) * (y[j] as number);
  return a + b + c + d;
}

/** Of those that are not chosen, the one of the largest bound; of equal ones that of the largest weight, then the first. */
function largestBound(bounds: Float64Array, weights: Float64Array, isChosen: Uint8Array): number {
  let best = -1;
  for (let row = 0; row < bounds.length; row++) {
    if (isChosen[row] === 1) continue;
    const difference = best < 0 ? 1 : (bounds[row] as number) - (bounds[best] as number);
    if (difference > 0 || (difference === 0 && (weights[row] as number) > (weights[best] as number))) best = row;
  }
  return best;
}
