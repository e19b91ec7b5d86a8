/**
 * Few rows in many dimensions: the weights that minimise a penalised loss lie in the span of the rows, so with the rows'
 * products G = Z Zᵀ and L Lᵀ those of rows that are independent, a fit on G L⁻ᵀ finds the same model in r ≤ rows
 * dimensions, W = Zᵀ L⁻ᵀ B. Sparse columns take part in the products as the dense ones do.
 */
import { factoriseIndependent, factorOperations, invertLower } from "./cholesky.ts";
import { type Design, readSparseDesign, withTransposed } from "./design.ts";
import { pickRows, SPARSE_BYTES } from "./sparse.ts";
import type { Matrix, SparseRows, Tensors } from "../tensors.ts";

/** Beyond so many rows the factorisation costs more than it saves, and beyond so many numbers the copies are too large. */
const MOST_ROWS = 640;
const MOST_NUMBERS = 2e6;

/** A row whose part outside of the span of others has a smaller square (rows have mean square 1) is one that 32-bit floats cannot tell from none. */
const LEAST_SQUARE = 1e-5;

/** What tells how many dimensions a training works in: rows, dense dimensions, and sparse columns if there are any. */
export interface Extent {
  readonly rows: number;
  readonly dimensions: number;
  readonly columns: number;
  /** Numbers in the sparse columns. */
  readonly entries: number;
}

/** Whether a training works in the span of its rows. */
export function worksInRows({ rows, dimensions, columns }: Omit<Extent, "entries">): boolean {
  return rows < dimensions + columns && rows <= MOST_ROWS && rows * dimensions <= MOST_NUMBERS;
}

/** What `reduceToRows` costs at most: operations, and bytes alive beside the design that is given. */
export function reductionCost(extent: Extent): { operations: number; bytes: number } {
  if (!worksInRows(extent)) return { operations: 0, bytes: 0 };
  const { rows, dimensions, entries } = extent;
  return {
    operations: 4 * rows ** 2 * dimensions + 4 * rows ** 3 + factorOperations(rows) + SPARSE_PRODUCT * rows * entries,
    // Sparse rows are copied out, and those of the span once more.
    bytes: 4 * 3 * rows * dimensions + 8 * 4 * rows ** 2 + 2 * SPARSE_BYTES * entries,
  };
}

/** Independent rows of a design, and L⁻¹ of their products: what takes a model from their span back to all dimensions. */
export interface Span {
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
export function* reduceToRows(
  tensors: Tensors,
  design: Design,
  weights: Float64Array,
): Generator<number, { design: Design; span: Span } | null, void> {
  const { rows, dimensions } = design;
  if (!worksInRows({ rows, dimensions, columns: design.sparse?.columns ?? 0 })) return null;
  const values = new Float32Array(rows * dimensions);
  let first = 0;
  for (const block of design.blocks) {
    values.set(tensors.view(block), first * dimensions);
    first += block.rows;
  }
  const z = tensors.matrix(rows, dimensions, values);
  const zt = tensors.transpose(z);
  const products = tensors.multiply(z, zt);
  const all = tensors.read(products);
  for (const each of [z, zt, products]) tensors.free(each);
  yield 2 * rows ** 2 * dimensions;
  const sparse =
    design.sparse === null ? null : { rows: readSparseDesign(tensors, design.sparse), columns: design.sparse.columns };
  if (sparse !== null) {
    const row = new Float64Array(sparse.columns);
    for (let i = 0; i < rows; i++) {
      addSparseProducts(sparse.rows, i, row, all);
      yield SPARSE_PRODUCT * (sparse.rows.starts[i + 1] as number);
    }
  }

  const used = Array.from(weights.keys()).filter((row) => weights[row] !== 0);
  const gram = new Float64Array(used.length ** 2);
  used.forEach((row, i) => {
    for (let j = 0; j < used.length; j++) gram[i * used.length + j] = all[row * rows + (used[j] as number)] as number;
  });
  const independent = yield* factoriseIndependent(gram, used.length, LEAST_SQUARE);
  const rank = independent.rows.length;
  if (rank === 0) return null;
  const spanning = independent.rows.map((i) => used[i] as number);
  const lower = tensors.matrix(rank, rank, new Float32Array(yield* invertLower(independent.lower, rank)));
  const inverse = tensors.transpose(lower);
  tensors.free(lower);

  const blocks: Matrix[] = [];
  first = 0;
  for (const block of design.blocks) {
    const cross = pickColumns(all.subarray(first * rows, (first + block.rows) * rows), rows, spanning);
    const part = tensors.matrix(block.rows, rank, cross);
    blocks.push(tensors.multiply(part, inverse));
    tensors.free(part);
    first += block.rows;
  }
  yield 2 * rows * rank ** 2;

  const dense = new Float32Array(rank * dimensions);
  spanning.forEach((row, i) => {
    dense.set(values.subarray(row * dimensions, (row + 1) * dimensions), i * dimensions);
  });
  const span = {
    dense: tensors.matrix(rank, dimensions, dense),
    sparse: sparse === null ? null : { rows: pickRows(sparse.rows, spanning), columns: sparse.columns },
    inverse,
  };
  const reduced = { ...design, blocks, transposed: null, dimensions: rank, sparse: null };
  return { design: design.transposed === null ? reduced : withTransposed(tensors, reduced), span };
}

/** What the product of a number of sparse rows counts for, one at a time and out of order: as many of a matrix's. */
const SPARSE_PRODUCT = 12;

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
function pickColumns(from: Float32Array, width: number, columns: readonly number[]): Float32Array {
  const picked = new Float32Array((from.length / width) * columns.length);
  for (let start = 0, at = 0; start < from.length; start += width)
    for (let j = 0; j < columns.length; j++) picked[at++] = from[start + (columns[j] as number)] as number;
  return picked;
}

/** Parameters found in the span, B (r × outputs) and the intercepts, as those of all dimensions, dense before sparse: Zᵀ L⁻ᵀ B. */
export function expand(tensors: Tensors, parameters: Float64Array, span: Span, outputs: number): Float64Array {
  const { dense, sparse, inverse } = span;
  const size = inverse.rows * outputs;
  const width = dense.columns + (sparse?.columns ?? 0);
  const all = new Float64Array((width + 1) * outputs);
  const inSpan = tensors.matrix(inverse.rows, outputs, new Float32Array(parameters.subarray(0, size)));
  const shares = tensors.multiply(inverse, inSpan);
  const turned = tensors.transpose(dense);
  const product = tensors.multiply(turned, shares);
  all.set(tensors.view(product));
  if (sparse !== null) {
    const rows = tensors.sparse(sparse.rows, sparse.columns);
    const weights = tensors.matrix(sparse.columns, outputs, new Float32Array(sparse.columns * outputs));
    tensors.addTransposedProduct(rows, shares, weights);
    all.set(tensors.view(weights), dense.columns * outputs);
    tensors.free(rows);
    tensors.free(weights);
  }
  all.set(parameters.subarray(size), width * outputs);
  for (const matrix of [inSpan, shares, turned, product]) tensors.free(matrix);
  return all;
}

export function freeSpan(tensors: Tensors, { dense, inverse }: Span): void {
  tensors.free(dense);
  tensors.free(inverse);
}
