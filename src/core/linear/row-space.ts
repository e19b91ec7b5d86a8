/**
 * The row space of a design with fewer rows than columns. The weights that minimise a penalised loss lie in the span of
 * the rows. So take the products of all rows G = Z Zᵀ, a basis of independent rows, and L Lᵀ, the products of the basis
 * rows. A fit on G L⁻ᵀ (columns of the basis rows) finds the same model in r ≤ rows dimensions: W = Zᵀ L⁻ᵀ B. Sparse
 * columns take part in the products like dense ones.
 */

import type { Steps } from "../steps.ts";
import type { Matrix, RowBasis, SparseRows, TensorBackend } from "../tensors.ts";
import { type Design, readSparseDesign } from "./design.ts";
import { inversionOperations } from "./preconditioner.ts";
import { BYTES_PER_SPARSE_ENTRY, pickRows, type SparseColumns, transposeRows } from "./sparse.ts";

/** With more rows the factorisation costs more than it saves. With more numbers the copies are too large. */
const MAX_ROW_SPACE_ROWS = 640;
const MAX_ROW_SPACE_NUMBERS = 2e6;

/**
 * A row is independent of others if its part outside their span has at least this square. Rows have mean square 1, and
 * 32-bit floats cannot tell a smaller part from zero.
 */
const MIN_SQUARED_PIVOT = 1e-5;

/** The size of a design: rows, dense columns and sparse columns. */
export interface DesignShape {
  readonly rows: number;
  readonly dimensions: number;
  readonly columns: number;
  /** Entries in the sparse columns. */
  readonly entries: number;
}

/** Whether a training works in the row space. */
export function usesRowSpace({ rows, dimensions, columns }: Omit<DesignShape, "entries">): boolean {
  return rows < dimensions + columns && rows <= MAX_ROW_SPACE_ROWS && rows * dimensions <= MAX_ROW_SPACE_NUMBERS;
}

/** What `reduceToRowSpace` costs at most: operations, and bytes alive beside the given design. */
export function rowSpaceCost(shape: DesignShape): { operations: number; bytes: number } {
  if (!usesRowSpace(shape)) return { operations: 0, bytes: 0 };
  const { rows, dimensions, entries } = shape;
  return {
    operations:
      4 * rows ** 2 * dimensions +
      4 * rows ** 3 +
      inversionOperations(rows) +
      OPERATIONS_PER_SPARSE_PRODUCT * rows * entries,
    // The sparse rows are copied once, and again by their columns. Those of the basis are copied when these are gone.
    bytes: 4 * 3 * rows * dimensions + 8 * 4 * rows ** 2 + 2 * BYTES_PER_SPARSE_ENTRY * entries,
  };
}

/**
 * What takes a model from the row space back to all columns: independent rows of the design, and L⁻ᵀ of their products.
 */
export interface RowSpaceBasis {
  /** r × dimensions */
  readonly dense: Matrix;
  readonly sparse: { readonly rows: SparseRows; readonly columns: number } | null;
  /** L⁻ᵀ, r × r */
  readonly inverse: Matrix;
}

/**
 * The design in the row space of its weighted rows, beside the given one, and the basis. Null if the given design is
 * better as it is: there are not few rows, or all rows are equal.
 */
export function* reduceToRowSpace(
  tensors: TensorBackend,
  design: Design,
  weights: Float64Array,
): Steps<{ design: Design; basis: RowSpaceBasis } | null> {
  const { rows, dimensions } = design;
  if (!usesRowSpace({ rows, dimensions, columns: design.sparse?.columns ?? 0 })) return null;
  const values = denseValues(tensors, design);
  const products = yield* rowProducts(tensors, values, rows, dimensions);
  const sparse =
    design.sparse === null ? null : { rows: readSparseDesign(tensors, design.sparse), columns: design.sparse.columns };
  if (sparse !== null) yield* addAllSparseProducts(sparse, products);
  const { rows: basisRows, inverse } = yield* findBasis(tensors, products, weights);
  const rank = basisRows.length;
  if (rank === 0) {
    tensors.free(inverse);
    return null;
  }
  const blocks = projectBlocks(tensors, design, products, basisRows, inverse);
  yield 2 * rows * rank ** 2;
  const basis = {
    dense: tensors.matrix(rank, dimensions, pickDenseRows(values, dimensions, basisRows)),
    sparse: sparse === null ? null : { rows: pickRows(sparse.rows, basisRows), columns: sparse.columns },
    inverse,
  };
  return { design: { ...design, blocks, dimensions: rank, precision: "float32", sparse: null }, basis };
}

/** A copy of all dense rows: rows × dimensions. */
function denseValues(tensors: TensorBackend, { blocks, rows, dimensions }: Design): Float32Array {
  const values = new Float32Array(rows * dimensions);
  let first = 0;
  for (const block of blocks) {
    values.set(tensors.values(block), first * dimensions);
    first += block.rows;
  }
  return values;
}

/** Z Zᵀ: rows × rows. */
function* rowProducts(
  tensors: TensorBackend,
  values: Float32Array,
  rows: number,
  dimensions: number,
): Steps<Float32Array> {
  const z = tensors.matrix(rows, dimensions, values);
  const zt = tensors.transpose(z);
  const product = tensors.multiply(z, zt);
  const products = tensors.read(product);
  for (const matrix of [z, zt, product]) tensors.free(matrix);
  yield 2 * rows ** 2 * dimensions;
  return products;
}

/** Adds the products of the sparse columns. */
function* addAllSparseProducts(
  { rows, columns }: NonNullable<RowSpaceBasis["sparse"]>,
  products: Float32Array,
): Steps<void> {
  const byColumn = transposeRows(rows, columns);
  const sums = new Float64Array(rows.starts.length - 1);
  for (let i = 0; i < sums.length; i++) {
    yield OPERATIONS_PER_SPARSE_PRODUCT * addSparseProducts(rows, byColumn, i, sums, products);
  }
}

/** The independent ones of the weighted rows, and L⁻ᵀ of their products. */
function* findBasis(tensors: TensorBackend, products: Float32Array, weights: Float64Array): Steps<RowBasis> {
  const weightedRows = Array.from(weights.keys()).filter((row) => weights[row] !== 0);
  const gram = new Float32Array(weightedRows.length ** 2);
  weightedRows.forEach((row, i) => {
    const own = products.subarray(row * weights.length, (row + 1) * weights.length);
    for (let j = 0; j < weightedRows.length; j++)
      gram[i * weightedRows.length + j] = own[weightedRows[j] as number] as number;
  });
  const { rows, inverse } = yield* tensors.rowBasis(gram, MIN_SQUARED_PIVOT);
  return { rows: rows.map((i) => weightedRows[i] as number), inverse };
}

/** Each block of the design in the row space: its rows' products with the basis rows, times L⁻ᵀ. */
function projectBlocks(
  tensors: TensorBackend,
  { blocks, rows }: Design,
  products: Float32Array,
  basisRows: readonly number[],
  inverse: Matrix,
): Matrix[] {
  let first = 0;
  return blocks.map((block) => {
    const cross = pickColumns(products.subarray(first * rows, (first + block.rows) * rows), rows, basisRows);
    const part = tensors.matrix(block.rows, basisRows.length, cross);
    const projected = tensors.multiply(part, inverse);
    tensors.free(part);
    first += block.rows;
    return projected;
  });
}

function pickDenseRows(values: Float32Array, dimensions: number, rows: readonly number[]): Float32Array {
  const picked = new Float32Array(rows.length * dimensions);
  for (const [i, row] of rows.entries())
    picked.set(values.subarray(row * dimensions, (row + 1) * dimensions), i * dimensions);
  return picked;
}

/** What a product of sparse entries costs, one at a time and out of order, in operations of a matrix product. */
const OPERATIONS_PER_SPARSE_PRODUCT = 12;

/**
 * Adds the products of row i with itself and all earlier rows to both triangles, and answers how many numbers it has
 * multiplied or added. `sums` has a zero for each row, before and after.
 */
function addSparseProducts(
  { starts, columns, values }: SparseRows,
  byColumn: SparseColumns,
  i: number,
  sums: Float64Array,
  products: Float32Array,
): number {
  let count = i + 1;
  for (let m = starts[i] as number; m < (starts[i + 1] as number); m++) {
    const value = values[m] as number;
    const column = columns[m] as number;
    const end = byColumn.starts[column + 1] as number;
    let at = byColumn.starts[column] as number;
    const first = at;
    for (; at < end && (byColumn.rows[at] as number) <= i; at++) {
      const j = byColumn.rows[at] as number;
      sums[j] = (sums[j] as number) + value * (byColumn.values[at] as number);
    }
    count += at - first;
  }
  for (let j = 0; j <= i; j++) {
    const sum = sums[j] as number;
    if (sum === 0) continue;
    products[i * sums.length + j] = (products[i * sums.length + j] as number) + sum;
    if (j < i) products[j * sums.length + i] = (products[j * sums.length + i] as number) + sum;
    sums[j] = 0;
  }
  return count;
}

/** Some columns of a row-major matrix of `width` columns. */
function pickColumns(source: Float32Array, width: number, columns: readonly number[]): Float32Array {
  const picked = new Float32Array((source.length / width) * columns.length);
  for (let start = 0, at = 0; start < source.length; start += width)
    for (let j = 0; j < columns.length; j++) picked[at++] = source[start + (columns[j] as number)] as number;
  return picked;
}

/**
 * The parameters of the full design, dense columns before sparse ones (Zᵀ L⁻ᵀ B), from those of the row space: B (r ×
 * outputs) and the intercepts.
 */
export function expandFromRowSpace(
  tensors: TensorBackend,
  parameters: Float64Array,
  basis: RowSpaceBasis,
  outputs: number,
): Float64Array {
  const { dense, sparse, inverse } = basis;
  const size = inverse.rows * outputs;
  const width = dense.columns + (sparse?.columns ?? 0);
  const result = new Float64Array((width + 1) * outputs);
  const coefficients = tensors.matrix(inverse.rows, outputs, new Float32Array(parameters.subarray(0, size)));
  const rowCoefficients = tensors.multiply(inverse, coefficients);
  const product = tensors.multiplyTransposed(dense, rowCoefficients);
  result.set(tensors.view(product));
  if (sparse !== null) {
    const rows = tensors.sparseMatrix(sparse.rows, sparse.columns);
    const weights = tensors.matrix(sparse.columns, outputs, new Float32Array(sparse.columns * outputs));
    tensors.addTransposedProduct(rows, rowCoefficients, weights);
    result.set(tensors.view(weights), dense.columns * outputs);
    tensors.free(rows);
    tensors.free(weights);
  }
  result.set(parameters.subarray(size), width * outputs);
  for (const matrix of [coefficients, rowCoefficients, product]) tensors.free(matrix);
  return result;
}

export function freeRowSpaceBasis(tensors: TensorBackend, { dense, inverse }: RowSpaceBasis): void {
  tensors.free(dense);
  tensors.free(inverse);
}
