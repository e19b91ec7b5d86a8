import { checkShapes, checkSparseRows } from "../core/linear/sparse.ts";
import type { Matrix, SparseMatrix, SparseRows, TensorBackend } from "../core/tensors.ts";
import { cholesky, invertTransposed, multiplyInverse, rankRevealingCholesky } from "./plain-cholesky.ts";

/** The largest code of a quantised row. */
const MAX_CODE = 127;

/** The nearest integer; of two that are as near, the even one. */
function roundHalfEven(x: number): number {
  const rounded = Math.round(x);
  return rounded - x === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/** The reference backend. It sums in 64-bit floats and rounds each result once, to the 32 bits of a matrix. */
export function plainTensorBackend(): TensorBackend {
  const matrices = new Map<Matrix, Float32Array>();
  const sparseMatrices = new Map<Matrix | SparseMatrix, SparseRows>();
  const quantised = new WeakSet<Matrix>();

  const valuesOf = (matrix: Matrix): Float32Array => {
    const values = matrices.get(matrix);
    if (values === undefined) throw new Error("This matrix has been freed or belongs to another backend.");
    return values;
  };

  const rowsOf = (sparse: SparseMatrix): SparseRows => {
    const rows = sparseMatrices.get(sparse);
    if (rows === undefined) throw new Error("These rows have been freed or belong to another backend.");
    return rows;
  };

  const create = (rows: number, columns: number, values: Float32Array): Matrix => {
    const matrix = { rows, columns };
    matrices.set(matrix, values);
    return matrix;
  };

  return {
    name: "plain",
    matrix(rows, columns, values) {
      if (values.length !== rows * columns)
        throw new Error(`${values.length} values for a ${rows} × ${columns} matrix.`);
      return create(rows, columns, values.slice());
    },
    multiply(a, b) {
      if (a.columns !== b.rows)
        throw new Error(`Cannot multiply ${a.rows} × ${a.columns} by ${b.rows} × ${b.columns}.`);
      const left = valuesOf(a);
      const right = valuesOf(b);
      const product = new Float32Array(a.rows * b.columns);
      const sums = new Float64Array(b.columns);
      for (let i = 0; i < a.rows; i++) {
        sums.fill(0);
        for (let k = 0; k < a.columns; k++) {
          const factor = left[i * a.columns + k] as number;
          for (let j = 0; j < b.columns; j++)
            sums[j] = (sums[j] as number) + factor * (right[k * b.columns + j] as number);
        }
        product.set(sums, i * b.columns);
      }
      return create(a.rows, b.columns, product);
    },
    multiplyTransposed(a, b) {
      if (a.rows !== b.rows)
        throw new Error(`Cannot multiply ${a.rows} × ${a.columns}, transposed, by ${b.rows} × ${b.columns}.`);
      const left = valuesOf(a);
      const right = valuesOf(b);
      const sums = new Float64Array(a.columns * b.columns);
      for (let k = 0; k < a.rows; k++) {
        for (let i = 0; i < a.columns; i++) {
          const factor = left[k * a.columns + i] as number;
          for (let j = 0; j < b.columns; j++)
            sums[i * b.columns + j] =
              (sums[i * b.columns + j] as number) + factor * (right[k * b.columns + j] as number);
        }
      }
      return create(a.columns, b.columns, new Float32Array(sums));
    },
    transpose(a) {
      const values = valuesOf(a);
      const transposed = new Float32Array(values.length);
      for (let i = 0; i < a.rows; i++) {
        for (let j = 0; j < a.columns; j++) transposed[j * a.rows + i] = values[i * a.columns + j] as number;
      }
      return create(a.columns, a.rows, transposed);
    },
    *invert(a, { scale, shift, minSquaredPivot }) {
      const n = Math.sqrt(a.length);
      const damped = Float64Array.from(a, (value, at) => scale * value + (at % (n + 1) === 0 ? shift : 0));
      const inverse = invertTransposed(cholesky(damped, n, minSquaredPivot), n);
      yield n ** 3;
      return create(n, n, new Float32Array(multiplyInverse(inverse, n)));
    },
    *rowBasis(a, minSquaredPivot) {
      const { rows, lower } = rankRevealingCholesky(new Float64Array(a), Math.sqrt(a.length), minSquaredPivot);
      yield (2 / 3) * rows.length ** 3;
      const inverse = new Float32Array(invertTransposed(lower, rows.length));
      return { rows, inverse: create(rows.length, rows.length, inverse) };
    },
    quantise(a) {
      const values = valuesOf(a).slice();
      for (let start = 0; start < values.length; start += a.columns) {
        const row = values.subarray(start, start + a.columns);
        let most = 0;
        for (const value of row) most = Math.max(most, Math.abs(value));
        const scale = Math.fround(most / MAX_CODE);
        const inverse = most === 0 ? 0 : Math.fround(MAX_CODE / most);
        const codes = Int8Array.from(row, (value) => roundHalfEven(Math.fround(value * inverse)));
        row.set(Array.from(codes, (code) => code * scale));
      }
      const matrix = create(a.rows, a.columns, values);
      quantised.add(matrix);
      return matrix;
    },
    sparseMatrix(rows, columns) {
      checkSparseRows(rows, columns);
      const sparse = { rows: rows.starts.length - 1, columns, entries: rows.values.length };
      sparseMatrices.set(sparse, copyOf(rows));
      return sparse;
    },
    addSparseProduct(a, b, accumulator) {
      checkShapes([a.rows, a.columns], b, accumulator);
      const { starts, columns, values } = rowsOf(a);
      const right = valuesOf(b);
      const sums = valuesOf(accumulator);
      for (let i = 0; i < a.rows; i++) {
        for (let j = 0; j < b.columns; j++) {
          let sum = sums[i * b.columns + j] as number;
          for (let m = starts[i] as number; m < (starts[i + 1] as number); m++)
            sum += (values[m] as number) * (right[(columns[m] as number) * b.columns + j] as number);
          sums[i * b.columns + j] = sum;
        }
      }
    },
    addTransposedProduct(a, b, accumulator) {
      checkShapes([a.columns, a.rows], b, accumulator);
      const { starts, columns, values } = rowsOf(a);
      const right = valuesOf(b);
      const sums = valuesOf(accumulator);
      for (let i = 0; i < a.rows; i++) {
        for (let m = starts[i] as number; m < (starts[i + 1] as number); m++) {
          for (let j = 0, at = (columns[m] as number) * b.columns; j < b.columns; j++, at++)
            sums[at] = (sums[at] as number) + (values[m] as number) * (right[i * b.columns + j] as number);
        }
      }
    },
    readSparse: (a) => copyOf(rowsOf(a)),
    read: (a) => valuesOf(a).slice(),
    values: valuesOf,
    view(a) {
      if (quantised.has(a)) throw new Error("A quantised matrix cannot be written.");
      return valuesOf(a);
    },
    free(a) {
      matrices.delete(a);
      sparseMatrices.delete(a);
    },
    memory() {
      let bytes = 0;
      for (const values of matrices.values()) bytes += values.byteLength;
      for (const { starts, columns, values } of sparseMatrices.values())
        bytes += starts.byteLength + columns.byteLength + values.byteLength;
      return { matrices: matrices.size + sparseMatrices.size, bytes };
    },
  };
}

function copyOf({ starts, columns, values }: SparseRows): SparseRows {
  return { starts: starts.slice(), columns: columns.slice(), values: values.slice() };
}
