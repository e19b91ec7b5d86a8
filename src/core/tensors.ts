/** A matrix of 32-bit floats, row-major, that lives in a tensor backend's own memory until it is freed. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
}

/** Rows of few numbers each: row i has `values` in the columns `columns` from `starts[i]` to `starts[i + 1]`. */
export interface SparseRows {
  /** One more than there are rows. */
  readonly starts: Uint32Array;
  readonly columns: Uint16Array;
  readonly values: Float32Array;
}

/** Sparse rows that live in a tensor backend's own memory until they are freed. */
export interface SparseMatrix {
  readonly rows: number;
  readonly columns: number;
  /** Numbers that are there. */
  readonly entries: number;
}

/**
 * The linear algebra that training needs and nothing more. `tensor/wasm.ts` computes it with the TensorFlow.js WASM
 * backend, `tensor/plain.ts` in plain JavaScript as the reference; one contract suite holds for both.
 */
export interface TensorBackend {
  readonly name: "wasm" | "plain";
  /** Copies `values` (rows × columns, row-major) into a new matrix. */
  matrix(rows: number, columns: number, values: Float32Array): Matrix;
  /**
   * a·b, of shape a.rows × b.columns. Throws when a.columns differs from b.rows. The backend may keep a packed copy
   * of `b` as long as `b` lives, so a matrix must not be written to once it has been on the right.
   */
  multiply(a: Matrix, b: Matrix): Matrix;
  transpose(a: Matrix): Matrix;
  /** Copies sparse rows of `columns` columns, at most 65,536. */
  sparseMatrix(rows: SparseRows, columns: number): SparseMatrix;
  /** to += a·b, in place. Throws when a.columns differs from b.rows, or the shape of `to` is not that of the product. */
  addSparseProduct(a: SparseMatrix, b: Matrix, accumulator: Matrix): void;
  /** to += aᵀ·b, likewise. */
  addTransposedProduct(a: SparseMatrix, b: Matrix, accumulator: Matrix): void;
  /** Copies sparse rows out. */
  readSparse(a: SparseMatrix): SparseRows;
  /** Copies a matrix out, row-major. */
  read(a: Matrix): Float32Array;
  /**
   * The matrix's own memory, row-major, to read or write in place. It is valid only until the next matrix is made:
   * growing the backend's memory moves it.
   */
  view(a: Matrix): Float32Array;
  /** Does nothing when `a` has been freed already. */
  free(a: Matrix | SparseMatrix): void;
  /** What is alive: matrices not yet freed, sparse ones too, and the bytes that the backend holds for them and for itself. */
  memory(): { readonly matrices: number; readonly bytes: number };
}
