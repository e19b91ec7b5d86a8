/**
 * Pairs of rows that are nearly the same and have different labels: for each row the nearest one of another label, by the
 * cosine of the design's rows, which are centred. The products of all pairs are computed block by block. Of texts, the
 * lexical features have to be nearly the same as well: embeddings alone take "turn it on" and "turn it off" for one.
 */
import type { Design } from "../linear/design.ts";
import { OPERATIONS_PER_COPIED_NUMBER, type Steps } from "../steps.ts";
import type { SparseRows, TensorBackend } from "../tensors.ts";

const MIN_COSINE = 0.9;
const MIN_LEXICAL_COSINE = 0.6;
/** Rows that are compared with all later ones by one product a block. */
const ROWS_PER_PRODUCT = 256;
/** What comparing a product costs, in operations of a product. */
const OPERATIONS_PER_COMPARISON = 8;

export interface NearDuplicate {
  readonly row: number;
  readonly other: number;
  /** In [0, 1] */
  readonly similarity: number;
}

/** Operations of `findNearDuplicates` at most, and bytes of arrays beside the design. */
export function nearDuplicateCost(rows: number, dimensions: number): { operations: number; bytes: number } {
  const pairs = (rows * (rows + ROWS_PER_PRODUCT)) / 2;
  return {
    operations:
      pairs * (2 * dimensions + OPERATIONS_PER_COMPARISON) + 3 * rows * dimensions * OPERATIONS_PER_COPIED_NUMBER,
    bytes: 4 * ROWS_PER_PRODUCT * (2 * dimensions + 500) + 20 * rows,
  };
}

/**
 * The pairs, each once, in the order of the rows.
 *
 * @param isPair whether two rows may be one: they have different labels and different inputs
 */
export function* findNearDuplicates(
  tensors: TensorBackend,
  design: Design,
  isPair: (row: number, other: number) => boolean,
): Steps<readonly NearDuplicate[]> {
  const { rows, dimensions, blocks } = design;
  const norms = yield* rowNorms(tensors, design);
  const nearest = new Int32Array(rows).fill(-1);
  const cosines = new Float32Array(rows).fill(MIN_COSINE);
  let firstOfLeft = 0;
  for (const left of blocks) {
    for (let first = 0; first < left.rows; first += ROWS_PER_PRODUCT) {
      const height = Math.min(ROWS_PER_PRODUCT, left.rows - first);
      const part = tensors.values(left).slice(first * dimensions, (first + height) * dimensions);
      const chunk = tensors.matrix(height, dimensions, part);
      const transposed = tensors.transpose(chunk);
      let firstOfRight = 0;
      for (const right of blocks) {
        if (firstOfRight + right.rows > firstOfLeft + first) {
          const product = tensors.multiply(right, transposed);
          const values = tensors.values(product);
          for (let i = 0; i < right.rows; i++)
            for (let j = 0; j < height; j++) {
              const [row, other] = [firstOfLeft + first + j, firstOfRight + i];
              if (other <= row) continue;
              const cosine = (values[i * height + j] as number) / ((norms[row] as number) * (norms[other] as number));
              if (cosine < MIN_COSINE || !isPair(row, other)) continue;
              note(nearest, cosines, row, other, cosine);
              note(nearest, cosines, other, row, cosine);
            }
          tensors.free(product);
          yield right.rows * height * (2 * dimensions + OPERATIONS_PER_COMPARISON);
        }
        firstOfRight += right.rows;
      }
      tensors.free(chunk);
      tensors.free(transposed);
    }
    firstOfLeft += left.rows;
  }
  return yield* keepPairs(tensors, design, nearest, cosines);
}

function note(nearest: Int32Array, cosines: Float32Array, row: number, other: number, cosine: number): void {
  if (cosine < (cosines[row] as number)) return;
  nearest[row] = other;
  cosines[row] = cosine;
}

function* rowNorms(tensors: TensorBackend, { rows, dimensions, blocks }: Design): Steps<Float64Array> {
  const norms = new Float64Array(rows);
  let row = 0;
  for (const block of blocks) {
    const values = tensors.values(block);
    for (let i = 0; i < block.rows; i++, row++)
      norms[row] = normOf(values.subarray(i * dimensions, (i + 1) * dimensions));
    yield OPERATIONS_PER_COPIED_NUMBER * values.length;
  }
  return norms;
}

/** Never 0: a row of zeros has the cosine 0 with every row. */
function normOf(values: Float32Array): number {
  let square = Number.MIN_VALUE;
  for (let j = 0; j < values.length; j++) square += (values[j] as number) ** 2;
  return Math.sqrt(square);
}

/** Each pair once, and of texts those whose lexical features are nearly the same. */
function* keepPairs(
  tensors: TensorBackend,
  { blocks, sparse }: Design,
  nearest: Int32Array,
  cosines: Float32Array,
): Steps<readonly NearDuplicate[]> {
  const pairs = Array.from(nearest.entries()).flatMap(([row, other]) =>
    other < 0 || (nearest[other] === row && other < row) ? [] : [{ row, other, similarity: cosines[row] as number }],
  );
  if (sparse === null || pairs.length === 0) return pairs;
  const wanted = new Set(pairs.flatMap(({ row, other }) => [row, other]));
  const features = new Map<number, ReadonlyMap<number, number>>();
  let first = 0;
  for (const [i, block] of sparse.blocks.entries()) {
    const own = tensors.readSparse(block);
    for (let row = 0; row < block.rows; row++)
      if (wanted.has(first + row)) features.set(first + row, featuresOf(own, row));
    first += (blocks[i] as { readonly rows: number }).rows;
    yield OPERATIONS_PER_COPIED_NUMBER * own.values.length;
  }
  const kept = pairs.flatMap((pair) => {
    const lexical = cosineOf(features.get(pair.row), features.get(pair.other));
    return lexical < MIN_LEXICAL_COSINE ? [] : [{ ...pair, similarity: Math.min(pair.similarity, lexical) }];
  });
  return kept;
}

function featuresOf({ starts, columns, values }: SparseRows, row: number): ReadonlyMap<number, number> {
  const features = new Map<number, number>();
  for (let m = starts[row] as number; m < (starts[row + 1] as number); m++)
    features.set(columns[m] as number, values[m] as number);
  return features;
}

function cosineOf(a: ReadonlyMap<number, number> = new Map(), b: ReadonlyMap<number, number> = new Map()): number {
  const square = (map: ReadonlyMap<number, number>) => [...map.values()].reduce((sum, value) => sum + value ** 2, 0);
  let product = 0;
  for (const [column, value] of a) product += value * (b.get(column) ?? 0);
  return product / Math.sqrt(square(a) * square(b) + Number.MIN_VALUE);
}
