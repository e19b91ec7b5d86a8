/**
 * The design matrix that a training works on: its own centred and scaled copy of the features.
 *
 *   Z = (X − μ) / σ        X, Z: rows × dimensions; μ: dimensions; σ: a single number
 *
 * σ makes the rows' mean square norm 1. A model on Z is a model on X: w = w_z / σ, b = b_z − w·μ, and λ‖w‖² = (λ /
 * σ²)‖w_z‖². Centring removes the intercept's cross terms from the Hessian and keeps 32-bit products accurate for
 * features with a large mean. Scaling makes everything else independent of the features' scale.
 */
import { fail, ok, type Result } from "../failure.ts";
import { OPERATIONS_PER_COPIED_NUMBER, type Steps } from "../steps.ts";
import type { Matrix, SparseMatrix, SparseRows, TensorBackend } from "../tensors.ts";
import type { LexicalFeatures } from "../text/lexical-reader.ts";
import { joinRows } from "./sparse.ts";

export interface Design {
  /** Row blocks in order. */
  readonly blocks: readonly Matrix[];
  readonly rows: number;
  readonly dimensions: number;
  readonly precision: RowPrecision;
  readonly mean: Float64Array;
  readonly scale: number;
  /** Lexical features (lexical.ts), neither centred nor scaled. */
  readonly sparse: SparseDesign | null;
}

/** Sparse rows in the design's row blocks. */
export interface SparseDesign {
  readonly columns: number;
  readonly blocks: readonly SparseMatrix[];
}

/** The number of dense and sparse columns: the weights of one output. */
export function designWidth({ dimensions, sparse }: Design): number {
  return dimensions + (sparse?.columns ?? 0);
}

/** What a sparse entry costs that is made or copied, in operations of a product. */
const OPERATIONS_PER_COPIED_ENTRY = 2 * OPERATIONS_PER_COPIED_NUMBER;

/** Copies sparse rows, in blocks of the heights of the dense ones, into the backend's memory. */
export function* makeSparseDesign(
  tensors: TensorBackend,
  rowBlocks: Iterable<SparseRows>,
  columns: number,
): Steps<SparseDesign> {
  const blocks: SparseMatrix[] = [];
  for (const rows of rowBlocks) {
    blocks.push(tensors.sparseMatrix(rows, columns));
    yield OPERATIONS_PER_COPIED_ENTRY * rows.values.length;
  }
  return { columns, blocks };
}

/** A copy of all rows of a sparse design. Only for few rows: the copy exists twice while its parts are joined. */
export function readSparseDesign(tensors: TensorBackend, { blocks }: SparseDesign): SparseRows {
  return joinRows(blocks.map((block) => tensors.readSparse(block)));
}

/** Features that differ by less count as constant: weights on them would overflow 32-bit floats. */
const MIN_SCALE = 1e-20;

export function freeDesign(tensors: TensorBackend, design: Design): void {
  for (const matrix of design.blocks) tensors.free(matrix);
  if (design.sparse !== null) freeSparseDesign(tensors, design.sparse);
}

export function freeSparseDesign(tensors: TensorBackend, { blocks }: SparseDesign): void {
  for (const sparse of blocks) tensors.free(sparse);
}

/**
 * Rows of a block: so few that a block's products stay in the processor's cache and take some tens of milliseconds at
 * most. All blocks are about equally large.
 */
export function rowsPerBlock(rows: number, dimensions: number, outputs: number): number {
  const maxRows = Math.max(64, Math.min(500, Math.floor(1e8 / (dimensions * Math.max(outputs, 8)))));
  return Math.ceil(rows / Math.ceil(rows / maxRows));
}

/** How a training holds its rows: as they are, or quantised, in a quarter of the memory. */
export type RowPrecision = "float32" | "int8";

/** Copies rows into the backend's memory. */
export function makeRows(
  tensors: TensorBackend,
  rows: number,
  columns: number,
  values: Float32Array,
  precision: RowPrecision,
): Matrix {
  const matrix = tensors.matrix(rows, columns, values);
  if (precision === "float32") return matrix;
  const quantised = tensors.quantise(matrix);
  tensors.free(matrix);
  return quantised;
}

export interface DesignOptions {
  readonly dimensions: number;
  /** Each row's weight. The mean and the scale are those of the rows whose weight is not zero. */
  readonly weights: Float64Array;
  readonly outputs: number;
  readonly lexical: Pick<LexicalFeatures, "columns" | "takeBlocks"> | null;
  readonly precision: RowPrecision;
}

/**
 * Copies `features` (row blocks) into a design. It frees each block once it is copied, because both in full would take
 * twice the memory. Fails with `invalid_features` at the first number that is not finite.
 */
export function* makeDesign(
  tensors: TensorBackend,
  features: readonly Matrix[],
  { dimensions, weights, outputs, lexical, precision }: DesignOptions,
): Steps<Result<Design>> {
  const moments = yield* columnMoments(tensors, features, dimensions, weights);
  if (!moments.ok) return moments;
  const { mean, scale } = moments.value;
  const rows = features.reduce((sum, block) => sum + block.rows, 0);
  const blocks = yield* standardiseBlocks(tensors, features, {
    mean,
    scale,
    size: rowsPerBlock(rows, dimensions, outputs),
    precision,
  });
  const heights = blocks.map((block) => block.rows);
  const sparse =
    lexical === null ? null : yield* makeSparseDesign(tensors, lexical.takeBlocks(heights), lexical.columns);
  return ok({ blocks, rows, dimensions, precision, mean, scale, sparse });
}

/** μ and σ of the rows whose weight is not zero. */
function* columnMoments(
  tensors: TensorBackend,
  features: readonly Matrix[],
  dimensions: number,
  weights: Float64Array,
): Steps<Result<{ mean: Float64Array; scale: number }>> {
  const mean = new Float64Array(dimensions);
  let weightedRows = 0;
  let row = 0;
  for (const block of features) {
    const values = tensors.values(block);
    for (let i = 0; i < block.rows; i++, row++) {
      const x = values.subarray(i * dimensions, (i + 1) * dimensions);
      // 32-bit floats are too small for a sum of 64 bits to overflow.
      if (!Number.isFinite(sumOf(x)))
        return fail("invalid_features", `Row ${row} of the features holds a number that is not finite.`, {
          details: { row },
        });
      if (weights[row] === 0) continue;
      addTo(mean, x);
      weightedRows++;
    }
    yield OPERATIONS_PER_COPIED_NUMBER * block.rows * dimensions;
  }
  for (let j = 0; j < dimensions; j++) mean[j] = (mean[j] as number) / Math.max(weightedRows, 1);

  let sumOfSquares = 0;
  row = 0;
  for (const block of features) {
    const values = tensors.values(block);
    for (let i = 0; i < block.rows; i++, row++) {
      if (weights[row] !== 0)
        sumOfSquares += squaredDistance(values.subarray(i * dimensions, (i + 1) * dimensions), mean);
    }
    yield OPERATIONS_PER_COPIED_NUMBER * block.rows * dimensions;
  }
  const rms = Math.sqrt(sumOfSquares / Math.max(weightedRows, 1));
  return ok({ mean, scale: rms < MIN_SCALE ? 1 : rms });
}

interface StandardiseOptions {
  readonly mean: Float64Array;
  readonly scale: number;
  readonly size: number;
  readonly precision: RowPrecision;
}

/** Copies features into standardised blocks of `size` rows, freeing them as it goes. */
function* standardiseBlocks(
  tensors: TensorBackend,
  features: readonly Matrix[],
  { mean, scale, size, precision }: StandardiseOptions,
): Steps<Matrix[]> {
  const dimensions = mean.length;
  const rows = features.reduce((sum, block) => sum + block.rows, 0);
  const blocks: Matrix[] = [];
  let sourceBlock = 0;
  let offset = 0;
  for (let first = 0; first < rows; first += size) {
    const block = new Float32Array(Math.min(size, rows - first) * dimensions);
    for (let position = 0; position < block.length; ) {
      const featureBlock = features[sourceBlock] as Matrix;
      const values = tensors.values(featureBlock);
      const count = Math.min(block.length - position, values.length - offset);
      standardise(values.subarray(offset, offset + count), mean, scale, block.subarray(position, position + count));
      position += count;
      offset += count;
      if (offset === values.length) {
        tensors.free(featureBlock);
        sourceBlock++;
        offset = 0;
      }
    }
    blocks.push(makeRows(tensors, block.length / dimensions, dimensions, block, precision));
    yield OPERATIONS_PER_COPIED_NUMBER * block.length;
  }
  return blocks;
}

// Loops have functions of their own because loops in generators run at a fraction of the speed.

function sumOf(values: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] as number;
  return sum;
}

/** Adds `part` to the first numbers of `sum`, which may be longer. */
export function addTo(sum: Float64Array, part: Float32Array): void {
  for (let i = 0; i < part.length; i++) sum[i] = (sum[i] as number) + (part[i] as number);
}

function squaredDistance(x: Float32Array, mean: Float64Array): number {
  let sum = 0;
  for (let j = 0; j < mean.length; j++) sum += ((x[j] as number) - (mean[j] as number)) ** 2;
  return sum;
}

/** Writes (x − μ) / σ of whole rows to `destination`. */
function standardise(source: Float32Array, mean: Float64Array, scale: number, destination: Float32Array): void {
  for (let at = 0; at < source.length; ) {
    for (let j = 0; j < mean.length; j++, at++)
      destination[at] = ((source[at] as number) - (mean[j] as number)) / scale;
  }
}
