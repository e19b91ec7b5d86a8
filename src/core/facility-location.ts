/**
 * Which few of many points stand for all of them: facility location (Wei, Iyer and Bilmes 2015, Submodularity in Data Subset
 * Selection and Active Learning).
 *
 *   f(S) = Σ_i w_i max_{j ∈ S} s_ij        s_ij = max(0, x_i · x_j / (‖x_i‖ ‖x_j‖))², 0 for the empty S; w_i ≥ 0
 *
 * f takes what is far from everything for little, since it stands for itself alone, and a point like a chosen one for
 * nothing. Taking the point of the largest gain again and again reaches 1 − 1/e of the best f (Nemhauser et al. 1978). Gains
 * only fall, so one that was computed earlier is a bound, and few are computed again (Minoux 1978). The points i of the sum
 * are at most MAX_REFERENCES of all, evenly spaced. Similarities are kept in 8 bits.
 */
import { OPERATIONS_PER_DIFFERENCE } from "./linear/k-means.ts";
import { OPERATIONS_PER_COPIED_NUMBER, type Steps } from "./steps.ts";
import type { TensorBackend } from "./tensors.ts";

/** The sum's points: of more, choosing costs more time and memory and gains nothing (bench/advice/label-next.ts). */
const MAX_REFERENCES = 1_024;
/** Of their embeddings. */
const MAX_REFERENCE_NUMBERS = 1_024 * 768;
/** Compared at a time: some tens of milliseconds. */
const ROWS_PER_STEP = 128;
const LARGEST = 255;

export interface Points {
  /** An embedding each, of equal length. */
  readonly rows: readonly Float32Array[];
  /** How much it counts that each has something like it among the chosen ones. */
  readonly weights: Float64Array;
  /** In (0, 1]: by what the gain of taking each is multiplied. */
  readonly factors: Float64Array;
}

export interface Representative {
  readonly index: number;
  /** Its factor times what it adds to f, as a share of the sum of all weights. Never above that of the one before. */
  readonly gain: number;
  /** The share of points that it is the most similar chosen one to, once all are chosen. */
  readonly share: number;
}

/** Chooses at most `count` points, the one of the largest gain first. */
export function* chooseRepresentatives(
  tensors: TensorBackend,
  { rows, weights, factors }: Points,
  count: number,
): Steps<readonly Representative[]> {
  const mostReferences = Math.floor(MAX_REFERENCE_NUMBERS / Math.max(1, rows[0]?.length ?? 0));
  const references = spread(rows.length, Math.min(MAX_REFERENCES, mostReferences));
  const similarities = yield* compare(tensors, rows, references);
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
    return gain * (factors[row] as number);
  };
  const bounds = Float64Array.from(rows.keys(), gainOf);
  yield OPERATIONS_PER_DIFFERENCE * rows.length * width;
  const isChosen = new Uint8Array(rows.length);
  const chosen: { index: number; gain: number }[] = [];
  while (chosen.length < Math.min(count, rows.length)) {
    const best = largestBound(bounds, weights, isChosen);
    const gain = gainOf(best);
    yield OPERATIONS_PER_DIFFERENCE * (width + rows.length);
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

/** The similarity of each row to each reference, rows × references. Nothing of it stays in the backend between two yields. */
function* compare(
  tensors: TensorBackend,
  rows: readonly Float32Array[],
  references: readonly number[],
): Steps<Uint8Array> {
  const dimensions = rows[0]?.length ?? 0;
  const width = references.length;
  const right = new Float32Array(dimensions * width);
  for (const [i, reference] of references.entries())
    for (const [j, value] of unit(rows[reference] as Float32Array).entries()) right[j * width + i] = value;
  const similarities = new Uint8Array(rows.length * width);
  for (let first = 0; first < rows.length; first += ROWS_PER_STEP) {
    const block = rows.slice(first, first + ROWS_PER_STEP);
    const left = new Float32Array(block.length * dimensions);
    for (const [i, row] of block.entries()) left.set(unit(row), i * dimensions);
    const factors = [tensors.matrix(block.length, dimensions, left), tensors.matrix(dimensions, width, right)] as const;
    const cosines = tensors.multiply(...factors);
    for (const [i, cosine] of tensors.view(cosines).entries())
      similarities[first * width + i] = Math.round(LARGEST * Math.min(1, Math.max(0, cosine) ** 2));
    for (const matrix of [...factors, cosines]) tensors.free(matrix);
    yield 2 * left.length * width + OPERATIONS_PER_COPIED_NUMBER * (left.length + right.length);
  }
  return similarities;
}

function unit(row: Float32Array): Float32Array {
  const norm = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0)) || 1;
  return row.map((value) => value / norm);
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
