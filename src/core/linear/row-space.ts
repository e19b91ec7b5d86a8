/**
 * Few rows in many dimensions: the weights that minimise a penalised loss lie in the span of the rows, so with the rows'
 * products G = Z Zᵀ and L Lᵀ those of rows that are independent, a fit on G L⁻ᵀ finds the same model in r ≤ rows
 * dimensions, W = Zᵀ L⁻ᵀ B. Sparse columns take part in the products as the dense ones do.
 */

import type { Steps } from "../steps.ts";
import type { Matrix, SparseRows, TensorBackend } from "../tensors.ts";
import { choleskyOperations, invertLowerTriangular, rankRevealingCholesky } from "./cholesky.ts";
import { type Design, readSparseDesign, withTransposed } from "./design.ts";
import { BYTES_PER_SPARSE_ENTRY, pickRows } from "./sparse.ts";

/** Beyond so many rows the factorisation costs more than it saves, and beyond so many numbers the copies are too large. */
const MAX_ROW_SPACE_ROWS = 640;
const MAX_ROW_SPACE_NUMBERS = 2e6;

/** A row whose part outside of the span of others has a smaller square (rows have mean square 1) is one that 32-bit floats cannot tell from none. */
const MIN_SQUARED_PIVOT = 1e-5;

/** What tells how many dimensions a training works in: rows, dense dimensions, and sparse columns if there are any. */
export interface DesignShape {
  readonly rows: number;
  readonly dimensions: number;
  readonly columns: number;
  /** Numbers in the sparse columns. */
  readonly entries: number;
}

/** Whether a training works in the span of its rows. */
export function usesRowSpace({ rows, dimensions, columns }: Omit<DesignShape, "entries">): boolean {
  return rows < dimensions + columns && rows <= MAX_ROW_SPACE_ROWS && rows * dimensions <= MAX_ROW_SPACE_NUMBERS;
}

/** What `reduceToRows` costs at most: operations, and bytes alive beside the design that is given. */
export function rowSpaceCost(shape: DesignShape): { operations: number; bytes: number } {
  if (!usesRowSpace(shape)) return { operations: 0, bytes: 0 };
  const { rows, dimensions, entries } = shape;
  return {
    operations:
      4 * rows ** 2 * dimensions +
      4 * rows ** 3 +
      choleskyOperations(rows) +
      OPERATIONS_PER_SPARSE_PRODUCT * rows * entries,
    // Sparse rows are copied out, and those of the span once more.
    bytes: 4 * 3 * rows * dimensions + 8 * 4 * rows ** 2 + 2 * BYTES_PER_SPARSE_ENTRY * entries,
  };
}

/** Independent rows of a design, and L⁻¹ of their products: what takes a model from their span back to all dimensions. */
export interface RowSpaceBasis {
  /** r × dimensions */
  readonly dense: Matrix;
  readonly sparse: { readonly rows: SparseRows; readonly columns: number } | null;
  /** L⁻ᵀ, r × r */
  readonly inverse: Matrix;
}

/**
 * The design in the span of its rows of weight, beside the one given, or null where that is better as it is: where rows are
 * not few, or none differs from the others. Yields floating-point operations.
 */
export function* reduceToRowSpace(
  tensors: TensorBackend,
  design: Design,
  weights: Float64Array,
): Steps<{ design: Design; basis: RowSpaceBasis } | null> {
  const { rows, dimensions } = design;
  if (!usesRowSpace({ rows, dimensions, columns: design.sparse?.columns ?? 0 })) return null;
  const values = new Float32Array(rows * dimensions);
  let first = 0;
  for (const block of design.blocks) {
    values.set(tensors.view(block), first * dimensions);
    first += block.rows;
  }
  const z = tensors.matrix(rows, dimensions, values);
  const zt = tensors.transpose(z);
  const products = tensors.multiply(z, zt);
  const productValues = tensors.read(products);
  for (const each of [z, zt, products]) tensors.free(each);
  yield 2 * rows ** 2 * dimensions;
  const sparse =
    design.sparse === null ? null : { rows: readSparseDesign(tensors, design.sparse), columns: design.sparse.columns };
  if (sparse !== null) {
    const row = new Float64Array(sparse.columns);
    for (let i = 0; i < rows; i++) {
      addSparseProducts(sparse.rows, i, row, productValues);
      yield OPERATIONS_PER_SPARSE_PRODUCT * (sparse.rows.starts[i + 1] as number);
    }
  }

  const weightedRows = Array.from(weights.keys()).filter((row) => weights[row] !== 0);
  const gram = new Float64Array(weightedRows.length ** 2);
  weightedRows.forEach((row, i) => {
    for (let j = 0; j < weightedRows.length; j++)
      gram[i * weightedRows.length + j] = productValues[row * rows + (weightedRows[j] as number)] as number;
  });
  const factorisation = yield* rankRevealingCholesky(gram, weightedRows.length, MIN_SQUARED_PIVOT);
  const rank = factorisation.rows.length;
  if (rank === 0) return null;
  const basisRows = factorisation.rows.map((i) => weightedRows[i] as number);
  const lower = tensors.matrix(rank, rank, new Float32Array(yield* invertLowerTriangular(factorisation.lower, rank)));
  const inverse = tensors.transpose(lower);
  tensors.free(lower);

  const blocks: Matrix[] = [];
  first = 0;
  for (const block of design.blocks) {
    const cross = pickColumns(productValues.subarray(first * rows, (first + block.rows) * rows), rows, basisRows);
    const part = tensors.matrix(block.rows, rank, cross);
    blocks.push(tensors.multiply(part, inverse));
    tensors.free(part);
    first += block.rows;
  }
  yield 2 * rows * rank ** 2;

  const dense = new Float32Array(rank * dimensions);
  basisRows.forEach((row, i) => {
    dense.set(values.subarray(row * dimensions, (row + 1) * dimensions), i * dimensions);
  });
  const basis = {
    dense: tensors.matrix(rank, dimensions, dense),
    sparse: sparse === null ? null : { rows: pickRows(sparse.rows, basisRows), columns: sparse.columns },
    inverse,
  };
  const reducedDesign = { ...design, blocks, transposed: null, dimensions: rank, sparse: null };
  return { design: design.transposed === null ? reducedDesign : withTransposed(tensors, reducedDesign), basis };
}

/** What the product of a number of sparse rows counts for, one at a time and out of order: as many of a matrix's. */
const OPERATIONS_PER_SPARSE_PRODUCT = 12;

/** Adds the products of row i with itself and the rows before it, both ways. `row`: zeros, one a column, which it leaves. */
function addSparseProducts(
  { starts, columns, values }: SparseRows,
  i: number,
  row: Float64Array,
  products: Float32Array,
): void {
  const rows = starts.length - 1;
  for (let m = starts[i] as number; m < (starts[i + 1] as number); m++) row[columns[m] as number] = values[m] as number;
  for (let j = 0; j <= i; j++) {
    let sum = 0;
    for (let m = starts[j] as number; m < (starts[j + 1] as number); m++)
      sum += (row[columns[m] as number] as number) * (values[m] as number);
    products[i * rows + j] = (products[i * rows + j] as number) + sum;
    if (j < i) products[j * rows + i] = (products[j * rows + i] as number) + sum;
  }
  for (let m = starts[i] as number; m < (starts[i + 1] as number); m++) row[columns[m] as number] = 0;
}

/** Some columns of a matrix of `width` columns, row by row. */
function pickColumns(source: Float32Array, width: number, columns: readonly number[]): Float32Array {
  const picked = new Float32Array((source.length / width) * columns.length);
  for (let start = 0, at = 0; start < source.length; start += width)
    for (let j = 0; j < columns.length; j++) picked[at++] = source[start + (columns[j] as number)] as number;
  return picked;
}

/** Parameters found in the span, B (r × outputs) and the intercepts, as those of all dimensions, dense before sparse: Zᵀ L⁻ᵀ B. */
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
  const transposed = tensors.transpose(dense);
  const product = tensors.multiply(transposed, rowCoefficients);
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
  for (const matrix of [coefficients, rowCoefficients, transposed, product]) tensors.free(matrix);
  return result;
}

export function freeRowSpaceBasis(tensors: TensorBackend, { dense, inverse }: RowSpaceBasis): void {
  tensors.free(dense);
  tensors.free(inverse);
}
