/**
 * The design matrix that a training works on: a private, centred and scaled copy of the features.
 *
 *   Z = (X − μ) / σ        X, Z: rows × dimensions; μ: dimensions; σ: one number, so that the rows' mean square norm is 1
 *
 * A model on Z is one on X: w = w_z / σ, b = b_z − w·μ, and λ‖w‖² = (λ / σ²)‖w_z‖². Centring takes the intercept out of the
 * Hessian's cross terms and keeps 32-bit products accurate for features with a large mean; scaling makes everything that
 * follows independent of the features' scale.
 */
import { fail, ok, type Result } from "../failure.ts";
import type { Matrix, SparseMatrix, SparseRows, TensorBackend } from "../tensors.ts";
import { joinRows, pickRows, sliceRows } from "./sparse.ts";

export interface Design {
  /** Row blocks in order. */
  readonly blocks: readonly Matrix[];
  /** Each block transposed, which the gradient needs, or null: made anew each time. */
  readonly transposed: readonly Matrix[] | null;
  readonly rows: number;
  readonly dimensions: number;
  readonly mean: Float64Array;
  readonly scale: number;
  /** Lexical features (lexical.ts) beside the dense ones, as they are: neither centred nor scaled. */
  readonly sparse: SparseDesign | null;
}

/** Sparse rows in the design's row blocks. */
export interface SparseDesign {
  readonly columns: number;
  readonly blocks: readonly SparseMatrix[];
}

/** Dense and sparse columns together: weights that an output has. */
export function designWidth({ dimensions, sparse }: Design): number {
  return dimensions + (sparse?.columns ?? 0);
}

/** Cuts sparse rows into blocks as high as the dense ones. */
function makeSparseDesign(
  tensors: TensorBackend,
  rows: SparseRows,
  columns: number,
  heights: readonly number[],
): SparseDesign {
  let first = 0;
  const blocks = heights.map((height) => {
    first += height;
    return tensors.sparseMatrix(sliceRows(rows, first - height, first), columns);
  });
  return { columns, blocks };
}

/** All rows of a sparse design, copied out: for few rows, since the copies are there twice while they are joined. */
export function readSparseDesign(tensors: TensorBackend, { blocks }: SparseDesign): SparseRows {
  return joinRows(blocks.map((block) => tensors.readSparse(block)));
}

/** Some rows of a sparse design, ascending, copied out block by block. */
function pickFromBlocks(tensors: TensorBackend, { blocks }: SparseDesign, rows: readonly number[]): SparseRows {
  let first = 0;
  let next = 0;
  const parts = blocks.map((block) => {
    const rowsInBlock: number[] = [];
    for (; next < rows.length && (rows[next] as number) < first + block.rows; next++)
      rowsInBlock.push((rows[next] as number) - first);
    first += block.rows;
    return pickRows(tensors.readSparse(block), rowsInBlock);
  });
  return joinRows(parts);
}

/** Features that differ by less are taken as constant: weights on them would leave 32-bit floats. */
const MIN_SCALE = 1e-20;

/** A design with its blocks transposed as well. */
export function withTransposed(tensors: TensorBackend, design: Omit<Design, "transposed">): Design {
  return { ...design, transposed: design.blocks.map((block) => tensors.transpose(block)) };
}

export function freeDesign(tensors: TensorBackend, design: Design): void {
  for (const matrix of [...design.blocks, ...(design.transposed ?? [])]) tensors.free(matrix);
  if (design.sparse !== null) freeSparseDesign(tensors, design.sparse);
}

export function freeSparseDesign(tensors: TensorBackend, { blocks }: SparseDesign): void {
  for (const sparse of blocks) tensors.free(sparse);
}

/**
 * Rows a block: few enough that a block's products stay in the processor's cache and take some tens of milliseconds at most,
 * all blocks about as large, and never a multiple of 32, at which transposing is ten times slower (rows a power of two
 * of bytes apart share cache lines).
 */
export function rowsPerBlock(rows: number, dimensions: number, outputs: number): number {
  const maxRows = Math.max(64, Math.min(500, Math.floor(1e8 / (dimensions * Math.max(outputs, 8)))));
  const size = Math.ceil(rows / Math.ceil(rows / maxRows));
  return size % 32 === 0 ? size + 4 : size;
}

/**
 * Copies `features` (row blocks) into a design, freeing each block once it is copied: both whole would be twice the memory.
 * μ and σ come from the rows whose `weights` are not zero.
 * Yields floating-point operations. Fails with `invalid_features` at the first number that is not finite.
 */
export function* makeDesign(
  tensors: TensorBackend,
  features: readonly Matrix[],
  dimensions: number,
  weights: Float64Array,
  outputs: number,
  transposed: boolean,
  sparse: { readonly rows: SparseRows; readonly columns: number } | null,
): Generator<number, Result<Design>, void> {
  const mean = new Float64Array(dimensions);
  let weightedRows = 0;
  let row = 0;
  for (const block of features) {
    const values = tensors.view(block);
    for (let i = 0; i < block.rows; i++, row++) {
      const x = values.subarray(i * dimensions, (i + 1) * dimensions);
      if (!x.every(Number.isFinite))
        return fail("invalid_features", `Row ${row} of the features holds a number that is not finite.`, {
          details: { row },
        });
      if (weights[row] === 0) continue;
      addTo(mean, x);
      weightedRows++;
    }
    yield 2 * block.rows * dimensions;
  }
  for (let j = 0; j < dimensions; j++) mean[j] = (mean[j] as number) / Math.max(weightedRows, 1);

  let sumOfSquares = 0;
  row = 0;
  for (const block of features) {
    const values = tensors.view(block);
    for (let i = 0; i < block.rows; i++, row++) {
      if (weights[row] !== 0)
        sumOfSquares += squaredDistance(values.subarray(i * dimensions, (i + 1) * dimensions), mean);
    }
    yield 3 * block.rows * dimensions;
  }
  const rows = row;
  const rms = Math.sqrt(sumOfSquares / Math.max(weightedRows, 1));
  const scale = rms < MIN_SCALE ? 1 : rms;

  const size = rowsPerBlock(rows, dimensions, outputs);
  const blocks: Matrix[] = [];
  let sourceBlock = 0;
  let offset = 0;
  for (let first = 0; first < rows; first += size) {
    const block = new Float32Array(Math.min(size, rows - first) * dimensions);
    for (let position = 0; position < block.length; ) {
      const featureBlock = features[sourceBlock] as Matrix;
      const values = tensors.view(featureBlock);
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
    blocks.push(tensors.matrix(block.length / dimensions, dimensions, block));
    yield 2 * block.length;
  }
  const heights = blocks.map((block) => block.rows);
  const sparseBlocks = sparse === null ? null : makeSparseDesign(tensors, sparse.rows, sparse.columns, heights);
  const design = { blocks, rows, dimensions, mean, scale, sparse: sparseBlocks };
  return ok(transposed ? withTransposed(tensors, design) : { ...design, transposed: null });
}

// Loops stand in functions of their own, since those inside of generators run at a fraction of the speed.

/** Adds `part` to the first numbers of `sum`. */
export function addTo(sum: Float64Array, part: Float32Array): void {
  for (let i = 0; i < part.length; i++) sum[i] = (sum[i] as number) + (part[i] as number);
}

function squaredDistance(x: Float32Array, mean: Float64Array): number {
  let sum = 0;
  for (let j = 0; j < mean.length; j++) sum += ((x[j] as number) - (mean[j] as number)) ** 2;
  return sum;
}

/** (x − μ) / σ of whole rows, into `to`. */
function standardise(source: Float32Array, mean: Float64Array, scale: number, destination: Float32Array): void {
  for (let at = 0; at < source.length; ) {
    for (let j = 0; j < mean.length; j++, at++)
      destination[at] = ((source[at] as number) - (mean[j] as number)) / scale;
  }
}

/** The design of some of its rows, ascending, transposed as it is; to be read once it needs no transpose, and is dense alone. */
export function* subsetDesign(
  tensors: TensorBackend,
  design: Design,
  rows: readonly number[],
  outputs: number,
  use: "many" | "once" = "many",
): Generator<number, Design, void> {
  const { dimensions } = design;
  const size = rowsPerBlock(rows.length, dimensions, outputs);
  const blockStarts: number[] = [];
  let start = 0;
  for (const block of design.blocks) {
    blockStarts.push(start);
    start += block.rows;
  }
  const blocks: Matrix[] = [];
  for (let first = 0; first < rows.length; first += size) {
    const rowsInBlock = rows.slice(first, first + size);
    const block = new Float32Array(rowsInBlock.length * dimensions);
    let sourceBlock = 0;
    let position = 0;
    for (const row of rowsInBlock) {
      if (row < (blockStarts[sourceBlock] as number)) sourceBlock = 0;
      while (sourceBlock + 1 < blockStarts.length && row >= (blockStarts[sourceBlock + 1] as number)) sourceBlock++;
      const offset = (row - (blockStarts[sourceBlock] as number)) * dimensions;
      block.set(tensors.view(design.blocks[sourceBlock] as Matrix).subarray(offset, offset + dimensions), position);
      position += dimensions;
    }
    blocks.push(tensors.matrix(rowsInBlock.length, dimensions, block));
    yield block.length;
  }
  const sparse =
    design.sparse === null || use === "once"
      ? null
      : makeSparseDesign(
          tensors,
          pickFromBlocks(tensors, design.sparse, rows),
          design.sparse.columns,
          blocks.map((block) => block.rows),
        );
  const subset = { ...design, blocks, rows: rows.length, sparse };
  return use === "once" || design.transposed === null
    ? { ...subset, transposed: null }
    : withTransposed(tensors, subset);
}
