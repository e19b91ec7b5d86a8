import type { Steps } from "./steps.ts";

/** A row-major matrix of 32-bit floats in the memory of a tensor backend, until it is freed. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
}

/**
 * Sparse rows: the entries of row i are those from `starts[i]` to `starts[i + 1]`, exclusive, of `columns` and
 * `values`.
 */
export interface SparseRows {
  /** rows + 1 */
  readonly starts: Uint32Array;
  readonly columns: Uint16Array;
  readonly values: Float32Array;
}

/** Sparse rows in the memory of a tensor backend, until they are freed. */
export interface SparseMatrix {
  readonly rows: number;
  readonly columns: number;
  readonly entries: number;
}

/** What makes a positive definite matrix of a symmetric one that is so but for rounding: scale · a + shift · I. */
export interface Damping {
  readonly scale: number;
  readonly shift: number;
  /** Smaller squared pivots are raised to it. */
  readonly minSquaredPivot: number;
}

/** Rows of a symmetric matrix that are independent, and L⁻ᵀ (r × r), where L Lᵀ are these rows and columns of it. */
export interface RowBasis {
  readonly rows: readonly number[];
  readonly inverse: Matrix;
}

/**
 * The linear algebra that training needs. `tensor/wasm.ts` computes it with the WASM backend of TensorFlow.js, and
 * `tensor/plain.ts`, the reference, in plain JavaScript. One contract suite tests both.
 */
export interface TensorBackend {
  readonly name: "wasm" | "plain";
  /** Copies `values` (rows × columns, row-major) into a new matrix. */
  matrix(rows: number, columns: number, values: Float32Array): Matrix;
  /** a·b, of shape a.rows × b.columns. Throws if a.columns differs from b.rows. */
  multiply(a: Matrix, b: Matrix): Matrix;
  /** aᵀ·b, of shape a.columns × b.columns, without making aᵀ. Throws if a.rows differs from b.rows. */
  multiplyTransposed(a: Matrix, b: Matrix): Matrix;
  transpose(a: Matrix): Matrix;
  /**
   * (scale · a + shift · I)⁻¹ of a symmetric matrix (n × n, row-major), by Cholesky's factorisation in 64-bit floats. It
   * yields every few rows.
   */
  invert(a: Float32Array, damping: Damping): Steps<Matrix>;
  /**
   * The independent rows of a positive semidefinite matrix (n × n, row-major), likewise. A row is independent of those
   * before it if its squared pivot exceeds `minSquaredPivot`.
   */
  rowBasis(a: Float32Array, minSquaredPivot: number): Steps<RowBasis>;
  /**
   * A copy of `a` in 8-bit integers with a scale a row, a quarter of its memory: each number is off by at most 1/254 of the
   * largest magnitude of its row. It can be a left factor, and its `values` can be read.
   */
  quantise(a: Matrix): Matrix;
  /** Copies sparse rows. There are at most 65,536 columns. */
  sparseMatrix(rows: SparseRows, columns: number): SparseMatrix;
  /**
   * accumulator += a·b. Throws if a.columns differs from b.rows, or the accumulator does not have the shape of the
   * product.
   */
  addSparseProduct(a: SparseMatrix, b: Matrix, accumulator: Matrix): void;
  /** accumulator += aᵀ·b. Throws likewise. */
  addTransposedProduct(a: SparseMatrix, b: Matrix, accumulator: Matrix): void;
  /** Copies sparse rows out. */
  readSparse(a: SparseMatrix): SparseRows;
  /** Copies a matrix out, row-major. */
  read(a: Matrix): Float32Array;
  /** A matrix's numbers to read, row-major: its `view`, or a copy if it is quantised. Valid as long as a view. */
  values(a: Matrix): Float32Array;
  /**
   * The matrix's own memory, row-major, to read or write in place. It is valid only until the next matrix is made,
   * because the backend's memory moves when it grows. Throws if the matrix is quantised.
   */
  view(a: Matrix): Float32Array;
  /** Does nothing if `a` is freed already. */
  free(a: Matrix | SparseMatrix): void;
  /** The number of matrices that are not freed, including sparse ones, and the bytes that the backend holds in all. */
  memory(): { readonly matrices: number; readonly bytes: number };
}
